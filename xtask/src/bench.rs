//! `cargo xtask bench`: what Basalt costs, in instructions where they can be counted, as ratios where not.
//!
//! Under `-icount shift=0` QEMU's clocks count instructions, so these figures repeat to the digit; limits stand in
//! tests/bench/limits.toml. Wall time is only ever a ratio between two runs on one machine, one after the other.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};

use crate::debian;
use crate::figures::{self, Figure, Limits};
use crate::guests;
use crate::kernel;
use crate::outer::{Emulator, Medium, Model, Outer, path_of};
use crate::packages;
use crate::qemu;
use crate::script;
use crate::standard_vms;
use crate::vmfs_bench;
use crate::workspace::{Workspace, say};

/// Unit of everything that is counted.
const INSTRUCTIONS: &str = "instructions";
/// Command line of the Debian guest: by the last word its initramfs says where it is and switches off.
const DEBIAN_CMDLINE: &str = "console=ttyS0 milestones";
/// Seconds that Debian's boot may take before it is given up.
const DEBIAN_SECONDS: &str = "900";

/// Arguments of `bench`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// One suite; all of them if not given.
    suite: Option<Suite>,
    /// Prints one JSON object per figure.
    #[arg(long)]
    json: bool,
    /// What Basalt runs on; the suite `exits` can be measured on Bochs.
    #[arg(long, value_enum, default_value_t = Emulator::Qemu)]
    emulator: Emulator,
    /// CPU model that Basalt runs on, in the emulator's words.
    #[arg(long, value_name = "MODEL")]
    cpu: Option<String>,
}

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Suite {
    /// Round trips from the guest to Basalt and back, in instructions.
    Exits,
    /// Guest code that does not exit, against the same code bare.
    Compute,
    /// From power-on to the shell, memory, image size.
    Boot,
    /// Switches between worlds, in instructions.
    Sched,
    /// Debian's boot in Basalt: in instructions, and in wall time against the same kernel bare.
    Debian,
    /// A datastore in memory against ext4 and the raw device; needs root.
    Vmfs,
}

const ALL: [Suite; 6] = [
    Suite::Exits,
    Suite::Compute,
    Suite::Boot,
    Suite::Sched,
    Suite::Debian,
    Suite::Vmfs,
];

/// Runs the command; fails when a limit is exceeded.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    let model = Model::new(options.emulator, options.cpu.as_deref());
    let suites = match options.suite {
        Some(suite) => vec![suite],
        None if model.is_usual() => ALL.to_vec(),
        None => vec![Suite::Exits],
    };
    let mut good = true;
    for suite in suites {
        let figures = measure(workspace, suite, &model)?;
        figures::print(&figures, options.json)?;
        if let Err(error) = judge(workspace, suite, &model, &figures) {
            say(&format!("{error:#}"));
            good = false;
        }
    }
    Ok(ExitCode::from(u8::from(!good)))
}

/// Measures a suite.
pub(crate) fn measure(workspace: &Workspace, suite: Suite, model: &Model) -> Result<Vec<Figure>> {
    ensure!(
        suite == Suite::Exits || model.is_usual(),
        "only the suite exits is measured on {model}"
    );
    let limits = Limits::read(workspace)?;
    if suite != Suite::Vmfs {
        packages::ensure_installed(model.emulator.needs())?;
        kernel::build(workspace)?;
        guests::build(workspace)?;
    }
    match suite {
        Suite::Exits => exits(workspace, model, &limits),
        Suite::Compute => compute(workspace, &limits),
        Suite::Boot => boot(workspace, &limits),
        Suite::Sched => sched(workspace, &limits),
        Suite::Debian => debian_boot(workspace, &limits),
        Suite::Vmfs => vmfs_bench::measure(workspace, &limits),
    }
}

/// Whether every figure of a suite was measured and is within its limit.
pub(crate) fn judge(
    workspace: &Workspace,
    suite: Suite,
    model: &Model,
    figures: &[Figure],
) -> Result<()> {
    let limits = Limits::read(workspace)?;
    let mut complaints: Vec<String> = figures
        .iter()
        .filter(|figure| !figure.is_good())
        .map(|figure| {
            let limit = figure.limit.unwrap_or_default();
            format!(
                "{} is {} {}, more than {limit}",
                figure.name, figure.value, figure.unit
            )
        })
        .collect();
    for name in limits.unmeasured(&suite_name(suite, model), figures) {
        complaints.push(format!("{name} was not measured"));
    }
    ensure!(complaints.is_empty(), "{}", complaints.join("\n"));
    Ok(())
}

/// The name under which a suite's limits stand: elsewhere than on the usual model, exits cost something else.
fn suite_name(suite: Suite, model: &Model) -> String {
    let name = match suite {
        Suite::Exits => "exits",
        Suite::Compute => "compute",
        Suite::Boot => "boot",
        Suite::Sched => "sched",
        Suite::Debian => "debian",
        Suite::Vmfs => "vmfs",
    };
    if model.is_usual() {
        name.to_owned()
    } else {
        format!("{name}/{model}")
    }
}

fn exits(workspace: &Workspace, model: &Model, limits: &Limits) -> Result<Vec<Figure>> {
    let (extra, unit) = match model.emulator {
        Emulator::Qemu => (["--emulator", "qemu", "--icount"].as_slice(), INSTRUCTIONS),
        // Its time is counted in instructions, and a string operation's every step is one.
        Emulator::Bochs => (["--emulator", "bochs"].as_slice(), "ticks"),
    };
    let output = run_guest(
        workspace,
        "exits",
        &[extra, &["--cpu", &model.cpu]].concat(),
    )?;
    let suite = suite_name(Suite::Exits, model);
    let mut figures = Vec::new();
    for line in output.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let ["bench", name, ticks, count] = words[..] {
            let value = ticks.parse::<f64>()? / count.parse::<f64>()?;
            figures.push(limits.figure(&suite, name, value, unit));
        }
    }
    Ok(figures)
}

fn compute(workspace: &Workspace, limits: &Limits) -> Result<Vec<Figure>> {
    let ticks = |arguments: &[&str]| -> Result<Vec<(String, f64)>> {
        let output = run_guest(workspace, "compute", arguments)?;
        let mut found = Vec::new();
        for line in output.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            if let ["compute", name, ticks] = words[..] {
                found.push((name.to_owned(), ticks.parse()?));
            }
        }
        Ok(found)
    };
    let inside = ticks(&["--icount"])?;
    let bare = ticks(&["--icount", "--bare"])?;
    ensure!(inside.len() == bare.len(), "the two runs differ");
    let ratio = |((name, inside), (_, bare)): (&(String, f64), &(String, f64))| {
        limits.figure("compute", name, inside / bare, "x bare")
    };
    Ok(inside.iter().zip(&bare).map(ratio).collect())
}

/// Boots Basalt to its shell and starts the demo VM, counting instructions. A milestone's line is complete once
/// something else has been answered.
fn boot(workspace: &Workspace, limits: &Limits) -> Result<Vec<Figure>> {
    let archive = standard_vms::demo_archive(workspace)?;
    let source = "vm start demo\nexpect \"milestone guest-entry\" within 60 s\n\
        host info\nexpect uptime within 60 s\n";
    let text = milestones(workspace, &archive, 512, source)?;
    let image_size = fs::metadata(workspace.basalt_elf())?.len();
    let entry = milestone(&text, "entry")?;
    let start = milestone(&text, "vm-start")?;
    let used = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("memory-used "))
        .context("Basalt did not say how much memory it uses")?;
    let instructions = |name: &str, value: f64| limits.figure("boot", name, value, INSTRUCTIONS);
    Ok(vec![
        instructions("entry_to_shell", milestone(&text, "shell")? - entry),
        instructions(
            "vm_start_to_guest",
            milestone(&text, "guest-entry")? - start,
        ),
        limits.figure("boot", "memory_used", used.trim().parse()?, "bytes"),
        limits.figure("boot", "image_size", image_size as f64, "bytes"),
    ])
}

/// Switches between two service tasks, and between two vCPUs that never wait.
fn sched(workspace: &Workspace, limits: &Limits) -> Result<Vec<Figure>> {
    let archive = standard_vms::hogs_archive(workspace)?;
    let source = "vm start hog-0\nvm start hog-1\nexpect \"switch refresh\" within 60 s\n\
        host info\nexpect uptime within 60 s\n";
    let text = milestones(workspace, &archive, 512, source)?;
    let mean = |what: &str| -> Result<f64> {
        let words = text.lines().find_map(|line| {
            let (_, rest) = line.split_once(&format!("switch {what} "))?;
            rest.split_once(' ')
        });
        let (ticks, count) = words.with_context(|| format!("no switches of {what} were told"))?;
        Ok(ticks.parse::<f64>()? / count.trim().parse::<f64>()?)
    };
    let figure = |name: &str, value| limits.figure("sched", name, value, INSTRUCTIONS);
    Ok(vec![
        figure("service_switch", mean("service")?),
        figure("vcpu_switch", mean("vcpu")?),
        figure("refresh", mean("refresh")?),
    ])
}

/// Boots Debian in Basalt under icount, then in Basalt and bare by the clock on the wall.
fn debian_boot(workspace: &Workspace, limits: &Limits) -> Result<Vec<Figure>> {
    let archive = standard_vms::archive(workspace, Emulator::Qemu)?;
    let source = format!(
        "vm set debian \"cmdline={DEBIAN_CMDLINE}\"\nvm start debian\n\
         expect \"milestone linux-shell\" within {DEBIAN_SECONDS} s\n\
         host info\nexpect uptime within 60 s\n"
    );
    let text = milestones(workspace, &archive, 1024, &source)?;
    let start = milestone(&text, "vm-start")?;
    let since = |name: &str| -> Result<f64> { Ok(milestone(&text, name)? - start) };
    let debian = debian::fetch(workspace)?;
    let wall = |extra: &[&str]| -> Result<f64> {
        let mut arguments = vec!["--append", DEBIAN_CMDLINE, "--memory", "512", "--initrd"];
        let initramfs = debian.initramfs.to_string_lossy();
        arguments.push(&initramfs);
        arguments.extend(["--timeout", DEBIAN_SECONDS]);
        arguments.extend(extra);
        let begin = Instant::now();
        run_file(workspace, debian.kernel.as_os_str(), &arguments)?;
        Ok(begin.elapsed().as_secs_f64())
    };
    let inside = wall(&[])?;
    let bare = wall(&["--bare"])?;
    Ok(vec![
        limits.figure(
            "debian",
            "vm_start_to_init",
            since("linux-init")?,
            INSTRUCTIONS,
        ),
        limits.figure(
            "debian",
            "vm_start_to_shell",
            since("linux-shell")?,
            INSTRUCTIONS,
        ),
        limits.figure("debian", "wall_ratio", inside / bare, "x bare"),
    ])
}

/// Boots Basalt under icount with milestones on, plays a script, returns what it said.
fn milestones(
    workspace: &Workspace,
    archive: &[u8],
    memory_mib: u64,
    source: &str,
) -> Result<String> {
    let mut file = workspace.unnamed_file()?;
    file.write_all(archive)
        .context("cannot write the boot archive")?;
    let image = workspace.basalt_elf();
    let outer = Outer {
        model: &Model::new(Emulator::Qemu, None),
        medium: Medium::Kernel {
            file: &image,
            initrd: Some(path_of(&file).into()),
            append: "bench=1",
        },
        firmware: None,
        memory_mib,
        cpus: 1,
        icount: true,
        disks: Vec::new(),
    };
    let lines = qemu::after_prompt(script::parse(source)?);
    qemu::play(workspace, &outer, &lines, std::io::sink())
}

/// The TSC at a milestone.
fn milestone(text: &str, name: &str) -> Result<f64> {
    let value = text.lines().find_map(|line| {
        let (_, rest) = line.split_once("milestone ")?;
        let (found, value) = rest.trim().split_once(' ')?;
        (found == name).then(|| value.parse().ok())?
    });
    value.with_context(|| format!("Basalt did not come by the milestone {name}"))
}

fn run_guest(workspace: &Workspace, guest: &str, arguments: &[&str]) -> Result<String> {
    let path = guests::path(workspace, guest);
    run_file(workspace, path.as_os_str(), arguments)
}

/// Runs a guest by this program's own `run-guest`; returns its serial output.
fn run_file(workspace: &Workspace, file: &OsStr, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("run-guest").arg(file).args(arguments);
    if !arguments.contains(&"--bare") {
        command.arg("--basalt").arg(workspace.basalt_elf());
    }
    let output = command.stdin(Stdio::null()).output()?;
    let status = output.status.code().unwrap_or(-1);
    // Switched off, or the status 0 written to the test device.
    if !matches!(status, 0 | 1) {
        bail!(
            "{} ended with {status}: {}",
            file.to_string_lossy(),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn milestones_are_found_among_other_output() {
        let text = "milestone entry 100\r\nbasalt> vm start x\r\nmilestone vm-start 250\r\n";
        assert_eq!(milestone(text, "entry").ok(), Some(100.0));
        assert_eq!(milestone(text, "vm-start").ok(), Some(250.0));
        assert!(milestone(text, "vm").is_err());
    }
}
