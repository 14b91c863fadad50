//! The table of end-to-end tests, as data: tests/e2e/tests.toml.
//!
//! What carries them out stands in `test.rs`.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::bench::Suite;
use crate::outer::{CPU, CPUS_MAX};
use crate::workspace::Workspace;

/// Where the table is.
const TABLE: &str = "tests/e2e/tests.toml";

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Table {
    /// In the order in which they run.
    #[serde(rename = "test")]
    pub(crate) tests: Vec<Test>,
}

/// One line of the table.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Test {
    /// Unique; its first part is its group.
    pub(crate) name: String,
    /// Whether it takes minutes; it runs with `--long` only.
    #[serde(default)]
    pub(crate) long: bool,
    /// Boots Basalt and talks to it.
    pub(crate) boot: Option<Boot>,
    /// Runs one guest to its verdict.
    pub(crate) guest: Option<Guest>,
    /// Holds a suite to its limits.
    pub(crate) bench: Option<String>,
    /// Runs seeds of the datastore's simulator.
    pub(crate) sim: Option<Seeds>,
}

/// How many seeds of the datastore's simulator are run.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Seeds {
    /// With hosts that count under locks.
    #[serde(default)]
    pub(crate) locks: u64,
    /// With hosts that use a volume.
    #[serde(default)]
    pub(crate) volume: u64,
}

/// How Basalt is booted, and what is said then.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Boot {
    /// On which of the ways.
    #[serde(default)]
    pub(crate) way: Way,
    /// QEMU's CPU model.
    #[serde(default = "default_cpu")]
    pub(crate) cpu: String,
    /// CPUs.
    #[serde(default = "one")]
    pub(crate) cpus: u32,
    /// RAM in MiB.
    #[serde(default = "default_memory")]
    pub(crate) memory_mib: u64,
    /// Basalt's command line, where QEMU gives it.
    #[serde(default)]
    pub(crate) append: String,
    /// VMs that are made of the guest `rogue`.
    #[serde(default)]
    pub(crate) rogues: Vec<String>,
    /// Whether the standard VMs are there, Debian among them, instead of `demo` alone.
    #[serde(default)]
    pub(crate) standard_vms: bool,
    /// Whether Basalt must come to its prompt before the script starts.
    #[serde(default = "yes")]
    pub(crate) prompt: bool,
    /// Lines to type and texts to expect.
    pub(crate) script: String,
}

/// The ways by which Basalt can be booted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Way {
    /// QEMU's `-kernel`, which finds the Multiboot1 header.
    #[default]
    Multiboot1,
    /// QEMU's `-kernel` with that header destroyed: it finds the PVH note.
    Pvh,
    /// GRUB from the ISO.
    IsoBios,
    IsoUefi,
    /// GRUB from the disk.
    DiskBios,
    DiskUefi,
}

/// A guest, and how it must end.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Guest {
    /// A tiny guest's name, `debian`, or a path of the source tree.
    pub(crate) file: String,
    /// Bytes that are left of its file.
    #[serde(default)]
    pub(crate) cut_to: Option<u64>,
    /// Its command line.
    #[serde(default)]
    pub(crate) append: String,
    /// Its RAM.
    #[serde(default)]
    pub(crate) memory: Option<String>,
    /// Its CPUs.
    #[serde(default = "one")]
    pub(crate) cpus: u32,
    /// Seconds that it may run.
    #[serde(default = "default_timeout")]
    pub(crate) timeout: u32,
    /// Statuses that are right; none stands for any but 125, which is Basalt's failure.
    #[serde(default)]
    pub(crate) status: Vec<i32>,
    /// Texts that its serial port must show.
    #[serde(default)]
    pub(crate) stdout: Vec<String>,
    /// Texts that must be said about it.
    #[serde(default)]
    pub(crate) stderr: Vec<String>,
}

impl Table {
    /// Reads and checks the table.
    pub(crate) fn read(workspace: &Workspace) -> Result<Self> {
        let text = fs::read_to_string(workspace.root().join(TABLE))
            .with_context(|| format!("cannot read {TABLE}"))?;
        Self::parse(&text).with_context(|| format!("in {TABLE}"))
    }

    fn parse(text: &str) -> Result<Self> {
        let table: Self = toml::from_str(text)?;
        for (index, test) in table.tests.iter().enumerate() {
            let name = &test.name;
            let kinds = [
                test.boot.is_some(),
                test.guest.is_some(),
                test.bench.is_some(),
                test.sim.is_some(),
            ];
            let count = kinds.into_iter().filter(|there| *there).count();
            ensure!(
                count == 1,
                "{name}: it is one of boot, guest, bench and sim"
            );
            let twice = table.tests[..index].iter().any(|other| other.name == *name);
            ensure!(!twice, "{name} is there twice");
            if let Some(boot) = &test.boot {
                crate::script::parse(&boot.script).with_context(|| format!("{name}: script"))?;
                ensure!(
                    boot.cpus <= CPUS_MAX,
                    "{name}: {CPUS_MAX} CPUs are the most that tests use"
                );
            }
            if let Some(suite) = &test.bench {
                suite_of(suite).with_context(|| name.clone())?;
            }
        }
        Ok(table)
    }
}

/// The suite of that name.
pub(crate) fn suite_of(name: &str) -> Result<Suite> {
    <Suite as clap::ValueEnum>::from_str(name, false).map_err(anyhow::Error::msg)
}

fn default_cpu() -> String {
    CPU.to_owned()
}

fn one() -> u32 {
    1
}

fn default_memory() -> u64 {
    512
}

fn default_timeout() -> u32 {
    60
}

fn yes() -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_in_the_tree_is_good() {
        let workspace = Workspace::locate().expect("tests run in the tree");
        let table = Table::read(&workspace).expect("a good table");
        assert!(table.tests.len() > 20);
    }

    #[test]
    fn mistakes_are_found() {
        for bad in [
            "[[test]]\nname = \"a\"\n",
            "[[test]]\nname = \"a\"\nbench = \"nothing\"\n",
            "[[test]]\nname = \"a\"\nboot = { script = \"wait x\" }\n",
            "[[test]]\nname = \"a\"\nboot = { script = \"\", ways = 1 }\n",
            "[[test]]\nname = \"a\"\nbench = \"exits\"\n[[test]]\nname = \"a\"\nbench = \"exits\"\n",
        ] {
            assert!(Table::parse(bad).is_err(), "{bad}");
        }
    }
}
