//! `cargo xtask size`: what the image's bytes are for, by section and by crate.
//!
//! It weighs the file that is booted. RAM in use is another matter; `host memory` tells that.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result};
use elf::abi::{SHF_ALLOC, SHT_NOBITS};

use crate::elf_image;
use crate::kernel;
use crate::workspace::Workspace;

/// What the image may weigh, in bytes.
pub(crate) const LIMIT: u64 = 2 << 20;
/// Crates that are listed; the rest are one line.
const CRATES_SHOWN: usize = 24;

/// Builds the image and prints both tables.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let image = kernel::build(workspace)?;
    let bytes = fs::metadata(&image).context("the image is gone")?.len();
    let debug = fs::read(workspace.basalt_debug_elf()).context("cannot read the image")?;
    let elf = elf_image::parse(&debug)?;
    println!("{:>10}  section", "bytes");
    for (name, section) in elf_image::sections(&elf)? {
        if section.sh_flags & u64::from(SHF_ALLOC) != 0 {
            let note = if section.sh_type == SHT_NOBITS {
                " (not in the file)"
            } else {
                ""
            };
            println!("{:10}  {name}{note}", section.sh_size);
        }
    }
    println!("\n{:>10}  crate (its functions and data)", "bytes");
    let mut crates: Vec<(String, u64)> = by_crate(&debug)?.into_iter().collect();
    crates.sort_by_key(|(name, size)| (std::cmp::Reverse(*size), name.clone()));
    let rest: u64 = crates.iter().skip(CRATES_SHOWN).map(|(_, size)| size).sum();
    for (name, size) in crates.iter().take(CRATES_SHOWN) {
        println!("{size:10}  {name}");
    }
    if rest != 0 {
        println!("{rest:10}  others");
    }
    let share = bytes * 1000 / LIMIT;
    println!(
        "\n{bytes:10}  {}, {}.{} % of {LIMIT}",
        image.display(),
        share / 10,
        share % 10
    );
    Ok(())
}

/// Sizes of all symbols that are in the file, summed by the crate that they come from.
fn by_crate(file: &[u8]) -> Result<BTreeMap<String, u64>> {
    let elf = elf_image::parse(file)?;
    let sections = elf_image::sections(&elf)?;
    let (symbols, names) = elf
        .symbol_table()
        .context("broken symbol table")?
        .context("the image has no symbols")?;
    // Several names of one address are one thing.
    let mut things = BTreeMap::new();
    for symbol in symbols.iter() {
        let in_file = sections
            .get(usize::from(symbol.st_shndx))
            .is_some_and(|(_, section)| section.sh_type != SHT_NOBITS);
        if in_file && symbol.st_size != 0 {
            let name = names
                .get(symbol.st_name as usize)
                .context("a symbol's name is broken")?;
            things.insert(symbol.st_value, (symbol.st_size, name));
        }
    }
    let mut crates = BTreeMap::new();
    for (size, name) in things.into_values() {
        let name = format!("{:#}", rustc_demangle::demangle(name));
        *crates.entry(crate_of(&name).to_owned()).or_default() += size;
    }
    Ok(crates)
}

/// The crate at the head of a demangled path: of the type, for a method of a trait.
fn crate_of(name: &str) -> &str {
    let start = name.trim_start_matches(['<', '&', '*', '[', '(']);
    let start = ["mut ", "const ", "dyn "]
        .iter()
        .fold(start, |rest, word| rest.strip_prefix(word).unwrap_or(rest));
    match start.find("::") {
        Some(end)
            if start[..end]
                .chars()
                .all(|c| c.is_alphanumeric() || c == '_') =>
        {
            &start[..end]
        }
        _ => "(assembly, primitives and literals)",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_begins_with_its_crate() {
        assert_eq!(crate_of("mem::allocator::new"), "mem");
        assert_eq!(crate_of("<mem::Stats as core::fmt::Debug>::fmt"), "mem");
        assert_eq!(
            crate_of("<&mut toml::Value as core::fmt::Debug>::fmt"),
            "toml"
        );
        assert!(crate_of("memcpy").starts_with('('));
        assert!(crate_of("<u8 as core::fmt::Debug>::fmt").starts_with('('));
    }
}
