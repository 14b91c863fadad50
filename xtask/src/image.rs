//! `cargo xtask image`: a hybrid ISO and a raw disk, each bootable by BIOS and UEFI firmware through GRUB.
//!
//! Both are made of files alone: no loop device, no mount, no root. What they hold beside GRUB is the kernel image and
//! the boot archive with the standard VMs.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::gpt::{self, Guid, Partition, SECTOR_SIZE};
use crate::kernel;
use crate::outer::Emulator;
use crate::packages::{self, Need};
use crate::standard_vms;
use crate::workspace::{Workspace, write_atomically};

/// Where Debian's packages put GRUB's parts.
const GRUB_BIOS: &str = "/usr/lib/grub/i386-pc";
const GRUB_UEFI: &str = "/usr/lib/grub/x86_64-efi";
/// Where UEFI firmware looks on a disk for what it shall start (UEFI specification, 3.5.1.1).
const UEFI_LOADER: &str = "EFI/BOOT/BOOTX64.EFI";
/// What GRUB on the disk does first: find the menu, wherever the firmware has put the disk.
const FIND_MENU: &str =
    "search.file /boot/grub/grub.cfg root\nset prefix=($root)/boot/grub\nnormal\n";
/// Modules that the disk's GRUB is made of.
const MODULES: [&str; 7] = [
    "part_gpt",
    "fat",
    "search_fs_file",
    "normal",
    "configfile",
    "multiboot2",
    "echo",
];
/// Sector of GRUB's core on the disk, in a partition of 1 MiB.
const CORE_START: u64 = 2048;
const CORE_COUNT: u64 = 2048;
/// Sector of the file system.
const FILES_START: u64 = CORE_START + CORE_COUNT;
/// Room in the file system beside its files, in bytes; also what keeps it large enough to be FAT16.
const FILES_SPARE: usize = 16 << 20;
/// Sectors behind the file system: the table's copy and a round number.
const TAIL_COUNT: u64 = 2048;
/// In GRUB's boot.img: where the core's first sector is written down. MBR code ends before the disk's signature.
const BOOT_CORE_SECTOR: usize = 0x5c;
const MBR_CODE_SIZE: usize = 440;
/// In the core's first sector: start and length of the rest, and the segment it goes to.
const CORE_LIST: usize = SECTOR_SIZE - 12;
const CORE_REST_SEGMENT: u16 = 0x820;
/// Identifiers of the disk and its partitions; every image has the same ones.
const DISK_ID: Guid = Guid::new(0x6261_7361, 0x6c74, 0x4000, 0x8000_0000_0000_0000);
const CORE_ID: Guid = Guid::new(0x6261_7361, 0x6c74, 0x4000, 0x8000_0000_0000_0001);
const FILES_ID: Guid = Guid::new(0x6261_7361, 0x6c74, 0x4000, 0x8000_0000_0000_0002);
/// Serial number of the file system.
const FILES_SERIAL: &str = "62617361";

/// What has to be installed.
const NEEDS: [Need; 6] = [
    Need::program("grub-mkrescue", "grub-common"),
    Need::program("xorriso", "xorriso"),
    Need::program("mformat", "mtools"),
    Need::program("mcopy", "mtools"),
    Need::file("/usr/lib/grub/i386-pc/boot.img", "grub-pc-bin"),
    Need::file(
        "/usr/lib/grub/x86_64-efi/multiboot2.mod",
        "grub-efi-amd64-bin",
    ),
];

/// The two files.
#[derive(Debug)]
pub(crate) struct Images {
    /// For CDs, USB sticks and virtual CD drives.
    pub(crate) iso: PathBuf,
    /// For disks.
    pub(crate) disk: PathBuf,
}

/// Makes both.
pub(crate) fn build(workspace: &Workspace) -> Result<Images> {
    packages::ensure_installed(&NEEDS)?;
    let kernel = kernel::build(workspace)?;
    let mut archive = tempfile::NamedTempFile::new_in(workspace.target())?;
    archive.write_all(&standard_vms::archive(workspace, Emulator::Qemu)?)?;
    let staging = stage(workspace, &kernel, Some(archive.path()), "")?;
    let images = Images {
        iso: workspace.target().join("basalt.iso"),
        disk: workspace.target().join("basalt.img"),
    };
    iso(staging.path(), &images.iso)?;
    add_uefi_loader(staging.path())?;
    let disk = disk(staging.path())?;
    write_atomically(&images.disk, &disk)?;
    Ok(images)
}

/// Makes a disk that BIOS machines boot `kernel` from, with `archive` as its module and `append` as its command line.
pub(crate) fn bios_disk(
    workspace: &Workspace,
    kernel: &Path,
    archive: Option<&Path>,
    append: &str,
    to: &Path,
) -> Result<()> {
    let staging = stage(workspace, kernel, archive, append)?;
    fs::write(to, disk(staging.path())?).with_context(|| format!("cannot write {}", to.display()))
}

/// Lays the files out as they are on the medium.
fn stage(
    workspace: &Workspace,
    kernel: &Path,
    archive: Option<&Path>,
    append: &str,
) -> Result<TempDir> {
    let staging = tempfile::tempdir_in(workspace.target()).context("cannot create a folder")?;
    let boot = staging.path().join("boot");
    fs::create_dir_all(boot.join("grub"))?;
    fs::copy(kernel, boot.join("basalt.elf")).context("cannot copy the kernel")?;
    if let Some(archive) = archive {
        fs::copy(archive, boot.join("basalt.cpio")).context("cannot copy the boot archive")?;
    }
    fs::write(boot.join("grub/grub.cfg"), menu(append, archive.is_some())?)?;
    Ok(staging)
}

/// GRUB's menu: one entry, taken at once.
fn menu(append: &str, module: bool) -> Result<String> {
    // Between single quotes GRUB takes every character as it is (GRUB manual, 16.1).
    ensure!(
        !append.contains(['\'', '\n']),
        "GRUB cannot pass on the command line {append:?}"
    );
    let words: String = append
        .split_whitespace()
        .map(|word| format!(" '{word}'"))
        .collect();
    let module = if module {
        "  module2 /boot/basalt.cpio\n"
    } else {
        ""
    };
    Ok(format!(
        "set timeout=0\nmenuentry \"Basalt\" {{\n  multiboot2 /boot/basalt.elf{words}\n{module}}}\n"
    ))
}

fn iso(files: &Path, to: &Path) -> Result<()> {
    let new = to.with_extension("iso.new");
    // Its modules for both kinds of firmware are what it is for; fonts, themes and languages are not.
    run(Command::new("grub-mkrescue")
        .args(["--fonts=", "--locales=", "--themes=", "--compress=xz"])
        .arg("--output")
        .arg(&new)
        .arg(files))?;
    fs::rename(&new, to).with_context(|| format!("cannot create {}", to.display()))
}

/// The bytes of the disk.
fn disk(staging: &Path) -> Result<Vec<u8>> {
    let files = file_system(staging)?;
    let files_count = (files.len() / SECTOR_SIZE) as u64;
    let mut disk = vec![0; usize::try_from(FILES_START + files_count + TAIL_COUNT)? * SECTOR_SIZE];
    let boot = fs::read(Path::new(GRUB_BIOS).join("boot.img")).context("cannot read boot.img")?;
    let boot = boot.get(..MBR_CODE_SIZE).context("boot.img is too short")?;
    disk[..MBR_CODE_SIZE].copy_from_slice(boot);
    disk[BOOT_CORE_SECTOR..BOOT_CORE_SECTOR + 8].copy_from_slice(&CORE_START.to_le_bytes());
    gpt::put(&mut disk, CORE_START, &core(staging)?)?;
    gpt::put(&mut disk, FILES_START, &files)?;
    let partitions = [
        Partition {
            kind: gpt::BIOS_BOOT,
            id: CORE_ID,
            start: CORE_START,
            count: CORE_COUNT,
            name: "GRUB",
        },
        Partition {
            kind: gpt::EFI_SYSTEM,
            id: FILES_ID,
            start: FILES_START,
            count: files_count,
            name: "Basalt",
        },
    ];
    gpt::write(&mut disk, DISK_ID, &partitions)?;
    Ok(disk)
}

/// GRUB's core for BIOS machines, told where on the disk its own rest is.
fn core(staging: &Path) -> Result<Vec<u8>> {
    let path = staging.join("core.img");
    mkimage(staging, "i386-pc", GRUB_BIOS, &["biosdisk"], &path)?;
    let mut core = fs::read(&path).context("cannot read GRUB's core")?;
    core.resize(core.len().next_multiple_of(SECTOR_SIZE), 0);
    let count = core.len() / SECTOR_SIZE;
    ensure!(
        count as u64 <= CORE_COUNT,
        "GRUB's core does not fit its partition"
    );
    let rest = u16::try_from(count - 1)?;
    core[CORE_LIST..CORE_LIST + 8].copy_from_slice(&(CORE_START + 1).to_le_bytes());
    core[CORE_LIST + 8..CORE_LIST + 10].copy_from_slice(&rest.to_le_bytes());
    core[CORE_LIST + 10..CORE_LIST + 12].copy_from_slice(&CORE_REST_SEGMENT.to_le_bytes());
    Ok(core)
}

/// Adds GRUB for UEFI to the files.
fn add_uefi_loader(staging: &Path) -> Result<()> {
    let loader = staging.join(UEFI_LOADER);
    fs::create_dir_all(loader.parent().context("a file has a folder")?)?;
    mkimage(staging, "x86_64-efi", GRUB_UEFI, &["all_video"], &loader)
}

/// The file system that both kinds of firmware read: the kernel, its archive, the menu, GRUB for UEFI.
fn file_system(staging: &Path) -> Result<Vec<u8>> {
    let mut size = FILES_SPARE;
    for file in [UEFI_LOADER, "boot/basalt.elf", "boot/basalt.cpio"] {
        // Not every disk has all of them.
        size += fs::metadata(staging.join(file)).map_or(Ok(0), |data| data.len().try_into())?;
    }
    let sectors = (size / SECTOR_SIZE).next_multiple_of(2048);
    let path = staging.join("files.img");
    run(Command::new("mformat")
        .args([
            "-C",
            "-v",
            "BASALT",
            "-N",
            FILES_SERIAL,
            "-T",
            &sectors.to_string(),
        ])
        .arg("-i")
        .arg(&path)
        .arg("::"))?;
    run(Command::new("mcopy")
        .args(["-s", "-i"])
        .arg(&path)
        .args(
            ["boot", "EFI"]
                .map(|folder| staging.join(folder))
                .iter()
                .filter(|folder| folder.exists()),
        )
        .arg("::/"))?;
    let mut files = fs::read(&path).context("cannot read the file system")?;
    files.resize(sectors * SECTOR_SIZE, 0);
    Ok(files)
}

fn mkimage(staging: &Path, format: &str, from: &str, more: &[&str], to: &Path) -> Result<()> {
    let first = staging.join("first.cfg");
    fs::write(&first, FIND_MENU)?;
    run(Command::new("grub-mkimage")
        .args([
            "--format",
            format,
            "--directory",
            from,
            "--prefix",
            "/boot/grub",
        ])
        .arg("--config")
        .arg(&first)
        .arg("--output")
        .arg(to)
        .args(MODULES)
        .args(more))
}

/// Runs a tool that has nothing to say unless it fails.
fn run(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {name}"))?;
    ensure!(
        output.status.success(),
        "{name} failed:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
