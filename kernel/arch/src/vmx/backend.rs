//! A vCPU on VMX as the rest of the kernel sees it: [`VcpuBackend`] over the VMCS.

use super::check;
use super::features;
use super::segment::{attributes_of, presentable, rights_of};
use super::vcpu::{CR0_MASK, HELD_MSRS, Vcpu};
use super::vmcs::{read, write, write_rip};
use crate::cpu::{self, rdmsr, wrmsr};
use crate::debug;
use alloc::string::String;
use alloc::vec::Vec;
use api::backend::{Exit, Gpr, VcpuBackend, VcpuState};
use api::cpu::{DescriptorTable, Segment, segment};
use spec::event::Event;
use spec::msr::Msr;
use spec::vmx::{Interruptibility, PinControls, PrimaryControls, field};
use spec::x86::{Cr0, Cr4, Efer, Rflags};

/// Place of LDTR and TR in the tables of segment fields.
const LDTR: usize = 6;
const TR: usize = 7;
/// Single-step bit of DR6, and of the debug exceptions that wait.
const DR6_BS: u64 = 1 << 14;
/// What keeps interrupts off for one instruction.
const SHADOWS: u32 = Interruptibility::STI.union(Interruptibility::MOV_SS).bits();
const NMI_BLOCKED: u32 = Interruptibility::NMI.bits();

fn read_segment(index: usize) -> Segment {
    Segment {
        selector: read(field::GUEST_SELECTOR.nth(index)),
        attributes: attributes_of(read(field::GUEST_RIGHTS.nth(index))),
        limit: read(field::GUEST_LIMIT.nth(index)),
        base: read(field::GUEST_BASE.nth(index)),
    }
}

fn write_segment(index: usize, value: &Segment) {
    let value = presentable(value);
    write(field::GUEST_SELECTOR.nth(index), value.selector);
    write(field::GUEST_RIGHTS.nth(index), rights_of(value.attributes));
    write(field::GUEST_LIMIT.nth(index), value.limit);
    write(field::GUEST_BASE.nth(index), value.base);
}

fn interruptibility() -> u32 {
    read(field::GUEST_INTERRUPTIBILITY)
}

/// Returns the bit for an interrupt shadow: with interrupts off it cannot be that of STI, and the CPU checks.
fn shadow_for(rflags: u64) -> Interruptibility {
    if rflags & Rflags::IF.bits() != 0 {
        Interruptibility::STI
    } else {
        Interruptibility::MOV_SS
    }
}

impl Vcpu {
    fn write_state(&mut self, state: &VcpuState) {
        self.set_gprs(&state.gpr);
        write(field::GUEST_RIP, state.rip);
        write(field::GUEST_RFLAGS, state.rflags | Rflags::ONE.bits());
        for (index, value) in state.segments.iter().enumerate() {
            write_segment(index, value);
        }
        self.set_cpl(state.cpl);
        write_segment(TR, &state.tr);
        write_segment(LDTR, &state.ldtr);
        self.set_gdtr(state.gdtr);
        self.set_idtr(state.idtr);
        self.set_control(state.cr0, state.cr3, state.cr4, state.efer);
        write(field::GUEST_DR7, state.dr7);
        write(field::GUEST_PAT, state.pat);
        write(field::GUEST_SYSENTER_CS, state.sysenter[0] as u32);
        write(field::GUEST_SYSENTER_ESP, state.sysenter[1]);
        write(field::GUEST_SYSENTER_EIP, state.sysenter[2]);
        write(field::GUEST_PENDING_DEBUG, 0);
        write(field::ENTRY_EVENT, 0);
        let mut blocking = Interruptibility::empty();
        blocking.set(shadow_for(state.rflags), state.in_shadow);
        blocking.set(Interruptibility::NMI, state.nmi_blocked);
        write(field::GUEST_INTERRUPTIBILITY, blocking.bits());
        self.set_interrupt_window(false);
        self.set_nmi_window(false);
    }

    /// Sets what is not in the VMCS: in the CPU if the vCPU is there.
    fn set_held(&mut self, state: &VcpuState) {
        let [star, lstar, cstar, sfmask] = state.syscall;
        self.held = [star, lstar, cstar, sfmask, state.kernel_gs_base];
        (self.debug_registers, self.dr6, self.cr2) = (state.dr, state.dr6, state.cr2);
        if self.loaded {
            self.load_held();
        }
    }

    /// Ends the interrupt shadow, if there is one: rarely, behind an instruction that exited.
    #[inline(always)]
    fn end_shadow(&mut self) {
        if self.in_shadow() {
            write(field::GUEST_INTERRUPTIBILITY, interruptibility() & !SHADOWS);
        }
    }

    fn held_msr(&self, index: usize) -> u64 {
        if self.loaded {
            // SAFETY: the registers exist with long mode.
            unsafe { rdmsr(HELD_MSRS[index]) }
        } else {
            self.held[index]
        }
    }

    fn read_state(&mut self) -> VcpuState {
        VcpuState {
            gpr: {
                let mut gpr = [0; 16];
                self.read_gprs(&mut gpr);
                gpr
            },
            rip: self.rip(),
            rflags: self.rflags(),
            segments: core::array::from_fn(read_segment),
            tr: read_segment(TR),
            ldtr: read_segment(LDTR),
            gdtr: self.gdtr(),
            idtr: self.idtr(),
            cr0: self.cr0(),
            cr2: self.cr2(),
            cr3: self.cr3(),
            cr4: self.cr4(),
            efer: self.efer(),
            cpl: self.cpl(),
            dr: core::array::from_fn(|n| self.debug(n as u8)),
            dr6: self.debug(6),
            dr7: self.debug(7),
            pat: read(field::GUEST_PAT),
            syscall: core::array::from_fn(|n| self.held_msr(n)),
            kernel_gs_base: self.held_msr(4),
            sysenter: [
                u64::from(read(field::GUEST_SYSENTER_CS)),
                read(field::GUEST_SYSENTER_ESP),
                read(field::GUEST_SYSENTER_EIP),
            ],
            in_shadow: self.in_shadow(),
            nmi_blocked: self.nmi_in_service(),
        }
    }
}

impl VcpuBackend for Vcpu {
    fn arrive(&mut self, is_live: bool) {
        self.load(is_live);
    }

    fn leave(&mut self) {
        self.unload();
    }

    #[inline(always)]
    fn enter(&mut self) -> bool {
        self.run()
    }

    #[inline(always)]
    fn exit(&mut self) -> Exit {
        self.decode_exit()
    }

    fn limit_run(&mut self, ticks: u64) -> bool {
        let features = features();
        if !features
            .controls
            .pin
            .contains(PinControls::PREEMPTION_TIMER)
        {
            return false;
        }
        // The timer counts down by one when the TSC's bit of this number changes, and only in the guest.
        let shift = features.capabilities.misc & 0x1f;
        let value = u32::try_from(ticks >> shift).unwrap_or(u32::MAX);
        write(field::PREEMPTION_TIMER, value);
        true
    }

    fn flush_tlb(&mut self) {
        if self.loaded {
            self.flush();
        } else {
            self.flush_wanted = true;
        }
    }

    fn log_writes(&mut self, on: bool) {
        self.with_vmcs(|this| this.set_log(on));
    }

    fn written(&mut self, each: &mut dyn FnMut(addr::Gpa)) {
        self.empty_log(each);
    }

    fn state(&mut self) -> VcpuState {
        self.with_vmcs(Self::read_state)
    }

    fn set_state(&mut self, state: &VcpuState) {
        self.with_vmcs(|this| this.write_state(state));
        self.set_held(state);
        self.flush_tlb();
    }

    #[inline(always)]
    fn gpr(&self, register: Gpr) -> u64 {
        match register {
            Gpr::RSP => read(field::GUEST_RSP),
            Gpr(n) => self.registers.gprs[n as usize & 15],
        }
    }

    #[inline(always)]
    fn set_gpr(&mut self, register: Gpr, value: u64) {
        match register {
            Gpr::RSP => write(field::GUEST_RSP, value),
            Gpr(n) => self.registers.gprs[n as usize & 15] = value,
        }
    }

    fn read_gprs(&self, values: &mut [u64; 16]) {
        *values = self.registers.gprs;
        values[usize::from(Gpr::RSP.0)] = read(field::GUEST_RSP);
    }

    fn set_gprs(&mut self, values: &[u64; 16]) {
        self.registers.gprs = *values;
        write(field::GUEST_RSP, values[usize::from(Gpr::RSP.0)]);
    }

    fn xmm(&self, index: u8) -> u128 {
        self.registers.xmm[index as usize & 15]
    }

    fn set_xmm(&mut self, index: u8, value: u128) {
        self.registers.xmm[index as usize & 15] = value;
    }

    #[inline(always)]
    fn rip(&self) -> u64 {
        read(field::GUEST_RIP)
    }

    #[inline(always)]
    fn set_rip(&mut self, value: u64) {
        write_rip(value);
    }

    #[inline(always)]
    fn rflags(&self) -> u64 {
        read(field::GUEST_RFLAGS)
    }

    #[inline(always)]
    fn set_rflags(&mut self, value: u64) {
        write(field::GUEST_RFLAGS, value);
    }

    /// The privilege level is that of the stack segment (SDM vol. 3, 25.4.1).
    #[inline(always)]
    fn cpl(&self) -> u8 {
        (read(field::GUEST_RIGHTS.nth(segment::SS)) >> 5 & 3) as u8
    }

    fn set_cpl(&mut self, value: u8) {
        let at = field::GUEST_RIGHTS.nth(segment::SS);
        let rights: u32 = read(at);
        let wanted = rights & !(3 << 5) | u32::from(value & 3) << 5;
        if wanted != rights {
            write(at, wanted);
        }
    }

    fn segment(&self, index: usize) -> Segment {
        read_segment(index)
    }

    #[inline(always)]
    fn segment_base(&self, index: usize) -> u64 {
        read(field::GUEST_BASE.nth(index))
    }

    fn set_segment(&mut self, index: usize, value: &Segment) {
        write_segment(index, value);
    }

    fn tr(&self) -> Segment {
        read_segment(TR)
    }

    fn set_tr(&mut self, value: &Segment) {
        write_segment(TR, value);
    }

    fn ldtr(&self) -> Segment {
        read_segment(LDTR)
    }

    fn set_ldtr(&mut self, value: &Segment) {
        write_segment(LDTR, value);
    }

    fn gdtr(&self) -> DescriptorTable {
        DescriptorTable {
            base: read(field::GUEST_GDTR_BASE),
            limit: read(field::GUEST_GDTR_LIMIT) as u16,
        }
    }

    fn set_gdtr(&mut self, value: DescriptorTable) {
        write(field::GUEST_GDTR_BASE, value.base);
        write(field::GUEST_GDTR_LIMIT, u32::from(value.limit));
    }

    fn idtr(&self) -> DescriptorTable {
        DescriptorTable {
            base: read(field::GUEST_IDTR_BASE),
            limit: read(field::GUEST_IDTR_LIMIT) as u16,
        }
    }

    fn set_idtr(&mut self, value: DescriptorTable) {
        write(field::GUEST_IDTR_BASE, value.base);
        write(field::GUEST_IDTR_LIMIT, u32::from(value.limit));
    }

    #[inline(always)]
    fn cr0(&self) -> u64 {
        read(field::GUEST_CR0) & !CR0_MASK | self.cr0_shadow & CR0_MASK
    }

    fn cr2(&self) -> u64 {
        if self.loaded { cpu::cr2() } else { self.cr2 }
    }

    fn set_cr2(&mut self, value: u64) {
        self.cr2 = value;
        if self.loaded {
            cpu::set_cr2(value);
        }
    }

    #[inline(always)]
    fn cr3(&self) -> u64 {
        read(field::GUEST_CR3)
    }

    #[inline(always)]
    fn cr4(&self) -> u64 {
        // The host's bits are in both registers as the guest wrote them, but for this one.
        read(field::GUEST_CR4) & !Cr4::VMXE.bits()
    }

    #[inline(always)]
    fn efer(&self) -> u64 {
        read(field::GUEST_EFER)
    }

    fn set_control(&mut self, cr0: u64, cr3: u64, cr4: u64, efer: u64) {
        self.cr0_shadow = cr0;
        write(field::CR0_SHADOW, cr0);
        write(field::CR4_SHADOW, cr4);
        let caching = (Cr0::NW | Cr0::CD).bits();
        write(
            field::GUEST_CR0,
            cr0 & !caching | (Cr0::NE | Cr0::ET).bits(),
        );
        write(field::GUEST_CR3, cr3);
        write(field::GUEST_CR4, cr4 | Cr4::VMXE.bits());
        self.set_msr(Msr::EFER, efer);
    }

    fn wants_pae_entries(&self) -> bool {
        let paging = self.cr0() & Cr0::PG.bits() != 0;
        let pae = self.cr4() & Cr4::PAE.bits() != 0;
        paging && pae && self.efer() & Efer::LMA.bits() == 0
    }

    fn set_pae_entries(&mut self, entries: [u64; 4]) {
        for (index, entry) in entries.into_iter().enumerate() {
            write(field::GUEST_PDPTE.nth(index), entry);
        }
    }

    fn debug(&self, number: u8) -> u64 {
        match (number, self.loaded) {
            (7, _) => read(field::GUEST_DR7),
            (6, true) => debug::status(),
            (6, false) => self.dr6,
            (n, true) => debug::addresses()[usize::from(n & 3)],
            (n, false) => self.debug_registers[usize::from(n & 3)],
        }
    }

    fn set_debug(&mut self, number: u8, value: u64) {
        match number {
            6 => debug::load_status(value),
            7 => write(field::GUEST_DR7, value),
            n => {
                let mut all = debug::addresses();
                all[usize::from(n & 3)] = value;
                debug::load_addresses(&all);
            }
        }
    }

    fn msr(&self, msr: Msr) -> Option<u64> {
        Some(match msr {
            Msr::EFER => self.efer(),
            Msr::PAT => read(field::GUEST_PAT),
            Msr::FS_BASE => self.segment_base(segment::FS),
            Msr::GS_BASE => self.segment_base(segment::GS),
            Msr::SYSENTER_CS => u64::from(read(field::GUEST_SYSENTER_CS)),
            Msr::SYSENTER_ESP => read(field::GUEST_SYSENTER_ESP),
            Msr::SYSENTER_EIP => read(field::GUEST_SYSENTER_EIP),
            other => self.held_msr(HELD_MSRS.iter().position(|m| *m == other)?),
        })
    }

    fn set_msr(&mut self, msr: Msr, value: u64) {
        match msr {
            Msr::EFER => {
                write(field::GUEST_EFER, value);
                self.set_long_mode(value & Efer::LMA.bits() != 0);
            }
            Msr::PAT => write(field::GUEST_PAT, value),
            Msr::FS_BASE => write(field::GUEST_BASE.nth(segment::FS), value),
            Msr::GS_BASE => write(field::GUEST_BASE.nth(segment::GS), value),
            Msr::SYSENTER_CS => write(field::GUEST_SYSENTER_CS, value as u32),
            Msr::SYSENTER_ESP => write(field::GUEST_SYSENTER_ESP, value),
            Msr::SYSENTER_EIP => write(field::GUEST_SYSENTER_EIP, value),
            other if HELD_MSRS.contains(&other) => {
                // SAFETY: as in `Vcpu::load_held`; writes come from the guest's own WRMSR, past the policy.
                unsafe { wrmsr(other, value) };
            }
            _ => {}
        }
    }

    #[inline]
    fn set_tsc_offset(&mut self, value: u64) {
        write(field::TSC_OFFSET, value);
    }

    #[inline(always)]
    fn advance(&mut self, _usual: u64) -> bool {
        self.advance_to(self.rip_behind())
    }

    #[inline(always)]
    fn advance_to(&mut self, rip: u64) -> bool {
        // Only outside 64-bit mode can an instruction end at 4 GiB, and then EIP wraps.
        let wraps = rip >> 32 != 0 && self.efer() & Efer::LMA.bits() == 0;
        let rip = if wraps { rip & 0xffff_ffff } else { rip };
        write_rip(rip);
        self.end_shadow();
        self.rflags() & Rflags::TF.bits() != 0 && self.end_step()
    }

    fn knows_length(&self) -> bool {
        true
    }

    fn fetched(&self) -> ([u8; 15], usize) {
        ([0; 15], 0)
    }

    #[cold]
    fn end_step(&mut self) -> bool {
        debug::load_status(debug::status() | DR6_BS);
        true
    }

    #[inline(always)]
    fn in_shadow(&self) -> bool {
        interruptibility() & SHADOWS != 0
    }

    #[inline(always)]
    fn set_shadow(&mut self, value: bool) {
        if !value {
            return self.end_shadow();
        }
        let shadow = shadow_for(self.rflags()).bits();
        write(
            field::GUEST_INTERRUPTIBILITY,
            interruptibility() & !SHADOWS | shadow,
        );
        if self.rflags() & Rflags::TF.bits() != 0 {
            // A trap that a shadow holds off waits for its end (SDM vol. 3, 27.3.1.5).
            write(field::GUEST_PENDING_DEBUG, DR6_BS);
        }
    }

    fn keeps_shadow(&self) -> bool {
        true
    }

    fn inject(&mut self, event: Event) {
        let mut info = event.0 as u32;
        if let Some(code) = event.error_code() {
            if read(field::GUEST_CR0) & Cr0::PE.bits() == 0 {
                // Real mode pushes no error codes.
                info &= !(1 << 11);
            } else {
                write(field::ENTRY_ERROR_CODE, code);
            }
        }
        if event.kind() == Event::TYPE_NMI {
            // An NMI whose delivery was interrupted is delivered again, and blocks others by itself.
            write(
                field::GUEST_INTERRUPTIBILITY,
                interruptibility() & !NMI_BLOCKED,
            );
        }
        write(field::ENTRY_EVENT, info);
    }

    fn has_injection(&self) -> bool {
        // Each exit clears it (SDM vol. 3, 28.2).
        Event(u64::from(read(field::ENTRY_EVENT))).is_valid()
    }

    fn holds_interrupt(&self) -> bool {
        false
    }

    fn interrupted_event(&self) -> Event {
        let event = Event(u64::from(read(field::VECTORING_EVENT)));
        if !event.is_valid() {
            return Event::default();
        }
        match event.kind() {
            Event::TYPE_INTR | Event::TYPE_NMI | Event::TYPE_EXCEPTION => {}
            // INT n, INT3, INTO and INT1 are executed again.
            _ => return Event::default(),
        }
        match event.error_code() {
            Some(_) => Event(event.0 | u64::from(read(field::VECTORING_ERROR_CODE)) << 32),
            None => event,
        }
    }

    fn set_interrupt_window(&mut self, wanted: bool) {
        self.set_primary(PrimaryControls::INTERRUPT_WINDOW, wanted);
    }

    fn inject_nmi(&mut self) -> bool {
        if interruptibility() & (NMI_BLOCKED | SHADOWS) != 0 {
            self.set_nmi_window(true);
            return false;
        }
        self.inject(Event::nmi());
        true
    }

    fn nmi_in_service(&mut self) -> bool {
        interruptibility() & NMI_BLOCKED != 0
    }

    fn task_priority(&self) -> u8 {
        // SAFETY: the virtual-APIC page is this vCPU's, and the CPU writes it only while the guest runs.
        let value = unsafe { self.task_priority_at().read_volatile() };
        (value >> 4 & 0xf) as u8
    }

    fn set_task_priority(&mut self, class: u8) {
        // SAFETY: as in `task_priority`.
        unsafe {
            self.task_priority_at()
                .write_volatile(u32::from(class & 0xf) << 4);
        }
    }

    fn set_priority_exit(&mut self, wanted: bool) {
        if self.primary.contains(PrimaryControls::TPR_SHADOW) {
            self.set_primary(PrimaryControls::CR8_LOAD, wanted);
        }
    }

    fn describe_exit(&self) -> Vec<String> {
        check::describe()
    }
}
