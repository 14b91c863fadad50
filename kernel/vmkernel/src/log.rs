//! The kernel's log: levels, a lock-free ring that keeps the newest lines, and an echo on the log console.
//!
//! Writing a line never waits for a lock: the echo is skipped when the console is busy, the ring has the line anyway.

use crate::{console, timer};
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU8, Ordering};
use ring::{LogRing, TEXT_MAX};

/// Lines that the ring keeps.
pub const LINES: usize = 1024;

static RING: LogRing<LINES> = LogRing::new();
static ECHO_LEVEL: AtomicU8 = AtomicU8::new(Level::Info as u8);

/// How grave a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// Something failed that somebody has to look at.
    Error = 0,
    /// Something is odd, and was coped with.
    Warn = 1,
    /// What an administrator wants to see.
    Info = 2,
    /// What a developer wants to see.
    Debug = 3,
}

impl Level {
    /// Returns the level of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Error, Self::Warn, Self::Info, Self::Debug]
            .into_iter()
            .find(|l| l.name() == name)
    }

    /// Returns the name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
        }
    }

    /// Returns the level of this number; numbers beyond are debug.
    #[must_use]
    pub const fn from_number(number: u8) -> Self {
        match number {
            0 => Self::Error,
            1 => Self::Warn,
            2 => Self::Info,
            _ => Self::Debug,
        }
    }
}

/// A line being formatted; what does not fit is cut.
struct Buffer {
    text: [u8; TEXT_MAX],
    len: usize,
}

impl Write for Buffer {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        let len = s.len().min(TEXT_MAX - self.len);
        self.text[self.len..self.len + len].copy_from_slice(&s.as_bytes()[..len]);
        self.len += len;
        Ok(())
    }
}

/// Writes a line; the macros call it.
pub fn write(level: Level, text: fmt::Arguments<'_>) {
    let mut buffer = Buffer {
        text: [0; TEXT_MAX],
        len: 0,
    };
    let _ = buffer.write_fmt(text);
    let nanos = timer::host_nanos();
    let text = &buffer.text[..buffer.len];
    RING.push(nanos, level as u8, text);
    if level as u8 <= ECHO_LEVEL.load(Ordering::Relaxed) {
        console::echo_log(
            nanos,
            level,
            core::str::from_utf8(text).unwrap_or("(not UTF-8)"),
        );
    }
}

/// Sets the gravest level that is still kept from the console's echo.
pub fn set_echo_level(level: Level) {
    ECHO_LEVEL.store(level as u8, Ordering::Relaxed);
}

/// Returns the ring, for readers.
#[must_use]
pub fn ring() -> &'static LogRing<LINES> {
    &RING
}

/// Logs at level error.
#[macro_export]
macro_rules! error { ($($arg:tt)*) => { $crate::log::write($crate::log::Level::Error, format_args!($($arg)*)) }; }
/// Logs at level warn.
#[macro_export]
macro_rules! warn { ($($arg:tt)*) => { $crate::log::write($crate::log::Level::Warn, format_args!($($arg)*)) }; }
/// Logs at level info.
#[macro_export]
macro_rules! info { ($($arg:tt)*) => { $crate::log::write($crate::log::Level::Info, format_args!($($arg)*)) }; }
/// Logs at level debug.
#[macro_export]
macro_rules! debug { ($($arg:tt)*) => { $crate::log::write($crate::log::Level::Debug, format_args!($($arg)*)) }; }
