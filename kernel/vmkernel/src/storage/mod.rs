//! Storage devices of the host: found on PCI at start-up, each brought up by a task of its own, and their partitions.
//!
//! Devices and partitions are there as block devices by name. What is stored on them is `datastore`'s.

mod ahci;
mod disk;
mod ide;
mod messages;
mod nvme;
mod pci;
mod queued;
mod virtio;

pub use disk::Disk;
pub use pci::ConfigPorts;

use crate::exec;
use crate::memory::ranks;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use api::block::{BlockDevice, BlockError, Buffer};
use arch::sync::SpinLock;
use bus::pci::{Function, enumerate};
use control::DeviceInfo;
use partition::{Partition, Scheme, Slice, Table};

/// Class code of NVM Express controllers.
const NVME: [u8; 3] = [0x01, 0x08, 0x02];
/// Class code of AHCI controllers.
const AHCI: [u8; 3] = [0x01, 0x06, 0x01];
/// Class and subclass of IDE controllers; the interface says how they can be programmed.
const IDE: [u8; 2] = [0x01, 0x01];
/// Maker and numbers of virtio block devices, the first being that of devices that also speak the older language (VIRTIO
/// 1.2, 4.1.2).
const VIRTIO: u16 = 0x1af4;
const VIRTIO_BLOCK: [u16; 2] = [0x1001, 0x1042];
/// Bytes at both ends of a device that are looked at before it is overwritten.
const EDGE_BYTES: u64 = 1 << 20;
/// Bytes that are read at a time.
const STEP_BYTES: u64 = 64 << 10;

/// A device, or a partition of one, as a block device.
pub type Part = Slice<Disk>;

/// A device or partition with its name.
#[derive(Clone, Debug)]
pub struct Device {
    name: String,
    part: Part,
    /// The partition that it is.
    partition: Option<Partition>,
    about: Arc<About>,
    /// The partition table on it, or the datastore; for people.
    content: String,
}

/// What is known of a controller and its disk.
#[derive(Debug)]
struct About {
    address: String,
    model: String,
    serial: String,
    interrupts: &'static str,
}

static DEVICES: SpinLock<Vec<Device>> = SpinLock::new(ranks::STORAGE, Vec::new());

/// Looks for devices and brings them up; completes when each has come up or failed.
pub async fn bring_up_all() {
    let mut tasks = Vec::new();
    let (mut nvme, mut ahci, mut virtio) = (0, 0, 0);
    for function in enumerate(&ConfigPorts) {
        let is_virtio = function.vendor == VIRTIO && VIRTIO_BLOCK.contains(&function.device);
        tasks.push(match function.class {
            _ if is_virtio => {
                let number = next(&mut virtio);
                exec::spawn(0, bring_up_virtio(function, number))
            }
            NVME => exec::spawn(0, bring_up_nvme(function, next(&mut nvme))),
            AHCI => exec::spawn(0, bring_up_ahci(function, next(&mut ahci))),
            [class, subclass, _] if [class, subclass] == IDE => {
                exec::spawn(0, bring_up_ide(function))
            }
            _ => continue,
        });
    }
    for task in tasks {
        task.await;
    }
}

/// Counts a controller.
fn next(count: &mut u32) -> u32 {
    *count += 1;
    *count - 1
}

async fn bring_up_nvme(function: Function, number: u32) {
    let name = format!("nvme{number}");
    let started = match nvme::start(function, &name).await {
        Ok(started) => started,
        Err(reason) => {
            crate::error!("{name} at {}: {reason}", function.address);
            return;
        }
    };
    let about = About {
        address: function.address.to_string(),
        model: started.identity.model,
        serial: started.identity.serial,
        interrupts: started.interrupts,
    };
    crate::info!("{name} has {} queues", started.disk.queues());
    add(name, Disk::Nvme(Arc::new(started.disk)), about).await;
}

async fn bring_up_ahci(function: Function, number: u32) {
    let name = format!("ahci{number}");
    let (disks, interrupts) = match ahci::start(function, &name).await {
        Ok(started) => started,
        Err(reason) => {
            crate::error!("{name} at {}: {reason}", function.address);
            return;
        }
    };
    for started in disks {
        let about = About {
            address: function.address.to_string(),
            model: started.identity.model,
            serial: started.identity.serial,
            interrupts,
        };
        add(started.name, Disk::Ahci(Arc::new(started.disk)), about).await;
    }
}

async fn bring_up_virtio(function: Function, number: u32) {
    let name = format!("virtio{number}");
    let (disk, identity) = match virtio::start(function, &name).await {
        Ok(started) => started,
        Err(reason) => {
            crate::error!("{name} at {}: {reason}", function.address);
            return;
        }
    };
    let about = About {
        address: function.address.to_string(),
        model: String::from("virtio block device"),
        serial: identity.serial,
        interrupts: "MSI-X",
    };
    crate::info!("{name} has {} queues", disk.queues());
    add(name, Disk::Virtio(Arc::new(disk)), about).await;
}

/// Controllers beyond the first have ports and interrupts of their own, and are not used.
async fn bring_up_ide(function: Function) {
    for channel in ide::CHANNELS {
        let name = format!("ide{}", channel.number);
        match ide::start(function, &channel, &name).await {
            Ok(None) => {}
            Ok(Some((disk, identity))) => {
                let about = About {
                    address: function.address.to_string(),
                    model: identity.model,
                    serial: identity.serial,
                    interrupts: channel.interrupt,
                };
                add(name, Disk::Ide(Arc::new(disk)), about).await;
            }
            Err(reason) => crate::error!("{name} at {}: {reason}", function.address),
        }
    }
}

/// Adds a disk that came up, and its partitions.
async fn add(name: String, disk: Disk, about: About) {
    let mib = disk.geometry().bytes() >> 20;
    crate::info!("{name} at {}: {}, {mib} MiB", about.address, about.model);
    let table = match partition::read(&disk).await {
        Ok(table) => table,
        Err(error) => {
            crate::warn!("{name}: its partition table cannot be read: {error}");
            Table {
                scheme: Scheme::None,
                partitions: Vec::new(),
                from_backup: false,
            }
        }
    };
    if table.from_backup {
        crate::warn!(
            "{name}: the first copy of its partition table is damaged, the second is used"
        );
    }
    let whole = Device {
        part: Slice::whole(disk.clone()),
        partition: None,
        about: Arc::new(about),
        content: String::from(match table.scheme {
            Scheme::None => "",
            Scheme::Mbr => "MBR",
            Scheme::Gpt => "GPT",
        }),
        name,
    };
    let partitions = table.partitions.into_iter().map(|partition| Device {
        name: format!("{}p{}", whole.name, partition.number),
        part: Slice::of(disk.clone(), &partition),
        about: Arc::clone(&whole.about),
        content: String::new(),
        partition: Some(partition),
    });
    let all: Vec<Device> = core::iter::once(whole.clone()).chain(partitions).collect();
    let mut devices = DEVICES.lock();
    devices.extend(all);
    devices.sort_by(|a, b| a.name.cmp(&b.name));
}

impl Device {
    /// Returns its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns it as a block device.
    #[must_use]
    pub fn part(&self) -> &Part {
        &self.part
    }

    /// Tells whether it has partitions of its own.
    #[must_use]
    pub fn is_divided(&self) -> bool {
        let prefix = format!("{}p", self.name);
        self.partition.is_none()
            && devices()
                .iter()
                .any(|other| other.name.starts_with(&prefix))
    }
}

/// Returns all devices and partitions.
#[must_use]
pub fn devices() -> Vec<Device> {
    DEVICES.lock().clone()
}

/// Notes what is on a device, for people.
pub fn set_content(name: &str, content: &str) {
    let mut devices = DEVICES.lock();
    if let Some(device) = devices.iter_mut().find(|device| device.name == name) {
        device.content = String::from(content);
    }
}

/// Returns the device or partition with `name`.
///
/// # Errors
/// A text that says what there is.
pub fn device(name: &str) -> Result<Device, String> {
    let devices = DEVICES.lock();
    let found = devices.iter().find(|device| device.name == name).cloned();
    found.ok_or_else(|| {
        format!("there is no storage device {name}; `storage device list` shows them")
    })
}

/// Tells whether something is at the edges of a device, where tables and superblocks are.
///
/// # Errors
/// The device's.
pub async fn is_blank(part: &Part) -> Result<bool, BlockError> {
    let geometry = part.geometry();
    let block = u64::from(geometry.logical_block);
    let edge = (EDGE_BYTES / block).min(geometry.blocks);
    let step = (STEP_BYTES / block)
        .min(u64::from(geometry.max_blocks))
        .max(1);
    // The second edge of a small device overlaps the first.
    for start in [0, geometry.blocks - edge] {
        let mut at = start;
        while at < start + edge {
            let blocks = step.min(start + edge - at);
            let buffer = Buffer::zeroed((blocks * block) as usize);
            let (buffer, result) = part.read(at, buffer).await;
            result?;
            if buffer.iter().any(|byte| *byte != 0) {
                return Ok(false);
            }
            at += blocks;
        }
    }
    Ok(true)
}

/// Describes all devices.
#[must_use]
pub fn report() -> Vec<DeviceInfo> {
    let describe = |device: Device| {
        let geometry = device.part.geometry();
        let about = &device.about;
        DeviceInfo {
            address: about.address.clone(),
            model: device
                .partition
                .map_or_else(|| about.model.clone(), |partition| partition.name),
            serial: about.serial.clone(),
            block_bytes: geometry.logical_block,
            capacity_bytes: geometry.bytes(),
            interrupts: about.interrupts.to_string(),
            content: device.content,
            name: device.name,
        }
    };
    devices().into_iter().map(describe).collect()
}
