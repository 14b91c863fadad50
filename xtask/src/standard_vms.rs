//! The VMs that a Basalt image starts with: `demo` always, `debian` where its packages can be had.
//!
//! Their files are built and fetched elsewhere; here they get their definitions.

use std::fs;

use anyhow::{Context, Result};

use crate::boot_archive::BootArchive;
use crate::debian::{self, Debian};
use crate::guests;
use crate::outer::Emulator;
use crate::test_table::Boot;
use crate::vm_definition::VmDefinition;
use crate::vmlinux;
use crate::workspace::{Workspace, say};

/// Makes the boot archive for a machine of that kind: in Bochs, Debian's kernel comes unpacked.
pub(crate) fn archive(workspace: &Workspace, emulator: Emulator) -> Result<Vec<u8>> {
    let mut archive = BootArchive::new()?;
    add_demo(&mut archive, workspace)?;
    match debian::fetch(workspace) {
        Ok(debian) => add_debian(&mut archive, &debian, emulator)?,
        Err(error) => say(&format!("going on without the VM debian: {error:#}")),
    }
    archive.finish()
}

/// Makes a boot archive with the VM `demo` alone.
pub(crate) fn demo_archive(workspace: &Workspace) -> Result<Vec<u8>> {
    let mut archive = BootArchive::new()?;
    add_demo(&mut archive, workspace)?;
    archive.finish()
}

/// Makes a boot archive with the VM `demo` and two that never wait, for the benchmark of switches.
pub(crate) fn hogs_archive(workspace: &Workspace) -> Result<Vec<u8>> {
    let mut archive = BootArchive::new()?;
    add_demo(&mut archive, workspace)?;
    let kernel = archive.image_from("rogue.elf", &guests::path(workspace, "rogue"))?;
    for name in ["hog-0", "hog-1"] {
        archive.vm(&small_vm(name, 1, &kernel, "hog"))?;
    }
    archive.finish()
}

/// Makes a boot archive with the VM `demo` and further ones for a test: the guest `rogue`, doing what their names say, the
/// guest `count`, with as many vCPUs as the names say, and idle ones.
pub(crate) fn test_archive(workspace: &Workspace, boot: &Boot) -> Result<Vec<u8>> {
    let (rogues, counters) = (&boot.rogues, &boot.counters);
    let mut archive = BootArchive::new()?;
    let demo = add_demo(&mut archive, workspace)?;
    for number in 0..boot.idle_vms {
        archive.vm(&VmDefinition {
            autostart: true,
            ..small_vm(&format!("idle-{number}"), 1, &demo, "")
        })?;
    }
    if !rogues.is_empty() {
        let kernel = archive.image_from("rogue.elf", &guests::path(workspace, "rogue"))?;
        for name in rogues {
            archive.vm(&small_vm(name, 1, &kernel, name))?;
        }
    }
    if !counters.is_empty() {
        let kernel = archive.image_from("count.elf", &guests::path(workspace, "count"))?;
        for counter in counters {
            let (name, cpus) = counter.split_once(':').unwrap_or((counter, "1"));
            let cpus = cpus.parse().context("vCPUs of a counter")?;
            let word = if cpus > 1 { "smp" } else { "" };
            archive.vm(&small_vm(name, cpus, &kernel, word))?;
        }
    }
    archive.finish()
}

fn small_vm(name: &str, cpus: u32, kernel: &str, cmdline: &str) -> VmDefinition {
    let memory = if cmdline == name { "64M" } else { "16M" };
    VmDefinition {
        name: name.to_owned(),
        memory: memory.to_owned(),
        cpus,
        kernel: kernel.to_owned(),
        cmdline: cmdline.to_owned(),
        serial: "console".to_owned(),
        ..VmDefinition::default()
    }
}

/// Adds the VM `demo`; returns the name of its kernel.
fn add_demo(archive: &mut BootArchive, workspace: &Workspace) -> Result<String> {
    guests::build(workspace)?;
    let path = guests::path(workspace, "demo");
    let file = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let kernel = archive.image("demo.elf", &file)?;
    archive.vm(&VmDefinition {
        name: "demo".to_owned(),
        description: "a tiny guest with a prompt on its serial port".to_owned(),
        memory: "64M".to_owned(),
        cpus: 1,
        kernel: kernel.clone(),
        serial: "console".to_owned(),
        ..VmDefinition::default()
    })?;
    Ok(kernel)
}

fn add_debian(archive: &mut BootArchive, debian: &Debian, emulator: Emulator) -> Result<()> {
    let kernel = match emulator {
        Emulator::Qemu => archive.image_from("vmlinuz", &debian.kernel)?,
        Emulator::Bochs => archive.image("vmlinux", &vmlinux::read(&debian.kernel)?)?,
    };
    let initrd = archive.image_from("initramfs.cpio", &debian.initramfs)?;
    archive.vm(&VmDefinition {
        name: "debian".to_owned(),
        description: format!("{} with a busybox shell", debian.version),
        memory: "512M".to_owned(),
        cpus: 1,
        kernel,
        initrd: Some(initrd),
        cmdline: "console=ttyS0".to_owned(),
        serial: "console".to_owned(),
        ..VmDefinition::default()
    })
}
