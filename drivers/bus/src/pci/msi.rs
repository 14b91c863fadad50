//! Message-signalled interrupts: MSI and MSI-X (PCI Local Bus 3.0, 6.8). One message serves a function until drivers
//! have a queue for each CPU.

use super::{Bar, ConfigSpace, Function};

const ID_MSI: u8 = 0x05;
const ID_MSIX: u8 = 0x11;
/// MSI control word, in the upper half of the first double word: on.
const MSI_ENABLE: u32 = 1 << 16;
/// MSI: how many messages are on, as a power of two.
const MSI_COUNT: u32 = 7 << 20;
/// MSI: the address has 64 bits.
const MSI_64BIT: u32 = 1 << 23;
/// MSI-X: on.
const MSIX_ENABLE: u32 = 1 << 31;
/// MSI-X: all messages held back.
const MSIX_MASK_ALL: u32 = 1 << 30;

/// What a function writes, and where, to interrupt a CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Address of the write.
    pub address: u64,
    /// What is written.
    pub data: u32,
}

impl Message {
    /// The message that raises `vector`, edge-triggered, on the CPU with `apic_id` (APM vol. 2, 16.11; SDM vol. 3, 11.11).
    /// `None` for IDs beyond 254, which need interrupt remapping.
    #[must_use]
    pub const fn to_cpu(apic_id: u32, vector: u8) -> Option<Self> {
        const BASE: u64 = 0xfee0_0000;
        if apic_id > 254 {
            return None;
        }
        Some(Self {
            address: BASE | (apic_id as u64) << 12,
            data: vector as u32,
        })
    }

    /// Returns the entry of an MSI-X table: address, data, not masked.
    #[must_use]
    pub const fn table_entry(self) -> [u32; 4] {
        [
            self.address as u32,
            (self.address >> 32) as u32,
            self.data,
            0,
        ]
    }
}

/// Where the table of MSI-X is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TablePlace {
    /// Physical address of its first entry.
    pub address: u64,
    /// Entries.
    pub entries: u16,
}

/// How a function can interrupt by messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageInterrupts {
    /// MSI, at this capability.
    Msi(u8),
    /// MSI-X, at this capability, with its table.
    MsiX(u8, TablePlace),
}

impl MessageInterrupts {
    /// Finds out what `function` has; MSI-X is preferred.
    pub fn of(function: &Function, space: &impl ConfigSpace) -> Option<Self> {
        if let Some(at) = function.capability(space, ID_MSIX)
            && let Some(place) = table_place(function, space, at)
        {
            return Some(Self::MsiX(at, place));
        }
        function.capability(space, ID_MSI).map(Self::Msi)
    }

    /// Returns what they are called.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Msi(_) => "MSI",
            Self::MsiX(..) => "MSI-X",
        }
    }

    /// Turns them on. For MSI the message is written here; for MSI-X the caller writes [`Message::table_entry`] into the
    /// table first.
    pub fn enable(self, function: &Function, space: &impl ConfigSpace, message: Message) {
        match self {
            Self::Msi(at) => enable_msi(function, space, at, message),
            Self::MsiX(at, _) => {
                let word = space.read(function.address, at);
                space.write(function.address, at, word & !MSIX_MASK_ALL | MSIX_ENABLE);
            }
        }
    }
}

fn enable_msi(function: &Function, space: &impl ConfigSpace, at: u8, message: Message) {
    let write = |offset: u8, value| space.write(function.address, at.wrapping_add(offset), value);
    let control = space.read(function.address, at) & !MSI_COUNT;
    write(4, message.address as u32);
    if control & MSI_64BIT != 0 {
        write(8, (message.address >> 32) as u32);
        write(12, message.data);
    } else {
        write(8, message.data);
    }
    write(0, control | MSI_ENABLE);
}

fn table_place(function: &Function, space: &impl ConfigSpace, at: u8) -> Option<TablePlace> {
    let entries = (space.read(function.address, at) >> 16 & 0x7ff) as u16 + 1;
    let place = space.read(function.address, at.wrapping_add(4));
    let offset = u64::from(place & !7);
    match function.bar(space, (place & 7) as u8)? {
        Bar::Memory { address, size } if offset + 16 * u64::from(entries) <= size => {
            Some(TablePlace {
                address: address.checked_add(offset)?,
                entries,
            })
        }
        _ => None,
    }
}
