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
/// A longer name is cut to its end in any case; it must fit its length byte.
const NAME_SIZE_MAX: usize = 72;
/// Magic, count and size of the name area.
const FIXED_SIZE: usize = 12;
/// One pair of the index.
const ENTRY_SIZE: usize = 8;

/// A symbol table ready to be written.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Table {
    /// The bytes; at most as many as `encode` was told.
    pub(crate) bytes: Vec<u8>,
    /// How many bytes of a name it has at most: the last ones.
    pub(crate) name_size: usize,
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
        let name = without_impls(&format!("{:#}", rustc_demangle::demangle(mangled)));
        // Identical functions are folded by the linker; the first name in order keeps the result reproducible.
        let kept = found.entry(start).or_insert_with(|| name.clone());
        if name < *kept {
            *kept = name;
        }
    }
    Ok(found)
}

/// Encodes all functions in at most `capacity` bytes, with as much of their names as there is room for. `None` when the
/// index alone is larger. A function without an entry would be taken for the one before it.
pub(crate) fn encode(functions: &BTreeMap<u32, String>, capacity: usize) -> Option<Table> {
    (0..=NAME_SIZE_MAX).rev().find_map(|name_size| {
        let cut: Vec<(u32, &str)> = functions
            .iter()
            .map(|(start, name)| (*start, tail(name, name_size)))
            .collect();
        (encoded_size(&cut) <= capacity).then(|| Table {
            bytes: write(&cut),
            name_size,
        })
    })
}

fn write(functions: &[(u32, &str)]) -> Vec<u8> {
    let mut areas = Vec::new();
    let mut offsets = HashMap::new();
    let mut bytes = Vec::new();
    bytes.extend(MAGIC.to_le_bytes());
    bytes.extend(as_u32(functions.len()).to_le_bytes());
    for (start, name) in functions {
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
    bytes
}

/// Size of the encoded table; equal names are stored once.
fn encoded_size(functions: &[(u32, &str)]) -> usize {
    let mut names: Vec<&str> = functions.iter().map(|(_, name)| *name).collect();
    names.sort_unstable();
    names.dedup();
    let area: usize = names.iter().map(|name| 1 + name.len()).sum();
    FIXED_SIZE + functions.len() * ENTRY_SIZE + area
}

/// Returns the last `size` bytes of a name, or a little less: a path tells most at its end.
fn tail(name: &str, size: usize) -> &str {
    let mut start = name.len().saturating_sub(size);
    while !name.is_char_boundary(start) {
        start += 1;
    }
    &name[start..]
}

/// Removes every `<impl ..>::` of a path, whose module says as much; brackets nest, and the `>` of an arrow closes none.
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
        let table = encode(&sample(), 1000).unwrap();
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
                name_size: NAME_SIZE_MAX
            }
        );
    }

    #[test]
    fn all_functions_have_an_entry_however_short_their_names() {
        let whole = encode(&sample(), 1000).unwrap().bytes.len();
        let table = encode(&sample(), whole - 1).unwrap();
        assert_eq!(table.name_size, 12);
        assert!(table.bytes.ends_with(b"\x0c_longer_name\x04beta"));
        assert_eq!(table.bytes.len(), whole - 1);
        let least = FIXED_SIZE + 3 * ENTRY_SIZE + 1;
        assert_eq!(encode(&sample(), least).unwrap().name_size, 0);
        assert_eq!(encode(&sample(), least - 1), None);
    }

    #[test]
    fn a_path_goes_without_the_types_of_its_impls() {
        let name = "vm::exits::<impl vm::Vcpu<fn(A) -> B>>::halt::{{closure}}";
        assert_eq!(without_impls(name), "vm::exits::halt::{{closure}}");
        assert_eq!(
            without_impls("<&T as core::Debug>::fmt"),
            "<&T as core::Debug>::fmt"
        );
        assert_eq!(without_impls("a::<impl broken"), "a::<impl broken");
    }

    #[test]
    fn a_name_is_cut_between_characters() {
        let name = "é".repeat(100);
        assert_eq!(tail(&name, 72).len(), 72);
        assert_eq!(tail(&format!("{name}x"), 72).len(), 71);
        assert_eq!(tail("short", 72), "short");
    }
}
