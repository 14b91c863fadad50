//! Turns on a datastore: its volume is lent to one task at a time.
//!
//! Whoever has a turn has the volume itself, not a lock on it, so that it may wait for the device meanwhile. A turn that
//! is dropped in the middle of an operation leaves that to the volume, which undoes it with the next one.

use super::{Mounted, Service};
use crate::memory::ranks;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use arch::sync::SpinLock;
use async_task::Task;
use core::future::poll_fn;
use core::ops::{Deref, DerefMut};
use core::task::{Poll, Waker};

#[derive(Debug)]
enum State {
    /// Nobody has it.
    Free(Box<Mounted>),
    /// Somebody's turn.
    Lent,
    /// It cannot be used any more.
    Gone(String),
}

#[derive(Debug)]
struct Inner {
    state: State,
    /// Why it will be gone when the turn ends.
    ending: Option<String>,
    waiting: Vec<Waker>,
    /// The heartbeat and what time asks for.
    keepers: Vec<Task<()>>,
}

/// Who uses a datastore, one after the other.
#[derive(Debug)]
pub(super) struct Turns {
    inner: SpinLock<Inner>,
}

/// A turn: the volume, until this is dropped.
#[derive(Debug)]
pub struct Turn<'a> {
    turns: &'a Turns,
    volume: Option<Box<Mounted>>,
}

impl Turns {
    pub(super) fn new(volume: Mounted) -> Self {
        Self {
            inner: SpinLock::new(
                ranks::DATASTORE,
                Inner {
                    state: State::Free(Box::new(volume)),
                    ending: None,
                    waiting: Vec::new(),
                    keepers: Vec::new(),
                },
            ),
        }
    }

    /// Leaves the tasks that keep the datastore alive to it; they end with it.
    pub(super) fn keep(&self, keepers: Vec<Task<()>>) {
        self.inner.lock().keepers = keepers;
    }

    pub(super) fn is_mounted(&self) -> bool {
        !matches!(self.inner.lock().state, State::Gone(_))
    }

    /// Tells why it is gone, if it is.
    pub(super) fn reason(&self) -> Option<String> {
        match &self.inner.lock().state {
            State::Gone(reason) => Some(reason.clone()),
            _ => None,
        }
    }

    pub(super) async fn take(&self) -> Result<Turn<'_>, String> {
        let volume = poll_fn(|cx| {
            let mut inner = self.inner.lock();
            match core::mem::replace(&mut inner.state, State::Lent) {
                State::Free(volume) => Poll::Ready(Ok(volume)),
                State::Lent => {
                    inner.waiting.push(cx.waker().clone());
                    Poll::Pending
                }
                State::Gone(reason) => {
                    inner.state = State::Gone(reason.clone());
                    Poll::Ready(Err(reason))
                }
            }
        });
        Ok(Turn {
            volume: Some(volume.await?),
            turns: self,
        })
    }

    /// Takes the datastore out of use: now, or when the turn ends that somebody has.
    pub(super) fn fail(&self, reason: &str) {
        let mut inner = self.inner.lock();
        let (volume, woken) = match core::mem::replace(&mut inner.state, State::Lent) {
            State::Free(volume) => {
                inner.state = State::Gone(reason.to_string());
                (Some(volume), core::mem::take(&mut inner.waiting))
            }
            State::Lent => {
                inner.ending = Some(reason.to_string());
                (None, Vec::new())
            }
            gone => {
                inner.state = gone;
                (None, Vec::new())
            }
        };
        drop(inner);
        drop(volume);
        woken.into_iter().for_each(Waker::wake);
    }

    /// Gives a volume back, or drops it if its time is over.
    fn give_back(&self, volume: Box<Mounted>) {
        let mut inner = self.inner.lock();
        let rest = match inner.ending.take() {
            None => {
                inner.state = State::Free(volume);
                None
            }
            Some(reason) => {
                inner.state = State::Gone(reason);
                Some(volume)
            }
        };
        let woken = core::mem::take(&mut inner.waiting);
        drop(inner);
        drop(rest);
        woken.into_iter().for_each(Waker::wake);
    }

    /// Unmounts: commits everything, gives back all locks and the host's slot.
    ///
    /// # Errors
    /// A text that says what failed. What was synced is safe all the same; the next mount replays the journal.
    pub(super) async fn end(&self) -> Result<(), String> {
        let mut turn = self.take().await?;
        let volume = turn.volume.take();
        let keepers = core::mem::take(&mut self.inner.lock().keepers);
        self.inner.lock().state = State::Gone(String::from("it was unmounted"));
        let result = match volume {
            Some(volume) => volume.unmount().await.map_err(|e| e.to_string()),
            None => return Ok(()),
        };
        for keeper in keepers {
            keeper.cancel().await;
        }
        leave(result?).await
    }
}

/// Gives the host's slot back.
async fn leave(service: Service) -> Result<(), String> {
    let Some(locks) = alloc::sync::Arc::into_inner(service) else {
        return Err(String::from("somebody uses its locks still"));
    };
    let left = locks.leave().await;
    left.map_err(|error| format!("this host's slot cannot be given back: {error}"))
}

impl Deref for Turn<'_> {
    type Target = Mounted;

    fn deref(&self) -> &Mounted {
        self.volume
            .as_deref()
            .expect("a turn has its volume until it ends")
    }
}

impl DerefMut for Turn<'_> {
    fn deref_mut(&mut self) -> &mut Mounted {
        self.volume
            .as_deref_mut()
            .expect("a turn has its volume until it ends")
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let Some(volume) = self.volume.take() {
            self.turns.give_back(volume);
        }
    }
}
