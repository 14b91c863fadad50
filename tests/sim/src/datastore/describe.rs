//! Blocks in the words of the trace: slots, lock records, ballots, by their bytes on disk (docs/formats/datastore-locks.md).

/// Says what a block holds, if it is one of the lock area's.
#[must_use]
pub fn describe(block: &[u8]) -> Option<String> {
    match block.get(..4)? {
        b"BsHb" => Some(slot(block)),
        b"BsLk" => Some(record(block)),
        b"BsBa" => Some(ballot(block)),
        b"BsSe" => Some(format!("seat taken by {:x}", u64_at(block, 8))),
        _ => None,
    }
}

fn u16_at(block: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([block[at], block[at + 1]])
}

fn u32_at(block: &[u8], at: usize) -> u32 {
    u32::from(u16_at(block, at)) | u32::from(u16_at(block, at + 2)) << 16
}

fn u64_at(block: &[u8], at: usize) -> u64 {
    u64::from(u32_at(block, at)) | u64::from(u32_at(block, at + 4)) << 32
}

fn slot(block: &[u8]) -> String {
    let state = match u32_at(block, 8) {
        1 => "free".to_owned(),
        2 => "live".to_owned(),
        _ => format!("replayed by {}.{}", u16_at(block, 76), u32_at(block, 72)),
    };
    let (number, generation) = (u16_at(block, 6), u32_at(block, 12));
    format!(
        "slot {number}.{generation} {state}, beat {}",
        u64_at(block, 32)
    )
}

fn record(block: &[u8]) -> String {
    let mode = ["", "exclusive", "shared", "multi-writer"];
    let mode = mode.get(usize::from(u16_at(block, 6))).unwrap_or(&"?");
    let holders: Vec<_> = (0..64)
        .map(|slot| (slot, u32_at(block, 64 + 4 * slot)))
        .filter(|&(_, generation)| generation != 0)
        .map(|(slot, generation)| format!("{slot}.{generation}"))
        .collect();
    let author = format!("{}.{}", u16_at(block, 36), u32_at(block, 32));
    if holders.is_empty() {
        format!("record free, by {author}")
    } else {
        format!("record {mode} of {}, by {author}", holders.join(" "))
    }
}

fn ballot(block: &[u8]) -> String {
    let accepted = u64_at(block, 32);
    let flags = u32_at(block, 40);
    let what = match (flags & 1, accepted) {
        (1, _) => "knows chosen",
        (_, 0) => "promises after",
        _ => "accepts",
    };
    let image = describe(&block[48..]).unwrap_or_else(|| "an unused image".to_owned());
    format!(
        "ballot of seat {} in instance {}, promised {}, accepted {accepted}: {what} {image}",
        u16_at(block, 6),
        u64_at(block, 16),
        u64_at(block, 24),
    )
}
