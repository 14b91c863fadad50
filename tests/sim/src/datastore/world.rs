//! Virtual time and the tasks that live in it: one thread, one queue of events, and nothing that happens by itself.
//!
//! There are no wakers. A task is polled whenever something happens that it waits for; who waits tells the world so.
//! What hosts and disks do stands beside.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt::{self, Write as _};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use api::time::{Clock, HostInstant};

use crate::random::Random;

/// Nanoseconds of a millisecond.
pub const MS: u64 = 1_000_000;
/// Nanoseconds of a second.
pub const SECOND: u64 = 1_000 * MS;

/// A task's number.
pub type TaskId = usize;

/// What happens at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    /// A task that may find something done is polled.
    Wake(TaskId),
    /// A request takes effect on the disk.
    Land(usize),
    /// A request is answered.
    Reply(usize),
    /// The weather strikes.
    Strike,
    /// The medium decays.
    Decay,
}

type Work = Pin<Box<dyn Future<Output = ()>>>;

struct Task {
    host: usize,
    work: Option<Work>,
}

/// How a host's clock differs from true time, and whether the host runs.
#[derive(Clone, Copy, Debug)]
struct HostTime {
    /// Its clock at time 0.
    offset: u64,
    /// By how many millionths it is fast.
    drift_ppm: i64,
    /// It does nothing before this time.
    paused_until: u64,
}

/// Virtual time, its tasks, and the only source of chance.
pub struct World {
    now: Cell<u64>,
    sequence: Cell<u64>,
    queue: RefCell<BinaryHeap<Reverse<(u64, u64, Event)>>>,
    tasks: RefCell<Vec<Task>>,
    current: Cell<TaskId>,
    hosts: RefCell<Vec<HostTime>>,
    random: RefCell<Random>,
    trace: Option<RefCell<String>>,
    verdict: RefCell<Option<String>>,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "World(at {} ns)", self.now.get())
    }
}

impl World {
    /// Makes a world at time 0 in which everything follows from `seed`.
    #[must_use]
    pub fn new(seed: u64, traced: bool) -> Self {
        Self {
            now: Cell::new(0),
            sequence: Cell::new(0),
            queue: RefCell::new(BinaryHeap::with_capacity(64)),
            tasks: RefCell::new(Vec::new()),
            current: Cell::new(0),
            hosts: RefCell::new(Vec::new()),
            random: RefCell::new(Random::new(seed)),
            trace: traced.then(RefCell::default),
            verdict: RefCell::new(None),
        }
    }

    /// Returns true time, in nanoseconds.
    pub fn now(&self) -> u64 {
        self.now.get()
    }

    /// Returns a number from 0 to `bound - 1`.
    pub fn below(&self, bound: u64) -> u64 {
        self.random.borrow_mut().below(bound)
    }

    /// Returns a number from `low` to `high`.
    pub fn between(&self, low: u64, high: u64) -> u64 {
        self.random.borrow_mut().between(low, high)
    }

    /// Returns 64 random bits.
    pub fn bits(&self) -> u64 {
        self.random.borrow_mut().bits()
    }

    /// Tells whether what happens `per_mille` times in a thousand happens now.
    pub fn chance(&self, per_mille: u64) -> bool {
        per_mille > 0 && self.below(1000) < per_mille
    }

    /// Writes a line into the trace, if there is one.
    pub fn note(&self, line: impl FnOnce() -> String) {
        if let Some(trace) = &self.trace {
            let seconds = self.now.get() / SECOND;
            let micros = self.now.get() % SECOND / 1000;
            // Writing into a string cannot fail.
            let _ = writeln!(
                trace.borrow_mut(),
                "{seconds:4}.{micros:06}  {line}",
                line = line()
            );
        }
    }

    /// Returns the trace so far.
    pub fn take_trace(&self) -> String {
        self.trace.as_ref().map(RefCell::take).unwrap_or_default()
    }

    /// States that a promise was broken; the first one counts, and the world stops.
    pub fn condemn(&self, promise: impl FnOnce() -> String) {
        let mut verdict = self.verdict.borrow_mut();
        if verdict.is_none() {
            let promise = promise();
            self.note(|| format!("BROKEN  {promise}"));
            *verdict = Some(promise);
        }
    }

    /// Returns the promise that was broken.
    pub fn verdict(&self) -> Option<String> {
        self.verdict.borrow().clone()
    }

    /// Adds a host whose clock is fast by so many millionths.
    pub fn add_host(&self, drift_ppm: i64) -> usize {
        let offset = self.below(1000 * SECOND);
        let mut hosts = self.hosts.borrow_mut();
        hosts.push(HostTime {
            offset,
            drift_ppm,
            paused_until: 0,
        });
        hosts.len() - 1
    }

    /// Lets a host do nothing for `nanos`, while its clock goes on.
    pub fn pause(&self, host: usize, nanos: u64) {
        let until = self.now() + nanos;
        let time = &mut self.hosts.borrow_mut()[host];
        time.paused_until = time.paused_until.max(until);
    }

    /// Lets something happen `nanos` from now.
    pub fn schedule(&self, nanos: u64, event: Event) {
        let sequence = self.sequence.get();
        self.sequence.set(sequence + 1);
        let time = self.now() + nanos;
        self.queue
            .borrow_mut()
            .push(Reverse((time, sequence, event)));
    }

    /// Starts a task of a host; it is polled first at the present time.
    pub fn spawn(&self, host: usize, work: impl Future<Output = ()> + 'static) -> TaskId {
        let mut tasks = self.tasks.borrow_mut();
        tasks.push(Task {
            host,
            work: Some(Box::pin(work)),
        });
        let id = tasks.len() - 1;
        drop(tasks);
        self.schedule(0, Event::Wake(id));
        id
    }

    /// Ends a task where it stands.
    pub fn kill(&self, task: TaskId) {
        let work = self.tasks.borrow_mut()[task].work.take();
        drop(work);
    }

    /// Tells whether a task has ended.
    pub fn has_ended(&self, task: TaskId) -> bool {
        self.tasks.borrow()[task].work.is_none()
    }

    /// Returns the task that is being polled.
    pub fn current(&self) -> TaskId {
        self.current.get()
    }

    /// Takes the next event before `end`, moves time there and returns it, unless the world has been condemned.
    pub fn next_event(&self, end: u64) -> Option<Event> {
        if self.verdict.borrow().is_some() {
            return None;
        }
        let mut queue = self.queue.borrow_mut();
        let Reverse((time, _, event)) = queue.peek().copied()?;
        if time > end {
            return None;
        }
        queue.pop();
        self.now.set(time);
        Some(event)
    }

    /// Polls a task, or puts that off while its host is paused.
    pub fn poll(&self, id: TaskId) {
        let host = self.tasks.borrow()[id].host;
        let paused_until = self.hosts.borrow()[host].paused_until;
        if paused_until > self.now() {
            self.schedule(paused_until - self.now(), Event::Wake(id));
            return;
        }
        let Some(mut work) = self.tasks.borrow_mut()[id].work.take() else {
            return;
        };
        self.current.set(id);
        let done = work
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
            .is_ready();
        if !done {
            self.tasks.borrow_mut()[id].work = Some(work);
        }
    }

    /// Returns a host's own time.
    pub fn time_of(&self, host: usize) -> u64 {
        let time = self.hosts.borrow()[host];
        let now = self.now() as i64;
        (time.offset as i64 + now + now * time.drift_ppm / 1_000_000) as u64
    }

    /// Returns how long true time takes until a host's clock shows `deadline`, rounded up by a microsecond or so.
    fn until(&self, host: usize, deadline: u64) -> u64 {
        let own = self.time_of(host);
        if deadline <= own {
            return 0;
        }
        let drift_ppm = self.hosts.borrow()[host].drift_ppm;
        let nanos = (deadline - own) as i128 * 1_000_000 / i128::from(1_000_000 + drift_ppm);
        nanos as u64 + 1_000
    }
}

/// A host's clock.
#[derive(Clone, Debug)]
pub struct HostClock {
    /// Where it goes.
    pub world: std::rc::Rc<World>,
    /// Whose it is.
    pub host: usize,
}

impl HostClock {
    /// Completes `nanos` later by this clock.
    pub async fn sleep(&self, nanos: u64) {
        self.sleep_until(self.now().saturating_add(nanos)).await;
    }
}

impl Clock for HostClock {
    fn now(&self) -> HostInstant {
        HostInstant::from_nanos(self.world.time_of(self.host))
    }

    async fn sleep_until(&self, deadline: HostInstant) {
        let mut asked_for = None;
        poll_fn(|_| {
            let left = self.world.until(self.host, deadline.as_nanos());
            if left == 0 {
                return Poll::Ready(());
            }
            // One event is enough; polls before it comes change nothing.
            let now = self.world.now();
            if asked_for.is_none_or(|time| time <= now) {
                asked_for = Some(now + left);
                self.world.schedule(left, Event::Wake(self.world.current()));
            }
            Poll::Pending
        })
        .await;
    }
}

/// Runs two futures beside each other until one of them ends.
pub async fn race<T>(left: impl Future<Output = T>, right: impl Future<Output = T>) -> T {
    let mut left = std::pin::pin!(left);
    let mut right = std::pin::pin!(right);
    poll_fn(|cx| match left.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(output),
        Poll::Pending => right.as_mut().poll(cx),
    })
    .await
}

/// Polls `work` at most `polls` times; `None` if it was dropped then, in the middle of what it did.
pub async fn abandon_after<T>(polls: u64, work: impl Future<Output = T>) -> Option<T> {
    let mut work = std::pin::pin!(work);
    let mut left = polls;
    poll_fn(|cx| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        work.as_mut().poll(cx).map(Some)
    })
    .await
}
