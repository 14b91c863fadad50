//! One 8259A (Intel data sheet 231468): requests, masks, priorities and command words.

use crate::pic::CASCADE;

/// Which initialization command word the chip expects next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Init {
    /// None: data writes are the mask.
    Done,
    Icw2,
    Icw3,
    Icw4,
}

/// State of one chip. Bit n of a register is input n.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chip {
    /// Levels of the inputs.
    pub(super) lines: u8,
    /// Edges not yet acknowledged.
    pub(super) edges: u8,
    /// ELCR: inputs that are level-triggered.
    pub(super) elcr: u8,
    /// The slave wants to be served (master only): an input that neither the ELCR nor an edge governs.
    pub(super) cascade: bool,
    pub(super) in_service: u8,
    pub(super) mask: u8,
    /// Upper five bits of the vector.
    pub(super) base: u8,
    /// Input of lowest priority; the next one is the highest.
    pub(super) lowest: u8,
    pub(super) init: Init,
    pub(super) expect_icw4: bool,
    pub(super) single: bool,
    pub(super) auto_eoi: bool,
    pub(super) rotate_on_auto_eoi: bool,
    pub(super) fully_nested: bool,
    pub(super) special_mask: bool,
    /// A read of the command port yields the ISR instead of the IRR.
    pub(super) read_in_service: bool,
    /// The next read of the command port is a poll.
    pub(super) poll: bool,
}

fn bit(input: u8) -> u8 {
    1_u8.wrapping_shl(input.into())
}

impl Chip {
    pub(super) const POWER_ON: Self = Self {
        lines: 0,
        edges: 0,
        elcr: 0,
        cascade: false,
        in_service: 0,
        mask: 0,
        base: 0,
        lowest: 7,
        init: Init::Done,
        expect_icw4: false,
        single: false,
        auto_eoi: false,
        rotate_on_auto_eoi: false,
        fully_nested: false,
        special_mask: false,
        read_in_service: false,
        poll: false,
    };

    pub(super) fn set_line(&mut self, input: u8, level: bool) {
        let bit = bit(input);
        if level {
            self.edges |= bit & !self.lines & !self.elcr;
            self.lines |= bit;
        } else {
            self.lines &= !bit;
        }
    }

    pub(super) fn set_cascade(&mut self, level: bool) {
        self.cascade = level;
    }

    pub(super) fn level_triggered(&self) -> u8 {
        self.elcr
    }

    pub(super) fn set_level_triggered(&mut self, elcr: u8) {
        self.edges &= !elcr;
        self.elcr = elcr;
    }

    pub(super) fn mask(&self) -> u8 {
        self.mask
    }

    pub(super) fn is_masked(&self, input: u8) -> bool {
        self.mask & bit(input) != 0
    }

    /// The interrupt request register.
    fn requests(&self) -> u8 {
        let cascade = if self.cascade { bit(CASCADE) } else { 0 };
        self.edges | self.lines & self.elcr | cascade
    }

    /// The input of highest priority in `set`, counted from the one after `lowest`.
    fn highest(&self, set: u8) -> Option<u8> {
        let first = self.lowest.wrapping_add(1) & 7;
        let rotated = set.rotate_right(first.into());
        let [rank, ..] = rotated.trailing_zeros().to_le_bytes();
        (set != 0).then(|| rank.wrapping_add(first) & 7)
    }

    fn rank(&self, input: u8) -> u8 {
        input.wrapping_sub(self.lowest).wrapping_sub(1) & 7
    }

    /// The input that INT stands for, if INT is up.
    pub(super) fn request(&self) -> Option<u8> {
        let input = self.highest(self.requests() & !self.mask)?;
        let mut blocking = self.in_service;
        if self.special_mask {
            blocking &= !self.mask;
        }
        if self.fully_nested && self.cascade {
            // The slave may interrupt its own service with something of higher priority.
            blocking &= !bit(CASCADE);
        }
        match self.highest(blocking) {
            Some(served) if self.rank(input) >= self.rank(served) => None,
            _ => Some(input),
        }
    }

    /// Acknowledges `input`: into service, and at once out of it in automatic EOI mode.
    pub(super) fn take(&mut self, input: u8) {
        self.edges &= !bit(input);
        if !self.auto_eoi {
            self.in_service |= bit(input);
        } else if self.rotate_on_auto_eoi {
            self.lowest = input;
        }
    }

    pub(super) fn vector(&self, input: u8) -> u8 {
        self.base | input
    }

    /// Tells whether the next read of the command port acknowledges.
    pub(super) fn is_polled(&self) -> bool {
        self.poll
    }

    pub(super) fn read_command(&mut self) -> u8 {
        if core::mem::take(&mut self.poll) {
            return match self.request() {
                Some(input) => {
                    self.take(input);
                    0x80 | input
                }
                None => 0,
            };
        }
        if self.read_in_service {
            self.in_service
        } else {
            self.requests()
        }
    }

    pub(super) fn write_command(&mut self, value: u8) {
        const ICW1: u8 = 1 << 4;
        const OCW3: u8 = 1 << 3;
        if value & ICW1 != 0 {
            self.initialize(value);
        } else if value & OCW3 != 0 {
            self.write_ocw3(value);
        } else {
            self.write_ocw2(value);
        }
    }

    /// ICW1 restarts the chip; lines and ELCR are outside of it.
    fn initialize(&mut self, icw1: u8) {
        const EXPECT_ICW4: u8 = 1 << 0;
        const SINGLE: u8 = 1 << 1;
        *self = Self {
            lines: self.lines,
            elcr: self.elcr,
            cascade: self.cascade,
            base: self.base,
            init: Init::Icw2,
            expect_icw4: icw1 & EXPECT_ICW4 != 0,
            single: icw1 & SINGLE != 0,
            ..Self::POWER_ON
        };
    }

    fn write_ocw2(&mut self, value: u8) {
        let level = value & 7;
        match value >> 5 {
            // Rotate in automatic EOI mode: clear, set.
            0 => self.rotate_on_auto_eoi = false,
            4 => self.rotate_on_auto_eoi = true,
            // Non-specific EOI, without and with rotation.
            command @ (1 | 5) => {
                if let Some(input) = self.highest_in_service() {
                    self.in_service &= !bit(input);
                    if command == 5 {
                        self.lowest = input;
                    }
                }
            }
            // Specific EOI, without and with rotation.
            3 => self.in_service &= !bit(level),
            7 => {
                self.in_service &= !bit(level);
                self.lowest = level;
            }
            // Set priority.
            6 => self.lowest = level,
            _ => {}
        }
    }

    /// In special mask mode a non-specific EOI leaves masked inputs in service (data sheet, "EOI").
    fn highest_in_service(&self) -> Option<u8> {
        let masked = if self.special_mask { self.mask } else { 0 };
        self.highest(self.in_service & !masked)
    }

    fn write_ocw3(&mut self, value: u8) {
        match value & 3 {
            2 => self.read_in_service = false,
            3 => self.read_in_service = true,
            _ => {}
        }
        if value & 1 << 2 != 0 {
            self.poll = true;
        }
        match value >> 5 & 3 {
            2 => self.special_mask = false,
            3 => self.special_mask = true,
            _ => {}
        }
    }

    pub(super) fn write_data(&mut self, value: u8) {
        const AUTO_EOI: u8 = 1 << 1;
        const FULLY_NESTED: u8 = 1 << 4;
        let after_icw3 = if self.expect_icw4 {
            Init::Icw4
        } else {
            Init::Done
        };
        self.init = match self.init {
            Init::Done => {
                self.mask = value;
                Init::Done
            }
            Init::Icw2 => {
                self.base = value & 0xf8;
                if self.single { after_icw3 } else { Init::Icw3 }
            }
            // The cascade is wired: what ICW3 says changes nothing.
            Init::Icw3 => after_icw3,
            Init::Icw4 => {
                self.auto_eoi = value & AUTO_EOI != 0;
                self.fully_nested = value & FULLY_NESTED != 0;
                Init::Done
            }
        };
    }
}
