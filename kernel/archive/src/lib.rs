//! The boot archive: a cpio file in the "newc" format, read in place. Only regular files count; links and devices are
//! skipped, and reading ends at the first damaged header.
#![no_std]
#![forbid(unsafe_code)]
#![deny(clippy::expect_used)]
#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

const HEADER_LEN: usize = 110;
const MAGIC: &[u8] = b"070701";
const TRAILER: &str = "TRAILER!!!";
const MODE_TYPE: usize = 0o170_000;
const MODE_REGULAR: usize = 0o100_000;

/// An archive in memory.
#[derive(Clone, Copy, Debug)]
pub struct Archive<'a> {
    bytes: &'a [u8],
}

/// One regular file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct File<'a> {
    /// Path as stored, without a leading "./" or "/".
    pub name: &'a str,
    /// Content.
    pub data: &'a [u8],
}

impl<'a> Archive<'a> {
    /// Wraps the bytes of an archive; what is none yields no files.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// Yields the regular files in order.
    pub fn files(self) -> impl Iterator<Item = File<'a>> {
        let mut offset = 0;
        core::iter::from_fn(move || {
            loop {
                let entry = Entry::at(self.bytes, offset)?;
                offset = entry.next;
                if entry.name == TRAILER {
                    return None;
                }
                if entry.mode & MODE_TYPE == MODE_REGULAR {
                    let name = entry.name.trim_start_matches("./").trim_start_matches('/');
                    return Some(File {
                        name,
                        data: entry.data,
                    });
                }
            }
        })
    }

    /// Returns the content of the file `name`.
    #[must_use]
    pub fn find(self, name: &str) -> Option<&'a [u8]> {
        self.files().find(|f| f.name == name).map(|f| f.data)
    }
}

struct Entry<'a> {
    name: &'a str,
    data: &'a [u8],
    mode: usize,
    next: usize,
}

impl<'a> Entry<'a> {
    fn at(bytes: &'a [u8], offset: usize) -> Option<Self> {
        let header = bytes.get(offset..offset.checked_add(HEADER_LEN)?)?;
        if !header.starts_with(MAGIC) {
            return None;
        }
        let (mode, size, name_size) = (hex(header, 14)?, hex(header, 54)?, hex(header, 94)?);
        let name_start = offset.checked_add(HEADER_LEN)?;
        let name_end = name_start.checked_add(name_size)?;
        let name = core::str::from_utf8(bytes.get(name_start..name_end.checked_sub(1)?)?).ok()?;
        let data_start = name_end.checked_next_multiple_of(4)?;
        let data_end = data_start.checked_add(size)?;
        let data = bytes.get(data_start..data_end)?;
        Some(Self {
            name,
            data,
            mode,
            next: data_end.checked_next_multiple_of(4)?,
        })
    }
}

/// Reads the 8 hexadecimal digits at `offset`.
fn hex(header: &[u8], offset: usize) -> Option<usize> {
    let digits = core::str::from_utf8(header.get(offset..offset.checked_add(8)?)?).ok()?;
    usize::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::Archive;
    extern crate std;
    use std::format;
    use std::vec::Vec;

    fn push(out: &mut Vec<u8>, name: &str, mode: u32, data: &[u8]) {
        let z = "00000000";
        let (size, name_size) = (data.len(), name.len() + 1);
        out.extend(
            format!(
                "070701{z}{mode:08x}{z}{z}{z}{z}{size:08x}{z}{z}{z}{z}{name_size:08x}{z}{name}\0"
            )
            .bytes(),
        );
        out.resize(out.len().next_multiple_of(4), 0);
        out.extend(data);
        out.resize(out.len().next_multiple_of(4), 0);
    }

    fn sample() -> Vec<u8> {
        let mut bytes = Vec::new();
        push(&mut bytes, "vms", 0o040_755, b"");
        push(&mut bytes, "./vms/a.toml", 0o100_644, b"name");
        push(&mut bytes, "images/k", 0o100_644, &[7; 33]);
        push(&mut bytes, "TRAILER!!!", 0, b"");
        bytes
    }

    #[test]
    fn files_are_found_by_name_and_directories_skipped() {
        let bytes = sample();
        let archive = Archive::new(&bytes);
        assert_eq!(archive.files().count(), 2);
        assert_eq!(archive.find("vms/a.toml"), Some(&b"name"[..]));
        assert_eq!(archive.find("images/k").map(<[u8]>::len), Some(33));
        assert_eq!(archive.find("vms"), None);
    }

    #[test]
    fn damage_ends_the_list_and_never_panics() {
        let good = sample();
        let mut seed = 1_u64;
        for _ in 0..100_000 {
            seed = seed
                .wrapping_mul(0x5851_f42d_4c95_7f2d)
                .wrapping_add(0x1405_7b7e_f767_814f);
            let mut bytes = good.clone();
            let at = (seed >> 33) as usize % bytes.len();
            bytes[at] = (seed >> 24) as u8;
            bytes.truncate(1 + (seed >> 40) as usize % bytes.len());
            assert!(Archive::new(&bytes).files().count() <= 3);
        }
    }
}
