//! A device made of registers and memory, which does what it is told, or misbehaves on purpose.

mod fuzz;

use crate::{BlkQueue, Device, PAGE, PAGES_MAX, QUEUE_BYTES, StartError, Windows};
use api::block::{BlockError, Buffer};
use api::port::{NarrowRegisters, Registers, SharedMemory};
use api::time::{Clock, HostInstant};
use core::cell::{Cell, RefCell};
use core::future::{Future, ready};
use core::pin::pin;
use core::task::{Context, Poll, Waker};
use requests::{Operation, Request, Requests, Watch};
use std::rc::Rc;
use std::vec;
use std::vec::Vec;

const SHARED_AT: u64 = 0x10_0000;
const DATA_AT: u64 = 0x40_0000;
const BLOCK: usize = 512;
const BLOCKS: usize = 256;
const QUEUES: usize = 2;
const WANTED: usize = 3;
const PATIENCE: u64 = 1_000_000_000;
/// The block that cannot be read.
const BAD: u64 = 77;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Fault {
    #[default]
    None,
    Gone,
    NeverReset,
    OldDevice,
    NoAgreement,
    NoQueue,
    NoMessages,
    OddBlocks,
    SilentQueues,
    /// Takes requests and never answers, until it is reset.
    Stuck,
    /// Answers with another slot's number.
    WrongNumber,
    /// Answers without having written a status.
    NoStatus,
}

#[derive(Clone, Copy, Default)]
struct Ring {
    on: bool,
    size: u16,
    message: u16,
    places: [u64; 3],
    seen: u16,
    used: u16,
}

#[derive(Default)]
struct State {
    fault: Fault,
    memory: Vec<u8>,
    data: Vec<u8>,
    disk: Vec<u8>,
    status: u8,
    feature_half: u32,
    our_half: u32,
    our_features: u64,
    selected: usize,
    rings: [Ring; QUEUES],
    flushes: u32,
}

/// Which window of the device.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Common,
    Notify,
    Config,
}

#[derive(Clone)]
struct Fake(Rc<RefCell<State>>, Part);

impl State {
    fn at(&mut self, address: u64, len: usize) -> &mut [u8] {
        if address >= DATA_AT {
            let at = (address - DATA_AT) as usize;
            &mut self.data[at..at + len]
        } else {
            let at = (address - SHARED_AT) as usize;
            &mut self.memory[at..at + len]
        }
    }

    fn half(&mut self, address: u64) -> u16 {
        u16::from_le_bytes(self.at(address, 2).try_into().unwrap())
    }

    fn word(&mut self, address: u64) -> u32 {
        u32::from_le_bytes(self.at(address, 4).try_into().unwrap())
    }

    fn long(&mut self, address: u64) -> u64 {
        u64::from(self.word(address)) | u64::from(self.word(address + 4)) << 32
    }

    fn run(&mut self, queue: usize) {
        let ring = self.rings[queue];
        assert!(ring.on && self.status & 4 != 0, "the device runs");
        while self.rings[queue].seen != self.half(ring.places[1] + 2) {
            let seen = self.rings[queue].seen;
            self.rings[queue].seen = seen.wrapping_add(1);
            let entry = ring.places[1] + 4 + 2 * u64::from(seen % ring.size);
            let head = self.half(entry);
            if matches!(self.fault, Fault::Stuck | Fault::SilentQueues) {
                continue;
            }
            self.request(ring.places[0] + 16 * u64::from(head));
            let wrong = u16::from(self.fault == Fault::WrongNumber);
            self.answer(queue, u32::from(head + wrong));
        }
    }

    fn answer(&mut self, queue: usize, head: u32) {
        let ring = self.rings[queue];
        let place = ring.places[2] + 4 + 8 * u64::from(ring.used % ring.size);
        self.at(place, 4).copy_from_slice(&head.to_le_bytes());
        let used = ring.used.wrapping_add(1);
        self.rings[queue].used = used;
        let index = ring.places[2] + 2;
        self.at(index, 2).copy_from_slice(&used.to_le_bytes());
    }

    /// Does the request whose indirect table a descriptor names.
    fn request(&mut self, descriptor: u64) {
        assert_eq!(self.half(descriptor + 12), 4, "it is indirect");
        let (table, len) = (self.long(descriptor), self.word(descriptor + 8));
        let mut parts = Vec::new();
        let mut at = table;
        loop {
            assert!(at < table + u64::from(len));
            let flags = self.half(at + 12);
            parts.push((self.long(at), self.word(at + 8) as usize, flags & 2 != 0));
            if flags & 1 == 0 {
                break;
            }
            at = table + 16 * u64::from(self.half(at + 14));
        }
        let (header, status) = (parts.remove(0), parts.pop().unwrap());
        assert_eq!((header.1, header.2), (16, false));
        assert_eq!((status.1, status.2), (1, true));
        let (kind, sector) = (self.word(header.0), self.long(header.0 + 8));
        let result = self.perform(kind, sector, &parts);
        if self.fault != Fault::NoStatus {
            self.at(status.0, 1)[0] = result;
        }
    }

    fn perform(&mut self, kind: u32, sector: u64, parts: &[(u64, usize, bool)]) -> u8 {
        match kind {
            0 | 1 => {
                assert!(
                    parts.iter().all(|part| part.2 == (kind == 0)),
                    "which way data goes"
                );
                return self.transfer(kind == 0, sector, parts);
            }
            4 => self.flushes += 1,
            8 => self.at(parts[0].0, 20)[..7].copy_from_slice(b"SERIAL1"),
            11 | 13 => {
                let (first, count) = (self.long(parts[0].0), self.word(parts[0].0 + 8));
                let range = first as usize * BLOCK..(first as usize + count as usize) * BLOCK;
                self.disk[range].fill(if kind == 13 { 0 } else { 0xdd });
            }
            _ => return 2,
        }
        0
    }

    fn transfer(&mut self, reads: bool, sector: u64, parts: &[(u64, usize, bool)]) -> u8 {
        let len: usize = parts.iter().map(|part| part.1).sum();
        let mut at = sector as usize * BLOCK;
        let bad = (sector..sector + (len / BLOCK) as u64).contains(&BAD);
        if at + len > self.disk.len() || bad && reads {
            return 1;
        }
        for (address, len, _) in parts {
            if reads {
                let bytes = self.disk[at..at + len].to_vec();
                self.at(*address, *len).copy_from_slice(&bytes);
            } else {
                let bytes = self.at(*address, *len).to_vec();
                self.disk[at..at + len].copy_from_slice(&bytes);
            }
            at += len;
        }
        0
    }

    fn reset(&mut self) {
        self.rings = Default::default();
        if self.fault == Fault::Stuck {
            self.fault = Fault::None;
        }
    }
}

impl Registers for Fake {
    fn read32(&self, offset: u32) -> u32 {
        let state = self.0.borrow();
        if state.fault == Fault::Gone {
            return u32::MAX;
        }
        match (self.1, offset) {
            (Part::Common, 4) => {
                let version = u64::from(state.fault != Fault::OldDevice) << 32;
                let features: u64 =
                    version | 1 << 28 | 1 << 14 | 1 << 13 | 1 << 12 | 1 << 9 | 1 << 6;
                (features >> (32 * state.feature_half)) as u32
            }
            (Part::Config, 0) => BLOCKS as u32,
            (Part::Config, 20) if state.fault == Fault::OddBlocks => 700,
            (Part::Config, 20) => BLOCK as u32,
            (Part::Config, 36) => 1 << 20,
            (Part::Config, 48) => 1 << 10,
            (Part::Config, 4) => 0,
            (part, _) => panic!("read of {offset:#x}, {}", part as u8),
        }
    }

    fn write32(&self, offset: u32, value: u32) {
        let mut state = self.0.borrow_mut();
        assert!(self.1 == Part::Common);
        match offset {
            0 => state.feature_half = value,
            8 => state.our_half = value,
            12 => {
                let shift = 32 * state.our_half;
                let kept = state.our_features & !(0xffff_ffff << shift);
                state.our_features = kept | u64::from(value) << shift;
            }
            0x20..0x38 if offset.is_multiple_of(8) => {
                let selected = state.selected;
                state.rings[selected].places[(offset as usize - 0x20) / 8] = u64::from(value);
            }
            0x24 | 0x2c | 0x34 => assert_eq!(value, 0),
            _ => panic!("write of {offset:#x}"),
        }
    }
}

impl NarrowRegisters for Fake {
    fn read8(&self, offset: u32) -> u8 {
        let state = self.0.borrow();
        match (self.1, offset) {
            _ if state.fault == Fault::Gone => 0xff,
            (Part::Common, 0x14) if state.fault == Fault::NeverReset => 4,
            (Part::Common, 0x14) if state.fault == Fault::NoAgreement => state.status & !8,
            (Part::Common, 0x14) => state.status,
            (Part::Common, 0x15) => 3,
            _ => panic!("read of byte {offset:#x}"),
        }
    }

    fn write8(&self, offset: u32, value: u8) {
        assert_eq!(offset, 0x14);
        let mut state = self.0.borrow_mut();
        if value == 0 {
            state.reset();
        }
        state.status = value;
    }

    fn read16(&self, offset: u32) -> u16 {
        let state = self.0.borrow();
        match (self.1, offset) {
            (Part::Common, 0x18) if state.fault == Fault::NoQueue => 0,
            (Part::Common, 0x18) => 256,
            (Part::Common, 0x1a) if state.fault == Fault::NoMessages => 0xffff,
            (Part::Common, 0x1a) => state.rings[state.selected].message,
            (Part::Common, 0x1e) => state.selected as u16,
            (Part::Config, 34) => QUEUES as u16,
            _ => panic!("read of word {offset:#x}"),
        }
    }

    fn write16(&self, offset: u32, value: u16) {
        let mut state = self.0.borrow_mut();
        if self.1 == Part::Notify {
            assert_eq!(offset, 8 * u32::from(value));
            return state.run(usize::from(value));
        }
        let selected = state.selected;
        match offset {
            0x16 => state.selected = usize::from(value),
            0x18 => state.rings[selected].size = value,
            0x1a => state.rings[selected].message = value,
            0x1c => state.rings[selected].on = value == 1,
            _ => panic!("write of word {offset:#x}"),
        }
    }
}

/// A part of the shared memory.
struct Memory(Rc<RefCell<State>>, usize);

impl SharedMemory for Memory {
    fn bus_address(&self) -> u64 {
        SHARED_AT + self.1 as u64
    }

    fn read32(&self, offset: usize) -> u32 {
        self.0.borrow_mut().word(self.bus_address() + offset as u64)
    }

    fn write32(&self, offset: usize, value: u32) {
        let at = self.bus_address() + offset as u64;
        let mut state = self.0.borrow_mut();
        state.at(at, 4).copy_from_slice(&value.to_le_bytes());
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

type Shared = Rc<RefCell<State>>;
type Io = BlkQueue<Fake, Memory>;
type Started = (Device<Fake, Memory>, Vec<Io>);

fn try_start(fault: Fault) -> (Shared, Result<Started, StartError>) {
    let state = Rc::new(RefCell::new(State {
        fault,
        memory: vec![0; WANTED * QUEUE_BYTES],
        data: vec![0; (PAGES_MAX + 2) * PAGE],
        disk: (0..BLOCKS * BLOCK).map(|n| (n / BLOCK) as u8).collect(),
        ..State::default()
    }));
    let window = |part| Fake(Rc::clone(&state), part);
    let windows = Windows {
        common: window(Part::Common),
        notify: (window(Part::Notify), 8),
        device: window(Part::Config),
    };
    let memories = (0..WANTED).map(|n| Memory(Rc::clone(&state), n * QUEUE_BYTES));
    let result = now(async {
        let mut device = Device::start(windows, &Jump::default()).await?;
        let queues = device
            .make_queues(memories.collect(), &Jump::default())
            .await?;
        Ok((device, queues))
    });
    (state, result)
}

fn start() -> (Shared, Device<Fake, Memory>, Vec<Requests<Io>>) {
    let (state, result) = try_start(Fault::None);
    let (device, queues) = result.unwrap();
    let requests = queues
        .into_iter()
        .map(|queue| Requests::new(queue, PATIENCE));
    (state, device, requests.collect())
}

fn pages(count: usize) -> Vec<u64> {
    (0..count)
        .map(|n| DATA_AT + ((count - n) * PAGE) as u64)
        .collect()
}

fn send(requests: &mut Requests<Io>, operation: Operation, lba: u64, blocks: u32) -> u16 {
    let has_data = matches!(operation, Operation::Read | Operation::Write { .. });
    let count = (blocks as usize * BLOCK).div_ceil(PAGE);
    let pages = if has_data { pages(count) } else { Vec::new() };
    let request = Request {
        operation,
        lba,
        blocks,
    };
    let mut parts = Some((pages, Buffer::zeroed(0)));
    match requests.send(HostInstant::ZERO, &request, &mut parts, Waker::noop()) {
        Poll::Ready(Ok((slot, _))) => slot,
        other => panic!("not sent: {other:?}"),
    }
}

fn answer(requests: &mut Requests<Io>, slot: u16) -> Option<Result<(), BlockError>> {
    requests.take_completions();
    match requests.poll(slot, Waker::noop()) {
        Poll::Ready((_, answer, _)) => Some(answer),
        Poll::Pending => None,
    }
}

const WRITE: Operation = Operation::Write { fua: false };

#[test]
fn it_says_what_it_is() {
    let (state, device, queues) = start();
    let identity = device.identity();
    assert_eq!(&*identity.serial, "SERIAL1");
    assert_eq!(
        (identity.block_bytes, identity.blocks),
        (512, BLOCKS as u64)
    );
    // It takes too few sectors at a time to zero them.
    assert!(identity.has_cache && identity.can_discard && !identity.can_zero);
    assert_eq!(queues.len(), QUEUES);
    assert_eq!(state.borrow().rings[1].message, 1);
    assert_eq!(state.borrow().our_features >> 32, 1);
}

#[test]
fn data_comes_back_whatever_the_number_of_pages() {
    let (state, _, mut queues) = start();
    for (queue, blocks) in (0..QUEUES).flat_map(|queue| [1, 8, 9, 40].map(|n| (queue, n))) {
        let requests = &mut queues[queue];
        let count = (blocks as usize * BLOCK).div_ceil(PAGE);
        for (n, page) in pages(count).iter().enumerate() {
            state.borrow_mut().at(*page, PAGE).fill(0x40 + n as u8);
        }
        let slot = send(requests, WRITE, 100, blocks);
        assert_eq!(answer(requests, slot), Some(Ok(())));
        state.borrow_mut().data.fill(0);
        let slot = send(requests, Operation::Read, 100, blocks);
        assert_eq!(answer(requests, slot), Some(Ok(())));
        for (n, page) in pages(count).iter().enumerate() {
            let left = (blocks as usize * BLOCK - n * PAGE).min(PAGE);
            let mut state = state.borrow_mut();
            assert!(state.at(*page, left).iter().all(|b| *b == 0x40 + n as u8));
        }
    }
    let requests = &mut queues[0];
    for (operation, lba) in [
        (Operation::Flush, 0),
        (Operation::Discard, 200),
        (Operation::WriteZeroes, 204),
    ] {
        let slot = send(requests, operation, lba, 4);
        assert_eq!(answer(requests, slot), Some(Ok(())));
    }
    let state = state.borrow();
    assert_eq!(state.flushes, 1);
    let first_of = |block: usize| state.disk[block * BLOCK];
    assert_eq!([200, 204, 208].map(first_of), [0xdd, 0, 208]);
}

#[test]
fn the_rings_go_round() {
    let (_, _, mut queues) = start();
    for _ in 0..20 {
        let slots: Vec<u16> = (0..32)
            .map(|_| send(&mut queues[0], Operation::Read, 0, 8))
            .collect();
        for slot in slots {
            assert_eq!(answer(&mut queues[0], slot), Some(Ok(())));
        }
    }
}

#[test]
fn errors_reach_whoever_asked() {
    let (state, _, mut queues) = start();
    let slot = send(&mut queues[0], Operation::Read, BAD - 1, 8);
    let error = |lba| Some(Err(BlockError::Medium { lba }));
    assert_eq!(answer(&mut queues[0], slot), error(BAD - 1));
    state.borrow_mut().fault = Fault::NoStatus;
    let slot = send(&mut queues[0], Operation::Read, 5, 8);
    assert_eq!(answer(&mut queues[0], slot), error(5));
}

#[test]
fn a_stuck_device_is_reset_and_serves_all_queues_again() {
    for fault in [Fault::Stuck, Fault::WrongNumber] {
        let (state, mut device, mut queues) = start();
        for _ in 0..50 {
            let slot = send(&mut queues[0], Operation::Read, 0, 8);
            assert_eq!(answer(&mut queues[0], slot), Some(Ok(())));
        }
        state.borrow_mut().fault = fault;
        let read = send(&mut queues[0], Operation::Read, 0, 8);
        let write = send(&mut queues[1], WRITE, 0, 8);
        assert_eq!(answer(&mut queues[0], read), None);
        let late = HostInstant::from_nanos(PATIENCE);
        assert_eq!(queues[0].watch(late, Waker::noop()), Watch::Overdue);
        queues.iter_mut().for_each(|queue| drop(queue.stop()));
        state.borrow_mut().fault = Fault::None;
        let fresh = now(device.restart(&Jump::default())).unwrap();
        for (queue, fresh) in queues.iter_mut().zip(fresh) {
            queue.restart(late, fresh);
        }
        assert_eq!(answer(&mut queues[0], read), Some(Ok(())));
        assert_eq!(
            answer(&mut queues[1], write),
            Some(Err(BlockError::TimedOut))
        );
        let slot = send(&mut queues[1], WRITE, 0, 8);
        assert_eq!(answer(&mut queues[1], slot), Some(Ok(())));
    }
}

#[test]
fn a_device_that_is_pulled_out_is_gone() {
    let (state, mut device, mut queues) = start();
    assert_eq!(
        queues[0].watch(HostInstant::ZERO, Waker::noop()),
        Watch::Idle
    );
    state.borrow_mut().fault = Fault::Gone;
    assert_eq!(
        queues[0].watch(HostInstant::ZERO, Waker::noop()),
        Watch::Gone
    );
    let result = now(device.restart(&Jump::default()));
    assert_eq!(result.err(), Some(StartError::Silent));
}

#[test]
fn wild_answers_are_nobodys() {
    let (state, _, mut queues) = start();
    for head in [7, 40, 0x1_0000, u32::MAX] {
        state.borrow_mut().answer(0, head);
    }
    queues[0].take_completions();
    let slot = send(&mut queues[0], Operation::Read, 0, 8);
    assert_eq!(answer(&mut queues[0], slot), Some(Ok(())));
}

#[test]
fn devices_of_no_use_are_refused() {
    for (fault, error) in [
        (Fault::Gone, StartError::Silent),
        (Fault::NeverReset, StartError::Silent),
        (Fault::OldDevice, StartError::Features),
        (Fault::NoAgreement, StartError::Features),
        (Fault::NoQueue, StartError::Queues),
        (Fault::NoMessages, StartError::Queues),
        (Fault::OddBlocks, StartError::Blocks),
        (Fault::SilentQueues, StartError::Silent),
    ] {
        let (_, result) = try_start(fault);
        assert_eq!(result.map(|_| ()).err(), Some(error), "{fault:?}");
    }
}
