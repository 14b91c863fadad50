//! Which pages of its RAM a VM writes: the log of its writes, what the nested tables and vCPUs do for it, and looking at it
//! round by round, as a migration does.
//!
//! A round ends with each vCPU having dropped its translations. What it then returns may be read: what is written later is
//! in the next round.

use crate::memory::{self, KernelFrames};
use crate::timer;
use crate::vm::machine::VmShared;
use crate::vm::ram::GuestRam;
use addr::{Gpa, Hfn};
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::Ordering;
use machine::{WriteLog, write_log};

/// Time between looks whether all vCPUs have dropped their translations.
const LOOK_NANOS: u64 = 50_000;
/// Words of the log that are looked at in one poll: 64 MiB of RAM each 256.
const WORDS_AT_ONCE: usize = 4096;

impl GuestRam {
    /// Tells whether writes are being noted.
    #[must_use]
    #[inline]
    pub fn is_tracked(&self) -> bool {
        self.is_tracked.load(Ordering::Acquire)
    }

    /// Notes a write that did not go through the nested tables; after it was done.
    #[inline]
    pub(super) fn note_write(&self, gpa: Gpa, len: u64) {
        if self.is_tracked() {
            self.note(gpa.as_u64()..gpa.as_u64().saturating_add(len));
        }
    }

    #[cold]
    fn note(&self, bytes: Range<u64>) {
        if let Some(log) = self.written.get() {
            log.note(bytes);
        }
    }

    /// Notes what a vCPU's own log has.
    pub(super) fn note_logged(&self, gpa: Gpa) {
        self.note(gpa.as_u64()..gpa.as_u64() + 1);
    }

    /// Answers a write that the nested tables did not allow, to a page that is there.
    #[cold]
    pub(super) fn write_fault(&self, gpa: Gpa) {
        let by = arch::virt::tracking();
        let allow = |nested: &mut arch::nested::NestedTable| {
            // Whoever ends tracking has given the right to all pages since.
            let is_tracked = self.is_tracked();
            is_tracked.then(|| nested.allow_write(gpa, by, &mut KernelFrames))
        };
        if let Some(bytes) = self.with_nested(allow).flatten() {
            self.note(bytes);
        }
    }

    /// Takes the pages that were written of word `word` of the log, and makes their next writes noticeable.
    fn take_written(&self, word: usize, each: &mut dyn FnMut(Gpa)) {
        let bits = self.written.get().map_or(0, |log| log.take(word));
        if bits == 0 {
            return;
        }
        let by = arch::virt::tracking();
        let _ = self.with_nested(|nested| {
            write_log::frames(word, bits)
                .map(Gpa::new_truncate)
                .for_each(|gpa| nested.track_page(gpa, by));
        });
        write_log::frames(word, bits)
            .map(Gpa::new_truncate)
            .for_each(each);
    }

    fn words(&self) -> usize {
        self.written.get().map_or(0, WriteLog::words)
    }
}

/// A VM whose writes are noted, until it is ended by [`Tracked::end`].
#[derive(Debug)]
pub struct Tracked<'a> {
    vm: &'a VmShared,
}

impl<'a> Tracked<'a> {
    /// Begins: what is written after this returns is in the first round.
    ///
    /// # Errors
    /// A text, when somebody else does so already or no memory is left for the log.
    pub async fn begin(vm: &'a VmShared) -> Result<Self, &'static str> {
        let ram = &vm.ram;
        let end = ram.map().high().end.max(ram.map().low_end());
        let log = || WriteLog::new(end).ok_or(());
        if ram.written.try_call_once(log).is_err() {
            return Err("no host memory is left for a list of the VM's pages");
        }
        if ram.is_tracked.swap(true, Ordering::AcqRel) {
            return Err("this VM's writes are being followed already");
        }
        let by = arch::virt::tracking();
        let _ = ram.with_nested(|nested| nested.track(by));
        vm.flush_vcpus().await;
        Ok(Self { vm })
    }

    /// Ends a round: `each` gets the pages that were written in it, each once.
    pub async fn round(&self, mut each: impl FnMut(Gpa)) {
        let ram = &self.vm.ram;
        let mut taken = Vec::new();
        for word in 0..ram.words() {
            ram.take_written(word, &mut |gpa| taken.push(gpa));
            if word % WORDS_AT_ONCE == WORDS_AT_ONCE - 1 {
                timer::give_way().await;
            }
        }
        self.vm.flush_vcpus().await;
        taken.into_iter().for_each(&mut each);
    }

    /// Ends: the guest writes as before.
    pub async fn end(self) {
        let ram = &self.vm.ram;
        let gone = ram.with_nested(|nested| {
            ram.is_tracked.store(false, Ordering::Release);
            nested.untrack()
        });
        self.vm.flush_vcpus().await;
        let give_back = |frame: Hfn| memory::free(frame, 1);
        gone.into_iter().flatten().for_each(give_back);
    }
}

impl VmShared {
    /// Makes all vCPUs drop their translations, and waits until they have.
    pub async fn flush_vcpus(&self) {
        let asked: Vec<u64> = self.links.iter().map(|l| l.ask_flush()).collect();
        for (link, number) in self.links.iter().zip(asked) {
            // A VM that ends runs no more code.
            while !link.has_flushed(number) && self.take_stop().is_none() {
                timer::sleep(LOOK_NANOS).await;
            }
        }
    }
}
