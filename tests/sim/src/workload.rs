//! What the simulated worlds do with their time.
//!
//! Times are in TSC cycles of one nanosecond. A behaviour says what comes after each burst; the engine plays it.

use crate::random::Random;

/// Cycles of a microsecond.
pub const US: u64 = 1_000;
/// Cycles of a millisecond.
pub const MS: u64 = 1_000_000;
/// Cycles of a second: the TSC's frequency.
pub const SECOND: u64 = 1_000_000_000;

/// How a world uses its CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// Never blocks.
    Hog,
    /// Runs and sleeps for random times with these means.
    Sleeper {
        /// Mean burst.
        run: u64,
        /// Mean sleep.
        sleep: u64,
    },
    /// Wakes at each multiple of a period and runs for a fixed time.
    Periodic {
        /// The period.
        period: u64,
        /// The burst.
        run: u64,
    },
    /// Runs a short burst, wakes its peer, sleeps until the peer wakes it.
    PingPong {
        /// The burst.
        run: u64,
        /// The other world, as an index of the simulation.
        peer: usize,
    },
    /// A hog for some time, then silent for some time.
    OnOff {
        /// Mean time of running, in CPU time.
        on: u64,
        /// Mean silence.
        off: u64,
    },
    /// Computes, then holds its VM's lock for a while; spins while a sibling has it, and gives way after a spell.
    Locker {
        /// Time outside the lock.
        compute: u64,
        /// Time inside.
        hold: u64,
    },
}

impl Behaviour {
    /// Draws one for a world of a mixed host; pairs and lockers are made by hand.
    pub fn draw(random: &mut Random) -> Self {
        match random.below(20) {
            0..=8 => Self::Hog,
            9..=12 => Self::Sleeper {
                run: random.between(50 * US, 2 * MS),
                sleep: random.between(4 * MS, 60 * MS),
            },
            13..=15 => Self::Periodic {
                period: random.between(5 * MS, 30 * MS),
                run: random.between(50 * US, 800 * US),
            },
            _ => Self::OnOff {
                on: random.between(300 * MS, 2 * SECOND),
                off: random.between(300 * MS, 2 * SECOND),
            },
        }
    }

    /// Tells whether its wake-up latencies are worth counting.
    #[must_use]
    pub fn is_interactive(&self) -> bool {
        matches!(
            self,
            Self::Sleeper { .. } | Self::Periodic { .. } | Self::PingPong { .. }
        )
    }
}
