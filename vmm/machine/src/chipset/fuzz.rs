//! Random guests: port, memory, MSR and time actions over the whole chipset and two local APICs.
//!
//! A guest that does anything at all must not bring the host down; overflow checks and debug assertions are on in
//! tests. Invariants that hold whatever a guest does are checked on the way.

use crate::chipset::tests::Board;
use crate::chipset::{Attention, Chipset};
use crate::route::route;
use addr::Gpa;
use alloc::vec::Vec;
use api::device::{Device, Width};
use api::time::VmInstant;
use devices::lapic::{ApicOutcome, LapicConfig, LocalApic, Now};
use devices::message::{ApicIdentity, ApicMessage, ApicMode, Delivery, RoundRobin};

const ACTIONS: u32 = 2_000_000;
const SEED: u64 = 0x00ba_5a17;

/// SplitMix64.
pub(super) struct Rng(u64);

impl Rng {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

/// Ports at which something is; the rest are tried less often.
const PORTS: [u16; 46] = [
    0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1, 0x40, 0x41, 0x42, 0x43, 0x60, 0x61, 0x64, 0x70, 0x71,
    0x80, 0x92, 0xb2, 0xb3, 0xe0, 0xe4, 0xe8, 0xe9, 0xf4, 0x2f8, 0x2f9, 0x2fa, 0x2fc, 0x2fd, 0x3f8,
    0x3f9, 0x3fa, 0x3fb, 0x3fc, 0x510, 0x511, 0x514, 0x518, 0xcf8, 0xcf9, 0xcfc, 0xcfe, 0xb000,
    0xb002, 0xb004, 0xb008,
];

/// How often something happened that a fuzzer which has gone idle would miss.
#[derive(Debug, Default)]
struct Seen {
    messages: u32,
    accepted: u32,
    vectors: u32,
    pic_vectors: u32,
    level_eois: u32,
    actions: u32,
    characters: u32,
    polls: u32,
}

pub(super) struct Guest {
    pub(super) board: Board,
    apics: [LocalApic; 2],
    identities: Vec<ApicIdentity>,
    turn: RoundRobin,
    rng: Rng,
    nanos: u64,
    seen: Seen,
}

impl Guest {
    pub(super) fn new() -> Self {
        let apics = [0, 1].map(|apic_id| {
            LocalApic::new(LapicConfig {
                apic_id,
                bsp: apic_id == 0,
                x2apic: true,
                phys_bits: 40,
            })
        });
        Self {
            board: Board::new(),
            identities: apics.iter().map(LocalApic::identity).collect(),
            apics,
            turn: RoundRobin::default(),
            rng: Rng::new(SEED),
            nanos: 0,
            seen: Seen::default(),
        }
    }

    fn now(&self) -> Now {
        Now {
            time: VmInstant::from_nanos(self.nanos),
            tsc: self.nanos.wrapping_mul(3),
        }
    }

    fn chipset(&mut self) -> &mut Chipset {
        &mut self.board.chipset
    }

    fn port(&mut self) -> u16 {
        match self.rng.below(8) {
            0 => self.rng.next() as u16,
            1 => 0x2000 + self.rng.below(26) as u16,
            2 => 0xb000 + self.rng.below(66) as u16,
            _ => self.rng.pick(&PORTS),
        }
    }

    fn value(&mut self) -> u64 {
        let narrow = self.rng.below(64);
        self.rng.next() >> narrow
    }

    fn width(&mut self) -> Width {
        self.rng.pick(&[
            Width::Byte,
            Width::Byte,
            Width::Word,
            Width::Dword,
            Width::Qword,
        ])
    }

    pub(super) fn act(&mut self) {
        let (port, width, value) = (self.port(), self.width(), self.value());
        let cpu = self.rng.below(2) as usize;
        match self.rng.below(20) {
            16 | 17 => self.redirect_a_pin(value as u32),
            18 | 19 => {
                let line = 0x2000 + self.rng.below(24) as u16;
                self.board.write(line, Width::Byte, value as u32 & 1);
            }
            0..=3 => {
                let read = self.board.read(port, width);
                assert!(u64::from(read) <= width.all_ones());
            }
            4..=8 => self.board.write(port, width, value as u32),
            9 | 10 => self.memory_access(width, value),
            11 => self.apic_memory_access(cpu, value),
            12 | 13 => self.msr_access(cpu, value),
            14 => self.cpu_event(cpu),
            _ => self.outside_event(value),
        }
    }

    /// Mostly an entry that can deliver something, as random ones rarely can.
    fn redirect_a_pin(&mut self, value: u32) {
        let now = self.now().time;
        let pin = self.rng.below(24);
        let low = match self.rng.below(8) {
            0 => value,
            1 => value & 0xff | 1 << 16,
            _ => value & 0x89ff | 0x10,
        };
        let high = self.rng.pick(&[0, 0x0100_0000, 0x0300_0000, 0xff00_0000]);
        for (index, half) in [(0x10 + pin * 2, low), (0x11 + pin * 2, high)] {
            for (address, value) in [(0xfec0_0000, index), (0xfec0_0010, half.into())] {
                let gpa = Gpa::new(address).unwrap();
                self.chipset().mmio_write(gpa, Width::Dword, value, now);
            }
        }
    }

    fn memory_access(&mut self, width: Width, value: u64) {
        let base = self.rng.pick(&[0xfec0_0000, 0xfec0_0010, 0xff00_0000]);
        let offset = self.rng.below(0x50);
        let gpa = Gpa::new(base + offset).unwrap();
        let now = self.now().time;
        if self.rng.below(2) == 0 {
            let read = self.chipset().mmio_read(gpa, width).unwrap();
            assert!(read <= width.all_ones());
        } else {
            // Mostly useful redirection entries.
            let value = if self.rng.below(2) == 0 {
                value & 0xffff
            } else {
                value
            };
            assert!(self.chipset().mmio_write(gpa, width, value, now));
        }
    }

    fn apic_memory_access(&mut self, cpu: usize, value: u64) {
        let offset = self.rng.below(0x400) as u16;
        let now = self.now();
        let apic = &mut self.apics[cpu];
        if apic.mmio_page().is_none() {
            return;
        }
        if value & 1 == 0 {
            apic.mmio_read(offset, now);
        } else {
            let outcome = apic.mmio_write(offset & !0xf, value as u32, now);
            self.handle(cpu, outcome);
        }
    }

    fn msr_access(&mut self, cpu: usize, value: u64) {
        let msr = 0x800 + self.rng.below(0x40) as u32;
        let now = self.now();
        let base = 0xfee0_0000 | self.rng.below(4) << 10 | (cpu as u64 ^ 1) << 8;
        let choice = self.rng.below(16);
        let apic = &mut self.apics[cpu];
        let result = match choice {
            0 => apic.set_apic_base(base),
            1 => apic.set_apic_base(value),
            2 => Ok(apic.set_tsc_deadline(now.tsc.wrapping_add(value), now)),
            3..=6 => {
                let _ = apic.msr_read(msr, now);
                return;
            }
            _ => apic.msr_write(msr, value, now),
        };
        if let Ok(outcome) = result {
            self.handle(cpu, outcome);
        }
    }

    /// What a CPU does before an entry: timers, then an interrupt, perhaps with its EOI.
    fn cpu_event(&mut self, cpu: usize) {
        let now = self.now();
        self.apics[cpu].timer_poll(now);
        if self.apics[cpu].accepts_extint() && self.chipset().pic_intr() {
            self.chipset().pic_ack();
            self.seen.pic_vectors += 1;
        } else if let Some(vector) = self.apics[cpu].pending() {
            assert_eq!(self.apics[cpu].ack(), Some(vector));
            self.seen.vectors += 1;
        }
        if self.rng.below(2) == 0 {
            let outcome = self.apics[cpu].end_of_interrupt();
            self.handle(cpu, outcome);
        }
    }

    fn outside_event(&mut self, value: u64) {
        match self.rng.below(64) {
            0 if value & 7 == 0 => self.chipset().reset(),
            0 | 1 => self.save_and_restore(),
            2..=7 => {
                self.chipset().press_power_button();
            }
            8..=31 => self.open_apics(),
            _ => {
                let bytes = value.to_le_bytes();
                let channel = self.rng.below(3) as u8;
                let accepted = self.chipset().receive(channel, &bytes);
                assert!(accepted <= bytes.len());
            }
        }
    }

    /// Brings both local APICs into a state in which they take interrupts.
    fn open_apics(&mut self) {
        let now = self.now();
        for cpu in 0..2 {
            let apic = &mut self.apics[cpu];
            if apic.mode() == ApicMode::Disabled {
                let on = apic.apic_base() | 1 << 11;
                assert_eq!(apic.set_apic_base(on), Ok(ApicOutcome::Reconfigured));
            }
            if apic.mode() == ApicMode::X2Apic {
                apic.msr_write(0x80f, 0x1ff, now).unwrap();
            } else {
                apic.mmio_write(0x0f0, 0x1ff, now);
            }
            apic.set_cr8(0);
            self.handle(cpu, ApicOutcome::Reconfigured);
        }
    }

    fn save_and_restore(&mut self) {
        let saved = self.chipset().save();
        let mut copy = Board::new();
        copy.chipset.restore(saved.clone()).unwrap();
        assert_eq!(copy.chipset.save(), saved);
        assert_eq!(copy.chipset.pic_intr(), self.chipset().pic_intr());
        assert_eq!(copy.chipset.next_deadline(), self.chipset().next_deadline());
        for apic in &mut self.apics {
            let saved = apic.save();
            apic.restore(saved).unwrap();
        }
    }

    fn handle(&mut self, cpu: usize, outcome: ApicOutcome) {
        match outcome {
            ApicOutcome::Eoi {
                vector,
                level: true,
            } => {
                self.seen.level_eois += 1;
                self.chipset().eoi_broadcast(vector);
            }
            ApicOutcome::Ipi(message) => self.deliver(&message, Some(cpu)),
            ApicOutcome::Reconfigured => self.identities[cpu] = self.apics[cpu].identity(),
            ApicOutcome::Eoi { level: false, .. }
            | ApicOutcome::TimerChanged
            | ApicOutcome::None => {}
        }
    }

    fn deliver(&mut self, message: &ApicMessage, sender: Option<usize>) {
        let (apics, seen) = (&mut self.apics, &mut self.seen);
        seen.messages += 1;
        let mut inits = [false; 2];
        route(
            message,
            sender,
            &self.identities,
            &mut self.turn,
            |cpu| match message.delivery {
                Delivery::Fixed | Delivery::LowestPriority => {
                    seen.accepted += u32::from(apics[cpu].accept(message.vector, message.level));
                }
                Delivery::Init => {
                    apics[cpu].init();
                    inits[cpu] = true;
                }
                _ => {}
            },
        );
        for cpu in (0..2).filter(|cpu| inits[*cpu]) {
            self.identities[cpu] = self.apics[cpu].identity();
        }
    }

    /// Does what the caller of the chipset has to do after each call.
    pub(super) fn attend(&mut self) {
        let attention = self.chipset().take_attention();
        for _ in 0..64 {
            let Some(message) = self.chipset().take_message() else {
                break;
            };
            assert!(attention.contains(Attention::MESSAGES));
            self.deliver(&message, None);
        }
        while self.chipset().take_action().is_some() {
            self.seen.actions += 1;
        }
        while self.chipset().take_output().is_some() {
            self.seen.characters += 1;
        }
    }

    pub(super) fn pass_time(&mut self) {
        let magnitude = self.rng.below(30);
        self.nanos += self.rng.below(1 << magnitude);
        let now = self.now();
        self.board.now = now.time;
        let due = self.chipset().next_deadline();
        if due.is_some_and(|due| due <= now.time) {
            self.chipset().poll(now.time);
            self.seen.polls += 1;
            let next = self.chipset().next_deadline();
            assert!(next.is_none_or(|next| next > now.time), "{next:?}");
        }
    }
}

#[test]
fn a_million_random_actions_do_no_harm() {
    let mut guest = Guest::new();
    for _ in 0..ACTIONS {
        guest.act();
        guest.attend();
        guest.pass_time();
        for (apic, identity) in guest.apics.iter().zip(&guest.identities) {
            assert_eq!(apic.identity(), *identity, "a change was announced");
        }
    }
    let seen = guest.seen;
    for count in [
        seen.messages,
        seen.accepted,
        seen.vectors,
        seen.pic_vectors,
        seen.level_eois,
        seen.actions,
        seen.characters,
        seen.polls,
    ] {
        assert!(count > 500, "the guest went idle: {seen:?}");
    }
}
