//! ELF files as xtask needs them: sections looked up and rewritten in place, a copy without debug data, and a
//! 64-bit guest wrapped as the 32-bit file that Multiboot1 loaders take.
//!
//! It does not link or relocate; the linker has done that.

use anyhow::{Context, Result, bail, ensure};
use elf::ElfBytes;
use elf::abi::{PT_LOAD, SHF_ALLOC, SHT_NOBITS};
use elf::endian::LittleEndian;
use elf::section::SectionHeader;

/// Size of an ELF64 file header, in bytes (System V ABI, chapter 4).
const ELF64_HEADER_SIZE: usize = 64;
/// Offset of `e_shoff` in an ELF64 header.
const E_SHOFF: usize = 0x28;
/// Offset of `e_shnum` in an ELF64 header; `e_shstrndx` follows it.
const E_SHNUM: usize = 0x3c;
/// Size of an ELF64 program header, in bytes.
pub(crate) const ELF64_SEGMENT_SIZE: usize = 56;
/// Size of an ELF32 file header, in bytes.
const ELF32_HEADER_SIZE: u32 = 52;
/// Size of an ELF32 program header, in bytes.
const ELF32_SEGMENT_SIZE: u32 = 32;

/// A parsed 64-bit little-endian file.
pub(crate) type Elf<'a> = ElfBytes<'a, LittleEndian>;

/// Parses a 64-bit little-endian ELF file.
pub(crate) fn parse(file: &[u8]) -> Result<Elf<'_>> {
    let elf = Elf::minimal_parse(file).context("not an ELF file")?;
    ensure!(
        elf.ehdr.class == elf::file::Class::ELF64,
        "not a 64-bit ELF file"
    );
    Ok(elf)
}

/// All sections with their names, in file order.
pub(crate) fn sections<'a>(elf: &Elf<'a>) -> Result<Vec<(&'a str, SectionHeader)>> {
    let (headers, names) = elf
        .section_headers_with_strtab()
        .context("broken section headers")?;
    let (Some(headers), Some(names)) = (headers, names) else {
        return Ok(Vec::new());
    };
    headers
        .iter()
        .map(|header| {
            let name = names
                .get(header.sh_name as usize)
                .context("a section's name is broken")?;
            Ok((name, header))
        })
        .collect()
}

/// Overwrites the start of the named section's bytes and fills its rest with zeroes.
pub(crate) fn overwrite_section(file: &mut [u8], name: &str, content: &[u8]) -> Result<()> {
    let (offset, size) = {
        let elf = parse(file)?;
        let header = find_section(&elf, name)?
            .with_context(|| format!("the image has no section {name}"))?;
        ensure!(
            header.sh_type != SHT_NOBITS,
            "the section {name} has no bytes in the file"
        );
        (
            usize::try_from(header.sh_offset)?,
            usize::try_from(header.sh_size)?,
        )
    };
    ensure!(
        content.len() <= size,
        "{} bytes do not fit the {size} of {name}",
        content.len()
    );
    let bytes = file
        .get_mut(offset..offset + size)
        .context("the section lies outside the file")?;
    bytes.fill(0);
    bytes[..content.len()].copy_from_slice(content);
    Ok(())
}

/// The header of the named section, if there is one.
pub(crate) fn find_section(elf: &Elf<'_>, name: &str) -> Result<Option<SectionHeader>> {
    Ok(sections(elf)?
        .into_iter()
        .find(|(found, _)| *found == name)
        .map(|(_, header)| header))
}

/// Makes a 64-bit file one without section headers; it is a parsed one.
pub(crate) fn forget_sections(file: &mut [u8]) {
    file[E_SHOFF..E_SHOFF + 8].fill(0);
    file[E_SHNUM..E_SHNUM + 4].fill(0);
}

/// Returns a copy that holds what is loaded, and headers of the loaded sections only.
pub(crate) fn without_debug_data(file: &[u8]) -> Result<Vec<u8>> {
    let elf = parse(file)?;
    let mut end = ELF64_HEADER_SIZE;
    for segment in elf
        .segments()
        .context("the image has no program headers")?
        .iter()
    {
        end = end.max(usize::try_from(segment.p_offset + segment.p_filesz)?);
    }
    let mut names = vec![0];
    let mut headers = vec![[0; 64]];
    for (name, section) in sections(&elf)? {
        if section.sh_flags & u64::from(SHF_ALLOC) == 0 {
            continue;
        }
        headers.push(section_header(&section, names.len()));
        names.extend_from_slice(name.as_bytes());
        names.push(0);
    }
    let strings = SectionHeader {
        sh_type: elf::abi::SHT_STRTAB,
        sh_offset: end as u64,
        ..empty_section()
    };
    let own_name = names.len();
    names.extend_from_slice(b".shstrtab\0");
    headers.push(section_header(
        &SectionHeader {
            sh_size: names.len() as u64,
            ..strings
        },
        own_name,
    ));

    let mut copy = file
        .get(..end)
        .context("a segment lies outside the file")?
        .to_vec();
    copy.extend_from_slice(&names);
    copy.resize(copy.len().next_multiple_of(8), 0);
    let table = copy.len() as u64;
    copy.extend(headers.iter().flatten());
    let count = u16::try_from(headers.len())?;
    copy[E_SHOFF..E_SHOFF + 8].copy_from_slice(&table.to_le_bytes());
    copy[E_SHNUM..E_SHNUM + 2].copy_from_slice(&count.to_le_bytes());
    copy[E_SHNUM + 2..E_SHNUM + 4].copy_from_slice(&(count - 1).to_le_bytes());
    Ok(copy)
}

/// Wraps a 64-bit file that is linked below 4 GiB as a 32-bit one: QEMU's and GRUB's Multiboot1 loaders refuse
/// ELF64 files by their machine type, whatever code is in them.
pub(crate) fn as_elf32(file: &[u8]) -> Result<Vec<u8>> {
    let elf = parse(file)?;
    let mut loads = Vec::new();
    for segment in elf
        .segments()
        .context("the guest has no program headers")?
        .iter()
    {
        if segment.p_type == PT_LOAD && segment.p_memsz != 0 {
            loads.push(segment);
        }
    }
    let count = u32::try_from(loads.len())?;
    let Ok(entry) = u32::try_from(elf.ehdr.e_entry) else {
        bail!("the entry point lies above 4 GiB");
    };
    let mut out = vec![0x7f, b'E', b'L', b'F', 1, 1, 1];
    out.resize(16, 0);
    for half in [2u16, 3] {
        out.extend(half.to_le_bytes()); // ET_EXEC, EM_386
    }
    for word in [1, entry, ELF32_HEADER_SIZE, 0, 0] {
        out.extend(u32::to_le_bytes(word));
    }
    for half in [ELF32_HEADER_SIZE, ELF32_SEGMENT_SIZE, count, 0, 0, 0] {
        out.extend(u16::try_from(half)?.to_le_bytes());
    }
    let mut offset = (ELF32_HEADER_SIZE + count * ELF32_SEGMENT_SIZE).next_multiple_of(16);
    let mut bodies = Vec::new();
    for segment in &loads {
        let body = elf
            .segment_data(segment)
            .context("a segment lies outside the file")?;
        let body_size = u32::try_from(body.len())?;
        let size = u32::try_from(segment.p_memsz)?;
        for word in [
            PT_LOAD,
            offset,
            u32::try_from(segment.p_vaddr)?,
            u32::try_from(segment.p_paddr)?,
        ] {
            out.extend(word.to_le_bytes());
        }
        for word in [body_size, size, segment.p_flags, 1] {
            out.extend(word.to_le_bytes());
        }
        bodies.push((offset, body));
        offset += body_size.next_multiple_of(16);
    }
    for (offset, body) in bodies {
        out.resize(offset as usize, 0);
        out.extend_from_slice(body);
    }
    Ok(out)
}

fn empty_section() -> SectionHeader {
    SectionHeader {
        sh_name: 0,
        sh_type: 0,
        sh_flags: 0,
        sh_addr: 0,
        sh_offset: 0,
        sh_size: 0,
        sh_link: 0,
        sh_info: 0,
        sh_addralign: 1,
        sh_entsize: 0,
    }
}

/// Encodes an ELF64 section header, its name replaced by an offset into the new string table.
fn section_header(section: &SectionHeader, name: usize) -> [u8; 64] {
    let mut out = [0; 64];
    // The table holds a few dozen short names, so the offset is small.
    let name = u32::try_from(name).unwrap_or(0);
    out[0..4].copy_from_slice(&name.to_le_bytes());
    out[4..8].copy_from_slice(&section.sh_type.to_le_bytes());
    for (index, value) in [
        section.sh_flags,
        section.sh_addr,
        section.sh_offset,
        section.sh_size,
    ]
    .iter()
    .enumerate()
    {
        out[8 + index * 8..16 + index * 8].copy_from_slice(&value.to_le_bytes());
    }
    // sh_link and sh_info stay zero: what they would refer to is not copied.
    out[48..56].copy_from_slice(&section.sh_addralign.to_le_bytes());
    out[56..64].copy_from_slice(&section.sh_entsize.to_le_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own_program() -> Vec<u8> {
        std::fs::read("/proc/self/exe").expect("a test is a file")
    }

    fn allocated(file: &[u8]) -> Vec<(String, u64, u64)> {
        let elf = parse(file).expect("an ELF file");
        let sections = sections(&elf).expect("good sections");
        let loaded = sections
            .iter()
            .filter(|(_, section)| section.sh_flags & u64::from(SHF_ALLOC) != 0);
        loaded
            .map(|(name, section)| ((*name).to_owned(), section.sh_addr, section.sh_size))
            .collect()
    }

    #[test]
    fn a_stripped_copy_keeps_what_is_loaded_and_nothing_else() {
        let file = own_program();
        let copy = without_debug_data(&file).expect("a good file");
        assert!(copy.len() < file.len());
        assert_eq!(allocated(&copy), allocated(&file));
        let elf = parse(&copy).expect("an ELF file");
        let symbols = find_section(&elf, ".symtab").expect("good sections");
        assert!(symbols.is_none());
        // The file header, which says where the section headers are, is all that may differ.
        for segment in elf.segments().expect("it has segments").iter() {
            let start = (segment.p_offset as usize).max(ELF64_HEADER_SIZE);
            let end = (segment.p_offset + segment.p_filesz) as usize;
            assert_eq!(copy.get(start..end), file.get(start..end));
        }
    }

    #[test]
    fn a_section_is_overwritten_to_its_end() {
        let mut file = own_program();
        overwrite_section(&mut file, ".comment", b"new").expect("every compiler leaves one");
        let elf = parse(&file).expect("an ELF file");
        let header = find_section(&elf, ".comment")
            .expect("good sections")
            .expect("it is there");
        let (bytes, _) = elf.section_data(&header).expect("it is inside");
        let (start, rest) = bytes.split_at(3);
        assert_eq!(start, b"new");
        assert!(rest.iter().all(|byte| *byte == 0));
        let too_long = vec![1; bytes.len() + 1];
        assert!(overwrite_section(&mut file, ".comment", &too_long).is_err());
        assert!(overwrite_section(&mut file, ".no.such.section", b"").is_err());
    }

    #[test]
    fn a_file_above_4_gib_cannot_be_wrapped() {
        let mut file = own_program();
        file[0x18..0x20].copy_from_slice(&(1u64 << 32).to_le_bytes());
        assert!(as_elf32(&file).is_err());
        assert!(as_elf32(b"not an ELF file").is_err());
    }
}
