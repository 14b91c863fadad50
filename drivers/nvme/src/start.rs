//! Bringing a controller up (NVM Express 1.4, 7.6.1): reset, admin queues, identification, I/O queues; and once more when
//! it has stopped answering. All of it polls with pauses; interrupts serve I/O only.

use crate::PAGE;
use crate::command::{Command, opcode};
use crate::identity::{ControllerData, Identity};
use crate::io::{IoQueue, RINGS};
use crate::queue::{ENTRIES, Pair, Place};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use api::port::{Registers, SharedMemory};
use api::time::Clock;
use thiserror::Error;

const CAPABILITIES: u32 = 0x00;
const CONFIGURATION: u32 = 0x14;
const STATUS: u32 = 0x1c;
const ADMIN_SIZES: u32 = 0x24;
const ADMIN_SUBMISSIONS: u32 = 0x28;
const ADMIN_COMPLETIONS: u32 = 0x30;

const ENABLE: u32 = 1;
/// Entries of 64 and 16 bytes, as powers of two.
const ENTRY_SIZES: u32 = 6 << 16 | 4 << 20;
const READY: u32 = 1;
const FATAL: u32 = 2;
/// Between two looks, in nanoseconds.
const PAUSE_NANOS: u64 = 1_000_000;
/// Longest wait for an admin command, in looks.
const COMMAND_LOOKS: u32 = 5_000;

/// Why a controller cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum StartError {
    /// It did not become ready, or not answer, in its own time.
    #[error("the controller does not answer")]
    Silent,
    /// It says that it failed.
    #[error("the controller reports a fatal error")]
    Fatal,
    /// It has no pages of 4 KiB.
    #[error("the controller cannot work with pages of 4 KiB")]
    PageSize,
    /// It refused a command.
    #[error("the controller refused command {opcode:#04x} with status {status:#x}")]
    Refused {
        /// The command.
        opcode: u8,
        /// Its status.
        status: u16,
    },
    /// The first namespace is missing, or its blocks are of no use here.
    #[error("namespace 1 is missing or has blocks of an unusual form")]
    Namespace,
}

/// Where everything is in the controller's own memory.
const ADMIN: Place = Place {
    submissions: 0,
    completions: PAGE,
};
const IDENTIFY: usize = 2 * PAGE;
/// Bytes of shared memory that a controller needs besides its queues', zeroed and page-aligned.
const ADMIN_BYTES: usize = 3 * PAGE;

/// A controller that runs, and its first namespace.
#[derive(Debug)]
pub struct Controller<R, M> {
    registers: Arc<R>,
    memory: M,
    /// The memory of its queues.
    queues: Vec<Arc<M>>,
    admin: Pair,
    /// Distance of two doorbells in bytes.
    stride: u32,
    /// Longest wait for it to become ready, in looks.
    looks: u32,
    identity: Identity,
}

/// A controller on its way up, or asked something.
struct Starting<'a, R, M, C> {
    registers: &'a R,
    memory: &'a M,
    clock: &'a C,
    admin: &'a mut Pair,
}

/// Tells whether a controller is not there any more: then nothing answers reads (PCI Express Base 4.0, 2.3.2).
pub(crate) fn is_gone(registers: &impl Registers) -> bool {
    registers.read32(STATUS) == u32::MAX
}

impl<R: Registers, M: SharedMemory> Controller<R, M> {
    /// Bytes of shared memory that a controller needs besides its queues', zeroed and page-aligned.
    pub const BYTES: usize = ADMIN_BYTES;

    /// Brings the controller up with `memory` of [`Self::BYTES`]; it has no queues yet.
    ///
    /// # Errors
    /// [`StartError`]; the controller is off then, or beyond help.
    pub async fn start(registers: R, memory: M, clock: &impl Clock) -> Result<Self, StartError> {
        let (low, high) = (
            registers.read32(CAPABILITIES),
            registers.read32(CAPABILITIES + 4),
        );
        let stride = 4_u32 << (high & 0xf);
        let smallest_page = high >> 16 & 0xf;
        if smallest_page != 0 {
            return Err(StartError::PageSize);
        }
        // In half seconds; the pause is a millisecond.
        let looks = (low >> 24).max(1) * 500;
        let mut admin = Pair::new(ADMIN, 0, stride);
        let mut starting = Starting {
            registers: &registers,
            memory: &memory,
            clock,
            admin: &mut admin,
        };
        starting.disable(looks).await?;
        starting.enable(looks).await?;
        let identity = starting.identify().await?;
        Ok(Self {
            registers: Arc::new(registers),
            memory,
            queues: Vec::new(),
            admin,
            stride,
            looks,
            identity,
        })
    }

    /// Returns what the controller said of itself and its namespace.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Makes a queue in each of `memories`, of [`crate::QUEUE_BYTES`], or as many as the controller has, at least one.
    /// Queue n interrupts by message n.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn make_queues(
        &mut self,
        memories: Vec<M>,
        clock: &impl Clock,
    ) -> Result<Vec<IoQueue<R, M>>, StartError> {
        self.queues = memories.into_iter().map(Arc::new).collect();
        let wanted = self.queues.len() as u32;
        let granted = self.asking(clock).ask_queues(wanted).await?;
        self.queues.truncate(granted as usize);
        self.create_queues(clock).await
    }

    /// Resets the controller, and makes all its queues anew. Nothing that it was sent before takes effect after this, and it
    /// uses no memory of that.
    ///
    /// # Errors
    /// [`StartError`]; if it is [`StartError::Silent`] the controller may not even be off.
    pub async fn restart(&mut self, clock: &impl Clock) -> Result<Vec<IoQueue<R, M>>, StartError> {
        let looks = self.looks;
        self.asking(clock).disable(looks).await?;
        self.admin = Pair::new(ADMIN, 0, self.stride);
        clear_completions(&self.memory, ADMIN);
        for memory in &self.queues {
            clear_completions(&**memory, RINGS);
        }
        let wanted = self.queues.len() as u32;
        let mut asking = self.asking(clock);
        asking.enable(looks).await?;
        if asking.ask_queues(wanted).await? < wanted {
            return Err(StartError::Silent);
        }
        self.create_queues(clock).await
    }

    fn asking<'a, C: Clock>(&'a mut self, clock: &'a C) -> Starting<'a, R, M, C> {
        Starting {
            registers: &self.registers,
            memory: &self.memory,
            clock,
            admin: &mut self.admin,
        }
    }

    async fn create_queues(
        &mut self,
        clock: &impl Clock,
    ) -> Result<Vec<IoQueue<R, M>>, StartError> {
        let mut queues = Vec::new();
        for (number, memory) in (1_u16..).zip(self.queues.clone()) {
            let address = memory.bus_address();
            self.asking(clock).make_queue(number, address).await?;
            let pair = Pair::new(RINGS, u32::from(number), self.stride);
            queues.push(IoQueue::new(Arc::clone(&self.registers), memory, pair));
        }
        Ok(queues)
    }
}

/// Makes a ring of completions look as nothing ever completed.
fn clear_completions(memory: &impl SharedMemory, place: Place) {
    for at in (0..PAGE).step_by(4) {
        memory.write32(place.completions + at, 0);
    }
}

impl<R: Registers, M: SharedMemory, C: Clock> Starting<'_, R, M, C> {
    async fn pause(&self) {
        let now = self.clock.now();
        self.clock
            .sleep_until(now.saturating_add(PAUSE_NANOS))
            .await;
    }

    /// Switches the controller off: it forgets its queues and all commands.
    async fn disable(&mut self, looks: u32) -> Result<(), StartError> {
        self.registers.write32(CONFIGURATION, 0);
        self.wait_ready(0, looks).await
    }

    /// Switches the controller on with our admin queues.
    async fn enable(&mut self, looks: u32) -> Result<(), StartError> {
        let size = u32::from(ENTRIES) - 1;
        self.registers.write32(ADMIN_SIZES, size | size << 16);
        let base = self.memory.bus_address();
        for (register, offset) in [
            (ADMIN_SUBMISSIONS, ADMIN.submissions),
            (ADMIN_COMPLETIONS, ADMIN.completions),
        ] {
            let address = base + offset as u64;
            self.registers.write32(register, address as u32);
            self.registers.write32(register + 4, (address >> 32) as u32);
        }
        self.registers.write32(CONFIGURATION, ENABLE | ENTRY_SIZES);
        self.wait_ready(READY, looks).await
    }

    async fn wait_ready(&self, wanted: u32, looks: u32) -> Result<(), StartError> {
        for _ in 0..looks {
            let status = self.registers.read32(STATUS);
            if status == u32::MAX {
                return Err(StartError::Silent);
            }
            if status & READY == wanted {
                return Ok(());
            }
            if status & FATAL != 0 && wanted == READY {
                return Err(StartError::Fatal);
            }
            self.pause().await;
        }
        Err(StartError::Silent)
    }

    /// Runs a command; returns its value.
    async fn command(&mut self, command: &Command) -> Result<u32, StartError> {
        self.admin.push(self.registers, self.memory, command);
        for _ in 0..COMMAND_LOOKS {
            if let Some(done) = self.admin.pop(self.registers, self.memory) {
                return if done.status.is_success() {
                    Ok(done.value)
                } else {
                    Err(StartError::Refused {
                        opcode: command.0[0] as u8,
                        status: done.status.0,
                    })
                };
            }
            self.pause().await;
        }
        Err(StartError::Silent)
    }

    async fn identify(&mut self) -> Result<Identity, StartError> {
        let controller = self.identify_page(0, 1).await?;
        let controller = ControllerData::parse(&controller);
        let namespace = self.identify_page(1, 0).await?;
        controller
            .with_namespace(&namespace)
            .filter(|identity| identity.blocks != 0)
            .ok_or(StartError::Namespace)
    }

    async fn identify_page(
        &mut self,
        namespace: u32,
        what: u32,
    ) -> Result<Box<[u8; PAGE]>, StartError> {
        let mut command = Command::plain(opcode::IDENTIFY, 0, namespace, [what, 0, 0]);
        command.set_pages(self.memory.bus_address() + IDENTIFY as u64, 0);
        self.command(&command).await?;
        let mut page = Box::new([0; PAGE]);
        for (offset, chunk) in (IDENTIFY..).step_by(4).zip(page.chunks_exact_mut(4)) {
            chunk.copy_from_slice(&self.memory.read32(offset).to_le_bytes());
        }
        Ok(page)
    }

    /// Asks for `wanted` pairs of queues (1.4, 5.21.1.7); returns how many of them there are, at least one.
    async fn ask_queues(&mut self, wanted: u32) -> Result<u32, StartError> {
        const NUMBER_OF_QUEUES: u32 = 7;
        // Counted from zero, for both kinds.
        let count = wanted.clamp(1, 1 << 15) - 1;
        let words = [NUMBER_OF_QUEUES, count | count << 16, 0];
        let command = Command::plain(opcode::SET_FEATURES, 0, 0, words);
        let granted = self.command(&command).await?;
        Ok(wanted.min((granted & 0xffff) + 1).min((granted >> 16) + 1))
    }

    /// Makes a pair of I/O queues in the memory at `base`, with interrupts by the message before its number.
    async fn make_queue(&mut self, number: u16, base: u64) -> Result<(), StartError> {
        const CONTIGUOUS: u32 = 1;
        const INTERRUPTS: u32 = 2;
        let number = u32::from(number);
        let size = number | (u32::from(ENTRIES) - 1) << 16;
        let words = [size, CONTIGUOUS | INTERRUPTS | (number - 1) << 16, 0];
        let mut completions = Command::plain(opcode::CREATE_COMPLETION_QUEUE, 1, 0, words);
        completions.set_pages(base + RINGS.completions as u64, 0);
        self.command(&completions).await?;
        let words = [size, CONTIGUOUS | number << 16, 0];
        let mut submissions = Command::plain(opcode::CREATE_SUBMISSION_QUEUE, 2, 0, words);
        submissions.set_pages(base + RINGS.submissions as u64, 0);
        self.command(&submissions).await.map(drop)
    }
}
