//! Which number tags a vCPU's translations on a CPU: SVM's address-space identifier (APM vol. 2, 15.16), VMX's
//! virtual-processor identifier (SDM vol. 3, 29.1).
//!
//! A CPU gives its tags out in turn. When they are used up it starts over, and every vCPU needs a new one.

use core::cell::Cell;

/// The tags of one CPU.
#[derive(Debug)]
pub(crate) struct TagSource {
    /// The next to give; 0 is the host's.
    next: Cell<u32>,
    /// How often they were used up.
    generation: Cell<u64>,
}

impl TagSource {
    pub(crate) const fn new() -> Self {
        Self {
            next: Cell::new(1),
            generation: Cell::new(0),
        }
    }
}

/// The tag of one vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tag {
    number: u32,
    /// Who gave it; none yet is `u32::MAX`.
    cpu: u32,
    generation: u64,
}

impl Tag {
    /// What a vCPU has before its first entry.
    pub(crate) const NONE: Self = Self {
        number: 0,
        cpu: u32::MAX,
        generation: 0,
    };

    /// Returns the number for the control block.
    pub(crate) fn number(self) -> u32 {
        self.number
    }

    /// Makes the tag one of CPU `cpu`, which has `count` of them with the host's. Tells whether it changed: the new
    /// owner must flush before it enters, because of whoever had the number before. That is so for every owner, not only
    /// for the first of a generation, which may never come to enter.
    pub(crate) fn settle(&mut self, cpu: u32, source: &TagSource, count: u32) -> bool {
        if self.cpu == cpu && self.generation == source.generation.get() {
            return false;
        }
        let mut number = source.next.get();
        if number >= count {
            source.generation.set(source.generation.get() + 1);
            number = 1;
        }
        source.next.set(number + 1);
        *self = Self {
            number,
            cpu,
            generation: source.generation.get(),
        };
        true
    }
}

#[cfg(test)]
mod tests {
    use super::{Tag, TagSource};

    #[test]
    fn owners_of_a_number_flush_whoever_comes_first() {
        let source = TagSource::new();
        let mut vcpus = [Tag::NONE; 5];
        // The vCPU that has entered last with each number; entry 0 stays free.
        let mut tagged = [usize::MAX; 4];
        for step in 0..10_000_usize {
            let vcpu = step * 7 % 5;
            let flushes = vcpus[vcpu].settle(0, &source, 4);
            let number = vcpus[vcpu].number() as usize;
            assert!((1..4).contains(&number));
            assert!(flushes || tagged[number] == vcpu, "step {step}");
            tagged[number] = vcpu;
        }
    }

    #[test]
    fn a_vcpu_that_moves_gets_a_number_of_the_other_cpu() {
        let (a, b) = (TagSource::new(), TagSource::new());
        let mut vcpu = Tag::NONE;
        assert!(vcpu.settle(0, &a, 16));
        assert!(!vcpu.settle(0, &a, 16));
        assert!(vcpu.settle(1, &b, 16));
        assert!(vcpu.settle(0, &a, 16), "its old translations are stale");
        assert_eq!(vcpu.number(), 2);
    }
}
