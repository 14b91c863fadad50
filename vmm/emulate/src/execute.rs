//! One instruction from fetch to retirement: decoding, dispatch, and what an exception or a repetition leaves behind.

use crate::cache::Cache;
use crate::context::Context;
use crate::decode::{Decoded, Op, decode};
use crate::environment::{Environment, Unavailable};
use crate::fetch::{self, Window};
use crate::moves::Moves;
use crate::registers::{CodeSize, Registers};
use crate::walk::WalkError;
use addr::Gpa;
use api::cpu::{cr0, rflags, vector};

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
    pub(crate) moves: Moves,
}

impl Emulator {
    /// Builds the decoder's tables, once for all emulators; else the first instruction pays for it, some three million
    /// instructions.
    pub fn prepare() {
        const NOP: [u8; 1] = [0x90];
        // Any instruction will do, and this one decodes.
        let _ = decode(CodeSize::Bits64, &NOP);
    }

    /// Makes an emulator for a processor model.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            config,
            cache: Cache::new(),
            moves: Moves::new(),
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
            (registers.code_size(), &[]),
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

    #[inline]
    /// Tells whether the instruction at RIP is HLT, which only the monitor can execute.
    pub fn at_halt<E: Environment>(&mut self, env: &mut E, registers: &Registers) -> bool {
        const HLT: u128 = 0xf4;
        let size = registers.code_size();
        let mut window = Window::default();
        let fetched = window.fetch(env, registers, &self.config, size, &[]);
        fetched.is_ok() && window.len > 0 && window.bytes & 0xff == HLT
    }

    fn try_run<E: Environment>(
        &mut self,
        env: &mut E,
        registers: &mut Registers,
        hint: &Hint<'_>,
        window: &mut Window,
    ) -> Step<Outcome> {
        let Self {
            config,
            cache,
            moves,
        } = self;
        let size = registers.code_size();
        let code = (size, hint.bytes);
        let decoded = match instruction(cache, config, env, registers, code, window) {
            // What the processor executed up to an access is no invalid instruction: the decoder does not know it.
            Err(Abort::Exception(e)) if e.vector == vector::UD && hint.gpa.is_some() => {
                return Err(Abort::Unhandled);
            }
            result => result?,
        };
        if decoded.op == Op::Mov && hint.gpa.is_some() {
            moves.learn(env, registers, config, decoded, window.bytes);
        }
        let traps = registers.rflags & rflags::TF != 0;
        let mut context = Context {
            env,
            registers,
            config,
            decoded,
            size,
            hint: match hint.gpa {
                Some(gpa) if decoded.has_one_access => Some((gpa, hint.is_write)),
                _ => None,
            },
            shadow: false,
        };
        let flow = context.dispatch()?;
        let shadow = context.shadow;
        registers.rip = match flow {
            Flow::Next => registers.rip.wrapping_add(u64::from(decoded.len)) & size.ip_mask(),
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

/// Fetches and decodes the instruction at RIP, in code of the given size, from the given bytes if there are any.
#[inline]
fn instruction<'c, E: Environment>(
    cache: &'c mut Cache,
    config: &Config,
    env: &mut E,
    registers: &Registers,
    (size, given): (CodeSize, &[u8]),
    window: &mut Window,
) -> Step<&'c Decoded> {
    window.fetch(env, registers, config, size, given)?;
    cache.find_or_insert(registers.rip, size, window, |window| {
        fetch::decode_more(env, registers, config, size, window)
    })
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
    let read = window.bytes.to_le_bytes().into_iter().take(window.len);
    for (to, from) in bytes.iter_mut().zip(read) {
        *to = from;
    }
    Outcome::Unhandled {
        bytes,
        len: u8::try_from(window.len).unwrap_or(15),
    }
}
