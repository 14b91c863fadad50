//! The datastore's simulator: hosts that run the project's code on one disk, and everything that can happen to them.
//!
//! One seed gives one schedule. A schedule that breaks a promise is run again with a trace that people can read.

pub mod broken;
pub mod describe;
pub mod disk;
pub mod files;
pub mod judge;
pub mod medium;
pub mod oracle;
pub mod template;
#[cfg(test)]
mod tests;
pub mod toy;
pub mod weather;
pub mod world;

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;

use api::block::Geometry;
use lock::{Area, Backend, Terms};

use self::broken::Rule;
use self::disk::{Disk, Fabric, HostDisk};
use self::files::FileHost;
use self::judge::Judge;
use self::medium::Medium;
use self::oracle::Oracle;
use self::toy::{Layout, ToyHost};
use self::weather::Weather;
use self::world::{Event, SECOND, TaskId, World};

/// What to simulate.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Decides everything that is random.
    pub seed: u64,
    /// Hosts; `None` lets the seed choose 2 to 4.
    pub hosts: Option<usize>,
    /// The atomic step; `None` lets the seed choose.
    pub backend: Option<Backend>,
    /// A rule to break.
    pub rule: Option<Rule>,
    /// What the hosts do.
    pub subject: Subject,
    /// The medium of a volume fails, too, and hosts fill it up.
    pub hard: bool,
}

/// What the hosts do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// They count under locks.
    Locks,
    /// They use a volume.
    Volume,
}

/// What came of a schedule.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The promise that was broken.
    pub broken: Option<String>,
    /// Requests that the disk served.
    pub requests: u64,
    /// Virtual nanoseconds.
    pub nanos: u64,
    /// What happened, line by line, if that was asked for.
    pub trace: String,
}

/// Virtual time after the end of work in which everybody must be done.
const PATIENCE: u64 = 400 * SECOND;

/// What came of many schedules.
#[derive(Clone, Debug, Default)]
pub struct Sweep {
    /// Schedules that were run.
    pub schedules: u64,
    /// Requests that the disks served.
    pub requests: u64,
    /// Virtual nanoseconds.
    pub nanos: u128,
    /// The first seed that broke a promise.
    pub failed: Option<u64>,
}

/// Runs the schedules of `count` seeds, beginning with the plan's, until one breaks a promise.
#[must_use]
pub fn sweep(plan: Plan, count: u64) -> Sweep {
    sweep_each(plan, count, 1)
}

/// Does the same on so many threads. Each stops at its first seed that breaks a promise; the lowest one counts.
#[must_use]
pub fn sweep_with(plan: Plan, count: u64, threads: u64) -> Sweep {
    let threads = threads.clamp(1, count.max(1));
    std::thread::scope(|scope| {
        let workers = (0..threads).map(|first| {
            let seed = plan.seed + first;
            let left = count.saturating_sub(first);
            scope.spawn(move || sweep_each(Plan { seed, ..plan }, left, threads))
        });
        let workers: Vec<_> = workers.collect();
        let swept = workers.into_iter().map(|worker| match worker.join() {
            Ok(sweep) => sweep,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        swept.fold(Sweep::default(), |sum, part| Sweep {
            schedules: sum.schedules + part.schedules,
            requests: sum.requests + part.requests,
            nanos: sum.nanos + part.nanos,
            failed: sum.failed.into_iter().chain(part.failed).min(),
        })
    })
}

/// Runs every `step`-th of `count` seeds.
fn sweep_each(plan: Plan, count: u64, step: u64) -> Sweep {
    let mut sweep = Sweep::default();
    let end = plan.seed.saturating_add(count);
    for seed in (plan.seed..end).step_by(step as usize) {
        let outcome = run(Plan { seed, ..plan }, false);
        sweep.schedules += 1;
        sweep.requests += outcome.requests;
        sweep.nanos += u128::from(outcome.nanos);
        if outcome.broken.is_some() {
            sweep.failed = Some(seed);
            break;
        }
    }
    sweep
}

/// Lets `hosts` hosts make and remove files, each in a directory of its own, for 15 seconds of virtual time on a disk
/// that answers within a millisecond, and returns how many they made and removed in all. The disk serves any number of
/// requests at a time, so what keeps hosts from going as fast together as alone is what they wait for of each other.
#[must_use]
pub fn rate_of(hosts: usize) -> u64 {
    let world = Rc::new(World::new(1, false));
    let weather = Weather::calm(world::MS);
    let backend = Backend::CompareAndWrite;
    let setting = (backend, LARGE_BYTES, false);
    let mut simulation =
        Simulation::with_files(Rc::clone(&world), hosts, weather, Medium::sound(), setting);
    let done = Rc::new(Cell::new(0));
    for (number, party) in simulation.hosts.iter().take(hosts).enumerate() {
        if let Party::Files(host) = party.clone() {
            let hammering = host.hammer(Rc::clone(&done));
            let world = Rc::clone(&world);
            simulation.world.spawn(number, async move {
                if let Err(error) = hammering.await {
                    world.condemn(|| format!("a host that nothing disturbs fails: {error}"));
                }
            });
        }
    }
    // Joining and mounting are not counted.
    simulation.advance(5 * SECOND);
    done.set(0);
    simulation.advance(15 * SECOND);
    done.get()
}

/// Bytes of a volume on which every host finds a cluster of its own.
const LARGE_BYTES: u64 = 2 << 30;

/// Runs one schedule.
#[must_use]
pub fn run(plan: Plan, traced: bool) -> Outcome {
    Simulation::new(plan, traced).run()
}

/// A host of either kind.
#[derive(Clone, Debug)]
enum Party {
    /// One that counts under locks.
    Toy(ToyHost),
    /// One that uses a volume.
    Files(FileHost),
}

/// All that a host does.
type Life = Pin<Box<dyn Future<Output = ()>>>;

impl Party {
    fn life(&self) -> Life {
        match self.clone() {
            Self::Toy(host) => Box::pin(host.live()),
            Self::Files(host) => Box::pin(host.live()),
        }
    }

    /// What it does when all others have stopped.
    fn examination(&self) -> Life {
        match self.clone() {
            Self::Toy(host) => Box::pin(host.examine()),
            Self::Files(host) => Box::pin(host.examine()),
        }
    }

    /// It has died.
    fn forget(&self) {
        if let Self::Toy(host) = self {
            host.judge.forgot(host.device.host);
        }
    }
}

/// A schedule under way.
#[derive(Debug)]
struct Simulation {
    world: Rc<World>,
    disk: Rc<Disk>,
    weather: Weather,
    /// The last one only looks at what the others left.
    hosts: Vec<Party>,
    lives: Vec<TaskId>,
    end: u64,
}

impl Simulation {
    fn new(plan: Plan, traced: bool) -> Self {
        let world = Rc::new(World::new(plan.seed, traced));
        let count = plan.hosts.unwrap_or_else(|| world.between(2, 4) as usize);
        let weather = Weather::draw(&world, plan.rule);
        let backend = plan.backend.unwrap_or_else(|| match world.below(4) {
            0 => Backend::Paxos,
            _ => Backend::CompareAndWrite,
        });
        match plan.subject {
            Subject::Locks => Self::with_toys(plan, world, count, weather, backend),
            Subject::Volume => {
                let medium = if plan.hard {
                    Medium::draw(&world, plan.rule)
                } else {
                    Medium::sound()
                };
                let setting = (backend, template::VOLUME_BYTES, plan.hard);
                Self::with_files(world, count, weather, medium, setting)
            }
        }
    }

    fn with_toys(
        plan: Plan,
        world: Rc<World>,
        count: usize,
        weather: Weather,
        backend: Backend,
    ) -> Self {
        let block_len: usize = if world.chance(200) { 4096 } else { 512 };
        let slots = (count + world.below(3) as usize + 2) as u16;
        let layout = layout(&world, backend, slots, block_len);
        let geometry = Geometry {
            volatile_cache: false,
            ..geometry(&world, backend, block_len, layout.blocks)
        };
        let medium = Medium::sound();
        let disk = Disk::new(Rc::clone(&world), geometry, weather.fabric, medium);
        let disk = Rc::new(disk);
        let judge = Judge::new(
            Rc::clone(&world),
            count + 1,
            layout.locks,
            layout.payload_lba,
        );
        let judge = Rc::new(judge);
        disk.set_witness(Rc::clone(&judge) as Rc<dyn disk::Witness>);
        let end = world.between(10, 50) * SECOND;
        let hosts = (0..=count).map(|number| {
            let area = Area {
                terms: broken::terms(plan.rule, number, layout.area.terms),
                ..layout.area
            };
            Party::Toy(ToyHost {
                device: add_host(&world, &disk, &weather),
                judge: Rc::clone(&judge),
                layout: Layout { area, ..layout },
                rule: plan.rule,
                end,
            })
        });
        Self {
            hosts: hosts.collect(),
            lives: Vec::new(),
            world,
            disk,
            weather,
            end,
        }
    }

    fn with_files(
        world: Rc<World>,
        count: usize,
        weather: Weather,
        medium: Medium,
        (backend, bytes, crowded): (Backend, u64, bool),
    ) -> Self {
        let block_len: usize = if world.chance(300) { 512 } else { 4096 };
        let template = template::volume(backend, block_len as u32, SLOTS, bytes);
        let template = template.unwrap_or_else(|error| panic!("no volume could be made: {error}"));
        let blocks = bytes / block_len as u64;
        let geometry = geometry(&world, backend, block_len, blocks);
        let disk = Disk::new(Rc::clone(&world), geometry, weather.fabric, medium);
        let disk = Rc::new(disk);
        disk.preload(&template.blocks);
        let oracle = Rc::new(Oracle::new(Rc::clone(&world), count));
        let end = world.between(10, 50) * SECOND;
        let crowded = crowded && world.chance(500);
        let hosts = (0..=count).map(|_| {
            Party::Files(FileHost {
                device: add_host(&world, &disk, &weather),
                oracle: Rc::clone(&oracle),
                layout: template.layout.clone(),
                end,
                crowded,
            })
        });
        Self {
            hosts: hosts.collect(),
            lives: Vec::new(),
            world,
            disk,
            weather,
            end,
        }
    }

    fn run(mut self) -> Outcome {
        for number in 0..self.hosts.len() - 1 {
            let life = self.world.spawn(number, self.hosts[number].life());
            self.lives.push(life);
        }
        self.weather.brew(&self.world);
        self.disk.medium().brew(&self.world);
        self.advance(self.end);
        self.disk.medium().mend_writes();
        // From here on the weather is fair, and everybody comes to an end.
        self.disk.set_fabric(Fabric::fair(self.weather.fabric));
        self.advance(self.end + PATIENCE);
        for (number, &life) in self.lives.iter().enumerate() {
            if !self.world.has_ended(life) {
                self.world
                    .condemn(|| format!("host {number} has not come to an end"));
            }
        }
        let examiner = self.hosts.len() - 1;
        let work = self.hosts[examiner].examination();
        let life = self.world.spawn(examiner, work);
        self.advance(self.end + 2 * PATIENCE);
        if !self.world.has_ended(life) {
            self.world
                .condemn(|| "what the hosts left cannot be recovered".to_owned());
        }
        Outcome {
            broken: self.world.verdict(),
            requests: self.disk.served(),
            nanos: self.world.now(),
            trace: self.world.take_trace(),
        }
    }

    /// Lets everything happen until `end`.
    fn advance(&mut self, end: u64) {
        while let Some(event) = self.world.next_event(end) {
            match event {
                Event::Wake(task) => self.world.poll(task),
                Event::Land(_) | Event::Reply(_) => self.disk.happen(event),
                Event::Strike if self.world.now() < self.end => {
                    self.strike();
                    self.weather.brew(&self.world);
                }
                Event::Decay if self.world.now() < self.end => self.decay(),
                Event::Strike | Event::Decay => {}
            }
        }
    }

    fn decay(&self) {
        if let Some(Party::Files(host)) = self.hosts.first() {
            let medium = self.disk.medium();
            medium.decay(&self.world, &self.disk, &host.layout);
            medium.brew(&self.world);
        }
    }

    fn strike(&mut self) {
        use weather::Blow;
        let host = self.world.below(self.lives.len() as u64) as usize;
        let blow = self.weather.blow(&self.world);
        self.world.note(|| format!("weather {blow:?} host {host}"));
        match blow {
            Blow::Pause(nanos) => self.world.pause(host, nanos),
            Blow::Cut(nanos) => self.disk.cut(host, nanos),
            Blow::Crash(nanos) => self.crash(host, nanos),
            Blow::Blackout(nanos) => {
                for host in 0..self.lives.len() {
                    self.crash(host, nanos);
                }
                self.disk.lose_power();
            }
        }
    }

    /// Lets a host die, and start again after a time.
    fn crash(&mut self, host: usize, nanos: u64) {
        self.world.kill(self.lives[host]);
        self.disk.host_died(host);
        self.hosts[host].forget();
        let next = self.hosts[host].clone();
        let clock = world::HostClock {
            world: Rc::clone(&self.world),
            host,
        };
        self.lives[host] = self.world.spawn(host, async move {
            clock.sleep(nanos).await;
            next.life().await;
        });
    }
}

/// Slots of a simulated volume.
const SLOTS: u16 = 8;

fn geometry(world: &World, backend: Backend, block_len: usize, blocks: u64) -> Geometry {
    let physical_block = if world.chance(500) { 4096 } else { block_len };
    Geometry {
        logical_block: block_len as u32,
        physical_block: physical_block as u32,
        blocks,
        max_blocks: (1 << 20) / block_len as u32,
        volatile_cache: world.chance(500),
        fua: true,
        discard: false,
        compare_and_write_blocks: u32::from(backend == Backend::CompareAndWrite),
    }
}

fn add_host(world: &World, disk: &Rc<Disk>, weather: &Weather) -> HostDisk {
    disk.add_path();
    HostDisk {
        disk: Rc::clone(disk),
        host: world.add_host(weather.drift(world)),
    }
}

fn layout(world: &World, backend: Backend, slots: u16, block_len: usize) -> Layout {
    let mut area = Area {
        slots_lba: 1,
        slots,
        slot_stride: 1,
        backend,
        terms: Terms::DEFAULT,
    };
    area.slot_stride = area.slot_blocks();
    Layout::new(area, world.between(1, 3) as usize, block_len)
}

impl ToyHost {
    /// Recovers whoever is dead, and looks at everything that the others left.
    async fn examine(self) {
        let mut patient = self.clone();
        patient.end = u64::MAX;
        let judge = Rc::clone(&self.judge);
        match patient.inspect().await {
            Ok(()) => judge.forgot(self.device.host),
            Err(error) => {
                let world = self.device.world();
                world.condemn(|| format!("what the hosts left cannot be examined: {error}"));
            }
        }
    }
}
