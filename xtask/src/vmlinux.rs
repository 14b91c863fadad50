//! Takes the ELF kernel out of a bzImage, for machines on which it would take minutes to unpack itself.
//!
//! The programs that unpack come with every Debian; what they are told is in the header of the payload. The result is
//! entered by its PVH note, so a kernel without one stays as it is.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use elf::abi::PT_LOAD;

use crate::elf_image;
use crate::packages::{self, Need};

/// Fields of the setup header (Linux' boot protocol, "The Real-Mode Kernel Header").
const SETUP_SECTORS: usize = 0x1f1;
const MAGIC: usize = 0x202;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
/// Sectors of the real-mode part where the header says 0.
const SETUP_SECTORS_DEFAULT: usize = 4;
const SECTOR_SIZE: usize = 512;
/// The shortest file that has these fields.
const HEADER_SIZE: usize = 0x250;
/// Offset of `p_filesz` in a program header of ELF64.
const P_FILESZ: usize = 0x20;

/// A compression: how its streams start, and what unpacks them.
struct Packing {
    magic: &'static [u8],
    program: Need,
    command: &'static [&'static str],
}

/// Behind the stream stands the unpacked size, which is no part of it.
const PACKINGS: [Packing; 3] = [
    Packing {
        magic: b"\xfd7zXZ\0",
        program: Need::program("xz", "xz-utils"),
        command: &["xz", "--decompress", "--stdout", "--single-stream"],
    },
    Packing {
        magic: b"\x28\xb5\x2f\xfd",
        program: Need::program("zstd", "zstd"),
        command: &["zstd", "--decompress", "--stdout", "--quiet"],
    },
    Packing {
        magic: b"\x1f\x8b",
        program: Need::program("gzip", "gzip"),
        command: &["gzip", "--decompress", "--stdout", "--quiet"],
    },
];

/// Reads a kernel file; a bzImage comes back as the ELF file in it, everything else as it is.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    let file = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let Some(payload) = payload(&file) else {
        return Ok(file);
    };
    let mut vmlinux = unpack(payload).with_context(|| format!("in {}", path.display()))?;
    shorten(&mut vmlinux).with_context(|| format!("in what {} unpacks to", path.display()))?;
    Ok(vmlinux)
}

/// The compressed kernel in a bzImage; `None` when the file is none, or damaged, which is Basalt's to say.
fn payload(file: &[u8]) -> Option<&[u8]> {
    if file.len() < HEADER_SIZE || &file[MAGIC..MAGIC + 4] != b"HdrS" {
        return None;
    }
    let field = |at: usize| {
        let bytes = file.get(at..)?.first_chunk()?;
        usize::try_from(u32::from_le_bytes(*bytes)).ok()
    };
    let sectors = match usize::from(file[SETUP_SECTORS]) {
        0 => SETUP_SECTORS_DEFAULT,
        count => count,
    };
    let start = (sectors + 1) * SECTOR_SIZE + field(PAYLOAD_OFFSET)?;
    file.get(start..start + field(PAYLOAD_LENGTH)?)
}

fn unpack(payload: &[u8]) -> Result<Vec<u8>> {
    let packing = PACKINGS
        .iter()
        .find(|packing| payload.starts_with(packing.magic))
        .context("the kernel is packed in a way that is not known here")?;
    packages::ensure_installed(&[packing.program])?;
    let [program, arguments @ ..] = packing.command else {
        bail!("a command has a program");
    };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {program}"))?;
    let (Some(mut input), Some(mut output)) = (child.stdin.take(), child.stdout.take()) else {
        bail!("{program} has no pipes");
    };
    let payload = payload.to_vec();
    // The program may stop reading where the stream ends.
    let feeder = thread::spawn(move || drop(input.write_all(&payload)));
    let mut unpacked = Vec::new();
    io::copy(&mut output, &mut unpacked).with_context(|| format!("cannot read from {program}"))?;
    child.wait()?;
    let _ = feeder.join();
    // Its status says nothing: what stands behind the stream is an error to some of them.
    ensure!(
        unpacked.starts_with(b"\x7fELF"),
        "{program} found no ELF file"
    );
    Ok(unpacked)
}

/// Takes away what only makes the file long: all that no program header names (section headers, relocations), and the
/// zeros that segments end with, as RAM is zero anyway.
fn shorten(file: &mut Vec<u8>) -> Result<()> {
    let (headers, segments): (usize, Vec<_>) = {
        let elf = elf_image::parse(file)?;
        let segments = elf.segments().context("it has no program headers")?;
        (elf.ehdr.e_phoff.try_into()?, segments.iter().collect())
    };
    let mut end = headers + segments.len() * elf_image::ELF64_SEGMENT_SIZE;
    for (index, segment) in segments.iter().enumerate() {
        let start = usize::try_from(segment.p_offset)?;
        let size = usize::try_from(segment.p_filesz)?;
        let content = file
            .get(start..start.saturating_add(size))
            .context("a segment lies outside of the file")?;
        let mut left = size;
        if segment.p_type == PT_LOAD {
            let last = content.iter().rposition(|byte| *byte != 0);
            left = last.map_or(0, |at| at + 1);
            let at = headers + index * elf_image::ELF64_SEGMENT_SIZE + P_FILESZ;
            file[at..at + 8].copy_from_slice(&(left as u64).to_le_bytes());
        }
        end = end.max(start + left);
    }
    file.truncate(end);
    elf_image::forget_sections(file);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A bzImage's frame around a payload.
    fn bz_image(payload: &[u8]) -> Vec<u8> {
        let mut file = vec![0; 3 * SECTOR_SIZE];
        file[SETUP_SECTORS] = 1;
        file[MAGIC..MAGIC + 4].copy_from_slice(b"HdrS");
        file[PAYLOAD_OFFSET..PAYLOAD_OFFSET + 4].copy_from_slice(&512_u32.to_le_bytes());
        let length = u32::try_from(payload.len()).expect("a small payload");
        file[PAYLOAD_LENGTH..PAYLOAD_LENGTH + 4].copy_from_slice(&length.to_le_bytes());
        file.extend_from_slice(payload);
        file
    }

    fn segment(file: &[u8], index: usize) -> (u64, u64) {
        let elf = elf_image::parse(file).expect("an ELF file");
        let segments = elf.segments().expect("program headers");
        let segment = segments.get(index).expect("that many");
        (segment.p_filesz, segment.p_memsz)
    }

    #[test]
    fn the_payload_is_where_the_header_says_or_nowhere() {
        let file = bz_image(b"payload");
        assert_eq!(payload(&file), Some(&b"payload"[..]));
        assert_eq!(payload(&file[..file.len() - 1]), None);
        assert_eq!(payload(b"\x7fELF"), None);
        for size in 0..file.len() {
            assert_eq!(payload(&file[..size]), None, "{size}");
        }
    }

    #[test]
    fn an_unpacked_kernel_keeps_what_is_loaded() {
        let own = fs::read("/proc/self/exe").expect("a test is a file");
        let mut with_tail = own.clone();
        with_tail.extend_from_slice(&[0xaa; 100]);
        let mut pack = Command::new("gzip")
            .args(["--fast", "--stdout"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("every Debian has gzip");
        let mut input = pack.stdin.take().expect("it was asked for");
        let feeder = thread::spawn(move || input.write_all(&with_tail));
        let mut packed = pack.wait_with_output().expect("it runs").stdout;
        feeder.join().expect("no panic").expect("gzip reads all");
        packed.extend_from_slice(&[0, 0, 0, 1]);
        let image = bz_image(&packed);
        let mut unpacked = unpack(payload(&image).expect("a payload")).expect("it unpacks");
        assert_eq!(&unpacked[..own.len()], &own[..]);
        shorten(&mut unpacked).expect("a good file");
        assert!(unpacked.len() <= own.len());
        let count = elf_image::parse(&own).expect("an ELF file").ehdr.e_phnum;
        for index in 0..usize::from(count) {
            let (before, after) = (segment(&own, index), segment(&unpacked, index));
            assert!(after.0 <= before.0 && after.1 == before.1);
        }
    }
}
