//! The machine that Basalt is tried on: QEMU's TCG with AMD SVM, as one command line.
//!
//! It describes and starts the process. Who reads its serial ports, and how long it may run, is the callers' matter.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::packages;

/// RAM for Basalt itself beside its guests', in MiB.
pub(crate) const OVERHEAD_MIB: u64 = 256;
/// Virtual CPUs of the outer machine at most: more than this gains nothing on the machines it runs on.
pub(crate) const CPUS_MAX: u32 = 4;
/// How often a running QEMU is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// The CPU that is emulated: everything that TCG can, and SVM.
pub(crate) const CPU: &str = "max,+svm";
/// UEFI firmware and its empty variable store, from Debian's package.
const UEFI_CODE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
const UEFI_VARIABLES: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";

/// What a machine boots.
#[derive(Debug)]
pub(crate) enum Medium<'a> {
    /// A file that QEMU itself loads.
    Kernel {
        /// Basalt, or a guest without it.
        file: &'a Path,
        /// What it gets as its initial RAM disk or modules, in the form of QEMU's `-initrd`.
        initrd: Option<OsString>,
        /// Its command line.
        append: &'a str,
    },
    /// A CD by the firmware.
    Cd(&'a Path),
    /// A disk by the firmware; nothing is written to it.
    Disk(&'a Path),
}

/// Firmware other than QEMU's own SeaBIOS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Firmware {
    /// OVMF.
    Uefi,
}

/// A PC.
#[derive(Debug)]
pub(crate) struct Outer<'a> {
    /// What it boots.
    pub(crate) medium: Medium<'a>,
    /// `None` for SeaBIOS.
    pub(crate) firmware: Option<Firmware>,
    /// Model and features of its CPUs, in QEMU's words.
    pub(crate) cpu: &'a str,
    /// RAM in MiB; the host backs only what is touched.
    pub(crate) memory_mib: u64,
    /// Number of CPUs.
    pub(crate) cpus: u32,
    /// Whether time is counted in instructions, one per nanosecond.
    pub(crate) icount: bool,
}

impl Outer<'_> {
    /// The command without serial ports: QEMU numbers those in the order of its arguments.
    pub(crate) fn command(&self) -> Command {
        let mut command = bound_to_this_process("qemu-system-x86_64");
        command.args(["-accel", "tcg", "-cpu", self.cpu]);
        command.args(["-nodefaults", "-display", "none", "-no-reboot"]);
        if self.icount {
            command.args(["-icount", "shift=0,sleep=off"]);
        }
        let ram = format!(
            "memory-backend-ram,id=ram,size={}M,reserve=off",
            self.memory_mib
        );
        command.args(["-machine", "pc,memory-backend=ram", "-object", &ram]);
        command.args([
            "-m",
            &format!("{}M", self.memory_mib),
            "-smp",
            &self.cpus.to_string(),
        ]);
        command.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]);
        if self.firmware == Some(Firmware::Uefi) {
            let code = format!("if=pflash,format=raw,readonly=on,file={UEFI_CODE}");
            let variables = format!("if=pflash,format=raw,snapshot=on,file={UEFI_VARIABLES}");
            command.args(["-drive", &code, "-drive", &variables]);
        }
        self.insert_medium(&mut command);
        command
    }

    fn insert_medium(&self, command: &mut Command) {
        match &self.medium {
            Medium::Kernel {
                file,
                initrd,
                append,
            } => {
                command.arg("-kernel").arg(file);
                if let Some(initrd) = initrd {
                    command.arg("-initrd").arg(initrd);
                }
                if !append.is_empty() {
                    command.args(["-append", append]);
                }
            }
            Medium::Cd(file) => {
                command.arg("-cdrom").arg(file);
            }
            Medium::Disk(file) => {
                let drive = format!("if=ide,format=raw,snapshot=on,file={}", file.display());
                command.args(["-drive", &drive]);
            }
        }
    }
}

/// A path by which a child process reaches an open file, even one without a name.
pub(crate) fn path_of(file: &File) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd())
}

/// A command that ends when the thread which starts it does, so that a killed xtask leaves no emulator behind.
/// `setpriv` comes with every Debian; elsewhere the program runs without that guard.
fn bound_to_this_process(program: &str) -> Command {
    if packages::on_path("setpriv") {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "--", program]);
        return command;
    }
    Command::new(program)
}

/// A started emulator; dropping it kills the process and waits for it.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
}

impl Running {
    /// Starts the command. The calling thread must live as long as the emulator shall.
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        let child = command
            .spawn()
            .context("cannot start qemu-system-x86_64 (Debian package qemu-system-x86)")?;
        Ok(Self { child })
    }

    /// The process, to take its pipes from.
    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Waits for the process to end by itself; `None` when it still runs at `deadline`.
    pub(crate) fn wait_until(&mut self, deadline: Instant) -> Result<Option<ExitStatus>> {
        loop {
            if let Some(status) = self.child.try_wait().context("cannot wait for QEMU")? {
                return Ok(Some(status));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            thread::sleep(left.min(POLL_INTERVAL));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only when the process is gone already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
