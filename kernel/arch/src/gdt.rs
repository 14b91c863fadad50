//! The GDT, TSS and interrupt stacks of a CPU.
//!
//! Every vector runs on a stack of its own class (DESIGN D1): precompiled `core` has a red zone, so nothing may be
//! pushed onto the stack that ordinary Rust uses.

use alloc::boxed::Box;
use core::arch::asm;
use x86_64::VirtAddr;
use x86_64::instructions::segmentation::{CS, DS, ES, SS, Segment};
use x86_64::instructions::tables::{load_tss, sgdt};
use x86_64::structures::gdt::{Descriptor, GlobalDescriptorTable, SegmentSelector};
use x86_64::structures::tss::TaskStateSegment;

/// Interrupt stack of double faults.
pub(crate) const IST_DOUBLE_FAULT: u8 = 1;
/// Interrupt stack of NMIs.
pub(crate) const IST_NMI: u8 = 2;
/// Interrupt stack of machine checks.
pub(crate) const IST_MACHINE_CHECK: u8 = 3;
/// Interrupt stack of all other exceptions.
pub(crate) const IST_EXCEPTION: u8 = 4;
/// Interrupt stack of device interrupts and IPIs.
pub(crate) const IST_INTERRUPT: u8 = 5;
/// Stacks that [`install`] wants, in the order of the numbers above.
pub const IST_COUNT: usize = 5;

/// Loads a GDT and TSS for this CPU; `ist_tops` are the tops of its interrupt stacks.
pub fn install(ist_tops: [u64; IST_COUNT]) {
    let mut tss = TaskStateSegment::new();
    let mut stacks = [VirtAddr::zero(); 7];
    for (slot, top) in stacks.iter_mut().zip(ist_tops) {
        *slot = VirtAddr::new(top);
    }
    tss.interrupt_stack_table = stacks;
    let tss: &'static TaskStateSegment = Box::leak(Box::new(tss));
    let gdt: &'static mut GlobalDescriptorTable = Box::leak(Box::new(GlobalDescriptorTable::new()));
    let code = gdt.append(Descriptor::kernel_code_segment());
    let data = gdt.append(Descriptor::kernel_data_segment());
    let task = gdt.append(Descriptor::tss_segment(tss));
    gdt.load();
    // SAFETY: `code` is a 64-bit ring-0 code segment of the GDT that was just loaded.
    unsafe { CS::set_reg(code) };
    // SAFETY: `data` is a writable ring-0 data segment of that GDT.
    unsafe { SS::set_reg(data) };
    // SAFETY: null selectors are legal in DS and ES in long mode.
    unsafe { DS::set_reg(SegmentSelector::NULL) };
    // SAFETY: as above. FS and GS stay as they are: loading GS would clear the per-CPU base.
    unsafe { ES::set_reg(SegmentSelector::NULL) };
    // SAFETY: `task` describes a TSS that lives for ever and that no other CPU loads.
    unsafe { load_tss(task) };
}

/// What a VMCS must know of this CPU's segments, to load them on an exit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Selectors {
    /// ES, CS, SS, DS, FS, GS.
    pub(crate) segments: [u16; 6],
    /// TR.
    pub(crate) tr: u16,
    /// Address of the TSS.
    pub(crate) tr_base: u64,
    /// Address of the GDT.
    pub(crate) gdt_base: u64,
}

/// Returns the segments of this CPU, after [`install`]. The bases of FS and GS are not the GDT's.
pub(crate) fn selectors() -> Selectors {
    let gdt_base = sgdt().base.as_u64();
    let tr: u16;
    // SAFETY: STR only reads a register.
    unsafe { asm!("str {:x}", out(reg) tr, options(nomem, nostack, preserves_flags)) };
    let at = (gdt_base + u64::from(tr & !7)) as *const [u64; 2];
    // SAFETY: TR names a descriptor of 16 bytes in the GDT that `install` leaked; the table is aligned to 8.
    let [low, high] = unsafe { at.read() };
    let tr_base = low >> 16 & 0xff_ffff | low >> 32 & 0xff00_0000 | high << 32;
    Selectors {
        segments: [0, CS::get_reg().0, SS::get_reg().0, 0, 0, 0],
        tr,
        tr_base,
        gdt_base,
    }
}
