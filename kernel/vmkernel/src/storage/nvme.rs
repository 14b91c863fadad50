//! NVMe controllers in the running kernel: registers, shared memory, and a queue with its interrupt for each CPU.
#![expect(unsafe_code, reason = "lends frames and registers to the driver")]

use super::messages::{connect, shared, vectors};
use super::queued::{self, QueuedDisk, Traits};
use crate::cpus;
use crate::storage::ConfigPorts;
use crate::timer::HostClock;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use api::block::{Geometry, PAGE};
use arch::mmio::{SharedFrames, Window};
use arch::percpu;
use bus::pci::{Bar, Function, MessageInterrupts};
use nvme::{Controller, Identity, IoQueue, QUEUE_BYTES, StartError};

/// Registers that are mapped: the doorbells of all queue pairs at any distance that controllers have.
const REGISTER_BYTES: u64 = 0x4000;
/// Most queues of a controller; CPUs beyond share them.
const QUEUES_MAX: u32 = 8;

/// A controller, to be reset.
#[derive(Debug)]
struct Device {
    controller: Controller<Window, SharedFrames>,
    function: Function,
}

/// A queue.
pub(super) type NvmeQueue = IoQueue<Window, SharedFrames>;

impl queued::Device for Device {
    type Queue = NvmeQueue;
    type Error = StartError;

    async fn restart(&mut self) -> Result<Vec<NvmeQueue>, StartError> {
        self.controller.restart(&HostClock).await
    }

    fn cut_off(&mut self) {
        self.function.disable(&ConfigPorts);
    }
}

/// What came up.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) disk: QueuedDisk<NvmeQueue>,
    pub(super) identity: Identity,
    pub(super) interrupts: &'static str,
}

/// Brings a controller up.
///
/// # Errors
/// A text that says what is wrong with it.
pub(super) async fn start(function: Function, name: &str) -> Result<Started, String> {
    let space = &ConfigPorts;
    let Some(Bar::Memory { address, size }) = function.bar(space, 0) else {
        return Err(String::from("firmware gave its registers no address"));
    };
    let interrupts = MessageInterrupts::of(&function, space)
        .ok_or("it cannot interrupt by messages, which this driver needs")?;
    function.enable(space);
    let len = size.min(REGISTER_BYTES);
    let base = cpus::map_device(address, len);
    // SAFETY: the window was just mapped for good; the driver names memory to the device that is lent for it only.
    let registers = unsafe { Window::new(base, len) };
    let memory = shared(Controller::<Window, SharedFrames>::BYTES)?;
    let started = Controller::start(registers, memory, &HostClock).await;
    let mut controller = started.map_err(|e| e.to_string())?;
    let most = match interrupts {
        MessageInterrupts::Msi(_) => 1,
        MessageInterrupts::MsiX(_, place) => u32::from(place.entries),
    };
    let vectors = vectors(most.min(QUEUES_MAX).min(percpu::online()))?;
    connect(interrupts, &function, &vectors);
    let memories: Result<Vec<_>, String> = vectors.iter().map(|_| shared(QUEUE_BYTES)).collect();
    let queues = controller.make_queues(memories?, &HostClock).await;
    let queues = queues.map_err(|e| e.to_string())?;
    let identity = controller.identity().clone();
    let queues = queues.into_iter().zip(vectors.into_iter().map(|v| v.0));
    let device = Device {
        controller,
        function,
    };
    Ok(Started {
        disk: QueuedDisk::new(name, traits(&identity), device, queues.collect()),
        identity,
        interrupts: interrupts.name(),
    })
}

fn traits(identity: &Identity) -> Traits {
    Traits {
        geometry: Geometry {
            logical_block: identity.block_bytes,
            physical_block: identity.block_bytes,
            blocks: identity.blocks,
            max_blocks: (identity.pages_max * PAGE) as u32 / identity.block_bytes,
            volatile_cache: identity.has_cache,
            fua: true,
            discard: identity.can_discard,
            compare_and_write_blocks: 0,
        },
        can_zero: identity.can_zero,
    }
}
