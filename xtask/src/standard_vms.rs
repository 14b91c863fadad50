//! The VMs that every Basalt image starts with.

use anyhow::Result;

use crate::boot_archive::BootArchive;
use crate::workspace::Workspace;

/// Makes the boot archive of `cargo xtask qemu`.
pub(crate) fn archive(_workspace: &Workspace) -> Result<Vec<u8>> {
    BootArchive::new()?.finish()
}
