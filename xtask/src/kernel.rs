//! Builds the kernel image: cargo with the kernel's own flags, then the symbol table, then a copy without debug data.
//!
//! It does not make a bootable medium; GRUB's images are made from the file that this leaves.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::time::SystemTime;

use anyhow::{Context, Result};

use crate::elf_image;
use crate::symbols;
use crate::workspace::{Workspace, say, write_atomically};

/// The kernel's flags, relative to the root.
pub(crate) const FLAGS: &str = "kernel/basalt/kernel.toml";

/// Shorter names of functions do not tell much in a backtrace.
const NAME_SIZE_MIN: usize = 28;

/// Builds `target/basalt.elf` and `target/basalt.debug.elf`; returns the former.
pub(crate) fn build(workspace: &Workspace) -> Result<PathBuf> {
    let linked = link(workspace)?;
    let image = workspace.basalt_elf();
    let outputs = [image.clone(), workspace.basalt_debug_elf()];
    // A changed xtask may write them differently.
    let inputs = [
        linked.clone(),
        env::current_exe().context("cannot find xtask itself")?,
    ];
    if outputs.iter().map(modified).min() > inputs.iter().map(modified).max() {
        return Ok(image);
    }
    let mut file =
        fs::read(&linked).with_context(|| format!("cannot read {}", linked.display()))?;
    add_symbols(&mut file)?;
    write_atomically(&workspace.basalt_debug_elf(), &file)?;
    write_atomically(&image, &elf_image::without_debug_data(&file)?)?;
    Ok(image)
}

/// When a file was written last; `None`, which is before any time, if it is not there.
fn modified(path: &PathBuf) -> Option<SystemTime> {
    fs::metadata(path).and_then(|data| data.modified()).ok()
}

/// Runs cargo; returns the file that the linker made.
fn link(workspace: &Workspace) -> Result<PathBuf> {
    let directory = workspace.build_freestanding("basalt", FLAGS, "kernel")?;
    Ok(directory.join("basalt"))
}

/// Fills the section that the kernel reserved for function names.
fn add_symbols(file: &mut [u8]) -> Result<()> {
    let Some(section) = elf_image::find_section(&elf_image::parse(file)?, symbols::SECTION)? else {
        say(&format!(
            "the kernel has no section {}: backtraces will show addresses",
            symbols::SECTION
        ));
        return Ok(());
    };
    let table = symbols::encode(
        &symbols::functions(file)?,
        usize::try_from(section.sh_size)?,
    )
    .context("the index of functions alone is larger than its section")?;
    if table.name_size < NAME_SIZE_MIN {
        say(&format!(
            "names of functions are cut to {} characters, to fit {} bytes of {}",
            table.name_size,
            section.sh_size,
            symbols::SECTION
        ));
    }
    elf_image::overwrite_section(file, symbols::SECTION, &table.bytes)
}
