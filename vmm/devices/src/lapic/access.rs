//! Register accesses of the local APIC: the xAPIC page, the x2APIC MSRs and the interrupt command.

use crate::lapic::registers::{
    APR, CURRENT_COUNT, DELIVERY_STATUS, DFR, DIVIDE, EOI, ERROR_REGISTER, ERROR_SEND_ILLEGAL, ESR,
    ICR_ASSERT, ICR_HIGH, ICR_LEVEL, ICR_LOGICAL, ICR_LOW, ICR_LOW_MASK, ID, INITIAL_COUNT, IRR,
    IRR_LAST, ISR, ISR_LAST, LDR, LVT_ERROR, LVT_MASKED, LVT_TIMER, Lvt, PPR, REMOTE_READ,
    SELF_IPI, SPURIOUS, SPURIOUS_ENABLE, SPURIOUS_MASK, TMR, TMR_LAST, TPR, VECTOR_MIN, VERSION,
    VERSION_VALUE,
};
use crate::lapic::timer::{DIVIDE_MASK, TimerMode};
use crate::lapic::{ApicOutcome, Gp, LocalApic, Now};
use crate::message::{ApicMessage, ApicMode, Delivery, Destination};

/// First MSR of the x2APIC range.
const MSR_FIRST: u32 = 0x800;
/// Last MSR of the x2APIC range.
const MSR_LAST: u32 = 0x8ff;
/// High half of the ICR in xAPIC mode: destination in bits 31:24.
const ICR_HIGH_XAPIC_MASK: u32 = 0xff00_0000;

impl LocalApic {
    /// Reads the 32-bit register at `offset` of the xAPIC page, 0 to FFFh.
    ///
    /// Registers are 4 bytes at the start of every 16; the rest of the page reads 0. For a narrower access the caller
    /// takes its bytes out of the aligned double word.
    pub fn mmio_read(&mut self, offset: u16, now: Now) -> u32 {
        if offset & 0xc != 0 {
            return 0;
        }
        let register = offset & 0xff0;
        match self.read_register(register, now) {
            Some(value) => value,
            None => {
                self.log_error(ERROR_REGISTER);
                0
            }
        }
    }

    /// Writes the 32-bit register at `offset` of the xAPIC page, 0 to FFFh. Only aligned 4-byte writes are defined;
    /// the caller drops others.
    pub fn mmio_write(&mut self, offset: u16, value: u32, now: Now) -> ApicOutcome {
        if let Some(outcome) = self.command(offset, value) {
            return outcome;
        }
        if offset & 0xf != 0 {
            return ApicOutcome::None;
        }
        self.write_xapic_register(offset & 0xff0, value, now)
    }

    /// Writes the register at `offset` of the xAPIC page if it is a command, which is all that most writes are and for
    /// which no clock need be read: an end of interrupt, or an interrupt to send. Does nothing for other registers.
    #[inline]
    pub fn command(&mut self, offset: u16, value: u32) -> Option<ApicOutcome> {
        match offset {
            EOI => Some(self.end_of_interrupt()),
            ICR_LOW => Some(self.write_icr(value)),
            _ => None,
        }
    }

    fn write_xapic_register(&mut self, register: u16, value: u32, now: Now) -> ApicOutcome {
        let [.., top] = value.to_le_bytes();
        match register {
            ID => self.xapic_id = top,
            LDR => self.ldr = top,
            DFR => self.format = top >> 4,
            ICR_HIGH => {
                self.icr_high = value & ICR_HIGH_XAPIC_MASK;
                return ApicOutcome::None;
            }
            _ => return self.write_register(register, value, now),
        }
        ApicOutcome::Reconfigured
    }

    /// Reads x2APIC MSR `msr`, 800h to 8FFh.
    ///
    /// # Errors
    /// [`Gp`] outside x2APIC mode, on write-only and on missing registers.
    pub fn msr_read(&mut self, msr: u32, now: Now) -> Result<u64, Gp> {
        let register = self.msr_register(msr)?;
        match register {
            ICR_LOW => Ok(u64::from(self.icr_high) << 32 | u64::from(self.icr_low)),
            EOI | APR | REMOTE_READ | DFR | ICR_HIGH => Err(Gp),
            _ => self.read_register(register, now).map(u64::from).ok_or(Gp),
        }
    }

    /// Writes x2APIC MSR `msr`, 800h to 8FFh.
    ///
    /// # Errors
    /// [`Gp`] outside x2APIC mode, on read-only and missing registers, and on reserved bits; nothing is changed.
    #[inline]
    pub fn msr_write(&mut self, msr: u32, value: u64, now: Now) -> Result<ApicOutcome, Gp> {
        let register = self.msr_register(msr)?;
        if register == EOI {
            return if value == 0 {
                Ok(self.end_of_interrupt())
            } else {
                Err(Gp)
            };
        }
        let [b0, b1, b2, b3, high @ ..] = value.to_le_bytes();
        let low = u32::from_le_bytes([b0, b1, b2, b3]);
        let reserved = match register {
            ICR_LOW => {
                // The delivery status is gone, but drivers write back what they read elsewhere.
                if low & !(ICR_LOW_MASK | DELIVERY_STATUS) != 0 {
                    return Err(Gp);
                }
                self.icr_high = u32::from_le_bytes(high);
                return Ok(self.write_icr(low));
            }
            TPR | SELF_IPI => !0xff,
            SPURIOUS => !SPURIOUS_MASK,
            ESR => !0,
            INITIAL_COUNT => 0,
            DIVIDE => !DIVIDE_MASK,
            LVT_TIMER..=LVT_ERROR => Lvt::of_register(register).ok_or(Gp)?.reserved(),
            _ => return Err(Gp),
        };
        if low & reserved != 0 || high != [0; 4] {
            return Err(Gp);
        }
        if register == SELF_IPI {
            self.send_to_self(b0);
            return Ok(ApicOutcome::None);
        }
        Ok(self.write_register(register, low, now))
    }

    /// The register behind an MSR, by its offset in the xAPIC page.
    #[inline]
    fn msr_register(&self, msr: u32) -> Result<u16, Gp> {
        if self.mode != ApicMode::X2Apic || !(MSR_FIRST..=MSR_LAST).contains(&msr) {
            return Err(Gp);
        }
        let [index, ..] = msr.to_le_bytes();
        Ok(u16::from(index) << 4)
    }

    /// Reads a register that both modes have, or `None` when there is none.
    fn read_register(&self, register: u16, now: Now) -> Option<u32> {
        let x2apic = self.mode == ApicMode::X2Apic;
        let bank = |first: u16| {
            let [index, ..] = (register.wrapping_sub(first) >> 4).to_le_bytes();
            index
        };
        let value = match register {
            ID if x2apic => self.id(),
            ID => self.id() << 24,
            VERSION => VERSION_VALUE,
            TPR => self.tpr.into(),
            PPR => self.ppr.into(),
            // Write-only, or without meaning on a CPU without APIC bus: they read 0.
            APR | EOI | REMOTE_READ => 0,
            LDR if x2apic => self.logical_id(),
            LDR => self.logical_id() << 24,
            DFR => u32::from(self.format) << 28 | 0x0fff_ffff,
            SPURIOUS => self.spurious,
            ISR..=ISR_LAST => self.isr.register(bank(ISR)),
            TMR..=TMR_LAST => self.tmr.register(bank(TMR)),
            IRR..=IRR_LAST => self.irr.register(bank(IRR)),
            ESR => self.errors,
            ICR_LOW => self.icr_low,
            ICR_HIGH => self.icr_high,
            LVT_TIMER..=LVT_ERROR => self.lvt_entry(Lvt::of_register(register)?),
            INITIAL_COUNT => self.timer.initial,
            CURRENT_COUNT => self.timer.current_count(self.timer_mode(), now.time),
            DIVIDE => self.timer.divide,
            _ => return None,
        };
        Some(value)
    }

    /// Writes a register that both modes have; reserved bits are dropped and read-only registers stay.
    fn write_register(&mut self, register: u16, value: u32, now: Now) -> ApicOutcome {
        let [low, ..] = value.to_le_bytes();
        match register {
            TPR => {
                self.set_tpr(low);
                ApicOutcome::None
            }
            SPURIOUS => self.write_spurious(value),
            ESR => {
                self.errors = core::mem::take(&mut self.errors_pending);
                ApicOutcome::None
            }
            LVT_TIMER => self.write_lvt_timer(value, now),
            INITIAL_COUNT => {
                self.timer.start(value, self.timer_mode(), now.time);
                ApicOutcome::TimerChanged
            }
            DIVIDE => {
                self.timer.set_divide(value, self.timer_mode(), now.time);
                ApicOutcome::TimerChanged
            }
            _ => {
                if let Some(entry) = Lvt::of_register(register) {
                    self.write_lvt(entry, value);
                } else if self.read_register(register, now).is_none() {
                    self.log_error(ERROR_REGISTER);
                }
                ApicOutcome::None
            }
        }
    }

    /// Software-disabling masks every LVT entry for good; what is pending or in service stays (12.4.7.2).
    fn write_spurious(&mut self, value: u32) -> ApicOutcome {
        self.spurious = value & SPURIOUS_MASK;
        if self.spurious & SPURIOUS_ENABLE == 0 {
            for entry in &mut self.lvt {
                *entry |= LVT_MASKED;
            }
        }
        ApicOutcome::Reconfigured
    }

    fn write_lvt(&mut self, entry: Lvt, value: u32) {
        let mut value = value & entry.writable();
        if self.spurious & SPURIOUS_ENABLE == 0 {
            value |= LVT_MASKED;
        }
        let [timer, thermal, performance, lint0, lint1, error] = &mut self.lvt;
        *match entry {
            Lvt::Timer => timer,
            Lvt::Thermal => thermal,
            Lvt::Performance => performance,
            Lvt::Lint0 => lint0,
            Lvt::Lint1 => lint1,
            Lvt::Error => error,
        } = value;
    }

    fn write_lvt_timer(&mut self, value: u32, now: Now) -> ApicOutcome {
        // What expired before this write still belongs to the old entry: its mask, its vector, its mode.
        self.timer_poll(now);
        let old = self.timer_mode();
        self.write_lvt(Lvt::Timer, value);
        let new = self.timer_mode();
        if old != new && (old == TimerMode::TscDeadline || new == TimerMode::TscDeadline) {
            self.timer.disarm();
        }
        ApicOutcome::TimerChanged
    }

    fn send_to_self(&mut self, vector: u8) {
        if vector < VECTOR_MIN {
            self.log_error(ERROR_SEND_ILLEGAL);
        } else {
            self.accept(vector, false);
        }
    }

    /// Writes the low half of the interrupt command register, which sends. Delivery is done when this returns, so the
    /// delivery status is never seen busy.
    fn write_icr(&mut self, low: u32) -> ApicOutcome {
        self.icr_low = low & ICR_LOW_MASK;
        let [vector, ..] = low.to_le_bytes();
        let Some(delivery) = Delivery::from_bits(low >> 8) else {
            return ApicOutcome::None;
        };
        let destination = self.icr_destination(low);
        match delivery {
            Delivery::Fixed | Delivery::LowestPriority => {
                if destination == Destination::SelfOnly {
                    self.send_to_self(vector);
                    return ApicOutcome::None;
                }
                if vector < VECTOR_MIN {
                    self.log_error(ERROR_SEND_ILLEGAL);
                    return ApicOutcome::None;
                }
            }
            // INIT level de-assert only synchronised arbitration IDs, on CPUs that had a bus for them.
            Delivery::Init if low & (ICR_LEVEL | ICR_ASSERT) == ICR_LEVEL => {
                return ApicOutcome::None;
            }
            // Only LINT pins and I/O APICs know external interrupts.
            Delivery::ExtInt => return ApicOutcome::None,
            Delivery::Smi | Delivery::Nmi | Delivery::Init | Delivery::Startup => {}
        }
        ApicOutcome::Ipi(ApicMessage {
            destination,
            delivery,
            vector,
            // The trigger bit means nothing but for INIT (12.6.1): inter-processor interrupts are edges.
            level: false,
        })
    }

    fn icr_destination(&self, low: u32) -> Destination {
        let wide = self.mode == ApicMode::X2Apic;
        let field = if wide {
            self.icr_high
        } else {
            self.icr_high >> 24
        };
        match low >> 18 & 3 {
            1 => Destination::SelfOnly,
            2 => Destination::All,
            3 => Destination::AllButSelf,
            _ if low & ICR_LOGICAL != 0 => Destination::Logical { mda: field, wide },
            _ => Destination::Physical { id: field, wide },
        }
    }
}
