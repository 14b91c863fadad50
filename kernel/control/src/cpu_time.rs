//! What CPU time a VM or a pool is to get: shares, reservation, limit, and the pool that it is in.
//!
//! How such words are written in definitions and settings. What they come to on a host is the scheduler's affair.

use crate::definition::VmName;
use alloc::string::{String, ToString};
use core::fmt;
use serde::{Deserialize, Serialize};

/// Largest number of shares.
const SHARES_MAX: u32 = 1_000_000;

/// What is wrong with a word about CPU time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CpuTimeError {
    /// Not shares.
    #[error("shares are low, normal, high or a number from 1 to {SHARES_MAX}")]
    Shares,
    /// Not an amount.
    #[error("an amount of CPU time is written as 40% (of one CPU) or 1200MHz")]
    Amount,
}

/// Relative weight among those that share a pool.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum CpuShares {
    /// Half of normal.
    Low,
    /// 1000 for each vCPU.
    #[default]
    Normal,
    /// Twice normal.
    High,
    /// That many in all, 1 to 1,000,000.
    Number(u32),
}

impl CpuShares {
    /// Reads low, normal, high or a number.
    pub fn parse(text: &str) -> Result<Self, CpuTimeError> {
        match text {
            "low" => Ok(Self::Low),
            "normal" => Ok(Self::Normal),
            "high" => Ok(Self::High),
            _ => match text.parse() {
                Ok(number @ 1..=SHARES_MAX) => Ok(Self::Number(number)),
                _ => Err(CpuTimeError::Shares),
            },
        }
    }
}

impl fmt::Display for CpuShares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Low => f.write_str("low"),
            Self::Normal => f.write_str("normal"),
            Self::High => f.write_str("high"),
            Self::Number(number) => write!(f, "{number}"),
        }
    }
}

impl TryFrom<String> for CpuShares {
    type Error = CpuTimeError;

    fn try_from(text: String) -> Result<Self, CpuTimeError> {
        Self::parse(&text)
    }
}

impl From<CpuShares> for String {
    fn from(shares: CpuShares) -> Self {
        shares.to_string()
    }
}

/// An amount of CPU time per time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum CpuAmount {
    /// Millions of TSC cycles a second.
    Mhz(u32),
    /// Per cent of one CPU; 250 is two and a half.
    Percent(u32),
}

impl CpuAmount {
    /// Reads `40%` or `1200MHz`.
    pub fn parse(text: &str) -> Result<Self, CpuTimeError> {
        let lower = text.to_ascii_lowercase();
        let (digits, of): (&str, fn(u32) -> Self) = if let Some(digits) = lower.strip_suffix('%') {
            (digits, Self::Percent)
        } else if let Some(digits) = lower.strip_suffix("mhz") {
            (digits, Self::Mhz)
        } else {
            return Err(CpuTimeError::Amount);
        };
        let number = digits.trim().parse().map_err(|_| CpuTimeError::Amount)?;
        Ok(of(number))
    }

    /// As [`Self::parse`]; `none` and nothing are no amount.
    pub(crate) fn parse_optional(text: &str) -> Result<Option<Self>, CpuTimeError> {
        match text {
            "" | "none" => Ok(None),
            _ => Self::parse(text).map(Some),
        }
    }
}

impl fmt::Display for CpuAmount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mhz(mhz) => write!(f, "{mhz}MHz"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

impl TryFrom<String> for CpuAmount {
    type Error = CpuTimeError;

    fn try_from(text: String) -> Result<Self, CpuTimeError> {
        Self::parse(&text)
    }
}

impl From<CpuAmount> for String {
    fn from(amount: CpuAmount) -> Self {
        amount.to_string()
    }
}

/// What CPU time a VM is to get: the table `[cpu]` of its definition.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CpuTime {
    /// Weight in the division of what is not reserved.
    #[serde(default)]
    pub shares: CpuShares,
    /// Guaranteed whenever it is wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reservation: Option<CpuAmount>,
    /// Never exceeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<CpuAmount>,
    /// The pool that it is in; none is the host's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<VmName>,
}

impl CpuTime {
    /// Tells whether nothing was asked for.
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What CPU time a pool is to get.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PoolTime {
    /// Weight among its siblings; normal is 4000.
    pub shares: CpuShares,
    /// Guaranteed to what is in it, together.
    pub reservation: Option<CpuAmount>,
    /// Never exceeded by what is in it, together.
    pub limit: Option<CpuAmount>,
    /// It may take what is reserved in it beyond its own reservation from the pool around it.
    pub expandable: bool,
}

impl Default for PoolTime {
    fn default() -> Self {
        Self {
            shares: CpuShares::Normal,
            reservation: None,
            limit: None,
            expandable: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_as_they_are_written() {
        for text in ["low", "normal", "high", "1", "1000000"] {
            assert_eq!(CpuShares::parse(text).unwrap().to_string(), text);
        }
        for text in ["40%", "250%", "1200MHz"] {
            assert_eq!(CpuAmount::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(CpuAmount::parse("5 mhz"), Ok(CpuAmount::Mhz(5)));
        for text in ["", "0", "1000001", "-1", "higher", "4294967297"] {
            assert_eq!(CpuShares::parse(text), Err(CpuTimeError::Shares), "{text}");
        }
        for text in ["", "40", "%", "-1%", "1.5%", "MHz", "99999999999%", "4GHz"] {
            assert_eq!(CpuAmount::parse(text), Err(CpuTimeError::Amount), "{text}");
        }
    }
}
