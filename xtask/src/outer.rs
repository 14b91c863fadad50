//! The machine that Basalt is tried on: an emulated PC, described once for every emulator.
//!
//! It describes and starts the process; how each emulator is told stands in `outer/`. Who reads its serial ports, and
//! how long it may run, is the callers' matter.

mod bochs;
mod qemu;

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde::Deserialize;

use crate::disks::Disk;
use crate::packages::{self, Need};
use crate::workspace::Workspace;

/// RAM for Basalt itself beside its guests', in MiB.
pub(crate) const OVERHEAD_MIB: u64 = 256;
/// Virtual CPUs of the outer machine at most: more than this gains nothing on the machines it runs on.
pub(crate) const CPUS_MAX: u32 = 4;
/// How often a running emulator is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// What Basalt is tried on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Emulator {
    /// QEMU's TCG with AMD SVM.
    #[default]
    Qemu,
    /// Bochs, whose CPU models have AMD SVM or Intel VMX; slower, stricter, and the same in every run.
    Bochs,
}

impl Emulator {
    /// The CPU model that is emulated if nobody asks for another.
    pub(crate) fn default_cpu(self) -> &'static str {
        match self {
            Self::Qemu => qemu::CPU,
            Self::Bochs => bochs::CPU,
        }
    }

    /// Its name, as an argument of commands.
    fn name(self) -> &'static str {
        match self {
            Self::Qemu => "qemu",
            Self::Bochs => "bochs",
        }
    }

    /// What has to be installed.
    pub(crate) fn needs(self) -> &'static [Need] {
        match self {
            Self::Qemu => &qemu::NEEDS,
            Self::Bochs => &bochs::NEEDS,
        }
    }
}

/// An emulator and the CPU model that it shall have, as in "qemu", "bochs/ryzen" or "qemu/qemu64,-svm".
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Model {
    /// What emulates the machine.
    pub(crate) emulator: Emulator,
    /// Its CPUs, in the emulator's words.
    pub(crate) cpu: String,
}

impl Model {
    /// The model of that name, or the emulator's usual one.
    pub(crate) fn new(emulator: Emulator, cpu: Option<&str>) -> Self {
        Self {
            emulator,
            cpu: cpu.unwrap_or(emulator.default_cpu()).to_owned(),
        }
    }

    /// The arguments of `run-guest` that ask for it.
    pub(crate) fn arguments(&self) -> [&str; 4] {
        ["--emulator", self.emulator.name(), "--cpu", &self.cpu]
    }

    /// Whether it is what everything is tried on if nobody asks for something else.
    pub(crate) fn is_usual(&self) -> bool {
        *self == Self::new(Emulator::default(), None)
    }
}

impl TryFrom<String> for Model {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let (emulator, cpu) = match text.split_once('/') {
            Some((emulator, cpu)) => (emulator, Some(cpu)),
            None => (text.as_str(), None),
        };
        let emulator = Emulator::from_str(emulator, false)?;
        Ok(Self::new(emulator, cpu))
    }
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.emulator.name(), self.cpu)
    }
}

/// What a machine boots.
#[derive(Debug)]
pub(crate) enum Medium<'a> {
    /// A file that is loaded as Multiboot says: by QEMU itself, by GRUB from a disk made for the occasion in Bochs.
    Kernel {
        /// Basalt, or a guest without it.
        file: &'a Path,
        /// What it gets as its initial RAM disk or modules, in the form of QEMU's `-initrd`; one file in Bochs.
        initrd: Option<OsString>,
        /// Its command line.
        append: &'a str,
    },
    /// A CD by the firmware.
    Cd(&'a Path),
    /// A disk by the firmware; nothing is written to it.
    Disk(&'a Path),
}

/// Firmware other than a BIOS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Firmware {
    /// OVMF; in QEMU only.
    Uefi,
}

/// A PC.
#[derive(Debug)]
pub(crate) struct Outer<'a> {
    /// What emulates it, and which CPU.
    pub(crate) model: &'a Model,
    /// What it boots.
    pub(crate) medium: Medium<'a>,
    /// `None` for the emulator's BIOS.
    pub(crate) firmware: Option<Firmware>,
    /// RAM in MiB; the host backs only what is touched.
    pub(crate) memory_mib: u64,
    /// Number of CPUs.
    pub(crate) cpus: u32,
    /// Whether time is counted in instructions: one per nanosecond in QEMU; in Bochs it always is.
    pub(crate) icount: bool,
    /// Its disks besides the medium.
    pub(crate) disks: Vec<Disk>,
}

impl Outer<'_> {
    /// Starts the machine with COM1 on a line of ours and COM2 in `log`, if there is one. The calling thread must live
    /// as long as the emulator shall.
    pub(crate) fn start(&self, workspace: &Workspace, log: Option<&File>) -> Result<Running> {
        match self.model.emulator {
            Emulator::Qemu => qemu::start(self, log),
            Emulator::Bochs => bochs::start(workspace, self, log),
        }
    }

    /// QEMU's command line for this machine without serial ports.
    pub(crate) fn qemu_command(&self) -> Command {
        qemu::command(self)
    }
}

/// A path by which a child process reaches an open file, even one without a name.
pub(crate) fn path_of(file: &impl AsRawFd) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd())
}

/// A command that gets `signal` when the thread which starts it ends, so that a killed xtask leaves no emulator behind.
/// `setpriv` comes with every Debian; elsewhere the program runs without that guard.
fn bound_to_this_process(program: &str, signal: &str) -> Command {
    if packages::on_path("setpriv") {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", signal, "--", program]);
        return command;
    }
    Command::new(program)
}

/// Both ends of a machine's COM1.
pub(crate) struct Line {
    /// What the machine receives.
    pub(crate) input: Box<dyn Write + Send>,
    /// What it sends.
    pub(crate) output: Box<dyn Read + Send>,
}

/// A started emulator; dropping it kills the process and waits for it.
pub(crate) struct Running {
    child: Child,
    line: Option<Line>,
    /// What Bochs says of itself; QEMU speaks for itself on stderr.
    remarks: Option<bochs::Remarks>,
}

impl Running {
    /// Takes the ends of COM1; they are there once.
    pub(crate) fn take_line(&mut self) -> Result<Line> {
        self.line.take().context("the machine has no serial line")
    }

    /// Waits for the process to end by itself; `None` when it still runs at `deadline`.
    pub(crate) fn wait_until(&mut self, deadline: Instant) -> Result<Option<ExitStatus>> {
        loop {
            if let Some(status) = self.child.try_wait().context("cannot wait for it")? {
                return Ok(Some(status));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            thread::sleep(left.min(POLL_INTERVAL));
        }
    }

    /// Ends the machine after a failure; returns what the emulator itself had to say about it, or nothing.
    pub(crate) fn explain(mut self) -> String {
        self.end();
        self.remarks
            .take()
            .map_or_else(String::new, bochs::Remarks::explain)
    }

    /// Ends the machine; returns what the emulator found wrong with it, one thing a line.
    pub(crate) fn complaints(mut self) -> Vec<String> {
        self.end();
        self.remarks
            .take()
            .map_or_else(Vec::new, bochs::Remarks::complaints)
    }

    /// Ends the machine at once.
    pub(crate) fn end(&mut self) {
        // Both fail only when the process is gone already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}
