//! The per-CPU block: what a CPU owns alone, and the events its interrupts noted.
//!
//! GS base points to it in host mode always. The interrupt stubs (idt) and the world switch (svm) use its first fields
//! by offset.

use crate::sync::Rank;
use crate::tag::TagSource;
use alloc::boxed::Box;
use core::arch::asm;
use core::cell::Cell;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use spec::msr::Msr;

/// Most CPUs that are started.
pub const CPUS_MAX: usize = 512;

/// What one CPU owns. Other CPUs may touch the atomics only.
#[derive(Debug)]
#[repr(C)]
pub struct PerCpu {
    /// 00h: its own address, for `mov rax, gs:[0]`. Const after init.
    this: Cell<*const PerCpu>,
    /// 08h: a bit per vector that fired since it was last taken. Set by the interrupt stubs of this CPU.
    events: [AtomicU64; 4],
    /// 28h: some bit of `events` may be set, or somebody wants this CPU to leave the guest.
    attention: AtomicU64,
    /// 30h: where the local APIC is mapped; 0 when it is in x2APIC mode. Const after init.
    pub(crate) lapic: Cell<u64>,
    /// 38h: set on a panic elsewhere: the NMI handler then stops this CPU.
    stop: AtomicU64,
    /// Number of the CPU, from 0. Const after init.
    index: u32,
    /// Local APIC ID. Const after init.
    apic_id: u32,
    /// [owner cpu] rank of the innermost lock held.
    rank: Cell<u8>,
    /// [owner cpu] deadline that the local timer is armed for; `u64::MAX` for none.
    pub(crate) timer_armed: Cell<u64>,
    /// [owner cpu] physical address of the page that holds the host's VMLOAD state.
    pub(crate) host_vmcb: Cell<u64>,
    /// [owner cpu] Tags of translations to give to vCPUs.
    pub(crate) tags: TagSource,
    /// True while the CPU halts for lack of work; cleared by who wakes it.
    idle: AtomicBool,
}

const _: () = assert!(core::mem::offset_of!(PerCpu, events) == 0x08);
const _: () = assert!(core::mem::offset_of!(PerCpu, attention) == 0x28);
const _: () = assert!(core::mem::offset_of!(PerCpu, lapic) == 0x30);
const _: () = assert!(core::mem::offset_of!(PerCpu, stop) == 0x38);

// SAFETY: the `Cell`s are written before the block is shared or by the owning CPU only (each says so above); everything
// else is atomic or constant.
unsafe impl Sync for PerCpu {}

static ONLINE: AtomicU32 = AtomicU32::new(0);
static BLOCKS: [AtomicU64; CPUS_MAX] = [const { AtomicU64::new(0) }; CPUS_MAX];
static RANKS_ON: AtomicU8 = AtomicU8::new(0);

/// Makes the block of the CPU with `apic_id` and makes it this CPU's; call once on each CPU, before interrupts.
pub fn init(index: u32, apic_id: u32) -> &'static PerCpu {
    let block = Box::leak(Box::new(PerCpu {
        this: Cell::new(core::ptr::null()),
        events: [const { AtomicU64::new(0) }; 4],
        attention: AtomicU64::new(0),
        lapic: Cell::new(0),
        stop: AtomicU64::new(0),
        index,
        apic_id,
        rank: Cell::new(0),
        timer_armed: Cell::new(u64::MAX),
        host_vmcb: Cell::new(0),
        tags: TagSource::new(),
        idle: AtomicBool::new(false),
    }));
    block.this.set(block);
    let address = core::ptr::from_ref::<PerCpu>(block) as u64;
    // SAFETY: GS base exists in long mode, and nothing but this module uses GS in the host.
    unsafe { crate::cpu::wrmsr(Msr::GS_BASE, address) };
    BLOCKS[index as usize].store(address, Ordering::Release);
    ONLINE.fetch_add(1, Ordering::Release);
    if index == 0 {
        RANKS_ON.store(1, Ordering::Relaxed);
    }
    block
}

/// Returns this CPU's block.
#[must_use]
#[inline]
pub fn current() -> &'static PerCpu {
    let this: *const PerCpu;
    // SAFETY: GS base holds the block's address since `init`, which runs before the first caller on every CPU.
    unsafe {
        asm!("mov {}, gs:[0]", out(reg) this, options(nomem, nostack, preserves_flags, pure))
    };
    // SAFETY: the block was leaked, so it lives for ever; shared access is what its `Sync` argues for.
    unsafe { &*this }
}

/// Returns the block of CPU `index`, once it was started.
#[must_use]
pub fn of(index: u32) -> Option<&'static PerCpu> {
    let address = BLOCKS.get(index as usize)?.load(Ordering::Acquire) as *const PerCpu;
    // SAFETY: the table holds null or the address of a leaked block, published with Release.
    unsafe { address.as_ref() }
}

/// Returns how many CPUs run.
#[must_use]
pub fn online() -> u32 {
    ONLINE.load(Ordering::Acquire)
}

impl PerCpu {
    /// Returns the CPU's number, from 0.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Returns the CPU's local APIC ID.
    #[must_use]
    pub fn apic_id(&self) -> u32 {
        self.apic_id
    }

    /// Tells whether an interrupt was noted, or attention was asked for, since [`Self::take_events`].
    #[must_use]
    #[inline]
    pub fn needs_attention(&self) -> bool {
        self.attention.load(Ordering::Relaxed) != 0
    }

    /// Takes the noted vectors: bit `v % 64` of word `v / 64`.
    pub fn take_events(&self) -> [u64; 4] {
        self.attention.store(0, Ordering::Relaxed);
        [0, 1, 2, 3].map(|i| self.events[i].swap(0, Ordering::AcqRel))
    }

    /// Makes [`Self::needs_attention`] true, as an interrupt would; tells whether it was so already. One step: between a
    /// look and a write the CPU could take the old wish and miss the new one.
    #[inline]
    pub fn ask_attention(&self) -> bool {
        self.attention.swap(1, Ordering::AcqRel) != 0
    }

    /// Marks the CPU idle or busy; returns what it was.
    pub fn set_idle(&self, idle: bool) -> bool {
        self.idle.swap(idle, Ordering::SeqCst)
    }

    /// Tells whether the CPU halts for lack of work.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.idle.load(Ordering::SeqCst)
    }

    /// Makes the CPU stop for good at its next NMI.
    pub(crate) fn order_stop(&self) {
        self.stop.store(1, Ordering::Release);
    }
}

/// Notes that a lock of `rank` is being taken; returns the rank before.
#[inline]
pub(crate) fn enter_rank(rank: Rank) -> Rank {
    if cfg!(not(debug_assertions)) || RANKS_ON.load(Ordering::Relaxed) == 0 {
        return Rank(0);
    }
    let cpu = current();
    let previous = cpu.rank.replace(rank.0);
    assert!(
        previous < rank.0,
        "a lock of rank {} taken under one of rank {previous}",
        rank.0
    );
    Rank(previous)
}

/// Notes that the innermost lock was given back.
#[inline]
pub(crate) fn leave_rank(previous: Rank) {
    if cfg!(debug_assertions) && RANKS_ON.load(Ordering::Relaxed) != 0 {
        current().rank.set(previous.0);
    }
}
