//! Leaf 0Dh: which extended state a guest may enable in XCR0, and how large its save area is.
//!
//! The totals are computed here from the place and size of each component, since some hosts report totals that include
//! components which are hidden. Supervisor components (XSS) are not offered.

use super::{CpuidResult, HostCpuid};

/// XCR0: x87 state, always enabled.
pub const X87: u64 = 1 << 0;
/// XCR0: SSE state.
pub const SSE: u64 = 1 << 1;
/// XCR0: upper halves of the YMM registers.
pub const AVX: u64 = 1 << 2;
/// XCR0: opmask registers and the upper parts of the ZMM registers, only together.
pub const AVX512: u64 = 0b111 << 5;

/// Size of the legacy region and the XSAVE header.
const LEGACY_SIZE: u32 = 576;
/// Components that may be offered have numbers below this.
const COMPONENTS: usize = 8;
/// Components of the compacted format start on a multiple of this if they ask for alignment.
const ALIGNMENT: u32 = 64;
/// No component is larger.
const COMPONENT_SIZE_MAX: u32 = 4096;
/// No component lies higher in the standard format.
const OFFSET_MAX: u32 = 1 << 16;

/// One state component (leaf 0Dh, subleaf of its number).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Component {
    size: u32,
    /// Offset in the standard format.
    offset: u32,
    is_aligned: bool,
}

/// The extended state that a guest may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct XState {
    supported: u64,
    components: [Component; COMPONENTS],
}

impl XState {
    /// Takes from the host what is in `allowed` and described coherently; nothing if it has no XSAVE.
    pub(crate) fn from_host(host: &dyn HostCpuid, allowed: u64) -> Self {
        let main = host.cpuid(0xd, 0);
        let host_mask = u64::from(main.edx) << 32 | u64::from(main.eax);
        let mut state = Self {
            supported: X87 | SSE,
            ..Self::default()
        };
        for (mask, numbers) in [(AVX, 2..3), (AVX512, 5..8)] {
            let mut candidate = state;
            candidate.supported |= mask;
            let mut whole = mask & allowed & host_mask == mask;
            for number in numbers {
                let component = Component::from_host(host, number);
                whole &= component.is_some();
                let at = candidate.components.get_mut(number as usize);
                if let (Some(component), Some(place)) = (component, at) {
                    *place = component;
                }
            }
            // AVX-512 registers contain the AVX registers.
            let base_enabled = mask != AVX512 || state.supported & AVX != 0;
            if whole && base_enabled {
                state = candidate;
            }
        }
        state
    }

    /// The bits that XCR0 may have.
    pub(crate) fn supported(&self) -> u64 {
        self.supported
    }

    /// Answers subleaf `subleaf`; `features` is EAX of subleaf 1.
    pub(crate) fn leaf(&self, subleaf: u32, features: u32, xcr0: u64) -> CpuidResult {
        match subleaf {
            0 => CpuidResult {
                eax: low(self.supported),
                ebx: self.standard_size(xcr0),
                ecx: self.standard_size(self.supported),
                edx: low(self.supported >> 32),
            },
            1 => CpuidResult {
                eax: features,
                ebx: if features & COMPACTION != 0 {
                    self.compacted_size(xcr0)
                } else {
                    0
                },
                ..CpuidResult::default()
            },
            n => match self.component(n) {
                Some(c) => CpuidResult {
                    eax: c.size,
                    ebx: c.offset,
                    ecx: u32::from(c.is_aligned) << 1,
                    edx: 0,
                },
                None => CpuidResult::default(),
            },
        }
    }

    fn component(&self, number: u32) -> Option<&Component> {
        let c = self.components.get(number as usize)?;
        (c.size != 0).then_some(c)
    }

    fn enabled(&self, xcr0: u64) -> impl Iterator<Item = &Component> {
        let mask = xcr0 & self.supported;
        self.components
            .iter()
            .zip(0u32..)
            .filter(move |(c, number)| c.size != 0 && mask >> number & 1 != 0)
            .map(|(c, _)| c)
    }

    /// Size of the standard format with the components of `xcr0`.
    fn standard_size(&self, xcr0: u64) -> u32 {
        self.enabled(xcr0)
            .map(|c| c.offset.saturating_add(c.size))
            .fold(LEGACY_SIZE, u32::max)
    }

    /// Size of the compacted format with the components of `xcr0`.
    fn compacted_size(&self, xcr0: u64) -> u32 {
        self.enabled(xcr0).fold(LEGACY_SIZE, |end, c| {
            let start = if c.is_aligned {
                end.next_multiple_of(ALIGNMENT)
            } else {
                end
            };
            start.saturating_add(c.size)
        })
    }
}

/// Leaf 0Dh.1 EAX: XSAVEC, which brings the compacted format.
const COMPACTION: u32 = 1 << 1;

impl Component {
    fn from_host(host: &dyn HostCpuid, number: u32) -> Option<Self> {
        let r = host.cpuid(0xd, number);
        let is_user = r.ecx & 1 == 0;
        let fits = (1..=COMPONENT_SIZE_MAX).contains(&r.eax)
            && (LEGACY_SIZE..=OFFSET_MAX).contains(&r.ebx);
        (is_user && fits).then_some(Self {
            size: r.eax,
            offset: r.ebx,
            is_aligned: r.ecx & 2 != 0,
        })
    }
}

/// Returns the low half.
fn low(value: u64) -> u32 {
    let [a, b, c, d, ..] = value.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}
