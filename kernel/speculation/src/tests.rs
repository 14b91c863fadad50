//! Old CPUs, new CPUs, and that every bit matters where it should.

use super::{Facts, Finding, LEAKS, Maker, State, judge, wanted};
use api::guard::Guards;

fn silent(maker: Maker) -> Facts {
    Facts {
        maker,
        leaf7_ebx: 0,
        leaf7_edx: 0,
        leaf8_ebx: 0,
        leaf21_eax: 0,
        arch_capabilities: 0,
    }
}

fn find(facts: &Facts, done: Guards, name: &str) -> Finding {
    let found = judge(facts, done)
        .into_iter()
        .find(|f| f.name.contains(name));
    found.expect("a leak of that name")
}

#[test]
fn a_silent_cpu_is_taken_for_open() {
    for maker in [Maker::Amd, Maker::Intel] {
        let facts = silent(maker);
        let findings = judge(&facts, Guards::empty());
        assert_eq!(findings.len(), LEAKS.len());
        assert!(findings.iter().all(|f| f.state != State::Guarded));
        assert_eq!(
            find(&facts, Guards::empty(), "guest to guest").state,
            State::Defenceless
        );
    }
    let intel = silent(Maker::Intel);
    assert_eq!(
        find(&intel, Guards::empty(), "terminal").state,
        State::Unguarded
    );
    assert_eq!(
        wanted(&intel),
        Guards::RETURN_STACK
            | Guards::BRANCH_HISTORY
            | Guards::DATA_CACHE
            | Guards::SMALL_CODE_PAGES
    );
    assert_eq!(wanted(&silent(Maker::Amd)), Guards::RETURN_STACK);
}

#[test]
fn what_is_done_is_shown_as_done() {
    let mut facts = silent(Maker::Intel);
    facts.leaf7_edx = 1 << 10 | 1 << 26 | 1 << 28 | 1 << 31;
    let all = wanted(&facts);
    assert!(all.contains(Guards::BUFFERS | Guards::HOST_BRANCHES | Guards::SPEC_CTRL));
    let findings = judge(&facts, all);
    assert!(findings.iter().all(|f| f.state != State::Unguarded));
    let missing = judge(&facts, all - Guards::BUFFERS);
    let open = missing.iter().filter(|f| f.state == State::Unguarded);
    assert!(open.clone().count() >= 2);
    assert!(open.clone().all(|f| f.guard.starts_with("VERW")));
}

#[test]
fn a_cpu_that_says_it_has_nothing_wants_little() {
    let mut facts = silent(Maker::Intel);
    facts.leaf7_edx = 1 << 26 | 1 << 29 | 1 << 31;
    facts.arch_capabilities = [0, 1, 4, 5, 6, 8, 13, 14, 15, 20]
        .into_iter()
        .fold(0, |bits, bit| bits | 1 << bit);
    assert_eq!(
        wanted(&facts),
        Guards::HOST_BRANCHES | Guards::FORGET_BETWEEN_VMS | Guards::RETURN_STACK
    );
    assert_eq!(
        find(&facts, Guards::empty(), "guest to host").guard,
        "enhanced IBRS"
    );
    let mut facts = silent(Maker::Amd);
    facts.leaf8_ebx = 1 << 12 | 1 << 14 | 1 << 26;
    facts.leaf21_eax = 1 << 8 | 1 << 29;
    assert_eq!(
        find(&facts, Guards::empty(), "guest to host").guard,
        "automatic IBRS"
    );
    assert_eq!(
        wanted(&facts),
        Guards::HOST_BRANCHES | Guards::FORGET_BETWEEN_VMS | Guards::RETURN_STACK
    );
}

#[test]
fn one_maker_is_not_judged_by_the_bits_of_the_other() {
    let mut facts = silent(Maker::Amd);
    facts.arch_capabilities = !0;
    facts.leaf7_edx = !0;
    assert_eq!(
        find(&facts, Guards::empty(), "guest to host").state,
        State::Defenceless
    );
    let mut facts = silent(Maker::Intel);
    facts.leaf8_ebx = !0;
    facts.leaf21_eax = !0;
    assert_eq!(
        find(&facts, Guards::empty(), "guest to host").state,
        State::Defenceless
    );
    assert_eq!(
        find(&facts, Guards::empty(), "return targets").state,
        State::Absent
    );
}

#[test]
fn a_finding_has_a_guard_exactly_if_something_can_be_done() {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    for _ in 0..100_000 {
        let maker = if next() & 1 == 0 {
            Maker::Amd
        } else {
            Maker::Intel
        };
        let facts = Facts {
            maker,
            leaf7_ebx: next() as u32,
            leaf7_edx: next() as u32,
            leaf8_ebx: next() as u32,
            leaf21_eax: next() as u32,
            arch_capabilities: next(),
        };
        let done = Guards::from_bits_truncate(next() as u32);
        for finding in judge(&facts, done) {
            let can = matches!(finding.state, State::Guarded | State::Unguarded);
            assert_eq!(can, !finding.guard.is_empty(), "{finding:?}");
            assert!(!finding.reason.is_empty());
        }
        let open = judge(&facts, wanted(&facts));
        assert!(open.iter().all(|f| f.state != State::Unguarded));
    }
}
