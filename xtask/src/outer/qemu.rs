//! The machine as one command line of QEMU's TCG.

use std::fs::File;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::{Firmware, Line, Medium, Outer, Running, bound_to_this_process, path_of};
use crate::disks::{Bus, Disk};
use crate::packages::{self, Need};

/// The CPU that is emulated: everything that TCG can, and SVM.
pub(super) const CPU: &str = "max,+svm";
/// What has to be installed.
pub(super) const NEEDS: [Need; 1] = [packages::QEMU];
/// Serial numbers of disks begin so.
const DISK_SERIAL: &str = "BASALT-TEST";
/// UEFI firmware and its empty variable store, from Debian's package.
const UEFI_CODE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
const UEFI_VARIABLES: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";

/// The first serial port, on pipes of ours.
const SERIAL_ON_STDIO: [&str; 4] = [
    "-chardev",
    "stdio,id=wire,signal=off",
    "-serial",
    "chardev:wire",
];

/// Starts the machine.
pub(super) fn start(outer: &Outer<'_>, log: Option<&File>) -> Result<Running> {
    let mut command = command(outer);
    command.args(SERIAL_ON_STDIO);
    if let Some(log) = log {
        command.args(["-serial", &format!("file:{}", path_of(log))]);
    }
    // QEMU would make stdin and stdout non-blocking for everyone who shares them, so it gets pipes of its own.
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command
        .spawn()
        .context("cannot start qemu-system-x86_64 (Debian package qemu-system-x86)")?;
    let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
        bail!("QEMU has no pipes");
    };
    let line = Line {
        input: Box::new(input),
        output: Box::new(output),
    };
    Ok(Running {
        child,
        line: Some(line),
        remarks: None,
    })
}

/// The command without serial ports: QEMU numbers those in the order of its arguments.
pub(super) fn command(outer: &Outer<'_>) -> Command {
    let mut command = bound_to_this_process("qemu-system-x86_64", "TERM");
    command.args(["-accel", "tcg", "-cpu", &outer.model.cpu]);
    command.args(["-nodefaults", "-display", "none", "-no-reboot"]);
    if outer.icount {
        command.args(["-icount", "shift=0,sleep=off"]);
    }
    let ram = format!(
        "memory-backend-ram,id=ram,size={}M,reserve=off",
        outer.memory_mib
    );
    command.args(["-machine", "pc,memory-backend=ram", "-object", &ram]);
    command.args([
        "-m",
        &format!("{}M", outer.memory_mib),
        "-smp",
        &outer.cpus.to_string(),
    ]);
    command.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]);
    if outer.firmware == Some(Firmware::Uefi) {
        let code = format!("if=pflash,format=raw,readonly=on,file={UEFI_CODE}");
        let variables = format!("if=pflash,format=raw,snapshot=on,file={UEFI_VARIABLES}");
        command.args(["-drive", &code, "-drive", &variables]);
    }
    insert_medium(&outer.medium, &mut command);
    for (number, disk) in (1..).zip(&outer.disks) {
        insert_disk(disk, number, &mut command);
    }
    command
}

fn insert_disk(disk: &Disk, number: u32, command: &mut Command) {
    let drive = format!(
        "if=none,id=disk{number},format=raw,snapshot={},file={}",
        if disk.keep { "off" } else { "on" },
        disk.path.display()
    );
    let device = match disk.bus {
        Bus::Nvme => format!("nvme,drive=disk{number},serial={DISK_SERIAL}-{number}"),
        Bus::Ahci => {
            let controller = format!("ahci,id=ahci{number}");
            command.args(["-device", &controller]);
            format!("ide-hd,bus=ahci{number}.0,drive=disk{number},serial={DISK_SERIAL}-{number}")
        }
        Bus::Ide => {
            format!("ide-hd,bus=ide.1,unit=0,drive=disk{number},serial={DISK_SERIAL}-{number}")
        }
        Bus::Virtio => {
            format!("virtio-blk-pci,drive=disk{number},serial={DISK_SERIAL}-{number}")
        }
    };
    command.args(["-drive", &drive, "-device", &device]);
}

fn insert_medium(medium: &Medium<'_>, command: &mut Command) {
    match medium {
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
