//! The simulator's own tests: seeds that once broke a promise, each with its story, and rules that are broken on purpose
//! and must be noticed.
//!
//! The sweep over many seeds is a line of tests/e2e/tests.toml. A story's seed found its bug in the simulator as it was
//! then; when the simulator changes, the seed is kept as one more schedule, and the unit test named beside it, where
//! there is one, keeps the bug out.

use lock::Backend;

use super::broken::Rule;
use super::{Plan, Subject, rate_of, run, sweep};

const PLAN: Plan = Plan {
    seed: 1,
    hosts: None,
    backend: None,
    rule: None,
    subject: Subject::Locks,
    hard: false,
};

/// A seed and what it found.
struct Story {
    seed: u64,
    subject: Subject,
    backend: Option<Backend>,
    /// What was wrong.
    what: &'static str,
}

const fn story(seed: u64, what: &'static str) -> Story {
    Story {
        seed,
        subject: Subject::Locks,
        backend: None,
        what,
    }
}

const STORIES: [Story; 11] = [
    story(
        81,
        "Power failed twice, every slot had a dead owner, and nobody could join to recover them. A joiner now takes a \
         dead host's slot with its journal (lock: where_every_slot_is_a_dead_hosts_...).",
    ),
    story(
        227,
        "A host that had been cut off for longer than its lease asked for a lock it had held before, and was told from \
         memory that it has it. Now the lease is looked at before anybody is told.",
    ),
    Story {
        backend: Some(Backend::Paxos),
        ..story(
            372,
            "A release had freed the lock and was still saying on the disk that it is final, when the same host's next \
             acquire began; its ballot was overwritten by the older one. Saying so is part of the release now.",
        )
    },
    Story {
        backend: Some(Backend::Paxos),
        ..story(
            4730,
            "A host left, and died before its free slot was known to be chosen. Nobody settled it, so the locks of its \
             generation were neither held nor void. Who needs to know settles the slot now.",
        )
    },
    Story {
        subject: Subject::Volume,
        ..story(
            2,
            "A host claimed a dead one's slot, its replay was left in the middle, and it went on without trying again; \
             later it died too, and as nobody wanted a lock of its own, nobody recovered it or its victim. A claim \
             that was given up shows as dead again, and who stands in the way is whoever must be recovered first. \
             (The same seed then found that reading behind the end of a small file was called damage.)",
        )
    },
    Story {
        subject: Subject::Volume,
        ..story(
            1334,
            "The oracle's own mistake: after a loss of power a chunk may hold old and new sectors, and it took the \
             newest for saved by the next sync.",
        )
    },
    Story {
        subject: Subject::Volume,
        ..story(
            1969,
            "The oracle's own mistake: what a host finds after a crash may be in the disk's cache only, and a loss of \
             power takes it back.",
        )
    },
    Story {
        subject: Subject::Volume,
        ..story(3964, "As 1334.")
    },
    story(
        1_052_307,
        "An acquire was left in the middle; the heartbeat's clean-up of it waited for a late write, and the same host \
         acquired the lock meanwhile; the clean-up then released what was held. It looks again after it has waited.",
    ),
    story(
        4,
        "Takeovers while writes of the dead are on their way (caught without the reclaim window).",
    ),
    story(
        203,
        "A takeover within a clock's error of the lease's end (caught with wild clocks).",
    ),
];

#[test]
fn seeds_that_found_a_bug_find_none() {
    for Story {
        seed,
        subject,
        backend,
        what,
    } in STORIES
    {
        let plan = Plan {
            seed,
            subject,
            backend,
            ..PLAN
        };
        let outcome = run(plan, false);
        assert_eq!(outcome.broken, None, "seed {seed}, {subject:?}: {what}");
    }
}

#[test]
fn every_rule_that_is_broken_on_purpose_is_noticed() {
    for backend in [Backend::CompareAndWrite, Backend::Paxos] {
        for (name, rule) in Rule::ALL {
            let apart = rule == Rule::BothCopiesFail;
            if apart || backend == Backend::Paxos && !rule.shows_with_paxos() {
                continue;
            }
            let plan = Plan {
                rule: Some(rule),
                backend: Some(backend),
                ..PLAN
            };
            let swept = sweep(plan, 8000);
            assert!(swept.failed.is_some(), "{name} with {backend:?}");
        }
    }
}

#[test]
fn a_medium_that_hits_one_copy_loses_nothing_and_one_that_hits_both_is_noticed() {
    let plan = Plan {
        subject: Subject::Volume,
        hard: true,
        ..PLAN
    };
    assert_eq!(sweep(plan, 60).failed, None);
    let rule = Some(Rule::BothCopiesFail);
    let swept = sweep(Plan { rule, ..plan }, 200);
    assert!(swept.failed.is_some());
}

/// Six times is the goal; 6.5 stood when this was written.
#[test]
fn eight_hosts_in_different_directories_are_six_times_as_fast_as_one() {
    let (one, eight) = (rate_of(1), rate_of(8));
    println!("operations in 15 s: one host {one}, eight hosts {eight}");
    assert!(eight >= 6 * one, "one host {one}, eight hosts {eight}");
}

#[test]
fn one_seed_gives_one_schedule_traced_or_not() {
    for subject in [Subject::Locks, Subject::Volume] {
        let plan = Plan {
            seed: 5,
            subject,
            ..PLAN
        };
        let (first, second) = (run(plan, true), run(plan, false));
        assert_eq!(first.requests, second.requests);
        assert_eq!(first.nanos, second.nanos);
        assert!(first.trace.lines().count() > 20);
    }
}

#[test]
fn a_failing_seed_leaves_a_trace_that_ends_with_the_broken_promise() {
    let plan = Plan {
        rule: Some(Rule::NoGate),
        backend: Some(Backend::CompareAndWrite),
        ..PLAN
    };
    let seed = sweep(plan, 3000).failed.unwrap();
    let outcome = run(Plan { seed, ..plan }, true);
    let promise = outcome.broken.unwrap();
    assert!(outcome.trace.contains(&format!("BROKEN  {promise}")));
}
