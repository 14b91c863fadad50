//! Where a virtio function has its registers (VIRTIO 1.2, 4.1.4): vendor capabilities, each for one kind of window.

use super::{Bar, ConfigSpace, Function};
use alloc::vec::Vec;

const ID_VENDOR: u8 = 0x09;

/// What a window is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VirtioKind(pub u8);

impl VirtioKind {
    /// The common configuration.
    pub const COMMON: Self = Self(1);
    /// Where queues are notified.
    pub const NOTIFY: Self = Self(2);
    /// The configuration of this kind of device.
    pub const DEVICE: Self = Self(4);
}

/// A window of a virtio function; it lies in one of the function's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VirtioWindow {
    /// What for.
    pub kind: VirtioKind,
    /// Physical address.
    pub address: u64,
    /// Bytes.
    pub len: u64,
    /// For notifications: the distance of two queues' places.
    pub multiplier: u32,
}

impl VirtioWindow {
    /// Returns a function's windows in memory, in the order in which the function prefers them.
    pub fn all_of(function: &Function, space: &impl ConfigSpace) -> Vec<Self> {
        let offsets = function.capabilities(space, ID_VENDOR);
        let window = |at: &u8| Self::read(function, space, *at);
        offsets.iter().filter_map(window).collect()
    }

    fn read(function: &Function, space: &impl ConfigSpace, at: u8) -> Option<Self> {
        let word = |offset: u8| space.read(function.address, at.wrapping_add(offset));
        let kind = VirtioKind((word(0) >> 24) as u8);
        let (offset, len) = (u64::from(word(8)), u64::from(word(12)));
        match function.bar(space, word(4) as u8)? {
            Bar::Memory { address, size } if len != 0 && offset.checked_add(len)? <= size => {
                Some(Self {
                    kind,
                    address: address.checked_add(offset)?,
                    len,
                    multiplier: word(16),
                })
            }
            _ => None,
        }
    }
}
