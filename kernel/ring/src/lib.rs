//! The lock-free log ring: many writers, any number of readers, the newest lines win.
//!
//! A writer never waits, so it works in a panic and in the middle of anything; a reader skips a line that is being
//! replaced while it reads. Lines longer than [`TEXT_MAX`] bytes are cut. Formatting and output are elsewhere.
#![no_std]
#![forbid(unsafe_code)]

use core::sync::atomic::{AtomicU64, Ordering, fence};

/// Longest text of a line in bytes.
pub const TEXT_MAX: usize = WORDS * 8;
const WORDS: usize = 22;

/// One line, copied out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// Position in the log, from 0; gaps are lines that were overwritten.
    pub ticket: u64,
    /// When, in whatever unit the writer uses.
    pub time: u64,
    /// Level, 0 is the gravest.
    pub level: u8,
    len: u8,
    text: [u8; TEXT_MAX],
}

impl Line {
    /// Returns the text, without what is not UTF-8 at the end of a cut line.
    #[must_use]
    pub fn text(&self) -> &str {
        let bytes = &self.text[..usize::from(self.len)];
        match core::str::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => core::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or(""),
        }
    }
}

#[derive(Debug)]
struct Slot {
    /// Twice the ticket plus 1 while it is written, plus 2 when it is whole.
    state: AtomicU64,
    time: AtomicU64,
    /// Level in bits 7:0, length in bits 15:8.
    meta: AtomicU64,
    words: [AtomicU64; WORDS],
}

/// A ring of `N` lines.
#[derive(Debug)]
pub struct LogRing<const N: usize> {
    head: AtomicU64,
    slots: [Slot; N],
}

impl<const N: usize> LogRing<N> {
    /// Makes an empty ring.
    #[must_use]
    #[expect(
        clippy::new_without_default,
        reason = "a ring is a static; only a const constructor is of use"
    )]
    pub const fn new() -> Self {
        Self {
            head: AtomicU64::new(0),
            slots: [const {
                Slot {
                    state: AtomicU64::new(0),
                    time: AtomicU64::new(0),
                    meta: AtomicU64::new(0),
                    words: [const { AtomicU64::new(0) }; WORDS],
                }
            }; N],
        }
    }

    /// Appends a line.
    pub fn push(&self, time: u64, level: u8, text: &[u8]) {
        let ticket = self.head.fetch_add(1, Ordering::Relaxed);
        let slot = &self.slots[(ticket % N as u64) as usize];
        let len = text.len().min(TEXT_MAX);
        slot.state.store(ticket * 2 + 1, Ordering::Relaxed);
        fence(Ordering::Release);
        slot.time.store(time, Ordering::Relaxed);
        slot.meta
            .store(u64::from(level) | (len as u64) << 8, Ordering::Relaxed);
        for (word, chunk) in slot.words.iter().zip(text[..len].chunks(8)) {
            let mut bytes = [0; 8];
            bytes[..chunk.len()].copy_from_slice(chunk);
            word.store(u64::from_le_bytes(bytes), Ordering::Relaxed);
        }
        slot.state.store(ticket * 2 + 2, Ordering::Release);
    }

    /// Returns the ticket of the next line to come.
    #[must_use]
    pub fn next_ticket(&self) -> u64 {
        self.head.load(Ordering::Acquire)
    }

    /// Returns the oldest ticket that may still be there.
    #[must_use]
    pub fn oldest_ticket(&self) -> u64 {
        self.next_ticket().saturating_sub(N as u64)
    }

    /// Copies the line with `ticket` out; `None` when it is gone, or not whole.
    #[must_use]
    pub fn get(&self, ticket: u64) -> Option<Line> {
        let slot = &self.slots[(ticket % N as u64) as usize];
        if slot.state.load(Ordering::Acquire) != ticket * 2 + 2 {
            return None;
        }
        let meta = slot.meta.load(Ordering::Relaxed);
        let mut line = Line {
            ticket,
            time: slot.time.load(Ordering::Relaxed),
            level: meta as u8,
            len: ((meta >> 8) as u8).min(TEXT_MAX as u8),
            text: [0; TEXT_MAX],
        };
        for (word, chunk) in slot.words.iter().zip(line.text.chunks_mut(8)) {
            chunk.copy_from_slice(&word.load(Ordering::Relaxed).to_le_bytes()[..chunk.len()]);
        }
        fence(Ordering::Acquire);
        (slot.state.load(Ordering::Relaxed) == ticket * 2 + 2).then_some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::{LogRing, TEXT_MAX};

    #[test]
    fn lines_come_back_in_order_until_overwritten() {
        let ring = LogRing::<4>::new();
        for i in 0..6_u8 {
            ring.push(u64::from(i), i, &[b'a' + i; 9]);
        }
        assert_eq!(ring.oldest_ticket(), 2);
        assert!(ring.get(1).is_none());
        let line = ring.get(5).unwrap();
        assert_eq!((line.text(), line.time, line.level), ("fffffffff", 5, 5));
        assert!(ring.get(6).is_none());
    }

    #[test]
    fn a_long_line_is_cut_at_a_character() {
        let ring = LogRing::<2>::new();
        let mut text = [b'x'; TEXT_MAX + 1];
        text[TEXT_MAX - 1..].copy_from_slice("é".as_bytes());
        ring.push(0, 0, &text);
        assert_eq!(ring.get(0).unwrap().text().len(), TEXT_MAX - 1);
    }

    #[test]
    fn readers_never_see_a_mixed_line() {
        extern crate std;
        let ring = LogRing::<8>::new();
        std::thread::scope(|scope| {
            for writer in 0..2_u8 {
                let ring = &ring;
                scope.spawn(move || {
                    (0..50_000_u64)
                        .for_each(|_| ring.push(u64::from(writer), writer, &[b'0' + writer; 100]))
                });
            }
            for _ in 0..20_000 {
                let next = ring.next_ticket();
                if let Some(line) = next.checked_sub(1).and_then(|t| ring.get(t)) {
                    assert!(
                        line.text().bytes().all(|b| b == b'0' + line.level),
                        "{line:?}"
                    );
                }
            }
        });
    }
}
