//! One instruction from fetch to retirement: decoding, dispatch, and what an exception or a repetition leaves behind.

use crate::decode::{Cache, Decoded, Op, Operand};
use crate::environment::{Environment, Unavailable};
use crate::fetch::{self, Window};
use crate::memory::Place;
use crate::registers::Registers;
use crate::walk::WalkError;
use addr::Gpa;
use api::cpu::{cr0, rflags, vector};
use api::device::Width;

/// What the emulator needs to know of the processor model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Width of guest-physical addresses in bits, 32 to 52.
    pub phys_bits: u8,
    /// Whether CPUID shows 1 GiB pages.
    pub has_page1gb: bool,
}

/// An exception for the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exception {
    /// Vector number.
    pub vector: u8,
    /// Error code, where the vector has one; real mode pushes none.
    pub error_code: Option<u32>,
    /// New value of CR2, for page faults.
    pub cr2: Option<u64>,
}

impl Exception {
    /// Returns a general-protection fault with error code `code`.
    #[must_use]
    pub const fn general_protection(code: u32) -> Self {
        Self::with_code(vector::GP, code)
    }

    /// Returns an exception with an error code.
    #[must_use]
    pub const fn with_code(vector: u8, code: u32) -> Self {
        Self {
            vector,
            error_code: Some(code),
            cr2: None,
        }
    }

    /// Returns an exception without an error code.
    #[must_use]
    pub const fn plain(vector: u8) -> Self {
        Self {
            vector,
            error_code: None,
            cr2: None,
        }
    }

    pub(crate) const fn page_fault(linear: u64, code: u32) -> Self {
        Self {
            vector: vector::PF,
            error_code: Some(code),
            cr2: Some(linear),
        }
    }
}

/// What the exit that led here already tells.
#[derive(Clone, Copy, Debug, Default)]
pub struct Hint<'a> {
    /// The guest-physical address at which the access of the instruction's memory operand faulted: the final address,
    /// not one of a page-table entry.
    pub gpa: Option<Gpa>,
    /// Whether that access was a write, so that the guest's own tables allow writing.
    pub is_write: bool,
    /// Instruction bytes that the processor fetched for the monitor; empty if it did not.
    pub bytes: &'a [u8],
}

/// What became of the instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The registers are those after the instruction, or after some iterations of a string instruction, which then is
    /// to be run again.
    Done {
        /// RFLAGS.TF was set: a debug exception (DR6.BS) is due.
        single_step: bool,
    },
    /// The guest gets this exception; the registers are unchanged, or those after the last whole iteration.
    Exception(Exception),
    /// The instruction is not emulated; the registers are unchanged.
    Unhandled {
        /// Its bytes.
        bytes: [u8; 15],
        /// How many of them are valid.
        len: u8,
    },
    /// The host could not make an access now; the registers are unchanged.
    Unavailable,
}

/// Why an instruction was not completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Abort {
    Exception(Exception),
    Unhandled,
    Unavailable,
    /// Another vCPU keeps changing the operand of a locked instruction: let it run again.
    Contended,
}

impl From<Unavailable> for Abort {
    fn from(Unavailable: Unavailable) -> Self {
        Self::Unavailable
    }
}

impl From<WalkError> for Abort {
    fn from(error: WalkError) -> Self {
        match error {
            WalkError::Fault(exception) => Self::Exception(exception),
            WalkError::Unavailable => Self::Unavailable,
        }
    }
}

impl From<Exception> for Abort {
    fn from(exception: Exception) -> Self {
        Self::Exception(exception)
    }
}

/// Result of a part of an instruction.
pub(crate) type Step<T> = Result<T, Abort>;

/// Where execution goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    /// Behind the instruction.
    Next,
    /// At this offset in CS.
    Jump(u64),
    /// At the instruction itself: iterations are left.
    Repeat,
}

/// The emulator of one vCPU: its configuration and the instructions it decoded lately.
#[derive(Debug)]
pub struct Emulator {
    config: Config,
    cache: Cache,
}

impl Emulator {
    /// Makes an emulator for a processor model.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            config,
            cache: Cache::new(),
        }
    }

    /// Runs the instruction at RIP.
    pub fn run<E: Environment>(
        &mut self,
        env: &mut E,
        registers: &mut Registers,
        hint: &Hint<'_>,
    ) -> Outcome {
        let mut window = Window::default();
        match self.try_run(env, registers, hint, &mut window) {
            Ok(outcome) => outcome,
            Err(Abort::Exception(exception)) => Outcome::Exception(in_mode(exception, registers)),
            Err(Abort::Unhandled) => unhandled(&window),
            Err(Abort::Unavailable) => Outcome::Unavailable,
            Err(Abort::Contended) => Outcome::Done { single_step: false },
        }
    }

    /// Returns the length of the instruction at RIP in bytes, for exits that the processor gives no length with.
    ///
    /// # Errors
    /// The outcome of fetching or decoding it.
    pub fn instruction_len<E: Environment>(
        &mut self,
        env: &mut E,
        registers: &Registers,
    ) -> Result<u8, Outcome> {
        let mut window = Window::default();
        let found = instruction(
            &mut self.cache,
            &self.config,
            env,
            registers,
            &[],
            &mut window,
        );
        match found {
            Ok(decoded) => Ok(decoded.len),
            Err(Abort::Exception(exception)) => {
                Err(Outcome::Exception(in_mode(exception, registers)))
            }
            Err(Abort::Unhandled | Abort::Contended) => Err(unhandled(&window)),
            Err(Abort::Unavailable) => Err(Outcome::Unavailable),
        }
    }

    fn try_run<E: Environment>(
        &mut self,
        env: &mut E,
        registers: &mut Registers,
        hint: &Hint<'_>,
        window: &mut Window,
    ) -> Step<Outcome> {
        let Self { config, cache } = self;
        let decoded = instruction(cache, config, env, registers, hint.bytes, window)?;
        let traps = registers.rflags & rflags::TF != 0;
        let mut context = Context {
            env,
            registers,
            config,
            decoded,
            hint: hint
                .gpa
                .filter(|_| decoded.op.has_one_access())
                .map(|gpa| (gpa, hint.is_write)),
            shadow: false,
        };
        let flow = context.dispatch()?;
        let shadow = context.shadow;
        registers.rip = match flow {
            Flow::Next => registers.rip.wrapping_add(u64::from(decoded.len)) & registers.ip_mask(),
            Flow::Jump(target) => target,
            Flow::Repeat => registers.rip,
        };
        registers.rflags &= !rflags::RF;
        registers.interrupt_shadow = shadow;
        Ok(Outcome::Done {
            single_step: traps && !shadow,
        })
    }
}

/// Fetches and decodes the instruction at RIP.
fn instruction<'c, E: Environment>(
    cache: &'c mut Cache,
    config: &Config,
    env: &mut E,
    registers: &Registers,
    given: &[u8],
    window: &mut Window,
) -> Step<&'c Decoded> {
    let size = registers.code_size();
    *window = Window::fetch(env, registers, config, size, given)?;
    // Looked up twice, since a borrow that is returned on one path lasts on the other.
    if cache
        .find(registers.rip, size, window.bytes, window.len)
        .is_none()
    {
        let decoded = fetch::decode_more(env, registers, config, size, window)?;
        return cache
            .insert(registers.rip, size, window.bytes, decoded)
            .ok_or(Abort::Unhandled);
    }
    cache
        .find(registers.rip, size, window.bytes, window.len)
        .ok_or(Abort::Unhandled)
}

/// Real mode pushes no error codes.
fn in_mode(exception: Exception, registers: &Registers) -> Exception {
    if registers.cr0 & cr0::PE != 0 {
        exception
    } else {
        Exception {
            error_code: None,
            ..exception
        }
    }
}

fn unhandled(window: &Window) -> Outcome {
    let mut bytes = [0; 15];
    for (to, from) in bytes.iter_mut().zip(window.bytes.to_le_bytes()) {
        *to = from;
    }
    Outcome::Unhandled {
        bytes,
        len: u8::try_from(window.len).unwrap_or(15),
    }
}

/// An instruction in execution.
pub(crate) struct Context<'a, E> {
    pub(crate) env: &'a mut E,
    pub(crate) registers: &'a mut Registers,
    pub(crate) config: &'a Config,
    pub(crate) decoded: &'a Decoded,
    /// Where the memory operand is, if the exit told, and whether it may be written.
    pub(crate) hint: Option<(Gpa, bool)>,
    /// Interrupts are to be held off for one more instruction.
    pub(crate) shadow: bool,
}

impl<E: Environment> Context<'_, E> {
    fn dispatch(&mut self) -> Step<Flow> {
        match self.decoded.op {
            // First what most exits are.
            Op::Mov => self.mov(),
            Op::Unhandled => Err(Abort::Unhandled),
            Op::Nop => Ok(Flow::Next),
            Op::ZeroExtend => self.extend(false),
            Op::SignExtend => self.extend(true),
            Op::Alu(op) => self.alu(op),
            Op::String(op) => self.string(op),
            Op::CallRelative
            | Op::CallAbsolute
            | Op::JumpRelative
            | Op::JumpAbsolute
            | Op::JumpIf(_)
            | Op::JumpFar
            | Op::Return => self.branch(),
            Op::Push
            | Op::Pop
            | Op::PushFlags
            | Op::PopFlags
            | Op::PushAll
            | Op::PopAll
            | Op::Enter
            | Op::Leave
            | Op::PushSegment
            | Op::PopSegment => self.stack(),
            op => self.dispatch_rare(op),
        }
    }

    fn dispatch_rare(&mut self, op: Op) -> Step<Flow> {
        match op {
            Op::Movbe => self.movbe(),
            Op::Lea => self.lea(),
            Op::Xchg => self.exchange(),
            Op::Xadd => self.exchange_add(),
            Op::CmpXchg => self.compare_exchange(),
            Op::CmpXchgPair => self.compare_exchange_pair(),
            Op::Cmov(condition) => self.conditional_move(condition),
            Op::Set(condition) => self.set_if(condition),
            Op::Xlat => self.translate_byte(),
            Op::ExtendAccumulator | Op::SignIntoData => self.convert(),
            Op::Test => self.test(),
            Op::Inc | Op::Dec | Op::Neg | Op::Not => self.unary(op),
            Op::Bit(bit_op) => self.bit(bit_op),
            Op::Scan(scan_op) => self.scan(scan_op),
            Op::Bswap => self.swap_bytes(),
            Op::Shift(shift_op) => self.shift(shift_op),
            Op::Shld | Op::Shrd => self.shift_double(),
            Op::Mul | Op::ImulWide => self.multiply_wide(),
            Op::Imul => self.multiply(),
            Op::Div | Op::Idiv => self.divide(),
            Op::SetFlag(_)
            | Op::ClearFlag(_)
            | Op::ComplementCarry
            | Op::SetInterrupt
            | Op::ClearInterrupt
            | Op::LoadFlags
            | Op::StoreFlags => self.change_flags(op),
            Op::In => self.port_in(),
            Op::Out => self.port_out(),
            Op::VectorLoad(vector_move) => self.vector_load(vector_move),
            Op::VectorStore(vector_move) => self.vector_store(vector_move),
            Op::MmxLoad => self.mmx_load(),
            Op::MmxStore => self.mmx_store(),
            Op::LoadSegment | Op::StoreSegment | Op::LoadFarPointer(_) => self.segment_move(),
            _ => self.system(op),
        }
    }

    /// Returns the size of the operation; instructions that have none are not emulated.
    pub(crate) fn width(&self) -> Step<Width> {
        self.decoded.width.ok_or(Abort::Unhandled)
    }

    /// Fails unless the code is at privilege level 0.
    pub(crate) fn require_privilege(&self) -> Step<()> {
        if self.registers.cpl == 0 {
            Ok(())
        } else {
            Err(Exception::general_protection(0).into())
        }
    }

    /// Reads an operand of `width`; segment and vector registers are read where they are used.
    pub(crate) fn read_operand(&mut self, operand: Operand, width: Width) -> Step<u64> {
        match operand {
            Operand::Gpr(index) => Ok(self.registers.read_gpr(index) & width.all_ones()),
            Operand::High(index) => Ok(self.registers.read_high(index)),
            Operand::Immediate => Ok(self.decoded.immediate & width.all_ones()),
            Operand::Memory => {
                let place = self.operand_place(width.bytes(), false)?;
                self.read_place(&place, width)
            }
            _ => Err(Abort::Unhandled),
        }
    }

    /// Writes a register or memory operand of `width`.
    pub(crate) fn write_operand(&mut self, operand: Operand, width: Width, value: u64) -> Step<()> {
        match operand {
            Operand::Gpr(index) => self.registers.write_gpr(index, width, value),
            Operand::High(index) => self.registers.write_high(index, value),
            Operand::Memory => {
                let place = self.operand_place(width.bytes(), true)?;
                self.write_place(&place, width, value)?;
            }
            _ => return Err(Abort::Unhandled),
        }
        Ok(())
    }

    /// Replaces an operand by what `change` makes of it, as one step if the instruction is locked, and returns the
    /// second part of the last result.
    pub(crate) fn modify<T>(
        &mut self,
        operand: Operand,
        width: Width,
        is_locked: bool,
        change: impl Fn(u64) -> (u64, T),
    ) -> Step<T> {
        if operand != Operand::Memory {
            let (value, result) = change(self.read_operand(operand, width)?);
            self.write_operand(operand, width, value)?;
            return Ok(result);
        }
        let place = self.operand_place(width.bytes(), true)?;
        self.modify_place(&place, width, is_locked, change)
    }

    /// As [`Self::modify`], for an operand already found.
    pub(crate) fn modify_place<T>(
        &mut self,
        place: &Place,
        width: Width,
        is_locked: bool,
        change: impl Fn(u64) -> (u64, T),
    ) -> Step<T> {
        /// A locked instruction that loses this often starts again, so that interrupts get in.
        const ATTEMPTS_MAX: u32 = 16;
        for _ in 0..ATTEMPTS_MAX {
            let old = self.read_place(place, width)?;
            let (new, result) = change(old);
            if !is_locked {
                self.write_place(place, width, new)?;
                return Ok(result);
            }
            if self.exchange_place(place, width, old, new)? {
                return Ok(result);
            }
        }
        Err(Abort::Contended)
    }
}
