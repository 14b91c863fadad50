//! A controller made of registers and memory, which does what it is told, or misbehaves on purpose.

use crate::{
    Controller, Operation, PAGE, Refused, Request, SHARED_BYTES, SLOTS, StartError, Status,
};
use api::port::{Registers, SharedMemory};
use api::time::{Clock, HostInstant};
use core::cell::{Cell, RefCell};
use core::future::{Future, ready};
use core::pin::pin;
use core::task::{Context, Poll, Waker};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::vec;
use std::vec::Vec;

const SHARED_AT: u64 = 0x10_0000;
/// Where the data pages of the tests are.
const DATA_AT: u64 = 0x20_0000;
const BLOCK: usize = 512;

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
}

#[derive(Default)]
struct State {
    registers: BTreeMap<u32, u32>,
    memory: Vec<u8>,
    data: Vec<u8>,
    disk: Vec<u8>,
    fault: Fault,
    /// Commands and completions so far, of the admin and the I/O queue.
    taken: [u32; 2],
    given: [u32; 2],
    flushes: u32,
}

#[derive(Clone, Default)]
struct Fake(Rc<RefCell<State>>);

impl Fake {
    fn new(fault: Fault) -> Self {
        let this = Self::default();
        {
            let mut state = this.0.borrow_mut();
            state.memory = vec![0; SHARED_BYTES];
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
            let base = SHARED_AT + [0, 2 * PAGE as u64][queue];
            let at = base + u64::from(self.taken[queue] % 64) * 64;
            self.taken[queue] += 1;
            let first = self.word(at);
            if queue == 0 && self.fault == Fault::SilentAdmin {
                continue;
            }
            if queue == 1 && self.fault == Fault::Ghosts {
                self.answer(queue, 77, 0);
            }
            let status = if queue == 0 {
                self.admin(first as u8, at)
            } else {
                self.io(first as u8, at)
            };
            self.answer(queue, (first >> 16) as u16, status);
        }
    }

    fn answer(&mut self, queue: usize, id: u16, status: u16) {
        let place = self.given[queue];
        self.given[queue] += 1;
        let phase = u32::from((place / 64).is_multiple_of(2));
        let base = SHARED_AT + [PAGE as u64, 3 * PAGE as u64][queue];
        let word = u32::from(id) | phase << 16 | u32::from(status) << 17;
        let at = base + u64::from(place % 64) * 16 + 12;
        self.at(at, 4).copy_from_slice(&word.to_le_bytes());
    }

    fn admin(&mut self, opcode: u8, at: u64) -> u16 {
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
            (0x1c, _) => on,
            _ => 0,
        }
    }

    fn write32(&self, offset: u32, value: u32) {
        let mut state = self.0.borrow_mut();
        state.registers.insert(offset, value);
        match offset {
            0x1000 => state.run(0, value),
            0x1008 => state.run(1, value),
            _ => {}
        }
    }
}

impl SharedMemory for Fake {
    fn bus_address(&self) -> u64 {
        SHARED_AT
    }

    fn read32(&self, offset: usize) -> u32 {
        self.0.borrow_mut().word(SHARED_AT + offset as u64)
    }

    fn write32(&self, offset: usize, value: u32) {
        let mut state = self.0.borrow_mut();
        state
            .at(SHARED_AT + offset as u64, 4)
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

fn start(fault: Fault) -> (Fake, Result<Controller<Fake, Fake>, StartError>) {
    let fake = Fake::new(fault);
    let clock = Jump::default();
    let mut future = pin!(Controller::start(fake.clone(), fake.clone(), &clock));
    match future
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
    {
        Poll::Ready(result) => (fake.clone(), result),
        Poll::Pending => panic!("nothing here waits for anybody"),
    }
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
fn data_comes_back_whatever_the_number_of_pages() {
    let (fake, controller) = start(Fault::None);
    let mut controller = controller.unwrap();
    for count in [1, 2, 3, 7] {
        let pages = pages(count);
        let blocks = (count * PAGE / BLOCK) as u32;
        for (n, page) in pages.iter().enumerate() {
            fake.0.borrow_mut().at(*page, PAGE).fill(0x40 + n as u8);
        }
        let write = request(Operation::Write { fua: false }, 16, blocks);
        let slot = controller.submit(&write, &pages).unwrap();
        assert_eq!(controller.complete(), Some((slot, Status(0))));
        for page in &pages {
            fake.0.borrow_mut().at(*page, PAGE).fill(0);
        }
        let read = request(Operation::Read, 16, blocks);
        let slot = controller.submit(&read, &pages).unwrap();
        assert_eq!(controller.complete(), Some((slot, Status(0))));
        for (n, page) in pages.iter().enumerate() {
            let mut state = fake.0.borrow_mut();
            assert!(state.at(*page, PAGE).iter().all(|b| *b == 0x40 + n as u8));
        }
    }
    let flush = request(Operation::Flush, 0, 0);
    controller.submit(&flush, &[]).unwrap();
    let discard = request(Operation::Discard, 200, 4);
    controller.submit(&discard, &[]).unwrap();
    assert_eq!(fake.0.borrow().flushes, 1);
    assert_eq!(fake.0.borrow().disk[200 * BLOCK], 0xdd);
    assert_ne!(fake.0.borrow().disk[204 * BLOCK], 0xdd);
}

#[test]
fn the_rings_go_round() {
    let (_, controller) = start(Fault::None);
    let mut controller = controller.unwrap();
    let read = request(Operation::Read, 0, 8);
    for _ in 0..20 {
        let sent: Vec<u16> = (0..SLOTS)
            .map(|_| controller.submit(&read, &pages(1)).unwrap())
            .collect();
        assert_eq!(controller.submit(&read, &pages(1)), Err(Refused::Full));
        for slot in sent {
            assert_eq!(controller.complete(), Some((slot, Status(0))));
            controller.release(slot);
        }
        assert_eq!(controller.complete(), None);
    }
    let long = pages(crate::PAGES_MAX + 1);
    assert_eq!(controller.submit(&read, &long), Err(Refused::TooLong));
}

#[test]
fn errors_reach_whoever_asked() {
    let (_, controller) = start(Fault::BadMedium);
    let mut controller = controller.unwrap();
    let slot = controller
        .submit(&request(Operation::Read, 3, 8), &pages(1))
        .unwrap();
    assert_eq!(controller.complete(), Some((slot, Status(0x281))));
    let beyond = request(Operation::Write { fua: true }, 255, 8);
    let slot = controller.submit(&beyond, &pages(1)).unwrap();
    assert_eq!(controller.complete(), Some((slot, Status(0x80))));
}

#[test]
fn answers_to_nothing_are_ignored() {
    let (_, controller) = start(Fault::Ghosts);
    let mut controller = controller.unwrap();
    for _ in 0..50 {
        let slot = controller
            .submit(&request(Operation::Read, 0, 8), &pages(1))
            .unwrap();
        assert_eq!(controller.complete(), Some((slot, Status(0))));
        assert_eq!(controller.complete(), None);
        controller.release(slot);
    }
}

#[test]
fn a_slot_is_its_owners_until_the_release() {
    let (_, controller) = start(Fault::None);
    let mut controller = controller.unwrap();
    let read = request(Operation::Read, 0, 8);
    let first = controller.submit(&read, &pages(1)).unwrap();
    controller.release(first);
    let second = controller.submit(&read, &pages(1)).unwrap();
    assert_ne!(first, second, "the device has not answered yet");
    assert_eq!(controller.complete(), Some((first, Status(0))));
    let third = controller.submit(&read, &pages(1)).unwrap();
    assert!(
        ![first, second].contains(&third),
        "nobody has taken the answer yet"
    );
    controller.release(first);
    assert_eq!(controller.submit(&read, &pages(1)), Ok(first));
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
