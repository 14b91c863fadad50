//! Tests of one or two hosts on a disk that answers at once; what time and failures do is the simulator's (tests/sim).

use api::block::BlockDevice;
use api::fake::{FakeClock, FakeDisk, Faults, block_on};
use api::time::Clock;

use crate::area::{Area, Backend, Cell, Terms};
use crate::{Attempt, Host, Journal, Life, LockError, Locks, Mode};
use alloc::vec::Vec;

type TestLocks<'a> = Locks<&'a FakeDisk, &'a FakeClock>;

const LOCK: Cell = Cell(1000);

fn area(backend: Backend) -> Area {
    Area {
        slots_lba: 8,
        slots: 8,
        slot_stride: 9,
        backend,
        terms: Terms::DEFAULT,
    }
}

fn join<'a>(disk: &'a FakeDisk, clock: &'a FakeClock, backend: Backend, id: u8) -> TestLocks<'a> {
    let host = Host {
        uuid: [id; 16],
        name: "tester",
        nonce: u64::from(id),
    };
    let journal = |slot| Journal {
        lba: u64::from(slot) * 100 + 5000,
        blocks: 100,
    };
    block_on(Locks::join(disk, clock, area(backend), host, journal)).unwrap()
}

fn acquire(locks: &TestLocks<'_>, mode: Mode) -> Attempt {
    block_on(locks.try_acquire(LOCK, mode)).unwrap()
}

fn acquired(locks: &TestLocks<'_>, mode: Mode) -> bool {
    matches!(acquire(locks, mode), Attempt::Acquired(_))
}

#[test]
fn an_uncontended_acquire_takes_two_requests_and_a_release_one() {
    let (disk, clock) = (FakeDisk::new(512, 10_000), FakeClock::default());
    let locks = join(&disk, &clock, Backend::CompareAndWrite, 1);
    disk.take_requests();
    assert!(acquired(&locks, Mode::Exclusive));
    assert_eq!(disk.take_requests(), 2);
    block_on(locks.release(LOCK)).unwrap();
    assert_eq!(disk.take_requests(), 1);
    assert_eq!(locks.holds(LOCK), None);
}

#[test]
fn by_paxos_an_uncontended_acquire_takes_five_requests_and_the_author_goes_on_with_two() {
    let (disk, clock) = (FakeDisk::new(512, 10_000), FakeClock::default());
    let one = join(&disk, &clock, Backend::Paxos, 1);
    let two = join(&disk, &clock, Backend::Paxos, 2);
    disk.take_requests();
    assert!(acquired(&one, Mode::Exclusive));
    assert_eq!(disk.take_requests(), 5);
    block_on(one.beat()).unwrap();
    assert_eq!(disk.take_requests(), 2);
    assert!(!acquired(&two, Mode::Exclusive));
    disk.take_requests();
    // One request more says on the disk that the release is final, so that the next host need not find out.
    block_on(one.release(LOCK)).unwrap();
    assert_eq!(disk.take_requests(), 3);
    assert!(acquired(&two, Mode::Exclusive));
    assert_eq!(disk.take_requests(), 5);
}

#[test]
fn modes_exclude_each_other_as_they_should() {
    for backend in [Backend::CompareAndWrite, Backend::Paxos] {
        for (first, second, together) in [
            (Mode::Exclusive, Mode::Exclusive, false),
            (Mode::Exclusive, Mode::Shared, false),
            (Mode::Shared, Mode::Shared, true),
            (Mode::Shared, Mode::Exclusive, false),
            (Mode::Shared, Mode::MultiWriter, false),
            (Mode::MultiWriter, Mode::MultiWriter, true),
            (Mode::MultiWriter, Mode::Exclusive, false),
        ] {
            let (disk, clock) = (FakeDisk::new(4096, 10_000), FakeClock::default());
            let one = join(&disk, &clock, backend, 1);
            let two = join(&disk, &clock, backend, 2);
            assert!(acquired(&one, first));
            assert_eq!(acquired(&two, second), together, "{first:?} {second:?}");
            block_on(one.release(LOCK)).unwrap();
            assert!(acquired(&two, second));
        }
    }
}

#[test]
fn a_lone_reader_can_become_a_writer_and_go_back() {
    let (disk, clock) = (FakeDisk::new(512, 10_000), FakeClock::default());
    let one = join(&disk, &clock, Backend::CompareAndWrite, 1);
    let two = join(&disk, &clock, Backend::CompareAndWrite, 2);
    assert!(acquired(&one, Mode::Shared));
    assert!(acquired(&one, Mode::Exclusive));
    assert!(!acquired(&two, Mode::Shared));
    assert!(acquired(&one, Mode::Shared));
    assert!(acquired(&two, Mode::Shared));
    assert!(!acquired(&one, Mode::Exclusive));
    assert_eq!(one.holds(LOCK), Some(Mode::Shared));
}

#[test]
fn the_token_before_tells_whether_anybody_had_the_lock_meanwhile() {
    let (disk, clock) = (FakeDisk::new(512, 10_000), FakeClock::default());
    let one = join(&disk, &clock, Backend::CompareAndWrite, 1);
    let two = join(&disk, &clock, Backend::CompareAndWrite, 2);
    assert!(acquired(&one, Mode::Exclusive));
    let mine = block_on(one.release(LOCK)).unwrap();
    let Attempt::Acquired(again) = acquire(&one, Mode::Exclusive) else {
        panic!("nobody holds it");
    };
    assert_eq!(again.previous, mine);
    let mine = block_on(one.release(LOCK)).unwrap();
    assert!(acquired(&two, Mode::Exclusive));
    block_on(two.release(LOCK)).unwrap();
    let Attempt::Acquired(again) = acquire(&one, Mode::Exclusive) else {
        panic!("nobody holds it");
    };
    assert_ne!(again.previous, mine);
}

#[test]
fn a_compare_and_write_that_landed_without_an_answer_is_a_success() {
    for faults in [
        [Faults::LostReply, Faults::None],
        [Faults::LostRequest, Faults::None],
        [Faults::LostReply, Faults::LostReply],
        [Faults::LostRequest, Faults::LostReply],
    ] {
        let (disk, clock) = (FakeDisk::new(512, 10_000), FakeClock::default());
        let one = join(&disk, &clock, Backend::CompareAndWrite, 1);
        disk.inject(faults);
        assert!(acquired(&one, Mode::Exclusive), "{faults:?}");
        let two = join(&disk, &clock, Backend::CompareAndWrite, 2);
        assert!(!acquired(&two, Mode::Exclusive));
        disk.inject(faults);
        block_on(one.release(LOCK)).unwrap();
        assert!(acquired(&two, Mode::Exclusive));
        disk.inject(faults);
        block_on(one.beat()).unwrap();
    }
}

#[test]
fn a_dead_hosts_locks_are_freed_by_clearing_its_slot() {
    let (disk, clock) = (FakeDisk::new(512, 10_000), FakeClock::default());
    let one = join(&disk, &clock, Backend::CompareAndWrite, 1);
    let two = join(&disk, &clock, Backend::CompareAndWrite, 2);
    assert!(acquired(&one, Mode::Exclusive));
    let Attempt::Busy(holder) = acquire(&two, Mode::Exclusive) else {
        panic!("it is held");
    };
    assert_eq!((holder.member, holder.life), (one.me(), Life::Alive));
    let not_dead = block_on(two.claim(one.me().slot)).unwrap_err();
    assert_eq!(
        not_dead,
        LockError::NotDead {
            slot: one.me().slot
        }
    );
    for _ in 0..6 {
        clock.advance(Terms::DEFAULT.beat_nanos());
        block_on(two.beat()).unwrap();
    }
    let Attempt::Busy(holder) = acquire(&two, Mode::Exclusive) else {
        panic!("it is not recovered yet");
    };
    assert_eq!(holder.life, Life::Dead);
    let claim = block_on(two.claim(one.me().slot)).unwrap();
    assert_eq!(claim.journal(), one.journal());
    assert!(!acquired(&two, Mode::Exclusive));
    assert_eq!(block_on(one.beat()), Err(LockError::Lost));
    block_on(two.clear(claim)).unwrap();
    assert!(acquired(&two, Mode::Exclusive));
    // The dead host's slot is free for the next one, which cannot be taken for it.
    let three = join(&disk, &clock, Backend::CompareAndWrite, 3);
    assert_eq!(three.me().slot, one.me().slot);
    assert_ne!(three.me(), one.me());
}

#[test]
fn the_gate_closes_before_the_lease_ends() {
    let (disk, clock) = (FakeDisk::new(512, 10_000), FakeClock::default());
    let locks = join(&disk, &clock, Backend::CompareAndWrite, 1);
    let gate = locks.gate();
    let write = || {
        let buffer = api::block::Buffer::zeroed(512);
        block_on(gate.write(9000, buffer, api::block::Durability::Fua)).1
    };
    assert_eq!(write(), Ok(()));
    clock.advance(Terms::DEFAULT.working_nanos());
    assert_eq!(write(), Err(api::block::BlockError::Fenced));
    block_on(locks.beat()).unwrap();
    assert_eq!(write(), Ok(()));
    drop(locks);
    assert_eq!(write(), Err(api::block::BlockError::Fenced));
}

#[test]
fn a_local_volume_recovers_its_former_life_at_once() {
    let (disk, clock) = (FakeDisk::new(512, 10_000), FakeClock::default());
    let dead = join(&disk, &clock, Backend::Local, 1);
    assert!(acquired(&dead, Mode::Exclusive));
    let victim = dead.me();
    drop(dead);
    let locks = join(&disk, &clock, Backend::Local, 2);
    let before = api::time::Clock::now(&clock);
    let claim = block_on(locks.claim(victim.slot)).unwrap();
    block_on(locks.clear(claim)).unwrap();
    assert_eq!(api::time::Clock::now(&clock), before);
    assert!(acquired(&locks, Mode::Exclusive));
}

#[test]
fn sixty_four_hosts_have_a_slot_and_one_that_leaves_makes_room() {
    let (disk, clock) = (FakeDisk::new(512, 10_000), FakeClock::default());
    let area = Area {
        slots: 64,
        ..area(Backend::CompareAndWrite)
    };
    let join = |id: u8| {
        let host = Host {
            uuid: [id; 16],
            name: "one of many",
            nonce: u64::from(id),
        };
        block_on(Locks::join(&disk, &clock, area, host, |_| {
            Journal::default()
        }))
    };
    let mut hosts: Vec<_> = (0..64).map(|id| join(id).unwrap()).collect();
    for locks in &hosts {
        assert!(acquired(locks, Mode::Shared));
    }
    block_on(hosts.remove(10).leave()).unwrap();
    hosts.push(join(65).unwrap());
    assert_eq!(hosts[63].me().slot, 10);
}

#[test]
fn where_every_slot_is_a_dead_hosts_the_next_host_takes_one_with_its_journal() {
    let (disk, clock) = (FakeDisk::new(512, 10_000), FakeClock::default());
    let dead: Vec<_> = (0..8)
        .map(|id| join(&disk, &clock, Backend::CompareAndWrite, id))
        .collect();
    assert!(acquired(&dead[0], Mode::Exclusive));
    let heir = join(&disk, &clock, Backend::CompareAndWrite, 9);
    let claim = heir.inherited().unwrap();
    assert_eq!(claim.member(), dead[0].me());
    assert_eq!(claim.journal(), dead[0].journal());
    let early = block_on(heir.try_acquire(LOCK, Mode::Exclusive));
    assert_eq!(early, Err(LockError::Unrecovered));
    assert_eq!(block_on(dead[0].beat()), Err(LockError::Lost));
    block_on(heir.clear(claim)).unwrap();
    assert!(acquired(&heir, Mode::Exclusive));
}

#[test]
fn a_local_volume_takes_three_requests_to_acquire_and_two_to_release_or_beat() {
    let (disk, clock) = (FakeDisk::new(512, 10_000), FakeClock::default());
    let locks = join(&disk, &clock, Backend::Local, 1);
    disk.take_requests();
    assert!(acquired(&locks, Mode::Exclusive));
    assert_eq!(disk.take_requests(), 3);
    block_on(locks.beat()).unwrap();
    assert_eq!(disk.take_requests(), 2);
    block_on(locks.release(LOCK)).unwrap();
    assert_eq!(disk.take_requests(), 2);
}

/// How long joining takes, in seconds by the host's clock.
fn joining_takes(disk: &FakeDisk, clock: &FakeClock, id: u8) -> u64 {
    let before = Clock::now(clock);
    drop(join(disk, clock, Backend::Paxos, id));
    Clock::now(clock).saturating_since(before) / 1_000_000_000
}

#[test]
fn by_paxos_joining_takes_seconds_after_a_clean_leave_and_below_a_minute_after_deaths() {
    let (disk, clock) = (FakeDisk::new(512, 10_000), FakeClock::default());
    let locks = join(&disk, &clock, Backend::Paxos, 1);
    let slot = locks.me().slot;
    block_on(locks.leave()).unwrap();
    // The slot that was left is the first one that is free.
    assert_eq!(joining_takes(&disk, &clock, 2), 7);
    let next = join(&disk, &clock, Backend::Paxos, 3);
    assert_eq!(next.me().slot, slot + 1);
    drop(next);
    for id in 4..10 {
        joining_takes(&disk, &clock, id);
    }
    // Now every slot is a dead host's.
    let seconds = joining_takes(&disk, &clock, 11);
    assert!((20..60).contains(&seconds), "{seconds} s");
}

#[test]
fn an_acquire_that_is_abandoned_and_done_again_is_not_undone_by_the_clean_up() {
    let (disk, clock) = (FakeDisk::new(512, 10_000), FakeClock::default());
    let locks = join(&disk, &clock, Backend::CompareAndWrite, 1);
    // Four tries without an answer: the lock is in doubt, though the last one took effect.
    disk.inject([Faults::LostReply; 4]);
    assert!(block_on(locks.try_acquire(LOCK, Mode::Exclusive)).is_err());
    assert_eq!(locks.holds(LOCK), None);
    assert!(acquired(&locks, Mode::Exclusive));
    block_on(locks.mend());
    assert_eq!(locks.holds(LOCK), Some(Mode::Exclusive));
    // Left in doubt it is released, and the next host can have it.
    block_on(locks.release(LOCK)).unwrap();
    disk.inject([Faults::LostReply; 4]);
    assert!(block_on(locks.try_acquire(LOCK, Mode::Exclusive)).is_err());
    block_on(locks.mend());
    let other = join(&disk, &clock, Backend::CompareAndWrite, 2);
    assert!(acquired(&other, Mode::Exclusive));
}

#[test]
fn images_with_any_byte_changed_are_refused_and_none_panics() {
    let record = crate::Record::unused(7).granted(
        crate::Member {
            slot: 1,
            generation: 2,
        },
        Mode::Shared,
        crate::Token::default(),
    );
    let sealed = record.encode();
    for at in 0..crate::IMAGE_LEN {
        let mut bytes = *sealed.as_bytes();
        bytes[at] ^= 0x10;
        let image = crate::Image::from_block(&bytes);
        assert!(crate::Record::decode(&image, 7).is_err(), "byte {at}");
        assert!(crate::Slot::decode(&image, 1, 7).is_err());
    }
    let mut state = 1_u64;
    for _ in 0..100_000 {
        // Valid checksums over nonsense, which a hostile host on the same disk can write.
        let mut bytes = *sealed.as_bytes();
        for _ in 0..8 {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            let at = (state >> 33) as usize % crate::CHECKSUM_AT;
            bytes[at] = state.to_le_bytes()[5];
        }
        let image = crate::Image::sealed(bytes);
        if let Ok(record) = crate::Record::decode(&image, 7) {
            assert!(record.holders().count() <= 64);
        }
        let _ = crate::Slot::decode(&image, 1, 7).map(|slot| slot.name().len());
    }
}
