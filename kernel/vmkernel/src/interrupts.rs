//! Interrupts of devices, by messages or by the lines of old: vectors, where they go, and futures that wait for them.

use crate::memory::ranks;
use crate::{exec, startup};
use alloc::vec::Vec;
use arch::ioapic::{IoApic, Signal};
use arch::percpu;
use arch::sync::SpinLock;
use bus::pci::Message;
use core::future::poll_fn;
use core::sync::atomic::{AtomicU8, Ordering};
use core::task::Poll;

/// Vectors for devices: above those of I/O APIC lines, below those of the local APICs.
const FIRST: u8 = 0x40;
const LAST: u8 = 0xef;

static NEXT: AtomicU8 = AtomicU8::new(FIRST);
static IO_APICS: SpinLock<Vec<IoApic>> = SpinLock::new(ranks::IO_APICS, Vec::new());

/// Takes the host's I/O APICs, for lines that are routed later.
pub fn set_io_apics(io_apics: Vec<IoApic>) {
    *IO_APICS.lock() = io_apics;
}

/// A vector of one device on one CPU, for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceVector {
    vector: u8,
    cpu: u32,
}

impl DeviceVector {
    /// Takes a vector on CPU `cpu`; `None` when all are taken.
    #[must_use]
    pub fn take(cpu: u32) -> Option<Self> {
        let more = |next: u8| (next <= LAST).then_some(next + 1);
        let vector = NEXT
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .ok()?;
        Some(Self { vector, cpu })
    }

    /// Takes a vector on the first CPU for line `irq` (0 to 15) of old, and routes it there; `None` when all are taken, or
    /// the line goes nowhere.
    #[must_use]
    pub fn take_line(irq: u8) -> Option<Self> {
        let route = startup::platform().isa_route(irq);
        let mut io_apics = IO_APICS.lock();
        let io_apic = io_apics.iter_mut().find(|a| a.has(route.gsi))?;
        let this = Self::take(0)?;
        let signal = Signal {
            active_low: route.active_low,
            level: route.level,
        };
        io_apic.route(route.gsi, this.vector, percpu::of(0)?.apic_id(), signal);
        Some(this)
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
