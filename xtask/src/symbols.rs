//! The table of function names that the kernel's backtrace reads, as bytes for its section `.basalt.symbols`.
//!
//! Layout, all numbers little endian: u32 magic, u32 count, then `count` pairs (u32 start, u32 name) sorted by start,
//! u32 size of the name area, then the names, each one length byte and its text. A start is an offset from
//! [`KERNEL_BASE`], a name an offset into the name area. Line numbers are left to a debugger and basalt.debug.elf.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context, Result};
use elf::abi::{SHF_EXECINSTR, STB_LOCAL, STT_FUNC, STT_NOTYPE};

use crate::elf_image;

/// Where the kernel's section of symbols is.
pub(crate) const SECTION: &str = ".basalt.symbols";
/// The address that starts are relative to: the kernel is linked at -2 GiB.
pub(crate) const KERNEL_BASE: u64 = 0xffff_ffff_8000_0000;
/// "BSYM" in memory order.
const MAGIC: u32 = 0x4d59_5342;
/// A longer name is cut here; it must fit its length byte.
const NAME_SIZE_MAX: usize = 72;
/// Magic, count and size of the name area.
const FIXED_SIZE: usize = 12;
/// One pair of the index.
const ENTRY_SIZE: usize = 8;

/// A symbol table ready to be written, and what had to be left out.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Table {
    /// The bytes; at most as many as `encode` was told.
    pub(crate) bytes: Vec<u8>,
    /// How many functions there are.
    pub(crate) found: usize,
    /// How many of them did not fit.
    pub(crate) dropped: usize,
}

/// Functions of the image by address, one demangled name each.
pub(crate) fn functions(file: &[u8]) -> Result<BTreeMap<u32, String>> {
    let elf = elf_image::parse(file)?;
    let sections = elf_image::sections(&elf)?;
    let (symbols, names) = elf
        .symbol_table()
        .context("broken symbol table")?
        .context("the image has no symbols")?;
    let mut found = BTreeMap::new();
    for symbol in symbols.iter() {
        let in_code = sections
            .get(usize::from(symbol.st_shndx))
            .is_some_and(|(_, section)| section.sh_flags & u64::from(SHF_EXECINSTR) != 0);
        // Labels of assembly have no type unless it is declared; the local ones are only jump targets.
        let named = symbol.st_symtype() == STT_FUNC
            || (symbol.st_symtype() == STT_NOTYPE && symbol.st_bind() != STB_LOCAL);
        let Some(start) = symbol
            .st_value
            .checked_sub(KERNEL_BASE)
            .and_then(|start| u32::try_from(start).ok())
        else {
            continue;
        };
        if !in_code || !named {
            continue;
        }
        let mangled = names
            .get(symbol.st_name as usize)
            .context("a symbol's name is broken")?;
        let name = shorten(&format!("{:#}", rustc_demangle::demangle(mangled)));
        // Identical functions are folded by the linker; the first name in order keeps the result reproducible.
        let kept = found.entry(start).or_insert_with(|| name.clone());
        if name < *kept {
            *kept = name;
        }
    }
    Ok(found)
}

/// Encodes as many of the functions as `capacity` bytes hold. The longest names go first: those are generic
/// instances, whose callers in a backtrace say as much.
pub(crate) fn encode(functions: &BTreeMap<u32, String>, capacity: usize) -> Table {
    let mut kept: Vec<(u32, &str)> = functions
        .iter()
        .map(|(start, name)| (*start, name.as_str()))
        .collect();
    kept.sort_by_key(|(start, name)| (name.len(), *start));
    while encoded_size(&kept) > capacity && kept.pop().is_some() {}
    kept.sort_unstable();
    let mut areas = Vec::new();
    let mut offsets = HashMap::new();
    let mut bytes = Vec::new();
    bytes.extend(MAGIC.to_le_bytes());
    bytes.extend(as_u32(kept.len()).to_le_bytes());
    for (start, name) in &kept {
        let offset = *offsets.entry(*name).or_insert_with(|| {
            let offset = as_u32(areas.len());
            areas.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
            areas.extend_from_slice(name.as_bytes());
            offset
        });
        bytes.extend(start.to_le_bytes());
        bytes.extend(offset.to_le_bytes());
    }
    bytes.extend(as_u32(areas.len()).to_le_bytes());
    bytes.extend(areas);
    let dropped = functions.len() - kept.len();
    Table {
        bytes,
        found: functions.len(),
        dropped,
    }
}

/// Size of the encoded table; equal names are stored once.
fn encoded_size(functions: &[(u32, &str)]) -> usize {
    let mut names: Vec<&str> = functions.iter().map(|(_, name)| *name).collect();
    names.sort_unstable();
    names.dedup();
    let area: usize = names.iter().map(|name| 1 + name.len()).sum();
    FIXED_SIZE + functions.len() * ENTRY_SIZE + area
}

/// Leaves out the types of `<impl ..>::` inside a path, whose module says as much, then cuts at a character boundary.
fn shorten(name: &str) -> String {
    let name = &without_impls(name);
    let mut end = name.len().min(NAME_SIZE_MAX);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    name[..end].to_owned()
}

/// Removes every `<impl ..>::`; brackets nest, and the `>` of an arrow closes none.
fn without_impls(name: &str) -> String {
    let Some((before, inside)) = name.split_once("<impl ") else {
        return name.to_owned();
    };
    let mut depth = 1;
    let mut last = ' ';
    for (index, character) in inside.char_indices() {
        match character {
            '<' => depth += 1,
            '>' if last != '-' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            let rest = &inside[index + 1..];
            let rest = rest.strip_prefix("::").unwrap_or(rest);
            return format!("{before}{}", without_impls(rest));
        }
        last = character;
    }
    name.to_owned()
}

/// The image is smaller than 4 GiB by far, and so is every count in it.
fn as_u32(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> BTreeMap<u32, String> {
        BTreeMap::from([
            (0x30, "beta".to_owned()),
            (0x10, "a_longer_name".to_owned()),
            (0x20, "beta".to_owned()),
        ])
    }

    #[test]
    fn a_table_is_sorted_and_shares_equal_names() {
        let table = encode(&sample(), 1000);
        let expected: Vec<u8> = [
            &b"BSYM"[..],
            &3u32.to_le_bytes(),
            &[0x10, 0, 0, 0, 0, 0, 0, 0],
            &[0x20, 0, 0, 0, 14, 0, 0, 0],
            &[0x30, 0, 0, 0, 14, 0, 0, 0],
            &19u32.to_le_bytes(),
            b"\x0da_longer_name\x04beta",
        ]
        .concat();
        assert_eq!(
            table,
            Table {
                bytes: expected,
                found: 3,
                dropped: 0
            }
        );
    }

    #[test]
    fn the_longest_name_goes_first_when_space_is_short() {
        let whole = encode(&sample(), 1000).bytes.len();
        let table = encode(&sample(), whole - 1);
        assert_eq!((table.found, table.dropped), (3, 1));
        assert!(table.bytes.ends_with(b"\x04beta"));
        assert!(table.bytes.len() < whole);
    }

    #[test]
    fn an_empty_table_still_has_its_fixed_part() {
        assert_eq!(
            encode(&sample(), FIXED_SIZE).bytes,
            [&b"BSYM"[..], &[0; 8]].concat()
        );
    }

    #[test]
    fn a_path_goes_without_the_types_of_its_impls() {
        let name = "vm::exits::<impl vm::Vcpu<fn(A) -> B>>::halt::{{closure}}";
        assert_eq!(shorten(name), "vm::exits::halt::{{closure}}");
        assert_eq!(
            shorten("<&T as core::Debug>::fmt"),
            "<&T as core::Debug>::fmt"
        );
        assert_eq!(shorten("a::<impl broken"), "a::<impl broken");
    }

    #[test]
    fn a_name_is_cut_between_characters() {
        let name = "é".repeat(100);
        assert_eq!(shorten(&name).len(), 72);
        assert_eq!(shorten(&format!("x{name}")).len(), 71);
    }
}
