//! Saved state of the 8254 and of port 61h.

use crate::pit::counter::{Access, Counter, Phase};
use crate::pit::{PORT_61_GATE, PORT_61_WRITABLE, Pit};
use api::device::{Device, RestoreError, SavedState};
use api::time::VmInstant;

/// State of the timer chip.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PitSaved {
    /// Counters 0 to 2.
    pub counters: [PitCounterSaved; 3],
    /// Writable bits of port 61h.
    pub port_61: u8,
    /// Tick (of 1,193,182 Hz since the VM's creation) up to which edges became interrupts.
    pub checked: u64,
    /// Virtual time in nanoseconds of the last interrupt.
    pub raised_at_nanos: Option<u64>,
    /// Level last driven on interrupt 0.
    pub line_level: bool,
}

/// State of one counter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PitCounterSaved {
    /// 0 to 5.
    pub mode: u8,
    /// Counts in BCD.
    pub bcd: bool,
    /// 1 is low byte only, 2 high byte only, 3 both.
    pub access: u8,
    /// Count register as written.
    pub count: u16,
    /// What it does.
    pub phase: PitPhaseSaved,
    /// Level of the gate.
    pub gate: bool,
    /// Low byte of a half-done write.
    pub write_low: Option<u8>,
    /// The next byte of a two-byte read is the high one.
    pub read_high: bool,
    /// Latched count.
    pub latched_count: Option<u16>,
    /// Latched status.
    pub latched_status: Option<u8>,
}

/// What a counter does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PitPhaseSaved {
    /// No count written yet.
    Idle,
    /// Waits for its gate.
    Armed,
    /// Counts since this tick.
    Counting(u64),
    /// Stopped by its gate after so many ticks.
    Held(u64),
}

impl SavedState for PitSaved {
    const KIND: &'static str = "i8254";
    const VERSION: u16 = 1;
}

impl Device for Pit {
    type Saved = PitSaved;

    fn reset(&mut self) {
        *self = Self::new();
    }

    fn save(&self) -> PitSaved {
        let Self {
            counters,
            port_61,
            checked,
            raised_at,
            line_level,
        } = self;
        PitSaved {
            counters: counters.each_ref().map(save_counter),
            port_61: *port_61,
            checked: *checked,
            raised_at_nanos: raised_at.map(VmInstant::as_nanos),
            line_level: *line_level,
        }
    }

    fn restore(&mut self, saved: PitSaved) -> Result<(), RestoreError> {
        if saved.port_61 & !PORT_61_WRITABLE != 0 {
            return Err(bad("port_61"));
        }
        let [first, second, third] = &saved.counters;
        let gate = saved.port_61 & PORT_61_GATE != 0;
        *self = Self {
            counters: [
                restore_counter(first, true)?,
                restore_counter(second, true)?,
                restore_counter(third, gate)?,
            ],
            port_61: saved.port_61,
            checked: saved.checked,
            raised_at: saved.raised_at_nanos.map(VmInstant::from_nanos),
            line_level: saved.line_level,
        };
        Ok(())
    }
}

fn bad(field: &'static str) -> RestoreError {
    RestoreError::Field {
        kind: PitSaved::KIND,
        field,
    }
}

fn save_counter(counter: &Counter) -> PitCounterSaved {
    let Counter {
        mode,
        bcd,
        access,
        count,
        phase,
        gate,
        write_low,
        read_high,
        latched_count,
        latched_status,
    } = *counter;
    PitCounterSaved {
        mode,
        bcd,
        access: match access {
            Access::Low => 1,
            Access::High => 2,
            Access::Both => 3,
        },
        count,
        phase: match phase {
            Phase::Idle => PitPhaseSaved::Idle,
            Phase::Armed => PitPhaseSaved::Armed,
            Phase::Counting { since } => PitPhaseSaved::Counting(since),
            Phase::Held { elapsed } => PitPhaseSaved::Held(elapsed),
        },
        gate,
        write_low,
        read_high,
        latched_count,
        latched_status,
    }
}

fn restore_counter(saved: &PitCounterSaved, gate: bool) -> Result<Counter, RestoreError> {
    if saved.mode > 5 {
        return Err(bad("mode"));
    }
    if saved.gate != gate {
        return Err(bad("gate"));
    }
    Ok(Counter {
        mode: saved.mode,
        bcd: saved.bcd,
        access: match saved.access {
            1 => Access::Low,
            2 => Access::High,
            3 => Access::Both,
            _ => return Err(bad("access")),
        },
        count: saved.count,
        phase: match saved.phase {
            PitPhaseSaved::Idle => Phase::Idle,
            PitPhaseSaved::Armed => Phase::Armed,
            PitPhaseSaved::Counting(since) => Phase::Counting { since },
            PitPhaseSaved::Held(elapsed) => Phase::Held { elapsed },
        },
        gate: saved.gate,
        write_low: saved.write_low,
        read_high: saved.read_high,
        latched_count: saved.latched_count,
        latched_status: saved.latched_status,
    })
}
