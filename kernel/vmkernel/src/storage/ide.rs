//! IDE controllers in the running kernel, as every PC had them: two channels at the ports and lines of old, with the
//! bus-master ports of a PCI function.
#![expect(unsafe_code, reason = "lends ports and frames to the driver")]

use super::messages::shared;
use super::queued::{self, QueuedDisk, Traits};
use crate::interrupts::DeviceVector;
use crate::memory;
use crate::storage::ConfigPorts;
use crate::timer::HostClock;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use api::block::{Geometry, PAGE};
use api::port::Ports;
use arch::mmio::SharedFrames;
use ata::ide::{CHANNEL_BYTES, Channel, ChannelDisk, PAGES_MAX, Place};
use ata::{Identity, StartError};
use bus::pci::{Bar, Function};

/// The window of the bus-master ports.
const BAR: u8 = 4;
/// Interface: this channel has left the ports of old.
const NATIVE: [u8; 2] = [1 << 0, 1 << 2];

/// A channel of a PC.
#[derive(Debug)]
pub(super) struct PcChannel {
    pub(super) number: u8,
    command: u16,
    control: u16,
    irq: u8,
    pub(super) interrupt: &'static str,
}

/// Both channels.
pub(super) const CHANNELS: [PcChannel; 2] = [
    PcChannel {
        number: 0,
        command: 0x1f0,
        control: 0x3f6,
        irq: 14,
        interrupt: "IRQ 14",
    },
    PcChannel {
        number: 1,
        command: 0x170,
        control: 0x376,
        irq: 15,
        interrupt: "IRQ 15",
    },
];

/// The host's ports.
#[derive(Clone, Copy, Debug)]
pub struct HostPorts(());

impl Ports for HostPorts {
    fn read8(&self, port: u16) -> u8 {
        // SAFETY: `start` made this for the ports of an IDE channel, which the driver keeps to; reads touch no memory.
        unsafe { arch::cpu::inb(port) }
    }

    fn write8(&self, port: u16, value: u8) {
        // SAFETY: as above; the driver starts transfers only to and from memory that is lent for them.
        unsafe { arch::cpu::outb(port, value) };
    }

    fn read16(&self, port: u16) -> u16 {
        // SAFETY: as in `read8`.
        unsafe { arch::cpu::inw(port) }
    }

    fn write32(&self, port: u16, value: u32) {
        // SAFETY: as in `write8`.
        unsafe { arch::cpu::outl(port, value) };
    }
}

/// A channel as a queue.
pub(super) type IdeQueue = Channel<HostPorts, SharedFrames>;

/// A channel with a disk, to be reset.
#[derive(Debug)]
struct Device(ChannelDisk<HostPorts, SharedFrames>);

impl queued::Device for Device {
    type Queue = IdeQueue;
    type Error = StartError;

    async fn restart(&mut self) -> Result<Vec<IdeQueue>, StartError> {
        self.0.restart(&HostClock).await
    }

    fn cut_off(&mut self) {
        // The other channel's disk goes on, so the controller's way to memory stays open.
        self.0.cut_off();
    }
}

/// Looks for a disk on a channel and brings it up.
///
/// # Errors
/// A text that says what is wrong.
pub(super) async fn start(
    function: Function,
    channel: &PcChannel,
    name: &str,
) -> Result<Option<(QueuedDisk<IdeQueue>, Identity)>, String> {
    let number = usize::from(channel.number);
    let [_, _, interface] = function.class;
    if NATIVE.get(number).is_none_or(|bit| interface & bit != 0) {
        return Err(String::from("it is not at the ports of old"));
    }
    let Some(Bar::Ports { first, count: 16.. }) = function.bar(&ConfigPorts, BAR) else {
        return Err(String::from("firmware gave its bus master no ports"));
    };
    if memory::has_high_ram() {
        return Err(String::from(
            "this host has memory beyond 4 GiB, which its transfers cannot reach",
        ));
    }
    function.enable_ports(&ConfigPorts);
    let place = Place {
        command: channel.command,
        control: channel.control,
        bus_master: first + 8 * u16::from(channel.number),
    };
    let memory = shared(CHANNEL_BYTES)?;
    let found = ChannelDisk::start(HostPorts(()), memory, place, &HostClock).await;
    let Some((device, queue)) = found.map_err(|e| e.to_string())? else {
        return Ok(None);
    };
    let vector = DeviceVector::take_line(channel.irq).ok_or("its interrupt goes nowhere")?;
    let identity = device.identity().clone();
    let queues = Vec::from([(queue, vector)]);
    let disk = QueuedDisk::new(name, traits(&identity), Device(device), queues);
    Ok(Some((disk, identity)))
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
