//! Makers of small kernel files.

use alloc::vec;
use alloc::vec::Vec;

fn put(file: &mut [u8], at: usize, bytes: &[u8]) {
    file[at..at + bytes.len()].copy_from_slice(bytes);
}

/// A bzImage with one setup sector, `payload_len` bytes of kernel, protocol 2.15, preferred at 16 MiB.
pub(crate) fn bzimage(payload_len: usize, xloadflags: u16) -> Vec<u8> {
    let mut file = vec![0x90; 1024 + payload_len];
    put(&mut file, 0x1f1, &[1]);
    let paragraphs = u32::try_from(payload_len.div_ceil(16)).unwrap();
    put(&mut file, 0x1f4, &paragraphs.to_le_bytes());
    put(&mut file, 0x1fe, &[0x55, 0xaa, 0xeb, 0x6a]);
    put(&mut file, 0x202, b"HdrS");
    put(&mut file, 0x206, &0x20fu16.to_le_bytes());
    put(&mut file, 0x211, &[1]);
    put(&mut file, 0x214, &0x10_0000u32.to_le_bytes());
    put(&mut file, 0x22c, &0x7fff_ffffu32.to_le_bytes());
    put(&mut file, 0x230, &0x20_0000u32.to_le_bytes());
    put(&mut file, 0x234, &[1, 21]);
    put(&mut file, 0x236, &xloadflags.to_le_bytes());
    put(&mut file, 0x238, &255u32.to_le_bytes());
    put(&mut file, 0x258, &0x100_0000u64.to_le_bytes());
    put(&mut file, 0x260, &0x40_0000u32.to_le_bytes());
    file
}

/// A loadable segment: physical address, virtual address, bytes, size in memory.
pub(crate) type Segment<'a> = (u64, u64, &'a [u8], u64);

/// An ELF64 file with the given segments, `head` at offset 0x400, and a PVH note for `pvh`.
pub(crate) fn elf64(
    entry: u64,
    segments: &[Segment<'_>],
    head: &[u8],
    pvh: Option<u32>,
) -> Vec<u8> {
    let count = segments.len() + usize::from(pvh.is_some());
    let mut file = vec![0; 0x1000];
    put(&mut file, 0, b"\x7fELF\x02\x01\x01");
    put(&mut file, 16, &[2, 0, 62, 0, 1]);
    put(&mut file, 24, &entry.to_le_bytes());
    put(&mut file, 32, &64u64.to_le_bytes());
    put(&mut file, 52, &[64, 0, 56, 0, u8::try_from(count).unwrap()]);
    put(&mut file, 0x400, head);
    for (index, (physical, linear, data, size)) in segments.iter().enumerate() {
        let at = 64 + index * 56;
        put(&mut file, at, &[1, 0, 0, 0, 7]);
        let fields = [
            file.len() as u64,
            *linear,
            *physical,
            data.len() as u64,
            *size,
        ];
        for (field, value) in fields.iter().enumerate() {
            put(&mut file, at + 8 + field * 8, &value.to_le_bytes());
        }
        file.extend_from_slice(data);
    }
    if let Some(pvh) = pvh {
        let at = 64 + segments.len() * 56;
        put(&mut file, at, &[4]);
        put(&mut file, at + 8, &0x800u64.to_le_bytes());
        put(&mut file, at + 32, &20u64.to_le_bytes());
        put(&mut file, at + 48, &4u64.to_le_bytes());
        put(&mut file, 0x800, &[4, 0, 0, 0, 4, 0, 0, 0, 18]);
        put(&mut file, 0x80c, b"Xen\0");
        put(&mut file, 0x810, &pvh.to_le_bytes());
    }
    file
}

/// An ELF32 file with one segment whose first bytes are `head`.
pub(crate) fn elf32(entry: u32, load: u32, head: &[u8], len: u32, size: u32) -> Vec<u8> {
    let mut file = vec![0x90; 0x1000 + len as usize];
    put(&mut file, 0, b"\x7fELF\x01\x01\x01");
    put(&mut file, 16, &[2, 0, 3, 0, 1, 0, 0, 0]);
    put(&mut file, 24, &entry.to_le_bytes());
    put(&mut file, 28, &52u32.to_le_bytes());
    put(&mut file, 32, &[0; 8]);
    put(&mut file, 40, &[52, 0, 32, 0, 1, 0, 40, 0, 0, 0, 0, 0]);
    put(&mut file, 52, &1u32.to_le_bytes());
    for (index, value) in [0x1000, load, load, len, size, 7, 0x1000]
        .iter()
        .enumerate()
    {
        put(&mut file, 56 + index * 4, &value.to_le_bytes());
    }
    put(&mut file, 0x1000, head);
    file
}

/// A Multiboot1 header.
pub(crate) fn multiboot(flags: u32, addresses: &[u32]) -> Vec<u8> {
    let magic = 0x1bad_b002u32;
    let sum = 0u32.wrapping_sub(magic).wrapping_sub(flags);
    [magic, flags, sum]
        .iter()
        .chain(addresses)
        .flat_map(|w| w.to_le_bytes())
        .collect()
}
