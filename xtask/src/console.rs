//! The near end of a serial line: bytes typed, output collected, texts waited for.
//!
//! It knows nothing of Basalt or of emulators: any two streams will do. What a script line means stands in
//! `script.rs`.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::script::{Line, Step};

/// Lines of output that a failure shows.
const TAIL_LINES: usize = 30;

/// A console with a script's position in its output.
pub(crate) struct Console {
    input: Box<dyn Write + Send>,
    output: Arc<Output>,
    /// Where `expect` looks from: the output's length when the first line after the previous `expect` was typed.
    /// Several expectations after one command may so be met in any order.
    window: usize,
    /// Whether an expectation was the last thing done.
    expected: bool,
    /// What was measured, by name.
    rates: BTreeMap<String, f64>,
    /// The last text found and where it ended: asked for again, it must be seen again.
    found: Option<(String, usize)>,
}

/// What the reading thread shares with its console.
#[derive(Debug, Default)]
struct Output {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Output without carriage returns and terminal control sequences.
    text: Vec<u8>,
    ended: bool,
}

impl Output {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The reader cannot panic while it holds the lock; if it did, the text would still be whole.
        self.state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Console {
    /// Takes both ends of a serial line; `mirror` receives every byte of output as it comes.
    pub(crate) fn new(
        input: Box<dyn Write + Send>,
        mut output: Box<dyn Read + Send>,
        mut mirror: impl Write + Send + 'static,
    ) -> Self {
        let shared = Arc::new(Output::default());
        let writer = Arc::clone(&shared);
        thread::spawn(move || {
            let mut plain = PlainText::default();
            let mut buffer = [0; 4096];
            // An error of the stream is its end: the process is gone.
            while let Ok(size @ 1..) = output.read(&mut buffer) {
                let bytes = &buffer[..size];
                // Whoever watches may go away; the script goes on.
                let _ = mirror.write_all(bytes).and_then(|()| mirror.flush());
                let mut state = writer.lock();
                state
                    .text
                    .extend(bytes.iter().filter_map(|byte| plain.filter(*byte)));
                writer.changed.notify_all();
            }
            writer.lock().ended = true;
            writer.changed.notify_all();
        });
        Self {
            input,
            output: shared,
            window: 0,
            expected: true,
            found: None,
            rates: BTreeMap::new(),
        }
    }

    /// Carries out one line of a script.
    pub(crate) fn perform(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::Type(bytes) => self.type_bytes(bytes),
            Step::Expect { text, within } => self.expect(text, *within),
            Step::Wait(time) => {
                thread::sleep(*time);
                Ok(())
            }
            Step::Measure { label, vms, window } => {
                let rates = crate::rates::measure(self, vms, *window)?;
                let rates = rates.into_iter();
                self.rates
                    .extend(rates.map(|(vm, rate)| (format!("{label}/{vm}"), rate)));
                Ok(())
            }
            Step::Share(share) => crate::rates::check(&self.rates, share),
        }
    }

    /// Carries out a whole script; the error names the line that failed and shows the last output.
    pub(crate) fn perform_all(&mut self, script: &[Line]) -> Result<()> {
        for line in script {
            if let Err(error) = self.perform(&line.step) {
                bail!(
                    "line {}: {}: {error:#}\n{}",
                    line.number,
                    line.text,
                    self.tail()
                );
            }
        }
        Ok(())
    }

    /// Types bytes as they are.
    pub(crate) fn type_bytes(&mut self, bytes: &[u8]) -> Result<()> {
        let (length, ended) = {
            let state = self.output.lock();
            (state.text.len(), state.ended)
        };
        if ended {
            bail!("nobody is at the other end any more");
        }
        if self.expected {
            self.window = length;
            self.expected = false;
            self.found = None;
        }
        self.input
            .write_all(bytes)
            .and_then(|()| self.input.flush())
            .context("cannot type it")
    }

    /// Waits until `text` has come since the last command.
    pub(crate) fn expect(&mut self, text: &str, within: Duration) -> Result<()> {
        let deadline = Instant::now() + within;
        let again = self.found.take().filter(|(last, _)| last == text);
        let mut from = again.map_or(self.window, |(_, end)| end);
        self.expected = true;
        let mut state = self.output.lock();
        loop {
            if let Some(start) = find(&state.text[from..], text.as_bytes()) {
                self.found = Some((text.to_owned(), from + start + text.len()));
                return Ok(());
            }
            // What was searched need not be searched again, but for a text that is only partly there.
            from = from.max((state.text.len() + 1).saturating_sub(text.len()));
            let left = deadline.saturating_duration_since(Instant::now());
            if state.ended {
                bail!("not seen, and the machine has stopped");
            }
            if left.is_zero() {
                bail!("not seen");
            }
            let waited = self.output.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
    }

    /// All output so far.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.output.lock().text).into_owned()
    }

    /// The last lines of output, each set off by a bar.
    pub(crate) fn tail(&self) -> String {
        let state = self.output.lock();
        let text = String::from_utf8_lossy(&state.text);
        let lines: Vec<&str> = text.lines().collect();
        let mut tail = String::from("the last output was:");
        for line in &lines[lines.len().saturating_sub(TAIL_LINES)..] {
            tail.push_str("\n  | ");
            tail.push_str(line);
        }
        tail
    }
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len())
        .position(|window| window == wanted)
}

/// Takes carriage returns and escape sequences (ECMA-48, 5.4: CSI, parameters, one final byte) out of a stream.
#[derive(Debug, Default)]
enum PlainText {
    #[default]
    Text,
    Escape,
    Sequence,
}

impl PlainText {
    fn filter(&mut self, byte: u8) -> Option<u8> {
        match (&self, byte) {
            (_, 0x1b) => *self = Self::Escape,
            (Self::Escape, b'[') => *self = Self::Sequence,
            (Self::Escape, _) | (Self::Sequence, 0x40..=0x7e) => *self = Self::Text,
            (Self::Sequence, _) | (Self::Text, b'\r') => {}
            (Self::Text, _) => return Some(byte),
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command, Stdio};

    const SOON: Duration = Duration::from_secs(20);
    const AT_ONCE: Duration = Duration::from_millis(50);

    fn shell(script: &str) -> (Child, Console) {
        let mut command = Command::new("sh");
        command
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().expect("every system has sh");
        let input = child.stdin.take().expect("it was asked for");
        let output = child.stdout.take().expect("it was asked for");
        let console = Console::new(Box::new(input), Box::new(output), std::io::sink());
        (child, console)
    }

    #[test]
    fn an_answer_is_looked_for_after_the_question() {
        let (mut child, mut console) = shell("echo ready; read x; echo got $x; read y; echo bye");
        console.expect("ready", SOON).expect("it was said");
        console.type_bytes(b"one\n").expect("it listens");
        assert!(console.expect("ready", AT_ONCE).is_err());
        console.expect("got one", SOON).expect("it was said");
        console
            .expect("got", SOON)
            .expect("the order does not matter");
        assert!(console.expect("got", AT_ONCE).is_err());
        console.type_bytes(b"two\n").expect("it listens");
        console.expect("bye", SOON).expect("it was said");
        child.wait().expect("it ends");
    }

    #[test]
    fn the_end_of_output_ends_the_waiting() {
        let (mut child, mut console) = shell("echo one; echo two");
        let start = Instant::now();
        let error = console.expect("three", SOON).expect_err("it is never said");
        assert!(start.elapsed() < SOON / 2);
        assert!(error.to_string().contains("stopped"), "{error}");
        assert_eq!(console.tail(), "the last output was:\n  | one\n  | two");
        assert!(console.type_bytes(b"hello\n").is_err());
        child.wait().expect("it ends");
    }

    #[test]
    fn a_failing_script_names_its_line() {
        let (mut child, mut console) = shell("read x; echo $x; read y");
        let script = crate::script::parse(
            "# greet\nhello\nexpect hello within 20 s\nexpect moon within 0.1 s\n",
        )
        .expect("a good script");
        let error = console.perform_all(&script).expect_err("nobody said moon");
        assert!(
            error
                .to_string()
                .starts_with("line 4: expect moon within 0.1 s: not seen\n"),
            "{error}"
        );
        console.type_bytes(b"end\n").expect("it listens");
        child.wait().expect("it ends");
    }

    #[test]
    fn control_sequences_do_not_hide_a_text() {
        let mut plain = PlainText::default();
        let text: Vec<u8> = b"\x1b[1;32mbas\x1b[Kalt>\x1b[0m \r\n\x1b7x"
            .iter()
            .filter_map(|b| plain.filter(*b))
            .collect();
        assert_eq!(text, b"basalt> \nx");
    }
}
