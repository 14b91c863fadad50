//! The GDT, TSS and interrupt stacks of a CPU.
//!
//! Every vector runs on a stack of its own class (DESIGN D1): precompiled `core` has a red zone, so nothing may be
//! pushed onto the stack that ordinary Rust uses.

use alloc::boxed::Box;
use x86_64::VirtAddr;
use x86_64::instructions::segmentation::{CS, DS, ES, SS, Segment};
use x86_64::instructions::tables::load_tss;
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
