//! A channel with a disk, made of ports and memory, which does what it is told, or misbehaves on purpose.

mod fuzz;

use super::{CHANNEL_BYTES, Channel, ChannelDisk, PAGES_MAX, Place};
use crate::identity::tests::answer as identity;
use crate::{PAGE, StartError};
use api::block::{BlockError, Buffer};
use api::port::{Ports, SharedMemory};
use api::time::{Clock, HostInstant};
use core::cell::{Cell, RefCell};
use core::future::{Future, ready};
use core::pin::pin;
use core::task::{Context, Poll, Waker};
use requests::{Operation, Request, Requests, Watch};
use std::rc::Rc;
use std::vec;
use std::vec::Vec;

const PLACE: Place = Place {
    command: 0x170,
    control: 0x376,
    bus_master: 0xc008,
};
const SHARED_AT: u32 = 0x10_0000;
const DATA_AT: u64 = 0x20_0000;
const BLOCK: usize = 512;
const BLOCKS: usize = 256;
const PATIENCE: u64 = 1_000_000_000;
/// The block that cannot be read.
const BAD: u64 = 77;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Fault {
    #[default]
    None,
    Gone,
    Atapi,
    Busy,
    OldDisk,
    RefusesIdentify,
    /// Takes commands and never ends them, until it is reset.
    Stuck,
    /// As before, and the reset does not help.
    StuckForGood,
    /// Ends before it has moved everything.
    Short,
    /// Never gets ready for a command, until it is reset.
    NotReady,
}

#[derive(Default)]
struct State {
    fault: Fault,
    memory: Vec<u8>,
    data: Vec<u8>,
    disk: Vec<u8>,
    /// What was written to the registers of the command block, the newest first.
    written: [[u8; 2]; 8],
    status: u8,
    /// What is left of an answer that is read by programmed I/O.
    answer: Vec<u16>,
    master_command: u8,
    master_status: u8,
    table: u32,
    /// A command with data that waits for the bus master.
    waiting: Option<u8>,
    flushes: u32,
}

#[derive(Clone, Default)]
struct Fake(Rc<RefCell<State>>);

impl Fake {
    fn new(fault: Fault) -> Self {
        let mut state = State {
            fault,
            memory: vec![0; CHANNEL_BYTES],
            data: vec![0; (PAGES_MAX + 2) * PAGE],
            disk: (0..BLOCKS * BLOCK).map(|n| (n / BLOCK) as u8).collect(),
            ..State::default()
        };
        state.reset();
        Self(Rc::new(RefCell::new(state)))
    }
}

impl State {
    fn reset(&mut self) {
        self.status = 0x50;
        self.answer.clear();
        self.waiting = None;
        let ends = if self.fault == Fault::Atapi {
            [0x14, 0xeb]
        } else {
            [0, 0]
        };
        self.written = [0, 0, 1, 1, ends[0], ends[1], 0, 0].map(|byte| [byte, 0]);
        if matches!(self.fault, Fault::Stuck | Fault::NotReady) {
            self.fault = Fault::None;
        }
        if self.fault == Fault::Busy {
            self.status = 0xd0;
        }
    }

    fn status(&self) -> u8 {
        match self.fault {
            Fault::Gone => 0xff,
            Fault::NotReady | Fault::StuckForGood => self.status | 0x80,
            _ => self.status,
        }
    }

    fn at(&mut self, address: u64, len: usize) -> &mut [u8] {
        if address >= DATA_AT {
            let at = (address - DATA_AT) as usize;
            &mut self.data[at..at + len]
        } else {
            let at = (address - u64::from(SHARED_AT)) as usize;
            &mut self.memory[at..at + len]
        }
    }

    fn word(&mut self, address: u64) -> u32 {
        u32::from_le_bytes(self.at(address, 4).try_into().unwrap())
    }

    fn end(&mut self, good: bool) {
        self.status = 0x50 | u8::from(!good);
        self.master_status |= 4;
    }

    fn command(&mut self, code: u8) {
        match code {
            _ if matches!(self.fault, Fault::Stuck | Fault::StuckForGood) => self.status = 0xd0,
            0xec if self.fault == Fault::RefusesIdentify => self.status = 0x51,
            0xec => {
                let mut answer = identity();
                if self.fault == Fault::OldDisk {
                    answer[167] = 0;
                }
                let words = answer.chunks(2).rev();
                self.answer = words.map(|w| u16::from_le_bytes([w[0], w[1]])).collect();
                self.status = 0x58;
            }
            0xea => {
                self.flushes += 1;
                self.end(true);
            }
            0x06 | 0x25 | 0x35 | 0x3d => {
                self.status = 0xd0;
                self.waiting = Some(code);
                self.run();
            }
            other => panic!("command {other:#x}"),
        }
    }

    /// Moves data once both the device and the bus master have been told to.
    fn run(&mut self) {
        if self.master_command & 1 == 0 {
            return;
        }
        let Some(code) = self.waiting.take() else {
            return;
        };
        assert_eq!(
            self.master_command & 8 != 0,
            code == 0x25,
            "which way data goes"
        );
        let mut pages = Vec::new();
        for entry in (u64::from(self.table)..).step_by(8) {
            let (at, word) = (self.word(entry), self.word(entry + 4));
            pages.push((u64::from(at), (word & 0xffff) as usize));
            if word >> 31 != 0 {
                break;
            }
        }
        let byte = |register: usize, age: usize| self.written[register][age];
        let lba = [
            byte(3, 0),
            byte(4, 0),
            byte(5, 0),
            byte(3, 1),
            byte(4, 1),
            byte(5, 1),
            0,
            0,
        ];
        let lba = u64::from_le_bytes(lba);
        let count = u16::from_le_bytes([byte(2, 0), byte(2, 1)]);
        let moved: usize = pages.iter().map(|page| page.1).sum();
        assert_eq!(moved, usize::from(count) * BLOCK);
        if self.fault == Fault::Short {
            // The list of pages is not used up.
            self.master_status |= 1;
            return self.end(true);
        }
        let good = if code == 6 {
            self.discard(pages[0].0)
        } else {
            self.transfer(code == 0x25, lba, &pages)
        };
        self.end(good);
    }

    fn discard(&mut self, at: u64) -> bool {
        for n in 0..64 {
            let (low, high) = (self.word(at + 8 * n), self.word(at + 8 * n + 4));
            let range = u64::from(low) | u64::from(high) << 32;
            let (first, count) = (range & 0xffff_ffff_ffff, range >> 48);
            self.disk[first as usize * BLOCK..(first + count) as usize * BLOCK].fill(0xdd);
        }
        true
    }

    fn transfer(&mut self, reads: bool, lba: u64, pages: &[(u64, usize)]) -> bool {
        let mut at = lba as usize * BLOCK;
        let len: usize = pages.iter().map(|page| page.1).sum();
        let bad = (lba..lba + (len / BLOCK) as u64).contains(&BAD);
        if at + len > self.disk.len() || bad && reads {
            return false;
        }
        for (page, len) in pages {
            if reads {
                let bytes = self.disk[at..at + len].to_vec();
                self.at(*page, *len).copy_from_slice(&bytes);
            } else {
                let bytes = self.at(*page, *len).to_vec();
                self.disk[at..at + len].copy_from_slice(&bytes);
            }
            at += len;
        }
        true
    }
}

impl Ports for Fake {
    fn read8(&self, port: u16) -> u8 {
        let state = self.0.borrow();
        match port {
            0x376 | 0x177 => state.status(),
            0x170..0x177 if state.fault == Fault::Gone => 0xff,
            0x170..0x177 => state.written[usize::from(port - 0x170)][0],
            0xc00a => state.master_status,
            _ => panic!("read of port {port:#x}"),
        }
    }

    fn write8(&self, port: u16, value: u8) {
        let mut state = self.0.borrow_mut();
        match port {
            0x376 if value & 4 != 0 => state.reset(),
            0x376 => {}
            0x177 => state.command(value),
            0x170..0x177 => {
                let place = &mut state.written[usize::from(port - 0x170)];
                *place = [value, place[0]];
            }
            0xc008 => {
                state.master_command = value;
                if value & 1 == 0 {
                    state.master_status &= !1;
                }
                state.run();
            }
            0xc00a => state.master_status &= !(value & 6),
            _ => panic!("write of port {port:#x}"),
        }
    }

    fn read16(&self, port: u16) -> u16 {
        assert_eq!(port, 0x170);
        let mut state = self.0.borrow_mut();
        let word = state.answer.pop().expect("no more than there is");
        if state.answer.is_empty() {
            state.status = 0x50;
        }
        word
    }

    fn write32(&self, port: u16, value: u32) {
        assert_eq!(port, 0xc00c);
        self.0.borrow_mut().table = value;
    }
}

impl SharedMemory for Fake {
    fn bus_address(&self) -> u64 {
        u64::from(SHARED_AT)
    }

    fn read32(&self, offset: usize) -> u32 {
        let at = u64::from(SHARED_AT) + offset as u64;
        self.0.borrow_mut().word(at)
    }

    fn write32(&self, offset: usize, value: u32) {
        let at = u64::from(SHARED_AT) + offset as u64;
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

type Started = (ChannelDisk<Fake, Fake>, Channel<Fake, Fake>);

fn try_start(fault: Fault) -> (Fake, Result<Option<Started>, StartError>) {
    let fake = Fake::new(fault);
    let clock = Jump::default();
    let result = now(ChannelDisk::start(
        fake.clone(),
        fake.clone(),
        PLACE,
        &clock,
    ));
    (fake, result)
}

fn start() -> (Fake, ChannelDisk<Fake, Fake>, Requests<Channel<Fake, Fake>>) {
    let (fake, result) = try_start(Fault::None);
    let (disk, channel) = result.unwrap().unwrap();
    (fake, disk, Requests::new(channel, PATIENCE))
}

fn pages(count: usize) -> Vec<u64> {
    (0..count)
        .map(|n| DATA_AT + ((count - n) * PAGE) as u64)
        .collect()
}

fn try_send(
    requests: &mut Requests<Channel<Fake, Fake>>,
    request: &Request,
    pages: Vec<u64>,
) -> Poll<Result<u16, BlockError>> {
    let mut parts = Some((pages, Buffer::zeroed(0)));
    let sent = requests.send(HostInstant::ZERO, request, &mut parts, Waker::noop());
    sent.map(|sent| sent.map(|(slot, _)| slot))
}

fn send(
    requests: &mut Requests<Channel<Fake, Fake>>,
    operation: Operation,
    lba: u64,
    blocks: u32,
) -> u16 {
    let has_data = matches!(operation, Operation::Read | Operation::Write { .. });
    let count = (blocks as usize * BLOCK).div_ceil(PAGE);
    let pages = if has_data { pages(count) } else { Vec::new() };
    let request = Request {
        operation,
        lba,
        blocks,
    };
    match try_send(requests, &request, pages) {
        Poll::Ready(Ok(slot)) => slot,
        other => panic!("not sent: {other:?}"),
    }
}

fn answer(
    requests: &mut Requests<Channel<Fake, Fake>>,
    slot: u16,
) -> Option<Result<(), BlockError>> {
    requests.take_completions();
    match requests.poll(slot, Waker::noop()) {
        Poll::Ready((_, answer, _)) => Some(answer),
        Poll::Pending => None,
    }
}

#[test]
fn data_comes_back_whatever_the_number_of_pages() {
    let (fake, disk, mut requests) = start();
    assert_eq!(disk.identity().blocks, BLOCKS as u64);
    for blocks in [1, 8, 9, 40] {
        let count = (blocks as usize * BLOCK).div_ceil(PAGE);
        for (n, page) in pages(count).iter().enumerate() {
            fake.0.borrow_mut().at(*page, PAGE).fill(0x40 + n as u8);
        }
        let slot = send(&mut requests, Operation::Write { fua: false }, 100, blocks);
        assert_eq!(answer(&mut requests, slot), Some(Ok(())));
        fake.0.borrow_mut().data.fill(0);
        let slot = send(&mut requests, Operation::Read, 100, blocks);
        assert_eq!(answer(&mut requests, slot), Some(Ok(())));
        for (n, page) in pages(count).iter().enumerate() {
            let left = (blocks as usize * BLOCK - n * PAGE).min(PAGE);
            let mut state = fake.0.borrow_mut();
            assert!(state.at(*page, left).iter().all(|b| *b == 0x40 + n as u8));
        }
    }
    let flush = send(&mut requests, Operation::Flush, 0, 0);
    assert_eq!(answer(&mut requests, flush), Some(Ok(())));
    let discard = send(&mut requests, Operation::Discard, 200, 4);
    assert_eq!(answer(&mut requests, discard), Some(Ok(())));
    let state = fake.0.borrow();
    assert_eq!(state.flushes, 1);
    assert_eq!(
        (state.disk[200 * BLOCK], state.disk[204 * BLOCK]),
        (0xdd, 204)
    );
}

#[test]
fn the_second_request_waits_for_the_first() {
    let (fake, _, mut requests) = start();
    fake.0.borrow_mut().fault = Fault::Stuck;
    send(&mut requests, Operation::Read, 0, 8);
    let request = Request {
        operation: Operation::Read,
        lba: 0,
        blocks: 8,
    };
    assert!(try_send(&mut requests, &request, pages(1)).is_pending());
}

#[test]
fn errors_and_short_transfers_reach_whoever_asked() {
    let (fake, _, mut requests) = start();
    let slot = send(&mut requests, Operation::Read, BAD - 1, 8);
    let error = |lba| Some(Err(BlockError::Medium { lba }));
    assert_eq!(answer(&mut requests, slot), error(BAD - 1));
    fake.0.borrow_mut().fault = Fault::Short;
    let slot = send(&mut requests, Operation::Read, 5, 8);
    assert_eq!(answer(&mut requests, slot), error(5));
    fake.0.borrow_mut().fault = Fault::None;
    let slot = send(&mut requests, Operation::Read, 5, 8);
    assert_eq!(answer(&mut requests, slot), Some(Ok(())));
}

#[test]
fn a_stuck_channel_is_reset_and_goes_on() {
    for fault in [Fault::Stuck, Fault::NotReady] {
        for (operation, expected) in [
            (Operation::Read, Ok(())),
            (Operation::Write { fua: false }, Err(BlockError::TimedOut)),
        ] {
            let (fake, mut disk, mut requests) = start();
            fake.0.borrow_mut().fault = fault;
            let slot = send(&mut requests, operation, 0, 8);
            assert_eq!(answer(&mut requests, slot), None);
            let late = HostInstant::from_nanos(PATIENCE);
            assert_eq!(requests.watch(late, Waker::noop()), Watch::Overdue);
            drop(requests.stop());
            let channel = now(disk.restart(&Jump::default())).unwrap().remove(0);
            requests.restart(late, channel);
            assert_eq!(answer(&mut requests, slot), Some(expected), "{fault:?}");
        }
    }
}

#[test]
fn a_channel_that_stays_stuck_is_told() {
    let (fake, mut disk, _) = start();
    fake.0.borrow_mut().fault = Fault::StuckForGood;
    let result = now(disk.restart(&Jump::default()));
    assert_eq!(result.err(), Some(StartError::Silent));
}

#[test]
fn a_disk_that_is_pulled_out_is_gone() {
    let (fake, mut disk, mut requests) = start();
    assert_eq!(
        requests.watch(HostInstant::ZERO, Waker::noop()),
        Watch::Idle
    );
    fake.0.borrow_mut().fault = Fault::Gone;
    assert_eq!(
        requests.watch(HostInstant::ZERO, Waker::noop()),
        Watch::Gone
    );
    assert!(now(disk.restart(&Jump::default())).is_err());
}

#[test]
fn an_interrupt_without_a_request_is_nobodys() {
    let (fake, _, mut requests) = start();
    fake.0.borrow_mut().master_status |= 4;
    assert!(requests.take_completions().is_empty());
    let slot = send(&mut requests, Operation::Read, 0, 8);
    assert_eq!(answer(&mut requests, slot), Some(Ok(())));
}

#[test]
fn what_a_channel_cannot_do_is_refused() {
    let (_, _, mut requests) = start();
    let request = |operation| Request {
        operation,
        lba: 0,
        blocks: 8,
    };
    for (operation, pages) in [
        (Operation::Read, pages(PAGES_MAX + 1)),
        (Operation::Read, vec![1 << 32]),
        (Operation::Read, Vec::new()),
        (Operation::WriteZeroes, Vec::new()),
    ] {
        let sent = try_send(&mut requests, &request(operation), pages);
        assert_eq!(sent, Poll::Ready(Err(BlockError::Invalid)));
    }
}

#[test]
fn channels_without_a_usable_disk_are_told_apart() {
    for fault in [Fault::Gone, Fault::Atapi] {
        assert!(try_start(fault).1.unwrap().is_none(), "{fault:?}");
    }
    let failed = StartError::Failed {
        status: 0x51,
        error: 0,
    };
    for (fault, error) in [
        (Fault::Busy, StartError::Silent),
        (Fault::OldDisk, StartError::Unusable),
        (Fault::RefusesIdentify, failed),
    ] {
        let (_, result) = try_start(fault);
        assert_eq!(result.map(|_| ()).err(), Some(error), "{fault:?}");
    }
}
