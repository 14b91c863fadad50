//! `vm console`: the terminal attached to a VM's first serial port, both ways, until the escape key.

use super::{CHUNK, print, show};
use crate::timer::{self, Sleep};
use crate::vm::inventory::{self, Running};
use crate::vm::machine::VmShared;
use crate::{console, exec, input, startup};
use alloc::collections::VecDeque;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::future::{Future, poll_fn};
use core::pin::Pin;
use core::task::Poll;

/// Ctrl-] detaches, as in telnet.
const ESCAPE: u8 = 0x1d;

/// Typed bytes that are held for a guest that does not read; more are lost, as on a wire.
const TYPED_MAX: usize = 4096;

/// What is printed when the VM is off.
const STOPPED: &str = "The VM has stopped.";
/// Time between looks for the machine that follows a reset.
const LOOK_NANOS: u64 = 5_000_000;

enum Step {
    Show(Vec<u8>),
    Typed(u8),
    TryAgain,
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
    print(&format!("Attached to {name}; ctrl-] returns to Basalt.\n")).await;
    let mut why = shuttle(&running.vm).await;
    // A guest that resets its machine gets a new one with the same console.
    while why == STOPPED
        && let Some(next) = next_machine(name, &running.vm).await
    {
        why = shuttle(&next.vm).await;
    }
    serial.detach();
    print(&format!("\n{why}\n")).await;
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

/// Carries bytes both ways. What is typed waits here while the guest's FIFO is full, so that a guest that never reads
/// keeps nobody from detaching.
async fn shuttle(vm: &VmShared) -> &'static str {
    let mut typed = VecDeque::new();
    loop {
        while let Some(byte) = typed.front()
            && vm.receive(&[*byte]) == 1
        {
            typed.pop_front();
        }
        match step(vm, !typed.is_empty()).await {
            Step::Show(bytes) => show(&bytes).await,
            Step::Typed(ESCAPE) => return "Detached; the VM goes on.",
            Step::Typed(byte) if typed.len() < TYPED_MAX => typed.push_back(byte),
            Step::Typed(_) | Step::TryAgain => {}
            Step::Ended => return STOPPED,
        }
    }
}

/// Waits for whatever comes first: output, a key, the end of the VM, the time to give what is `held_back`.
async fn step(vm: &VmShared, held_back: bool) -> Step {
    let mut retry = held_back.then(|| timer::sleep(input::FULL_NANOS));
    poll_fn(|cx| {
        vm.serial.set_waker(cx.waker());
        exec::wait_for_vector(startup::console_vector(), cx.waker());
        // Keys first: a guest that never stops printing keeps nobody from detaching.
        if let Some(byte) = console::read_byte() {
            return Poll::Ready(Step::Typed(byte));
        }
        let unseen = vm.serial.take_unseen(CHUNK);
        if !unseen.is_empty() {
            return Poll::Ready(Step::Show(unseen));
        }
        if vm.take_stop().is_some() {
            return Poll::Ready(Step::Ended);
        }
        let is_time = |sleep: &mut Sleep| Pin::new(sleep).poll(cx).is_ready();
        if retry.as_mut().is_some_and(is_time) {
            return Poll::Ready(Step::TryAgain);
        }
        Poll::Pending
    })
    .await
}
