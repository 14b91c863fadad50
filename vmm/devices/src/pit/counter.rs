//! One counter of the 8254 (Intel data sheet 231164), as a function of the tick number.

/// Which bytes of the count an access moves (control word bits 5:4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Low,
    High,
    /// Low byte, then high byte.
    Both,
}

/// What the counting element does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// A control word was written, but no full count since.
    Idle,
    /// Loaded, waiting for a rising gate (modes 1 and 5).
    Armed,
    /// Counting; the count was loaded at this tick.
    Counting { since: u64 },
    /// The gate is low: so many ticks were counted before (modes 0 and 4), or the cycle waits to restart (2 and 3).
    Held { elapsed: u64 },
}

/// State of one counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counter {
    /// 0 to 5.
    pub(super) mode: u8,
    pub(super) bcd: bool,
    pub(super) access: Access,
    /// Count register as written.
    pub(super) count: u16,
    pub(super) phase: Phase,
    pub(super) gate: bool,
    /// Low byte of a two-byte write that is half done.
    pub(super) write_low: Option<u8>,
    /// The next byte of a two-byte read is the high one.
    pub(super) read_high: bool,
    /// Output latch.
    pub(super) latched_count: Option<u16>,
    pub(super) latched_status: Option<u8>,
}

/// A counter latch command is a control word whose access field is 0.
pub(super) const fn is_latch_command(control: u8) -> bool {
    control >> 4 & 3 == 0
}

impl Counter {
    pub(super) const fn power_on(gate: bool) -> Self {
        Self {
            mode: 0,
            bcd: false,
            access: Access::Both,
            count: 0,
            phase: Phase::Idle,
            gate,
            write_low: None,
            read_high: false,
            latched_count: None,
            latched_status: None,
        }
    }

    /// Programs mode and access; counting stops until a full count is written. Latch commands are not for here.
    pub(super) fn write_control(&mut self, control: u8) {
        let access = match control >> 4 & 3 {
            1 => Access::Low,
            2 => Access::High,
            3 => Access::Both,
            _ => return,
        };
        // 6 and 7 are 2 and 3: the top bit is "don't care" there.
        let mode = match control >> 1 & 7 {
            mode @ (6 | 7) => mode & 3,
            mode => mode,
        };
        *self = Self {
            mode,
            bcd: control & 1 != 0,
            access,
            ..Self::power_on(self.gate)
        };
    }

    pub(super) fn write(&mut self, value: u8, tick: u64) {
        let count = match (self.access, self.write_low.take()) {
            (Access::Low, _) => u16::from(value),
            (Access::High, _) => u16::from_le_bytes([0, value]),
            (Access::Both, Some(low)) => u16::from_le_bytes([low, value]),
            (Access::Both, None) => {
                self.write_low = Some(value);
                // In mode 0 the first byte stops the counting and lowers the output.
                if self.mode == 0 {
                    self.phase = Phase::Idle;
                }
                return;
            }
        };
        self.load(count, tick);
    }

    fn load(&mut self, count: u16, tick: u64) {
        self.count = count;
        self.phase = match self.mode {
            1 | 5 => match self.phase {
                // A running one-shot is not disturbed; the new count is for the next trigger.
                running @ Phase::Counting { .. } => running,
                _ => Phase::Armed,
            },
            _ if self.gate => Phase::Counting { since: tick },
            _ => Phase::Held { elapsed: 0 },
        };
    }

    pub(super) fn set_gate(&mut self, gate: bool, tick: u64) {
        let (rising, falling) = (gate && !self.gate, !gate && self.gate);
        self.gate = gate;
        self.phase = match (self.mode, self.phase) {
            (1 | 5, Phase::Armed | Phase::Counting { .. }) if rising => {
                Phase::Counting { since: tick }
            }
            (2 | 3, Phase::Held { .. }) if rising => Phase::Counting { since: tick },
            (2 | 3, Phase::Counting { .. }) if falling => Phase::Held { elapsed: 0 },
            (0 | 4, Phase::Held { elapsed }) if rising => Phase::Counting {
                since: tick.saturating_sub(elapsed),
            },
            (0 | 4, Phase::Counting { since }) if falling => Phase::Held {
                elapsed: tick.saturating_sub(since),
            },
            (_, phase) => phase,
        };
    }

    /// Ticks per cycle: 1 to 65536, or 1 to 10000 in BCD (somewhat more with digits above 9).
    fn period(&self) -> u64 {
        let period = if self.bcd {
            let digit = |shift: u32| u64::from(self.count >> shift & 0xf);
            match self.count {
                0 => 10_000,
                _ => digit(12)
                    .wrapping_mul(1000)
                    .wrapping_add(digit(8).wrapping_mul(100))
                    .wrapping_add(digit(4).wrapping_mul(10))
                    .wrapping_add(digit(0)),
            }
        } else {
            match self.count {
                0 => 0x1_0000,
                count => count.into(),
            }
        };
        period.max(1)
    }

    /// Ticks counted since the load, or `None` while there is nothing to count.
    fn elapsed(&self, tick: u64) -> Option<u64> {
        match self.phase {
            Phase::Idle | Phase::Armed => None,
            Phase::Counting { since } => Some(tick.saturating_sub(since)),
            Phase::Held { elapsed } => Some(elapsed),
        }
    }

    /// Position in the running cycle of modes 2 and 3.
    fn position(elapsed: u64, period: u64) -> u64 {
        elapsed.checked_rem(period).unwrap_or(0)
    }

    /// Level of OUT at `tick`.
    pub(super) fn output(&self, tick: u64) -> bool {
        let period = self.period();
        let Some(elapsed) = self.elapsed(tick) else {
            return self.mode != 0;
        };
        let held = matches!(self.phase, Phase::Held { .. });
        match self.mode {
            0 | 1 => elapsed >= period,
            2 | 3 if held => true,
            2 => Self::position(elapsed, period) != period.saturating_sub(1),
            3 => Self::position(elapsed, period) < period.div_ceil(2),
            _ => elapsed != period,
        }
    }

    /// The first tick after `after` at which OUT rises, if counting alone makes it rise.
    pub(super) fn next_rise(&self, after: u64) -> Option<u64> {
        let Phase::Counting { since } = self.phase else {
            return None;
        };
        let period = self.period();
        let rise = match self.mode {
            0 | 1 => since.saturating_add(period),
            2 | 3 => {
                let cycles = after
                    .saturating_sub(since)
                    .checked_div(period)
                    .unwrap_or(0)
                    .saturating_add(1);
                since.saturating_add(cycles.saturating_mul(period))
            }
            _ => since.saturating_add(period).saturating_add(1),
        };
        (rise > after).then_some(rise)
    }

    /// The counting element as software reads it, in BCD if so programmed.
    fn current(&self, tick: u64) -> u16 {
        let period = self.period();
        let Some(elapsed) = self.elapsed(tick) else {
            return self.count;
        };
        let wrap = if self.bcd { 10_000 } else { 0x1_0000 };
        let value = match self.mode {
            2 => period.saturating_sub(Self::position(elapsed, period)),
            3 => {
                // Counts down by two, through each half of the square wave.
                let position = Self::position(elapsed, period);
                let half = period.div_ceil(2);
                let in_half = if position < half {
                    position
                } else {
                    position.saturating_sub(half)
                };
                (period & !1).saturating_sub(in_half.saturating_mul(2))
            }
            // Runs on past zero.
            _ => {
                let behind = elapsed.checked_rem(wrap).unwrap_or(0);
                period.saturating_add(wrap).saturating_sub(behind)
            }
        };
        let value = value.checked_rem(wrap).unwrap_or(0);
        let raw = if self.bcd { to_bcd(value) } else { value };
        let [low, high, ..] = raw.to_le_bytes();
        u16::from_le_bytes([low, high])
    }

    pub(super) fn latch_count(&mut self, tick: u64) {
        // A second latch command before the read is ignored.
        if self.latched_count.is_none() {
            self.latched_count = Some(self.current(tick));
        }
    }

    pub(super) fn latch_status(&mut self, tick: u64) {
        if self.latched_status.is_some() {
            return;
        }
        let out = u8::from(self.output(tick)) << 7;
        let null_count = u8::from(self.phase == Phase::Idle) << 6;
        let access = match self.access {
            Access::Low => 1 << 4,
            Access::High => 2 << 4,
            Access::Both => 3 << 4,
        };
        self.latched_status = Some(out | null_count | access | self.mode << 1 | u8::from(self.bcd));
    }

    pub(super) fn read(&mut self, tick: u64) -> u8 {
        if let Some(status) = self.latched_status.take() {
            return status;
        }
        let value = match self.latched_count {
            Some(latched) => latched,
            None => self.current(tick),
        };
        let [low, high] = value.to_le_bytes();
        let first_of_two = self.access == Access::Both && !self.read_high;
        self.read_high = first_of_two;
        if !first_of_two {
            self.latched_count = None;
        }
        match self.access {
            Access::Low => low,
            Access::High => high,
            Access::Both if first_of_two => low,
            Access::Both => high,
        }
    }
}

/// Packs the four decimal digits of `value`, below 10000.
fn to_bcd(value: u64) -> u64 {
    let (ones, tens) = (value % 10, value / 10 % 10);
    let (hundreds, thousands) = (value / 100 % 10, value / 1000 % 10);
    ones | tens << 4 | hundreds << 8 | thousands << 12
}
