//! Bringing a controller and its ports up (10.1.2), and a port once more that has stopped answering (10.4.2). All of it
//! polls with pauses; interrupts serve requests only.

use super::port::{
    self, COMMANDS, Port, RECEIVED, first_table, read, write, write_command, write_pages,
};
use super::{bits, host, register};
use crate::command::Command;
use crate::identity::IDENTITY_BYTES;
use crate::{Identity, StartError};
use alloc::sync::Arc;
use alloc::vec::Vec;
use api::port::{Registers, SharedMemory};
use api::time::Clock;

/// Between two looks, in nanoseconds.
const PAUSE_NANOS: u64 = 1_000_000;
/// Longest waits, in looks: for a reset, for a port to stop, for a link, for a disk that spins up, for an answer.
const RESET_LOOKS: u32 = 1_000;
const STOP_LOOKS: u32 = 500;
const LINK_LOOKS: u32 = 100;
const READY_LOOKS: u32 = 10_000;
const ANSWER_LOOKS: u32 = 10_000;

/// A controller.
#[derive(Debug)]
pub struct Host<R> {
    registers: Arc<R>,
    slots: u16,
}

/// A port with a disk, to be reset.
#[derive(Debug)]
pub struct PortDisk<R, M> {
    registers: Arc<R>,
    memory: Arc<M>,
    number: u32,
    slots: u16,
    identity: Identity,
}

/// Waits until `done`, for at most `looks`.
async fn wait(clock: &impl Clock, looks: u32, done: impl Fn() -> bool) -> Result<(), StartError> {
    for _ in 0..looks {
        if done() {
            return Ok(());
        }
        let later = clock.now().saturating_add(PAUSE_NANOS);
        clock.sleep_until(later).await;
    }
    Err(StartError::Silent)
}

impl<R: Registers> Host<R> {
    /// Resets the controller and switches AHCI on.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(registers: R, clock: &impl Clock) -> Result<Self, StartError> {
        let capabilities = registers.read32(host::CAPABILITIES);
        if capabilities == u32::MAX {
            return Err(StartError::Silent);
        }
        if capabilities & host::HAS_64_BITS == 0 {
            return Err(StartError::Addresses);
        }
        registers.write32(host::CONTROL, host::ENABLE);
        registers.write32(host::CONTROL, host::ENABLE | host::RESET);
        let done = || registers.read32(host::CONTROL) & host::RESET == 0;
        wait(clock, RESET_LOOKS, done).await?;
        registers.write32(host::CONTROL, host::ENABLE | host::INTERRUPT_ENABLE);
        Ok(Self {
            registers: Arc::new(registers),
            slots: (capabilities >> 8 & 0x1f) as u16 + 1,
        })
    }

    /// Returns the numbers of its ports.
    pub fn ports(&self) -> impl Iterator<Item = u32> + use<R> {
        let ports = self.registers.read32(host::PORTS);
        (0..32).filter(move |port| ports >> port & 1 != 0)
    }

    /// Brings port `number` up with `memory` of [`super::PORT_BYTES`]; `None` if there is no disk.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start_port<M: SharedMemory>(
        &self,
        number: u32,
        memory: M,
        clock: &impl Clock,
    ) -> Result<Option<(PortDisk<R, M>, Port<R, M>)>, StartError> {
        let starting = Starting {
            registers: &*self.registers,
            memory: &memory,
            number,
            clock,
        };
        if !starting.bring_up().await? {
            return Ok(None);
        }
        let identity = starting.identify().await?;
        starting.allow_interrupts();
        let disk = PortDisk {
            registers: Arc::clone(&self.registers),
            memory: Arc::new(memory),
            number,
            slots: self.slots,
            identity,
        };
        let port = disk.port();
        Ok(Some((disk, port)))
    }
}

impl<R: Registers, M: SharedMemory> PortDisk<R, M> {
    /// Returns what the disk said of itself.
    #[must_use]
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Resets the port and its link. Nothing that it was sent before takes effect after this, and it uses no memory of that.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn restart(&mut self, clock: &impl Clock) -> Result<Vec<Port<R, M>>, StartError> {
        let starting = Starting {
            registers: &*self.registers,
            memory: &*self.memory,
            number: self.number,
            clock,
        };
        starting.stop().await?;
        starting.reset_link().await;
        if !starting.bring_up().await? {
            return Err(StartError::Silent);
        }
        starting.allow_interrupts();
        Ok(Vec::from([self.port()]))
    }

    /// Stops the port as well as it can be.
    pub fn cut_off(&mut self) {
        write(&*self.registers, self.number, register::INTERRUPT_ENABLE, 0);
        write(&*self.registers, self.number, register::CONTROL, 0);
    }

    fn port(&self) -> Port<R, M> {
        Port::new(
            Arc::clone(&self.registers),
            Arc::clone(&self.memory),
            self.number,
            self.slots,
            self.identity.block_bytes,
        )
    }
}

/// A port on its way up.
struct Starting<'a, R, M, C> {
    registers: &'a R,
    memory: &'a M,
    number: u32,
    clock: &'a C,
}

impl<R: Registers, M: SharedMemory, C: Clock> Starting<'_, R, M, C> {
    fn read(&self, register: u32) -> u32 {
        read(self.registers, self.number, register)
    }

    fn write(&self, register: u32, value: u32) {
        write(self.registers, self.number, register, value);
    }

    /// Stops the port: it reads no commands and writes nothing of what it receives.
    async fn stop(&self) -> Result<(), StartError> {
        let control = self.read(register::CONTROL);
        self.write(register::CONTROL, control & !bits::START);
        let stopped = || self.read(register::CONTROL) & bits::RUNNING == 0;
        wait(self.clock, STOP_LOOKS, stopped).await?;
        let control = self.read(register::CONTROL);
        self.write(register::CONTROL, control & !bits::RECEIVE);
        let stopped = || self.read(register::CONTROL) & bits::RECEIVING == 0;
        wait(self.clock, STOP_LOOKS, stopped).await
    }

    /// Resets the link for a millisecond.
    async fn reset_link(&self) {
        self.write(register::LINK_CONTROL, bits::LINK_RESET);
        let later = self.clock.now().saturating_add(PAUSE_NANOS);
        self.clock.sleep_until(later).await;
        self.write(register::LINK_CONTROL, 0);
    }

    /// Gives the port its memory and starts it; false if no disk is there.
    async fn bring_up(&self) -> Result<bool, StartError> {
        self.stop().await?;
        let base = self.memory.bus_address();
        for (register, offset) in [
            (register::COMMANDS, COMMANDS),
            (register::RECEIVED, RECEIVED),
        ] {
            let address = base + offset as u64;
            self.write(register, address as u32);
            self.write(register + 4, (address >> 32) as u32);
        }
        let on = bits::SPIN_UP | bits::POWER | bits::RECEIVE;
        self.write(register::CONTROL, on);
        let present = || self.read(register::LINK_STATUS) & 0xf == bits::PRESENT;
        if wait(self.clock, LINK_LOOKS, present).await.is_err() {
            return Ok(false);
        }
        self.write(register::LINK_ERRORS, u32::MAX);
        self.write(register::INTERRUPTS, u32::MAX);
        let ready = || self.read(register::TASK_FILE) & (bits::BUSY | bits::DATA) == 0;
        wait(self.clock, READY_LOOKS, ready).await?;
        if self.read(register::SIGNATURE) != bits::DISK {
            return Ok(false);
        }
        self.write(register::CONTROL, on | bits::START);
        Ok(true)
    }

    /// Asks the disk what it is.
    async fn identify(&self) -> Result<Identity, StartError> {
        // The answer goes where a discard's ranges go later: into the last part of slot 0's table.
        let table = first_table();
        let answer = table + port::ANSWER;
        let at = self.memory.bus_address() + answer as u64;
        let entries = write_pages(self.memory, table, &[at], IDENTITY_BYTES);
        write_command(self.memory, 0, &Command::identify(), entries);
        self.write(register::ISSUE, 1);
        let failed = || self.read(register::INTERRUPTS) & bits::ERRORS != 0;
        let ended = || self.read(register::ISSUE) & 1 == 0 || failed();
        wait(self.clock, ANSWER_LOOKS, ended).await?;
        if failed() {
            let task_file = self.read(register::TASK_FILE);
            return Err(StartError::Failed {
                status: task_file as u8,
                error: (task_file >> 8) as u8,
            });
        }
        let mut bytes = [0; IDENTITY_BYTES];
        for (at, chunk) in (answer..).step_by(4).zip(bytes.chunks_exact_mut(4)) {
            chunk.copy_from_slice(&self.memory.read32(at).to_le_bytes());
        }
        Identity::parse(&bytes).ok_or(StartError::Unusable)
    }

    fn allow_interrupts(&self) {
        self.write(register::INTERRUPTS, u32::MAX);
        self.write(register::INTERRUPT_ENABLE, bits::ERRORS | bits::ANSWERS);
    }
}
