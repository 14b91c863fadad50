//! Finding the disk of a channel, and resetting a channel that has stopped answering (ATA8-APT, 9.2). All of it polls with
//! pauses; interrupts serve requests only.

use super::channel::{Channel, give};
use super::{Place, bits, master, register};
use crate::command::Command;
use crate::identity::IDENTITY_BYTES;
use crate::{Identity, StartError};
use alloc::sync::Arc;
use alloc::vec::Vec;
use api::port::{Ports, SharedMemory};
use api::time::Clock;

/// Between two looks, in nanoseconds.
const PAUSE_NANOS: u64 = 1_000_000;
/// Longest waits, in looks: for a disk after its reset, for an answer.
const RESET_LOOKS: u32 = 31_000;
const ANSWER_LOOKS: u32 = 10_000;

/// A channel with a disk, to be reset.
#[derive(Debug)]
pub struct ChannelDisk<P, M> {
    ports: Arc<P>,
    memory: Arc<M>,
    place: Place,
    identity: Identity,
}

impl<P: Ports, M: SharedMemory> ChannelDisk<P, M> {
    /// Looks for a disk as the first device of a channel, which gets `memory` of [`super::CHANNEL_BYTES`]; `None` if there
    /// is none.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(
        ports: P,
        memory: M,
        place: Place,
        clock: &impl Clock,
    ) -> Result<Option<(Self, Channel<P, M>)>, StartError> {
        if u32::try_from(memory.bus_address()).is_err() {
            return Err(StartError::Addresses);
        }
        ports.write8(place.command + register::DEVICE, bits::FIRST_DEVICE);
        if matches!(ports.read8(place.control), bits::NOBODY | 0) {
            return Ok(None);
        }
        let starting = Starting {
            ports: &ports,
            place,
            clock,
        };
        starting.reset().await?;
        if !starting.is_disk() {
            return Ok(None);
        }
        let identity = starting.identify().await?;
        ports.write8(place.control, 0);
        let disk = Self {
            ports: Arc::new(ports),
            memory: Arc::new(memory),
            place,
            identity,
        };
        let channel = disk.channel();
        Ok(Some((disk, channel)))
    }

    /// Returns what the disk said of itself.
    #[must_use]
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Stops the bus master and resets the channel. Nothing that it was sent before takes effect after this, and it uses no
    /// memory of that.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn restart(&mut self, clock: &impl Clock) -> Result<Vec<Channel<P, M>>, StartError> {
        self.cut_off();
        let starting = Starting {
            ports: &*self.ports,
            place: self.place,
            clock,
        };
        starting.reset().await?;
        if !starting.is_disk() {
            return Err(StartError::Silent);
        }
        self.ports.write8(self.place.control, 0);
        Ok(Vec::from([self.channel()]))
    }

    /// Stops the bus master.
    pub fn cut_off(&mut self) {
        self.ports
            .write8(self.place.bus_master + master::COMMAND, 0);
    }

    fn channel(&self) -> Channel<P, M> {
        Channel::new(
            Arc::clone(&self.ports),
            Arc::clone(&self.memory),
            self.place,
            self.identity.block_bytes,
        )
    }
}

/// A channel on its way up.
struct Starting<'a, P, C> {
    ports: &'a P,
    place: Place,
    clock: &'a C,
}

impl<P: Ports, C: Clock> Starting<'_, P, C> {
    async fn pause(&self) {
        let later = self.clock.now().saturating_add(PAUSE_NANOS);
        self.clock.sleep_until(later).await;
    }

    /// Reads the status without ending an interrupt.
    fn status(&self) -> u8 {
        self.ports.read8(self.place.control)
    }

    /// Resets both devices; the channel interrupts no more until it is told to.
    async fn reset(&self) -> Result<(), StartError> {
        self.ports
            .write8(self.place.control, bits::QUIET | bits::RESET);
        self.pause().await;
        self.ports.write8(self.place.control, bits::QUIET);
        // A device has two milliseconds to say that it is busy.
        self.pause().await;
        self.pause().await;
        for _ in 0..RESET_LOOKS {
            if self.status() & bits::BUSY == 0 {
                return Ok(());
            }
            self.pause().await;
        }
        Err(StartError::Silent)
    }

    /// Tells by the signature that a reset leaves whether the first device is a disk (ACS-3, 9.1).
    fn is_disk(&self) -> bool {
        let at = |register| self.place.command + register;
        self.ports.write8(at(register::DEVICE), bits::FIRST_DEVICE);
        let read = |register| self.ports.read8(at(register));
        let signature = [
            read(register::COUNT),
            read(register::LBA_LOW),
            read(register::LBA_MID),
            read(register::LBA_HIGH),
        ];
        signature == [1, 1, 0, 0] && self.status() != 0
    }

    /// Asks the disk what it is, by programmed I/O.
    async fn identify(&self) -> Result<Identity, StartError> {
        if !give(self.ports, &self.place, &Command::identify()) {
            return Err(StartError::Silent);
        }
        for _ in 0..ANSWER_LOOKS {
            self.pause().await;
            let status = self.status();
            if status & bits::BUSY != 0 {
                continue;
            }
            if status & (bits::ERROR | bits::FAULT) != 0 {
                let error = self.ports.read8(self.place.command + register::FEATURES);
                return Err(StartError::Failed { status, error });
            }
            if status & bits::DATA != 0 {
                return self.read_identity();
            }
        }
        Err(StartError::Silent)
    }

    fn read_identity(&self) -> Result<Identity, StartError> {
        let mut bytes = [0; IDENTITY_BYTES];
        for pair in bytes.chunks_exact_mut(2) {
            let word = self.ports.read16(self.place.command + register::DATA);
            pair.copy_from_slice(&word.to_le_bytes());
        }
        // Ends what the device would interrupt for.
        self.ports.read8(self.place.command + register::STATUS);
        Identity::parse(&bytes).ok_or(StartError::Unusable)
    }
}
