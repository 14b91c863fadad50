//! Controllers whose registers and memory lie, by seeds: no panic, no loop without an end, no byte where no request is.

use super::{BLOCK, DATA_AT, FIRST_QUEUE, Fake, Fault, Jump, Memory, State, now};
use crate::{Controller, IoQueue, PAGE, QUEUE_BYTES};
use api::block::Buffer;
use api::port::{Registers, SharedMemory};
use api::time::HostInstant;
use core::cell::Cell;
use core::task::{Poll, Waker};
use requests::{Operation, Request, Requests};
use std::rc::Rc;
use std::vec::Vec;

/// Seeds, and steps of each.
const SEEDS: u64 = 25;
const STEPS: usize = 200;
/// Reads that one step, or a start, may take: the longest wait and then some.
const READS_MAX: u64 = 50_000;
/// Pages of data that the fake has.
const PAGES: u64 = 128;
/// What pages hold that no request has.
const UNTOUCHED: u8 = 0xa5;

/// Spoils what a driver reads, by a seed, and counts the reads, so that a loop without an end is found.
#[derive(Clone)]
struct Noise {
    seed: Rc<Cell<u64>>,
    /// One read in so many is spoilt; 0 for none.
    one_in: Rc<Cell<u64>>,
    reads: Rc<Cell<u64>>,
}

impl Noise {
    fn new(seed: u64) -> Self {
        Self {
            seed: Rc::new(Cell::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)),
            one_in: Rc::default(),
            reads: Rc::default(),
        }
    }

    fn random(&self) -> u64 {
        let mut x = self.seed.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.seed.set(x);
        x >> 11
    }

    fn below(&self, limit: u64) -> u64 {
        self.random() % limit
    }

    fn spoil(&self, value: u32) -> u32 {
        self.reads.set(self.reads.get() + 1);
        assert!(self.reads.get() < READS_MAX, "a loop without an end");
        match self.one_in.get() {
            0 => return value,
            one_in if self.below(one_in) != 0 => return value,
            _ => {}
        }
        match self.below(4) {
            0 => 0,
            1 => u32::MAX,
            2 => value ^ 1 << self.below(32),
            _ => self.random() as u32,
        }
    }
}

struct Noisy<T>(T, Noise);

impl<R: Registers> Registers for Noisy<R> {
    fn read32(&self, offset: u32) -> u32 {
        let value = self.0.read32(offset);
        match offset {
            // The capabilities place the doorbells of the fake, which is strict.
            0 | 4 => value,
            _ => self.1.spoil(value),
        }
    }

    fn write32(&self, offset: u32, value: u32) {
        self.0.write32(offset, value);
    }
}

impl<M: SharedMemory> SharedMemory for Noisy<M> {
    fn bus_address(&self) -> u64 {
        self.0.bus_address()
    }

    fn read32(&self, offset: usize) -> u32 {
        self.1.spoil(self.0.read32(offset))
    }

    fn write32(&self, offset: usize, value: u32) {
        self.0.write32(offset, value);
    }
}

/// A request that the driver has, and the pages that the device may write for it.
struct Lent {
    slot: u16,
    pages: Vec<u64>,
}

/// Sends a random request whose pages nobody else has.
fn send_one(
    noise: &Noise,
    requests: &mut Requests<IoQueue<Noisy<Fake>, Noisy<Memory>>>,
    free: &mut Vec<u64>,
) -> Option<Lent> {
    let count = (noise.below(3) + 1) as usize;
    if free.len() < count {
        return None;
    }
    let operation = match noise.below(8) {
        0 => Operation::Flush,
        1 => Operation::Discard,
        2 | 3 => Operation::Write { fua: false },
        _ => Operation::Read,
    };
    let has_data = matches!(operation, Operation::Read | Operation::Write { .. });
    let pages: Vec<u64> = if has_data {
        free.drain(..count).collect()
    } else {
        Vec::new()
    };
    let request = Request {
        operation,
        lba: 100 + noise.below(100),
        blocks: match operation {
            Operation::Flush => 0,
            _ => (count * PAGE / BLOCK) as u32 - noise.below(8) as u32,
        },
    };
    let mut parts = Some((pages.clone(), Buffer::zeroed(0)));
    match requests.send(HostInstant::ZERO, &request, &mut parts, Waker::noop()) {
        Poll::Ready(Ok((slot, _))) => Some(Lent { slot, pages }),
        _ => {
            free.extend(pages);
            None
        }
    }
}

/// Takes back what has ended; pages go back to those that no device may touch.
fn take_back(
    requests: &mut Requests<IoQueue<Noisy<Fake>, Noisy<Memory>>>,
    lent: &mut Vec<Lent>,
    free: &mut Vec<u64>,
    state: &mut State,
) {
    lent.retain(|one| {
        let ended = requests.poll(one.slot, Waker::noop()).is_ready();
        if ended {
            for page in &one.pages {
                state.at(*page, PAGE).fill(UNTOUCHED);
                free.push(*page);
            }
        }
        !ended
    });
}

/// Fails if a page was written that no request had.
fn check_untouched(free: &[u64], state: &mut State) {
    for page in free {
        let page = state.at(*page, PAGE);
        assert!(
            page.iter().all(|byte| *byte == UNTOUCHED),
            "a page of nobody's"
        );
    }
}

#[test]
fn noise_never_confuses_a_controller() {
    let mut ended = 0;
    for seed in 1..=SEEDS {
        let noise = Noise::new(seed);
        let fake = Fake::new(Fault::None);
        let memory = |at| Noisy(Memory(fake.clone(), at), noise.clone());
        let clock = Jump::default();
        let registers = Noisy(fake.clone(), noise.clone());
        let mut device = now(Controller::start(registers, memory(0), &clock)).unwrap();
        let memories = Vec::from([memory(FIRST_QUEUE)]);
        let queue = now(device.make_queues(memories, &clock)).unwrap().remove(0);
        let state = &fake.0;
        let mut requests = Requests::new(queue, 1);
        let mut free: Vec<u64> = (0..PAGES).map(|n| DATA_AT + n * PAGE as u64).collect();
        for page in &free {
            state.borrow_mut().at(*page, PAGE).fill(UNTOUCHED);
        }
        let mut lent = Vec::new();
        let one_in = [0, 2, 8, 64][noise.below(4) as usize];
        for _ in 0..STEPS {
            noise.reads.set(0);
            noise.one_in.set(one_in);
            match noise.below(16) {
                0 => state.borrow_mut().fault = Fault::Stuck,
                1 => {
                    // It is overdue, and reset as the kernel does it; the reset has its noise, too.
                    drop(requests.stop());
                    noise.one_in.set(one_in * 8);
                    let Ok(mut fresh) = now(device.restart(&Jump::default())) else {
                        requests.give_up();
                        break;
                    };
                    state.borrow_mut().fault = Fault::None;
                    requests.restart(HostInstant::ZERO, fresh.remove(0));
                }
                2..=8 => lent.extend(send_one(&noise, &mut requests, &mut free)),
                _ => drop(requests.take_completions()),
            }
            let before = lent.len();
            take_back(&mut requests, &mut lent, &mut free, &mut state.borrow_mut());
            ended += before - lent.len();
            check_untouched(&free, &mut state.borrow_mut());
        }
    }
    // Otherwise nothing was tried.
    assert!(ended > 10 * SEEDS as usize, "{ended}");
}

#[test]
fn noise_while_it_starts_is_refused_or_borne() {
    for seed in 1..=4 * SEEDS {
        let noise = Noise::new(seed);
        noise.one_in.set([1, 2, 8, 64][noise.below(4) as usize]);
        let fake = Fake::new(Fault::None);
        let memory = |at| Noisy(Memory(fake.clone(), at), noise.clone());
        let registers = Noisy(fake.clone(), noise.clone());
        let clock = Jump::default();
        if let Ok(mut controller) = now(Controller::start(registers, memory(0), &clock)) {
            let memories = Vec::from([0, 1].map(|n| memory(FIRST_QUEUE + n * QUEUE_BYTES)));
            let _ = now(controller.make_queues(memories, &clock));
        }
    }
}
