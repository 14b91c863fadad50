//! The host side of a VM's serial ports: scrollback, and who is attached.
//!
//! In run-guest mode COM1 goes straight to the host's COM1; in the shell it is kept, and shown to an attached console.

use crate::memory::ranks;
use crate::{console, startup};
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use arch::sync::SpinLock;
use core::sync::atomic::{AtomicBool, Ordering};
use core::task::Waker;

/// Bytes of output that are kept for a console that attaches later.
const SCROLLBACK_BYTES: usize = 64 << 10;

#[derive(Debug, Default)]
struct Output {
    kept: VecDeque<u8>,
    /// Bytes of `kept` that the attached console has not shown yet.
    unseen: usize,
    waker: Option<Waker>,
    /// The line that the guest is writing, while `bench=` looks for its milestones.
    line: Vec<u8>,
}

/// The serial ports of one VM.
#[derive(Debug)]
pub struct Serial {
    /// Output goes to the host's COM1 at once.
    direct: bool,
    /// Lines of the guest may be milestones of a benchmark.
    milestones: bool,
    attached: AtomicBool,
    output: SpinLock<Output>,
}

impl Serial {
    /// Passes a guest's line "milestone NAME" on as a milestone of the host.
    fn watch_for_milestones(line: &mut Vec<u8>, byte: u8) {
        const MARK: &str = "milestone ";
        const LINE_MAX: usize = 64;
        if byte != b'\n' {
            if line.len() < LINE_MAX {
                line.push(byte);
            }
            return;
        }
        let text = core::str::from_utf8(line).unwrap_or("").trim();
        if let Some(name) = text.strip_prefix(MARK) {
            startup::milestone(name);
        }
        line.clear();
    }

    /// Makes the ports; `direct` passes COM1 through to the host's COM1.
    #[must_use]
    pub fn new(direct: bool) -> Self {
        Self {
            direct,
            milestones: startup::option("bench").is_some(),
            attached: AtomicBool::new(false),
            output: SpinLock::new(ranks::SERIAL, Output::default()),
        }
    }

    /// Takes a byte that the guest sent on `channel`; only COM1 has a host side.
    pub fn emit(&self, channel: u8, byte: u8) {
        if channel != 0 {
            return;
        }
        if self.direct {
            console::write(&[byte]);
            return;
        }
        let mut output = self.output.lock();
        if self.milestones {
            Self::watch_for_milestones(&mut output.line, byte);
        }
        if output.kept.len() == SCROLLBACK_BYTES {
            output.kept.pop_front();
        }
        output.kept.push_back(byte);
        output.unseen = (output.unseen + 1).min(output.kept.len());
        let waker = if self.attached.load(Ordering::Acquire) {
            output.waker.take()
        } else {
            None
        };
        drop(output);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Attaches a console; false when there is one. What is kept counts as unseen.
    pub fn attach(&self) -> bool {
        if self.attached.swap(true, Ordering::AcqRel) {
            return false;
        }
        let mut output = self.output.lock();
        output.unseen = output.kept.len();
        true
    }

    /// Detaches the console.
    pub fn detach(&self) {
        self.attached.store(false, Ordering::Release);
    }

    /// Takes up to `max` unseen bytes.
    pub fn take_unseen(&self, max: usize) -> Vec<u8> {
        let mut output = self.output.lock();
        let start = output.kept.len() - output.unseen;
        let count = output.unseen.min(max);
        output.unseen -= count;
        output.kept.range(start..start + count).copied().collect()
    }

    /// Wakes the attached console, because the VM ended.
    pub fn wake(&self) {
        let waker = self.output.lock().waker.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Registers who is woken by the next byte while a console is attached.
    pub fn set_waker(&self, waker: &Waker) {
        self.output.lock().waker = Some(waker.clone());
    }
}
