//! Builds the tiny guests of tests/guests.
//!
//! What is done with them is up to the callers: they are ordinary Multiboot1 files.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::elf_image;
use crate::workspace::{Workspace, write_atomically};

/// The guests' flags, relative to the root.
pub(crate) const FLAGS: &str = "tests/guests/guests.toml";
/// Every guest, in the order of Cargo.toml.
const NAMES: [&str; 6] = ["demo", "exits", "rogue", "fuzz", "count", "compute"];

/// Where a built guest is.
pub(crate) fn path(workspace: &Workspace, name: &str) -> PathBuf {
    workspace.guests().join(format!("{name}.elf"))
}

/// Builds all of them; returns the files.
pub(crate) fn build(workspace: &Workspace) -> Result<Vec<PathBuf>> {
    let directory = workspace.build_freestanding("guests", FLAGS, "guests-build")?;
    let mut files = Vec::new();
    for name in NAMES {
        let linked = directory.join(name);
        let file =
            fs::read(&linked).with_context(|| format!("cannot read {}", linked.display()))?;
        let wrapped =
            elf_image::as_elf32(&file).with_context(|| format!("in {}", linked.display()))?;
        let path = path(workspace, name);
        write_atomically(&path, &wrapped)?;
        files.push(path);
    }
    Ok(files)
}
