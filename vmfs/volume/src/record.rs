//! Records of transactions: which bytes of a unit changed, and units put together from records again.
//!
//! The first record that names a unit behind the journal's tail is whole (what is zero is left out), later ones hold what
//! changed since. So units come out of the journal alone, whatever a crash has made of their places. Nothing here does
//! I/O.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, IntoBytes};

use crate::format::{
    Bytes, RECORD_PARTS, RECORD_WHOLE, TransactionHead, UNIT, UnitRange, UnitRecord,
};

/// Most bytes of a record: one range that is the whole unit.
pub(crate) const RECORD_BYTES_MAX: usize = 16 + 8 + UNIT;
/// Bytes that are compared at a time.
const WORD: usize = 8;
/// Words that are the same and still part of a range: a range of its own would cost as much.
const GAP_WORDS: usize = 1;
/// Bytes of a head.
const HEAD: usize = size_of::<TransactionHead>();

/// A transaction that is being written.
#[derive(Debug)]
pub(crate) struct Draft {
    bytes: Vec<u8>,
    count: u32,
}

impl Draft {
    pub(crate) fn new() -> Self {
        Self {
            bytes: alloc::vec![0; HEAD],
            count: 0,
        }
    }

    /// Adds a unit: what changed since `base`, or all of it that is not zero.
    pub(crate) fn add(&mut self, address: u64, base: Option<&Bytes>, image: &Bytes) {
        let ranges = changed(base.unwrap_or(&[0; UNIT]), image);
        let data: usize = ranges
            .iter()
            .map(|range| usize::from(range.len.get()))
            .sum();
        let kind = if base.is_some() {
            RECORD_PARTS
        } else {
            RECORD_WHOLE
        };
        let record = UnitRecord {
            address: U64::new(address),
            kind: U16::new(kind),
            ranges: U16::new(u16::try_from(ranges.len()).unwrap_or(0)),
            data: U32::new(u32::try_from(data).unwrap_or(0)),
        };
        self.bytes.extend_from_slice(record.as_bytes());
        self.bytes.extend_from_slice(ranges.as_bytes());
        for range in &ranges {
            self.bytes.extend_from_slice(range.of(image));
        }
        let padded = self.bytes.len().next_multiple_of(WORD);
        self.bytes.resize(padded, 0);
        self.count = self.count.saturating_add(1);
    }

    /// Returns the bytes as they go to the disk.
    pub(crate) fn finish(mut self, volume: u64, slot: u16, sequence: u64) -> Vec<u8> {
        TransactionHead::seal(&mut self.bytes, volume, slot, sequence, self.count);
        self.bytes
    }
}

impl UnitRange {
    fn of<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        let tail = bytes.get(usize::from(self.offset.get())..);
        tail.and_then(|tail| tail.get(..usize::from(self.len.get())))
            .unwrap_or_default()
    }
}

/// Returns the ranges in which two units differ, by rising offset. The checksum does not count: replay makes it anew.
fn changed(base: &Bytes, image: &Bytes) -> Vec<UnitRange> {
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    let (old, _) = base.as_chunks::<WORD>();
    let (new, _) = image.as_chunks::<WORD>();
    for (index, (old, new)) in old.iter().zip(new).enumerate() {
        // The first word is magic and checksum.
        let same = old == new || index == 0 && old.first_chunk::<4>() == new.first_chunk::<4>();
        if same {
            continue;
        }
        let end = index.saturating_add(1);
        match ranges.last_mut() {
            Some((_, last)) if index.saturating_sub(*last) <= GAP_WORDS => *last = end,
            _ => ranges.push((index, end)),
        }
    }
    let word = |words: usize| {
        let bytes = words.saturating_mul(WORD);
        U16::new(u16::try_from(bytes).unwrap_or(u16::MAX))
    };
    ranges
        .into_iter()
        .map(|(first, end)| UnitRange {
            offset: word(first),
            len: word(end.saturating_sub(first)),
        })
        .collect()
}

/// A record of a transaction that was read.
#[derive(Debug)]
pub(crate) struct Record<'a> {
    pub(crate) address: u64,
    is_whole: bool,
    ranges: &'a [UnitRange],
    data: &'a [u8],
}

/// Takes a transaction apart; `None` if its records are not what they ought to be.
pub(crate) fn records<'a>(head: &TransactionHead, bytes: &'a [u8]) -> Option<Vec<Record<'a>>> {
    let mut rest = bytes.get(HEAD..)?;
    let mut all = Vec::new();
    for _ in 0..head.count.get() {
        let record;
        (record, rest) = Record::split(rest)?;
        all.push(record);
    }
    rest.is_empty().then_some(all)
}

impl<'a> Record<'a> {
    /// Splits the first record off.
    fn split(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (head, rest) = UnitRecord::ref_from_prefix(bytes).ok()?;
        let count = usize::from(head.ranges.get());
        let (ranges, rest) = <[UnitRange]>::ref_from_prefix_with_elems(rest, count).ok()?;
        let len = usize::try_from(head.data.get()).ok()?;
        let (data, rest) = rest.split_at_checked(len)?;
        let used = bytes.len().saturating_sub(rest.len());
        let padding = used.next_multiple_of(WORD).saturating_sub(used);
        let (_, rest) = rest.split_at_checked(padding)?;
        let fits = |range: &UnitRange| {
            let end = usize::from(range.offset.get()).saturating_add(usize::from(range.len.get()));
            end <= UNIT
        };
        let sum: usize = ranges
            .iter()
            .map(|range| usize::from(range.len.get()))
            .sum();
        let known = matches!(head.kind.get(), RECORD_WHOLE | RECORD_PARTS);
        let good = known && sum == len && ranges.iter().all(fits);
        let record = Self {
            address: head.address.get(),
            is_whole: head.kind.get() == RECORD_WHOLE,
            ranges,
            data,
        };
        good.then_some((record, rest))
    }

    /// Puts the ranges into a unit.
    fn apply(&self, image: &mut Bytes) {
        let mut data = self.data;
        for range in self.ranges {
            let len = usize::from(range.len.get());
            let (part, rest) = data.split_at_checked(len).unwrap_or_default();
            let place = image
                .get_mut(usize::from(range.offset.get())..)
                .and_then(|tail| tail.get_mut(..part.len()));
            if let Some(place) = place {
                place.copy_from_slice(part);
            }
            data = rest;
        }
    }
}

/// Units that are put together from the records of a journal.
#[derive(Debug)]
pub(crate) struct Images {
    units: BTreeMap<u64, Box<Bytes>>,
    most: u64,
}

impl Images {
    /// Makes a place for at most `most` units.
    pub(crate) const fn new(most: u64) -> Self {
        Self {
            units: BTreeMap::new(),
            most,
        }
    }

    /// Adds a record; false if it says nothing by itself and what it builds on is missing, or there are too many units.
    /// Then nothing is known of the unit any more.
    pub(crate) fn add(&mut self, record: &Record<'_>) -> bool {
        if record.is_whole {
            let full = self.units.len() as u64 >= self.most;
            if full && !self.units.contains_key(&record.address) {
                return false;
            }
            let mut image = Box::new([0; UNIT]);
            record.apply(&mut image);
            self.units.insert(record.address, image);
            return true;
        }
        match self.units.get_mut(&record.address) {
            Some(image) => {
                record.apply(image);
                true
            }
            None => false,
        }
    }

    /// Forgets all that later records could build on.
    pub(crate) fn take(&mut self) -> BTreeMap<u64, Box<Bytes>> {
        core::mem::take(&mut self.units)
    }
}

#[cfg(test)]
mod tests;
