//! What drivers of PCI functions need of the host: memory to share, vectors, and the messages that raise them.
#![expect(unsafe_code, reason = "lends frames and the tables of messages")]

use crate::cpus;
use crate::interrupts::DeviceVector;
use crate::memory;
use crate::storage::ConfigPorts;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use api::block::PAGE;
use api::port::Registers;
use arch::mmio::{SharedFrames, Window};
use bus::pci::{Function, Message, MessageInterrupts};

/// Takes memory for a device to share.
pub(super) fn shared(bytes: usize) -> Result<SharedFrames, String> {
    let frames = bytes.div_ceil(PAGE);
    let first = memory::alloc_run(frames as u32).map_err(|e| e.to_string())?;
    // SAFETY: the run was just taken and is never given back.
    Ok(unsafe { SharedFrames::new(first, frames * PAGE) })
}

/// Takes a vector on each of the first `count` CPUs, or on fewer when vectors run out, but one.
pub(super) fn vectors(count: u32) -> Result<Vec<(DeviceVector, Message)>, String> {
    let take = |cpu| {
        let vector = DeviceVector::take(cpu)?;
        Some((vector, vector.message()?))
    };
    let vectors: Vec<_> = (0..count).map_while(take).collect();
    if vectors.is_empty() {
        return Err(String::from("no interrupt vector is left for it"));
    }
    Ok(vectors)
}

/// Lets the function interrupt by messages: number n by that of vector n.
pub(super) fn connect(
    interrupts: MessageInterrupts,
    function: &Function,
    vectors: &[(DeviceVector, Message)],
) {
    if let MessageInterrupts::MsiX(_, place) = interrupts {
        let len = 16 * vectors.len() as u64;
        let base = cpus::map_device(place.address, len);
        // SAFETY: the table was just mapped for good; its entries make the device write to local APICs only.
        let table = unsafe { Window::new(base, len) };
        let words = vectors
            .iter()
            .flat_map(|(_, message)| message.table_entry());
        for (offset, word) in (0..).step_by(4).zip(words) {
            table.write32(offset, word);
        }
    }
    if let Some((_, first)) = vectors.first() {
        interrupts.enable(function, &ConfigPorts, *first);
    }
}
