//! Rules that the simulator can break on purpose, to show that the judge sees it.
//!
//! None of these switches exists in the code that is judged: hosts are given wrong times, a wrong device or a wrong
//! habit.

use std::borrow::Cow;

use lock::{CHECKSUM_AT, IMAGE_LEN, Image, Slot, SlotState, Terms};

/// A rule that is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Writes go to the device, past the gate.
    NoGate,
    /// Hosts believe in a longer lease than the others grant them.
    NoMargin,
    /// Hosts do not wait for writes of the dead that are still on their way.
    NoReclaim,
    /// A dead host's journal is not replayed.
    NoReplay,
    /// An entry stays in the journal after the change, and the lock is released.
    JournalKeepsEntries,
    /// The device compares all of an image but what makes it unique.
    TokensDoNotCount,
    /// A dead host's slot is freed without a new generation.
    NoGeneration,
    /// The device compares and writes in two steps.
    CompareIsNotAtomic,
    /// Clocks differ by more than the margin covers.
    WildClocks,
    /// The device does a write again that it has acknowledged.
    WritesComeAgain,
    /// The medium hits both copies of a unit. (With volumes on a medium that fails.)
    BothCopiesFail,
}

impl Rule {
    /// All of them, with their names on the command line.
    pub const ALL: [(&'static str, Self); 11] = [
        ("no-gate", Self::NoGate),
        ("no-margin", Self::NoMargin),
        ("no-reclaim", Self::NoReclaim),
        ("no-replay", Self::NoReplay),
        ("journal-keeps-entries", Self::JournalKeepsEntries),
        ("tokens-do-not-count", Self::TokensDoNotCount),
        ("no-generation", Self::NoGeneration),
        ("compare-is-not-atomic", Self::CompareIsNotAtomic),
        ("wild-clocks", Self::WildClocks),
        ("writes-come-again", Self::WritesComeAgain),
        ("both-copies-fail", Self::BothCopiesFail),
    ];

    /// Tells whether breaking the rule can be noticed with Disk Paxos. Three rules are those of a device that compares and
    /// writes. The reclaim window is needed there only by whoever takes over within seconds: with Paxos a host that comes
    /// back waits for its old seat, and 40,000 schedules show nothing.
    #[must_use]
    pub const fn shows_with_paxos(self) -> bool {
        !matches!(
            self,
            Self::TokensDoNotCount
                | Self::NoGeneration
                | Self::CompareIsNotAtomic
                | Self::NoReclaim
        )
    }

    /// Finds a rule by its name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let found = Self::ALL.iter().find(|(known, _)| *known == name);
        found.map(|(_, rule)| *rule)
    }
}

/// Compares what a block holds with what is expected, as the disk does.
#[must_use]
pub fn same(rule: Option<Rule>, found: &[u8], expected: &[u8]) -> bool {
    if rule != Some(Rule::TokensDoNotCount) {
        return found == expected;
    }
    let counts = |at: usize| !(16..32).contains(&at) && at < CHECKSUM_AT;
    let pairs = found.iter().zip(expected).enumerate();
    pairs
        .filter(|(at, _)| counts(*at))
        .all(|(_, (left, right))| left == right)
}

/// Returns what the disk stores where it is told to store `new`.
#[must_use]
pub fn stored<'a>(rule: Option<Rule>, new: &'a [u8]) -> Cow<'a, [u8]> {
    let number = new
        .get(6..8)
        .map_or(0, |raw| u16::from_le_bytes([raw[0], raw[1]]));
    if rule == Some(Rule::NoGeneration)
        && let Ok(slot) = Slot::decode(&Image::from_block(new), number, 0)
        && slot.state == SlotState::Free
        && slot.generation > 1
    {
        let mut same_again = new.to_vec();
        let image = Slot {
            generation: slot.generation - 1,
            ..slot
        }
        .encode();
        same_again[..IMAGE_LEN].copy_from_slice(image.as_bytes());
        return Cow::Owned(same_again);
    }
    Cow::Borrowed(new)
}

/// The times that host number `host` believes in.
#[must_use]
pub fn terms(rule: Option<Rule>, host: usize, agreed: Terms) -> Terms {
    match rule {
        // Half of the hosts are too hopeful, the others do not wait for them.
        Some(Rule::NoMargin) if host.is_multiple_of(2) => Terms {
            lease_ms: agreed.lease_ms * 2,
            margin_ms: agreed.lease_ms / 8,
            ..agreed
        },
        Some(Rule::NoReclaim) => Terms {
            reclaim_ms: 0,
            ..agreed
        },
        _ => agreed,
    }
}
