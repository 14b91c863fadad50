//! The disk that the hosts share, and the fabric between: delays, lost replies, late and repeated writes, torn ones, cut
//! paths, and a cache that loses what was not flushed.
//!
//! What may go wrong and how often is the weather's; what must not is the judge's. The one thing that this disk
//! promises: a write takes effect within [`Fabric::in_flight`] after it was sent, or never; and a write that was
//! acknowledged is not done again. (A compare-and-write may come again at any time.)

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::future::poll_fn;
use std::hash::{BuildHasherDefault, Hasher};
use std::rc::Rc;
use std::task::Poll;

use api::block::{BlockDevice, BlockError, Buffer, Compared, Completion, Durability, Geometry};

use super::broken::{self, Rule};
use super::describe::describe;
use super::medium::Medium;
use super::world::{Event, HostClock, MS, SECOND, TaskId, World};

/// How the fabric misbehaves. Chances are per thousand requests.
#[derive(Clone, Copy, Debug)]
pub struct Fabric {
    /// A write takes effect within so long after it was sent, or never.
    pub in_flight: u64,
    /// When a request counts as not answered.
    pub timeout: u64,
    /// The usual time until a request takes effect is up to this.
    pub latency: u64,
    /// Done, and not answered.
    pub lost_replies: u64,
    /// Neither done nor answered.
    pub lost_requests: u64,
    /// Not answered, and done between the time-out and the end of `in_flight`.
    pub late: u64,
    /// A compare-and-write comes again some time later.
    pub repeated: u64,
    /// A write of several blocks takes effect piece by piece.
    pub torn: u64,
    /// A rule that the disk breaks.
    pub rule: Option<Rule>,
}

/// What a request asks for.
#[derive(Clone, Debug)]
enum Ask {
    Read { blocks: u64 },
    Write { data: Rc<[u8]>, cached: bool },
    Flush,
    Zero { blocks: u64 },
    Compare { expected: Rc<[u8]>, new: Rc<[u8]> },
}

impl Ask {
    const fn name(&self) -> &'static str {
        match self {
            Self::Read { .. } => "read",
            Self::Write { .. } => "write",
            Self::Flush => "flush",
            Self::Zero { .. } => "zero",
            Self::Compare { .. } => "compare-and-write",
        }
    }
}

#[derive(Debug)]
enum Answer {
    Data(Vec<u8>),
    Done,
    Differed,
    Failed(BlockError),
}

#[derive(Debug)]
struct Request {
    host: usize,
    life: u32,
    lba: u64,
    ask: Ask,
    task: TaskId,
    answer: Option<Answer>,
    /// What the landing found; the answer when it is not lost.
    outcome: Option<Answer>,
    /// Nobody waits for the answer any more.
    abandoned: bool,
    /// The answer has been scheduled and did come.
    replied: bool,
    /// Landings that are still to come.
    landings: u8,
    /// How many of its blocks have landed.
    landed: u64,
    /// It is not lost: the answer tells the outcome.
    answered: bool,
}

/// Looks at every write that takes effect.
pub trait Witness {
    /// Block `lba` becomes `data` by a request of `host` in its life number `life`.
    fn lands(&self, host: usize, life: u32, lba: u64, data: &[u8]);
}

type Blocks = HashMap<u64, Rc<[u8]>, BuildHasherDefault<Spread>>;

/// A hash of block numbers; nobody chooses them to collide.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        let mixed = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 29);
    }
}

/// A host's path to the disk.
#[derive(Clone, Copy, Debug)]
struct Path {
    /// Which life the host is in; requests of earlier ones are nobody's.
    life: u32,
    cut_until: u64,
}

/// The disk.
pub struct Disk {
    world: Rc<World>,
    geometry: Geometry,
    fabric: Cell<Fabric>,
    blocks: RefCell<Blocks>,
    /// Blocks whose last writes would not outlive a loss of power: what would be there instead, oldest first.
    volatile: RefCell<BTreeMap<u64, Vec<Rc<[u8]>>>>,
    /// Requests of which something is still to come, by number.
    requests: RefCell<BTreeMap<usize, Request>>,
    paths: RefCell<Vec<Path>>,
    witness: RefCell<Option<Rc<dyn Witness>>>,
    /// Where the medium fails.
    medium: Medium,
    served: Cell<u64>,
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Disk({} requests)", self.served.get())
    }
}

impl Disk {
    /// Makes a disk of zeros.
    #[must_use]
    pub fn new(world: Rc<World>, geometry: Geometry, fabric: Fabric, medium: Medium) -> Self {
        Self {
            world,
            geometry,
            fabric: Cell::new(fabric),
            blocks: RefCell::default(),
            volatile: RefCell::default(),
            requests: RefCell::default(),
            paths: RefCell::default(),
            witness: RefCell::default(),
            medium,
            served: Cell::new(0),
        }
    }

    /// Lets `witness` see every write that takes effect.
    pub fn set_witness(&self, witness: Rc<dyn Witness>) {
        *self.witness.borrow_mut() = Some(witness);
    }

    /// Adds a path for the next host.
    pub fn add_path(&self) {
        self.paths.borrow_mut().push(Path {
            life: 0,
            cut_until: 0,
        });
    }

    /// Changes how the fabric misbehaves.
    pub fn set_fabric(&self, fabric: Fabric) {
        self.fabric.set(fabric);
    }

    /// Returns how the fabric misbehaves.
    pub fn fabric(&self) -> Fabric {
        self.fabric.get()
    }

    /// Returns how many requests were sent.
    pub fn served(&self) -> u64 {
        self.served.get()
    }

    /// Cuts a host from the disk for `nanos`.
    pub fn cut(&self, host: usize, nanos: u64) {
        let until = self.world.now() + nanos;
        self.paths.borrow_mut()[host].cut_until = until;
    }

    /// A host has died: what it sent and has not landed lands or does not, whole or in part. Its next life begins.
    pub fn host_died(&self, host: usize) {
        self.paths.borrow_mut()[host].life += 1;
        for request in self.requests.borrow_mut().values_mut() {
            if request.host == host {
                request.abandoned = true;
                if request.landings > 0 && self.world.chance(500) {
                    request.landings = 0;
                }
            }
        }
    }

    /// Tells whether a write of a host whose end it did not see may still land. (A compare-and-write that comes again
    /// harms nobody, and counts only until it landed once.)
    fn is_late(&self, host: usize, life: u32) -> bool {
        let requests = self.requests.borrow();
        let mut left = requests.values();
        left.any(|request| {
            let unseen = request.abandoned && !matches!(request.ask, Ask::Read { .. });
            let again = matches!(request.ask, Ask::Compare { .. }) && request.outcome.is_some();
            request.host == host && request.life == life && request.landings > 0 && unseen && !again
        })
    }

    /// Returns which life a host is in.
    pub fn life(&self, host: usize) -> u32 {
        self.paths.borrow()[host].life
    }

    /// Power fails: writes that were not flushed are lost or not, each by itself. The hosts must have died before.
    pub fn lose_power(&self) {
        for request in self.requests.borrow_mut().values_mut() {
            request.landings = 0;
        }
        for (lba, versions) in std::mem::take(&mut *self.volatile.borrow_mut()) {
            // One of the older contents, or the newest, which is in place.
            let chosen = self.world.below(versions.len() as u64 + 1) as usize;
            if let Some(version) = versions.into_iter().nth(chosen) {
                self.blocks.borrow_mut().insert(lba, version);
            }
        }
    }

    /// Returns where the medium fails.
    pub const fn medium(&self) -> &Medium {
        &self.medium
    }

    /// Flips bits of a block, as time does; the disk does not know, and its cache neither.
    pub fn flip(&self, lba: u64, bits: u64) {
        let mut block = self.peek(lba);
        for _ in 0..bits {
            let bit = self.world.below(8 * block.len() as u64);
            block[(bit / 8) as usize] ^= 1 << (bit % 8);
        }
        self.blocks.borrow_mut().insert(lba, Rc::from(block));
    }

    /// Returns a copy of a block as it is now.
    pub fn peek(&self, lba: u64) -> Vec<u8> {
        match self.blocks.borrow().get(&lba) {
            Some(block) => block.to_vec(),
            None => vec![0; self.geometry.logical_block as usize],
        }
    }

    /// Puts blocks in place, durably, without anybody seeing it.
    pub fn preload(&self, blocks: &[(u64, Rc<[u8]>)]) {
        let blocks = blocks.iter().map(|(lba, block)| (*lba, Rc::clone(block)));
        self.blocks.borrow_mut().extend(blocks);
    }

    /// Handles an event of this disk.
    pub fn happen(&self, event: Event) {
        match event {
            Event::Land(id) => self.land(id),
            Event::Reply(id) => self.reply(id),
            Event::Wake(_) | Event::Strike | Event::Decay => {}
        }
    }

    fn block_len(&self) -> usize {
        self.geometry.logical_block as usize
    }

    fn land(&self, id: usize) {
        let mut requests = self.requests.borrow_mut();
        let Some(request) = requests.get_mut(&id) else {
            return;
        };
        if request.landings == 0 {
            self.retire(&mut requests, id);
            return;
        }
        request.landings -= 1;
        let last = request.landings == 0;
        let (host, life, lba) = (request.host, request.life, request.lba);
        let from = request.landed;
        let ask = request.ask.clone();
        // A write that comes in two landings comes in two pieces; anything else comes twice.
        let whole = last || !matches!(ask, Ask::Write { .. });
        drop(requests);
        let (outcome, landed) = self.perform(host, life, lba, &ask, from, whole);
        let mut requests = self.requests.borrow_mut();
        if let Some(request) = requests.get_mut(&id) {
            request.landed = landed;
            // What comes again later tells nobody anything.
            // A piece that the medium did not take fails the whole.
            let failed = matches!(outcome, Answer::Failed(_));
            if request.outcome.is_none() && (whole || failed) {
                request.outcome = Some(outcome);
            }
        }
        self.retire(&mut requests, id);
    }

    /// Does what is asked; a write from its block `from` on, to the end if `whole`, else a part.
    fn perform(
        &self,
        host: usize,
        life: u32,
        lba: u64,
        ask: &Ask,
        from: u64,
        whole: bool,
    ) -> (Answer, u64) {
        match ask {
            Ask::Read { blocks } => (self.read_now(lba, *blocks), 0),
            Ask::Flush => {
                self.volatile.borrow_mut().clear();
                (Answer::Done, 0)
            }
            Ask::Zero { blocks } => {
                let zeros = vec![0; self.block_len()];
                let mut lbas = lba..lba + blocks;
                let stored = lbas.all(|lba| self.store(host, life, lba, &zeros, true));
                (written(stored, lba), 0)
            }
            Ask::Write { data, cached } => {
                let unit = u64::from(self.geometry.physical_block / self.geometry.logical_block);
                let blocks = (data.len() / self.block_len()) as u64;
                let mut end = blocks;
                if !whole {
                    // Whole physical blocks, counted on the disk.
                    let cut = lba + from + self.world.below(blocks - from + 1);
                    end = (cut / unit.max(1) * unit.max(1)).clamp(lba + from, lba + blocks) - lba;
                }
                // What comes behind a block that fails is left alone.
                let stored = (from..end).all(|index| {
                    let at = index as usize * self.block_len();
                    let block = &data[at..at + self.block_len()];
                    self.store(host, life, lba + index, block, *cached)
                });
                (written(stored, lba), end)
            }
            Ask::Compare { expected, new } => {
                let rule = self.fabric.get().rule;
                if let Some(lba) = self.medium.first_unreadable(lba, 1) {
                    return (Answer::Failed(BlockError::Medium { lba }), 0);
                }
                if broken::same(rule, &self.peek(lba), expected) {
                    let new = broken::stored(rule, new);
                    let stored = self.store(host, life, lba, &new, false);
                    (written(stored, lba), 0)
                } else {
                    (Answer::Differed, 0)
                }
            }
        }
    }

    fn read_now(&self, lba: u64, blocks: u64) -> Answer {
        let len = self.block_len();
        let mut data = vec![0; len * blocks as usize];
        if let Some(lba) = self.medium.first_unreadable(lba, blocks) {
            return Answer::Failed(BlockError::Medium { lba });
        }
        let stored = self.blocks.borrow();
        for (lba, place) in (lba..).zip(data.chunks_mut(len)) {
            if let Some(block) = stored.get(&lba) {
                place.copy_from_slice(block);
            }
        }
        Answer::Data(data)
    }

    /// Stores a block; false if the medium does not take it.
    fn store(&self, host: usize, life: u32, lba: u64, data: &[u8], cached: bool) -> bool {
        if !self.medium.takes(lba, self.world.now()) {
            self.world
                .note(|| format!("disk    block {lba} by host {host} is not taken"));
            return false;
        }
        self.world.note(|| {
            let what = describe(data).unwrap_or_default();
            format!("disk    block {lba} by host {host}: {what}")
        });
        if let Some(witness) = &*self.witness.borrow() {
            witness.lands(host, life, lba, data);
        }
        let old = self.blocks.borrow_mut().insert(lba, Rc::from(data));
        if self.geometry.volatile_cache {
            let mut volatile = self.volatile.borrow_mut();
            if cached {
                let old = old.unwrap_or_else(|| Rc::from(vec![0; data.len()]));
                volatile.entry(lba).or_default().push(old);
            } else {
                volatile.remove(&lba);
            }
        }
        true
    }

    fn reply(&self, id: usize) {
        let mut requests = self.requests.borrow_mut();
        let Some(request) = requests.get_mut(&id) else {
            return;
        };
        request.replied = true;
        if !request.abandoned {
            let lost = Answer::Failed(BlockError::TimedOut);
            request.answer = Some(if request.answered {
                request.outcome.take().unwrap_or(lost)
            } else {
                lost
            });
            self.world.schedule(0, Event::Wake(request.task));
        }
        self.retire(&mut requests, id);
    }

    /// Forgets a request for which nothing more can happen.
    fn retire(&self, requests: &mut BTreeMap<usize, Request>, id: usize) {
        let over = requests
            .get(&id)
            .is_some_and(|request| request.landings == 0 && request.replied && request.abandoned);
        if over {
            requests.remove(&id);
        }
    }

    /// Sends a request and returns its number.
    fn send(&self, host: usize, lba: u64, ask: Ask) -> usize {
        self.served.set(self.served.get() + 1);
        let path = self.paths.borrow()[host];
        let fate = self.fate(&ask, path.cut_until > self.world.now());
        if !fate.answered {
            self.world.note(|| {
                let kind = ask.name();
                let lands = fate.landings[0].is_some();
                format!(
                    "fabric  {kind} {lba} of host {host} is not answered; takes effect: {lands}"
                )
            });
        }
        let request = Request {
            host,
            life: path.life,
            lba,
            ask,
            task: self.world.current(),
            answer: None,
            outcome: None,
            abandoned: false,
            replied: false,
            landings: fate.landings.iter().flatten().count() as u8,
            landed: 0,
            answered: fate.answered,
        };
        let mut requests = self.requests.borrow_mut();
        // Numbers are not used twice: events of a request may come after it is forgotten.
        let id = self.served.get() as usize;
        requests.insert(id, request);
        for nanos in fate.landings.into_iter().flatten() {
            self.world.schedule(nanos, Event::Land(id));
        }
        self.world.schedule(fate.reply, Event::Reply(id));
        id
    }

    fn fate(&self, ask: &Ask, cut: bool) -> Fate {
        let fabric = self.fabric.get();
        let world = &self.world;
        let usual = world.between(fabric.latency / 8, fabric.latency);
        let usual = if world.chance(10) { usual * 20 } else { usual };
        let usual = usual.min(fabric.in_flight);
        let mut fate = Fate {
            landings: [Some(usual), None],
            reply: (usual + world.below(fabric.latency)).min(fabric.timeout),
            answered: true,
        };
        let writes = !matches!(ask, Ask::Read { .. } | Ask::Flush);
        let dice = world.below(1000);
        if cut || dice < fabric.lost_requests {
            fate.landings = [None, None];
            fate.answered = false;
        } else if dice < fabric.lost_requests + fabric.lost_replies {
            fate.answered = false;
        } else if dice < fabric.lost_requests + fabric.lost_replies + fabric.late && writes {
            let late = world.between(fabric.timeout.min(fabric.in_flight), fabric.in_flight);
            fate.landings = [Some(late), None];
            fate.answered = false;
        }
        if !fate.answered {
            fate.reply = fabric.timeout;
        }
        let repeatable = match ask {
            Ask::Compare { .. } => true,
            Ask::Write { .. } => fabric.rule == Some(Rule::WritesComeAgain),
            _ => false,
        };
        let again = repeatable && world.chance(fabric.repeated);
        if again && let [Some(first), None] = fate.landings {
            fate.landings[1] = Some(first + world.below(40 * SECOND));
        }
        let pieces = matches!(ask, Ask::Write { .. }) && world.chance(fabric.torn);
        if pieces && let [Some(last), None] = fate.landings {
            fate.landings = [Some(world.below(last.max(1))), Some(last)];
        }
        fate
    }

    async fn ask(&self, host: usize, lba: u64, ask: Ask) -> Answer {
        let mut waiting = Waiting {
            disk: self,
            id: None,
        };
        let mut ask = Some(ask);
        poll_fn(|_| {
            let Some(id) = waiting.id else {
                waiting.id = ask.take().map(|ask| self.send(host, lba, ask));
                return Poll::Pending;
            };
            let mut requests = self.requests.borrow_mut();
            match requests.get_mut(&id).and_then(|r| r.answer.take()) {
                Some(answer) => Poll::Ready(answer),
                None => Poll::Pending,
            }
        })
        .await
    }
}

/// The answer to a write from block `lba` on that the medium took or did not.
const fn written(stored: bool, lba: u64) -> Answer {
    if stored {
        Answer::Done
    } else {
        Answer::Failed(BlockError::Medium { lba })
    }
}

/// When a request takes effect and is answered, in nanoseconds from its sending.
struct Fate {
    landings: [Option<u64>; 2],
    reply: u64,
    answered: bool,
}

/// A request that somebody waits for.
struct Waiting<'a> {
    disk: &'a Disk,
    id: Option<usize>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            let mut requests = self.disk.requests.borrow_mut();
            if let Some(request) = requests.get_mut(&id) {
                request.abandoned = true;
            }
            self.disk.retire(&mut requests, id);
        }
    }
}

/// The disk as one host sees it; with it, the host's place in the world.
#[derive(Clone, Debug)]
pub struct HostDisk {
    /// The disk.
    pub disk: Rc<Disk>,
    /// The host.
    pub host: usize,
}

impl HostDisk {
    /// Returns where host and disk are.
    #[must_use]
    pub fn world(&self) -> &World {
        &self.disk.world
    }

    /// Notes what the host does, for the trace.
    pub fn note(&self, line: impl FnOnce() -> String) {
        self.world()
            .note(|| format!("host {}  {}", self.host, line()));
    }

    /// Returns the host's clock.
    #[must_use]
    pub fn clock(&self) -> HostClock {
        HostClock {
            world: Rc::clone(&self.disk.world),
            host: self.host,
        }
    }

    fn fits(&self, lba: u64, len: usize) -> bool {
        let block = self.disk.block_len();
        len.is_multiple_of(block)
            && lba
                .checked_add((len / block) as u64)
                .is_some_and(|end| end <= self.disk.geometry.blocks)
    }
}

fn unit(answer: &Answer) -> Result<(), BlockError> {
    match answer {
        Answer::Failed(error) => Err(*error),
        Answer::Data(_) | Answer::Done | Answer::Differed => Ok(()),
    }
}

impl BlockDevice for HostDisk {
    fn geometry(&self) -> Geometry {
        self.disk.geometry
    }

    async fn read(&self, lba: u64, mut buffer: Buffer) -> Completion {
        if !self.fits(lba, buffer.len()) {
            return (buffer, Err(BlockError::Invalid));
        }
        let blocks = (buffer.len() / self.disk.block_len()) as u64;
        let answer = self.disk.ask(self.host, lba, Ask::Read { blocks }).await;
        if let Answer::Data(data) = &answer {
            buffer.copy_from_slice(data);
        }
        let result = unit(&answer);
        (buffer, result)
    }

    async fn write(&self, lba: u64, buffer: Buffer, durability: Durability) -> Completion {
        if !self.fits(lba, buffer.len()) {
            return (buffer, Err(BlockError::Invalid));
        }
        let ask = Ask::Write {
            data: Rc::from(&*buffer),
            cached: durability == Durability::Cached,
        };
        let answer = self.disk.ask(self.host, lba, ask).await;
        let result = unit(&answer);
        if result == Err(BlockError::TimedOut) {
            return (Buffer::zeroed(0), result);
        }
        (buffer, result)
    }

    async fn flush(&self) -> Result<(), BlockError> {
        unit(&self.disk.ask(self.host, 0, Ask::Flush).await)
    }

    async fn discard(&self, lba: u64, blocks: u64) -> Result<(), BlockError> {
        self.write_zeroes(lba, blocks).await
    }

    async fn write_zeroes(&self, lba: u64, blocks: u64) -> Result<(), BlockError> {
        unit(&self.disk.ask(self.host, lba, Ask::Zero { blocks }).await)
    }

    async fn drain(&self) {
        let life = self.disk.life(self.host);
        while self.disk.is_late(self.host, life) {
            self.clock().sleep(20 * MS).await;
        }
    }

    async fn compare_and_write(
        &self,
        lba: u64,
        expected: Buffer,
        new: Buffer,
    ) -> Result<Compared, BlockError> {
        if self.disk.geometry.compare_and_write_blocks == 0 {
            return Err(BlockError::Unsupported);
        }
        if self.disk.fabric.get().rule == Some(Rule::CompareIsNotAtomic) {
            return self.compare_then_write(lba, &expected, new).await;
        }
        let ask = Ask::Compare {
            expected: Rc::from(&*expected),
            new: Rc::from(&*new),
        };
        match self.disk.ask(self.host, lba, ask).await {
            Answer::Done | Answer::Data(_) => Ok(Compared::Written),
            Answer::Differed => Ok(Compared::Differed),
            Answer::Failed(error) => Err(error),
        }
    }
}

impl HostDisk {
    /// What a device must not do.
    async fn compare_then_write(
        &self,
        lba: u64,
        expected: &Buffer,
        new: Buffer,
    ) -> Result<Compared, BlockError> {
        let (found, result) = self.read(lba, Buffer::zeroed(new.len())).await;
        result?;
        if **expected != *found {
            return Ok(Compared::Differed);
        }
        self.write(lba, new, Durability::Fua).await.1?;
        Ok(Compared::Written)
    }
}
