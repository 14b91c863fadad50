//! The editor against a terminal that knows nothing but carriage return, line feed and backspace.

use super::{Completion, Event, LINE_LEN_MAX, LineEditor};
use crate::testing::Random;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

const PROMPT: &str = "basalt> ";

/// An endless sheet of paper with a cursor.
struct Terminal {
    rows: Vec<Vec<u8>>,
    column: usize,
    widest: usize,
}

impl Terminal {
    fn new() -> Self {
        Self {
            rows: vec![Vec::new()],
            column: 0,
            widest: 0,
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            let row = self.rows.last_mut().unwrap();
            match byte {
                b'\r' => self.column = 0,
                b'\n' => self.rows.push(Vec::new()),
                8 => self.column -= 1,
                7 => {}
                _ => {
                    row.resize(row.len().max(self.column + 1), b' ');
                    row[self.column] = *byte;
                    self.column += 1;
                    self.widest = self.widest.max(self.column);
                }
            }
        }
    }

    fn last(&self) -> String {
        String::from_utf8_lossy(self.rows.last().unwrap())
            .trim_end()
            .to_string()
    }
}

struct Bench {
    editor: LineEditor,
    terminal: Terminal,
    events: Vec<Event>,
}

fn words(before: &str) -> Completion {
    let start = before.rfind(' ').map_or(0, |blank| blank + 1);
    let candidates = ["vm", "list", "host", "info", "install", "name="]
        .into_iter()
        .filter(|word| word.starts_with(&before[start..]))
        .map(ToString::to_string)
        .collect();
    Completion { start, candidates }
}

impl Bench {
    fn new() -> Self {
        let mut bench = Self {
            editor: LineEditor::new(PROMPT),
            terminal: Terminal::new(),
            events: Vec::new(),
        };
        let mut out = Vec::new();
        bench.editor.start(&mut out);
        bench.terminal.write(&out);
        bench
    }

    fn feed(&mut self, bytes: &[u8]) -> &mut Self {
        for byte in bytes {
            let mut out = Vec::new();
            let event = self.editor.feed(*byte, &words, &mut out);
            if event != Event::None {
                self.events.push(event);
                self.editor.start(&mut out);
            }
            self.terminal.write(&out);
        }
        self
    }

    fn lines(&self) -> Vec<&str> {
        let mut lines = Vec::new();
        for event in &self.events {
            if let Event::Line(line) = event {
                lines.push(line.as_str());
            }
        }
        lines
    }

    /// The editor's line with a bar where the cursor is, after checking that the terminal shows the same.
    fn look(&self) -> String {
        let line = String::from_utf8(self.editor.line.clone()).unwrap();
        let at = self.editor.cursor;
        assert_eq!(
            self.terminal.last(),
            [PROMPT, &line].concat().trim_end(),
            "the terminal shows what is there"
        );
        assert_eq!(self.terminal.column, PROMPT.len() + at);
        [&line[..at], "|", &line[at..]].concat()
    }
}

fn after(bytes: &[u8]) -> String {
    Bench::new().feed(bytes).look()
}

#[test]
fn a_line_ends_at_either_or_both_of_cr_and_lf() {
    let mut bench = Bench::new();
    bench.feed(b"one\rtwo\nthree\r\n\r\n\n");
    assert_eq!(bench.lines(), ["one", "two", "three", "", ""]);
}

#[test]
fn typing_at_the_end_sends_one_byte_per_byte() {
    let mut editor = LineEditor::new(PROMPT);
    let mut out = Vec::new();
    editor.start(&mut out);
    out.clear();
    for byte in b"vm list" {
        editor.feed(*byte, &words, &mut out);
    }
    assert_eq!(out, b"vm list");
}

#[test]
fn keys_move_and_delete() {
    assert_eq!(after(b"abc\x01x"), "x|abc");
    assert_eq!(after(b"abc\x02\x02x\x05y"), "axbcy|");
    assert_eq!(after(b"abc\x01\x06\x7f"), "|bc");
    assert_eq!(after(b"abc\x1b[D\x08"), "a|c");
    assert_eq!(after(b"abc\x1b[H\x1b[3~"), "|bc");
    assert_eq!(after(b"abc\x1b[1~\x1b[C\x1bOFd"), "abcd|");
    assert_eq!(after(b"abc\x02\x0b"), "ab|");
    assert_eq!(after(b"abc\x02\x15"), "|c");
    assert_eq!(after(b"vm  start de  \x17"), "vm  start |");
    assert_eq!(after(b"abc\x01\x04"), "|bc");
    assert_eq!(after(b"abc\x02\x02\x1b[1;5Cd"), "abd|c");
}

#[test]
fn unknown_sequences_and_bytes_are_swallowed() {
    assert_eq!(after(b"a\x1b[15~b\x1b[?25hc\x1bxd\xc3\xa4e\x00"), "abcde|");
    assert_eq!(
        after(b"a\x1b[2\rb"),
        "b|",
        "a control byte breaks a sequence"
    );
}

#[test]
fn interrupt_and_end_of_input() {
    let mut bench = Bench::new();
    bench.feed(b"abc\x03\x04");
    assert_eq!(bench.events, [Event::Interrupt, Event::Eof]);
    assert_eq!(bench.look(), "|");
}

#[test]
fn history_goes_back_and_comes_back_to_the_draft() {
    let mut bench = Bench::new();
    bench.feed(b"one\rtwo\rone\r  \rdra\x1b[A");
    assert_eq!(bench.look(), "one|");
    bench.feed(b"\x10");
    assert_eq!(bench.look(), "two|", "one was moved, not kept twice");
    bench.feed(b"\x1b[A\x1b[A");
    assert_eq!(bench.look(), "two|");
    bench.feed(b"\x0e\x1b[B\x1b[B");
    assert_eq!(bench.look(), "dra|");
}

#[test]
fn history_forgets_the_oldest() {
    let mut bench = Bench::new();
    for number in 0..150 {
        bench.feed(alloc::format!("line {number}\r").as_bytes());
    }
    for _ in 0..200 {
        bench.feed(b"\x10");
    }
    assert_eq!(bench.look(), "line 50|");
}

#[test]
fn tab_completes_as_far_as_it_is_clear() {
    assert_eq!(after(b"v\t"), "vm |");
    assert_eq!(after(b"vm i\t"), "vm in|");
    assert_eq!(after(b"n\t"), "name=|");
    assert_eq!(after(b"x\t"), "x|");
    let mut bench = Bench::new();
    bench.feed(b"vm i\t\t");
    assert_eq!(bench.look(), "vm in|");
    let rows = &bench.terminal.rows;
    assert_eq!(rows[rows.len() - 2], b"info     install");
}

#[test]
fn a_long_line_scrolls_sideways_and_is_bounded() {
    let mut bench = Bench::new();
    bench.feed(&[b'x'; LINE_LEN_MAX + 10]);
    assert_eq!(bench.editor.line.len(), LINE_LEN_MAX);
    assert!(bench.terminal.widest < 80);
    bench.feed(b"\x01y");
    assert!(
        bench.terminal.last().starts_with("basalt> xxx"),
        "the line is full"
    );
    bench.feed(b"\x04y\x05\r");
    assert!(bench.lines()[0].starts_with("yxxx"));
}

#[test]
fn hiding_leaves_an_empty_row() {
    let mut bench = Bench::new();
    bench.feed(b"vm list");
    let mut out = Vec::new();
    bench.editor.hide(&mut out);
    bench.terminal.write(&out);
    assert_eq!(bench.terminal.last(), "");
    bench.terminal.write(b"a log line\r\n");
    out.clear();
    bench.editor.start(&mut out);
    bench.terminal.write(&out);
    assert_eq!(bench.look(), "vm list|");
}

#[test]
fn random_bytes_never_confuse_the_terminal() {
    let mut random = Random::new(0xba5a_1711);
    let keys: [&[u8]; 12] = [
        b"\x1b[A", b"\x1b[B", b"\x1b[C", b"\x1b[D", b"\x1b[3~", b"\t", b"\x7f", b"\x17", b"\r",
        b"vm ", b"\x01", b"\x0b",
    ];
    for _ in 0..200 {
        let mut bench = Bench::new();
        for _ in 0..1000 {
            match random.below(3) {
                0 => {
                    let key = random.pick(&keys);
                    bench.feed(key);
                }
                1 => {
                    bench.feed(&[b'a' + random.below(26) as u8]);
                }
                _ => {
                    let byte = random.next() as u8;
                    // The paper of this test knows no control sequence, so it is not cleared.
                    if byte != 0x0c {
                        bench.feed(&[byte]);
                    }
                }
            }
            if bench.editor.line.len() < 70 {
                bench.look();
            }
            assert!(bench.editor.cursor <= bench.editor.line.len());
            assert!(bench.terminal.widest < 80);
        }
    }
}
