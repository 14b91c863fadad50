//! A PS/2 keyboard that nobody types on: commands, their acknowledgements, and its identity.

const ACKNOWLEDGE: u8 = 0xfa;
const RESEND: u8 = 0xfe;
const SELF_TEST_PASSED: u8 = 0xaa;

/// Bytes that wait for the controller. The longest reply has three; a guest that never reads loses the newest.
pub(super) const QUEUE_LEN: usize = 16;

/// The keyboard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Keyboard {
    /// Oldest first.
    pub(super) queue: [u8; QUEUE_LEN],
    pub(super) queued: usize,
    /// The next byte is a parameter of the last command.
    pub(super) wants_parameter: bool,
    /// Scan code set, for those who ask: 1 to 3.
    pub(super) scan_code_set: u8,
    /// The parameter is a scan code set.
    pub(super) setting_set: bool,
}

impl Keyboard {
    pub(super) const fn new() -> Self {
        Self {
            queue: [0; QUEUE_LEN],
            queued: 0,
            wants_parameter: false,
            scan_code_set: 2,
            setting_set: false,
        }
    }

    /// Takes the oldest byte that the keyboard has to send.
    pub(super) fn take(&mut self) -> Option<u8> {
        let rest = self.queued.checked_sub(1)?;
        let [first, ..] = self.queue;
        self.queue.rotate_left(1);
        self.queued = rest;
        Some(first)
    }

    fn send(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if let Some(slot) = self.queue.get_mut(self.queued) {
                *slot = *byte;
                self.queued = self.queued.wrapping_add(1);
            }
        }
    }

    /// Receives a command or a parameter. `translate` tells that the controller converts scan codes to set 1.
    pub(super) fn write(&mut self, value: u8, translate: bool) {
        if core::mem::take(&mut self.wants_parameter) {
            self.take_parameter(value);
            return;
        }
        match value {
            // Echo.
            0xee => self.send(&[0xee]),
            // Indicators, typematic rate.
            0xed | 0xf3 => {
                self.send(&[ACKNOWLEDGE]);
                self.wants_parameter = true;
                self.setting_set = false;
            }
            // Scan code set.
            0xf0 => {
                self.send(&[ACKNOWLEDGE]);
                self.wants_parameter = true;
                self.setting_set = true;
            }
            // Identify: an MF2 keyboard. Its second byte is a scan code to the translating controller.
            0xf2 if translate => self.send(&[ACKNOWLEDGE, 0xab, 0x41]),
            0xf2 => self.send(&[ACKNOWLEDGE, 0xab, 0x83]),
            // Enable, disable, defaults, key types.
            0xf4 | 0xf7..=0xfd => self.send(&[ACKNOWLEDGE]),
            0xf5 | 0xf6 => {
                self.scan_code_set = 2;
                self.send(&[ACKNOWLEDGE]);
            }
            // Reset.
            0xff => {
                *self = Self::new();
                self.send(&[ACKNOWLEDGE, SELF_TEST_PASSED]);
            }
            _ => self.send(&[RESEND]),
        }
    }

    fn take_parameter(&mut self, value: u8) {
        match (self.setting_set, value) {
            (true, 0) => self.send(&[ACKNOWLEDGE, self.scan_code_set]),
            (true, 1..=3) => {
                self.scan_code_set = value;
                self.send(&[ACKNOWLEDGE]);
            }
            (true, _) => self.send(&[RESEND]),
            (false, _) => self.send(&[ACKNOWLEDGE]),
        }
    }
}
