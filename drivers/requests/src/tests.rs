//! Devices that lose interrupts, get stuck, lie, come back after a reset or do not.

use crate::{Answer, Operation, Queue, Request, Requests, TooLong, Watch};
use alloc::vec::Vec;
use api::block::{BlockError, Buffer};
use api::time::HostInstant;
use core::cell::RefCell;
use core::task::{Poll, Waker};
use std::collections::VecDeque;
use std::rc::Rc;

const PATIENCE: u64 = 1000;
const SLOTS: u16 = 4;

#[derive(Default)]
struct Line {
    sent: Vec<(u16, Request)>,
    answers: VecDeque<(u16, Answer)>,
    gone: bool,
}

#[derive(Clone, Default)]
struct Fake(Rc<RefCell<Line>>);

impl Queue for Fake {
    fn slots(&self) -> u16 {
        SLOTS
    }

    fn submit(&mut self, slot: u16, request: &Request, pages: &[u64]) -> Result<(), TooLong> {
        if pages.len() > 8 {
            return Err(TooLong);
        }
        self.0.borrow_mut().sent.push((slot, *request));
        Ok(())
    }

    fn complete(&mut self) -> Option<(u16, Answer)> {
        self.0.borrow_mut().answers.pop_front()
    }

    fn is_gone(&self) -> bool {
        self.0.borrow().gone
    }
}

fn at(nanos: u64) -> HostInstant {
    HostInstant::from_nanos(nanos)
}

fn new() -> (Fake, Requests<Fake>) {
    let fake = Fake::default();
    (fake.clone(), Requests::new(fake, PATIENCE))
}

fn request(operation: Operation) -> Request {
    Request {
        operation,
        lba: 0,
        blocks: 1,
    }
}

fn try_send(
    requests: &mut Requests<Fake>,
    operation: Operation,
    now: u64,
) -> Poll<Result<u16, BlockError>> {
    let mut parts = Some((Vec::from([0]), Buffer::copied_from(&[7; 512])));
    let sent = requests.send(at(now), &request(operation), &mut parts, Waker::noop());
    sent.map(|sent| sent.map(|(slot, _)| slot))
}

fn send(requests: &mut Requests<Fake>, operation: Operation, now: u64) -> u16 {
    match try_send(requests, operation, now) {
        Poll::Ready(Ok(slot)) => slot,
        other => panic!("not sent: {other:?}"),
    }
}

fn answer(requests: &mut Requests<Fake>, slot: u16) -> Option<(usize, Answer)> {
    match requests.poll(slot, Waker::noop()) {
        Poll::Ready((buffer, answer, _)) => Some((buffer.len(), answer)),
        Poll::Pending => None,
    }
}

const WRITE: Operation = Operation::Write { fua: true };

#[test]
fn an_answer_comes_once_with_its_buffer() {
    let (fake, mut requests) = new();
    let slot = send(&mut requests, Operation::Read, 0);
    assert_eq!(answer(&mut requests, slot), None);
    fake.0.borrow_mut().answers.push_back((slot, Ok(())));
    requests.take_completions();
    assert_eq!(answer(&mut requests, slot), Some((512, Ok(()))));
    assert_eq!(answer(&mut requests, slot), None);
}

#[test]
fn answers_to_nothing_change_nothing() {
    let (fake, mut requests) = new();
    let slot = send(&mut requests, Operation::Read, 0);
    for wrong in [slot + 1, SLOTS, u16::MAX] {
        fake.0.borrow_mut().answers.push_back((wrong, Ok(())));
    }
    requests.take_completions();
    assert_eq!(answer(&mut requests, slot), None);
    // The same answer twice: the second is nobody's.
    let error = Err(BlockError::Gone);
    fake.0
        .borrow_mut()
        .answers
        .extend([(slot, Ok(())), (slot, error)]);
    requests.take_completions();
    assert_eq!(answer(&mut requests, slot), Some((512, Ok(()))));
}

#[test]
fn a_full_queue_makes_others_wait_until_a_slot_is_free() {
    let (fake, mut requests) = new();
    let slots: Vec<u16> = (0..SLOTS)
        .map(|_| send(&mut requests, Operation::Read, 0))
        .collect();
    assert!(try_send(&mut requests, Operation::Read, 0).is_pending());
    fake.0.borrow_mut().answers.push_back((slots[2], Ok(())));
    requests.take_completions();
    assert!(
        try_send(&mut requests, Operation::Read, 0).is_pending(),
        "its owner has not looked"
    );
    assert!(answer(&mut requests, slots[2]).is_some());
    assert_eq!(send(&mut requests, Operation::Read, 0), slots[2]);
}

#[test]
fn an_abandoned_request_keeps_its_slot_until_the_answer() {
    let (fake, mut requests) = new();
    let slot = send(&mut requests, WRITE, 0);
    requests.abandon(slot);
    assert!(requests.drained(Waker::noop()).is_pending());
    assert_ne!(send(&mut requests, WRITE, 0), slot);
    fake.0.borrow_mut().answers.push_back((slot, Ok(())));
    assert_eq!(requests.take_completions().len(), 1, "who drains is woken");
    assert!(requests.drained(Waker::noop()).is_ready());
    assert_eq!(send(&mut requests, WRITE, 0), slot);
}

#[test]
fn a_lost_interrupt_is_found_by_the_watch() {
    let (fake, mut requests) = new();
    assert_eq!(requests.watch(at(0), Waker::noop()), Watch::Idle);
    let slot = send(&mut requests, Operation::Read, 0);
    assert_eq!(requests.watch(at(PATIENCE - 1), Waker::noop()), Watch::Busy);
    fake.0.borrow_mut().answers.push_back((slot, Ok(())));
    // Whoever watches takes completions first.
    requests.take_completions();
    assert_eq!(requests.watch(at(PATIENCE), Waker::noop()), Watch::Idle);
    assert_eq!(answer(&mut requests, slot), Some((512, Ok(()))));
}

#[test]
fn the_first_request_after_idleness_wakes_the_watcher_and_no_other() {
    let (_, mut requests) = new();
    requests.watch(at(0), Waker::noop());
    let woken = |requests: &mut Requests<Fake>| {
        let mut parts = Some((Vec::new(), Buffer::zeroed(0)));
        let sent = requests.send(at(0), &request(Operation::Flush), &mut parts, Waker::noop());
        matches!(sent, Poll::Ready(Ok((_, Some(_)))))
    };
    assert!(woken(&mut requests));
    assert!(!woken(&mut requests));
}

#[test]
fn a_reset_sends_reads_again_once_and_ends_writes() {
    let (fake, mut requests) = new();
    let read = send(&mut requests, Operation::Read, 0);
    let write = send(&mut requests, WRITE, 0);
    let left = send(&mut requests, Operation::Read, 0);
    requests.abandon(left);
    assert_eq!(requests.watch(at(PATIENCE), Waker::noop()), Watch::Overdue);
    assert!(requests.stop().is_some());
    assert!(requests.stop().is_none(), "somebody resets it already");
    assert!(try_send(&mut requests, WRITE, PATIENCE).is_pending());
    fake.0.borrow_mut().sent.clear();
    requests.restart(at(PATIENCE), fake.clone());
    assert_eq!(fake.0.borrow().sent, [(read, request(Operation::Read))]);
    assert!(requests.drained(Waker::noop()).is_ready());
    assert_eq!(
        answer(&mut requests, write),
        Some((512, Err(BlockError::TimedOut)))
    );
    // Stuck again: enough.
    assert_eq!(
        requests.watch(at(2 * PATIENCE), Waker::noop()),
        Watch::Overdue
    );
    requests.stop();
    requests.restart(at(2 * PATIENCE), fake.clone());
    assert_eq!(
        answer(&mut requests, read),
        Some((512, Err(BlockError::TimedOut)))
    );
    assert_eq!(requests.watch(at(2 * PATIENCE), Waker::noop()), Watch::Idle);
}

#[test]
fn a_device_beyond_help_keeps_the_buffers_that_it_may_use() {
    let (fake, mut requests) = new();
    let write = send(&mut requests, WRITE, 0);
    fake.0.borrow_mut().gone = true;
    assert_eq!(requests.watch(at(0), Waker::noop()), Watch::Gone);
    requests.give_up();
    assert_eq!(
        answer(&mut requests, write),
        Some((0, Err(BlockError::Gone)))
    );
    assert_eq!(
        try_send(&mut requests, WRITE, 0),
        Poll::Ready(Err(BlockError::Gone))
    );
    assert!(requests.drained(Waker::noop()).is_ready());
}

#[test]
fn what_is_too_long_is_refused_and_comes_back() {
    let (_, mut requests) = new();
    let mut parts = Some(([0; 9].to_vec(), Buffer::zeroed(9 * 4096)));
    let sent = requests.send(at(0), &request(WRITE), &mut parts, Waker::noop());
    assert!(matches!(sent, Poll::Ready(Err(BlockError::Invalid))));
    assert!(parts.is_some());
    assert_eq!(requests.watch(at(0), Waker::noop()), Watch::Idle);
}

/// Random calls: every request ends at most once, with its own buffer, and no slot is in two hands.
#[test]
fn random_devices_never_confuse_requests() {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..200 {
        let (fake, mut requests) = new();
        let mut held: Vec<u16> = Vec::new();
        for now in 0..300 {
            match next() % 12 {
                0..4 => {
                    let operation = if next().is_multiple_of(2) {
                        WRITE
                    } else {
                        Operation::Read
                    };
                    if let Poll::Ready(Ok(slot)) = try_send(&mut requests, operation, now) {
                        assert!(!held.contains(&slot));
                        held.push(slot);
                    }
                }
                4..7 => {
                    let answer = (next() as u16 % (SLOTS + 2), Ok(()));
                    fake.0.borrow_mut().answers.push_back(answer);
                    requests.take_completions();
                }
                7..9 if !held.is_empty() => {
                    let at = next() as usize % held.len();
                    if let Some((len, answer)) = answer(&mut requests, held[at]) {
                        assert!(len == 512 || answer == Err(BlockError::Gone));
                        held.swap_remove(at);
                    }
                }
                9 if !held.is_empty() => {
                    let slot = held.swap_remove(next() as usize % held.len());
                    requests.abandon(slot);
                }
                10 if next().is_multiple_of(4) => {
                    if requests.stop().is_some() {
                        requests.restart(at(now), fake.clone());
                    }
                }
                11 if next().is_multiple_of(64) => drop(requests.give_up()),
                _ => drop(requests.watch(at(now), Waker::noop())),
            }
        }
    }
}

/// A device that always has one more answer to what nobody asked.
struct Chatter(u32);

impl Queue for Chatter {
    fn slots(&self) -> u16 {
        SLOTS
    }

    fn submit(&mut self, _: u16, _: &Request, _: &[u64]) -> Result<(), TooLong> {
        Ok(())
    }

    fn complete(&mut self) -> Option<(u16, Answer)> {
        self.0 += 1;
        assert!(self.0 < 1000, "a loop without an end");
        Some((77, Ok(())))
    }

    fn is_gone(&self) -> bool {
        false
    }
}

#[test]
fn a_device_that_never_stops_answering_holds_nobody_up() {
    let mut requests = Requests::new(Chatter(0), PATIENCE);
    assert!(requests.take_completions().is_empty());
}
