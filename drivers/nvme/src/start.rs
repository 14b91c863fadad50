//! Bringing a controller up (NVM Express 1.4, 7.6.1): reset, admin queues, identification, one pair of I/O queues. All of
//! it polls with pauses; interrupts serve I/O only.

use crate::command::{Command, opcode};
use crate::identity::{ControllerData, Identity};
use crate::queue::{ENTRIES, Pair};
use crate::{ADMIN, Controller, IDENTIFY, IO, PAGE};
use alloc::boxed::Box;
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

/// A controller on its way up.
struct Starting<'a, R, M, C> {
    registers: &'a R,
    memory: &'a M,
    clock: &'a C,
    admin: Pair,
}

impl<R: Registers, M: SharedMemory> Controller<R, M> {
    /// Brings the controller up with `memory` of [`crate::SHARED_BYTES`]. Its first interrupt message is that of the I/O
    /// queue.
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
        let mut starting = Starting {
            registers: &registers,
            memory: &memory,
            clock,
            admin: Pair::new(ADMIN, 0, stride),
        };
        starting.enable(looks).await?;
        let identity = starting.identify().await?;
        starting.make_queues().await?;
        Ok(Self {
            registers,
            memory,
            io: Pair::new(IO, 1, stride),
            taken: 0,
            sent: 0,
            identity,
        })
    }
}

impl<R: Registers, M: SharedMemory, C: Clock> Starting<'_, R, M, C> {
    async fn pause(&self) {
        let now = self.clock.now();
        self.clock
            .sleep_until(now.saturating_add(PAUSE_NANOS))
            .await;
    }

    /// Switches the controller off and on again, with our admin queues.
    async fn enable(&mut self, looks: u32) -> Result<(), StartError> {
        self.registers.write32(CONFIGURATION, 0);
        self.wait_ready(0, looks).await?;
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

    async fn command(&mut self, command: &Command) -> Result<(), StartError> {
        self.admin.push(self.registers, self.memory, command);
        for _ in 0..COMMAND_LOOKS {
            if let Some(done) = self.admin.pop(self.registers, self.memory) {
                return if done.status.is_success() {
                    Ok(())
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

    /// Makes the pair of I/O queues, number 1, with interrupts by message 0.
    async fn make_queues(&mut self) -> Result<(), StartError> {
        const CONTIGUOUS: u32 = 1;
        const INTERRUPTS: u32 = 2;
        const NUMBER: u32 = 1;
        let base = self.memory.bus_address();
        let size = NUMBER | (u32::from(ENTRIES) - 1) << 16;
        let words = [size, CONTIGUOUS | INTERRUPTS, 0];
        let mut completions = Command::plain(opcode::CREATE_COMPLETION_QUEUE, 1, 0, words);
        completions.set_pages(base + IO.completions as u64, 0);
        self.command(&completions).await?;
        let words = [size, CONTIGUOUS | NUMBER << 16, 0];
        let mut submissions = Command::plain(opcode::CREATE_SUBMISSION_QUEUE, 2, 0, words);
        submissions.set_pages(base + IO.submissions as u64, 0);
        self.command(&submissions).await
    }
}
