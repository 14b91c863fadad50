//! Virtual time of a VM. How it is derived from the host's TSC is the kernel's concern.

/// A point in a VM's virtual time: nanoseconds since the VM was created, standing still while the VM is paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct VmInstant(u64);

impl VmInstant {
    /// The moment of the VM's creation.
    pub const ZERO: Self = Self(0);

    /// Wraps nanoseconds since the VM's creation.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Returns nanoseconds since the VM's creation.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Returns the point `nanos` later; saturates at the end of time (584 years).
    #[must_use]
    pub const fn saturating_add(self, nanos: u64) -> Self {
        Self(self.0.saturating_add(nanos))
    }

    /// Returns the nanoseconds from `earlier` to `self`, 0 if `earlier` is later.
    #[must_use]
    pub const fn saturating_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}
