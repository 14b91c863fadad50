//! Address newtypes: guest-physical, host-physical, guest-virtual and host-virtual, and their 4 KiB frame numbers.
//!
//! There is no conversion between the spaces here: only second-level page tables (`arch`) relate guest frames to host
//! frames, and only the direct map (`arch`) relates host-physical to host-virtual.
#![no_std]
#![forbid(unsafe_code)]

/// Bytes in a base page of every paging structure on x86-64.
pub const PAGE_SIZE: u64 = 4096;
/// Bits of an address below its frame number.
pub const PAGE_SHIFT: u32 = 12;
/// Physical addresses are at most 52 bits wide (AMD APM vol. 2, 5.1).
pub const PHYS_BITS_MAX: u32 = 52;

macro_rules! phys_addr {
    ($(#[$doc:meta])* $addr:ident, $(#[$fdoc:meta])* $frame:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[repr(transparent)]
        pub struct $addr(u64);

        impl $addr {
            /// Wraps `value`, or `None` when it needs more than [`PHYS_BITS_MAX`] bits.
            #[must_use]
            pub const fn new(value: u64) -> Option<Self> {
                if value >> PHYS_BITS_MAX == 0 { Some(Self(value)) } else { None }
            }

            /// Wraps the low [`PHYS_BITS_MAX`] bits of `value`.
            #[must_use]
            pub const fn new_truncate(value: u64) -> Self {
                Self(value & ((1 << PHYS_BITS_MAX) - 1))
            }

            /// Returns the address as a number.
            #[must_use]
            pub const fn as_u64(self) -> u64 {
                self.0
            }

            /// Returns the address `bytes` further, or `None` past the end of the space.
            #[must_use]
            pub const fn checked_add(self, bytes: u64) -> Option<Self> {
                match self.0.checked_add(bytes) {
                    Some(sum) => Self::new(sum),
                    None => None,
                }
            }

            /// Returns the frame that holds the address.
            #[must_use]
            pub const fn frame(self) -> $frame {
                $frame(self.0 >> PAGE_SHIFT)
            }

            /// Returns the offset inside the 4 KiB frame, 0 to 4095.
            #[must_use]
            pub const fn page_offset(self) -> u64 {
                self.0 & (PAGE_SIZE - 1)
            }

            /// Tells whether the address is a multiple of `align`, a power of two.
            #[must_use]
            pub const fn is_aligned(self, align: u64) -> bool {
                self.0 & (align - 1) == 0
            }
        }

        impl core::fmt::Debug for $addr {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                write!(f, concat!(stringify!($addr), "({:#x})"), self.0)
            }
        }

        impl core::fmt::Display for $addr {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }

        $(#[$fdoc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[repr(transparent)]
        pub struct $frame(u64);

        impl $frame {
            /// Wraps a frame number, or `None` when its address would not fit.
            #[must_use]
            pub const fn new(number: u64) -> Option<Self> {
                if number >> (PHYS_BITS_MAX - PAGE_SHIFT) == 0 { Some(Self(number)) } else { None }
            }

            /// Returns the frame number.
            #[must_use]
            pub const fn as_u64(self) -> u64 {
                self.0
            }

            /// Returns the address of the frame's first byte.
            #[must_use]
            pub const fn start(self) -> $addr {
                $addr(self.0 << PAGE_SHIFT)
            }

            /// Returns the frame `count` further, or `None` past the end of the space.
            #[must_use]
            pub const fn checked_add(self, count: u64) -> Option<Self> {
                match self.0.checked_add(count) {
                    Some(sum) => Self::new(sum),
                    None => None,
                }
            }
        }

        impl core::fmt::Debug for $frame {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                write!(f, concat!(stringify!($frame), "({:#x})"), self.0)
            }
        }
    };
}

macro_rules! virt_addr {
    ($(#[$doc:meta])* $addr:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[repr(transparent)]
        pub struct $addr(u64);

        impl $addr {
            /// Wraps any 64-bit value; canonicality is the CPU mode's concern.
            #[must_use]
            pub const fn new(value: u64) -> Self {
                Self(value)
            }

            /// Returns the address as a number.
            #[must_use]
            pub const fn as_u64(self) -> u64 {
                self.0
            }

            /// Returns the offset inside the 4 KiB page, 0 to 4095.
            #[must_use]
            pub const fn page_offset(self) -> u64 {
                self.0 & (PAGE_SIZE - 1)
            }
        }

        impl core::fmt::Debug for $addr {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                write!(f, concat!(stringify!($addr), "({:#x})"), self.0)
            }
        }
    };
}

phys_addr!(
    /// A guest-physical address: what a guest's page tables yield.
    Gpa,
    /// A guest frame number: a guest-physical address divided by 4 KiB.
    Gfn
);
phys_addr!(
    /// A host-physical address: what goes on the memory bus.
    Hpa,
    /// A host frame number: a host-physical address divided by 4 KiB.
    Hfn
);
virt_addr!(
    /// A guest-virtual (linear) address.
    Gva
);
virt_addr!(
    /// A host-virtual (linear) address.
    Hva
);

#[cfg(test)]
mod tests {
    use super::{Gfn, Gpa, Hpa};

    #[test]
    fn an_address_wider_than_52_bits_is_refused() {
        assert!(Gpa::new(1 << 52).is_none());
        assert_eq!(
            Gpa::new((1 << 52) - 1).map(Gpa::as_u64),
            Some((1 << 52) - 1)
        );
    }

    #[test]
    fn addition_stops_at_the_end_of_the_space() {
        let last = Hpa::new((1 << 52) - 1).unwrap();
        assert!(last.checked_add(1).is_none());
        assert!(last.checked_add(u64::MAX).is_none());
    }

    #[test]
    fn frame_and_offset_split_an_address() {
        let a = Gpa::new(0x1234_5678).unwrap();
        assert_eq!(a.frame(), Gfn::new(0x12345).unwrap());
        assert_eq!(a.page_offset(), 0x678);
        assert_eq!(a.frame().start().as_u64() + a.page_offset(), a.as_u64());
    }
}
