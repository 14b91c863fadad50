//! Mutated kernels of every format: whatever the bytes, the answer is a guest or an error.

use super::files::{bzimage, elf32, elf64, multiboot};
use super::request;
use crate::arena::Arena;
use crate::error::LoadError;
use crate::{Guest, Module, Request, load_kernel};
use addr::Gpa;
use alloc::vec::Vec;
use api::memory::{GuestMemory, MemoryError};

/// Checks that all accesses are inside RAM, and keeps nothing.
struct Sink(u64);

impl GuestMemory for Sink {
    fn read(&self, _gpa: Gpa, _buf: &mut [u8]) -> Result<(), MemoryError> {
        unreachable!("the loader reads nothing back")
    }

    fn write(&self, gpa: Gpa, data: &[u8]) -> Result<(), MemoryError> {
        assert!(gpa.as_u64() + data.len() as u64 <= self.0);
        Ok(())
    }

    fn fill_zero(&self, gpa: Gpa, len: u64) -> Result<(), MemoryError> {
        assert!(gpa.as_u64() + len <= self.0);
        Ok(())
    }
}

/// Loads the kernel only: the firmware tables do not depend on the files.
fn try_load(request: &Request<'_>) -> Result<(), LoadError> {
    let ram = request.machine.ram;
    let memory = Sink(ram.low_end());
    let guest = Guest { rsdp: 0xf_0000 };
    load_kernel(&mut Arena::new(&memory, ram), &guest, request).map(|_| ())
}

struct Random(u64);

impl Random {
    /// SplitMix64.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap()
    }

    /// A value that headers do not expect.
    fn edge(&mut self) -> u64 {
        let bit = 1u64 << self.below(64);
        match self.below(6) {
            0 => 0,
            1 => u64::MAX,
            2 => bit,
            3 => bit.wrapping_sub(1),
            4 => 0u64.wrapping_sub(bit),
            _ => self.next(),
        }
    }
}

/// Offset and length of a part of a file.
type Span = (usize, usize);

fn mutate(random: &mut Random, file: &mut Vec<u8>, hot: &[Span]) {
    for _ in 0..=random.below(3) {
        let (start, len) = hot[random.below(hot.len())];
        let at = start + random.below(len);
        let width = 1 << random.below(4);
        let value = random.edge().to_le_bytes();
        for (to, from) in file.iter_mut().skip(at).zip(&value[..width]) {
            *to = *from;
        }
    }
    if random.below(8) == 0 {
        file.truncate(random.below(file.len()));
    }
}

#[test]
fn mutated_files_never_panic() {
    let code = [0xf4; 64];
    let header = multiboot(0, &[]);
    let flat = multiboot(0x1_0003, &[0x10_0000, 0x10_0000, 0, 0x10_1000, 0x10_0020]);
    let headers = (0x1f1, 0x7b);
    let elf = (0, 0x100);
    let seeds: [(Vec<u8>, &[Span]); 6] = [
        (bzimage(64, 1), &[headers]),
        (bzimage(64, 0), &[headers]),
        (
            elf64(
                0x10_0000,
                &[(0x10_0000, !0 << 31, &code, 0x5000)],
                &[],
                Some(0x10_0000),
            ),
            &[elf, (0x800, 0x14)],
        ),
        (
            elf64(
                0x10_0000,
                &[(0x10_0000, !0 << 31, &code, 0x5000)],
                &[],
                None,
            ),
            &[elf],
        ),
        (
            elf32(0x10_0000, 0x10_0000, &header, 0x100, 0x1000),
            &[elf, (0x1000, 0x10)],
        ),
        (flat, &[(0, 32)]),
    ];
    let modules = [Module {
        command_line: "m",
        data: b"data",
    }];
    let mut random = Random(0x0ba5_a170);
    let mut accepted = 0;
    for round in 0..120_000 {
        let (seed, hot) = &seeds[round % seeds.len()];
        let mut file = seed.clone();
        mutate(&mut random, &mut file, hot);
        let mut request = Request {
            initrd: Some(b"initrd"),
            ..request(&file)
        };
        if round % 5 == 0 {
            request.modules = &modules;
        }
        accepted += usize::from(try_load(&request).is_ok());
    }
    assert!(accepted > 10_000, "only {accepted} files were still good");
}

#[test]
fn random_bytes_never_panic() {
    let mut random = Random(1);
    for _ in 0..20_000 {
        let len = random.below(1200);
        let mut file: Vec<u8> = (0..len).map(|_| random.next().to_le_bytes()[0]).collect();
        if random.below(2) == 0 && len > 4 {
            file[..4].copy_from_slice(b"\x7fELF");
        }
        let request = request(&file);
        assert!(try_load(&request).is_err());
    }
}
