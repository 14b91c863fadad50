//! The weather: what a seed does to hosts, paths and requests, and how often.

use super::broken::Rule;
use super::disk::Fabric;
use super::world::{Event, MS, SECOND, World};

/// Something that strikes a host.
#[derive(Clone, Copy, Debug)]
pub enum Blow {
    /// It does nothing for so many nanoseconds.
    Pause(u64),
    /// It cannot reach the disk for so long.
    Cut(u64),
    /// It dies, and starts again after so long.
    Crash(u64),
    /// All die, the disk loses power too, and they start again after so long.
    Blackout(u64),
}

/// How bad it is.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// What happens to requests.
    pub fabric: Fabric,
    /// Most that a clock is fast or slow, in millionths.
    drift_ppm_max: u64,
    /// Mean time between blows; 0 for none.
    between_blows: u64,
    /// Chances of the four kinds of blows, out of their sum.
    kinds: [u64; 4],
}

impl Fabric {
    /// The same fabric as it is in fair weather.
    #[must_use]
    pub const fn fair(self) -> Self {
        Self {
            lost_replies: 0,
            lost_requests: 0,
            late: 0,
            repeated: 0,
            torn: 0,
            ..self
        }
    }
}

impl Weather {
    /// Weather in which nothing goes wrong and a request takes up to `latency` nanoseconds.
    #[must_use]
    pub const fn calm(latency: u64) -> Self {
        Self {
            fabric: Fabric {
                in_flight: 3_800 * MS,
                timeout: 1_000 * MS,
                latency,
                lost_replies: 0,
                lost_requests: 0,
                late: 0,
                repeated: 0,
                torn: 0,
                rule: None,
            },
            drift_ppm_max: 0,
            between_blows: 0,
            kinds: [0; 4],
        }
    }

    /// Draws the weather of a schedule.
    #[must_use]
    pub fn draw(world: &World, rule: Option<Rule>) -> Self {
        let scale = [0, 5, 30][world.below(3) as usize];
        let chance = |weight: u64| {
            if world.chance(600) {
                world.below(scale * weight + 1)
            } else {
                0
            }
        };
        let fabric = Fabric {
            // The reclaim window is 4 s; a clock that is 4 % fast makes 3.84 s of it.
            in_flight: 3_800 * MS,
            timeout: 1_000 * MS,
            latency: 0,
            lost_replies: chance(2),
            lost_requests: chance(1),
            // Without the window the fabric must be one that needs it.
            late: if rule == Some(Rule::NoReclaim) {
                60
            } else {
                chance(2)
            },
            repeated: if rule == Some(Rule::WritesComeAgain) {
                60
            } else {
                chance(3)
            },
            torn: chance(10),
            rule,
        };
        let latency = [200_000, 2 * MS, 20 * MS][world.below(3) as usize];
        let drift_ppm_max = match rule {
            Some(Rule::WildClocks) => 300_000,
            _ => [0, 1_000, 40_000][world.below(3) as usize],
        };
        let kinds = std::array::from_fn(|_| world.below(4));
        Self {
            fabric: Fabric { latency, ..fabric },
            drift_ppm_max,
            between_blows: [0, 8 * SECOND, 25 * SECOND][world.below(3) as usize],
            kinds,
        }
    }

    /// Draws how much a host's clock is fast, in millionths.
    #[must_use]
    pub fn drift(&self, world: &World) -> i64 {
        let most = self.drift_ppm_max;
        world.between(0, 2 * most) as i64 - most as i64
    }

    /// Schedules the next blow.
    pub fn brew(&self, world: &World) {
        if self.between_blows > 0 {
            world.schedule(world.below(2 * self.between_blows), Event::Strike);
        }
    }

    /// Draws a blow.
    #[must_use]
    pub fn blow(&self, world: &World) -> Blow {
        let [pauses, cuts, crashes, blackouts] = self.kinds;
        let dice = world.below(4 * (pauses + cuts + crashes) + blackouts);
        let nanos = match world.below(3) {
            0 => world.between(MS, SECOND),
            1 => world.between(SECOND, 10 * SECOND),
            _ => world.between(10 * SECOND, 40 * SECOND),
        };
        if dice < 4 * pauses {
            Blow::Pause(nanos)
        } else if dice < 4 * (pauses + cuts) {
            Blow::Cut(nanos)
        } else if dice < 4 * (pauses + cuts + crashes) {
            Blow::Crash(nanos)
        } else {
            Blow::Blackout(nanos)
        }
    }
}
