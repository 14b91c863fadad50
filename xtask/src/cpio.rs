//! Writes cpio archives in the `newc` format (Linux, Documentation/driver-api/early-userspace/buffer-format.rst):
//! the container of Basalt's boot module and of Linux' initramfs.
//!
//! There is no reader, and no time stamps: the same input gives the same bytes.

use anyhow::{Result, ensure};

/// File type bits of a mode (POSIX `<sys/stat.h>`).
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

/// An archive being written.
#[derive(Debug, Default)]
pub(crate) struct Cpio {
    bytes: Vec<u8>,
    entries: u32,
}

impl Cpio {
    /// Starts an empty archive.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Adds a regular file with the given permissions.
    pub(crate) fn file(&mut self, name: &str, permissions: u32, content: &[u8]) -> Result<()> {
        self.entry(name, REGULAR | permissions, (0, 0), content)
    }

    /// Adds a directory; its parent must have been added before it.
    pub(crate) fn directory(&mut self, name: &str) -> Result<()> {
        self.entry(name, DIRECTORY | 0o755, (0, 0), &[])
    }

    /// Adds a symbolic link.
    pub(crate) fn symlink(&mut self, name: &str, target: &str) -> Result<()> {
        self.entry(name, SYMLINK | 0o777, (0, 0), target.as_bytes())
    }

    /// Adds a character device node.
    pub(crate) fn character_device(
        &mut self,
        name: &str,
        permissions: u32,
        major: u32,
        minor: u32,
    ) -> Result<()> {
        self.entry(name, CHARACTER_DEVICE | permissions, (major, minor), &[])
    }

    /// Ends the archive and returns its bytes.
    pub(crate) fn finish(mut self) -> Result<Vec<u8>> {
        self.entry("TRAILER!!!", 0, (0, 0), &[])?;
        Ok(self.bytes)
    }

    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), content: &[u8]) -> Result<()> {
        ensure!(
            !name.is_empty() && !name.contains('\0'),
            "{name:?} cannot name a file of an archive"
        );
        self.entries += 1;
        let size = u32::try_from(content.len())?;
        let name_size = u32::try_from(name.len() + 1)?;
        let links = if mode & DIRECTORY == 0 { 1 } else { 2 };
        self.bytes.extend_from_slice(b"070701");
        // ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
        let fields = [
            self.entries,
            mode,
            0,
            0,
            links,
            0,
            size,
            0,
            0,
            device.0,
            device.1,
            name_size,
            0,
        ];
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend_from_slice(content);
        self.align();
        Ok(())
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_names_and_bodies_are_aligned_to_four_bytes() {
        let mut archive = Cpio::new();
        archive.directory("vms").expect("a short name");
        archive
            .file("vms/a.toml", 0o644, b"12345")
            .expect("a short name");
        let bytes = archive.finish().expect("a short archive");
        let text = String::from_utf8(bytes).expect("only text was put in");
        let directory = "070701000000010000 41ed".replace(' ', "");
        assert!(text.starts_with(&directory), "{text}");
        let second = text[1..].find("070701").expect("a second entry") + 1;
        assert_eq!(second % 4, 0);
        assert_eq!(&text[second + 54..second + 62], "00000005");
        assert_eq!(&text[second + 110..second + 121], "vms/a.toml\0");
        assert!(text[second..].contains("12345\0\0\x00070701"));
        assert!(text.ends_with("TRAILER!!!\0\0\0\0"));
        assert_eq!(text.len() % 4, 0);
    }

    #[test]
    fn a_name_with_a_zero_byte_is_refused() {
        assert!(Cpio::new().file("a\0b", 0o644, b"").is_err());
    }
}
