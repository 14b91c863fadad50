//! The line editor: a state machine from bytes typed to bytes shown and lines entered.
//!
//! It knows no device and no command: bytes come in one by one, what the terminal shall show is appended to a buffer.
//! It moves the cursor with backspaces and printed characters only, so that a terminal that knows no control sequence
//! shows the same. Lines are printable ASCII; a line wider than the terminal scrolls sideways. Not here: several
//! lines, selection, an undo.

use crate::history::History;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// Bytes of a line at most; what is typed beyond rings the bell.
pub const LINE_LEN_MAX: usize = 1024;
/// Columns of a terminal that did not tell.
const COLUMNS_DEFAULT: usize = 80;
/// Columns that a line gets however long the prompt is.
const LINE_COLUMNS_MIN: usize = 8;

const BELL: u8 = 0x07;
const BACKSPACE: u8 = 0x08;
const ESCAPE: u8 = 0x1b;
const DELETE: u8 = 0x7f;

/// What a byte led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Nothing yet.
    None,
    /// Enter was pressed; the caller calls [`LineEditor::start`] when it is ready for the next line.
    Line(String),
    /// Ctrl-C was pressed; the line is gone.
    Interrupt,
    /// Ctrl-D was pressed on an empty line.
    Eof,
}

/// What the word before the cursor can become.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Completion {
    /// Where the word starts, in bytes from the line's start.
    pub start: usize,
    /// Whole words that begin as the typed one does. A word that ends with `=` gets no blank after it.
    pub candidates: Vec<String>,
}

/// A line being typed.
#[derive(Debug)]
pub struct LineEditor {
    prompt: String,
    columns: usize,
    line: Vec<u8>,
    /// Bytes before the cursor.
    cursor: usize,
    /// First byte of the line that is visible.
    scroll: usize,
    history: History,
    input: Input,
    shown: Shown,
}

/// Where in a sequence of bytes the input is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Input {
    Plain,
    /// After a carriage return: a line feed belongs to it.
    Return,
    Escape,
    /// After ESC [ or ESC O, with the first number so far, if it is the first.
    Sequence {
        number: u8,
        further: bool,
    },
}

/// What stands on the terminal after the prompt.
#[derive(Debug, Default)]
struct Shown {
    text: Vec<u8>,
    cursor: usize,
}

/// An edit or a move.
#[derive(Debug, Clone, Copy)]
enum Key {
    Left,
    Right,
    Home,
    End,
    Older,
    Newer,
    DeleteBefore,
    DeleteUnder,
    CutToEnd,
    CutToStart,
    CutWord,
}

impl LineEditor {
    /// Creates an editor for a terminal of 80 columns; nothing is shown yet.
    #[must_use]
    pub fn new(prompt: &str) -> Self {
        Self {
            prompt: prompt.to_string(),
            columns: COLUMNS_DEFAULT,
            line: Vec::new(),
            cursor: 0,
            scroll: 0,
            history: History::default(),
            input: Input::Plain,
            shown: Shown::default(),
        }
    }

    /// Sets the terminal's width; the next [`start`](Self::start) uses it.
    pub fn set_columns(&mut self, columns: usize) {
        self.columns = columns;
    }

    /// Shows the prompt, and what is already typed, on a fresh line of the terminal. Call it at first, after each
    /// event but [`Event::None`], and after something else was written to the terminal.
    pub fn start(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.prompt.as_bytes());
        self.shown = Shown::default();
        self.paint(out);
    }

    /// Takes the prompt and the line off the terminal, so that something else can be written there; `start` shows
    /// them again.
    pub fn hide(&mut self, out: &mut Vec<u8>) {
        let used = self.prompt.len().saturating_add(self.shown.text.len());
        out.push(b'\r');
        out.extend(core::iter::repeat_n(b' ', used));
        out.push(b'\r');
    }

    /// Takes one byte from the terminal; `complete` is asked on Tab with the text before the cursor.
    pub fn feed(
        &mut self,
        byte: u8,
        complete: &dyn Fn(&str) -> Completion,
        out: &mut Vec<u8>,
    ) -> Event {
        match (core::mem::replace(&mut self.input, Input::Plain), byte) {
            (Input::Return, b'\n') => Event::None,
            (Input::Escape, b'[' | b'O') => {
                self.input = Input::Sequence {
                    number: 0,
                    further: false,
                };
                Event::None
            }
            (Input::Escape, ESCAPE) => {
                self.input = Input::Escape;
                Event::None
            }
            (Input::Escape, _) => Event::None,
            (Input::Sequence { number, further }, 0x20..=0x7e) => {
                self.sequence(number, further, byte, out)
            }
            // A control byte inside a sequence ends it and means what it always means.
            (Input::Plain | Input::Return | Input::Sequence { .. }, _) => {
                self.plain(byte, complete, out)
            }
        }
    }

    fn sequence(&mut self, number: u8, further: bool, byte: u8, out: &mut Vec<u8>) -> Event {
        let key = match byte {
            b'0'..=b'9' if further => {
                self.input = Input::Sequence { number, further };
                return Event::None;
            }
            b'0'..=b'9' => {
                let digit = byte.wrapping_sub(b'0');
                let number = number.saturating_mul(10).saturating_add(digit);
                self.input = Input::Sequence { number, further };
                return Event::None;
            }
            // Parameter and intermediate bytes (ECMA-48, 5.4): only the first number matters here.
            0x20..=0x3f => {
                self.input = Input::Sequence {
                    number,
                    further: true,
                };
                return Event::None;
            }
            b'A' => Key::Older,
            b'B' => Key::Newer,
            b'C' => Key::Right,
            b'D' => Key::Left,
            b'H' => Key::Home,
            b'F' => Key::End,
            b'~' => match number {
                1 | 7 => Key::Home,
                4 | 8 => Key::End,
                3 => Key::DeleteUnder,
                _ => return Event::None,
            },
            _ => return Event::None,
        };
        self.press(key, out);
        Event::None
    }

    fn plain(
        &mut self,
        byte: u8,
        complete: &dyn Fn(&str) -> Completion,
        out: &mut Vec<u8>,
    ) -> Event {
        match byte {
            b'\r' | b'\n' => {
                if byte == b'\r' {
                    self.input = Input::Return;
                }
                return self.enter(out);
            }
            ESCAPE => self.input = Input::Escape,
            b'\t' => self.complete(complete, out),
            0x20..=0x7e => self.insert(&[byte], out),
            _ => return self.control(byte, out),
        }
        Event::None
    }

    fn control(&mut self, byte: u8, out: &mut Vec<u8>) -> Event {
        let key = match byte {
            0x01 => Key::Home,
            0x02 => Key::Left,
            0x03 => return self.interrupt(out),
            0x04 if self.line.is_empty() => {
                out.extend_from_slice(b"\r\n");
                return Event::Eof;
            }
            0x04 => Key::DeleteUnder,
            0x05 => Key::End,
            0x06 => Key::Right,
            BACKSPACE | DELETE => Key::DeleteBefore,
            0x0b => Key::CutToEnd,
            0x0c => {
                // Clears a terminal that knows the sequence; elsewhere the line is shown once more.
                out.extend_from_slice(b"\x1b[2J\x1b[H\r");
                self.start(out);
                return Event::None;
            }
            0x0e => Key::Newer,
            0x10 => Key::Older,
            0x15 => Key::CutToStart,
            0x17 => Key::CutWord,
            _ => return Event::None,
        };
        self.press(key, out);
        Event::None
    }

    fn press(&mut self, key: Key, out: &mut Vec<u8>) {
        let end = self.line.len();
        match key {
            Key::Left => self.cursor = self.cursor.saturating_sub(1),
            Key::Right => self.cursor = self.cursor.saturating_add(1).min(end),
            Key::Home => self.cursor = 0,
            Key::End => self.cursor = end,
            Key::Older => {
                if let Some(line) = self.history.older(&self.line) {
                    self.replace(line);
                }
            }
            Key::Newer => {
                if let Some(line) = self.history.newer() {
                    self.replace(line);
                }
            }
            Key::DeleteBefore => self.cut(self.cursor.saturating_sub(1), self.cursor),
            Key::DeleteUnder => self.cut(self.cursor, self.cursor.saturating_add(1).min(end)),
            Key::CutToEnd => self.cut(self.cursor, end),
            Key::CutToStart => self.cut(0, self.cursor),
            Key::CutWord => self.cut(self.word_start(), self.cursor),
        }
        self.paint(out);
    }

    fn enter(&mut self, out: &mut Vec<u8>) -> Event {
        out.extend_from_slice(b"\r\n");
        self.history.push(&self.line);
        let line = String::from_utf8_lossy(&self.line).into_owned();
        self.replace(Vec::new());
        Event::Line(line)
    }

    fn interrupt(&mut self, out: &mut Vec<u8>) -> Event {
        out.extend_from_slice(b"^C\r\n");
        self.history.leave();
        self.replace(Vec::new());
        Event::Interrupt
    }

    fn insert(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        if self.line.len().saturating_add(bytes.len()) > LINE_LEN_MAX {
            out.push(BELL);
            return;
        }
        let at = self.cursor.min(self.line.len());
        self.line.splice(at..at, bytes.iter().copied());
        self.cursor = at.saturating_add(bytes.len());
        self.paint(out);
    }

    fn replace(&mut self, line: Vec<u8>) {
        self.line = line;
        self.cursor = self.line.len();
    }

    /// Removes the bytes `from..to` and leaves the cursor there.
    fn cut(&mut self, from: usize, to: usize) {
        let to = to.min(self.line.len());
        if from < to {
            self.line.drain(from..to);
        }
        self.cursor = from.min(self.line.len());
    }

    /// Where the word before the cursor starts, blanks behind it included.
    fn word_start(&self) -> usize {
        let before = self.line.get(..self.cursor).unwrap_or_default();
        let word_end = before.trim_ascii_end().len();
        let word = before.get(..word_end).unwrap_or_default();
        word.iter()
            .rposition(|byte| *byte == b' ')
            .map_or(0, |blank| blank.saturating_add(1))
    }

    fn complete(&mut self, complete: &dyn Fn(&str) -> Completion, out: &mut Vec<u8>) {
        let before = self.line.get(..self.cursor).unwrap_or_default();
        let before = String::from_utf8_lossy(before).into_owned();
        let Completion { start, candidates } = complete(&before);
        let typed = before.get(start..).unwrap_or_default();
        let Some(common) = common_prefix(&candidates) else {
            out.push(BELL);
            return;
        };
        let rest = common.strip_prefix(typed).unwrap_or_default();
        let mut added = rest.as_bytes().to_vec();
        let done = candidates.len() == 1;
        if done && !common.ends_with('=') {
            added.push(b' ');
        }
        if added.iter().any(|byte| !(0x20..0x7f).contains(byte)) {
            out.push(BELL);
        } else if !added.is_empty() {
            self.insert(&added, out);
        } else if !done {
            self.list(&candidates, out);
        }
    }

    /// Shows the candidates in columns below the line, then the line again.
    fn list(&mut self, candidates: &[String], out: &mut Vec<u8>) {
        const GAP: usize = 2;
        let widest = candidates.iter().map(String::len).max().unwrap_or(0);
        let width = widest.saturating_add(GAP);
        let per_row = self.columns.checked_div(width).unwrap_or(1).max(1);
        out.extend_from_slice(b"\r\n");
        for row in candidates.chunks(per_row) {
            for (index, word) in row.iter().enumerate() {
                out.extend_from_slice(word.as_bytes());
                if index.saturating_add(1) < row.len() {
                    let padding = width.saturating_sub(word.len());
                    out.extend(core::iter::repeat_n(b' ', padding));
                }
            }
            out.extend_from_slice(b"\r\n");
        }
        self.start(out);
    }

    /// Brings the terminal from what it shows to what it should, touching only what differs.
    fn paint(&mut self, out: &mut Vec<u8>) {
        let (text, cursor) = self.view();
        let same = text
            .iter()
            .zip(&self.shown.text)
            .take_while(|(new, old)| new == old)
            .count();
        let changed = same < text.len() || same < self.shown.text.len();
        let mut at = self.shown.cursor;
        if changed {
            at = move_cursor(&self.shown.text, at, same, out);
            out.extend_from_slice(text.get(same..).unwrap_or_default());
            let stale = self.shown.text.len().saturating_sub(text.len());
            out.extend(core::iter::repeat_n(b' ', stale));
            out.extend(core::iter::repeat_n(BACKSPACE, stale));
            at = at.max(text.len());
        }
        move_cursor(&text, at.min(text.len()), cursor, out);
        self.shown = Shown { text, cursor };
    }

    /// The visible part of the line, and the cursor's column in it.
    fn view(&mut self) -> (Vec<u8>, usize) {
        // The last column stays free: what a terminal does after writing to it differs.
        let width = self
            .columns
            .saturating_sub(self.prompt.len())
            .saturating_sub(1)
            .max(LINE_COLUMNS_MIN);
        if self.line.len() <= width {
            self.scroll = 0;
        } else if self.cursor < self.scroll || self.cursor > self.scroll.saturating_add(width) {
            // Half a window of context, so that typing on does not scroll at every key.
            self.scroll = self.cursor.saturating_sub(width.div_euclid(2));
        }
        let end = self.scroll.saturating_add(width).min(self.line.len());
        let start = self.scroll.min(end);
        let text = self.line.get(start..end).unwrap_or_default().to_vec();
        (text, self.cursor.saturating_sub(start))
    }
}

/// Moves the terminal's cursor inside `text` by backspaces or by printing it again; returns where it stands.
fn move_cursor(text: &[u8], from: usize, to: usize, out: &mut Vec<u8>) -> usize {
    if to < from {
        out.extend(core::iter::repeat_n(BACKSPACE, from.saturating_sub(to)));
    } else {
        out.extend_from_slice(text.get(from..to).unwrap_or_default());
    }
    to
}

/// The longest text that all candidates start with; `None` without candidates.
fn common_prefix(candidates: &[String]) -> Option<&str> {
    let (first, rest) = candidates.split_first()?;
    let len = rest.iter().fold(first.len(), |len, other| {
        let same = first.bytes().zip(other.bytes());
        len.min(same.take_while(|(a, b)| a == b).count())
    });
    // A prefix that ends inside a character is no text; such names are not offered anyway.
    Some(first.get(..len).unwrap_or_default())
}

#[cfg(test)]
mod tests;
