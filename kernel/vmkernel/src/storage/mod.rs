//! Storage devices of the host: found on PCI at start-up, each brought up by a task of its own.
//!
//! Devices are there as `api::block::BlockDevice`s by name. Datastores on them are not here yet.

mod nvme;
mod pci;

pub use nvme::NvmeDisk;
pub use pci::ConfigPorts;

use crate::exec;
use crate::memory::ranks;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use api::block::BlockDevice;
use arch::sync::SpinLock;
use bus::pci::{Function, enumerate};
use control::DeviceInfo;

/// Class code of NVM Express controllers.
const NVME: [u8; 3] = [0x01, 0x08, 0x02];

static DISKS: SpinLock<Vec<Arc<NvmeDisk>>> = SpinLock::new(ranks::STORAGE, Vec::new());

/// Looks for devices and starts bringing them up.
pub fn start() {
    let found = enumerate(&ConfigPorts);
    let controllers = found.iter().filter(|f| f.class == NVME);
    for (number, function) in (0_u32..).zip(controllers) {
        exec::spawn(0, bring_up(*function, number)).detach();
    }
}

async fn bring_up(function: Function, number: u32) {
    let name = alloc::format!("nvme{number}");
    match nvme::start(function, &name).await {
        Ok(disk) => {
            let geometry = disk.geometry();
            crate::info!(
                "{name} at {}: {}, {} MiB",
                function.address,
                disk.identity().model,
                geometry.bytes() >> 20
            );
            DISKS.lock().push(Arc::new(disk));
        }
        Err(reason) => crate::error!("{name} at {}: {reason}", function.address),
    }
}

/// Returns the device with `name`.
///
/// # Errors
/// A text that says what there is.
pub fn device(name: &str) -> Result<Arc<NvmeDisk>, String> {
    let disks = DISKS.lock();
    if let Some(disk) = disks.iter().find(|disk| disk.name() == name) {
        return Ok(Arc::clone(disk));
    }
    Err(alloc::format!(
        "there is no storage device {name}; `storage device list` shows them"
    ))
}

/// Describes all devices.
#[must_use]
pub fn report() -> Vec<DeviceInfo> {
    let describe = |disk: &Arc<NvmeDisk>| {
        let identity = disk.identity();
        DeviceInfo {
            name: disk.name().to_string(),
            address: disk.address().to_string(),
            model: identity.model.clone(),
            serial: identity.serial.clone(),
            block_bytes: identity.block_bytes,
            capacity_bytes: disk.geometry().bytes(),
            interrupts: disk.interrupts().to_string(),
        }
    };
    DISKS.lock().iter().map(describe).collect()
}
