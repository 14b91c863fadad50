//! The table of end-to-end tests, as data: tests/e2e/tests.toml.
//!
//! What carries them out stands in `test.rs`.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::bench::Suite;
use crate::disks::{Bus, Content};
use crate::kill_loop::KillLoop;
use crate::outer::Model;
use crate::workspace::Workspace;

/// Most CPUs of a machine that is booted.
const BOOT_CPUS_MAX: u32 = 64;
/// Where the table is.
const TABLE: &str = "tests/e2e/tests.toml";

/// The whole table.
#[derive(Debug)]
pub(crate) struct Table {
    /// In the order in which they run.
    pub(crate) tests: Vec<Test>,
}

/// The file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entries {
    /// Names for several models at once.
    #[serde(default)]
    groups: Groups,
    test: Vec<Entry>,
}

type Groups = BTreeMap<String, Vec<Model>>;

/// One line of the file: a test for each model that it runs on.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    /// Unique; its first part is its group.
    name: String,
    /// Whether it takes minutes; it runs with `--long` only.
    #[serde(default)]
    long: bool,
    /// The models that it runs on, or groups of them.
    #[serde(default = "usual_model")]
    on: Vec<String>,
    /// The models that it runs on with `--long` only, likewise.
    #[serde(default)]
    long_on: Vec<String>,
    boot: Option<Boot>,
    guest: Option<Guest>,
    bench: Option<String>,
    sim: Option<Seeds>,
    kill: Option<KillLoop>,
}

/// A test on one model.
#[derive(Debug)]
pub(crate) struct Test {
    /// The entry's name; with the model's, unless that is the usual one or the entry's only one.
    pub(crate) name: String,
    /// What Basalt runs on.
    pub(crate) model: Model,
    /// Whether it runs with `--long` only.
    pub(crate) long: bool,
    /// What is done.
    pub(crate) action: Action,
}

/// What a test does.
#[derive(Debug, Clone)]
pub(crate) enum Action {
    /// Boots Basalt and talks to it.
    Boot(Boot),
    /// Runs one guest to its verdict.
    Guest(Guest),
    /// Holds a suite to its limits.
    Bench(Suite),
    /// Runs seeds of the datastore's simulator.
    Sim(Seeds),
    /// Kills the machine while it writes.
    Kill(KillLoop),
}

/// How many seeds of the datastore's simulator are run.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Seeds {
    /// With hosts that count under locks.
    #[serde(default)]
    pub(crate) locks: u64,
    /// With hosts that use a volume.
    #[serde(default)]
    pub(crate) volume: u64,
    /// With hosts that use a volume on a medium that fails.
    #[serde(default)]
    pub(crate) hard: u64,
}

/// How Basalt is booted, and what is said then.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Boot {
    /// On which of the ways.
    #[serde(default)]
    pub(crate) way: Way,
    /// CPUs.
    #[serde(default = "one")]
    pub(crate) cpus: u32,
    /// RAM in MiB.
    #[serde(default = "default_memory")]
    pub(crate) memory_mib: u64,
    /// Basalt's command line, where QEMU gives it.
    #[serde(default)]
    pub(crate) append: String,
    /// Whether an instruction takes a nanosecond, so that what else this machine does changes no measurement.
    #[serde(default)]
    pub(crate) icount: bool,
    /// What a disk holds, if there is one.
    #[serde(default)]
    pub(crate) disk: Option<Content>,
    /// How it is connected.
    #[serde(default)]
    pub(crate) bus: Bus,
    /// What is said in a second boot from the same disk, if there is one.
    #[serde(default)]
    pub(crate) again: Option<String>,
    /// Whether the disk must be a datastore without damage at the end.
    #[serde(default)]
    pub(crate) fsck: bool,
    /// VMs that are made of the guest `rogue`.
    #[serde(default)]
    pub(crate) rogues: Vec<String>,
    /// VMs that are made of the guest `count`: their names, with `:N` behind that of one with N vCPUs.
    #[serde(default)]
    pub(crate) counters: Vec<String>,
    /// VMs `idle-0` and so on that start with the host and do nothing.
    #[serde(default)]
    pub(crate) idle_vms: u32,
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
#[derive(Debug, Clone, Deserialize)]
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
    /// CPUs of the machine that Basalt runs on, if that matters.
    #[serde(default)]
    pub(crate) host_cpus: Option<u32>,
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

    pub(crate) fn parse(text: &str) -> Result<Self> {
        let entries: Entries = toml::from_str(text)?;
        let mut tests = Vec::new();
        for entry in entries.test {
            let name = entry.name.clone();
            entry
                .expand(&entries.groups, &mut tests)
                .with_context(|| name)?;
        }
        for (index, test) in tests.iter().enumerate() {
            let name = &test.name;
            let twice = tests[..index].iter().any(|other| other.name == *name);
            ensure!(!twice, "{name} is there twice");
        }
        Ok(Self { tests })
    }
}

impl Entry {
    /// Adds the entry's tests.
    fn expand(self, groups: &Groups, tests: &mut Vec<Test>) -> Result<()> {
        let (on, long_on) = (models(self.on, groups)?, models(self.long_on, groups)?);
        let suite = self.bench.as_deref().map(suite_of).transpose()?;
        let mut actions = [
            self.boot.map(Action::Boot),
            self.guest.map(Action::Guest),
            suite.map(Action::Bench),
            self.sim.map(Action::Sim),
            self.kill.map(Action::Kill),
        ]
        .into_iter()
        .flatten();
        let (Some(action), None) = (actions.next(), actions.next()) else {
            bail!("it is one of boot, guest, bench, sim and kill");
        };
        if let Action::Boot(boot) = &action {
            crate::script::parse(&boot.script).context("script")?;
            crate::script::parse(boot.again.as_deref().unwrap_or_default()).context("again")?;
            ensure!(
                boot.cpus <= BOOT_CPUS_MAX,
                "{BOOT_CPUS_MAX} CPUs are the most that tests use"
            );
        }
        let single = on.len() + long_on.len() == 1;
        let always = on.into_iter().map(|model| (model, self.long));
        let with_long = long_on.into_iter().map(|model| (model, true));
        for (model, long) in always.chain(with_long) {
            let name = if single || model.is_usual() {
                self.name.clone()
            } else {
                format!("{} on {model}", self.name)
            };
            tests.push(Test {
                name,
                model,
                long,
                action: action.clone(),
            });
        }
        Ok(())
    }
}

/// The models of that name, or of the groups of that name.
fn models(names: Vec<String>, groups: &Groups) -> Result<Vec<Model>> {
    let mut models = Vec::new();
    for name in names {
        match groups.get(&name) {
            Some(group) => models.extend(group.iter().cloned()),
            None => models.push(Model::try_from(name).map_err(anyhow::Error::msg)?),
        }
    }
    Ok(models)
}

/// The suite of that name.
fn suite_of(name: &str) -> Result<Suite> {
    <Suite as clap::ValueEnum>::from_str(name, false).map_err(anyhow::Error::msg)
}

fn usual_model() -> Vec<String> {
    vec!["qemu".to_owned()]
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
    fn an_entry_is_a_test_on_each_of_its_models() {
        let text = "groups.old = [\"bochs/zambezi\", \"qemu/qemu64,-svm\"]\n\
            [[test]]\nname = \"a\"\nbench = \"exits\"\non = [\"qemu\", \"bochs/ryzen\"]\nlong_on = [\"old\"]\n";
        let table = Table::parse(text).expect("a good table");
        let tests: Vec<_> = table
            .tests
            .iter()
            .map(|test| (test.name.as_str(), test.long))
            .collect();
        let expected = [
            ("a", false),
            ("a on bochs/ryzen", false),
            ("a on bochs/zambezi", true),
            ("a on qemu/qemu64,-svm", true),
        ];
        assert_eq!(tests, expected);
    }

    #[test]
    fn mistakes_are_found() {
        for bad in [
            "[[test]]\nname = \"a\"\n",
            "[[test]]\nname = \"a\"\nbench = \"nothing\"\n",
            "[[test]]\nname = \"a\"\nboot = { script = \"wait x\" }\n",
            "[[test]]\nname = \"a\"\nboot = { script = \"\", ways = 1 }\n",
            "[[test]]\nname = \"a\"\nbench = \"exits\"\non = [\"box/ryzen\"]\n",
            "[[test]]\nname = \"a\"\nbench = \"exits\"\n[[test]]\nname = \"a\"\nbench = \"exits\"\n",
        ] {
            assert!(Table::parse(bad).is_err(), "{bad}");
        }
    }
}
