//! virtio block devices in the running kernel: registers, shared memory, and a queue with its interrupt for each CPU.
#![expect(unsafe_code, reason = "lends frames and registers to the driver")]

use super::messages::{connect, shared, vectors};
use super::queued::{self, QueuedDisk, Traits};
use crate::cpus;
use crate::storage::ConfigPorts;
use crate::timer::HostClock;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use api::block::{Geometry, PAGE};
use api::port::{NarrowRegisters, Registers};
use arch::mmio::{SharedFrames, Window};
use arch::percpu;
use bus::pci::{Function, MessageInterrupts, VirtioKind, VirtioWindow};
use virtio_blk::{BlkQueue, Device as Driver, Identity, QUEUE_BYTES, StartError, Windows};

/// Most queues of a device; CPUs beyond share them.
const QUEUES_MAX: u32 = 8;

/// Registers of which some are narrower than a double word.
#[derive(Debug)]
pub struct NarrowWindow {
    wide: Window,
    base: u64,
    len: u64,
}

impl NarrowWindow {
    /// Maps a window of a function.
    fn map(window: &VirtioWindow) -> Self {
        let base = cpus::map_device(window.address, window.len);
        Self {
            // SAFETY: the window was just mapped for good; the driver names memory to the device that is lent for it only.
            wide: unsafe { Window::new(base, window.len) },
            base,
            len: window.len,
        }
    }

    fn at(&self, offset: u32, bytes: u64) -> Option<u64> {
        let offset = u64::from(offset);
        let fits = offset + bytes <= self.len && offset.is_multiple_of(bytes);
        fits.then_some(self.base + offset)
    }
}

impl Registers for NarrowWindow {
    fn read32(&self, offset: u32) -> u32 {
        self.wide.read32(offset)
    }

    fn write32(&self, offset: u32, value: u32) {
        self.wide.write32(offset, value);
    }
}

impl NarrowRegisters for NarrowWindow {
    fn read8(&self, offset: u32) -> u8 {
        match self.at(offset, 1) {
            // SAFETY: the byte is inside the window, which `map` has mapped for good.
            Some(at) => unsafe { (at as *const u8).read_volatile() },
            None => u8::MAX,
        }
    }

    fn write8(&self, offset: u32, value: u8) {
        if let Some(at) = self.at(offset, 1) {
            // SAFETY: as in `read8`; what the driver writes makes the device touch lent memory only.
            unsafe { (at as *mut u8).write_volatile(value) };
        }
    }

    fn read16(&self, offset: u32) -> u16 {
        match self.at(offset, 2) {
            // SAFETY: the word is inside the window, and aligned.
            Some(at) => unsafe { (at as *const u16).read_volatile() },
            None => u16::MAX,
        }
    }

    fn write16(&self, offset: u32, value: u16) {
        if let Some(at) = self.at(offset, 2) {
            // SAFETY: as in `read16` and `write8`.
            unsafe { (at as *mut u16).write_volatile(value) };
        }
    }
}

/// A queue.
pub(super) type VirtioQueue = BlkQueue<NarrowWindow, SharedFrames>;

/// A device, to be reset.
#[derive(Debug)]
struct Device {
    driver: Driver<NarrowWindow, SharedFrames>,
    function: Function,
}

impl queued::Device for Device {
    type Queue = VirtioQueue;
    type Error = StartError;

    async fn restart(&mut self) -> Result<Vec<VirtioQueue>, StartError> {
        self.driver.restart(&HostClock).await
    }

    fn cut_off(&mut self) {
        self.function.disable(&ConfigPorts);
    }
}

/// Brings a device up.
///
/// # Errors
/// A text that says what is wrong with it.
pub(super) async fn start(
    function: Function,
    name: &str,
) -> Result<(QueuedDisk<VirtioQueue>, Identity), String> {
    let space = &ConfigPorts;
    let windows = VirtioWindow::all_of(&function, space);
    let find = |kind| {
        let found = windows.iter().find(|window| window.kind == kind);
        found.ok_or("it has not the registers of virtio 1")
    };
    let notify = find(VirtioKind::NOTIFY)?;
    let (common, device) = (find(VirtioKind::COMMON)?, find(VirtioKind::DEVICE)?);
    let interrupts = MessageInterrupts::of(&function, space);
    let Some(interrupts @ MessageInterrupts::MsiX(_, place)) = interrupts else {
        return Err(String::from("it has no MSI-X, which this driver needs"));
    };
    function.enable(space);
    let windows = Windows {
        common: NarrowWindow::map(common),
        notify: (NarrowWindow::map(notify), notify.multiplier),
        device: NarrowWindow::map(device),
    };
    let started = Driver::start(windows, &HostClock).await;
    let mut driver = started.map_err(|e| e.to_string())?;
    let most = u32::from(place.entries).min(u32::from(driver.identity().queues));
    let vectors = vectors(most.min(QUEUES_MAX).min(percpu::online()))?;
    connect(interrupts, &function, &vectors);
    let memories: Result<Vec<_>, String> = vectors.iter().map(|_| shared(QUEUE_BYTES)).collect();
    let queues = driver.make_queues(memories?, &HostClock).await;
    let queues = queues.map_err(|e| e.to_string())?;
    let identity = driver.identity().clone();
    let queues = queues.into_iter().zip(vectors.into_iter().map(|v| v.0));
    let queues = queues.collect();
    let device = Device { driver, function };
    let disk = QueuedDisk::new(name, traits(&identity), device, queues);
    Ok((disk, identity))
}

fn traits(identity: &Identity) -> Traits {
    Traits {
        geometry: Geometry {
            logical_block: identity.block_bytes,
            physical_block: identity.physical_bytes,
            blocks: identity.blocks,
            max_blocks: (identity.pages_max * PAGE) as u32 / identity.block_bytes,
            volatile_cache: identity.has_cache,
            fua: false,
            discard: identity.can_discard,
            compare_and_write_blocks: 0,
        },
        can_zero: identity.can_zero,
    }
}
