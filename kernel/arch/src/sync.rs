//! The spin lock of the kernel: the crate `spin`'s, with a rank that debug builds check.
//!
//! Interrupt handlers take no lock (they only note events), so interrupts stay on while one is held. A CPU may take a
//! lock only when every lock it holds has a lower rank.

use crate::percpu;
use core::fmt;
use core::ops::{Deref, DerefMut};

/// A lock's place in the order; a lock may be taken only under locks of lower rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank(pub u8);

/// Mutual exclusion by spinning.
pub struct SpinLock<T> {
    rank: Rank,
    inner: spin::Mutex<T>,
}

impl<T> SpinLock<T> {
    /// Makes an open lock of `rank`.
    pub const fn new(rank: Rank, value: T) -> Self {
        Self {
            rank,
            inner: spin::Mutex::new(value),
        }
    }

    /// Spins until the lock is held.
    #[inline]
    pub fn lock(&self) -> SpinGuard<'_, T> {
        let previous = percpu::enter_rank(self.rank);
        SpinGuard {
            guard: self.inner.lock(),
            previous,
        }
    }

    /// Takes the lock if it is open.
    pub fn try_lock(&self) -> Option<SpinGuard<'_, T>> {
        let guard = self.inner.try_lock()?;
        Some(SpinGuard {
            guard,
            previous: percpu::enter_rank(self.rank),
        })
    }
}

impl<T> fmt::Debug for SpinLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpinLock")
            .field("rank", &self.rank)
            .finish_non_exhaustive()
    }
}

/// The lock, held.
#[expect(
    missing_debug_implementations,
    reason = "a guard is never printed; its content may be"
)]
pub struct SpinGuard<'a, T> {
    guard: spin::MutexGuard<'a, T>,
    previous: Rank,
}

impl<T> Deref for SpinGuard<'_, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T> DerefMut for SpinGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

impl<T> Drop for SpinGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        percpu::leave_rank(self.previous);
    }
}
