//! `vm console`: the terminal attached to a VM's first serial port, both ways, until the escape key.

use super::print;
use crate::vm::inventory::{self, Running};
use crate::vm::machine::VmShared;
use crate::{console, exec, input, startup, timer};
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::future::poll_fn;
use core::task::Poll;

/// Ctrl-] detaches, as in telnet.
const ESCAPE: u8 = 0x1d;
/// Bytes of output that are shown at a time.
const CHUNK: usize = 512;

/// What is printed when the VM is off.
const STOPPED: &str = "The VM has stopped.";
/// Time between looks for the machine that follows a reset.
const LOOK_NANOS: u64 = 5_000_000;

enum Step {
    Show(Vec<u8>),
    Typed(u8),
    Ended,
}

/// Attaches until the escape key is typed or the VM ends.
///
/// # Errors
/// A text when another console is attached.
pub(super) async fn attach(name: &str, running: &Running) -> Result<(), &'static str> {
    let serial = &running.vm.serial;
    if !serial.attach() {
        return Err("another console is attached to this VM");
    }
    print(&format!("Attached to {name}; ctrl-] returns to Basalt.\n"));
    let mut why = shuttle(&running.vm).await;
    // A guest that resets its machine gets a new one with the same console.
    while why == STOPPED
        && let Some(next) = next_machine(name, &running.vm).await
    {
        why = shuttle(&next.vm).await;
    }
    serial.detach();
    print(&format!("\n{why}\n"));
    Ok(())
}

/// Waits until the VM is off (`None`) or runs on in a new machine.
async fn next_machine(name: &str, old: &Arc<VmShared>) -> Option<Running> {
    loop {
        let running = inventory::running(name).ok()?;
        if !Arc::ptr_eq(&running.vm, old) && running.vm.take_stop().is_none() {
            return Some(running);
        }
        timer::sleep(LOOK_NANOS).await;
    }
}

async fn shuttle(vm: &VmShared) -> &'static str {
    loop {
        match step(vm).await {
            Step::Show(bytes) => console::write(&bytes),
            Step::Typed(ESCAPE) => return "Detached; the VM goes on.",
            Step::Typed(byte) => {
                if !input::give(vm, byte).await {
                    return STOPPED;
                }
            }
            Step::Ended => return STOPPED,
        }
    }
}

/// Waits for whatever comes first: output, a key, the end of the VM.
async fn step(vm: &VmShared) -> Step {
    poll_fn(|cx| {
        vm.serial.set_waker(cx.waker());
        exec::wait_for_vector(startup::console_vector(), cx.waker());
        let unseen = vm.serial.take_unseen(CHUNK);
        if !unseen.is_empty() {
            return Poll::Ready(Step::Show(unseen));
        }
        if let Some(byte) = console::read_byte() {
            return Poll::Ready(Step::Typed(byte));
        }
        if vm.take_stop().is_some() {
            Poll::Ready(Step::Ended)
        } else {
            Poll::Pending
        }
    })
    .await
}
