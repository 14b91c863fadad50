//! Plain moves that were emulated before, recognised without a copied register file: what guests do to devices in
//! memory is nearly always the same few loads and stores.
//!
//! An instruction is known by everything that its fetch depends on: the registers that have a say in it, each entry of
//! the page tables on the way to it, and its bytes. All of that is looked at again before it is believed, so the guest
//! cannot tell the difference. Deliberately left out: whatever is unusual; it takes the way of
//! [`Emulator::run`](crate::Emulator::run), which is also where moves become known.

use crate::decode::{Base, Decoded, LEN_MAX, Memory, Op, Operand};
use crate::environment::Environment;
use crate::execute::{Config, Emulator};
use crate::registers::{CodeSize, Registers};
use crate::walk::{Access, Intent, walk_marked};
use addr::Gpa;
use alloc::vec;
use alloc::vec::Vec;
use api::cpu::{SegmentAttributes, cr0, efer, rflags, segment};
use api::device::Width;

/// Number of moves that are kept.
const KNOWN: usize = 32;
/// Levels of page tables at most.
const LEVELS: usize = 5;
/// Size of a page.
const PAGE: u64 = 4096;

/// The registers that the fetch of an instruction depends on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Code {
    /// Offset of the instruction in CS.
    pub rip: u64,
    /// Base of CS.
    pub cs_base: u64,
    /// Limit of CS.
    pub cs_limit: u32,
    /// Attributes of CS.
    pub cs_attributes: SegmentAttributes,
    /// Current privilege level, 0 to 3.
    pub cpl: u8,
    /// CR0.
    pub cr0: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// EFER.
    pub efer: u64,
}

impl Code {
    fn of(registers: &Registers) -> Self {
        let cs = registers.segment(segment::CS);
        Self {
            rip: registers.rip,
            cs_base: cs.base,
            cs_limit: cs.limit,
            cs_attributes: cs.attributes,
            cpl: registers.cpl,
            cr0: registers.cr0,
            cr3: registers.cr3,
            cr4: registers.cr4,
            efer: registers.efer,
        }
    }
}

/// A vCPU's registers and RAM where they are, for a look at a few of them.
pub trait Live {
    /// Returns what the next fetch depends on.
    fn code(&self) -> Code;

    /// Returns RFLAGS.
    fn rflags(&self) -> u64;

    /// Returns a general-purpose register by its encoding.
    fn gpr(&self, index: u8) -> u64;

    /// Returns the base of a segment register by its encoding.
    fn segment_base(&self, index: usize) -> u64;

    /// Reads 8 bytes of RAM that lie in one page, in one piece if they are aligned; nothing where there is no RAM.
    fn read_u64(&mut self, gpa: Gpa) -> Option<u64>;
}

/// What is to be done for a known move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlainMove {
    /// Direction, and the other operand.
    pub transfer: Transfer,
    /// Bytes moved.
    pub width: Width,
    /// RIP after it. RFLAGS.RF and the interrupt shadow end with it, and nothing else changes.
    pub next_rip: u64,
}

/// Direction of a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transfer {
    /// From memory into this general-purpose register; 4 bytes clear the upper half, 1 and 2 leave the rest.
    Load(u8),
    /// This value into memory; nothing is set above the width.
    Store(u64),
}

/// The moves of one vCPU that are known.
#[derive(Debug)]
pub(crate) struct Moves {
    known: Vec<Known>,
}

/// Eight bytes of the guest's page tables.
#[derive(Clone, Copy, Debug, Default)]
struct Word {
    gpa: Gpa,
    value: u64,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    code: Code,
    /// The page-table entries that lead to the instruction, and how many there are.
    trail: [Word; LEVELS],
    trail_len: usize,
    /// Where the instruction's first byte is.
    place: Gpa,
    /// Its bytes, first lowest, zero behind the last.
    bytes: [u64; 2],
    mask: [u64; 2],
    /// Zero marks an empty slot.
    len: u8,
    size: CodeSize,
    width: Width,
    memory: Memory,
    destination: Operand,
    source: Operand,
    immediate: u64,
}

impl Known {
    const EMPTY: Self = Self {
        code: Code {
            rip: 0,
            cs_base: 0,
            cs_limit: 0,
            cs_attributes: SegmentAttributes(0),
            cpl: 0,
            cr0: 0,
            cr3: 0,
            cr4: 0,
            efer: 0,
        },
        trail: [Word {
            gpa: Gpa::new_truncate(0),
            value: 0,
        }; LEVELS],
        trail_len: 0,
        place: Gpa::new_truncate(0),
        bytes: [0; 2],
        mask: [0; 2],
        len: 0,
        size: CodeSize::Bits16,
        width: Width::Byte,
        memory: Memory {
            segment: segment::DS,
            base: Base::None,
            index: None,
            scale_shift: 0,
            displacement: 0,
            mask: 0,
        },
        destination: Operand::None,
        source: Operand::None,
        immediate: 0,
    };

    /// Tells whether page tables and memory still have what they had.
    #[inline]
    fn is_there(&self, live: &mut impl Live) -> bool {
        for word in self.trail.iter().take(self.trail_len) {
            if live.read_u64(word.gpa) != Some(word.value) {
                return false;
            }
        }
        let ([low, high], [low_mask, high_mask]) = (self.bytes, self.mask);
        let Some(found) = live.read_u64(self.place) else {
            return false;
        };
        if (found ^ low) & low_mask != 0 {
            return false;
        }
        if high_mask == 0 {
            return true;
        }
        let second = Gpa::new_truncate(self.place.as_u64().wrapping_add(8));
        live.read_u64(second)
            .is_some_and(|found| (found ^ high) & high_mask == 0)
    }

    /// Tells whether the memory operand is what faulted at `gpa`: the rest of an operand that crosses a page is not.
    #[inline]
    fn is_at(&self, live: &impl Live, gpa: Gpa) -> bool {
        let offset = self.memory.offset(self.code.rip, |index| live.gpr(index));
        let has_base = self.size != CodeSize::Bits64
            || matches!(self.memory.segment, segment::FS | segment::GS);
        let base = if has_base {
            live.segment_base(self.memory.segment)
        } else {
            0
        };
        let start = base.wrapping_add(offset) & (PAGE - 1);
        start == gpa.page_offset() && start.wrapping_add(self.width.bytes().into()) <= PAGE
    }
}

impl Moves {
    pub(crate) fn new() -> Self {
        Self {
            known: vec![Known::EMPTY; KNOWN],
        }
    }

    /// Remembers the instruction at RIP if it is a move that can be recognised again; `bytes` begin with it.
    #[cold]
    pub(crate) fn learn<E: Environment>(
        &mut self,
        env: &mut E,
        registers: &Registers,
        config: &Config,
        decoded: &Decoded,
        bytes: u128,
    ) {
        let Some(mut known) = describe(registers, decoded, bytes) else {
            return;
        };
        let Ok(Some(place)) = known.follow(env, registers, config) else {
            return;
        };
        known.place = place;
        if place.page_offset() > PAGE - 16 {
            return;
        }
        if let Some(slot) = self.known.get_mut(index(registers.rip)) {
            *slot = known;
        }
    }
}

/// Describes a plain move but for its place.
fn describe(registers: &Registers, decoded: &Decoded, bytes: u128) -> Option<Known> {
    let is_plain = matches!(
        (decoded.op, decoded.destination, decoded.source),
        (Op::Mov, Operand::Gpr(_), Operand::Memory)
            | (
                Op::Mov,
                Operand::Memory,
                Operand::Gpr(_) | Operand::Immediate
            )
    );
    let size = registers.code_size();
    let code = Code::of(registers);
    let left = u64::from(code.cs_limit).checked_sub(code.rip);
    let is_inside = size == CodeSize::Bits64 || left.is_some_and(|left| left >= LEN_MAX as u64);
    if !is_plain || !is_inside {
        return None;
    }
    let bits = u32::from(decoded.len).saturating_mul(8);
    let mask = !u128::MAX.checked_shl(bits)?;
    let halves = |value: u128| {
        let [a, b, c, d, e, f, g, h, high @ ..] = value.to_le_bytes();
        [
            u64::from_le_bytes([a, b, c, d, e, f, g, h]),
            u64::from_le_bytes(high),
        ]
    };
    Some(Known {
        code,
        bytes: halves(bytes & mask),
        mask: halves(mask),
        len: decoded.len,
        size,
        width: decoded.width?,
        memory: decoded.memory,
        destination: decoded.destination,
        source: decoded.source,
        immediate: decoded.immediate,
        ..Known::EMPTY
    })
}

impl Known {
    /// Finds the instruction and notes the page-table entries on the way. Nothing where they are unusual, or are not
    /// those of long mode.
    fn follow<E: Environment>(
        &mut self,
        env: &mut E,
        registers: &Registers,
        config: &Config,
    ) -> Result<Option<Gpa>, crate::Unavailable> {
        let linear = match self.size {
            CodeSize::Bits64 => registers.rip,
            _ => self.code.cs_base.wrapping_add(registers.rip) & 0xffff_ffff,
        };
        if registers.cr0 & cr0::PG == 0 {
            return Ok(Some(Gpa::new_truncate(linear)));
        }
        if registers.efer & efer::LMA == 0 {
            return Ok(None);
        }
        let access = Access {
            intent: Intent::Fetch,
            is_user: registers.cpl == 3,
            is_implicit: false,
        };
        let (mut trail, mut len) = ([Word::default(); LEVELS], 0usize);
        let note = |gpa, value| {
            if let Some(word) = trail.get_mut(len) {
                *word = Word { gpa, value };
            }
            len = len.saturating_add(1);
        };
        let place = walk_marked(env, registers, config, linear, access, note)?;
        (self.trail, self.trail_len) = (trail, len);
        Ok(place)
    }
}

impl Emulator {
    /// Recognises the instruction at RIP, which faulted at `gpa` when it read or wrote (`is_write`) its memory operand,
    /// as a plain move that [`Emulator::run`] met before. Nothing says only that `run` must see to it.
    #[inline]
    pub fn known_move<L: Live>(&self, live: &mut L, gpa: Gpa, is_write: bool) -> Option<PlainMove> {
        let code = live.code();
        let known = self.moves.known.get(index(code.rip))?;
        let traps = live.rflags() & rflags::TF != 0;
        if known.code != code || known.len == 0 || traps || !known.is_there(live) {
            return None;
        }
        let transfer = match (known.destination, known.source) {
            (Operand::Gpr(register), _) if !is_write => Transfer::Load(register),
            (Operand::Memory, Operand::Gpr(register)) if is_write => {
                Transfer::Store(live.gpr(register) & known.width.all_ones())
            }
            (Operand::Memory, Operand::Immediate) if is_write => {
                Transfer::Store(known.immediate & known.width.all_ones())
            }
            _ => return None,
        };
        let next_rip = code.rip.wrapping_add(known.len.into()) & known.size.ip_mask();
        known.is_at(live, gpa).then_some(PlainMove {
            transfer,
            width: known.width,
            next_rip,
        })
    }
}

#[inline]
fn index(rip: u64) -> usize {
    let [low, ..] = (rip ^ rip >> 5).to_le_bytes();
    usize::from(low) & (KNOWN - 1)
}
