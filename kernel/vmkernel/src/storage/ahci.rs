//! AHCI controllers in the running kernel: registers, shared memory for each port, one interrupt for all ports.
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
use ata::ahci::{Host, PAGES_MAX, PORT_BYTES, Port, PortDisk};
use ata::{Identity, StartError};
use bus::pci::{Bar, Function, MessageInterrupts};

/// Registers that are mapped: those of the controller and of 32 ports.
const REGISTER_BYTES: u64 = 0x1100;
/// The window of the registers.
const BAR: u8 = 5;

/// A port as a queue.
pub(super) type AhciQueue = Port<Window, SharedFrames>;

/// A port with a disk, to be reset.
#[derive(Debug)]
struct Device(PortDisk<Window, SharedFrames>);

impl queued::Device for Device {
    type Queue = AhciQueue;
    type Error = StartError;

    async fn restart(&mut self) -> Result<Vec<AhciQueue>, StartError> {
        self.0.restart(&HostClock).await
    }

    fn cut_off(&mut self) {
        // Other ports' disks go on, so the controller's way to memory stays open.
        self.0.cut_off();
    }
}

/// A disk that came up.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) name: String,
    pub(super) disk: QueuedDisk<AhciQueue>,
    pub(super) identity: Identity,
}

/// Brings a controller up, and each of its ports that has a disk; `name` gets the port's number behind it.
///
/// # Errors
/// A text that says what is wrong with it.
pub(super) async fn start(
    function: Function,
    name: &str,
) -> Result<(Vec<Started>, &'static str), String> {
    let space = &ConfigPorts;
    let Some(Bar::Memory { address, size }) = function.bar(space, BAR) else {
        return Err(String::from("firmware gave its registers no address"));
    };
    let interrupts = MessageInterrupts::of(&function, space)
        .ok_or("it cannot interrupt by messages, which this driver needs")?;
    function.enable(space);
    let len = size.min(REGISTER_BYTES);
    let base = cpus::map_device(address, len);
    // SAFETY: the window was just mapped for good; the driver names memory to the device that is lent for it only.
    let registers = unsafe { Window::new(base, len) };
    let vectors = vectors(1)?;
    connect(interrupts, &function, &vectors);
    let host = Host::start(registers, &HostClock).await;
    let host = host.map_err(|e| e.to_string())?;
    let mut disks = Vec::new();
    for number in host.ports() {
        let name = alloc::format!("{name}.{number}");
        let memory = shared(PORT_BYTES)?;
        match host.start_port(number, memory, &HostClock).await {
            Ok(None) => {}
            Err(error) => crate::error!("{name}: {error}"),
            Ok(Some((device, queue))) => {
                let identity = device.identity().clone();
                let vector = vectors.iter().map(|(vector, _)| *vector);
                let queues = [queue].into_iter().zip(vector).collect();
                let disk = QueuedDisk::new(&name, traits(&identity), Device(device), queues);
                disks.push(Started {
                    name,
                    disk,
                    identity,
                });
            }
        }
    }
    Ok((disks, interrupts.name()))
}

fn traits(identity: &Identity) -> Traits {
    Traits {
        geometry: Geometry {
            logical_block: identity.block_bytes,
            physical_block: identity.physical_bytes,
            blocks: identity.blocks,
            max_blocks: (PAGES_MAX * PAGE) as u32 / identity.block_bytes,
            volatile_cache: identity.has_cache,
            fua: identity.has_fua,
            discard: identity.can_discard,
            compare_and_write_blocks: 0,
        },
        can_zero: false,
    }
}
