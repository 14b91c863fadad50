//! How a device model is called, and what it leaves behind.
//!
//! A device is a state machine: everything outside arrives in a [`Cx`] for one call and leaves as recorded effects,
//! acted on after the return. It keeps no clock, lock, callback or reference.

use crate::memory::GuestMemory;
use crate::time::VmInstant;
use addr::Gpa;
use thiserror::Error;

/// Everything a device may use during one call; nothing of it is kept.
#[expect(
    missing_debug_implementations,
    reason = "borrows trait objects for the length of one call"
)]
pub struct Cx<'a> {
    /// Virtual time of the call; it stops while the VM is paused.
    pub now: VmInstant,
    /// Guest RAM, by copies only.
    pub memory: &'a dyn GuestMemory,
    /// Where the call's consequences are recorded.
    pub effects: &'a mut dyn Effects,
}

/// A Global System Interrupt of the VM: ISA IRQ 0..=15 at their own numbers, 16..=23 only on the IOAPIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Gsi(pub u8);

/// What a device asks of the machine as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MachineAction {
    /// Full platform reset: CPUs and devices.
    Reset,
    /// CPU-only reset (INIT to the boot vCPU), as the 8042 and port 92h do on a PC.
    InitCpu,
    /// The guest turned itself off (ACPI S5).
    PowerOff,
    /// The guest asked to sleep (ACPI S1..S4); `state` is the number after the S.
    Sleep {
        /// 1 to 4.
        state: u8,
    },
    /// A test device asks that the guest page of `gpa` loses its second-level mapping, so that the next access to it
    /// faults and is backed anew with the same contents (`run-guest` only).
    DropMapping {
        /// Any address in the page.
        gpa: Gpa,
    },
    /// A test device ends the run with this status (`run-guest` only).
    TestExit {
        /// The value the guest wrote; the verdict is `(value << 1) | 1`.
        value: u32,
    },
}

/// Records the consequences of a device call; they are applied after the call returned.
pub trait Effects {
    /// Drives interrupt line `gsi` to `level` (true is asserted). An edge is a rise followed by a fall.
    fn set_irq(&mut self, gsi: Gsi, level: bool);
    /// Asks for an action on the whole machine.
    fn request(&mut self, action: MachineAction);
    /// Emits a byte on character channel `channel` (0 is COM1, 1 is COM2, 2 is the debug port E9h).
    fn emit(&mut self, channel: u8, byte: u8);
}

/// Width of a port, MMIO or configuration access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// One byte.
    Byte,
    /// Two bytes.
    Word,
    /// Four bytes.
    Dword,
    /// Eight bytes (MMIO only).
    Qword,
}

impl Width {
    /// Returns the width of `bytes` bytes, or `None` unless it is 1, 2, 4 or 8.
    #[must_use]
    pub const fn from_bytes(bytes: usize) -> Option<Self> {
        match bytes {
            1 => Some(Self::Byte),
            2 => Some(Self::Word),
            4 => Some(Self::Dword),
            8 => Some(Self::Qword),
            _ => None,
        }
    }

    /// Returns the number of bytes: 1, 2, 4 or 8.
    #[must_use]
    pub const fn bytes(self) -> u32 {
        match self {
            Self::Byte => 1,
            Self::Word => 2,
            Self::Dword => 4,
            Self::Qword => 8,
        }
    }

    /// Returns all ones of this width: what a bus yields where nothing answers.
    #[must_use]
    pub const fn all_ones(self) -> u64 {
        match self {
            Self::Byte => 0xff,
            Self::Word => 0xffff,
            Self::Dword => 0xffff_ffff,
            Self::Qword => u64::MAX,
        }
    }
}

/// Why a saved state was refused. The stream is untrusted: every field is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RestoreError {
    /// The state is of a newer or unknown version.
    #[error("{kind}: saved version {found} is not supported (newest is {newest})")]
    Version {
        /// The device's kind.
        kind: &'static str,
        /// Version in the stream.
        found: u16,
        /// Newest version understood.
        newest: u16,
    },
    /// A field holds a value that the device can never be in.
    #[error("{kind}: saved field {field} is out of range")]
    Field {
        /// The device's kind.
        kind: &'static str,
        /// The field's name.
        field: &'static str,
    },
}

/// Identity of a saved-state type.
pub trait SavedState {
    /// Name of the device kind, stable for ever.
    const KIND: &'static str;
    /// Version of the layout; a changed meaning is a new version.
    const VERSION: u16;
}

/// Life cycle common to all device models.
pub trait Device {
    /// The versioned state that `save` yields.
    type Saved: SavedState;
    /// Returns to the power-on state.
    fn reset(&mut self);
    /// Captures the state. Implementations destructure `Self` without `..`.
    fn save(&self) -> Self::Saved;
    /// Replaces the state by a checked copy of `saved`.
    ///
    /// # Errors
    /// [`RestoreError`] when a field is out of range; the device is then unchanged.
    fn restore(&mut self, saved: Self::Saved) -> Result<(), RestoreError>;
}

/// A byte-wide register file behind I/O ports. Wider accesses are split by the bus into bytes, low first.
pub trait PortIo {
    /// Reads the register at `offset` from the device's first port.
    fn read_u8(&mut self, offset: u16, cx: &mut Cx<'_>) -> u8;
    /// Writes the register at `offset` from the device's first port.
    fn write_u8(&mut self, offset: u16, value: u8, cx: &mut Cx<'_>);
}
