//! A controller made of registers and memory, which does what it is told, or misbehaves on purpose.

mod fuzz;

use crate::{Controller, IoQueue, PAGE, QUEUE_BYTES, SLOTS, StartError};
use api::block::{BlockError, Buffer};
use api::port::{Registers, SharedMemory};
use api::time::{Clock, HostInstant};
use core::cell::{Cell, RefCell};
use core::future::{Future, ready};
use core::pin::pin;
use core::task::{Context, Poll, Waker};
use requests::{Operation, Queue, Request, Requests, Watch};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::vec;
use std::vec::Vec;

const SHARED_AT: u64 = 0x10_0000;
/// Where the data pages of the tests are.
const DATA_AT: u64 = 0x20_0000;
const BLOCK: usize = 512;
/// Queues that the fake has, and that the tests ask for.
const QUEUES: usize = 3;
const WANTED: usize = 4;
/// Where the queues' memory begins in the shared memory.
const FIRST_QUEUE: usize = 4 * PAGE;
const PATIENCE: u64 = 1_000_000_000;

/// How the fake misbehaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Fault {
    #[default]
    None,
    NeverReady,
    Fatal,
    Gone,
    SilentAdmin,
    NoNamespace,
    MetadataBlocks,
    /// Completes commands that nobody sent, before each of ours.
    Ghosts,
    /// Reads end with an unrecovered error.
    BadMedium,
    /// Takes I/O commands and never answers, until it is reset.
    Stuck,
    /// As before, and it does not even become off.
    StuckForGood,
    /// Answers with the next slot's number.
    WrongNumber,
}

#[derive(Default)]
struct State {
    registers: BTreeMap<u32, u32>,
    memory: Vec<u8>,
    data: Vec<u8>,
    disk: Vec<u8>,
    fault: Fault,
    /// Commands and completions so far, of the admin and the I/O queues; where their rings are.
    taken: [u32; QUEUES + 1],
    given: [u32; QUEUES + 1],
    submissions: [u64; QUEUES + 1],
    completions: [u64; QUEUES + 1],
    /// The messages by which queues interrupt.
    messages: [u32; QUEUES + 1],
    resets: u32,
    flushes: u32,
}

#[derive(Clone, Default)]
struct Fake(Rc<RefCell<State>>);

impl Fake {
    fn new(fault: Fault) -> Self {
        let this = Self::default();
        {
            let mut state = this.0.borrow_mut();
            state.memory = vec![0; FIRST_QUEUE + WANTED * QUEUE_BYTES];
            state.data = vec![0; 128 * PAGE];
            state.disk = (0..256 * BLOCK).map(|n| (n / BLOCK) as u8).collect();
            state.fault = fault;
        }
        this
    }
}

impl State {
    /// Bytes at a bus address.
    fn at(&mut self, address: u64, len: usize) -> &mut [u8] {
        if address >= DATA_AT {
            let at = (address - DATA_AT) as usize;
            &mut self.data[at..at + len]
        } else {
            let at = (address - SHARED_AT) as usize;
            &mut self.memory[at..at + len]
        }
    }

    fn word(&mut self, address: u64) -> u32 {
        u32::from_le_bytes(self.at(address, 4).try_into().unwrap())
    }

    fn long(&mut self, address: u64) -> u64 {
        u64::from(self.word(address)) | u64::from(self.word(address + 4)) << 32
    }

    fn run(&mut self, queue: usize, tail: u32) {
        while self.taken[queue] % 64 != tail {
            let at = self.submissions[queue] + u64::from(self.taken[queue] % 64) * 64;
            self.taken[queue] += 1;
            let first = self.word(at);
            if queue == 0 && self.fault == Fault::SilentAdmin {
                continue;
            }
            if queue != 0 && matches!(self.fault, Fault::Stuck | Fault::StuckForGood) {
                continue;
            }
            if queue != 0 && self.fault == Fault::Ghosts {
                self.answer(queue, 77, 0);
            }
            let status = if queue == 0 {
                self.admin(first as u8, at)
            } else {
                self.io(first as u8, at)
            };
            let wrong = u16::from(queue != 0 && self.fault == Fault::WrongNumber);
            self.answer(queue, (first >> 16) as u16 + wrong, status);
        }
    }

    fn answer(&mut self, queue: usize, id: u16, status: u16) {
        let place = self.given[queue];
        self.given[queue] += 1;
        let phase = u32::from((place / 64).is_multiple_of(2));
        let base = self.completions[queue];
        let word = u32::from(id) | phase << 16 | u32::from(status) << 17;
        let at = base + u64::from(place % 64) * 16 + 12;
        self.at(at, 4).copy_from_slice(&word.to_le_bytes());
    }

    fn admin(&mut self, opcode: u8, at: u64) -> u16 {
        let (number, address) = (self.word(at + 40) as usize & 0xffff, self.long(at + 24));
        match opcode {
            1 => self.submissions[number] = address,
            5 => {
                self.completions[number] = address;
                self.messages[number] = self.word(at + 44) >> 16;
            }
            9 => {
                let place = self.completions[0] + u64::from(self.given[0] % 64) * 16;
                let granted = (QUEUES as u32 - 1) * 0x1_0001;
                self.at(place, 4).copy_from_slice(&granted.to_le_bytes());
            }
            _ => {}
        }
        if opcode != 6 {
            return 0;
        }
        let (page, what) = (self.long(at + 24), self.word(at + 40));
        let fault = self.fault;
        let page = self.at(page, PAGE);
        page.fill(0);
        if what == 1 {
            page[4..10].copy_from_slice(b"SERIAL");
            page[24..34].copy_from_slice(b"Fake Model");
            page[77] = 5;
            page[520] = 0xc;
            page[525] = 1;
        } else if fault != Fault::NoNamespace {
            page[0] = 0;
            page[1] = 1;
            page[128 + 2] = 9;
            page[128] = u8::from(fault == Fault::MetadataBlocks) * 8;
        }
        0
    }

    fn io(&mut self, opcode: u8, at: u64) -> u16 {
        if opcode == 0 {
            self.flushes += 1;
            return 0;
        }
        let lba = self.long(at + 40) as usize;
        let len = ((self.word(at + 48) & 0xffff) as usize + 1) * BLOCK;
        if opcode == 9 {
            let range = self.long(at + 24);
            let (blocks, first) = (self.word(range + 4), self.long(range + 8));
            self.disk[first as usize * BLOCK..][..blocks as usize * BLOCK].fill(0xdd);
            return 0;
        }
        if lba * BLOCK + len > self.disk.len() {
            return 0x80;
        }
        if opcode == 2 && self.fault == Fault::BadMedium {
            return 0x281;
        }
        let pages = self.pages(at, len);
        for (index, page) in pages.into_iter().enumerate() {
            let piece = (len - index * PAGE).min(PAGE);
            let start = lba * BLOCK + index * PAGE;
            if opcode == 2 {
                let bytes = self.disk[start..start + piece].to_vec();
                self.at(page, piece).copy_from_slice(&bytes);
            } else {
                let bytes = self.at(page, piece).to_vec();
                self.disk[start..start + piece].copy_from_slice(&bytes);
            }
        }
        0
    }

    fn pages(&mut self, at: u64, len: usize) -> Vec<u64> {
        let count = len.div_ceil(PAGE);
        let (first, second) = (self.long(at + 24), self.long(at + 32));
        match count {
            1 => vec![first],
            2 => vec![first, second],
            _ => {
                let rest = (0..count as u64 - 1).map(|n| self.long(second + 8 * n));
                let rest: Vec<u64> = rest.collect();
                [first].into_iter().chain(rest).collect()
            }
        }
    }
}

impl Registers for Fake {
    fn read32(&self, offset: u32) -> u32 {
        let state = self.0.borrow();
        let on = state.registers.get(&0x14).copied().unwrap_or(0) & 1;
        match (offset, state.fault) {
            (_, Fault::Gone) => u32::MAX,
            (0, _) => 0x0200_003f,
            (4, _) => 0,
            (0x1c, Fault::NeverReady) => 0,
            (0x1c, Fault::Fatal) => on << 1,
            (0x1c, Fault::StuckForGood) => 1,
            (0x1c, _) => on,
            _ => 0,
        }
    }

    fn write32(&self, offset: u32, value: u32) {
        let mut state = self.0.borrow_mut();
        state.registers.insert(offset, value);
        match offset {
            0x14 if value & 1 == 0 => {
                state.taken = Default::default();
                state.given = Default::default();
                state.resets += 1;
            }
            0x28 => state.submissions[0] = u64::from(value),
            0x30 => state.completions[0] = u64::from(value),
            // Doorbells of submissions; those of completions lie between.
            0x1000.. if offset.is_multiple_of(8) => {
                state.run((offset as usize - 0x1000) / 8, value)
            }
            _ => {}
        }
    }
}

/// A part of the shared memory.
struct Memory(Fake, usize);

impl SharedMemory for Memory {
    fn bus_address(&self) -> u64 {
        SHARED_AT + self.1 as u64
    }

    fn read32(&self, offset: usize) -> u32 {
        self.0
            .0
            .borrow_mut()
            .word(self.bus_address() + offset as u64)
    }

    fn write32(&self, offset: usize, value: u32) {
        let mut state = self.0.0.borrow_mut();
        state
            .at(self.bus_address() + offset as u64, 4)
            .copy_from_slice(&value.to_le_bytes());
    }
}

/// A clock that jumps to whatever is waited for.
#[derive(Default)]
struct Jump(Cell<u64>);

impl Clock for Jump {
    fn now(&self) -> HostInstant {
        HostInstant::from_nanos(self.0.get())
    }

    fn sleep_until(&self, deadline: HostInstant) -> impl Future<Output = ()> {
        self.0.set(deadline.as_nanos());
        ready(())
    }
}

/// Runs a future that waits for nobody.
fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => panic!("nothing here waits for anybody"),
    }
}

type Controlled = Controller<Fake, Memory>;
type Io = IoQueue<Fake, Memory>;

fn start(fault: Fault) -> (Fake, Result<Controlled, StartError>) {
    let fake = Fake::new(fault);
    let memory = Memory(fake.clone(), 0);
    let result = now(Controller::start(fake.clone(), memory, &Jump::default()));
    (fake, result)
}

fn start_queues(fault: Fault) -> (Fake, Controlled, Vec<Io>) {
    let (fake, controller) = start(fault);
    let mut controller = controller.unwrap();
    let memories = (0..WANTED).map(|n| Memory(fake.clone(), FIRST_QUEUE + n * QUEUE_BYTES));
    let queues = now(controller.make_queues(memories.collect(), &Jump::default())).unwrap();
    (fake, controller, queues)
}

fn request(operation: Operation, lba: u64, blocks: u32) -> Request {
    Request {
        operation,
        lba,
        blocks,
    }
}

fn pages(count: usize) -> Vec<u64> {
    // Backwards, so that nothing works by luck.
    (0..count)
        .map(|n| DATA_AT + ((count - n) * PAGE) as u64)
        .collect()
}

#[test]
fn it_says_what_it_is() {
    let (_, controller) = start(Fault::None);
    let identity = controller.unwrap().identity().clone();
    assert_eq!(
        (&*identity.model, &*identity.serial),
        ("Fake Model", "SERIAL")
    );
    assert_eq!((identity.block_bytes, identity.blocks), (512, 256));
    assert_eq!(identity.pages_max, 32);
    assert!(identity.has_cache && identity.can_discard && identity.can_zero);
}

#[test]
fn there_are_as_many_queues_as_the_controller_has() {
    let (fake, _, queues) = start_queues(Fault::None);
    assert_eq!(queues.len(), QUEUES);
    assert_eq!(fake.0.borrow().messages, [0, 0, 1, 2]);
}

#[test]
fn data_comes_back_whatever_the_number_of_pages() {
    let (fake, _, mut queues) = start_queues(Fault::None);
    for (queue, count) in (0..3).flat_map(|queue| [1, 2, 3, 7].map(|count| (queue, count))) {
        let queue = &mut queues[queue];
        let pages = pages(count);
        let blocks = (count * PAGE / BLOCK) as u32;
        for (n, page) in pages.iter().enumerate() {
            fake.0.borrow_mut().at(*page, PAGE).fill(0x40 + n as u8);
        }
        let write = request(Operation::Write { fua: false }, 16, blocks);
        queue.submit(5, &write, &pages).unwrap();
        assert_eq!(queue.complete(), Some((5, Ok(()))));
        for page in &pages {
            fake.0.borrow_mut().at(*page, PAGE).fill(0);
        }
        let read = request(Operation::Read, 16, blocks);
        queue.submit(31, &read, &pages).unwrap();
        assert_eq!(queue.complete(), Some((31, Ok(()))));
        for (n, page) in pages.iter().enumerate() {
            let mut state = fake.0.borrow_mut();
            assert!(state.at(*page, PAGE).iter().all(|b| *b == 0x40 + n as u8));
        }
    }
    let queue = &mut queues[1];
    queue
        .submit(0, &request(Operation::Flush, 0, 0), &[])
        .unwrap();
    let discard = request(Operation::Discard, 200, 4);
    queue.submit(1, &discard, &[]).unwrap();
    assert_eq!(fake.0.borrow().flushes, 1);
    assert_eq!(fake.0.borrow().disk[200 * BLOCK], 0xdd);
    assert_ne!(fake.0.borrow().disk[204 * BLOCK], 0xdd);
}

#[test]
fn the_rings_go_round() {
    let (_, _, mut queues) = start_queues(Fault::None);
    let read = request(Operation::Read, 0, 8);
    for _ in 0..20 {
        for slot in 0..SLOTS {
            queues[0].submit(slot, &read, &pages(1)).unwrap();
        }
        for slot in 0..SLOTS {
            assert_eq!(queues[0].complete(), Some((slot, Ok(()))));
        }
        assert_eq!(queues[0].complete(), None);
    }
    let long = pages(crate::PAGES_MAX + 1);
    assert!(queues[0].submit(0, &read, &long).is_err());
}

#[test]
fn errors_reach_whoever_asked() {
    let (_, _, mut queues) = start_queues(Fault::BadMedium);
    let queue = &mut queues[0];
    queue
        .submit(1, &request(Operation::Read, 3, 8), &pages(1))
        .unwrap();
    let bad = Err(BlockError::Medium { lba: 3 });
    assert_eq!(queue.complete(), Some((1, bad)));
    let beyond = request(Operation::Write { fua: true }, 255, 8);
    queue.submit(2, &beyond, &pages(1)).unwrap();
    assert_eq!(queue.complete(), Some((2, Err(BlockError::Invalid))));
}

/// Sends a request by way of `requests`, with one page of data.
fn send(requests: &mut Requests<Io>, operation: Operation, nanos: u64) -> u16 {
    let mut parts = Some((pages(1), Buffer::zeroed(PAGE)));
    let at = HostInstant::from_nanos(nanos);
    let sent = requests.send(at, &request(operation, 8, 8), &mut parts, Waker::noop());
    match sent {
        Poll::Ready(Ok((slot, _))) => slot,
        other => panic!("not sent: {other:?}"),
    }
}

fn answer(requests: &mut Requests<Io>, slot: u16) -> Option<Result<(), BlockError>> {
    match requests.poll(slot, Waker::noop()) {
        Poll::Ready((_, answer, _)) => Some(answer),
        Poll::Pending => None,
    }
}

fn watch(requests: &mut Requests<Io>, nanos: u64) -> Watch {
    requests.take_completions();
    requests.watch(HostInstant::from_nanos(nanos), Waker::noop())
}

#[test]
fn answers_to_nothing_are_nobodys() {
    let (_, _, mut queues) = start_queues(Fault::Ghosts);
    let mut requests = Requests::new(queues.remove(0), PATIENCE);
    for _ in 0..50 {
        let slot = send(&mut requests, Operation::Read, 0);
        requests.take_completions();
        assert_eq!(answer(&mut requests, slot), Some(Ok(())));
    }
}

#[test]
fn a_wrong_number_leaves_the_request_to_the_watch() {
    let (fake, mut controller, mut queues) = start_queues(Fault::WrongNumber);
    let mut requests = Requests::new(queues.remove(0), PATIENCE);
    let slot = send(&mut requests, Operation::Read, 0);
    assert_eq!(watch(&mut requests, PATIENCE - 1), Watch::Busy);
    assert_eq!(watch(&mut requests, PATIENCE), Watch::Overdue);
    fake.0.borrow_mut().fault = Fault::None;
    requests.stop();
    let mut queues = now(controller.restart(&Jump::default())).unwrap();
    requests.restart(HostInstant::from_nanos(PATIENCE), queues.remove(0));
    requests.take_completions();
    assert_eq!(answer(&mut requests, slot), Some(Ok(())));
}

#[test]
fn a_stuck_controller_is_reset_and_serves_all_queues_again() {
    let (fake, mut controller, queues) = start_queues(Fault::None);
    let mut all: Vec<_> = queues
        .into_iter()
        .map(|q| Requests::new(q, PATIENCE))
        .collect();
    // The rings are somewhere in their middle.
    for _ in 0..100 {
        for requests in &mut all {
            let slot = send(requests, Operation::Read, 0);
            requests.take_completions();
            assert_eq!(answer(requests, slot), Some(Ok(())));
        }
    }
    fake.0.borrow_mut().fault = Fault::Stuck;
    let sent: Vec<_> = all
        .iter_mut()
        .map(|requests| {
            let read = send(requests, Operation::Read, 0);
            (read, send(requests, Operation::Write { fua: true }, 0))
        })
        .collect();
    assert_eq!(watch(&mut all[1], PATIENCE), Watch::Overdue);
    let resets = fake.0.borrow().resets;
    all.iter_mut().for_each(|requests| drop(requests.stop()));
    fake.0.borrow_mut().fault = Fault::None;
    let queues = now(controller.restart(&Jump::default())).unwrap();
    assert_eq!(fake.0.borrow().resets, resets + 1);
    for ((requests, queue), (read, write)) in all.iter_mut().zip(queues).zip(sent) {
        requests.restart(HostInstant::from_nanos(PATIENCE), queue);
        requests.take_completions();
        assert_eq!(answer(requests, read), Some(Ok(())));
        assert_eq!(answer(requests, write), Some(Err(BlockError::TimedOut)));
        let slot = send(requests, Operation::Write { fua: true }, PATIENCE);
        requests.take_completions();
        assert_eq!(answer(requests, slot), Some(Ok(())));
    }
}

#[test]
fn a_controller_that_cannot_be_reset_is_told_from_one_that_can() {
    let (fake, mut controller, _) = start_queues(Fault::None);
    fake.0.borrow_mut().fault = Fault::StuckForGood;
    let result = now(controller.restart(&Jump::default()));
    assert_eq!(result.err(), Some(StartError::Silent));
}

#[test]
fn surprise_removal_is_seen_at_the_next_look() {
    let (fake, mut controller, mut queues) = start_queues(Fault::None);
    let mut requests = Requests::new(queues.remove(0), PATIENCE);
    assert_eq!(watch(&mut requests, 0), Watch::Idle);
    fake.0.borrow_mut().fault = Fault::Gone;
    assert_eq!(watch(&mut requests, 1), Watch::Gone);
    let result = now(controller.restart(&Jump::default()));
    assert_eq!(result.err(), Some(StartError::Silent));
}

#[test]
fn controllers_that_do_not_start_are_refused() {
    for (fault, error) in [
        (Fault::NeverReady, StartError::Silent),
        (Fault::Gone, StartError::PageSize),
        (Fault::Fatal, StartError::Fatal),
        (Fault::SilentAdmin, StartError::Silent),
        (Fault::NoNamespace, StartError::Namespace),
        (Fault::MetadataBlocks, StartError::Namespace),
    ] {
        let (_, result) = start(fault);
        assert_eq!(result.err(), Some(error), "{fault:?}");
    }
}
