//! Interrupt messages between I/O APIC, MSI sources and local APICs, and who accepts one.
//!
//! Delivery itself is the caller's: it walks the virtual CPUs, asks [`Destination::matches`] and hands the message
//! over. Remote read, a leftover of the external APIC, is not offered.

#[cfg(test)]
mod tests;

/// How an accepted message acts on its target (Intel SDM vol. 3, 12.6.1, delivery mode).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Sets the vector in the IRR of every target.
    Fixed,
    /// Sets the vector in the IRR of one of the targets; see [`RoundRobin`].
    LowestPriority,
    /// System management interrupt; the vector is ignored.
    Smi,
    /// Non-maskable interrupt; the vector is ignored.
    Nmi,
    /// INIT: the CPU goes to its INIT state, an application processor then waits for start-up.
    Init,
    /// Start-up: execution begins at `vector << 12` if the CPU waits for it.
    Startup,
    /// As if the 8259 pair had raised INTR: the vector comes from there.
    ExtInt,
}

impl Delivery {
    /// Decodes the 3-bit delivery mode of ICR, redirection entry or MSI data; `None` is reserved.
    #[must_use]
    pub const fn from_bits(mode: u32) -> Option<Self> {
        match mode & 7 {
            0 => Some(Self::Fixed),
            1 => Some(Self::LowestPriority),
            2 => Some(Self::Smi),
            4 => Some(Self::Nmi),
            5 => Some(Self::Init),
            6 => Some(Self::Startup),
            7 => Some(Self::ExtInt),
            _ => None,
        }
    }

    /// Tells whether only software-enabled local APICs accept it: those that go through the IRR.
    #[must_use]
    pub const fn needs_software_enable(self) -> bool {
        matches!(self, Self::Fixed | Self::LowestPriority)
    }
}

/// Whom a message is for. `wide` tells an x2APIC sender's 32-bit field from the 8 bits of xAPIC, I/O APIC and MSI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// The sender alone (shorthand).
    SelfOnly,
    /// Every local APIC, the sender included (shorthand).
    All,
    /// Every local APIC but the sender (shorthand).
    AllButSelf,
    /// The local APIC with this ID; all ones is every one.
    Physical {
        /// APIC ID.
        id: u32,
        /// 32-bit field of an x2APIC sender.
        wide: bool,
    },
    /// Those that the logical destination registers choose; all ones is every one.
    Logical {
        /// Message destination address.
        mda: u32,
        /// 32-bit field of an x2APIC sender.
        wide: bool,
    },
}

impl Destination {
    /// Makes the destination of an 8-bit field.
    #[must_use]
    pub const fn narrow(field: u8, logical: bool) -> Self {
        // `From` is not const.
        let field = field as u32;
        if logical {
            Self::Logical {
                mda: field,
                wide: false,
            }
        } else {
            Self::Physical {
                id: field,
                wide: false,
            }
        }
    }

    /// Tells whether `target` is addressed; `is_sender` only matters to the shorthands.
    ///
    /// A hardware-disabled APIC is not on the bus and is never addressed. Whether an addressed one accepts the
    /// message is [`ApicIdentity::accepts`].
    #[must_use]
    pub fn matches(self, target: &ApicIdentity, is_sender: bool) -> bool {
        if target.mode == ApicMode::Disabled {
            return false;
        }
        match self {
            Self::SelfOnly => is_sender,
            Self::All => true,
            Self::AllButSelf => !is_sender,
            Self::Physical { id, wide } => is_broadcast(id, wide) || target.has_id(id, wide),
            Self::Logical { mda, wide } => is_broadcast(mda, wide) || target.has_logical(mda),
        }
    }
}

const fn is_broadcast(field: u32, wide: bool) -> bool {
    field == if wide { u32::MAX } else { 0xff }
}

/// Operating mode of a local APIC (IA32_APIC_BASE bits 11 and 10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApicMode {
    /// Off; the CPU behaves as one without a local APIC.
    Disabled,
    /// Registers in memory, 8-bit IDs.
    XApic,
    /// Registers as MSRs, 32-bit IDs.
    X2Apic,
}

/// What a sender has to know of a local APIC to decide whether it addresses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApicIdentity {
    /// ID by which it answers now: 8 bits, writable in xAPIC mode; the fixed x2APIC ID in x2APIC mode.
    pub id: u32,
    /// ID that it was made with.
    pub initial_id: u32,
    /// Logical destination: 8 bits in xAPIC mode; cluster and bit in x2APIC mode.
    pub logical_id: u32,
    /// Destination format register, bits 31:28: Fh is flat, 0 is cluster.
    pub format: u8,
    /// Operating mode.
    pub mode: ApicMode,
    /// Spurious-interrupt vector register, bit 8.
    pub software_enabled: bool,
}

impl ApicIdentity {
    /// Tells whether an addressed APIC takes a message of this kind.
    #[must_use]
    pub const fn accepts(&self, delivery: Delivery) -> bool {
        self.software_enabled || !delivery.needs_software_enable()
    }

    fn has_id(&self, id: u32, wide: bool) -> bool {
        // A CPU whose ID needs more than 8 bits is still in xAPIC mode when its first INIT comes from an x2APIC
        // sender; it must be reachable by the ID that the MADT gives.
        self.id == id || (wide && id > 0xff && id == self.initial_id)
    }

    fn has_logical(&self, mda: u32) -> bool {
        if self.mode == ApicMode::X2Apic {
            // Cluster in the upper, one bit per member in the lower half (SDM vol. 3, 12.12.10.2).
            return self.logical_id >> 16 == mda >> 16 && self.logical_id & mda & 0xffff != 0;
        }
        match self.format {
            0xf => self.logical_id & mda & 0xff != 0,
            0x0 => self.logical_id >> 4 == mda >> 4 && self.logical_id & mda & 0xf != 0,
            _ => false,
        }
    }
}

/// A message on its way: an inter-processor interrupt, an I/O APIC pin's or an MSI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApicMessage {
    /// Whom it is for.
    pub destination: Destination,
    /// What it does there.
    pub delivery: Delivery,
    /// Vector 0 to 255; below 16 it is illegal for modes that go through the IRR.
    pub vector: u8,
    /// Level-triggered: the target's EOI is to be broadcast to the I/O APIC.
    pub level: bool,
}

impl ApicMessage {
    /// Decodes a message-signalled interrupt, or `None` when the write is not one (SDM vol. 3, 12.11).
    #[must_use]
    pub fn from_msi(address: u64, data: u32) -> Option<Self> {
        const MSI_WINDOW: u64 = 0xfee;
        const LOGICAL: u64 = 1 << 2;
        const LEVEL: u32 = 1 << 15;
        if address >> 20 != MSI_WINDOW {
            return None;
        }
        let [_, field, _, _, ..] = (address >> 4).to_le_bytes();
        let [vector, ..] = data.to_le_bytes();
        Some(Self {
            destination: Destination::narrow(field, address & LOGICAL != 0),
            delivery: Delivery::from_bits(data >> 8)?,
            vector,
            level: data & LEVEL != 0,
        })
    }
}

/// Chooses the one target of a lowest-priority message: each addressed CPU in turn.
///
/// Task priorities are not compared: CPUs since the Pentium 4 need not (SDM vol. 3, 12.6.2.4), and a rotation
/// gives the same choice in every run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct RoundRobin {
    next: usize,
}

impl RoundRobin {
    /// Picks one of `candidates`, CPU numbers in rising order, or `None` when there is none.
    pub fn pick(&mut self, candidates: impl Iterator<Item = usize>) -> Option<usize> {
        let mut first = None;
        let mut chosen = None;
        for cpu in candidates {
            first = first.or(Some(cpu));
            if cpu >= self.next {
                chosen = Some(cpu);
                break;
            }
        }
        let cpu = chosen.or(first)?;
        self.next = cpu.saturating_add(1);
        Some(cpu)
    }
}
