//! The document and the types say the same.

use alloc::string::ToString;
use alloc::vec::Vec;

use super::{
    Carved, Cluster, ClusterHead, Entry, Header, Inode, InodeHead, JournalHeader, Member, Node,
    NodeHead, SlotUnit, Superblock, TransactionHead, UnitRange, UnitRecord,
};

const DOCUMENT: &str = include_str!("../../../../docs/formats/datastore.md");

type Fields = &'static [(&'static str, usize, usize)];

const STRUCTURES: [(&str, Fields, usize); 16] = [
    ("Header", Header::FIELDS, size_of::<Header>()),
    ("Superblock", Superblock::FIELDS, size_of::<Superblock>()),
    ("Member", Member::FIELDS, size_of::<Member>()),
    ("Cluster", Cluster::FIELDS, size_of::<Cluster>()),
    ("ClusterHead", ClusterHead::FIELDS, size_of::<ClusterHead>()),
    ("Carved", Carved::FIELDS, size_of::<Carved>()),
    ("Inode", Inode::FIELDS, size_of::<Inode>()),
    ("InodeHead", InodeHead::FIELDS, size_of::<InodeHead>()),
    ("Node", Node::FIELDS, size_of::<Node>()),
    ("NodeHead", NodeHead::FIELDS, size_of::<NodeHead>()),
    ("Entry", Entry::FIELDS, size_of::<Entry>()),
    ("SlotUnit", SlotUnit::FIELDS, size_of::<SlotUnit>()),
    (
        "JournalHeader",
        JournalHeader::FIELDS,
        size_of::<JournalHeader>(),
    ),
    (
        "TransactionHead",
        TransactionHead::FIELDS,
        size_of::<TransactionHead>(),
    ),
    ("UnitRecord", UnitRecord::FIELDS, size_of::<UnitRecord>()),
    ("UnitRange", UnitRange::FIELDS, size_of::<UnitRange>()),
];

/// The rows of the first table behind the heading of a structure: offset, size, name.
fn rows(heading: &str) -> Vec<(usize, usize, &'static str)> {
    let (_, section) = DOCUMENT
        .split_once(heading)
        .unwrap_or_else(|| panic!("the document has no {heading}"));
    section
        .lines()
        .skip_while(|line| !line.starts_with('|'))
        .take_while(|line| line.starts_with('|'))
        .skip(2)
        .map(|line| {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            let number = |text: &str| text.replace(',', "").parse().unwrap();
            (number(cells[1]), number(cells[2]), cells[3])
        })
        .collect()
}

#[test]
fn the_document_describes_the_types_byte_by_byte() {
    let headings = DOCUMENT
        .lines()
        .filter(|line| line.ends_with(" bytes") && line.starts_with("###"));
    assert_eq!(headings.count(), STRUCTURES.len());
    for (name, fields, size) in STRUCTURES {
        let digits = size.to_string();
        let size_text = match digits.len() {
            4 => [&digits[..1], ",", &digits[1..]].concat(),
            _ => digits,
        };
        let heading = ["### ", name, ": ", &size_text, " bytes\n"].concat();
        let expected: Vec<(usize, usize, &str)> = fields
            .iter()
            .map(|(name, offset, size)| (*offset, *size, *name))
            .collect();
        assert_eq!(rows(&heading), expected, "{name}");
        let end = expected.last().map(|(offset, size, _)| offset + size);
        assert_eq!(end, Some(size), "{name} has no gap at its end");
    }
}

#[test]
fn the_document_has_the_magics_and_numbers() {
    let magics = [
        super::MAGIC_SUPERBLOCK,
        super::MAGIC_CLUSTER,
        super::MAGIC_INODE,
        super::MAGIC_NODE,
        super::MAGIC_SLOT,
        *b"BDJH",
        *b"BDJT",
    ];
    for magic in magics {
        let quoted = ["`", core::str::from_utf8(&magic).unwrap(), "`"].concat();
        assert!(DOCUMENT.contains(&quoted), "{quoted}");
    }
    let journal = JournalHeader::new(7, 3, 0, 1);
    assert_eq!(journal.magic, *b"BDJH");
    let mut transaction = [0; 64];
    TransactionHead::seal(&mut transaction, 7, 3, 1, 0);
    assert_eq!(transaction[..4], *b"BDJT");
    assert_eq!(super::FORMAT_VERSION, 2);
    assert_eq!((super::RECORD_WHOLE, super::RECORD_PARTS), (1, 2));
    assert_eq!(super::TRANSACTION_BYTES_MAX, 4_194_304);
    assert_eq!(super::JOURNAL_UNITS_MAX, 16_384);
    assert_eq!(super::SUPERBLOCK_A, 4096);
    assert_eq!(super::SUPERBLOCK_B, 1_052_672);
    assert_eq!(crate::MEMBER_START, 16);
    assert_eq!(
        (super::INODE_ENTRIES, super::NODE_ENTRIES, super::INLINE_MAX),
        (149, 168, 3576)
    );
}

#[test]
fn the_checksum_is_castagnolis() {
    assert_eq!(checksum::crc32c(b"123456789"), 0xe306_9283);
    let mut unit = super::blank(super::MAGIC_NODE, 9, 4);
    super::seal(&mut unit);
    assert_eq!(super::check(&unit, Some(super::MAGIC_NODE), 9, 4), Ok(()));
    unit[4000] ^= 1;
    assert_eq!(
        super::check(&unit, None, 9, 4),
        Err(super::UnitFault::Checksum)
    );
}

#[test]
fn names_hash_as_the_document_says() {
    // SipHash-2-4 with 128 bits, of "abc" under the key 00 01 .. 0f, by an implementation of its own.
    let key: [u8; 16] = core::array::from_fn(|index| u8::try_from(index).unwrap());
    let hash = crate::directory::NameHash::new(&key, b"abc");
    let (low, high) = sip128(&key, b"abc");
    assert_eq!(hash.first, low & !0xff);
    assert_eq!(hash.rest, high & !0xffff);
}

/// SipHash-2-4-128 for short messages, after the paper's description.
fn sip128(key: &[u8; 16], message: &[u8]) -> (u64, u64) {
    let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
    let (k0, k1) = (word(&key[..8]), word(&key[8..]));
    let mut v = [
        k0 ^ 0x736f_6d65_7073_6575,
        k1 ^ 0x646f_7261_6e64_6f6d ^ 0xee,
        k0 ^ 0x6c79_6765_6e65_7261,
        k1 ^ 0x7465_6462_7974_6573,
    ];
    let rounds = |v: &mut [u64; 4], count: u32| {
        for _ in 0..count {
            v[0] = v[0].wrapping_add(v[1]);
            v[1] = v[1].rotate_left(13) ^ v[0];
            v[0] = v[0].rotate_left(32);
            v[2] = v[2].wrapping_add(v[3]);
            v[3] = v[3].rotate_left(16) ^ v[2];
            v[0] = v[0].wrapping_add(v[3]);
            v[3] = v[3].rotate_left(21) ^ v[0];
            v[2] = v[2].wrapping_add(v[1]);
            v[1] = v[1].rotate_left(17) ^ v[2];
            v[2] = v[2].rotate_left(32);
        }
    };
    assert!(message.len() < 8);
    let mut last = [0; 8];
    last[..message.len()].copy_from_slice(message);
    last[7] = u8::try_from(message.len()).unwrap();
    v[3] ^= word(&last);
    rounds(&mut v, 2);
    v[0] ^= word(&last);
    v[2] ^= 0xee;
    rounds(&mut v, 4);
    let low = v[0] ^ v[1] ^ v[2] ^ v[3];
    v[1] ^= 0xdd;
    rounds(&mut v, 4);
    (low, v[0] ^ v[1] ^ v[2] ^ v[3])
}
