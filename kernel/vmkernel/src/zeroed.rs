//! A stock of blocks of 2 MiB that are zero already, so that a guest's first touch of its memory need not wait for it.
//!
//! CPUs fill the stock a little at a time when they have nothing else to do, and only once a guest asked for a block.
//! It is bounded, and given back when frames run short. Deliberately left out: memory that a guest gave back is not
//! told apart from other free memory, and smaller pages, which are zeroed quickly enough when they are needed.
#![expect(unsafe_code, reason = "fills blocks with zeroes that it took for that")]

use crate::exec;
use crate::memory::{self, ranks};
use addr::{Hfn, Hpa, PAGE_SIZE};
use alloc::vec::Vec;
use arch::sync::SpinLock;
use core::sync::atomic::{AtomicBool, Ordering};

/// Size of a block.
const BLOCK_BYTES: u64 = 2 << 20;
/// Frames of a block.
const BLOCK_FRAMES: u32 = (BLOCK_BYTES / PAGE_SIZE) as u32;
/// Blocks in the stock at most: 64 MiB.
const STOCK_MAX: usize = 32;
/// The stock grows only while what is free without it is this many times as much.
const FREE_SHARE: u64 = 16;
/// What is zeroed between two looks at what else there is to do: some microseconds' worth.
const STEP_BYTES: u64 = 64 << 10;

static STOCK: SpinLock<Stock> = SpinLock::new(ranks::ZEROED, Stock::new());
/// Guests took blocks since the stock was last found full enough. [changed under the stock's lock]
static WANTED: AtomicBool = AtomicBool::new(false);

struct Stock {
    /// The first `len` are blocks of zeroes.
    blocks: [Hfn; STOCK_MAX],
    len: usize,
    making: Making,
}

/// The block that is on its way into the stock.
enum Making {
    Nothing,
    /// The first so many bytes of this block are zero.
    Begun(Hfn, u64),
    /// A CPU works on it right now, or still looks for one.
    InHand(Option<Hfn>),
}

impl Stock {
    const fn new() -> Self {
        Self {
            blocks: [Hpa::new_truncate(0).frame(); STOCK_MAX],
            len: 0,
            making: Making::Nothing,
        }
    }

    fn pop(&mut self) -> Option<Hfn> {
        self.len = self.len.checked_sub(1)?;
        Some(self.blocks[self.len])
    }
}

/// Takes a block of zeroes for a guest, if one is in stock; either way more will be made.
pub fn take() -> Option<Hfn> {
    let mut stock = STOCK.lock();
    let block = stock.pop();
    let was_wanted = WANTED.swap(true, Ordering::Relaxed);
    drop(stock);
    if !was_wanted {
        exec::poke_idle();
    }
    block
}

/// Returns the blocks that the stock holds, the unfinished one included; they are as good as free.
#[must_use]
pub fn blocks() -> Vec<Hfn> {
    let mut blocks = Vec::with_capacity(STOCK_MAX + 1);
    let stock = STOCK.lock();
    blocks.extend_from_slice(&stock.blocks[..stock.len]);
    match stock.making {
        Making::Begun(block, _) | Making::InHand(Some(block)) => blocks.push(block),
        Making::Nothing | Making::InHand(None) => {}
    }
    blocks
}

/// Gives everything in stock back; tells whether there was anything.
pub fn give_back() -> bool {
    let mut any = false;
    loop {
        let mut stock = STOCK.lock();
        WANTED.store(false, Ordering::Relaxed);
        let block = match stock.making {
            Making::Begun(block, _) => {
                stock.making = Making::Nothing;
                Some(block)
            }
            Making::Nothing | Making::InHand(_) => stock.pop(),
        };
        drop(stock);
        match block {
            Some(block) => memory::free(block, BLOCK_FRAMES),
            None => return any,
        }
        any = true;
    }
}

/// Does a small piece of work for the stock; tells whether there was any to do. For CPUs without anything else to do.
#[inline]
pub fn work() -> bool {
    WANTED.load(Ordering::Relaxed) && work_on()
}

#[cold]
fn work_on() -> bool {
    let Some((block, done)) = begin() else {
        return false;
    };
    let at = Hpa::new_truncate(block.start().as_u64() + done);
    // SAFETY: the block was taken for the stock, nobody else knows it, and `begin` gave it to this CPU alone.
    unsafe { arch::physmem::zero_streaming(at, STEP_BYTES as usize) };
    finish(block, done + STEP_BYTES);
    true
}

/// Takes the unfinished block into this CPU's hand, or a new one.
fn begin() -> Option<(Hfn, u64)> {
    let mut stock = STOCK.lock();
    match stock.making {
        Making::InHand(_) => return None,
        Making::Begun(block, done) => {
            stock.making = Making::InHand(Some(block));
            return Some((block, done));
        }
        Making::Nothing => stock.making = Making::InHand(None),
    }
    let next = stock.len as u64 + 1;
    drop(stock);
    let least_free = next * u64::from(BLOCK_FRAMES) * FREE_SHARE;
    let block = if next <= STOCK_MAX as u64 {
        memory::alloc_spare_2m(least_free)
    } else {
        None
    };
    let mut stock = STOCK.lock();
    stock.making = match block {
        Some(block) => Making::InHand(Some(block)),
        None => Making::Nothing,
    };
    if block.is_none() {
        WANTED.store(false, Ordering::Relaxed);
    }
    block.map(|block| (block, 0))
}

/// Puts a block back, into the stock if it is zero to its end.
fn finish(block: Hfn, done: u64) {
    let mut stock = STOCK.lock();
    if done < BLOCK_BYTES {
        stock.making = Making::Begun(block, done);
        return;
    }
    stock.making = Making::Nothing;
    let end = stock.len;
    stock.blocks[end] = block;
    stock.len += 1;
}
