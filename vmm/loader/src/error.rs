//! Why a guest cannot be started. Every message names the number that is wrong and what to do about it.

use api::memory::MemoryError;
use thiserror::Error;

/// Which boot protocol an image follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Linux bzImage, entered at its 64-bit entry point.
    LinuxBzImage64,
    /// Linux bzImage without a 64-bit entry point, entered in 32-bit protected mode.
    LinuxBzImage32,
    /// ELF with the PVH entry note of Xen.
    Pvh,
    /// A file with a Multiboot1 header.
    Multiboot1,
    /// Uncompressed Linux (`vmlinux`) without a PVH note, entered by the Linux 64-bit protocol.
    LinuxElf64,
}

impl core::fmt::Display for Format {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::LinuxBzImage64 => "bzimage (64-bit entry)",
            Self::LinuxBzImage32 => "bzimage (32-bit entry)",
            Self::Pvh => "elf with pvh note",
            Self::Multiboot1 => "multiboot1",
            Self::LinuxElf64 => "elf64 linux kernel",
        })
    }
}

/// Why a guest cannot be started from the given files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LoadError {
    /// The kernel file holds nothing.
    #[error("the kernel file is empty; give a bzimage, a pvh elf or a multiboot1 file")]
    Empty,
    /// No known header.
    #[error(
        "the kernel file is of no known format (no bzimage, elf or multiboot1 header; it starts with bytes {0:02x?}); \
         give a bzimage, a pvh elf or a multiboot1 file",
        first
    )]
    Unrecognised {
        /// The file's first four bytes.
        first: [u8; 4],
    },
    /// A compressed file.
    #[error("the kernel file is {method}-compressed; unpack it first")]
    Compressed {
        /// Name of the compression.
        method: &'static str,
    },
    /// An ELF file that follows none of the protocols.
    #[error(
        "the elf file has neither a multiboot1 header nor a pvh note, and is no linux kernel; it cannot be booted"
    )]
    NoProtocol,
    /// An ELF file for something else than an x86 machine, or not an executable.
    #[error("the elf file is not a little-endian x86 executable (machine {machine}, type {kind})")]
    ForeignElf {
        /// `e_machine`.
        machine: u16,
        /// `e_type`.
        kind: u16,
    },
    /// The ELF structure contradicts itself or the file's length.
    #[error("the elf file is damaged or truncated ({what}); copy it again")]
    DamagedElf {
        /// The part that does not fit.
        what: &'static str,
    },
    /// The file is shorter than its header says.
    #[error(
        "the {format} file is truncated: its header asks for {needed} bytes and it has {len}; copy it again"
    )]
    Truncated {
        /// The recognised format.
        format: Format,
        /// Bytes that the header promises.
        needed: u64,
        /// Bytes that are there.
        len: u64,
    },
    /// A header field has a value that the protocol forbids.
    #[error("the {format} header is damaged: {field} is {value:#x}; copy the file again")]
    Header {
        /// The recognised format.
        format: Format,
        /// The field.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// A bzImage older than the protocol that has everything needed.
    #[error(
        "the kernel speaks linux boot protocol {major}.{minor}; 2.06 or newer is needed (linux 2.6.22)"
    )]
    OldProtocol {
        /// Major version.
        major: u8,
        /// Minor version.
        minor: u8,
    },
    /// A Multiboot1 header asks for a feature that is not offered.
    #[error(
        "the multiboot1 header requires unknown features (flags {flags:#x}); only bits 0, 1, 2 and 16 are known"
    )]
    MultibootFeatures {
        /// The header's flags.
        flags: u32,
    },
    /// Part of the kernel would lie where no RAM is.
    #[error(
        "the kernel needs memory at {start:#x}..{end:#x}, which is not ram of this vm (ram below 4 GiB ends at \
         {ram_end:#x}); give the vm more memory"
    )]
    KernelOutsideRam {
        /// First byte.
        start: u64,
        /// End, exclusive.
        end: u64,
        /// End of RAM below 4 GiB.
        ram_end: u64,
    },
    /// The entry point is not inside what was loaded.
    #[error(
        "the kernel's entry point {entry:#x} is not inside its loaded part; the file is damaged"
    )]
    EntryOutsideKernel {
        /// The entry point.
        entry: u64,
    },
    /// A file does not fit beside the kernel.
    #[error(
        "{what} of {size} bytes does not fit into the vm's memory beside the kernel (limit {limit:#x}); give the vm \
         more memory or a smaller file"
    )]
    DoesNotFit {
        /// Which file or table.
        what: &'static str,
        /// Its size in bytes.
        size: u64,
        /// Upper bound of the place searched.
        limit: u64,
    },
    /// Modules were given to a kernel whose protocol has none.
    #[error("a {format} kernel takes no modules; give one initrd instead")]
    ModulesUnsupported {
        /// The recognised format.
        format: Format,
    },
    /// The command line exceeds what the kernel takes.
    #[error("the command line has {len} bytes; this kernel takes at most {max}; shorten it")]
    CommandLineTooLong {
        /// Length given.
        len: usize,
        /// Longest accepted.
        max: usize,
    },
    /// RAM size out of range.
    #[error("{bytes} bytes of ram is not a whole number of pages between {min} and {max}")]
    RamSize {
        /// The size asked for.
        bytes: u64,
        /// Smallest accepted.
        min: u64,
        /// Largest accepted.
        max: u64,
    },
    /// vCPU count out of range.
    #[error("{vcpus} vcpus asked for; 1 to {max} are possible")]
    VcpuCount {
        /// The count asked for.
        vcpus: u32,
        /// Largest accepted.
        max: u32,
    },
    /// Guest memory could not be written.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}
