//! Random interrupts against a plain model, and random accesses.

use super::{at, config, msr, x2apic, xapic};
use crate::lapic::registers::{EOI, PPR, SPURIOUS, TPR};
use crate::lapic::{ApicOutcome, LocalApic, TimerDeadline};
use crate::testing::Rng;
use alloc::vec::Vec;
use api::device::Device;

/// The interrupt state written down the slow and obvious way.
#[derive(Default)]
struct Model {
    requested: Vec<u8>,
    in_service: Vec<u8>,
    tpr: u8,
}

impl Model {
    fn priority(&self) -> u8 {
        let top = self.in_service.iter().max().copied().unwrap_or(0) & 0xf0;
        if self.tpr & 0xf0 >= top {
            self.tpr
        } else {
            top
        }
    }

    fn pending(&self) -> Option<u8> {
        let top = self.requested.iter().max().copied()?;
        (top >> 4 > self.priority() >> 4).then_some(top)
    }
}

#[test]
fn interrupt_state_agrees_with_a_plain_model() {
    let mut rng = Rng::new(0x1a91c);
    let mut apic = x2apic(0);
    let mut model = Model::default();
    for _ in 0..150_000 {
        match rng.below(6) {
            0 | 1 => {
                let vector = rng.byte() | 0x10;
                let new = !model.requested.contains(&vector);
                assert_eq!(apic.accept(vector, rng.below(2) == 0), new);
                if new {
                    model.requested.push(vector);
                }
            }
            2 => {
                let tpr = rng.byte() & rng.byte();
                apic.msr_write(msr(TPR), tpr.into(), at(0)).unwrap();
                model.tpr = tpr;
            }
            3 | 4 => {
                let vector = model.pending();
                assert_eq!(apic.ack(), vector);
                if let Some(vector) = vector {
                    model.requested.retain(|v| *v != vector);
                    model.in_service.push(vector);
                }
            }
            _ => {
                let top = model.in_service.iter().max().copied();
                let ended = match apic.msr_write(msr(EOI), 0, at(0)).unwrap() {
                    ApicOutcome::Eoi { vector, .. } => Some(vector),
                    _ => None,
                };
                assert_eq!(ended, top);
                model.in_service.retain(|v| Some(*v) != top);
            }
        }
        assert_eq!(apic.pending(), model.pending());
        let ppr = apic.msr_read(msr(PPR), at(0)).unwrap();
        assert_eq!(ppr, u64::from(model.priority()));
        assert_eq!(u64::from(apic.cr8()), u64::from(model.tpr >> 4));
    }
}

#[test]
fn random_accesses_never_break_an_invariant() {
    let mut rng = Rng::new(0xa91c);
    let mut apic = xapic(0);
    let mut nanos = 0_u64;
    for step in 0..300_000 {
        let magnitude = rng.below(24);
        nanos += rng.below(1 << magnitude);
        let now = at(nanos);
        let narrow = rng.below(64);
        let value = rng.next() >> narrow;
        let register = (rng.below(0x41) as u16) << 4;
        match rng.below(12) {
            0 => {
                let base = if rng.below(2) == 0 {
                    rng.next()
                } else {
                    0xfee0_0000 | rng.below(4) << 10
                };
                let _ = apic.set_apic_base(base);
            }
            1..=3 => {
                apic.mmio_write(register | rng.below(16) as u16 & 0xc, value as u32, now);
            }
            4 => {
                apic.mmio_read(rng.below(0x1000) as u16, now);
            }
            5 | 6 => {
                let _ = apic.msr_write(msr(register), value, now);
            }
            7 => {
                let _ = apic.msr_read(0x7f0 + rng.below(0x120) as u32, now);
            }
            8 => {
                apic.accept(rng.byte(), rng.below(2) == 0);
            }
            9 => {
                apic.set_tsc_deadline(now.tsc.wrapping_add(value), now);
            }
            10 => {
                apic.ack();
                apic.end_of_interrupt();
            }
            _ => apic.set_cr8(rng.byte()),
        }
        if rng.below(3) == 0 {
            apic.timer_poll(now);
            match apic.timer_deadline() {
                Some(TimerDeadline::At(due)) => assert!(due > now.time),
                Some(TimerDeadline::Tsc(due)) => assert!(due > now.tsc),
                None => {}
            }
        }
        if step % 512 == 0 {
            let saved = apic.save();
            let mut copy = LocalApic::new(config(0));
            copy.restore(saved.clone()).unwrap();
            assert_eq!(copy.save(), saved);
            assert_eq!(copy.pending(), apic.pending());
            apic.mmio_write(SPURIOUS, 0x1ff, now);
        }
    }
}
