//! The lines typed before: a bounded list without duplicates, and a place in it while the user looks back.
//!
//! It is not kept over a restart.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// Lines that are kept; the oldest is forgotten first.
pub(crate) const HISTORY_LEN_MAX: usize = 100;

/// The history of one editor.
#[derive(Debug, Default)]
pub(crate) struct History {
    /// Oldest first.
    lines: VecDeque<Vec<u8>>,
    /// How far back the user looks: 0 is the line being typed.
    back: usize,
    /// The line being typed, while the user looks at another.
    draft: Vec<u8>,
}

impl History {
    /// Adds a line as the newest and stops looking back; a line that is there already moves.
    pub(crate) fn push(&mut self, line: &[u8]) {
        self.back = 0;
        self.draft.clear();
        if line.iter().all(u8::is_ascii_whitespace) {
            return;
        }
        self.lines.retain(|known| known != line);
        if self.lines.len() >= HISTORY_LEN_MAX {
            self.lines.pop_front();
        }
        self.lines.push_back(line.to_vec());
    }

    /// Stops looking back, keeping nothing of the line being typed.
    pub(crate) fn leave(&mut self) {
        self.back = 0;
        self.draft.clear();
    }

    /// Goes one line back; `current` is what is being edited. `None` at the oldest.
    pub(crate) fn older(&mut self, current: &[u8]) -> Option<Vec<u8>> {
        let back = self.back.saturating_add(1);
        let line = self.at(back)?.clone();
        if self.back == 0 {
            self.draft = current.to_vec();
        }
        self.back = back;
        Some(line)
    }

    /// Goes one line forward, at last to the line being typed; `None` when there already.
    pub(crate) fn newer(&mut self) -> Option<Vec<u8>> {
        self.back = self.back.checked_sub(1)?;
        if self.back == 0 {
            return Some(core::mem::take(&mut self.draft));
        }
        self.at(self.back).cloned()
    }

    fn at(&self, back: usize) -> Option<&Vec<u8>> {
        self.lines.get(self.lines.len().checked_sub(back)?)
    }
}
