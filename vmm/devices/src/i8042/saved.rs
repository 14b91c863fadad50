//! Saved state of the keyboard controller and its keyboard.

use crate::i8042::keyboard::{Keyboard, QUEUE_LEN};
use crate::i8042::{Awaiting, Command, I8042, OUTPUT_A20, OUTPUT_RESET, Status};
use alloc::vec::Vec;
use api::device::{Device, RestoreError, SavedState};

/// State of controller and keyboard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct I8042Saved {
    /// Status register without the output-full bit.
    pub status: u8,
    /// Command byte.
    pub command: u8,
    /// Output port: reset and A20 lines.
    pub output_port: u8,
    /// Parameter that is awaited: 0 none, 1 command byte, 2 output port, 3 echo, 4 one that goes nowhere.
    pub awaiting: u8,
    /// Byte in the output buffer.
    pub output: Option<u8>,
    /// Reply that waits for the output buffer.
    pub reply: Option<u8>,
    /// What the keyboard has to send, oldest first, at most 16 bytes.
    pub keyboard_queue: Vec<u8>,
    /// The keyboard waits for a parameter.
    pub keyboard_wants_parameter: bool,
    /// The parameter is a scan code set.
    pub keyboard_setting_set: bool,
    /// Scan code set, 1 to 3.
    pub scan_code_set: u8,
    /// Level last driven on interrupt 1.
    pub line_level: bool,
}

impl SavedState for I8042Saved {
    const KIND: &'static str = "i8042";
    const VERSION: u16 = 1;
}

impl Device for I8042 {
    type Saved = I8042Saved;

    fn reset(&mut self) {
        *self = Self::new(self.has_keyboard);
    }

    fn save(&self) -> I8042Saved {
        let Self {
            has_keyboard: _,
            status,
            command,
            output_port,
            awaiting,
            output,
            reply,
            keyboard:
                Keyboard {
                    queue,
                    queued,
                    wants_parameter,
                    scan_code_set,
                    setting_set,
                },
            line_level,
        } = self;
        I8042Saved {
            status: status.bits(),
            command: command.bits(),
            output_port: *output_port,
            awaiting: match awaiting {
                Awaiting::Nothing => 0,
                Awaiting::CommandByte => 1,
                Awaiting::OutputPort => 2,
                Awaiting::Echo => 3,
                Awaiting::Nowhere => 4,
            },
            output: *output,
            reply: *reply,
            keyboard_queue: queue.iter().copied().take(*queued).collect(),
            keyboard_wants_parameter: *wants_parameter,
            keyboard_setting_set: *setting_set,
            scan_code_set: *scan_code_set,
            line_level: *line_level,
        }
    }

    fn restore(&mut self, saved: I8042Saved) -> Result<(), RestoreError> {
        let bad = |field| RestoreError::Field {
            kind: I8042Saved::KIND,
            field,
        };
        let mut queue = [0; QUEUE_LEN];
        let queued = saved.keyboard_queue.len();
        queue
            .get_mut(..queued)
            .ok_or(bad("keyboard_queue"))?
            .copy_from_slice(&saved.keyboard_queue);
        if !(1..=3).contains(&saved.scan_code_set) {
            return Err(bad("scan_code_set"));
        }
        if saved.output_port & !OUTPUT_A20 != OUTPUT_RESET {
            return Err(bad("output_port"));
        }
        let status = Status::from_bits(saved.status).ok_or(bad("status"))?;
        if status.intersects(Status::OUTPUT_FULL | Status::AUX_OUTPUT) {
            return Err(bad("status"));
        }
        *self = Self {
            has_keyboard: self.has_keyboard,
            status,
            command: Command::from_bits(saved.command).ok_or(bad("command"))?,
            output_port: saved.output_port,
            awaiting: match saved.awaiting {
                0 => Awaiting::Nothing,
                1 => Awaiting::CommandByte,
                2 => Awaiting::OutputPort,
                3 => Awaiting::Echo,
                4 => Awaiting::Nowhere,
                _ => return Err(bad("awaiting")),
            },
            output: saved.output,
            reply: saved.reply,
            keyboard: Keyboard {
                queue,
                queued,
                wants_parameter: saved.keyboard_wants_parameter,
                scan_code_set: saved.scan_code_set,
                setting_set: saved.keyboard_setting_set,
            },
            line_level: saved.line_level,
        };
        Ok(())
    }
}
