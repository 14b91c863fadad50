//! Local APIC of one virtual CPU: xAPIC and x2APIC modes, TSC-deadline timer (Intel SDM vol. 3, chapter 12).
//!
//! The CPU that owns it calls in on every access and before every entry; whatever concerns others (messages, EOI
//! broadcasts) leaves as an [`ApicOutcome`]. Left out: EOI-broadcast suppression, level-triggered LINT pins, AMD's
//! extended LVT, and bus arbitration, which no software can observe.

use crate::lapic::registers::{
    BASE_BSP, BASE_ENABLE, BASE_RESERVED_LOW, BASE_X2APIC, ERROR_RECEIVE_ILLEGAL, LVT_COUNT,
    LVT_MASKED, LVT_RESET, Lvt, SPURIOUS_ENABLE, VECTOR_MIN,
};
use crate::lapic::timer::{Timer, TimerMode};
use crate::lapic::vectors::VectorSet;
use crate::layout::LAPIC_BASE;
use crate::message::{ApicIdentity, ApicMessage, ApicMode, Delivery};
use addr::Gpa;
use thiserror::Error;

mod access;
mod registers;
pub mod saved;
#[cfg(test)]
mod tests;
mod timer;
mod vectors;

pub use timer::{Now, TimerDeadline};

/// The access is answered by a general-protection fault, #GP(0).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("general-protection fault")]
pub struct Gp;

/// What an access or an acknowledgement left for the caller to do. The pending vector may have changed in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApicOutcome {
    /// Nothing.
    None,
    /// A vector left service; if it was level-triggered, the I/O APIC must hear of it.
    Eoi {
        /// The vector.
        vector: u8,
        /// Its TMR bit.
        level: bool,
    },
    /// A message for this or other local APICs.
    Ipi(ApicMessage),
    /// [`LocalApic::timer_deadline`] may have changed.
    TimerChanged,
    /// [`LocalApic::identity`], the mode, the base address and the timer may have changed.
    Reconfigured,
}

/// A local interrupt pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LintPin {
    /// LINT0: INTR of the 8259 pair.
    Lint0,
    /// LINT1: NMI.
    Lint1,
}

/// What a rising edge on a local interrupt pin does to the CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LintOutcome {
    /// Masked, or now pending in the IRR.
    None,
    /// Take a vector from the 8259 pair as long as it drives INTR.
    ExtInt,
    /// A non-maskable interrupt.
    Nmi,
    /// A system management interrupt.
    Smi,
    /// INIT.
    Init,
}

/// What is fixed when a virtual CPU is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LapicConfig {
    /// x2APIC ID; its low 8 bits are the initial xAPIC ID.
    pub apic_id: u32,
    /// Bootstrap processor: the one that firmware runs on and whose INTR pin is wired.
    pub bsp: bool,
    /// CPUID offers x2APIC.
    pub x2apic: bool,
    /// Guest-physical address bits that CPUID states, 12 to 52; those above are reserved in IA32_APIC_BASE.
    pub phys_bits: u32,
}

/// One local APIC.
#[derive(Debug)]
pub struct LocalApic {
    // Configuration.
    config: LapicConfig,
    // Volatile state, the fields of the hot path first.
    irr: VectorSet,
    isr: VectorSet,
    tmr: VectorSet,
    tpr: u8,
    /// Processor priority, kept up to date with `tpr` and `isr`.
    ppr: u8,
    mode: ApicMode,
    spurious: u32,
    icr_low: u32,
    icr_high: u32,
    timer: Timer,
    lvt: [u32; LVT_COUNT],
    /// Address bits of IA32_APIC_BASE.
    base: u64,
    /// xAPIC ID register, writable.
    xapic_id: u8,
    ldr: u8,
    /// Bits 31:28 of the destination format register.
    format: u8,
    /// Errors as of the last write to the ESR.
    errors: u32,
    /// Errors since then.
    errors_pending: u32,
}

impl LocalApic {
    /// Makes a local APIC in its power-on state: xAPIC mode, software-disabled.
    #[must_use]
    pub const fn new(config: LapicConfig) -> Self {
        let [xapic_id, ..] = config.apic_id.to_le_bytes();
        Self {
            config,
            irr: VectorSet::EMPTY,
            isr: VectorSet::EMPTY,
            tmr: VectorSet::EMPTY,
            tpr: 0,
            ppr: 0,
            mode: ApicMode::XApic,
            spurious: 0xff,
            icr_low: 0,
            icr_high: 0,
            timer: Timer::RESET,
            lvt: [LVT_RESET; LVT_COUNT],
            base: LAPIC_BASE,
            xapic_id,
            ldr: 0,
            format: 0xf,
            errors: 0,
            errors_pending: 0,
        }
    }

    /// Puts the APIC into the state that an INIT leaves: as after power-on, but mode, base address and ID stay.
    pub fn init(&mut self) {
        *self = Self {
            mode: self.mode,
            base: self.base,
            xapic_id: self.xapic_id,
            ..Self::new(self.config)
        };
    }

    /// Sets what PC firmware leaves on the boot CPU, for guests that start without it: software-enabled, LINT0 is
    /// the 8259 pair's, LINT1 is NMI ("virtual wire mode", MP specification 3.6.2.2).
    pub fn enter_virtual_wire(&mut self) {
        const EXTINT: u32 = 7 << 8;
        const NMI: u32 = 4 << 8;
        self.spurious = SPURIOUS_ENABLE | 0xff;
        let [_, _, _, lint0, lint1, _] = &mut self.lvt;
        *lint0 = EXTINT;
        *lint1 = NMI;
    }

    /// Returns the mode.
    #[inline]
    #[must_use]
    pub const fn mode(&self) -> ApicMode {
        self.mode
    }

    /// Returns IA32_APIC_BASE.
    #[must_use]
    pub const fn apic_base(&self) -> u64 {
        let mode = match self.mode {
            ApicMode::Disabled => 0,
            ApicMode::XApic => BASE_ENABLE,
            ApicMode::X2Apic => BASE_ENABLE | BASE_X2APIC,
        };
        let bsp = if self.config.bsp { BASE_BSP } else { 0 };
        self.base | mode | bsp
    }

    /// Returns the page in which the registers are to be found, or `None` outside xAPIC mode.
    #[must_use]
    pub fn mmio_page(&self) -> Option<Gpa> {
        match self.mode {
            ApicMode::XApic => Gpa::new(self.base),
            ApicMode::Disabled | ApicMode::X2Apic => None,
        }
    }

    /// Writes IA32_APIC_BASE. The BSP flag is read-only here.
    ///
    /// Turning the APIC off loses its state, as the manual permits (12.4.3); only the task priority stays, because
    /// CR8 goes on to hold it.
    ///
    /// # Errors
    /// [`Gp`] on reserved bits and on the transitions that figure 12-27 forbids: x2APIC to xAPIC, disabled to
    /// x2APIC, and x2APIC without enable.
    pub fn set_apic_base(&mut self, value: u64) -> Result<ApicOutcome, Gp> {
        let above_phys = value.checked_shr(self.config.phys_bits).unwrap_or(0);
        if value & BASE_RESERVED_LOW != 0 || above_phys != 0 {
            return Err(Gp);
        }
        let mode = match (value & BASE_ENABLE != 0, value & BASE_X2APIC != 0) {
            (false, false) => ApicMode::Disabled,
            (true, false) => ApicMode::XApic,
            (true, true) if self.config.x2apic => ApicMode::X2Apic,
            _ => return Err(Gp),
        };
        match (self.mode, mode) {
            (ApicMode::X2Apic, ApicMode::XApic) | (ApicMode::Disabled, ApicMode::X2Apic) => {
                return Err(Gp);
            }
            (ApicMode::XApic | ApicMode::X2Apic, ApicMode::Disabled) => {
                let tpr = self.tpr;
                *self = Self::new(self.config);
                self.set_tpr(tpr);
            }
            (ApicMode::XApic, ApicMode::X2Apic) => self.icr_high = 0,
            _ => {}
        }
        self.mode = mode;
        self.base = value & !0xfff;
        Ok(ApicOutcome::Reconfigured)
    }

    /// Returns what senders need to address this APIC; it changes only with [`ApicOutcome::Reconfigured`],
    /// [`LocalApic::init`], a reset or a restore.
    #[must_use]
    pub fn identity(&self) -> ApicIdentity {
        ApicIdentity {
            id: self.id(),
            initial_id: self.config.apic_id,
            logical_id: self.logical_id(),
            format: self.format,
            mode: self.mode,
            software_enabled: self.is_software_enabled(),
        }
    }

    fn id(&self) -> u32 {
        match self.mode {
            ApicMode::X2Apic => self.config.apic_id,
            ApicMode::Disabled | ApicMode::XApic => self.xapic_id.into(),
        }
    }

    fn logical_id(&self) -> u32 {
        if self.mode != ApicMode::X2Apic {
            return self.ldr.into();
        }
        let id = self.config.apic_id;
        (id >> 4) << 16 | 1_u32.wrapping_shl(id & 0xf)
    }

    fn is_software_enabled(&self) -> bool {
        self.mode != ApicMode::Disabled && self.spurious & SPURIOUS_ENABLE != 0
    }

    /// Accepts a fixed or lowest-priority interrupt; `level` is its trigger mode. Tells whether it is newly pending:
    /// `false` when it was pending already, illegal (then an error is logged), or the APIC is off.
    pub fn accept(&mut self, vector: u8, level: bool) -> bool {
        if !self.is_software_enabled() {
            return false;
        }
        if vector < VECTOR_MIN {
            self.log_error(ERROR_RECEIVE_ILLEGAL);
            return false;
        }
        if level {
            self.tmr.insert(vector);
        } else {
            self.tmr.remove(vector);
        }
        self.irr.insert(vector)
    }

    /// Returns the vector that the CPU would take next: the highest pending one above the processor priority.
    #[inline]
    #[must_use]
    pub fn pending(&self) -> Option<u8> {
        self.irr
            .highest()
            .filter(|vector| vector & 0xf0 > self.ppr & 0xf0)
    }

    /// Tells whether any vector waits, deliverable now or not.
    #[inline]
    #[must_use]
    pub fn has_requests(&self) -> bool {
        self.irr.highest().is_some()
    }

    /// Moves the vector that [`LocalApic::pending`] shows into service and returns it.
    #[inline]
    pub fn ack(&mut self) -> Option<u8> {
        let vector = self.pending()?;
        self.irr.remove(vector);
        self.isr.insert(vector);
        // Its class is above both TPR and every vector in service.
        self.ppr = vector & 0xf0;
        Some(vector)
    }

    /// Ends the service of the highest vector in service, as a write to the EOI register does.
    #[inline]
    pub fn end_of_interrupt(&mut self) -> ApicOutcome {
        let Some(vector) = self.isr.highest() else {
            return ApicOutcome::None;
        };
        self.isr.remove(vector);
        self.update_ppr();
        ApicOutcome::Eoi {
            vector,
            level: self.tmr.contains(vector),
        }
    }

    #[inline]
    fn update_ppr(&mut self) {
        let in_service = self.isr.highest().unwrap_or(0) & 0xf0;
        self.ppr = if self.tpr & 0xf0 >= in_service {
            self.tpr
        } else {
            in_service
        };
    }

    fn set_tpr(&mut self, tpr: u8) {
        self.tpr = tpr;
        self.update_ppr();
    }

    /// Returns CR8, 0 to 15: the task-priority class. It exists in every mode.
    #[inline]
    #[must_use]
    pub const fn cr8(&self) -> u8 {
        self.tpr >> 4
    }

    /// Writes CR8; of `value` the low 4 bits count.
    #[inline]
    pub fn set_cr8(&mut self, value: u8) {
        self.set_tpr(value << 4);
    }

    /// Tells whether INTR of the 8259 pair reaches the CPU as an external interrupt: through LINT0 in mode ExtINT, or
    /// directly on the boot CPU while the APIC is off.
    #[inline]
    #[must_use]
    pub fn accepts_extint(&self) -> bool {
        match self.mode {
            ApicMode::Disabled => self.config.bsp,
            ApicMode::XApic | ApicMode::X2Apic => {
                let entry = self.lvt_entry(Lvt::Lint0);
                entry & LVT_MASKED == 0 && Delivery::from_bits(entry >> 8) == Some(Delivery::ExtInt)
            }
        }
    }

    /// Reports a rising edge on a local interrupt pin.
    pub fn raise_lint(&mut self, pin: LintPin) -> LintOutcome {
        let entry = match (self.mode, pin) {
            (ApicMode::Disabled, LintPin::Lint0) => return LintOutcome::ExtInt,
            (ApicMode::Disabled, LintPin::Lint1) => return LintOutcome::Nmi,
            (_, LintPin::Lint0) => self.lvt_entry(Lvt::Lint0),
            (_, LintPin::Lint1) => self.lvt_entry(Lvt::Lint1),
        };
        if entry & LVT_MASKED != 0 {
            return LintOutcome::None;
        }
        match Delivery::from_bits(entry >> 8) {
            Some(Delivery::Fixed) => {
                let [vector, ..] = entry.to_le_bytes();
                self.accept(vector, false);
                LintOutcome::None
            }
            Some(Delivery::ExtInt) => LintOutcome::ExtInt,
            Some(Delivery::Nmi) => LintOutcome::Nmi,
            Some(Delivery::Smi) => LintOutcome::Smi,
            Some(Delivery::Init) => LintOutcome::Init,
            Some(Delivery::LowestPriority | Delivery::Startup) | None => LintOutcome::None,
        }
    }

    fn lvt_entry(&self, entry: Lvt) -> u32 {
        let [timer, thermal, performance, lint0, lint1, error] = self.lvt;
        match entry {
            Lvt::Timer => timer,
            Lvt::Thermal => thermal,
            Lvt::Performance => performance,
            Lvt::Lint0 => lint0,
            Lvt::Lint1 => lint1,
            Lvt::Error => error,
        }
    }

    /// Logs an error; the first since the last write to the ESR raises the LVT error interrupt.
    fn log_error(&mut self, error: u32) {
        let armed = self.errors_pending == 0;
        self.errors_pending |= error;
        let entry = self.lvt_entry(Lvt::Error);
        if armed && entry & LVT_MASKED == 0 {
            // An illegal vector in the entry logs one more error, but raises nothing: no endless chain.
            let [vector, ..] = entry.to_le_bytes();
            self.accept(vector, false);
        }
    }

    fn timer_mode(&self) -> TimerMode {
        TimerMode::from_lvt(self.lvt_entry(Lvt::Timer))
    }

    /// Returns when [`LocalApic::timer_poll`] is due, or `None` while the timer can interrupt nobody. A masked timer
    /// asks for no wake-up; it catches up when it is next looked at.
    #[must_use]
    pub fn timer_deadline(&self) -> Option<TimerDeadline> {
        if self.lvt_entry(Lvt::Timer) & LVT_MASKED != 0 {
            return None;
        }
        self.timer.deadline()
    }

    /// Makes the timer's interrupt pending if the timer expired up to `now`, and tells whether it did. Missed periods
    /// are one interrupt; the next one is on the original grid.
    pub fn timer_poll(&mut self, now: Now) -> bool {
        if !self.timer.expire(self.timer_mode(), now) {
            return false;
        }
        let entry = self.lvt_entry(Lvt::Timer);
        if entry & LVT_MASKED == 0 {
            let [vector, ..] = entry.to_le_bytes();
            self.accept(vector, false);
        }
        true
    }

    /// Returns IA32_TSC_DEADLINE: 0 when disarmed, expired, or in another timer mode.
    #[must_use]
    pub fn tsc_deadline(&self, now: Now) -> u64 {
        let deadline = self.timer.tsc_deadline;
        if now.tsc >= deadline { 0 } else { deadline }
    }

    /// Writes IA32_TSC_DEADLINE: arms the timer, or fires it at once when `value` has passed; 0 disarms it. In
    /// another timer mode the write does nothing (12.5.4.1).
    pub fn set_tsc_deadline(&mut self, value: u64, now: Now) -> ApicOutcome {
        if self.timer_mode() != TimerMode::TscDeadline {
            return ApicOutcome::None;
        }
        let was_armed = self.timer.tsc_deadline != 0;
        self.timer.tsc_deadline = value;
        let fired = self.timer_poll(now);
        if fired && !was_armed {
            ApicOutcome::None
        } else {
            ApicOutcome::TimerChanged
        }
    }
}
