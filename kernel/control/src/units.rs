//! Sizes and times as people write and read them.
//!
//! Units are binary: K, M, G and T are powers of 1024. No locale, no floating point.

use alloc::format;
use alloc::string::{String, ToString};
use core::fmt;
use serde::{Deserialize, Serialize};

/// Letters of the units, each 1024 times the one before; index 0 is 1024.
const UNITS: [char; 4] = ['K', 'M', 'G', 'T'];

/// What is wrong with a size or a time that was typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// No digits, or something else between them.
    #[error("a size is a number with a unit, as in 512M or 2G")]
    NotASize,
    /// A bare number is bytes to some and mebibytes to others.
    #[error("the unit is missing: write {0}M for MiB, {0}G for GiB or {0}K for KiB")]
    NoUnit(u64),
    /// More than 64 bits hold.
    #[error("that is more than any computer has")]
    TooLarge,
    /// Not a time.
    #[error("a time is a number of seconds, or with a unit as in 500ms, 2s or 1m")]
    NotATime,
}

/// A number of bytes that is read and written with a unit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MemorySize(u64);

impl MemorySize {
    /// Creates it from bytes.
    #[must_use]
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// Returns the bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// Reads "512M", "2g", "1T", "64KiB" or "4096B"; a unit is needed.
    pub fn parse(text: &str) -> Result<Self, UnitError> {
        let text = text.trim();
        let digits_len = text.bytes().take_while(u8::is_ascii_digit).count();
        let (digits, unit) = text
            .split_at_checked(digits_len)
            .ok_or(UnitError::NotASize)?;
        if digits.is_empty() {
            return Err(UnitError::NotASize);
        }
        let number: u64 = digits.parse().map_err(|_| UnitError::TooLarge)?;
        let unit = unit.trim().to_ascii_uppercase();
        let shift = match unit.as_str() {
            "" => return Err(UnitError::NoUnit(number)),
            "B" => 0,
            "K" | "KB" | "KIB" => 10,
            "M" | "MB" | "MIB" => 20,
            "G" | "GB" | "GIB" => 30,
            "T" | "TB" | "TIB" => 40,
            _ => return Err(UnitError::NotASize),
        };
        let bytes = number.checked_mul(1 << shift).ok_or(UnitError::TooLarge)?;
        Ok(Self(bytes))
    }
}

impl fmt::Display for MemorySize {
    /// Writes the largest unit that needs no fraction, so that reading it back gives the same number.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut number = self.0;
        let mut unit = 'B';
        for next in UNITS {
            if number == 0 || !number.is_multiple_of(1024) {
                break;
            }
            number = number.div_euclid(1024);
            unit = next;
        }
        write!(f, "{number}{unit}")
    }
}

impl TryFrom<String> for MemorySize {
    type Error = UnitError;

    fn try_from(text: String) -> Result<Self, UnitError> {
        Self::parse(&text)
    }
}

impl From<MemorySize> for String {
    fn from(size: MemorySize) -> Self {
        size.to_string()
    }
}

/// Reads a time as milliseconds: "2" and "2s" are seconds, "500ms" and "1m" what they say.
pub(crate) fn parse_millis(text: &str) -> Result<u64, UnitError> {
    let (digits, factor) = if let Some(digits) = text.strip_suffix("ms") {
        (digits, 1)
    } else if let Some(digits) = text.strip_suffix('m') {
        (digits, 60_000)
    } else {
        (text.strip_suffix('s').unwrap_or(text), 1000)
    };
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(UnitError::NotATime);
    }
    let number: u64 = digits.parse().map_err(|_| UnitError::NotATime)?;
    number.checked_mul(factor).ok_or(UnitError::TooLarge)
}

/// Writes bytes for reading: three digits at least, one unit, as in "1.5 GiB".
#[must_use]
pub fn format_bytes(bytes: u64) -> String {
    let mut whole = bytes;
    let mut rest = 0;
    let mut unit = None;
    for next in UNITS {
        if whole < 1024 {
            break;
        }
        rest = whole.rem_euclid(1024);
        whole = whole.div_euclid(1024);
        unit = Some(next);
    }
    let Some(unit) = unit else {
        return format!("{bytes} B");
    };
    let tenths = rest.saturating_mul(10).div_euclid(1024);
    if whole < 100 && tenths != 0 {
        format!("{whole}.{tenths} {unit}iB")
    } else {
        format!("{whole} {unit}iB")
    }
}

/// Writes a length of time for reading: its two largest units, as in "3 d 4 h" or "12.5 s".
#[must_use]
pub fn format_nanos(nanos: u64) -> String {
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    let seconds = nanos.div_euclid(1_000_000_000);
    let tenths = nanos.div_euclid(100_000_000).rem_euclid(10);
    let two = |large: u64, name: &str, small: u64, small_name: &str| {
        let (whole, rest) = (seconds.div_euclid(large), seconds.rem_euclid(large));
        format!(
            "{whole} {name} {} {small_name}",
            rest.checked_div(small).unwrap_or(0)
        )
    };
    match seconds {
        0 if nanos < 1_000 => format!("{nanos} ns"),
        0 if nanos < 1_000_000 => format!("{} us", nanos.div_euclid(1_000)),
        0 => format!("{} ms", nanos.div_euclid(1_000_000)),
        1..MINUTE => format!("{seconds}.{tenths} s"),
        MINUTE..HOUR => two(MINUTE, "min", 1, "s"),
        HOUR..DAY => two(HOUR, "h", MINUTE, "min"),
        _ => two(DAY, "d", HOUR, "h"),
    }
}

/// Writes thousandths as a percentage, as in "12.5 %".
#[must_use]
pub fn format_permille(permille: u32) -> String {
    format!("{}.{} %", permille.div_euclid(10), permille.rem_euclid(10))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_need_a_unit_and_come_back_the_same() {
        for (text, bytes, written) in [
            ("512M", 512 << 20, "512M"),
            ("2g", 2 << 30, "2G"),
            ("1024 KiB", 1 << 20, "1M"),
            ("16T", 16 << 40, "16T"),
            ("1000B", 1000, "1000B"),
            ("0K", 0, "0B"),
        ] {
            let size = MemorySize::parse(text).unwrap();
            assert_eq!(size.bytes(), bytes);
            assert_eq!(size.to_string(), written);
            assert_eq!(MemorySize::parse(written), Ok(size));
        }
    }

    #[test]
    fn bad_sizes_say_what_is_wrong() {
        assert_eq!(MemorySize::parse("512"), Err(UnitError::NoUnit(512)));
        assert_eq!(MemorySize::parse("99999999T"), Err(UnitError::TooLarge));
        assert_eq!(
            MemorySize::parse("99999999999999999999999M"),
            Err(UnitError::TooLarge)
        );
        for bad in ["", "M", "1.5G", "-1M", "1Q", "1M2", "ä"] {
            assert_eq!(MemorySize::parse(bad), Err(UnitError::NotASize), "{bad}");
        }
    }

    #[test]
    fn times_have_units() {
        assert_eq!(parse_millis("2"), Ok(2000));
        assert_eq!(parse_millis("2s"), Ok(2000));
        assert_eq!(parse_millis("500ms"), Ok(500));
        assert_eq!(parse_millis("1m"), Ok(60_000));
        for bad in ["", "s", "ms", "-1", "+1", "1.5", "x"] {
            assert_eq!(parse_millis(bad), Err(UnitError::NotATime), "{bad}");
        }
    }

    #[test]
    fn figures_read_well() {
        assert_eq!(format_bytes(0), "0 B");
        assert_eq!(format_bytes(1023), "1023 B");
        assert_eq!(format_bytes(1536), "1.5 KiB");
        assert_eq!(format_bytes(512 << 20), "512 MiB");
        assert_eq!(format_bytes(u64::MAX), "16777215 TiB");
        assert_eq!(format_nanos(999), "999 ns");
        assert_eq!(format_nanos(12_500_000_000), "12.5 s");
        assert_eq!(format_nanos(61_000_000_000), "1 min 1 s");
        assert_eq!(format_nanos(3_660_000_000_000), "1 h 1 min");
        assert_eq!(format_nanos(u64::MAX), "213503 d 23 h");
        assert_eq!(format_permille(1000), "100.0 %");
        assert_eq!(format_permille(7), "0.7 %");
    }
}
