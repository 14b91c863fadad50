//! `cargo xtask run-guest`: one guest in Basalt, its serial port on stdout, its verdict as the exit status.
//!
//! What a guest file is, Basalt finds out by its content; here it is only carried there. Basalt logs to its second
//! serial port and ends that log with the verdict.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal, Read, Seek, Write};
use std::path::PathBuf;
use std::process::{ExitCode, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::boot_archive::BootArchive;
use crate::kernel;
use crate::outer::{
    CPUS_MAX, Emulator, Line, Medium, Model, OVERHEAD_MIB, Outer, Running, path_of,
};
use crate::packages;
use crate::vm_definition::VmDefinition;
use crate::vmlinux;
use crate::workspace::Workspace;

/// The guest did not come to an end in time, as with timeout(1).
const STATUS_TIMEOUT: u8 = 124;
/// Basalt, or the machine it was to run on, failed.
const STATUS_BASALT_FAILED: u8 = 125;
/// Basalt stopped the guest for a fault.
const STATUS_FAULT: u8 = 126;
/// Lines of Basalt's log that are shown when it failed.
const LOG_TAIL_LINES: usize = 40;
/// How long the guest's last output may take to arrive once the emulator has ended.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(5);

/// Arguments of `run-guest`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The guest: a bzImage, an ELF file with a PVH note, or a Multiboot1 file.
    file: PathBuf,
    /// Linux' initial RAM disk.
    #[arg(long, value_name = "F")]
    initrd: Option<PathBuf>,
    /// A Multiboot1 or PVH module; may be given several times.
    #[arg(long = "module", value_name = "F")]
    modules: Vec<PathBuf>,
    /// The guest's command line.
    #[arg(long, value_name = "S", default_value = "", allow_hyphen_values = true)]
    append: String,
    /// Virtual CPUs of the guest.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    cpus: u32,
    /// RAM of the guest: a number of MiB, or with a unit M or G.
    #[arg(long, value_name = "M", default_value = "256M", value_parser = parse_memory_mib)]
    memory: u64,
    /// Seconds until the guest is given up.
    #[arg(long, value_name = "S", default_value = "120", value_parser = parse_seconds)]
    timeout: Duration,
    /// Counts time in instructions, so that every run is the same.
    #[arg(long)]
    icount: bool,
    /// What Basalt itself runs on.
    #[arg(long, value_enum, default_value_t = Emulator::Qemu)]
    emulator: Emulator,
    /// CPU model that Basalt itself runs on, in the emulator's words.
    #[arg(long, value_name = "MODEL")]
    cpu: Option<String>,
    /// CPUs of the machine that Basalt runs on; as many as the guest's in QEMU, up to 4, and one in Bochs, which
    /// emulates them in turn.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(CPUS_MAX)))]
    host_cpus: Option<u32>,
    /// Runs the guest on QEMU alone, to compare.
    #[arg(long)]
    bare: bool,
    /// Boots this image instead of building one.
    #[arg(long, value_name = "FILE")]
    basalt: Option<PathBuf>,
}

/// How a guest ended.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// It switched its machine off.
    PowerOff,
    /// It wrote this value to port 0xf4.
    Exit(u32),
    /// Basalt stopped it, with the reason.
    Fault(String),
    /// It was given up.
    TimeOut,
    /// Basalt ended without a verdict.
    BasaltFailed,
}

/// Runs the command; whatever goes wrong outside the guest is a failure of Basalt to the caller.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> ExitCode {
    let status = match run_guest(workspace, options) {
        Ok(Verdict::PowerOff) => 0,
        Ok(Verdict::Exit(value)) => debug_exit_status(value),
        Ok(Verdict::Fault(reason)) => {
            eprintln!("fault: {reason}");
            STATUS_FAULT
        }
        Ok(Verdict::TimeOut) => {
            eprintln!(
                "time-out: the guest ran for {} s",
                options.timeout.as_secs_f64()
            );
            STATUS_TIMEOUT
        }
        Ok(Verdict::BasaltFailed) => STATUS_BASALT_FAILED,
        Err(error) => {
            eprintln!("error: {error:#}");
            STATUS_BASALT_FAILED
        }
    };
    ExitCode::from(status)
}

/// The exit status of QEMU's isa-debug-exit device, as a parent process sees it.
fn debug_exit_status(value: u32) -> u8 {
    let [status, ..] = ((value << 1) | 1).to_le_bytes();
    status
}

fn run_guest(workspace: &Workspace, options: &Options) -> Result<Verdict> {
    packages::ensure_installed(options.emulator.needs())?;
    if options.bare {
        ensure!(
            options.emulator == Emulator::Qemu,
            "Bochs has no way to load a guest, nor its test device: --bare is for QEMU"
        );
        run_bare(workspace, options)
    } else {
        run_in_basalt(workspace, options)
    }
}

fn run_in_basalt(workspace: &Workspace, options: &Options) -> Result<Verdict> {
    let archive_bytes = archive(options)?;
    let image = match &options.basalt {
        Some(path) => path.clone(),
        None => kernel::build(workspace)?,
    };
    let mut archive = workspace.unnamed_file()?;
    archive
        .write_all(&archive_bytes)
        .context("cannot write the boot archive")?;
    let mut log = workspace.unnamed_file()?;
    // The archive is in memory once as the boot module and once unpacked into the guest.
    let archive_mib = archive_bytes.len() as u64 >> 20;
    let outer = Outer {
        model: &outer_model(options),
        medium: Medium::Kernel {
            file: &image,
            initrd: Some(path_of(&archive).into()),
            append: "mode=run-guest",
        },
        firmware: None,
        memory_mib: options.memory + OVERHEAD_MIB + 2 * archive_mib,
        cpus: outer_cpus(options),
        icount: options.icount,
        disks: Vec::new(),
    };
    let mut running = outer.start(workspace, Some(&log))?;
    let ended = relay(&mut running, options.timeout)?;
    let text = read_log(&mut log)?;
    Ok(match (verdict(&text), ended) {
        (Some(verdict), _) => verdict,
        (None, None) => {
            // A host that has shut its CPU down runs on for ever, too.
            for line in running.complaints() {
                eprintln!("Bochs said: {line}");
            }
            Verdict::TimeOut
        }
        (None, Some(status)) => {
            eprintln!("Basalt ended without a verdict ({status}); its log ends with:");
            let lines: Vec<&str> = text.lines().collect();
            for line in &lines[lines.len().saturating_sub(LOG_TAIL_LINES)..] {
                eprintln!("  | {line}");
            }
            eprintln!("{}", running.explain().trim_start());
            Verdict::BasaltFailed
        }
    })
}

/// Runs the guest on QEMU alone; its PC has the same test device.
fn run_bare(workspace: &Workspace, options: &Options) -> Result<Verdict> {
    let files = options.initrd.iter().chain(&options.modules);
    let files: Vec<&OsStr> = files.map(|path| path.as_os_str()).collect();
    let outer = Outer {
        model: &outer_model(options),
        medium: Medium::Kernel {
            file: &options.file,
            initrd: (!files.is_empty()).then(|| files.join(OsStr::new(","))),
            append: &options.append,
        },
        firmware: None,
        memory_mib: options.memory,
        cpus: outer_cpus(options),
        icount: options.icount,
        disks: Vec::new(),
    };
    let ended = relay(&mut outer.start(workspace, None)?, options.timeout)?;
    match ended.map(|status| status.code()) {
        None => Ok(Verdict::TimeOut),
        Some(Some(0)) => Ok(Verdict::PowerOff),
        Some(Some(code)) if code & 1 == 1 => Ok(Verdict::Exit(u32::try_from(code >> 1)?)),
        Some(_) => bail!("QEMU failed"),
    }
}

fn outer_model(options: &Options) -> Model {
    Model::new(options.emulator, options.cpu.as_deref())
}

fn outer_cpus(options: &Options) -> u32 {
    if options.icount || options.emulator == Emulator::Bochs {
        options.host_cpus.unwrap_or(1)
    } else {
        options.host_cpus.unwrap_or(options.cpus).min(CPUS_MAX)
    }
}

/// Connects the emulator's COM1 to our input and output until it ends; `None` when it had to be stopped.
fn relay(running: &mut Running, timeout: Duration) -> Result<Option<ExitStatus>> {
    let deadline = Instant::now() + timeout;
    let Line { input, output } = running.take_line()?;
    thread::spawn(move || forward_input(input));
    let output = thread::spawn(move || forward_output(output));
    let ended = running.wait_until(deadline)?;
    running.end();
    let drained = Instant::now() + DRAIN_TIME_MAX;
    while !output.is_finished() && Instant::now() < drained {
        thread::sleep(Duration::from_millis(1));
    }
    Ok(ended)
}

/// Packs the guest's files and its definition.
fn archive(options: &Options) -> Result<Vec<u8>> {
    let mut archive = BootArchive::new()?;
    let kernel = match options.emulator {
        Emulator::Qemu => archive.image_from("kernel", &options.file)?,
        Emulator::Bochs => archive.image("kernel", &vmlinux::read(&options.file)?)?,
    };
    let initrd = options
        .initrd
        .as_deref()
        .map(|path| archive.image_from("initrd", path))
        .transpose()?;
    let mut modules = Vec::new();
    for (index, path) in options.modules.iter().enumerate() {
        modules.push(archive.image_from(&format!("module{index}"), path)?);
    }
    archive.run(&VmDefinition {
        name: "guest".to_owned(),
        memory: format!("{}M", options.memory),
        cpus: options.cpus,
        kernel,
        initrd,
        modules,
        cmdline: options.append.clone(),
        serial: "console".to_owned(),
        test_devices: true,
        ..VmDefinition::default()
    })?;
    archive.finish()
}

/// Hands our input to the guest, unless it is a terminal: a guest that is run without questions asks none.
fn forward_input(mut guest: Box<dyn Write + Send>) {
    if io::stdin().is_terminal() {
        return;
    }
    // The guest may end before it has read everything; nobody waits for the rest.
    let _ = io::copy(&mut io::stdin().lock(), &mut guest);
}

/// Copies the guest's serial bytes to our output as they come.
fn forward_output(mut guest: Box<dyn Read + Send>) {
    let mut buffer = [0; 4096];
    let mut stdout = io::stdout();
    let mut reader_there = true;
    loop {
        let size = match guest.read(&mut buffer) {
            Ok(0) => return,
            Ok(size) => size,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(_) => return,
        };
        // Once our reader is gone the guest still runs to its verdict.
        reader_there = reader_there
            && stdout
                .write_all(&buffer[..size])
                .and_then(|()| stdout.flush())
                .is_ok();
    }
}

fn read_log(log: &mut File) -> Result<String> {
    let mut bytes = Vec::new();
    log.rewind().context("cannot read Basalt's log")?;
    log.read_to_end(&mut bytes)
        .context("cannot read Basalt's log")?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Finds the verdict in Basalt's log; the last one counts.
fn verdict(log: &str) -> Option<Verdict> {
    log.lines().rev().find_map(|line| {
        let (word, rest) = {
            let text = line.trim().strip_prefix("verdict: ")?;
            text.split_once(' ').unwrap_or((text, ""))
        };
        match word {
            "poweroff" => Some(Verdict::PowerOff),
            "exit" => parse_number(rest).map(Verdict::Exit),
            "fault" => Some(Verdict::Fault(rest.to_owned())),
            _ => None,
        }
    })
}

fn parse_number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

fn parse_memory_mib(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'G' | b'g') => (&text[..text.len() - 1], 10),
        Some(b'M' | b'm') => (&text[..text.len() - 1], 0),
        _ => (text, 0),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| "it should read like 256, 256M or 2G".to_owned())?;
    match number.checked_mul(1 << shift) {
        Some(mib @ 1..=0xff_ffff) => Ok(mib),
        _ => Err("it should be between 1M and 16383G".to_owned()),
    }
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text
        .parse()
        .map_err(|_| "it should be a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_verdict_of_the_log_counts() {
        assert_eq!(
            verdict("verdict: exit 1\nlog\nverdict: poweroff\n"),
            Some(Verdict::PowerOff)
        );
        assert_eq!(verdict("verdict: exit 0x21\r\n"), Some(Verdict::Exit(0x21)));
        assert_eq!(
            verdict("verdict: fault triple fault at 0x10"),
            Some(Verdict::Fault("triple fault at 0x10".into()))
        );
        for none in [
            "",
            "[1.0] the verdict: poweroff",
            "verdict: exit x",
            "verdict: unknown",
        ] {
            assert_eq!(verdict(none), None, "{none}");
        }
    }

    #[test]
    fn an_exit_value_becomes_qemus_status() {
        assert_eq!(debug_exit_status(0), 1);
        assert_eq!(debug_exit_status(1), 3);
        assert_eq!(debug_exit_status(0x80), 1);
        assert_eq!(debug_exit_status(u32::MAX), 0xff);
    }

    #[test]
    fn memory_sizes_have_units() {
        assert_eq!(parse_memory_mib("512"), Ok(512));
        assert_eq!(parse_memory_mib("512M"), Ok(512));
        assert_eq!(parse_memory_mib("2g"), Ok(2048));
        for bad in ["", "M", "0", "-1", "1T", "18446744073709551615G"] {
            assert!(parse_memory_mib(bad).is_err(), "{bad}");
        }
    }
}
