//! Console input: bytes typed on the host's COM1, as futures; and feeding them to a guest's COM1.

use crate::vm::inventory;
use crate::vm::machine::VmShared;
use crate::{console, exec, startup, timer};
use alloc::string::String;
use core::future::poll_fn;
use core::task::Poll;

/// Time between tries when a guest's receive FIFO is full.
pub(crate) const FULL_NANOS: u64 = 1_000_000;

/// Returns the next typed byte. One task at a time may wait.
pub async fn next_byte() -> u8 {
    poll_fn(|cx| {
        if let Some(byte) = console::read_byte() {
            return Poll::Ready(byte);
        }
        exec::wait_for_vector(startup::console_vector(), cx.waker());
        // A byte may have come between the look and the registration.
        console::read_byte().map_or(Poll::Pending, Poll::Ready)
    })
    .await
}

/// Gives a byte to the guest, waiting while its FIFO is full. False when the VM has ended.
async fn give(vm: &VmShared, byte: u8) -> bool {
    while vm.take_stop().is_none() {
        if vm.receive(&[byte]) == 1 {
            return true;
        }
        timer::sleep(FULL_NANOS).await;
    }
    false
}

/// Feeds all that is typed to the guest of VM `name`, over its resets, until it is off.
pub async fn feed(name: String) {
    loop {
        let byte = next_byte().await;
        let Ok(running) = inventory::running(&name) else {
            return;
        };
        give(&running.vm, byte).await;
    }
}
