//! The debug console at port E9h, as Bochs and QEMU have it: a byte written is a byte said.
//!
//! It has no state to save.

use crate::layout::CHANNEL_DEBUG;
use api::device::Effects;

/// What a read yields; firmware takes it as proof that the port is there.
pub const SIGNATURE: u8 = 0xe9;

/// The port.
#[derive(Clone, Copy, Debug, Default)]
pub struct DebugConsole;

impl DebugConsole {
    /// Reads the port.
    #[must_use]
    pub const fn read(self) -> u8 {
        SIGNATURE
    }

    /// Writes the port.
    pub fn write(self, value: u8, effects: &mut dyn Effects) {
        effects.emit(CHANNEL_DEBUG, value);
    }
}

#[cfg(test)]
mod tests {
    use super::DebugConsole;
    use api::fake::{Effect, Recorder};

    #[test]
    fn it_says_what_is_written() {
        let mut recorder = Recorder::default();
        DebugConsole.write(b'x', &mut recorder);
        assert_eq!(recorder.effects, [Effect::Emit(2, b'x')]);
        assert_eq!(DebugConsole.read(), 0xe9);
    }
}
