//! A vCPU on SVM as the rest of the kernel sees it: [`VcpuBackend`] over the VMCB.

use crate::debug;
use crate::svm::Vcpu;
use alloc::string::String;
use alloc::vec::Vec;
use alloc::{format, vec};
use api::backend::{Exit, Gpr, VcpuBackend, VcpuState};
use api::cpu::{DescriptorTable, Segment, SegmentAttributes, segment};
use spec::event::Event;
use spec::msr::Msr;
use spec::svm::{Intercept1, VirtualInterrupt};
use spec::x86::{Efer, Exception, Rflags};

/// The CR8-write bit of the CR intercepts.
const CR8_WRITE: u32 = 1 << 24;
/// Interrupt shadow in the interrupt-state word.
const SHADOW: u64 = 1;
/// An interrupt that waits whatever the task priority is; the caller has compared them.
const PENDING: VirtualInterrupt = VirtualInterrupt::V_IRQ.union(VirtualInterrupt::V_IGN_TPR);

fn table(segment: &Segment) -> DescriptorTable {
    DescriptorTable {
        base: segment.base,
        limit: segment.limit as u16,
    }
}

fn table_segment(table: DescriptorTable) -> Segment {
    Segment {
        limit: u32::from(table.limit),
        base: table.base,
        ..Segment::default()
    }
}

impl Vcpu {
    fn msr_slot(&mut self, msr: Msr) -> Option<&mut u64> {
        let s = &mut self.vmcb.state;
        Some(match msr {
            Msr::STAR => &mut s.star,
            Msr::LSTAR => &mut s.lstar,
            Msr::CSTAR => &mut s.cstar,
            Msr::SFMASK => &mut s.sfmask,
            Msr::SYSENTER_CS => &mut s.sysenter_cs,
            Msr::SYSENTER_ESP => &mut s.sysenter_esp,
            Msr::SYSENTER_EIP => &mut s.sysenter_eip,
            Msr::FS_BASE => &mut s.segments[segment::FS].base,
            Msr::GS_BASE => &mut s.segments[segment::GS].base,
            Msr::KERNEL_GS_BASE => &mut s.kernel_gs_base,
            Msr::PAT => &mut s.pat,
            _ => return None,
        })
    }

    fn has_window(&self) -> bool {
        self.vmcb.control.intercept1 & Intercept1::VINTR.bits() != 0
    }

    fn set_virtual_interrupt(&mut self, set: VirtualInterrupt, clear: VirtualInterrupt) {
        let word = &mut self.vmcb.control.virtual_interrupt;
        *word = *word & !clear.bits() | set.bits();
    }

    /// Asks for an interrupt that only V_IRQ delivers: bits 39:32 of the word are its vector.
    fn inject_by_virq(&mut self, vector: u8) {
        const VECTOR: VirtualInterrupt = VirtualInterrupt::from_bits_retain(0xff << 32);
        let wanted = VirtualInterrupt::from_bits_retain(u64::from(vector) << 32);
        self.virtual_irq = Some(vector);
        self.vmcb.control.intercept1 &= !Intercept1::VINTR.bits();
        self.vmcb.control.intercept_cr |= CR8_WRITE;
        self.set_virtual_interrupt(PENDING | wanted, VECTOR);
    }
}

impl VcpuBackend for Vcpu {
    fn arrive(&mut self, is_live: bool) {
        self.settle_on_cpu();
        self.loaded = true;
        if !is_live {
            debug::load_addresses(&self.debug_registers);
        }
    }

    fn leave(&mut self) {
        self.loaded = false;
        self.debug_registers = debug::addresses();
    }

    #[inline(always)]
    fn enter(&mut self) -> bool {
        self.run()
    }

    #[inline(always)]
    fn exit(&mut self) -> Exit {
        self.decode_exit()
    }

    fn limit_run(&mut self, _ticks: u64) -> bool {
        false
    }

    fn flush_tlb(&mut self) {
        self.flush_wanted = true;
    }

    fn log_writes(&mut self, _on: bool) {}

    fn written(&mut self, _each: &mut dyn FnMut(addr::Gpa)) {}

    fn state(&mut self) -> VcpuState {
        let mut gpr = [0; 16];
        self.read_gprs(&mut gpr);
        let nmi_blocked = self.nmi_is_masked();
        let s = &self.vmcb.state;
        VcpuState {
            gpr,
            rip: s.rip,
            rflags: s.rflags,
            segments: s.segments,
            tr: s.tr,
            ldtr: s.ldtr,
            gdtr: table(&s.gdtr),
            idtr: table(&s.idtr),
            cr0: s.cr0,
            cr2: s.cr2,
            cr3: s.cr3,
            cr4: s.cr4,
            efer: self.efer(),
            cpl: s.cpl,
            dr: if self.loaded {
                debug::addresses()
            } else {
                self.debug_registers
            },
            dr6: s.dr6,
            dr7: s.dr7,
            pat: s.pat,
            syscall: [s.star, s.lstar, s.cstar, s.sfmask],
            kernel_gs_base: s.kernel_gs_base,
            sysenter: [s.sysenter_cs, s.sysenter_esp, s.sysenter_eip],
            in_shadow: self.in_shadow(),
            nmi_blocked,
        }
    }

    fn set_state(&mut self, state: &VcpuState) {
        self.set_gprs(&state.gpr);
        let s = &mut self.vmcb.state;
        (s.rip, s.rflags) = (state.rip, state.rflags | Rflags::ONE.bits());
        s.segments = state.segments;
        (s.tr, s.ldtr) = (state.tr, state.ldtr);
        (s.gdtr, s.idtr) = (table_segment(state.gdtr), table_segment(state.idtr));
        (s.cr0, s.cr2, s.cr3, s.cr4) = (state.cr0, state.cr2, state.cr3, state.cr4);
        s.efer = state.efer | Efer::SVME.bits();
        s.cpl = state.cpl;
        (s.dr6, s.dr7) = (state.dr6, state.dr7);
        s.pat = state.pat;
        [s.star, s.lstar, s.cstar, s.sfmask] = state.syscall;
        s.kernel_gs_base = state.kernel_gs_base;
        [s.sysenter_cs, s.sysenter_esp, s.sysenter_eip] = state.sysenter;
        self.debug_registers = state.dr;
        if self.loaded {
            debug::load_addresses(&state.dr);
        }
        let c = &mut self.vmcb.control;
        (c.event_injection, c.exit_int_info) = (0, 0);
        c.interrupt_state = if state.in_shadow { SHADOW } else { 0 };
        self.virtual_irq = None;
        self.set_interrupt_window(false);
        self.mask_nmis(state.nmi_blocked);
        self.flush_wanted = true;
    }

    #[inline(always)]
    fn gpr(&self, register: Gpr) -> u64 {
        match register {
            Gpr::RAX => self.vmcb.state.rax,
            Gpr::RSP => self.vmcb.state.rsp,
            Gpr(n) => self.gprs[n as usize & 15],
        }
    }

    #[inline(always)]
    fn set_gpr(&mut self, register: Gpr, value: u64) {
        match register {
            Gpr::RAX => self.vmcb.state.rax = value,
            Gpr::RSP => self.vmcb.state.rsp = value,
            Gpr(n) => self.gprs[n as usize & 15] = value,
        }
    }

    #[inline]
    fn read_gprs(&self, values: &mut [u64; 16]) {
        *values = self.gprs;
        [values[0], values[4]] = [self.vmcb.state.rax, self.vmcb.state.rsp];
    }

    #[inline]
    fn set_gprs(&mut self, values: &[u64; 16]) {
        self.gprs = *values;
        [self.vmcb.state.rax, self.vmcb.state.rsp] = [values[0], values[4]];
    }

    fn xmm(&self, index: u8) -> u128 {
        self.xmm[index as usize & 15]
    }

    fn set_xmm(&mut self, index: u8, value: u128) {
        self.xmm[index as usize & 15] = value;
    }

    #[inline(always)]
    fn rip(&self) -> u64 {
        self.vmcb.state.rip
    }

    #[inline(always)]
    fn set_rip(&mut self, value: u64) {
        self.vmcb.state.rip = value;
    }

    #[inline(always)]
    fn rflags(&self) -> u64 {
        self.vmcb.state.rflags
    }

    #[inline(always)]
    fn set_rflags(&mut self, value: u64) {
        self.vmcb.state.rflags = value;
    }

    #[inline(always)]
    fn cpl(&self) -> u8 {
        self.vmcb.state.cpl
    }

    fn set_cpl(&mut self, value: u8) {
        self.vmcb.state.cpl = value;
    }

    #[inline(always)]
    fn segment(&self, index: usize) -> Segment {
        self.vmcb
            .state
            .segments
            .get(index)
            .copied()
            .unwrap_or_default()
    }

    #[inline(always)]
    fn segment_base(&self, index: usize) -> u64 {
        self.vmcb.state.segments.get(index).map_or(0, |s| s.base)
    }

    #[inline]
    fn set_segment(&mut self, index: usize, value: &Segment) {
        if let Some(slot) = self.vmcb.state.segments.get_mut(index) {
            *slot = *value;
        }
    }

    fn tr(&self) -> Segment {
        self.vmcb.state.tr
    }

    fn set_tr(&mut self, value: &Segment) {
        self.vmcb.state.tr = *value;
    }

    fn ldtr(&self) -> Segment {
        self.vmcb.state.ldtr
    }

    fn set_ldtr(&mut self, value: &Segment) {
        self.vmcb.state.ldtr = *value;
    }

    fn gdtr(&self) -> DescriptorTable {
        table(&self.vmcb.state.gdtr)
    }

    fn set_gdtr(&mut self, value: DescriptorTable) {
        self.vmcb.state.gdtr = table_segment(value);
    }

    fn idtr(&self) -> DescriptorTable {
        table(&self.vmcb.state.idtr)
    }

    fn set_idtr(&mut self, value: DescriptorTable) {
        self.vmcb.state.idtr = table_segment(value);
    }

    #[inline(always)]
    fn cr0(&self) -> u64 {
        self.vmcb.state.cr0
    }

    fn cr2(&self) -> u64 {
        self.vmcb.state.cr2
    }

    fn set_cr2(&mut self, value: u64) {
        self.vmcb.state.cr2 = value;
    }

    #[inline(always)]
    fn cr3(&self) -> u64 {
        self.vmcb.state.cr3
    }

    #[inline(always)]
    fn cr4(&self) -> u64 {
        self.vmcb.state.cr4
    }

    #[inline(always)]
    fn efer(&self) -> u64 {
        self.vmcb.state.efer & !Efer::SVME.bits()
    }

    fn set_control(&mut self, cr0: u64, cr3: u64, cr4: u64, efer: u64) {
        let s = &mut self.vmcb.state;
        (s.cr0, s.cr3, s.cr4) = (cr0, cr3, cr4);
        s.efer = efer | Efer::SVME.bits();
    }

    fn wants_pae_entries(&self) -> bool {
        false
    }

    fn set_pae_entries(&mut self, _entries: [u64; 4]) {}

    fn debug(&self, number: u8) -> u64 {
        match number {
            6 => self.vmcb.state.dr6,
            7 => self.vmcb.state.dr7,
            n => debug::addresses()[usize::from(n & 3)],
        }
    }

    fn set_debug(&mut self, number: u8, value: u64) {
        match number {
            6 => self.vmcb.state.dr6 = value,
            7 => self.vmcb.state.dr7 = value,
            n => {
                let mut all = debug::addresses();
                all[usize::from(n & 3)] = value;
                debug::load_addresses(&all);
            }
        }
    }

    fn msr(&self, msr: Msr) -> Option<u64> {
        let s = &self.vmcb.state;
        Some(match msr {
            Msr::EFER => self.efer(),
            Msr::STAR => s.star,
            Msr::LSTAR => s.lstar,
            Msr::CSTAR => s.cstar,
            Msr::SFMASK => s.sfmask,
            Msr::SYSENTER_CS => s.sysenter_cs,
            Msr::SYSENTER_ESP => s.sysenter_esp,
            Msr::SYSENTER_EIP => s.sysenter_eip,
            Msr::FS_BASE => s.segments[segment::FS].base,
            Msr::GS_BASE => s.segments[segment::GS].base,
            Msr::KERNEL_GS_BASE => s.kernel_gs_base,
            Msr::PAT => s.pat,
            _ => return None,
        })
    }

    fn set_msr(&mut self, msr: Msr, value: u64) {
        if msr == Msr::EFER {
            self.vmcb.state.efer = value | Efer::SVME.bits();
        } else if let Some(slot) = self.msr_slot(msr) {
            *slot = value;
        }
    }

    #[inline]
    fn set_tsc_offset(&mut self, value: u64) {
        self.vmcb.control.tsc_offset = value;
    }

    #[inline(always)]
    fn advance(&mut self, usual: u64) -> bool {
        let rip = if self.features.next_rip() {
            self.vmcb.control.next_rip
        } else {
            self.vmcb.state.rip.wrapping_add(usual)
        };
        self.advance_to(rip)
    }

    #[inline(always)]
    fn advance_to(&mut self, rip: u64) -> bool {
        let attributes = self.vmcb.state.segments[segment::CS].attributes;
        let is_64bit = attributes.has(SegmentAttributes::LONG);
        self.vmcb.state.rip = if is_64bit { rip } else { rip & 0xffff_ffff };
        self.vmcb.control.interrupt_state = 0;
        self.vmcb.state.rflags & Rflags::TF.bits() != 0 && self.end_step()
    }

    fn knows_length(&self) -> bool {
        self.features.next_rip()
    }

    fn fetched(&self) -> ([u8; 15], usize) {
        // Only CPUs with decode assists fill these.
        let control = &self.vmcb.control;
        match usize::from(control.fetched_count.min(15)) {
            0 => ([0; 15], 0),
            len => (control.fetched_bytes, len),
        }
    }

    #[cold]
    fn end_step(&mut self) -> bool {
        self.note_step()
    }

    #[inline(always)]
    fn in_shadow(&self) -> bool {
        self.vmcb.control.interrupt_state & SHADOW != 0
    }

    #[inline(always)]
    fn set_shadow(&mut self, value: bool) {
        self.vmcb.control.interrupt_state = u64::from(value);
    }

    fn keeps_shadow(&self) -> bool {
        self.features.keeps_interrupt_shadow()
    }

    fn inject(&mut self, event: Event) {
        if event.kind() == Event::TYPE_INTR && self.features.injects_by_virq() {
            self.inject_by_virq(event.vector());
        } else {
            self.vmcb.control.event_injection = event.0;
        }
    }

    fn has_injection(&self) -> bool {
        Event(self.vmcb.control.event_injection).is_valid()
    }

    fn holds_interrupt(&self) -> bool {
        self.virtual_irq.is_some()
    }

    #[inline(always)]
    fn interrupted_event(&self) -> Event {
        let event = Event(self.vmcb.control.exit_int_info);
        if !event.is_valid() {
            return Event::default();
        }
        let is_trap = matches!(Exception(event.vector()), Exception::BP | Exception::OF);
        match event.kind() {
            Event::TYPE_SOFTWARE => Event::default(),
            Event::TYPE_EXCEPTION if is_trap => Event::default(),
            _ => event,
        }
    }

    fn set_interrupt_window(&mut self, wanted: bool) {
        // An interrupt that waits as V_IRQ comes before a window; who wants one is asked again after the next exit.
        if self.virtual_irq.is_some() {
            return;
        }
        if wanted {
            self.set_virtual_interrupt(PENDING, VirtualInterrupt::empty());
            self.vmcb.control.intercept1 |= Intercept1::VINTR.bits();
            // A guest's write of CR8 with a virtual interrupt pending is more than some emulators of SVM can take.
            self.vmcb.control.intercept_cr |= CR8_WRITE;
        } else {
            if self.features.injects_by_virq() && self.has_window() {
                crate::apic::look_again();
            }
            self.set_virtual_interrupt(VirtualInterrupt::empty(), PENDING);
            self.vmcb.control.intercept1 &= !Intercept1::VINTR.bits();
        }
    }

    fn inject_nmi(&mut self) -> bool {
        self.try_inject_nmi()
    }

    fn nmi_in_service(&mut self) -> bool {
        self.nmi_is_masked()
    }

    #[inline(always)]
    fn task_priority(&self) -> u8 {
        (self.vmcb.control.virtual_interrupt & 0xf) as u8
    }

    #[inline(always)]
    fn set_task_priority(&mut self, class: u8) {
        let word = &mut self.vmcb.control.virtual_interrupt;
        *word = *word & !0xf | u64::from(class & 0xf);
    }

    fn set_priority_exit(&mut self, wanted: bool) {
        let waits = self.vmcb.control.virtual_interrupt & VirtualInterrupt::V_IRQ.bits() != 0;
        let intercepts = &mut self.vmcb.control.intercept_cr;
        if wanted || waits {
            *intercepts |= CR8_WRITE;
        } else {
            *intercepts &= !CR8_WRITE;
        }
    }

    fn describe_exit(&self) -> Vec<String> {
        let c = &self.vmcb.control;
        vec![format!(
            "SVM exit {:#x}, info {:#x} {:#x} {:#x}",
            c.exit_code, c.exit_info1, c.exit_info2, c.exit_int_info
        )]
    }
}
