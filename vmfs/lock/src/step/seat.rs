//! Seats: which host may write the ballots of which slot. Only Disk Paxos needs them.
//!
//! A host that joins has no ballots yet by which it could agree with others who joins as what; so this rests on time.
//! It writes its nonce into the seat, waits until nobody who saw the seat empty can still write into it, and looks
//! whether its nonce is still there. The seat is its own then, for as long as the lease lasts or the slot is its own.

use api::block::BlockDevice;
use api::time::{Clock, HostInstant};
use checksum::crc32c;

use super::{Fence, Step};
use crate::area::{Cell, Terms};
use crate::error::LockError;
use crate::image::Token;

/// "BsSe", least significant byte first.
const MAGIC: [u8; 4] = *b"BsSe";
/// Bytes of a seat: magic, version, zero, nonce, checksum of all before.
const SEAT_LEN: usize = 20;
/// The only version so far, and two zero bytes.
const VERSION: [u8; 4] = [1, 0, 0, 0];

/// Returns the head of a seat's block: offset 0 "BsSe", 4 version 1 (16 bits), 6 zero (16 bits), 8 nonce, 16 CRC32C
/// of all bytes before. A block of zeros is an empty seat.
pub(super) fn encode(nonce: u64) -> [u8; SEAT_LEN] {
    let mut bytes = [0; SEAT_LEN];
    let (body, checksum) = bytes.split_at_mut(SEAT_LEN - 4);
    let (head, place) = body.split_at_mut(8);
    let (magic, version) = head.split_at_mut(4);
    magic.copy_from_slice(&MAGIC);
    version.copy_from_slice(&VERSION);
    place.copy_from_slice(&nonce.to_le_bytes());
    checksum.copy_from_slice(&crc32c(body).to_le_bytes());
    bytes
}

/// Who is in a seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seat {
    /// Nobody, and nobody is about to be.
    Empty,
    /// Somebody with this nonce, or who had it.
    Taken(Token),
}

impl Seat {
    /// Reads a seat; a damaged one is told from others by its checksum only.
    fn decode(block: &[u8]) -> Self {
        let bytes = block.get(..SEAT_LEN).unwrap_or_default();
        if bytes.iter().all(|&byte| byte == 0) {
            return Self::Empty;
        }
        let (head, nonce) = bytes.split_at_checked(8).unwrap_or_default();
        let (nonce, _) = nonce.split_at_checked(8).unwrap_or_default();
        let nonce = u64::from_le_bytes(nonce.try_into().unwrap_or_default());
        let valid = bytes == encode(nonce) && !head.is_empty();
        Self::Taken(Token {
            nonce,
            sequence: if valid { 0 } else { u64::from(crc32c(bytes)) },
        })
    }
}

impl<D: BlockDevice, C: Clock> Step<D, C> {
    /// Tells who is in the seat of the slot at `cell`; nobody where seats are not needed.
    pub(crate) async fn seat(&self, cell: Cell) -> Result<Seat, LockError> {
        match self {
            Self::Paxos(step) => {
                let block = step.fenced().read(step.seat_lba(cell), 1).await?;
                Ok(Seat::decode(&block))
            }
            Self::CompareAndWrite(_) | Self::Local(_) => Ok(Seat::Empty),
        }
    }

    /// Takes seat `number`, of the slot at `cell`, which was found free for the taking at `seen`. Returns whether this
    /// host has it now; it may then make steps until the lease ends.
    pub(crate) async fn take_seat(
        &self,
        (number, cell): (u16, Cell),
        nonce: u64,
        seen: HostInstant,
        terms: &Terms,
    ) -> Result<bool, LockError> {
        let Self::Paxos(step) = self else {
            return Ok(true);
        };
        let fenced = step.fenced();
        let sent = fenced.now();
        if sent.saturating_since(seen) > terms.margin_nanos() {
            return Ok(false);
        }
        // Once: a second try could be as late as the first one may land.
        let lba = step.seat_lba(cell);
        fenced.put_once(lba, &encode(nonce)).await?;
        // Whoever else saw the seat free writes within the margin, and that lands within the reclaim window.
        let others = terms.reclaim_nanos().saturating_add(terms.margin_nanos());
        fenced
            .sleep(others.saturating_add(terms.margin_nanos()))
            .await;
        let mine = Seat::Taken(Token { nonce, sequence: 0 });
        if self.seat(cell).await? != mine {
            return Ok(false);
        }
        step.sit(number);
        fenced
            .lease
            .extend(sent.saturating_add(terms.working_nanos()));
        Ok(true)
    }

    /// Empties this host's seat, when it has given back its slot and will make no step any more.
    pub(crate) async fn leave_seat(&self, cell: Cell) -> Result<(), LockError> {
        if let Self::Paxos(step) = self {
            step.fenced().wait_all_late().await;
            let lba = step.seat_lba(cell);
            step.fenced().put(lba, &[], Fence::Lease).await?;
        }
        Ok(())
    }
}
