//! Access rights of segments in a VMCS (SDM vol. 3, 25.4.1) and in a descriptor's layout, which everything else here has.

use api::cpu::{Segment, SegmentAttributes};

/// The register cannot be used: a null selector was loaded.
const UNUSABLE: u32 = 1 << 16;

/// Spreads attributes over access rights. A segment that is not present cannot be used.
pub(super) const fn rights_of(attributes: SegmentAttributes) -> u32 {
    let bits = attributes.0 as u32;
    let rights = bits & 0xff | (bits & 0xf00) << 4;
    if attributes.has(SegmentAttributes::PRESENT) {
        rights
    } else {
        rights | UNUSABLE
    }
}

/// The way back. A register that cannot be used looks like one that is not present.
pub(super) const fn attributes_of(rights: u32) -> SegmentAttributes {
    let bits = (rights & 0xff | rights >> 4 & 0xf00) as u16;
    if rights & UNUSABLE == 0 {
        SegmentAttributes(bits)
    } else {
        SegmentAttributes(bits & !SegmentAttributes::PRESENT)
    }
}

/// Returns a segment as the checks at VM entry want it (SDM vol. 3, 27.3.1.2): the accessed bit set, granularity as the
/// limit demands. SVM and the guest do not notice the difference.
pub(super) const fn presentable(segment: &Segment) -> Segment {
    let mut bits = segment.attributes.0;
    if !segment.attributes.has(SegmentAttributes::PRESENT) {
        return *segment;
    }
    if segment.attributes.has(SegmentAttributes::CODE_DATA) {
        bits |= SegmentAttributes::ACCESSED;
    }
    if segment.limit >> 20 != 0 {
        bits |= SegmentAttributes::GRANULAR;
    } else if segment.limit & 0xfff != 0xfff {
        bits &= !SegmentAttributes::GRANULAR;
    }
    Segment {
        attributes: SegmentAttributes(bits),
        ..*segment
    }
}

#[cfg(test)]
mod tests {
    use super::{attributes_of, presentable, rights_of};
    use api::cpu::{Segment, SegmentAttributes as Attr};

    #[test]
    fn rights_are_spread_and_gathered() {
        assert_eq!(rights_of(Attr::CODE64), 0xa09b);
        assert_eq!(rights_of(Attr::DATA32), 0xc093);
        assert_eq!(rights_of(Attr::NULL), 1 << 16);
        for attributes in [
            Attr::CODE64,
            Attr::CODE32,
            Attr::DATA16,
            Attr::TSS_BUSY,
            Attr::NULL,
        ] {
            assert_eq!(attributes_of(rights_of(attributes)), attributes);
        }
        assert_eq!(attributes_of(0x1_0093), Attr(0x13), "not present");
    }

    #[test]
    fn a_segment_is_made_presentable() {
        let flat = Segment::flat(8, Attr(0x093));
        assert!(presentable(&flat).attributes.has(Attr::GRANULAR));
        let small = Segment {
            limit: 103,
            ..Segment::flat(8, Attr(0x808b))
        };
        assert!(!presentable(&small).attributes.has(Attr::GRANULAR));
        let fresh = Segment::real_mode(0, Attr(0x092));
        assert!(presentable(&fresh).attributes.has(Attr::ACCESSED));
    }
}
