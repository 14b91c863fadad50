//! A controller with one port, made of registers and memory, which does what it is told, or misbehaves on purpose.

mod fuzz;

use super::{Host, PAGES_MAX, PORT_BYTES, Port, PortDisk};
use crate::identity::tests::answer as identity;
use crate::{PAGE, StartError};
use api::block::{BlockError, Buffer};
use api::port::{Registers, SharedMemory};
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
const DATA_AT: u64 = 0x20_0000;
const BLOCK: usize = 512;
const BLOCKS: usize = 256;
const PATIENCE: u64 = 1_000_000_000;
const PORT: u32 = 2;
/// The block that cannot be read.
const BAD: u64 = 77;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Fault {
    #[default]
    None,
    Gone,
    NoDisk,
    Atapi,
    Busy,
    OldDisk,
    RefusesIdentify,
    /// Takes commands and never ends them, until its link is reset.
    Stuck,
    /// As before, and it does not even stop.
    StuckForGood,
    /// Moves half of what it was asked to.
    Short,
    /// Says that it has ended what it was never asked.
    Ghosts,
}

#[derive(Default)]
struct State {
    fault: Fault,
    memory: Vec<u8>,
    data: Vec<u8>,
    disk: Vec<u8>,
    control: u32,
    issue: u32,
    interrupts: u32,
    current: u32,
    flushes: u32,
    fua: u32,
}

#[derive(Clone, Default)]
struct Fake(Rc<RefCell<State>>);

impl Fake {
    fn new(fault: Fault) -> Self {
        Self(Rc::new(RefCell::new(State {
            fault,
            memory: vec![0; PORT_BYTES],
            data: vec![0; (PAGES_MAX + 2) * PAGE],
            disk: (0..BLOCKS * BLOCK).map(|n| (n / BLOCK) as u8).collect(),
            ..State::default()
        })))
    }
}

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

    fn word(&mut self, address: u64) -> u32 {
        u32::from_le_bytes(self.at(address, 4).try_into().unwrap())
    }

    fn long(&mut self, address: u64) -> u64 {
        u64::from(self.word(address)) | u64::from(self.word(address + 4)) << 32
    }

    /// Does what was issued, one slot after the other, up to the first error.
    fn run(&mut self) {
        while self.issue != 0 && self.control & 1 != 0 {
            if matches!(self.fault, Fault::Stuck | Fault::StuckForGood) {
                return;
            }
            let slot = self.issue.trailing_zeros();
            self.current = slot;
            if !self.command(slot) {
                self.interrupts |= 1 << 30;
                return;
            }
            self.issue &= !(1 << slot);
            self.interrupts |= 1;
        }
    }

    fn command(&mut self, slot: u32) -> bool {
        let header = SHARED_AT + u64::from(slot) * 32;
        let (first, table) = (self.word(header), self.long(header + 8));
        assert_eq!(first & 0x1f, 5, "a register FIS has five words");
        let fis: Vec<u8> = self.at(table, 20).to_vec();
        assert_eq!(fis[..2], [0x27, 0x80]);
        let lba = [fis[4], fis[5], fis[6], fis[8], fis[9], fis[10], 0, 0];
        let lba = u64::from_le_bytes(lba);
        let pages: Vec<(u64, usize)> = (0..u64::from(first >> 16))
            .map(|n| {
                let at = table + 0x80 + 16 * n;
                let len = (self.word(at + 12) & 0x3f_ffff) as usize + 1;
                (self.long(at), len)
            })
            .collect();
        let mut moved = 0;
        let good = match fis[2] {
            0xec => {
                let mut answer = identity();
                if self.fault == Fault::OldDisk {
                    answer[167] = 0;
                }
                self.at(pages[0].0, 512).copy_from_slice(&answer);
                moved = 512;
                self.fault != Fault::RefusesIdentify
            }
            0xea => {
                self.flushes += 1;
                true
            }
            0x06 => {
                moved = 512;
                self.discard(pages[0].0)
            }
            0x25 | 0x35 | 0x3d => {
                self.fua += u32::from(fis[2] == 0x3d);
                assert_eq!(first >> 6 & 1 != 0, fis[2] != 0x25, "which way data goes");
                moved = pages.iter().map(|page| page.1).sum();
                self.transfer(fis[2] == 0x25, lba, &pages)
            }
            other => panic!("command {other:#x}"),
        };
        if self.fault == Fault::Short {
            moved /= 2;
        }
        let moved = (moved as u32).to_le_bytes();
        self.at(header + 4, 4).copy_from_slice(&moved);
        good
    }

    fn discard(&mut self, at: u64) -> bool {
        for n in 0..64 {
            let range = self.long(at + 8 * n);
            let (first, count) = (range & 0xffff_ffff_ffff, range >> 48);
            let range = first as usize * BLOCK..(first + count) as usize * BLOCK;
            self.disk[range].fill(0xdd);
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

impl Registers for Fake {
    fn read32(&self, offset: u32) -> u32 {
        let state = self.0.borrow();
        if state.fault == Fault::Gone {
            return u32::MAX;
        }
        let Some(register) = offset.checked_sub(0x100 + PORT * 0x80) else {
            return match offset {
                0 => 1 << 31 | 7 << 8,
                0x0c => 1 << PORT,
                _ => 0,
            };
        };
        match register {
            0x10 => state.interrupts,
            0x18 => {
                let running = state.control & 1 << 15;
                let stuck = u32::from(state.fault == Fault::StuckForGood) << 15;
                state.control & !(1 << 15)
                    | running
                    | stuck
                    | (state.control & 1) << 15
                    | (state.control >> 4 & 1) << 14
                    | state.current << 8
            }
            0x20 => 0x50 | u32::from(state.fault == Fault::Busy) << 7,
            0x24 if state.fault == Fault::Atapi => 0xeb14_0101,
            0x24 => 0x101,
            0x28 if state.fault == Fault::NoDisk => 0,
            0x28 => 0x123,
            0x38 if state.fault == Fault::Ghosts => 0,
            0x38 => state.issue,
            _ => 0,
        }
    }

    fn write32(&self, offset: u32, value: u32) {
        let mut state = self.0.borrow_mut();
        let Some(register) = offset.checked_sub(0x100 + PORT * 0x80) else {
            return;
        };
        match register {
            0x10 => state.interrupts &= !value,
            0x18 => {
                // Stopping the port clears what was issued (3.3.14).
                if value & 1 == 0 {
                    state.issue = 0;
                }
                state.control = value & !(3 << 14 | 0x1f << 8);
                state.run();
            }
            0x2c if value & 1 != 0 && state.fault == Fault::Stuck => state.fault = Fault::None,
            0x38 => {
                state.issue |= value;
                state.run();
            }
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
        let place = state.at(SHARED_AT + offset as u64, 4);
        place.copy_from_slice(&value.to_le_bytes());
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

type Started = (PortDisk<Fake, Fake>, Port<Fake, Fake>);

fn try_start(fault: Fault) -> (Fake, Result<Option<Started>, StartError>) {
    let fake = Fake::new(fault);
    let clock = Jump::default();
    let result = now(Host::start(fake.clone(), &clock)).and_then(|host| {
        assert_eq!(host.ports().collect::<Vec<_>>(), [PORT]);
        now(host.start_port(PORT, fake.clone(), &clock))
    });
    (fake, result)
}

fn start() -> (Fake, PortDisk<Fake, Fake>, Requests<Port<Fake, Fake>>) {
    let (fake, result) = try_start(Fault::None);
    let (disk, port) = result.unwrap().unwrap();
    (fake, disk, Requests::new(port, PATIENCE))
}

fn pages(count: usize) -> Vec<u64> {
    (0..count)
        .map(|n| DATA_AT + ((count - n) * PAGE) as u64)
        .collect()
}

fn send(
    requests: &mut Requests<Port<Fake, Fake>>,
    operation: Operation,
    lba: u64,
    blocks: u32,
) -> u16 {
    let count = (blocks as usize * BLOCK).div_ceil(PAGE);
    let has_data = matches!(operation, Operation::Read | Operation::Write { .. });
    let pages = if has_data { pages(count) } else { Vec::new() };
    let mut parts = Some((pages, Buffer::zeroed(0)));
    let request = Request {
        operation,
        lba,
        blocks,
    };
    let sent = requests.send(HostInstant::ZERO, &request, &mut parts, Waker::noop());
    match sent {
        Poll::Ready(Ok((slot, _))) => slot,
        other => panic!("not sent: {other:?}"),
    }
}

fn answer(requests: &mut Requests<Port<Fake, Fake>>, slot: u16) -> Option<Result<(), BlockError>> {
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
        let write = Operation::Write { fua: true };
        let slot = send(&mut requests, write, 100, blocks);
        assert_eq!(answer(&mut requests, slot), Some(Ok(())));
        fake.0.borrow_mut().data.fill(0);
        let slot = send(&mut requests, Operation::Read, 100, blocks);
        assert_eq!(answer(&mut requests, slot), Some(Ok(())));
        for (n, page) in pages(count).iter().enumerate() {
            let left = (blocks as usize * BLOCK - n * PAGE).min(PAGE);
            let mut state = fake.0.borrow_mut();
            assert!(state.at(*page, left).iter().all(|b| *b == 0x40 + n as u8));
        }
        assert_eq!(
            fake.0.borrow().disk[(100 + blocks as usize) * BLOCK],
            100 + blocks as u8
        );
    }
    let flush = send(&mut requests, Operation::Flush, 0, 0);
    assert_eq!(answer(&mut requests, flush), Some(Ok(())));
    let discard = send(&mut requests, Operation::Discard, 200, 4);
    assert_eq!(answer(&mut requests, discard), Some(Ok(())));
    let state = fake.0.borrow();
    assert_eq!((state.flushes, state.fua), (1, 4));
    assert_eq!(
        (state.disk[200 * BLOCK], state.disk[204 * BLOCK]),
        (0xdd, 204)
    );
}

#[test]
fn an_error_is_its_requests_and_the_others_go_on() {
    let (_, _, mut requests) = start();
    let first = send(&mut requests, Operation::Read, 0, 8);
    let bad = send(&mut requests, Operation::Read, BAD - 1, 8);
    let behind = send(&mut requests, Operation::Read, 16, 8);
    let error = BlockError::Medium { lba: BAD - 1 };
    assert_eq!(answer(&mut requests, first), Some(Ok(())));
    assert_eq!(answer(&mut requests, bad), Some(Err(error)));
    assert_eq!(answer(&mut requests, behind), Some(Ok(())));
    let again = send(&mut requests, Operation::Read, 16, 8);
    assert_eq!(answer(&mut requests, again), Some(Ok(())));
}

#[test]
fn a_short_transfer_is_an_error() {
    let (fake, _, mut requests) = start();
    fake.0.borrow_mut().fault = Fault::Short;
    let slot = send(&mut requests, Operation::Read, 5, 8);
    let error = BlockError::Medium { lba: 5 };
    assert_eq!(answer(&mut requests, slot), Some(Err(error)));
}

#[test]
fn a_stuck_port_is_reset_and_goes_on() {
    let (fake, mut disk, mut requests) = start();
    fake.0.borrow_mut().fault = Fault::Stuck;
    let read = send(&mut requests, Operation::Read, 0, 8);
    let write = send(&mut requests, Operation::Write { fua: false }, 0, 8);
    assert_eq!(answer(&mut requests, read), None);
    let late = HostInstant::from_nanos(PATIENCE);
    assert_eq!(requests.watch(late, Waker::noop()), Watch::Overdue);
    drop(requests.stop());
    let port = now(disk.restart(&Jump::default())).unwrap().remove(0);
    requests.restart(late, port);
    assert_eq!(answer(&mut requests, read), Some(Ok(())));
    assert_eq!(
        answer(&mut requests, write),
        Some(Err(BlockError::TimedOut))
    );
}

#[test]
fn a_port_that_does_not_stop_is_not_reset() {
    let (fake, mut disk, _) = start();
    fake.0.borrow_mut().fault = Fault::StuckForGood;
    let result = now(disk.restart(&Jump::default()));
    assert_eq!(result.err(), Some(StartError::Silent));
}

#[test]
fn a_disk_that_is_pulled_out_is_gone() {
    for fault in [Fault::Gone, Fault::NoDisk] {
        let (fake, mut disk, mut requests) = start();
        assert_eq!(
            requests.watch(HostInstant::ZERO, Waker::noop()),
            Watch::Idle
        );
        fake.0.borrow_mut().fault = fault;
        requests.take_completions();
        assert_eq!(
            requests.watch(HostInstant::ZERO, Waker::noop()),
            Watch::Gone
        );
        assert!(now(disk.restart(&Jump::default())).is_err());
    }
}

#[test]
fn endings_of_what_was_not_asked_are_nobodys() {
    let (fake, _, mut requests) = start();
    fake.0.borrow_mut().fault = Fault::Ghosts;
    assert!(requests.take_completions().is_empty());
    fake.0.borrow_mut().fault = Fault::None;
    let slot = send(&mut requests, Operation::Read, 0, 8);
    assert_eq!(answer(&mut requests, slot), Some(Ok(())));
}

#[test]
fn what_a_port_cannot_do_is_refused() {
    let (_, _, mut requests) = start();
    let mut parts = Some((pages(PAGES_MAX + 1), Buffer::zeroed(0)));
    for (operation, blocks) in [(Operation::Read, 8), (Operation::WriteZeroes, 1)] {
        let request = Request {
            operation,
            lba: 0,
            blocks,
        };
        let sent = requests.send(HostInstant::ZERO, &request, &mut parts, Waker::noop());
        assert!(matches!(sent, Poll::Ready(Err(BlockError::Invalid))));
        parts = Some((Vec::new(), Buffer::zeroed(0)));
    }
}

#[test]
fn ports_without_a_usable_disk_are_told_apart() {
    for fault in [Fault::NoDisk, Fault::Atapi] {
        assert!(try_start(fault).1.unwrap().is_none(), "{fault:?}");
    }
    let failed = StartError::Failed {
        status: 0x50,
        error: 0,
    };
    for (fault, error) in [
        (Fault::Gone, StartError::Silent),
        (Fault::Busy, StartError::Silent),
        (Fault::Stuck, StartError::Silent),
        (Fault::OldDisk, StartError::Unusable),
        (Fault::RefusesIdentify, failed),
    ] {
        let (_, result) = try_start(fault);
        assert_eq!(result.map(|_| ()).err(), Some(error), "{fault:?}");
    }
}
