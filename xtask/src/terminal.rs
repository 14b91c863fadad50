//! This terminal as the far end of a machine's serial line, for emulators that do not connect it themselves.
//!
//! Its settings are stty's business, which comes with every system that has terminals.

use std::io::{self, IsTerminal, Read, Write};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::outer::{Line, Running};
use crate::workspace::say;

/// What is pressed before the key that ends the machine: ctrl-\, as with QEMU.
const ESCAPE: u8 = 0x1c;
/// How often the machine and the escape key are looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Connects the terminal to the machine and waits for the end of either.
pub(crate) fn interact(running: &mut Running) -> Result<ExitCode> {
    say("starting; `host poweroff` ends it, ctrl-\\ x kills it");
    let _raw = Raw::set()?;
    let Line { input, mut output } = running.take_line()?;
    let killed = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&killed);
    thread::spawn(move || {
        if type_keys(input) {
            told.store(true, Ordering::Relaxed);
        }
    });
    let shown = thread::spawn(move || io::copy(&mut output, &mut Unbuffered(io::stdout())));
    while !killed.load(Ordering::Relaxed) {
        let next_look = Instant::now() + LOOK_INTERVAL;
        if running.wait_until(next_look)?.is_some() {
            // The line ends with the machine, so this comes to an end too.
            let _ = shown.join();
            return Ok(ExitCode::SUCCESS);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Hands keys to the machine; true when the machine shall be killed, false when there are no more keys.
fn type_keys(mut machine: Box<dyn Write + Send>) -> bool {
    let mut escaped = false;
    let mut keys = [0; 64];
    while let Ok(count @ 1..) = io::stdin().read(&mut keys) {
        for key in &keys[..count] {
            match (escaped, *key) {
                (false, ESCAPE) => escaped = true,
                (true, b'x') => return true,
                (_, key) => {
                    escaped = false;
                    if machine.write_all(&[key]).is_err() {
                        return false;
                    }
                }
            }
        }
    }
    false
}

/// Output that shows at once: a prompt has no end of line.
struct Unbuffered<W>(W);

impl<W: Write> Write for Unbuffered<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let size = self.0.write(bytes)?;
        self.0.flush()?;
        Ok(size)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// The terminal while it passes every key on; dropping it restores what was.
struct Raw {
    before: Option<String>,
}

impl Raw {
    fn set() -> Result<Self> {
        if !io::stdin().is_terminal() {
            return Ok(Self { before: None });
        }
        let before = stty(&["--save"])?.trim().to_owned();
        stty(&["raw", "-echo"])?;
        Ok(Self {
            before: Some(before),
        })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            // A terminal that cannot be set any more is gone.
            let _ = stty(&[before]);
        }
    }
}

fn stty(arguments: &[&str]) -> Result<String> {
    let output = Command::new("stty")
        .args(arguments)
        .stdin(Stdio::inherit())
        .output()
        .context("cannot run stty")?;
    ensure!(output.status.success(), "stty does not know this terminal");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
