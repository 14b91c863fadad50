//! A world: what can be put on a CPU.
//!
//! Plain state and the arithmetic of its virtual time; who decides about it stands in `pick.rs` and `wake.rs`.

use crate::RATE_ONE;
use crate::account::Account;
use crate::scheduler::Cycles;
use crate::topology::Cpu;

/// Lowest rate that virtual time is computed with, so that it cannot run away.
pub(crate) const RATE_MIN: u64 = RATE_ONE / 65_536;

/// What a world is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorldState {
    /// Waits for an event.
    Blocked,
    /// Waits for a CPU.
    Ready,
    /// Is on that CPU.
    Running(Cpu),
    /// Waits for a sibling vCPU to catch up.
    CoStopped,
    /// Waits for a limit.
    Limited,
}

#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) group: u32,
    pub(crate) class: u32,
    /// It works for the vCPUs of its VM: it counts for nothing in the VM's size and skew.
    pub(crate) helper: bool,
    pub(crate) state: WorldState,
    /// When the state began, or when its time was last charged.
    pub(crate) since: u64,
    /// When it last became ready, for the longest wait.
    pub(crate) ready_since: u64,

    /// The rate it is entitled to if it wants it, and what it was entitled to by its demand.
    pub(crate) rate: u64,
    pub(crate) entitled: u64,
    pub(crate) next_rate: u64,
    /// Virtual time in its class: service received by rate, in cycles; and by when the next request is due.
    pub(crate) vtime: i64,
    pub(crate) deadline: i64,
    /// While blocked: how far it was behind its class, in virtual cycles.
    pub(crate) lag: i64,
    /// The service that one deadline stands for, in cycles: the length of its bursts, within bounds.
    pub(crate) request: u64,
    pub(crate) burst: u64,

    /// How far the guest's time got on this vCPU, in cycles, on a scale common to its VM.
    pub(crate) progress: u64,
    pub(crate) last_cpu: Option<Cpu>,

    /// Since the last refresh: cycles of running and of wanting to run.
    pub(crate) period_run: u64,
    pub(crate) period_ready: u64,
    /// How many periods in a row it wanted to run all the time, and its smoothed use.
    pub(crate) hungry_periods: u32,
    pub(crate) use_mean: u64,
    /// Demand, and a cap where an affinity makes more impossible: rates.
    pub(crate) demand: u64,
    pub(crate) cap: u64,
    /// What its shares alone would give it at its group's level.
    pub(crate) pull: u64,

    /// Below a limit that is the bottleneck: the rate it is held to, and until when it has used that up.
    pub(crate) pace: Option<u64>,
    pub(crate) paced_until: u64,

    pub(crate) account: Account,
}

impl World {
    pub(crate) fn new(group: u32, class: u32, now: u64, request: u64) -> Self {
        Self {
            group,
            class,
            helper: false,
            state: WorldState::Blocked,
            since: now,
            ready_since: now,
            rate: RATE_ONE / 100,
            entitled: 0,
            next_rate: RATE_ONE / 100,
            vtime: 0,
            deadline: 0,
            lag: 0,
            request,
            burst: 0,
            progress: 0,
            last_cpu: None,
            period_run: 0,
            period_ready: 0,
            hungry_periods: 0,
            use_mean: 0,
            demand: 0,
            cap: RATE_ONE,
            pull: 0,
            pace: None,
            paced_until: 0,
            account: Account::default(),
        }
    }

    /// Returns the virtual time that `cycles` of service take.
    #[inline]
    pub(crate) fn virtual_of(&self, cycles: u64) -> i64 {
        if cycles < u64::MAX / RATE_ONE {
            // The usual case, for which one division of 64 bits does.
            return i64::try_from(cycles * RATE_ONE / self.rate).unwrap_or(i64::MAX / 4);
        }
        let virtual_cycles = u128::from(cycles) * u128::from(RATE_ONE) / u128::from(self.rate);
        i64::try_from(virtual_cycles).unwrap_or(i64::MAX / 4)
    }

    /// Sets the deadline of the next request, at most a turn away while slices of the least length allow it.
    pub(crate) fn set_deadline(&mut self, cycles: &Cycles) {
        let turn = i64::try_from(cycles.turn).unwrap_or(i64::MAX / 8);
        let least = self.virtual_of(cycles.slice_min);
        let span = self.virtual_of(self.request).min(turn).max(least);
        self.deadline = self.vtime.saturating_add(span);
    }

    /// Returns the service until the deadline, in cycles; zero if it is reached.
    pub(crate) fn service_left(&self) -> u64 {
        let left = u128::from(
            self.deadline
                .saturating_sub(self.vtime)
                .max(0)
                .unsigned_abs(),
        );
        u64::try_from(left * u128::from(self.rate) / u128::from(RATE_ONE)).unwrap_or(u64::MAX)
    }

    /// Books the time since the last booking under the current state. A running world is charged elsewhere as well.
    pub(crate) fn book(&mut self, now: u64) -> u64 {
        let cycles = now.saturating_sub(self.since);
        self.since = self.since.max(now);
        let account = &mut self.account;
        match self.state {
            WorldState::Blocked => account.wait += cycles,
            WorldState::Ready => {
                account.ready += cycles;
                self.period_ready += cycles;
                let waited = now.saturating_sub(self.ready_since);
                account.ready_max = account.ready_max.max(waited);
            }
            WorldState::Running(_) => {
                account.run += cycles;
                self.period_run += cycles;
            }
            WorldState::CoStopped => {
                account.co_stop += cycles;
                self.period_ready += cycles;
            }
            WorldState::Limited => {
                account.limited += cycles;
                self.period_ready += cycles;
            }
        }
        cycles
    }

    /// Enters `state` at `now`.
    pub(crate) fn enter(&mut self, state: WorldState, now: u64) {
        self.book(now);
        if state == WorldState::Ready {
            self.ready_since = now;
        }
        self.state = state;
    }
}
