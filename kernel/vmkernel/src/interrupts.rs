//! Interrupts of devices that signal by messages: vectors, where they go, and futures that wait for them.

use crate::exec;
use arch::percpu;
use bus::pci::Message;
use core::future::poll_fn;
use core::sync::atomic::{AtomicU8, Ordering};
use core::task::Poll;

/// Vectors for messages: above those of I/O APIC lines, below those of the local APICs.
const FIRST: u8 = 0x40;
const LAST: u8 = 0xef;

static NEXT: AtomicU8 = AtomicU8::new(FIRST);

/// A vector of one device on one CPU, for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageVector {
    vector: u8,
    cpu: u32,
}

impl MessageVector {
    /// Takes a vector on CPU `cpu`; `None` when all are taken.
    #[must_use]
    pub fn take(cpu: u32) -> Option<Self> {
        let more = |next: u8| (next <= LAST).then_some(next + 1);
        let vector = NEXT
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .ok()?;
        Some(Self { vector, cpu })
    }

    /// Returns what the device has to write. `None` where the CPU cannot be reached without interrupt remapping.
    #[must_use]
    pub fn message(self) -> Option<Message> {
        Message::to_cpu(percpu::of(self.cpu)?.apic_id(), self.vector)
    }

    /// Returns the CPU that is interrupted.
    #[must_use]
    pub fn cpu(self) -> u32 {
        self.cpu
    }

    /// Waits until `look` finds something; it is asked again after each interrupt.
    pub async fn wait_until<T>(self, mut look: impl FnMut() -> Option<T>) -> T {
        poll_fn(|cx| {
            if let Some(found) = look() {
                return Poll::Ready(found);
            }
            exec::wait_for_vector(self.vector, cx.waker());
            // The interrupt may have come between the look and the registration.
            look().map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}
