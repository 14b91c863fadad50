//! Worlds on CPUs: `kernel/sched` decides, this runs what it decided.
//!
//! The scheduler's state and the tasks of worlds that want to run are behind one lock. A CPU takes it when it needs its
//! next world, when a world stops wanting to run, and to wake one; plain exits never do. What a CPU was last told is in
//! its [`Seat`]. The rules about who runs are all in the library; service tasks (`exec`) have none of this but that their
//! time is charged.

use crate::bench;
use crate::exec;
use crate::memory::ranks;
use crate::timer;
use alloc::vec::Vec;
use arch::cpu::rdtsc;
use arch::percpu::{self, CPUS_MAX};
use arch::sync::SpinLock;
use async_task::{Runnable, Task};
use core::future::Future;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use sched::{
    Account, Cpu, CpuSet, Decision, Error, GroupId, Host, Scheduler, Settings, Topology, Tuning,
    WorldId, WorldState,
};
use spin::Once;

/// A world that was put on a CPU stays so long, whoever else wants it: without that, events that come as fast as a CPU
/// can take them would leave nobody else any progress. In nanoseconds.
const STAY_NANOS: u64 = 200_000;

/// The same in TSC ticks; set once.
static STAY_TICKS: AtomicU64 = AtomicU64::new(0);
static HOST: Once<SpinLock<Worlds>> = Once::new();
static SEATS: [Seat; CPUS_MAX] = [const { Seat::new() }; CPUS_MAX];

/// What the lock protects.
struct Worlds {
    scheduler: Scheduler,
    /// By world: its task, while it waits for a CPU.
    tasks: Vec<Option<Runnable>>,
    /// By CPU: the world that stands for its service tasks in the accounts. It never runs by itself.
    service: Vec<WorldId>,
    /// By CPU: what [`stays`] found to be next in place of the world that is still there.
    next: Vec<Option<(WorldId, Runnable)>>,
}

/// What one CPU was told to do.
struct Seat {
    /// Somebody wants this CPU to ask again.
    look: AtomicBool,
    /// [owner cpu] a world runs here, or would if no service task did.
    taken: AtomicBool,
    /// [owner cpu] since when, in TSC ticks.
    since: AtomicU64,
    /// [owner cpu] until when: the end of the slice or, without a world, when a limit is lifted.
    until: AtomicU64,
    /// [owner cpu] ticks of service tasks that were not charged yet.
    served: AtomicU64,
}

impl Seat {
    const fn new() -> Self {
        Self {
            look: AtomicBool::new(true),
            taken: AtomicBool::new(false),
            since: AtomicU64::new(0),
            until: AtomicU64::new(0),
            served: AtomicU64::new(0),
        }
    }

    fn here() -> &'static Self {
        &SEATS[percpu::current().index() as usize]
    }

    fn set(&self, taken: bool, since: u64, until: u64) {
        self.taken.store(taken, Ordering::Relaxed);
        self.since.store(since, Ordering::Relaxed);
        self.until.store(until, Ordering::Relaxed);
    }
}

/// A VM's place in the scheduler. It is given back at the end, once the worlds have ended.
#[derive(Debug)]
pub struct VmGroup {
    id: GroupId,
    is_gone: AtomicBool,
}

impl VmGroup {
    /// Asks for a place in `pool`, or in the host's own, for a VM with `settings`.
    ///
    /// # Errors
    /// Why admission refuses it, with the arithmetic.
    pub fn new(pool: Option<GroupId>, settings: Settings) -> Result<Self, Error> {
        let id = with(|worlds, now| {
            let pool = pool.unwrap_or(worlds.scheduler.root());
            worlds.scheduler.create_vm(pool, settings, now)
        })?;
        Ok(Self {
            id,
            is_gone: AtomicBool::new(false),
        })
    }

    /// Starts the task of a vCPU.
    ///
    /// # Errors
    /// Those of [`Scheduler::add_world`].
    pub fn spawn_vcpu<F>(&self, future: F) -> Result<Task<F::Output>, Error>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let world = with(|worlds, now| worlds.scheduler.add_world(self.id, None, now))?;
        Ok(spawn(world, future))
    }

    /// Starts a task that works for the VM's vCPUs and runs on the VM's entitlement.
    ///
    /// # Errors
    /// Those of [`Scheduler::add_helper`].
    pub fn spawn_helper<F>(&self, future: F) -> Result<Task<F::Output>, Error>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let world = with(|worlds, now| worlds.scheduler.add_helper(self.id, now))?;
        Ok(spawn(world, future))
    }

    /// Changes the settings, and the pool, while the VM runs.
    ///
    /// # Errors
    /// Why admission refuses it, with the arithmetic; nothing is changed then.
    pub fn change(&self, pool: Option<GroupId>, settings: Settings) -> Result<(), Error> {
        with(|worlds, now| {
            let scheduler = &mut worlds.scheduler;
            let pool = pool.unwrap_or(scheduler.root());
            let before = scheduler.settings(self.id)?;
            if scheduler.parent(self.id)? == Some(pool) {
                return scheduler.set(self.id, settings, now);
            }
            // What the old place would not have carried, the new one may.
            scheduler.set(self.id, bare(before), now)?;
            let from = scheduler.parent(self.id)?;
            let moved = scheduler.move_group(self.id, pool, now);
            let result = moved.and_then(|()| scheduler.set(self.id, settings, now));
            if result.is_err() {
                if let Some(from) = from {
                    scheduler.move_group(self.id, from, now)?;
                }
                scheduler.set(self.id, before, now)?;
            }
            result
        })
    }

    /// Gives the place back, when all worlds have ended.
    pub fn give_back(&self) {
        if self.is_gone.swap(true, Ordering::Relaxed) {
            return;
        }
        if let Err(error) = with(|worlds, _| worlds.scheduler.delete(self.id)) {
            crate::error!("a VM's place in the scheduler is lost: {error}");
        }
    }

    /// Returns what each world did so far, vCPUs in their order, then helpers.
    #[must_use]
    pub fn accounts(&self) -> Vec<(WorldState, Account)> {
        with(|worlds, now| {
            let scheduler = &worlds.scheduler;
            let all = scheduler.worlds_of(self.id).unwrap_or_default();
            let of = |world: &WorldId| {
                let account = scheduler.account(*world, now).ok()?;
                Some((scheduler.state(*world).ok()?, account))
            };
            all.iter().filter_map(of).collect()
        })
    }
}

impl Drop for VmGroup {
    fn drop(&mut self) {
        self.give_back();
    }
}

/// Returns settings that reserve nothing and are held to no limit.
fn bare(settings: Settings) -> Settings {
    Settings {
        reservation: sched::Amount::ZERO,
        limit: None,
        ..settings
    }
}

/// Works on the scheduler's tree, for pools.
pub(crate) fn with_tree<T>(body: impl FnOnce(&mut Scheduler, u64) -> T) -> T {
    with(|worlds, now| body(&mut worlds.scheduler, now))
}

/// Returns by CPU what was spent there on service tasks.
#[must_use]
pub fn service_accounts() -> Vec<Account> {
    with(|worlds, now| {
        let of = |world: &WorldId| worlds.scheduler.account(*world, now).ok();
        worlds.service.iter().filter_map(of).collect()
    })
}

/// Takes a world out when its task ends, whatever way.
struct Ended(WorldId);

impl Drop for Ended {
    fn drop(&mut self) {
        // One that is unknown was taken out already.
        let _ = with(|worlds, now| worlds.scheduler.remove_world(self.0, now));
    }
}

/// Makes the scheduler for the CPUs that run.
///
/// # Panics
/// With a clock or CPUs that no scheduler can be made for: a broken host, at start-up.
pub fn start(topology: Topology) {
    let cpus = topology.cpus();
    let host = Host {
        topology,
        tsc_hz: timer::clock().tsc_hz(),
    };
    STAY_TICKS.store(timer::clock().ticks(STAY_NANOS), Ordering::Relaxed);
    let now = rdtsc();
    let mut scheduler = Scheduler::new(host, Tuning::default(), now)
        .expect("CPUs that run and a clock that was measured make a host");
    let group = scheduler.service();
    let service = (0..cpus)
        .map(|_| scheduler.add_world(group, None, now))
        .collect::<Result<_, _>>()
        .expect("the host's own group takes any number of worlds");
    let worlds = Worlds {
        scheduler,
        tasks: Vec::new(),
        service,
        next: (0..cpus).map(|_| None).collect(),
    };
    HOST.call_once(|| SpinLock::new(ranks::SCHEDULER, worlds));
    (0..percpu::online()).for_each(exec::poke);
}

/// Works on the scheduler, then passes on which CPUs are to look.
fn with<T>(body: impl FnOnce(&mut Worlds, u64) -> T) -> T {
    let host = HOST
        .get()
        .expect("the scheduler is made before anything is to run");
    let mut worlds = host.lock();
    let result = body(&mut worlds, rdtsc());
    let pokes = worlds.scheduler.take_pokes();
    drop(worlds);
    pass_on(&pokes);
    result
}

fn pass_on(pokes: &CpuSet) {
    if !pokes.is_empty() {
        for cpu in pokes.iter() {
            SEATS[usize::from(cpu.0)]
                .look
                .store(true, Ordering::Release);
            exec::poke(u32::from(cpu.0));
        }
    }
}

fn spawn<F>(world: WorldId, future: F) -> Task<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let until_end = async move {
        let _ended = Ended(world);
        future.await
    };
    let (runnable, task) = async_task::spawn(until_end, move |runnable| submit(world, runnable));
    runnable.schedule();
    task
}

/// Notes that `world` wants to run.
fn submit(world: WorldId, runnable: Runnable) {
    with(|worlds, now| {
        let place = world.index();
        if worlds.tasks.len() <= place {
            worlds.tasks.resize_with(place + 1, || None);
        }
        worlds.tasks[place] = Some(runnable);
        // It is not known only if its task ended at this moment; who takes the place finds it empty then.
        let _ = worlds.scheduler.wake(world, now);
    });
}

impl Worlds {
    /// Ends the slice on `cpu` and returns who is next, if anybody is; else the timer is armed for when that may
    /// change by itself. `stays` is the world that
    /// is being polled there: its task is in no place.
    fn pick(&mut self, cpu: u32, now: u64, stays: Option<WorldId>) -> Option<Turn> {
        let seat = &SEATS[cpu as usize];
        seat.look.store(false, Ordering::Relaxed);
        let place = Cpu(cpu as u16);
        let served = seat.served.swap(0, Ordering::Relaxed);
        if served > 0 {
            let service = self.service[cpu as usize];
            // It is never removed.
            let _ = self.scheduler.charge_system(place, service, served);
        }
        if self.scheduler.is_stale(now) {
            self.scheduler.refresh(now);
            bench::note_refresh(rdtsc().saturating_sub(now));
        }
        loop {
            match self.scheduler.pick(place, now) {
                Decision::Idle { until } => {
                    let until = until.unwrap_or(u64::MAX);
                    seat.set(false, now, until);
                    arch::apic::arm_timer(until);
                    return None;
                }
                Decision::Run { world, slice } => {
                    let until = now.saturating_add(slice);
                    if stays == Some(world) {
                        seat.set(true, now, until);
                        return Some(Turn::Same { until });
                    }
                    if let Some(task) = self.tasks[world.index()].take() {
                        seat.set(true, now, until);
                        return Some(Turn::Other(world, task));
                    }
                    // It is about to leave another CPU, and is submitted again when it has.
                    let _ = self.scheduler.block(world, now);
                }
            }
        }
    }
}

/// Whose turn it is.
enum Turn {
    /// That of the world that is there.
    Same { until: u64 },
    /// That of another.
    Other(WorldId, Runnable),
}

/// Returns the world that this CPU is to run now, if there is one.
#[must_use]
pub(crate) fn next() -> Option<(WorldId, Runnable)> {
    let seat = Seat::here();
    if !seat.look.load(Ordering::Acquire) && !seat.taken.load(Ordering::Relaxed) {
        let until = seat.until.load(Ordering::Relaxed);
        if rdtsc() < until {
            // Who had the timer in between may have armed it for less.
            arch::apic::arm_timer(until);
            return None;
        }
    }
    HOST.get()?;
    let cpu = percpu::current().index();
    with(|worlds, now| {
        if let Some(next) = worlds.next[cpu as usize].take() {
            return Some(next);
        }
        match worlds.pick(cpu, now, None)? {
            Turn::Other(world, task) => Some((world, task)),
            Turn::Same { .. } => None,
        }
    })
}

/// Notes that `world`, polled on this CPU until now, waits for an event.
pub(crate) fn waits(world: WorldId) {
    let cpu = Cpu(percpu::current().index() as u16);
    with(|worlds, now| {
        let running = worlds.scheduler.state(world) == Ok(WorldState::Running(cpu));
        // It may have been woken since, and ended worlds are not known any more.
        if running && worlds.tasks[world.index()].is_none() {
            let _ = worlds.scheduler.block(world, now);
        }
    });
    Seat::here().look.store(true, Ordering::Relaxed);
}

/// Returns the TSC at which the slice of the world on this CPU ends.
#[must_use]
pub fn slice_end() -> u64 {
    Seat::here().until.load(Ordering::Relaxed)
}

/// Tells whether the world that is polled on this CPU may go on, and until when; otherwise its poll is to end. The
/// slice may be over: then it gets another one if it is still its turn.
#[must_use]
pub fn stays() -> Option<u64> {
    let seat = Seat::here();
    if exec::service_waits() {
        return None;
    }
    let now = rdtsc();
    let until = seat.until.load(Ordering::Relaxed);
    if now < until {
        if !seat.look.load(Ordering::Acquire) {
            return Some(until);
        }
        let stay = STAY_TICKS.load(Ordering::Relaxed);
        let least = seat.since.load(Ordering::Relaxed).saturating_add(stay);
        if now < least {
            let until = until.min(least);
            seat.until.store(until, Ordering::Relaxed);
            return Some(until);
        }
    }
    exec::note_poll();
    ask_again()
}

fn ask_again() -> Option<u64> {
    let cpu = percpu::current().index();
    with(|worlds, now| {
        let me = worlds.scheduler.current(Cpu(cpu as u16))?;
        match worlds.pick(cpu, now, Some(me))? {
            Turn::Same { until } => Some(until),
            Turn::Other(world, task) => {
                worlds.next[cpu as usize] = Some((world, task));
                None
            }
        }
    })
}

/// The world on this CPU spins for another one: a sibling that waits for a CPU takes its turn. Its poll is to end.
pub fn spins() {
    let seat = Seat::here();
    let cpu = Cpu(percpu::current().index() as u16);
    with(|worlds, now| {
        // Nothing to give away where it is not running any more.
        let _ = worlds.scheduler.yield_to(cpu, None, now);
    });
    seat.look.store(true, Ordering::Relaxed);
}

/// Charges `ticks` of service tasks on this CPU: they are not the time of the world that they kept waiting.
pub(crate) fn charge_service(ticks: u64) {
    Seat::here().served.fetch_add(ticks, Ordering::Relaxed);
}
