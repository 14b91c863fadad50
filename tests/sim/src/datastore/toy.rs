//! The toy: hosts that count in blocks under locks, with a journal of one entry, by the real code of vmfs/lock.
//!
//! A count stands in two blocks, so that a host which dies between them leaves half a change, and whoever takes over
//! must replay its journal. Volume, files and directories are not here.

use std::rc::Rc;

use api::block::{BlockDevice, BlockError, Buffer, Durability};
use lock::{Area, Attempt, Cell, Claim, Gate, Host, Journal, Life, LockError, Locks, Mode};
use zerocopy::IntoBytes;

use super::broken::Rule;
use super::disk::HostDisk;
use super::judge::{Judge, Payload, name};
use super::world::{HostClock, MS, SECOND, abandon_after, race};

/// The service as the toy uses it.
type ToyLocks = Locks<HostDisk, HostClock>;

/// Where things lie on the toy's disk.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Slots.
    pub area: Area,
    /// Locks.
    pub locks: usize,
    /// First block of lock 0's cell.
    pub locks_lba: u64,
    /// First block of slot 0's journal; a block each.
    pub journals_lba: u64,
    /// First block of lock 0's payload; two blocks each.
    pub payload_lba: u64,
    /// Blocks in all.
    pub blocks: u64,
    /// Bytes of a block.
    pub block_len: usize,
}

impl Layout {
    /// Lays out `locks` locks on a disk with blocks of `block_len` bytes.
    #[must_use]
    pub fn new(area: Area, locks: usize, block_len: usize) -> Self {
        let locks_lba = area.slot_cell(area.slots).0;
        let journals_lba = locks_lba + locks as u64 * u64::from(area.cell_blocks());
        let payload_lba = journals_lba + u64::from(area.slots);
        Self {
            area,
            locks,
            locks_lba,
            journals_lba,
            payload_lba,
            blocks: payload_lba + 2 * locks as u64,
            block_len,
        }
    }

    fn cell(&self, lock: usize) -> Cell {
        Cell(self.locks_lba + lock as u64 * u64::from(self.area.cell_blocks()))
    }

    fn journal(&self, slot: u16) -> Journal {
        Journal {
            lba: self.journals_lba + u64::from(slot),
            blocks: 1,
        }
    }
}

/// A host of the toy.
#[derive(Clone, Debug)]
pub struct ToyHost {
    /// The disk it shares, and who it is.
    pub device: HostDisk,
    /// Who watches it.
    pub judge: Rc<Judge>,
    /// Where things lie, as this host believes.
    pub layout: Layout,
    /// The rule that it breaks.
    pub rule: Option<Rule>,
    /// When it stops working and leaves, in true time.
    pub end: u64,
}

/// A life among the others, from joining to losing the slot.
struct Membership<'a> {
    host: &'a ToyHost,
    clock: HostClock,
    locks: Rc<ToyLocks>,
    gate: Gate<HostDisk, HostClock>,
}

/// How a step of work ended that the host cannot go on from.
type Work<T> = Result<T, LockError>;

impl ToyHost {
    /// Lives until the end: joins, works, and joins again when its lease was lost.
    pub async fn live(self) {
        let clock = self.device.clock();
        while self.device.world().now() < self.end {
            match self.join().await {
                Ok(locks) => self.serve(Rc::new(locks)).await,
                Err(error) => {
                    self.device.note(|| format!("cannot join: {error}"));
                    clock
                        .sleep(self.device.world().between(MS, 4 * SECOND))
                        .await;
                }
            }
        }
    }

    /// Joins when everybody else has stopped, recovers whoever is dead, and looks at everything that is left.
    ///
    /// # Errors
    ///
    /// Returns the error that made this impossible.
    pub async fn inspect(&self) -> Result<(), LockError> {
        let locks = Rc::new(self.join().await?);
        let member = self.member(&locks);
        let alive = async {
            let error = locks.keep_alive().await;
            Err(error)
        };
        race(alive, member.inspect()).await
    }

    /// Shows the judge who has joined.
    fn member(&self, locks: &Rc<ToyLocks>) -> Membership<'_> {
        let (lease, clock) = (Rc::clone(locks), self.device.clock());
        let open = move || lease.lease().is_open(api::time::Clock::now(&clock));
        self.judge.joined(self.device.host, Box::new(open));
        Membership {
            host: self,
            clock: self.device.clock(),
            gate: locks.gate(),
            locks: Rc::clone(locks),
        }
    }

    async fn join(&self) -> Result<ToyLocks, LockError> {
        let host = Host {
            uuid: [self.device.host as u8; 16],
            name: "toy",
            nonce: self.device.world().bits(),
        };
        let journal = |slot| self.layout.journal(slot);
        Locks::join(
            self.device.clone(),
            self.device.clock(),
            self.layout.area,
            host,
            journal,
        )
        .await
    }

    async fn serve(&self, locks: Rc<ToyLocks>) {
        self.device
            .note(|| format!("has joined as {}", name(locks.me())));
        let member = self.member(&locks);
        let error = race(async { Some(locks.keep_alive().await) }, async {
            member.work().await.err()
        })
        .await;
        self.judge.forgot(self.device.host);
        drop(member);
        match (error, Rc::try_unwrap(locks)) {
            (None, Ok(locks)) => {
                let left = locks.leave().await;
                self.device.note(|| format!("leaves: {left:?}"));
            }
            (error, _) => self.device.note(|| format!("is out: {error:?}")),
        }
    }
}

impl Membership<'_> {
    async fn work(&self) -> Work<()> {
        self.settle_in().await?;
        let world = self.host.device.world();
        while world.now() < self.host.end {
            let lock = world.below(self.host.layout.locks as u64) as usize;
            match world.below(10) {
                0 => self.read(lock).await?,
                1 => self.recover().await?,
                2 => self.abandon(lock).await?,
                3 => self.clock.sleep(world.between(MS, 2 * SECOND)).await,
                _ => self.count(lock).await?,
            }
            if world.chance(700) {
                self.clock.sleep(world.between(MS, 700 * MS)).await;
            }
        }
        Ok(())
    }

    /// Deals with the journal that came with the slot, if the slot was a dead host's.
    async fn settle_in(&self) -> Work<()> {
        while let Some(claim) = self.locks.inherited() {
            let member = name(claim.member());
            self.host.device.note(|| format!("has inherited {member}"));
            self.finish(claim).await?;
        }
        Ok(())
    }

    /// Judges an error: one that only this step suffers from, or one that ends the membership.
    fn bear<T>(&self, result: Result<T, LockError>) -> Work<Option<T>> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error) => {
                self.host.device.note(|| format!("bears: {error}"));
                match error {
                    LockError::Lost | LockError::Device(BlockError::Fenced) => Err(error),
                    _ => Ok(None),
                }
            }
        }
    }

    async fn acquire(&self, lock: usize, mode: Mode) -> Work<bool> {
        let cell = self.host.layout.cell(lock);
        self.host.judge.let_go(self.host.device.host, lock);
        let attempt = self.locks.try_acquire(cell, mode).await;
        let Some(attempt) = self.bear(attempt)? else {
            return Ok(false);
        };
        match attempt {
            Attempt::Acquired(_) => {
                self.host
                    .device
                    .note(|| format!("has lock {lock} {mode:?}"));
                let me = self.locks.me();
                self.host
                    .judge
                    .acquired(self.host.device.host, me, lock, mode);
                Ok(true)
            }
            Attempt::Busy(holder) => {
                // A refused conversion leaves the lock as it was.
                if let Some(mode) = self.locks.holds(cell) {
                    let me = self.locks.me();
                    self.host
                        .judge
                        .acquired(self.host.device.host, me, lock, mode);
                }
                if holder.life == Life::Dead {
                    self.recover_one(holder.member.slot).await?;
                }
                Ok(false)
            }
        }
    }

    async fn release(&self, lock: usize) -> Work<()> {
        self.host.judge.let_go(self.host.device.host, lock);
        let released = self.locks.release(self.host.layout.cell(lock)).await;
        let ok = released.is_ok();
        self.host
            .device
            .note(|| format!("gives lock {lock} back: {ok}"));
        self.bear(released)?;
        Ok(())
    }

    /// Gets a lock to read, reads, and gives it back.
    async fn read(&self, lock: usize) -> Work<()> {
        if !self.acquire(lock, Mode::Shared).await? {
            return Ok(());
        }
        let counts = self.counts(lock).await?;
        if let Some(counts) = counts {
            self.host.judge.reads(self.host.device.host, lock, counts);
        }
        if self.host.device.world().chance(500) && self.acquire(lock, Mode::Exclusive).await? {
            self.count_held(lock).await?;
        }
        self.release(lock).await
    }

    /// Begins to get a lock and loses interest in the middle.
    async fn abandon(&self, lock: usize) -> Work<()> {
        let cell = self.host.layout.cell(lock);
        self.host.judge.let_go(self.host.device.host, lock);
        let polls = self.host.device.world().between(1, 8);
        self.host
            .device
            .note(|| format!("begins to get lock {lock} for {polls} polls"));
        if self.host.device.world().chance(500) {
            let _ = abandon_after(polls, self.locks.try_acquire(cell, Mode::Exclusive)).await;
        } else {
            let _ = abandon_after(polls, self.locks.release(cell)).await;
        }
        Ok(())
    }

    /// Gets a lock to write, counts, and mostly gives it back.
    async fn count(&self, lock: usize) -> Work<()> {
        if !self.acquire(lock, Mode::Exclusive).await? {
            return Ok(());
        }
        self.count_held(lock).await?;
        if self.host.device.world().chance(700) {
            self.release(lock).await?;
        }
        Ok(())
    }

    async fn count_held(&self, lock: usize) -> Work<()> {
        let Some(counts) = self.counts(lock).await? else {
            return Ok(());
        };
        self.host.judge.reads(self.host.device.host, lock, counts);
        let [mut count, _] = counts;
        for _ in 0..self.host.device.world().between(1, 3) {
            count += 1;
            self.host.judge.begins(lock, count);
            self.change(lock, count).await?;
            self.host.judge.acknowledges(lock, count);
            if self.host.device.world().chance(200) {
                let nap = self.host.device.world().between(MS, 3 * SECOND);
                self.clock.sleep(nap).await;
            }
        }
        Ok(())
    }

    /// Writes a count: into the journal, to both places, and out of the journal.
    async fn change(&self, lock: usize, count: u64) -> Work<()> {
        let payload = Payload::new(lock, self.locks.me(), count);
        let journal = self.locks.journal().lba;
        self.put(journal, payload).await?;
        self.put_both(payload).await?;
        if self.host.rule != Some(Rule::JournalKeepsEntries) {
            let none = Payload {
                valid: 0.into(),
                ..payload
            };
            self.put(journal, none).await?;
        }
        Ok(())
    }

    async fn put_both(&self, payload: Payload) -> Work<()> {
        let lba = self.host.layout.payload_lba + 2 * u64::from(payload.lock.get());
        self.put(lba, payload).await?;
        self.put(lba + 1, payload).await
    }

    /// Writes a block until it is written. A block that may still be written late by an earlier try gets the same
    /// bytes again, and no other ones before that can have happened.
    async fn put(&self, lba: u64, payload: Payload) -> Work<()> {
        let mut late = false;
        loop {
            let mut buffer = Buffer::zeroed(self.host.layout.block_len);
            buffer[..size_of::<Payload>()].copy_from_slice(payload.as_bytes());
            let (_, result) = match self.host.rule {
                Some(Rule::NoGate) => {
                    let device = self.host.device.clone();
                    device.write(lba, buffer, Durability::Fua).await
                }
                _ => self.gate.write(lba, buffer, Durability::Fua).await,
            };
            match result {
                Ok(()) if !late => return Ok(()),
                Ok(()) => {
                    self.gate.drain().await;
                    return Ok(());
                }
                Err(BlockError::TimedOut) => late = true,
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn get(&self, lba: u64) -> Work<Option<Payload>> {
        let buffer = Buffer::zeroed(self.host.layout.block_len);
        let (buffer, result) = self.gate.read(lba, buffer).await;
        let read = self.bear(result.map_err(LockError::from))?;
        Ok(read.map(|()| Payload::read(&buffer)))
    }

    async fn counts(&self, lock: usize) -> Work<Option<[u64; 2]>> {
        let lba = self.host.layout.payload_lba + 2 * lock as u64;
        let Some(first) = self.get(lba).await? else {
            return Ok(None);
        };
        let Some(second) = self.get(lba + 1).await? else {
            return Ok(None);
        };
        // What was read counts only if the right to read it lasted until then.
        let now = api::time::Clock::now(&self.clock);
        let open = self.locks.lease().is_open(now);
        Ok(open.then_some([first.count.get(), second.count.get()]))
    }

    async fn inspect(&self) -> Work<()> {
        self.settle_in().await?;
        loop {
            self.recover().await?;
            let others = self.locks.survey().await?;
            let over = |life| matches!(life, Life::Free | Life::Me);
            if others.iter().all(|other| over(other.life)) {
                break;
            }
            self.clock.sleep(SECOND).await;
        }
        for lock in 0..self.host.layout.locks {
            if !self.acquire(lock, Mode::Exclusive).await? {
                let world = self.host.device.world();
                world.condemn(|| format!("nobody lives, and lock {lock} is not free"));
            }
            if let Some(counts) = self.counts(lock).await? {
                self.host.judge.reads(self.host.device.host, lock, counts);
            }
        }
        Ok(())
    }

    /// Recovers all hosts that are dead.
    async fn recover(&self) -> Work<()> {
        let survey = self.locks.survey().await;
        for neighbour in self.bear(survey)?.unwrap_or_default() {
            if neighbour.life == Life::Dead {
                self.recover_one(neighbour.slot.number).await?;
            }
        }
        Ok(())
    }

    async fn recover_one(&self, slot: u16) -> Work<()> {
        let claim = self.locks.claim(slot).await;
        let Some(claim) = self.bear(claim)? else {
            return Ok(());
        };
        self.host
            .device
            .note(|| format!("has claimed {}", name(claim.member())));
        self.finish(claim).await
    }

    /// Replays the journal of a dead host and frees its slot.
    async fn finish(&self, claim: Claim) -> Work<()> {
        let replayed = match self.host.rule {
            Some(Rule::NoReplay) => true,
            _ => self.replay(&claim).await?,
        };
        if !replayed {
            return Ok(());
        }
        let member = claim.member();
        let cleared = self.locks.clear(claim).await;
        let ok = cleared.is_ok();
        self.host
            .device
            .note(|| format!("has cleared {}: {ok}", name(member)));
        self.bear(cleared)?;
        Ok(())
    }

    /// Does what the dead host's journal says.
    async fn replay(&self, claim: &Claim) -> Work<bool> {
        let journal = claim.journal().lba;
        let Some(entry) = self.get(journal).await? else {
            return Ok(false);
        };
        // An entry of an owner of the slot before this one has been replayed, or was never in force.
        if entry.valid.get() == 1 && entry.member() == claim.member() {
            self.host.device.note(|| {
                let (lock, count) = (entry.lock.get(), entry.count.get());
                format!("replays count {count} under lock {lock}")
            });
            self.put_both(entry).await?;
        }
        Ok(true)
    }
}
