//! The loadable part of an ELF file. Sections, symbols and relocations are ignored.

use crate::arena::Arena;
use crate::error::LoadError;
use alloc::vec::Vec;
use elf::ElfBytes;
use elf::abi::{EM_386, EM_X86_64, ET_EXEC, PT_INTERP, PT_LOAD, PT_NOTE};
use elf::endian::LittleEndian;
use elf::file::Class;
use elf::note::Note;
use elf::parse::ParseError;
use elf::segment::ProgramHeader;

/// Name of the notes that Xen defines, with its terminator.
const XEN_NOTE_NAME: &[u8] = b"Xen\0";
/// `XEN_ELFNOTE_PHYS32_ENTRY`: the 32-bit PVH entry point (Xen's `elfnote.h`).
const XEN_NOTE_PHYS32_ENTRY: u64 = 18;
/// More loadable segments than any kernel has.
const SEGMENTS_MAX: usize = 64;
/// More notes than any kernel has.
const NOTES_MAX: usize = 256;
/// Where the upper half of the canonical address space begins.
const HIGHER_HALF: u64 = 1 << 63;

/// One loadable segment.
#[derive(Clone, Copy, Debug)]
struct LoadSegment<'a> {
    virtual_start: u64,
    start: u64,
    size: u64,
    data: &'a [u8],
}

/// An ELF executable for x86.
#[derive(Debug)]
pub(crate) struct ElfImage<'a> {
    pub(crate) is_64_bit: bool,
    /// Entry point as a physical address.
    pub(crate) entry: u64,
    /// 32-bit entry point of a PVH kernel.
    pub(crate) pvh_entry: Option<u32>,
    segments: Vec<LoadSegment<'a>>,
}

impl<'a> ElfImage<'a> {
    /// Parses the file.
    pub(crate) fn parse(file: &'a [u8]) -> Result<Self, LoadError> {
        let elf = ElfBytes::<LittleEndian>::minimal_parse(file).map_err(damaged)?;
        let (machine, kind) = (elf.ehdr.e_machine, elf.ehdr.e_type);
        if !matches!(machine, EM_386 | EM_X86_64) || kind != ET_EXEC {
            return Err(LoadError::ForeignElf { machine, kind });
        }
        let mut image = Self {
            is_64_bit: elf.ehdr.class == Class::ELF64,
            entry: elf.ehdr.e_entry,
            pvh_entry: None,
            segments: Vec::new(),
        };
        for header in elf.segments().into_iter().flatten() {
            match header.p_type {
                PT_LOAD => image.add_segment(&elf, &header)?,
                PT_NOTE => image.read_notes(&elf, &header)?,
                // A program that wants a dynamic linker is a user program.
                PT_INTERP => return Err(LoadError::ForeignElf { machine, kind }),
                _ => {}
            }
        }
        image.entry = image.physical_entry();
        Ok(image)
    }

    fn add_segment(
        &mut self,
        elf: &ElfBytes<'a, LittleEndian>,
        header: &ProgramHeader,
    ) -> Result<(), LoadError> {
        if header.p_memsz == 0 {
            return Ok(());
        }
        if self.segments.len() == SEGMENTS_MAX {
            return Err(LoadError::DamagedElf {
                what: "number of segments",
            });
        }
        if header.p_filesz > header.p_memsz {
            return Err(LoadError::DamagedElf {
                what: "size of a segment",
            });
        }
        self.segments.push(LoadSegment {
            virtual_start: header.p_vaddr,
            start: header.p_paddr,
            size: header.p_memsz,
            data: elf.segment_data(header).map_err(damaged)?,
        });
        Ok(())
    }

    fn read_notes(
        &mut self,
        elf: &ElfBytes<'a, LittleEndian>,
        header: &ProgramHeader,
    ) -> Result<(), LoadError> {
        // Notes are packed by 4 whatever the segment's alignment says; only 8 is a layout of its own.
        let mut header = *header;
        if header.p_align != 8 {
            header.p_align = 4;
        }
        for note in elf
            .segment_data_as_notes(&header)
            .map_err(damaged)?
            .take(NOTES_MAX)
        {
            let Note::Unknown(note) = note else { continue };
            if note.name == XEN_NOTE_NAME && note.n_type == XEN_NOTE_PHYS32_ENTRY {
                // Xen's tools write 4 or 8 bytes; the entry is 32 bits wide.
                let entry = note.desc.first_chunk().ok_or(LoadError::DamagedElf {
                    what: "pvh entry note",
                })?;
                self.pvh_entry = Some(u32::from_le_bytes(*entry));
            }
        }
        Ok(())
    }

    /// Returns the entry point as a physical address: linkers give it as a virtual one when the two differ.
    fn physical_entry(&self) -> u64 {
        let inside =
            |base: u64, s: &LoadSegment<'_>| self.entry.checked_sub(base).filter(|&at| at < s.size);
        if self.contains(self.entry) {
            return self.entry;
        }
        self.segments
            .iter()
            .find_map(|s| inside(s.virtual_start, s).and_then(|at| s.start.checked_add(at)))
            .unwrap_or(self.entry)
    }

    fn contains(&self, address: u64) -> bool {
        self.segments
            .iter()
            .any(|s| address.checked_sub(s.start).is_some_and(|at| at < s.size))
    }

    /// Tells whether the file is linked to run in the upper half while lying low: an operating system's kernel.
    pub(crate) fn is_higher_half_kernel(&self) -> bool {
        let in_upper_half =
            |s: &LoadSegment<'_>| s.virtual_start >= HIGHER_HALF && s.start < HIGHER_HALF;
        self.is_64_bit && self.contains(self.entry) && self.segments.iter().any(in_upper_half)
    }

    /// Returns `entry` when it lies in a segment below 4 GiB.
    pub(crate) fn checked_entry32(&self, entry: u64) -> Result<u32, LoadError> {
        u32::try_from(entry)
            .ok()
            .filter(|_| self.contains(entry))
            .ok_or(LoadError::EntryOutsideKernel { entry })
    }

    /// Copies the segments to their physical addresses and zeroes what the file does not hold.
    pub(crate) fn load(&self, arena: &mut Arena<'_>) -> Result<(), LoadError> {
        if self.segments.is_empty() {
            return Err(LoadError::DamagedElf {
                what: "no segment to load",
            });
        }
        for s in &self.segments {
            arena.take_for_kernel(s.start, s.size)?;
        }
        for s in &self.segments {
            let in_file = s.data.len() as u64;
            arena.write(s.start, s.data)?;
            arena.zero(
                s.start.saturating_add(in_file),
                s.size.saturating_sub(in_file),
            )?;
        }
        Ok(())
    }
}

fn damaged(error: ParseError) -> LoadError {
    LoadError::DamagedElf {
        what: match error {
            ParseError::SliceReadError(_) => "a part lies behind the end of the file",
            ParseError::UnsupportedElfEndianness(_) => "big-endian",
            ParseError::BadEntsize(_) => "size of a table entry",
            ParseError::UnexpectedAlignment(_) => "alignment",
            _ => "header",
        },
    }
}
