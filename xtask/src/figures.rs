//! Figures of a benchmark, and the limits that they must keep.
//!
//! How they are measured stands in `bench.rs`.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::workspace::Workspace;

/// Where the limits are.
const LIMITS: &str = "tests/bench/limits.toml";

/// One measured figure.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Figure {
    pub(crate) suite: String,
    pub(crate) name: String,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    /// What it may be at most; `None` if nobody has said.
    pub(crate) limit: Option<f64>,
}

impl Figure {
    /// Whether it is within its limit.
    pub(crate) fn is_good(&self) -> bool {
        self.limit.is_none_or(|limit| self.value <= limit)
    }
}

/// Limits by suite and name.
#[derive(Debug)]
pub(crate) struct Limits(BTreeMap<String, BTreeMap<String, f64>>);

impl Limits {
    /// Reads the file.
    pub(crate) fn read(workspace: &Workspace) -> Result<Self> {
        let text = fs::read_to_string(workspace.root().join(LIMITS))
            .with_context(|| format!("cannot read {LIMITS}"))?;
        Ok(Self(
            toml::from_str(&text).with_context(|| format!("in {LIMITS}"))?,
        ))
    }

    /// Makes a figure of a measured value.
    pub(crate) fn figure(&self, suite: &str, name: &str, value: f64, unit: &'static str) -> Figure {
        Figure {
            suite: suite.to_owned(),
            name: name.to_owned(),
            // Two places: enough for a ratio, and no noise of a division.
            value: (value * 100.0).round() / 100.0,
            unit,
            limit: self
                .0
                .get(suite)
                .and_then(|limits| limits.get(name))
                .copied(),
        }
    }

    /// Names that have a limit and were not measured.
    pub(crate) fn unmeasured(&self, suite: &str, figures: &[Figure]) -> Vec<String> {
        let names = self.0.get(suite).into_iter().flat_map(BTreeMap::keys);
        names
            .filter(|name| !figures.iter().any(|figure| figure.name == **name))
            .cloned()
            .collect()
    }
}

/// Prints figures: as a table, or as one JSON object per line.
pub(crate) fn print(figures: &[Figure], json: bool) -> Result<()> {
    for figure in figures {
        if json {
            println!("{}", serde_json::to_string(figure)?);
            continue;
        }
        let limit = match figure.limit {
            Some(limit) if figure.is_good() => format!("<= {limit}"),
            Some(limit) => format!("EXCEEDS {limit}"),
            None => String::new(),
        };
        println!(
            "{:17} {:28} {:>14} {:12} {limit}",
            figure.suite, figure.name, figure.value, figure.unit
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_keeps_its_limit_or_not() {
        let limits: BTreeMap<_, _> =
            toml::from_str("[exits]\ncpuid = 170\nrdmsr = 200\n").expect("a good file");
        let limits = Limits(limits);
        let good = limits.figure("exits", "cpuid", 169.999, "instructions");
        assert_eq!(
            (good.value, good.limit, good.is_good()),
            (170.0, Some(170.0), true)
        );
        assert!(
            !limits
                .figure("exits", "cpuid", 170.01, "instructions")
                .is_good()
        );
        assert!(
            limits
                .figure("boot", "cpuid", 1e9, "instructions")
                .is_good()
        );
        assert_eq!(limits.unmeasured("exits", &[good]), ["rdmsr"]);
    }
}
