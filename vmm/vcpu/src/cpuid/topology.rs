//! How the vCPUs of a VM are grouped into threads, cores and packages, and what CPUID says about it.

use super::CpuidResult;

/// Threads per core, cores per package, packages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Topology {
    threads: u32,
    cores: u32,
    packages: u32,
}

/// A topology that APIC ids 0, 1, 2.. cannot express.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopologyError {
    /// A count is zero, or the product too large.
    #[error(
        "{threads} threads x {cores} cores x {packages} packages is not between 1 and {max} vcpus"
    )]
    Count {
        /// Threads per core.
        threads: u32,
        /// Cores per package.
        cores: u32,
        /// Packages.
        packages: u32,
        /// Most vCPUs of a VM.
        max: u32,
    },
    /// Only the outermost group may have a size that is not a power of two.
    #[error("{count} {what} do not divide the apic ids evenly; use 1, 2, 4, 8..")]
    NotPowerOfTwo {
        /// Name of the group.
        what: &'static str,
        /// Its size.
        count: u32,
    },
}

impl Topology {
    /// Most vCPUs of a VM.
    pub const VCPUS_MAX: u32 = 1024;

    /// Groups vCPUs.
    ///
    /// # Errors
    /// [`TopologyError`] when consecutive APIC ids would not fall into the right groups.
    pub const fn new(threads: u32, cores: u32, packages: u32) -> Result<Self, TopologyError> {
        let count = threads.saturating_mul(cores).saturating_mul(packages);
        if count == 0 || count > Self::VCPUS_MAX {
            return Err(TopologyError::Count {
                threads,
                cores,
                packages,
                max: Self::VCPUS_MAX,
            });
        }
        if !threads.is_power_of_two() && count != threads {
            return Err(TopologyError::NotPowerOfTwo {
                what: "threads per core",
                count: threads,
            });
        }
        if !cores.is_power_of_two() && packages != 1 {
            return Err(TopologyError::NotPowerOfTwo {
                what: "cores per package",
                count: cores,
            });
        }
        Ok(Self {
            threads,
            cores,
            packages,
        })
    }

    /// Number of vCPUs.
    #[must_use]
    pub const fn vcpus(&self) -> u32 {
        self.package_threads().saturating_mul(self.packages)
    }

    /// Threads that share a core.
    pub(crate) const fn threads(&self) -> u32 {
        self.threads
    }

    /// Threads that share a package.
    pub(crate) const fn package_threads(&self) -> u32 {
        self.threads.saturating_mul(self.cores)
    }

    /// Bits of an APIC id that number the thread in its core.
    pub(crate) const fn thread_bits(&self) -> u32 {
        self.threads.next_power_of_two().trailing_zeros()
    }

    /// Bits of an APIC id that number the thread in its package.
    pub(crate) const fn package_bits(&self) -> u32 {
        let cores = self.cores.next_power_of_two().trailing_zeros();
        self.thread_bits().saturating_add(cores)
    }

    /// Answers leaves 0Bh and 1Fh: level 0 is the thread, level 1 the core (Intel SDM vol. 3, 10.9.1).
    pub(crate) const fn leaf(&self, subleaf: u32, apic_id: u32) -> CpuidResult {
        const THREAD: u32 = 1 << 8;
        const CORE: u32 = 2 << 8;
        let level = subleaf & 0xff;
        let (eax, ebx, kind) = match subleaf {
            0 => (self.thread_bits(), self.threads, THREAD),
            1 => (self.package_bits(), self.package_threads(), CORE),
            _ => (0, 0, 0),
        };
        CpuidResult {
            eax,
            ebx,
            ecx: kind | level,
            edx: apic_id,
        }
    }
}
