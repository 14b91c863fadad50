//! `cargo xtask test`: the host's tests, the checks, then the table of end-to-end tests, one line each.
//!
//! The last line is `N passed, N failed`; the exit status is 1 when one failed. The tests themselves are data
//! (tests/e2e) or stand beside the code that they test.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output, Stdio};
use std::time::Instant;

use ::sim::datastore::Subject;
use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::bench;
use crate::check;
use crate::debian;
use crate::disks::{self, Disk, Tool};
use crate::guests;
use crate::image::{self, Images};
use crate::kernel;
use crate::kill_loop;
use crate::outer::{Firmware, Medium, Model, Outer, path_of};
use crate::packages;
use crate::qemu;
use crate::script;
use crate::sim;
use crate::standard_vms;
use crate::test_table::{Action, Boot, Guest, Table, Test, Way};
use crate::workspace::Workspace;

/// The status by which run-guest says that Basalt failed.
const BASALT_FAILED: i32 = 125;
/// The Multiboot1 header's magic (Multiboot 0.6.96, 3.1.1), and where in a file it must lie.
const MULTIBOOT1_MAGIC: [u8; 4] = 0x1bad_b002_u32.to_le_bytes();
const MULTIBOOT1_SEARCH: usize = 8192;

/// Arguments of `test`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Runs only tests whose name contains this.
    #[arg(long, value_name = "TEXT", default_value = "")]
    filter: String,
    /// Runs also the tests that take minutes each.
    #[arg(long)]
    long: bool,
    /// Shows the names of all tests instead.
    #[arg(long)]
    list: bool,
}

/// What went right and wrong so far.
#[derive(Debug, Default)]
struct Tally {
    passed: u64,
    failed: u64,
}

/// A test that was run: how many tests it stands for, and what is wrong.
#[derive(Debug, Default)]
struct Outcome {
    passed: u64,
    failed: u64,
    details: String,
}

/// Runs the command.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    let table = Table::read(workspace)?;
    let wanted = |name: &str| name.contains(&options.filter);
    let tests = table.tests.iter();
    let tests: Vec<&Test> = tests
        .filter(|test| wanted(&test.name) && (options.long || !test.long))
        .collect();
    let checks: Vec<String> = check::names().map(|name| format!("check/{name}")).collect();
    if options.list {
        println!("host\n{}", checks.join("\n"));
        table
            .tests
            .iter()
            .for_each(|test| println!("{}", test.name));
        return Ok(ExitCode::SUCCESS);
    }
    let mut tally = Tally::default();
    if wanted("host") {
        tally.run("host", || host(workspace));
    }
    for name in checks.iter().filter(|name| wanted(name)) {
        let step = name.trim_start_matches("check/");
        tally.run(name, || one(check::run_step(workspace, step)));
    }
    if !tests.is_empty() {
        let bench = Bench::new(workspace, &tests)?;
        for test in tests {
            tally.run(&test.name, || one(bench.run(test)));
        }
    }
    println!("{} passed, {} failed", tally.passed, tally.failed);
    Ok(ExitCode::from(u8::from(tally.failed != 0)))
}

impl Tally {
    fn run(&mut self, name: &str, test: impl FnOnce() -> Result<Outcome>) {
        let start = Instant::now();
        let outcome = test().unwrap_or_else(|error| Outcome {
            failed: 1,
            details: format!("{error:#}"),
            ..Outcome::default()
        });
        let seconds = start.elapsed().as_secs_f64();
        let count = match outcome.passed + outcome.failed {
            1 => String::new(),
            count => format!("  ({count} tests)"),
        };
        let word = if outcome.failed == 0 { "pass" } else { "FAIL" };
        println!("{word}  {name:32} {seconds:7.1} s{count}");
        for line in outcome.details.lines() {
            println!("      {line}");
        }
        self.passed += outcome.passed;
        self.failed += outcome.failed;
    }
}

/// The outcome of what is one test.
fn one(result: Result<()>) -> Result<Outcome> {
    result.map(|()| Outcome {
        passed: 1,
        ..Outcome::default()
    })
}

/// All tests of the workspace that run on this host.
fn host(workspace: &Workspace) -> Result<Outcome> {
    let mut cargo = workspace.cargo();
    cargo.args(["test", "--no-fail-fast"]);
    let output = cargo.output().context("cannot run cargo")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut outcome = count_tests(&text);
    if !output.status.success() {
        outcome.failed = outcome.failed.max(1);
        outcome.details = failures(&text);
        if outcome.details.is_empty() {
            outcome.details = String::from_utf8_lossy(&output.stderr).into_owned();
        }
    }
    Ok(outcome)
}

/// Sums the result lines of Rust's test harness.
fn count_tests(output: &str) -> Outcome {
    let mut outcome = Outcome::default();
    for line in output.lines() {
        let Some(rest) = line.strip_prefix("test result: ") else {
            continue;
        };
        let number = |word: &str| {
            let (before, _) = rest.split_once(word)?;
            before.split_whitespace().next_back()?.parse::<u64>().ok()
        };
        outcome.passed += number(" passed").unwrap_or(0);
        outcome.failed += number(" failed").unwrap_or(0);
    }
    outcome
}

/// What the harness says about tests that failed.
fn failures(output: &str) -> String {
    let mut inside = false;
    let mut text = String::new();
    for line in output.lines() {
        inside = match line {
            "failures:" => true,
            _ if line.starts_with("test result:") => false,
            _ => inside,
        };
        if inside {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

/// Whether a test looks at a datastore's image from outside: the tool for that is built before any test's time counts.
fn looks_at_image(action: &Action) -> bool {
    match action {
        Action::Boot(boot) => boot.fsck,
        Action::Kill(_) => true,
        Action::Guest(_) | Action::Bench(_) | Action::Sim(_) => false,
    }
}

/// What end-to-end tests share: everything is built once.
struct Bench<'a> {
    workspace: &'a Workspace,
    kernel: PathBuf,
    images: Option<Images>,
    /// What looks at images of datastores from outside.
    tool: Option<Tool>,
}

impl<'a> Bench<'a> {
    fn new(workspace: &'a Workspace, tests: &[&Test]) -> Result<Self> {
        let ways: Vec<Way> = tests
            .iter()
            .filter_map(|test| match &test.action {
                Action::Boot(boot) => Some(boot.way),
                Action::Guest(_) | Action::Bench(_) | Action::Sim(_) | Action::Kill(_) => None,
            })
            .collect();
        let by_firmware = |way: &Way| !matches!(way, Way::Multiboot1 | Way::Pvh);
        let uefi = ways.contains(&Way::IsoUefi) || ways.contains(&Way::DiskUefi);
        for test in tests {
            packages::ensure_installed(test.model.emulator.needs())?;
        }
        if uefi {
            packages::ensure_installed(&[packages::OVMF])?;
        }
        let kernel = kernel::build(workspace)?;
        guests::build(workspace)?;
        let images = if ways.iter().any(by_firmware) {
            Some(image::build(workspace)?)
        } else {
            None
        };
        let needs_tool = tests.iter().any(|test| looks_at_image(&test.action));
        let tool = needs_tool.then(|| Tool::build(workspace)).transpose()?;
        Ok(Self {
            workspace,
            kernel,
            images,
            tool,
        })
    }

    fn tool(&self) -> Result<&Tool> {
        self.tool.as_ref().context("vmfs_tool was not built")
    }

    fn run(&self, test: &Test) -> Result<()> {
        match &test.action {
            Action::Boot(boot) => self.boot(&test.model, boot),
            Action::Guest(guest) => self.guest(&test.model, guest),
            Action::Bench(suite) => {
                let figures = bench::measure(self.workspace, *suite, &test.model)?;
                bench::judge(self.workspace, *suite, &test.model, &figures)
            }
            Action::Kill(options) => kill_loop::run(
                self.workspace,
                self.tool()?,
                &self.kernel,
                &test.model,
                options,
            ),
            Action::Sim(seeds) => {
                sim::datastore_keeps_its_promises((Subject::Locks, false), seeds.locks)?;
                sim::datastore_keeps_its_promises((Subject::Volume, false), seeds.volume)?;
                sim::datastore_keeps_its_promises((Subject::Volume, true), seeds.hard)
            }
        }
    }

    fn boot(&self, model: &Model, boot: &Boot) -> Result<()> {
        let archive = if boot.standard_vms {
            standard_vms::archive(self.workspace, model.emulator)?
        } else {
            standard_vms::test_archive(self.workspace, boot)?
        };
        let mut file = self.workspace.unnamed_file()?;
        file.write_all(&archive)
            .context("cannot write the boot archive")?;
        let mut without_header = tempfile::NamedTempFile::new_in(self.workspace.target())?;
        let kernel = if boot.way == Way::Pvh {
            without_header.write_all(&without_multiboot1(&self.kernel)?)?;
            without_header.path()
        } else {
            &self.kernel
        };
        let images = self.images.as_ref();
        let image = |path: fn(&Images) -> &PathBuf| images.map(path).context("no images");
        let medium = match boot.way {
            Way::Multiboot1 | Way::Pvh => Medium::Kernel {
                file: kernel,
                initrd: Some(path_of(&file).into()),
                append: &boot.append,
            },
            Way::IsoBios | Way::IsoUefi => Medium::Cd(image(|images| &images.iso)?),
            Way::DiskBios | Way::DiskUefi => Medium::Disk(image(|images| &images.disk)?),
        };
        let uefi = matches!(boot.way, Way::IsoUefi | Way::DiskUefi);
        let disk = boot
            .disk
            .map(|content| disks::make(self.workspace, content));
        let disk = disk.transpose()?;
        let outer = Outer {
            medium,
            firmware: uefi.then_some(Firmware::Uefi),
            model,
            memory_mib: boot.memory_mib,
            cpus: boot.cpus,
            icount: boot.icount,
            disks: disk
                .iter()
                .map(|disk| Disk {
                    path: disk.path().to_owned(),
                    bus: boot.bus,
                    keep: true,
                })
                .collect(),
        };
        for (number, script) in (1..).zip(
            [Some(&boot.script), boot.again.as_ref()]
                .into_iter()
                .flatten(),
        ) {
            let mut lines = script::parse(script)?;
            if boot.prompt {
                lines = qemu::after_prompt(lines);
            }
            qemu::play(self.workspace, &outer, &lines, std::io::sink())
                .with_context(|| format!("boot {number}"))?;
        }
        match &disk {
            Some(disk) if boot.fsck => self.tool()?.check(disk.path()),
            _ => Ok(()),
        }
    }

    fn guest(&self, model: &Model, guest: &Guest) -> Result<()> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("run-guest");
        let file = if guest.file == "debian" {
            let debian = debian::fetch(self.workspace)?;
            command.arg("--initrd").arg(debian.initramfs);
            debian.kernel
        } else if guest.file.contains('/') {
            self.workspace.root().join(&guest.file)
        } else {
            guests::path(self.workspace, &guest.file)
        };
        let mut cut = tempfile::NamedTempFile::new_in(self.workspace.target())?;
        if let Some(size) = guest.cut_to {
            let whole = fs::File::open(&file).context("cannot open the guest")?;
            io::copy(&mut whole.take(size), &mut cut)?;
            command.arg(cut.path());
        } else {
            command.arg(&file);
        }
        command.arg("--basalt").arg(&self.kernel);
        command.args(model.arguments());
        command.args(["--append", &guest.append]);
        command.args(["--cpus", &guest.cpus.to_string()]);
        command.args(["--timeout", &guest.timeout.to_string()]);
        if let Some(count) = guest.host_cpus {
            command.args(["--host-cpus", &count.to_string()]);
        }
        if let Some(memory) = &guest.memory {
            command.args(["--memory", memory]);
        }
        judge(guest, &command.stdin(Stdio::null()).output()?)
    }
}

/// Whether a guest ended as it should.
fn judge(guest: &Guest, output: &Output) -> Result<()> {
    let status = output.status.code().context("run-guest was killed")?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    let said = || format!("\nit wrote:\n{stdout}\nand about it was said:\n{stderr}");
    let right = if guest.status.is_empty() {
        status != BASALT_FAILED
    } else {
        guest.status.contains(&status)
    };
    ensure!(right, "status {status}, not {:?}{}", guest.status, said());
    for text in &guest.stdout {
        ensure!(stdout.contains(text), "it did not write {text:?}{}", said());
    }
    for text in &guest.stderr {
        ensure!(
            stderr.contains(text),
            "nothing was said of {text:?}{}",
            said()
        );
    }
    Ok(())
}

/// The kernel with its Multiboot1 header made unrecognisable.
fn without_multiboot1(kernel: &Path) -> Result<Vec<u8>> {
    let mut file = fs::read(kernel).context("cannot read the kernel")?;
    let search = file.len().min(MULTIBOOT1_SEARCH);
    let at = file[..search]
        .chunks_exact(4)
        .position(|word| word == MULTIBOOT1_MAGIC)
        .context("the kernel has no Multiboot1 header")?;
    file[at * 4] ^= 0xff;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_the_harness_are_summed() {
        let output = "running 3 tests\ntest result: ok. 53 passed; 0 failed; 1 ignored; 0 measured\n\
            test result: FAILED. 2 passed; 4 failed; 0 ignored\n";
        let outcome = count_tests(output);
        assert_eq!((outcome.passed, outcome.failed), (55, 4));
    }

    #[test]
    fn whatever_looks_at_an_image_has_its_tool_beforehand() {
        let table = "[[test]]\nname = \"a\"\nboot.fsck = true\nboot.disk = \"blank\"\nboot.script = \"\"\n\
            [[test]]\nname = \"b\"\nkill.rounds = 1\n[[test]]\nname = \"c\"\nboot.script = \"\"\n";
        let tests = Table::parse(table).expect("a good table").tests;
        let looks: Vec<bool> = tests.iter().map(|t| looks_at_image(&t.action)).collect();
        assert_eq!(looks, [true, true, false]);
    }

    #[test]
    fn failures_are_shown_and_nothing_else() {
        let output = "test a ... ok\nfailures:\n---- b stdout ----\nboom\ntest result: FAILED. 1 passed\nmore\n";
        assert_eq!(failures(output), "failures:\n---- b stdout ----\nboom\n");
    }
}
