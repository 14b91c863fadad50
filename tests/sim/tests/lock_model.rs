//! The lease and takeover protocol as a model whose every state is looked at, for two and three hosts; and the same
//! model with one rule left out, which must fail.
//!
//! Time is counted in ticks. A host that does nothing while ticks pass is one that pauses. What is not here: how the
//! atomic step is made (the simulator drives the real code), several locks, and shared modes.

use stateright::{Checker, Model, Property};

/// Ticks that a host stops writing earlier.
const MARGIN: u8 = 1;
/// Ticks for which a write that was sent may land.
const RECLAIM: u8 = 1;
/// Generations of a slot that are looked at.
const GENERATIONS: u8 = 2;

/// A rule that is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Without {
    Nothing,
    Gate,
    Margin,
    Reclaim,
    Generation,
    Replay,
    Compare,
}

type Host = usize;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Member {
    host: Host,
    generation: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Owner {
    Free,
    Live,
    Replaying(Member),
}

/// A slot on the disk; each host has one of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Slot {
    owner: Owner,
    generation: u8,
}

/// A write on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Write {
    /// For whom: the lock's holder, or the dead one whose journal is replayed.
    owner: Member,
    left: u8,
    /// It ends a change; otherwise it is the first half of one.
    completes: bool,
}

/// What a watcher has seen of another's slot, and for how many of its ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Watch {
    of: Host,
    seen: Slot,
    ticks: u8,
    /// Its clock has been fast by a tick since.
    skewed: bool,
    /// The slot has got another image since; no image comes twice.
    changed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Claim {
    victim: Member,
    wait: u8,
    /// The clock has been fast by a tick in the wait.
    skewed: bool,
    replayed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
struct State {
    member: bool,
    generation: u8,
    /// Ticks until the gate closes.
    open: u8,
    /// A beat on its way, and how long the gate stays open if it lands.
    beat: Option<u8>,
    holds: bool,
    write: Option<Write>,
    watch: Option<Watch>,
    claim: Option<Claim>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    slots: Vec<Slot>,
    lock: Option<Member>,
    hosts: Vec<State>,
    /// Who got the lock last.
    rightful: Option<Member>,
    /// A change is half done.
    half: bool,
    /// Ticks that have passed, if they are counted.
    ticks: u8,
    /// Takeovers that were completed.
    takeovers: u8,
    broken: Option<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Action {
    Tick,
    Skew(Host),
    Join(Host),
    Crash(Host),
    Beat(Host),
    BeatLands(Host),
    Acquire(Host),
    Release(Host),
    Write(Host),
    WriteLands(Host),
    WriteVanishes(Host),
    Watch(Host, Host),
    Claim(Host),
    Replay(Host),
    Clear(Host),
}

struct Protocol {
    hosts: usize,
    without: Without,
    /// Ticks without a beat after which a host is dead.
    lease: u8,
    /// How long the world lasts, in ticks, if that is bounded. Then hosts also have roles, which keeps the states few:
    /// the first works, the others watch those before them, and work once somebody was taken over.
    ticks: Option<u8>,
}

impl Protocol {
    fn margin(&self) -> u8 {
        if self.without == Without::Margin {
            0
        } else {
            MARGIN
        }
    }

    fn me(world: &World, host: Host) -> Member {
        Member {
            host,
            generation: world.hosts[host].generation,
        }
    }

    fn may_write(&self, state: &State) -> bool {
        state.open > 0 || self.without == Without::Gate
    }

    fn actions_of(&self, world: &World, host: Host, actions: &mut Vec<Action>) {
        let state = &world.hosts[host];
        let slot = world.slots[host];
        if let Some(write) = state.write {
            actions.push(Action::WriteLands(host));
            if write.left == 0 {
                actions.push(Action::WriteVanishes(host));
            }
        }
        if !state.member {
            if slot.owner == Owner::Free && slot.generation < GENERATIONS && state.write.is_none() {
                actions.push(Action::Join(host));
            }
            return;
        }
        // Hosts with roles die by never doing anything again.
        if self.ticks.is_none() {
            actions.push(Action::Crash(host));
        }
        actions.push(match state.beat {
            Some(_) => Action::BeatLands(host),
            None => Action::Beat(host),
        });
        if state.holds && state.write.is_none() && self.may_write(state) {
            actions.push(Action::Write(host));
            if !world.half {
                actions.push(Action::Release(host));
            }
        }
        self.watching(world, host, actions);
        self.taking_over(world, host, actions);
    }

    fn watching(&self, world: &World, host: Host, actions: &mut Vec<Action>) {
        let state = &world.hosts[host];
        let works = self.ticks.is_none() || host == 0 || world.takeovers > 0;
        if works
            && !state.holds
            && state.open > 0
            && world.lock.is_none_or(|holder| void(world, holder))
        {
            actions.push(Action::Acquire(host));
        }
        let watched = if self.ticks.is_none() {
            self.hosts
        } else {
            host
        };
        for other in (0..watched).filter(|&other| other != host) {
            let seen = world.slots[other];
            let known = state
                .watch
                .is_some_and(|watch| watch.of == other && watch.seen == seen && !watch.changed);
            if seen.owner != Owner::Free && !known && state.claim.is_none() {
                actions.push(Action::Watch(host, other));
            }
        }
        let watching = state
            .watch
            .is_some_and(|watch| !watch.skewed && watch.ticks < self.lease);
        let waiting = state
            .claim
            .is_some_and(|claim| !claim.skewed && claim.wait > 0);
        if self.ticks.is_none() && (watching || waiting) {
            actions.push(Action::Skew(host));
        }
    }

    fn taking_over(&self, world: &World, host: Host, actions: &mut Vec<Action>) {
        let state = &world.hosts[host];
        if let (Some(watch), None) = (state.watch, state.claim)
            && state.open > 0
        {
            let dead = match watch.seen.owner {
                Owner::Free => false,
                Owner::Live => watch.ticks >= self.lease,
                Owner::Replaying(by) => world.slots[by.host].generation != by.generation,
            };
            if dead {
                actions.push(Action::Claim(host));
            }
        }
        if let Some(claim) = state.claim
            && claim.wait == 0
            && state.open > 0
            && state.write.is_none()
        {
            if !claim.replayed && self.without != Without::Replay {
                actions.push(Action::Replay(host));
            } else {
                actions.push(Action::Clear(host));
            }
        }
    }

    fn tick(&self, world: &mut World) -> Option<()> {
        if let Some(ticks) = self.ticks {
            world.ticks += 1;
            if world.ticks > ticks {
                return None;
            }
        }
        for state in &mut world.hosts {
            state.open = state.open.saturating_sub(1);
            state.beat = state.beat.map(|open| open.saturating_sub(1));
            if let Some(write) = &mut state.write {
                // A write lands in its time or never.
                write.left = write.left.checked_sub(1)?;
            }
            if let Some(watch) = &mut state.watch {
                watch.ticks = (watch.ticks + 1).min(self.lease);
            }
            if let Some(claim) = &mut state.claim {
                claim.wait = claim.wait.saturating_sub(1);
            }
        }
        Some(())
    }

    fn lose(state: &mut State) {
        *state = State {
            write: state.write,
            ..State::default()
        };
    }

    fn beat_lands(&self, world: &mut World, host: Host) {
        let me = Self::me(world, host);
        let slot = &mut world.slots[host];
        let state = &mut world.hosts[host];
        if slot.owner == Owner::Live && slot.generation == me.generation {
            state.open = state.open.max(state.beat.unwrap_or(0));
            state.beat = None;
            for state in &mut world.hosts {
                if let Some(watch) = state.watch.as_mut().filter(|watch| watch.of == host) {
                    watch.changed = true;
                }
            }
        } else {
            Self::lose(state);
        }
    }

    fn acquire(&self, world: &mut World, host: Host) {
        let me = Self::me(world, host);
        world.lock = Some(me);
        world.rightful = Some(me);
        world.hosts[host].holds = true;
        if world.half {
            world.broken = Some("half a change is seen");
        }
        let other = |(other, state): (Host, &State)| other != host && state.holds && state.open > 0;
        if world.hosts.iter().enumerate().any(other) {
            world.broken = Some("two hosts own the lock");
        }
    }

    fn write_lands(&self, world: &mut World, host: Host) {
        let Some(write) = world.hosts[host].write.take() else {
            return;
        };
        if world.rightful != Some(write.owner) {
            world.broken = Some("a stale write lands");
        }
        world.half = !write.completes;
    }

    fn claim(&self, world: &mut World, host: Host) {
        let me = Self::me(world, host);
        let Some(watch) = world.hosts[host].watch.take() else {
            return;
        };
        let slot = &mut world.slots[watch.of];
        if (*slot != watch.seen || watch.changed) && self.without != Without::Compare {
            return;
        }
        slot.owner = Owner::Replaying(me);
        world.hosts[host].claim = Some(Claim {
            victim: Member {
                host: watch.of,
                generation: slot.generation,
            },
            wait: if self.without == Without::Reclaim {
                0
            } else {
                RECLAIM + 1
            },
            skewed: false,
            replayed: false,
        });
    }

    fn replay(&self, world: &mut World, host: Host) {
        let half = world.half;
        let lock = world.lock;
        let state = &mut world.hosts[host];
        if let Some(claim) = &mut state.claim {
            claim.replayed = true;
            if lock == Some(claim.victim) && half {
                state.write = Some(Write {
                    owner: claim.victim,
                    left: RECLAIM,
                    completes: true,
                });
            }
        }
    }

    fn clear(&self, world: &mut World, host: Host) {
        let me = Self::me(world, host);
        let Some(claim) = world.hosts[host].claim.take() else {
            return;
        };
        let slot = &mut world.slots[claim.victim.host];
        if slot.owner != Owner::Replaying(me) {
            return;
        }
        slot.owner = Owner::Free;
        if self.without != Without::Generation {
            slot.generation += 1;
        }
        if world
            .lock
            .is_some_and(|holder| holder == claim.victim && !void(world, holder))
        {
            world.broken = Some("a dead host's lock is not free after the takeover");
        }
        world.takeovers = (world.takeovers + 1).min(2);
    }
}

/// Tells whether a lock that names `holder` is nobody's.
fn void(world: &World, holder: Member) -> bool {
    world.slots[holder.host].generation != holder.generation
}

impl Model for Protocol {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        let slot = Slot {
            owner: Owner::Free,
            generation: 1,
        };
        vec![World {
            slots: vec![slot; self.hosts],
            lock: None,
            hosts: vec![State::default(); self.hosts],
            rightful: None,
            half: false,
            ticks: 0,
            takeovers: 0,
            broken: None,
        }]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        if world.broken.is_some() {
            return;
        }
        actions.push(Action::Tick);
        for host in 0..self.hosts {
            self.actions_of(world, host, actions);
        }
    }

    fn next_state(&self, last: &World, action: Action) -> Option<World> {
        let mut world = last.clone();
        match action {
            Action::Tick => self.tick(&mut world)?,
            Action::Skew(host) => {
                let state = &mut world.hosts[host];
                if let Some(claim) = &mut state.claim {
                    claim.wait = claim.wait.saturating_sub(1);
                    claim.skewed = true;
                } else if let Some(watch) = &mut state.watch {
                    watch.ticks = (watch.ticks + 1).min(self.lease);
                    watch.skewed = true;
                }
            }
            Action::Join(host) => {
                let slot = &mut world.slots[host];
                slot.owner = Owner::Live;
                world.hosts[host] = State {
                    member: true,
                    generation: slot.generation,
                    open: self.lease - self.margin(),
                    ..State::default()
                };
            }
            Action::Crash(host) => Self::lose(&mut world.hosts[host]),
            Action::Beat(host) => world.hosts[host].beat = Some(self.lease - self.margin()),
            Action::BeatLands(host) => self.beat_lands(&mut world, host),
            Action::Acquire(host) => self.acquire(&mut world, host),
            Action::Release(host) => {
                world.lock = None;
                world.hosts[host].holds = false;
            }
            Action::Write(host) => {
                world.hosts[host].write = Some(Write {
                    owner: Self::me(&world, host),
                    left: RECLAIM,
                    completes: world.half,
                });
            }
            Action::WriteLands(host) => self.write_lands(&mut world, host),
            Action::WriteVanishes(host) => {
                let state = &mut world.hosts[host];
                state.write = None;
                // Its end was not seen, so the replay is done again.
                if let Some(claim) = &mut state.claim {
                    claim.replayed = false;
                }
            }
            Action::Watch(host, of) => {
                world.hosts[host].watch = Some(Watch {
                    of,
                    seen: world.slots[of],
                    ticks: 0,
                    skewed: false,
                    changed: false,
                });
            }
            Action::Claim(host) => self.claim(&mut world, host),
            Action::Replay(host) => self.replay(&mut world, host),
            Action::Clear(host) => self.clear(&mut world, host),
        }
        (world != *last).then_some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("safe", |_, world: &World| world.broken.is_none()),
            Property::sometimes("a takeover completes", |_, world: &World| {
                world.takeovers > 0
            }),
            Property::sometimes("another one follows", |model: &Self, world: &World| {
                model.hosts == 2 || world.takeovers > 1
            }),
        ]
    }
}

fn check(hosts: usize, without: Without, ticks: Option<u8>) -> (usize, Option<String>) {
    let model = Protocol {
        hosts,
        without,
        lease: if hosts == 2 { 3 } else { 2 },
        ticks,
    };
    let checker = model.checker().spawn_bfs().join();
    assert!(without != Without::Nothing || checker.discovery("a takeover completes").is_some());
    assert!(without != Without::Nothing || checker.discovery("another one follows").is_some());
    let broken = checker.discovery("safe").map(|path| {
        let actions: Vec<_> = path.into_actions();
        format!("{actions:?}")
    });
    (checker.unique_state_count(), broken)
}

#[test]
fn two_hosts_are_safe_in_every_state() {
    let (states, broken) = check(2, Without::Nothing, None);
    println!("{states} states");
    assert_eq!(broken, None);
}

/// Enough for the first host to die, for the second to die while it takes over, and for the third to finish both.
const THREE_HOSTS_TICKS: u8 = 9;

#[test]
fn three_hosts_are_safe_while_one_after_the_other_dies() {
    let (states, broken) = check(3, Without::Nothing, Some(THREE_HOSTS_TICKS));
    println!("{states} states");
    assert_eq!(broken, None);
}

#[test]
fn without_any_one_rule_two_hosts_are_not_safe() {
    for without in [
        Without::Gate,
        Without::Margin,
        Without::Reclaim,
        Without::Generation,
        Without::Replay,
        Without::Compare,
    ] {
        let (states, broken) = check(2, without, None);
        println!("without {without:?}: {states} states, {broken:?}");
        assert!(broken.is_some(), "without {without:?}");
    }
}
