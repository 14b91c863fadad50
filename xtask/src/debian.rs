//! Debian's own kernel and busybox, as files of a guest.
//!
//! They are taken out of the packages that apt downloads and kept in the target directory; nothing is installed.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use elf::abi::PT_INTERP;

use crate::elf_image;
use crate::initramfs;
use crate::packages;
use crate::workspace::{Workspace, say, write_atomically};

/// The meta package of the current kernel.
const KERNEL_META_PACKAGE: &str = "linux-image-amd64";
/// How the packages it stands for are called.
const KERNEL_PREFIX: &str = "linux-image-";
/// The busybox that needs no library.
const BUSYBOX_PACKAGE: &str = "busybox-static";
/// Where that package puts it, if it is installed.
const BUSYBOX_INSTALLED: &str = "/bin/busybox";

/// The files of a Debian guest.
#[derive(Debug)]
pub(crate) struct Debian {
    /// The kernel, a bzImage.
    pub(crate) kernel: PathBuf,
    /// Our initramfs around Debian's busybox.
    pub(crate) initramfs: PathBuf,
    /// The kernel's package.
    pub(crate) version: String,
}

/// Gets the files, from the target directory if they are there.
pub(crate) fn fetch(workspace: &Workspace) -> Result<Debian> {
    let directory = workspace.guests().join("debian");
    fs::create_dir_all(&directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    let kernel = directory.join("vmlinuz");
    let version_file = directory.join("version");
    if !(kernel.exists() && version_file.exists()) {
        let package = packages::dependency(KERNEL_META_PACKAGE, KERNEL_PREFIX)?;
        say(&format!("fetching {package}"));
        take(&package, "./boot/vmlinuz-*", &kernel)?;
        write_atomically(&version_file, package.as_bytes())?;
    }
    let busybox = busybox(&directory)?;
    let initramfs = directory.join("initramfs.cpio");
    write_atomically(&initramfs, &initramfs::build(&busybox)?)?;
    let version = fs::read_to_string(&version_file).context("cannot read the kernel's version")?;
    Ok(Debian {
        kernel,
        initramfs,
        version,
    })
}

/// The bytes of a busybox that is linked statically.
fn busybox(directory: &Path) -> Result<Vec<u8>> {
    if let Ok(installed) = fs::read(BUSYBOX_INSTALLED)
        && is_static(&installed)
    {
        return Ok(installed);
    }
    let kept = directory.join("busybox");
    if !kept.exists() {
        say(&format!("fetching {BUSYBOX_PACKAGE}"));
        take(BUSYBOX_PACKAGE, "*/bin/busybox", &kept)?;
    }
    fs::read(&kept).with_context(|| format!("cannot read {}", kept.display()))
}

/// Takes one file out of a package.
fn take(package: &str, pattern: &str, to: &Path) -> Result<()> {
    let directory = to.parent().context("a file has a folder")?;
    let scratch = tempfile::tempdir_in(directory).context("cannot create a temporary folder")?;
    let file = packages::extract(package, pattern, scratch.path())?;
    fs::rename(&file, to).with_context(|| format!("cannot create {}", to.display()))
}

/// Whether a program runs without a dynamic linker.
fn is_static(file: &[u8]) -> bool {
    elf_image::parse(file)
        .ok()
        .and_then(|elf| {
            elf.segments()
                .map(|segments| segments.iter().all(|segment| segment.p_type != PT_INTERP))
        })
        .unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_test_is_dynamic_and_a_script_is_nothing() {
        let own = fs::read("/proc/self/exe").expect("a test is a file");
        assert!(!is_static(&own));
        assert!(!is_static(b"#!/bin/sh\n"));
    }
}
