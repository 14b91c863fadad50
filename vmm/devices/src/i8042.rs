//! The 8042 keyboard controller of a PC, with a keyboard or without one, and never a mouse.
//!
//! It answers every command that kernels probe with at once, so that no driver waits for a time-out. The keyboard
//! acknowledges and identifies itself but is never typed on: guests have no screen here. The A20 gate is a bit of the
//! output port and nothing more.

use crate::i8042::keyboard::Keyboard;
use crate::layout::GSI_KEYBOARD;
use api::device::{Effects, MachineAction};
use bitflags::bitflags;

mod keyboard;
pub mod saved;
#[cfg(test)]
mod tests;

bitflags! {
    /// Status register (port 64h, read).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Status: u8 {
        const OUTPUT_FULL = 1 << 0;
        /// Self-test passed; set by it, or by the command byte.
        const SYSTEM = 1 << 2;
        /// The last write was a command.
        const COMMAND = 1 << 3;
        /// The keyboard lock is open.
        const UNLOCKED = 1 << 4;
        /// The output is the auxiliary device's: never.
        const AUX_OUTPUT = 1 << 5;
    }
}

bitflags! {
    /// Command byte.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Command: u8 {
        const KEYBOARD_INTERRUPT = 1 << 0;
        const AUX_INTERRUPT = 1 << 1;
        const SYSTEM = 1 << 2;
        const KEYBOARD_DISABLED = 1 << 4;
        const AUX_DISABLED = 1 << 5;
        const TRANSLATE = 1 << 6;
    }
}

/// Output port: the CPU's reset line (0 resets) and the A20 gate.
const OUTPUT_RESET: u8 = 1 << 0;
const OUTPUT_A20: u8 = 1 << 1;
const OUTPUT_FULL: u8 = 1 << 4;

/// Input port: the keyboard is not locked.
const INPUT_PORT: u8 = 0x80;

const SELF_TEST_PASSED: u8 = 0x55;
const PORT_TEST_PASSED: u8 = 0x00;
/// Port test: the clock line is stuck low, as it is with nothing plugged in.
const PORT_TEST_CLOCK_LOW: u8 = 0x01;

/// A controller command whose parameter the next write to port 60h is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaiting {
    Nothing,
    CommandByte,
    OutputPort,
    /// The byte comes back as if the keyboard (or a mouse) had sent it.
    Echo,
    /// Memory of the controller, or a mouse: nothing is there to take it.
    Nowhere,
}

/// The controller.
#[derive(Debug)]
pub struct I8042 {
    // Configuration.
    has_keyboard: bool,
    // Volatile state.
    status: Status,
    command: Command,
    output_port: u8,
    awaiting: Awaiting,
    /// The byte in the output buffer.
    output: Option<u8>,
    /// A reply of the controller that waits for the output buffer.
    reply: Option<u8>,
    keyboard: Keyboard,
    line_level: bool,
}

impl I8042 {
    /// Makes the controller in its power-on state.
    #[must_use]
    pub const fn new(has_keyboard: bool) -> Self {
        Self {
            has_keyboard,
            status: Status::UNLOCKED,
            command: Command::TRANSLATE.union(Command::KEYBOARD_INTERRUPT),
            output_port: OUTPUT_RESET | OUTPUT_A20,
            awaiting: Awaiting::Nothing,
            output: None,
            reply: None,
            keyboard: Keyboard::new(),
            line_level: false,
        }
    }

    /// Reads the status port (64h).
    #[must_use]
    pub fn read_status(&self) -> u8 {
        let mut status = self.status;
        status.set(Status::OUTPUT_FULL, self.output.is_some());
        status.bits()
    }

    /// Reads the data port (60h); an empty buffer reads 0.
    pub fn read_data(&mut self, effects: &mut dyn Effects) -> u8 {
        let value = self.output.take().unwrap_or(0);
        self.update(effects);
        value
    }

    /// Writes the command port (64h).
    pub fn write_command(&mut self, value: u8, effects: &mut dyn Effects) {
        self.status |= Status::COMMAND;
        self.awaiting = Awaiting::Nothing;
        match value {
            0x20 => self.answer(self.command.bits()),
            0x21..=0x3f => self.answer(0),
            0x60 => self.awaiting = Awaiting::CommandByte,
            0x61..=0x7f | 0xd4 => self.awaiting = Awaiting::Nowhere,
            0xa7 => self.command |= Command::AUX_DISABLED,
            0xa8 => self.command.remove(Command::AUX_DISABLED),
            0xa9 => self.answer(PORT_TEST_CLOCK_LOW),
            0xaa => {
                self.status |= Status::SYSTEM;
                self.answer(SELF_TEST_PASSED);
            }
            0xab if self.has_keyboard => self.answer(PORT_TEST_PASSED),
            0xab => self.answer(PORT_TEST_CLOCK_LOW),
            0xad => self.command |= Command::KEYBOARD_DISABLED,
            0xae => self.command.remove(Command::KEYBOARD_DISABLED),
            0xc0 => self.answer(INPUT_PORT),
            0xd0 => self.answer(self.read_output_port()),
            0xd1 => self.awaiting = Awaiting::OutputPort,
            0xd2 | 0xd3 => self.awaiting = Awaiting::Echo,
            0xdd => self.output_port &= !OUTPUT_A20,
            0xdf => self.output_port |= OUTPUT_A20,
            0xe0 => self.answer(0),
            // Pulses the output lines whose bits are clear; only the reset line is wired.
            0xf0..=0xff if value & OUTPUT_RESET == 0 => effects.request(MachineAction::InitCpu),
            _ => {}
        }
        self.update(effects);
    }

    /// Writes the data port (60h).
    pub fn write_data(&mut self, value: u8, effects: &mut dyn Effects) {
        self.status.remove(Status::COMMAND);
        match core::mem::replace(&mut self.awaiting, Awaiting::Nothing) {
            Awaiting::Nothing => {
                // Talking to the keyboard opens its interface.
                self.command.remove(Command::KEYBOARD_DISABLED);
                if self.has_keyboard {
                    let translate = self.command.contains(Command::TRANSLATE);
                    self.keyboard.write(value, translate);
                }
            }
            Awaiting::CommandByte => {
                self.command = Command::from_bits_truncate(value);
                let system = self.command.contains(Command::SYSTEM);
                self.status.set(Status::SYSTEM, system);
            }
            Awaiting::OutputPort => {
                self.output_port = value & OUTPUT_A20 | OUTPUT_RESET;
                if value & OUTPUT_RESET == 0 {
                    effects.request(MachineAction::InitCpu);
                }
            }
            Awaiting::Echo => self.answer(value),
            Awaiting::Nowhere => {}
        }
        self.update(effects);
    }

    fn read_output_port(&self) -> u8 {
        let full = if self.output.is_some() {
            OUTPUT_FULL
        } else {
            0
        };
        self.output_port | full
    }

    /// Puts a reply of the controller next in line; a reply that nobody read is lost, as on the chip.
    fn answer(&mut self, value: u8) {
        self.reply = Some(value);
    }

    /// Fills the output buffer, the controller's own replies first, and drives the interrupt: every byte is an edge.
    fn update(&mut self, effects: &mut dyn Effects) {
        if self.output.is_none() && self.line_level {
            self.line_level = false;
            effects.set_irq(GSI_KEYBOARD, false);
        }
        if self.output.is_none() {
            self.output = self.reply.take();
        }
        if self.output.is_none() && !self.command.contains(Command::KEYBOARD_DISABLED) {
            self.output = self.keyboard.take();
        }
        let level = self.output.is_some() && self.command.contains(Command::KEYBOARD_INTERRUPT);
        if level != self.line_level {
            self.line_level = level;
            effects.set_irq(GSI_KEYBOARD, level);
        }
    }
}
