//! When a machine's time stands still: from the moment its last vCPU has stopped to the end of the pause.
//!
//! Not from the moment the pause is asked for: until a vCPU stops, it reads its clocks, and what it has read must never
//! come again. The clock itself is the caller's, as is telling the vCPUs.

/// The pause of a machine that was asked for last. Times are ticks of any clock that never goes back.
#[derive(Debug)]
pub struct Pause {
    vcpus: u32,
    number: PauseNumber,
    /// It has not ended.
    goes_on: bool,
    /// vCPUs that have stopped in it.
    parked: u32,
    /// When the last of them did.
    stopped_at: Option<u64>,
}

/// Tells the pauses of a machine apart, so that a vCPU knows in which one it has stopped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PauseNumber(u64);

impl Pause {
    /// Makes the pause before the start of a machine with `vcpus` vCPUs, none of which runs; its time stands still.
    #[must_use]
    pub fn before_start(vcpus: u32, now: u64) -> Self {
        Self {
            vcpus,
            number: PauseNumber::default(),
            goes_on: true,
            parked: vcpus,
            stopped_at: Some(now),
        }
    }

    /// Returns when time stopped; `None` while it runs.
    #[must_use]
    pub fn stopped_at(&self) -> Option<u64> {
        self.stopped_at
    }

    /// Begins the next pause.
    pub fn begin(&mut self) {
        self.number.0 = self.number.0.wrapping_add(1);
        self.goes_on = true;
        self.parked = 0;
    }

    /// Notes that a vCPU stands still until the pause ends; `last` is the pause in which that vCPU did so last. With the
    /// last vCPU, time stops.
    pub fn park(&mut self, last: &mut PauseNumber, now: u64) {
        if !self.goes_on || *last == self.number {
            return;
        }
        *last = self.number;
        self.parked = self.parked.saturating_add(1);
        if self.parked == self.vcpus {
            self.stopped_at = Some(now);
        }
    }

    /// Ends the pause; returns for how long time stood still. That is 0 when some vCPU never stopped.
    pub fn end(&mut self, now: u64) -> u64 {
        self.goes_on = false;
        let stopped_at = self.stopped_at.take();
        stopped_at.map_or(0, |at| now.saturating_sub(at))
    }
}

#[cfg(test)]
mod tests {
    use super::{Pause, PauseNumber};

    #[test]
    fn time_stands_still_before_the_start() {
        let mut pause = Pause::before_start(2, 100);
        assert_eq!(pause.stopped_at(), Some(100));
        assert_eq!(pause.end(130), 30);
        assert_eq!(pause.stopped_at(), None);
    }

    #[test]
    fn time_stops_when_the_last_vcpu_has_stopped() {
        let mut pause = Pause::before_start(2, 0);
        let (mut first, mut second) = (PauseNumber::default(), PauseNumber::default());
        pause.end(0);
        for start in [100, 200, 300] {
            pause.begin();
            pause.park(&mut first, start + 1);
            pause.park(&mut first, start + 2);
            assert_eq!(
                pause.stopped_at(),
                None,
                "a vCPU that stops twice counts once"
            );
            pause.park(&mut second, start + 3);
            assert_eq!(pause.stopped_at(), Some(start + 3));
            pause.park(&mut first, start + 4);
            assert_eq!(pause.end(start + 10), 7);
        }
    }

    #[test]
    fn a_pause_in_which_a_vcpu_never_stopped_takes_no_time_away() {
        let mut pause = Pause::before_start(2, 0);
        let (mut first, mut second) = (PauseNumber::default(), PauseNumber::default());
        pause.end(0);
        pause.begin();
        pause.park(&mut first, 10);
        assert_eq!(pause.end(20), 0);
        pause.park(&mut second, 30);
        assert_eq!(
            pause.stopped_at(),
            None,
            "stopping after the end stops no clock"
        );
        pause.begin();
        pause.park(&mut second, 40);
        pause.park(&mut first, 50);
        assert_eq!(pause.end(60), 10);
    }
}
