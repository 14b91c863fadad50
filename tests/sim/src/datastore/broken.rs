//! Rules that the simulator can break on purpose, to show that the judge sees it.
//!
//! None of these switches exists in the code that is judged: hosts are given wrong times, a wrong device or a wrong
//! habit.

use lock::Terms;

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
    /// Every host makes the same tokens.
    SameTokens,
    /// The device compares and writes in two steps.
    CompareIsNotAtomic,
    /// Clocks differ by more than the margin covers.
    WildClocks,
}

impl Rule {
    /// All of them, with their names on the command line.
    pub const ALL: [(&'static str, Self); 8] = [
        ("no-gate", Self::NoGate),
        ("no-margin", Self::NoMargin),
        ("no-reclaim", Self::NoReclaim),
        ("no-replay", Self::NoReplay),
        ("journal-keeps-entries", Self::JournalKeepsEntries),
        ("same-tokens", Self::SameTokens),
        ("compare-is-not-atomic", Self::CompareIsNotAtomic),
        ("wild-clocks", Self::WildClocks),
    ];

    /// Finds a rule by its name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let found = Self::ALL.iter().find(|(known, _)| *known == name);
        found.map(|(_, rule)| *rule)
    }
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
