//! Saved state of a local APIC. What is fixed when the CPU is made (IDs, address width) is not part of it.

use crate::lapic::LocalApic;
use crate::lapic::registers::{
    BASE_BSP, BASE_ENABLE, BASE_RESERVED_LOW, BASE_X2APIC, Lvt, SPURIOUS_MASK, VECTOR_MIN,
};
use crate::lapic::timer::{DIVIDE_MASK, Timer, TimerMode};
use crate::lapic::vectors::VectorSet;
use crate::message::ApicMode;
use api::device::{Device, RestoreError, SavedState};
use api::time::VmInstant;

/// State of one local APIC, registers by their names in the manual.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LapicSaved {
    /// IA32_APIC_BASE: mode, address and BSP flag.
    pub apic_base: u64,
    /// Interrupt request register, vector 0 in bit 0 of the first word.
    pub irr: [u64; 4],
    /// In-service register.
    pub isr: [u64; 4],
    /// Trigger mode register.
    pub tmr: [u64; 4],
    /// Task priority; the processor priority follows from it.
    pub tpr: u8,
    /// Spurious-interrupt vector register.
    pub spurious: u32,
    /// Interrupt command register, low half.
    pub icr_low: u32,
    /// Interrupt command register, high half.
    pub icr_high: u32,
    /// Local vector table: timer, thermal, performance, LINT0, LINT1, error.
    pub lvt: [u32; 6],
    /// xAPIC ID.
    pub xapic_id: u8,
    /// Logical destination in xAPIC mode.
    pub ldr: u8,
    /// Destination format, bits 31:28.
    pub format: u8,
    /// Error status as of its last write.
    pub errors: u32,
    /// Errors since then.
    pub errors_pending: u32,
    /// Initial count of the timer.
    pub timer_initial: u32,
    /// Divide configuration of the timer.
    pub timer_divide: u32,
    /// Virtual time in nanoseconds at which the current count reaches 0.
    pub timer_expiry_nanos: Option<u64>,
    /// IA32_TSC_DEADLINE.
    pub tsc_deadline: u64,
}

impl SavedState for LapicSaved {
    const KIND: &'static str = "lapic";
    const VERSION: u16 = 1;
}

impl Device for LocalApic {
    type Saved = LapicSaved;

    fn reset(&mut self) {
        *self = Self::new(self.config);
    }

    fn save(&self) -> LapicSaved {
        let Self {
            config: _,
            irr,
            isr,
            tmr,
            tpr,
            ppr: _,
            mode: _,
            spurious,
            icr_low,
            icr_high,
            timer:
                Timer {
                    initial,
                    divide,
                    expiry,
                    tsc_deadline,
                },
            lvt,
            base: _,
            xapic_id,
            ldr,
            format,
            errors,
            errors_pending,
        } = self;
        LapicSaved {
            apic_base: self.apic_base(),
            irr: irr.words(),
            isr: isr.words(),
            tmr: tmr.words(),
            tpr: *tpr,
            spurious: *spurious,
            icr_low: *icr_low,
            icr_high: *icr_high,
            lvt: *lvt,
            xapic_id: *xapic_id,
            ldr: *ldr,
            format: *format,
            errors: *errors,
            errors_pending: *errors_pending,
            timer_initial: *initial,
            timer_divide: *divide,
            timer_expiry_nanos: expiry.map(VmInstant::as_nanos),
            tsc_deadline: *tsc_deadline,
        }
    }

    fn restore(&mut self, saved: LapicSaved) -> Result<(), RestoreError> {
        check(&saved)?;
        let mut restored = Self {
            irr: VectorSet::from_words(saved.irr),
            isr: VectorSet::from_words(saved.isr),
            tmr: VectorSet::from_words(saved.tmr),
            spurious: saved.spurious,
            icr_low: saved.icr_low,
            icr_high: saved.icr_high,
            timer: Timer {
                initial: saved.timer_initial,
                divide: saved.timer_divide,
                expiry: saved.timer_expiry_nanos.map(VmInstant::from_nanos),
                tsc_deadline: saved.tsc_deadline,
            },
            lvt: saved.lvt,
            xapic_id: saved.xapic_id,
            ldr: saved.ldr,
            format: saved.format,
            errors: saved.errors,
            errors_pending: saved.errors_pending,
            ..Self::new(self.config)
        };
        restored.restore_base(saved.apic_base)?;
        restored.set_tpr(saved.tpr);
        *self = restored;
        Ok(())
    }
}

impl LocalApic {
    /// Sets mode and base of a saved state; unlike a write there is no mode to come from.
    fn restore_base(&mut self, value: u64) -> Result<(), RestoreError> {
        let field = Err(RestoreError::Field {
            kind: LapicSaved::KIND,
            field: "apic_base",
        });
        let above_phys = value.checked_shr(self.config.phys_bits).unwrap_or(0);
        let bsp = value & BASE_BSP != 0;
        if value & BASE_RESERVED_LOW != 0 || above_phys != 0 || bsp != self.config.bsp {
            return field;
        }
        self.mode = match (value & BASE_ENABLE != 0, value & BASE_X2APIC != 0) {
            (false, false) => ApicMode::Disabled,
            (true, false) => ApicMode::XApic,
            (true, true) if self.config.x2apic => ApicMode::X2Apic,
            _ => return field,
        };
        self.base = value & !0xfff;
        Ok(())
    }
}

/// Checks every field that is not free.
fn check(saved: &LapicSaved) -> Result<(), RestoreError> {
    let valid = |ok: bool, field| {
        if ok {
            Ok(())
        } else {
            Err(RestoreError::Field {
                kind: LapicSaved::KIND,
                field,
            })
        }
    };
    let illegal = (1_u64 << VECTOR_MIN).wrapping_sub(1);
    let [irr0, ..] = saved.irr;
    let [isr0, ..] = saved.isr;
    valid(irr0 & illegal == 0, "irr")?;
    valid(isr0 & illegal == 0, "isr")?;
    let off = saved.apic_base & BASE_ENABLE == 0;
    valid(!off || saved.irr == [0; 4], "irr")?;
    valid(!off || saved.isr == [0; 4], "isr")?;
    valid(saved.spurious & !SPURIOUS_MASK == 0, "spurious")?;
    valid(saved.format <= 0xf, "format")?;
    valid(saved.timer_divide & !DIVIDE_MASK == 0, "timer_divide")?;
    let lvt = saved.lvt.iter().zip(Lvt::ALL);
    for (entry, kind) in lvt {
        valid(entry & !kind.writable() == 0, "lvt")?;
    }
    let [timer, ..] = saved.lvt;
    let counts_tsc = TimerMode::from_lvt(timer) == TimerMode::TscDeadline;
    valid(counts_tsc || saved.tsc_deadline == 0, "tsc_deadline")?;
    let counts_time = saved.timer_expiry_nanos.is_some();
    valid(!counts_tsc || !counts_time, "timer_expiry_nanos")
}
