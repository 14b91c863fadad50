//! The extended register state (x87, SSE, AVX, AVX-512) of vCPUs: XSAVE areas and the switch between them.
//!
//! The host uses xmm registers only, without VEX, so a vCPU's upper halves and x87 state stay in the CPU until another
//! vCPU gets it. CR4.OSXSAVE is set inside this module only (DESIGN D1).

use crate::cpu::{self, cpuid};
use alloc::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use core::arch::asm;
use core::ptr::NonNull;
use spec::x86::Cr4;

/// Bit of x87 state in XCR0.
pub const XCR0_X87: u64 = 1;
/// Bit of SSE state in XCR0.
pub const XCR0_SSE: u64 = 1 << 1;
/// Bit of AVX state in XCR0.
pub const XCR0_AVX: u64 = 1 << 2;
/// Bits of AVX-512 state in XCR0.
pub const XCR0_AVX512: u64 = 7 << 5;
const MXCSR_DEFAULT: u32 = 0x1f80;
const FCW_DEFAULT: u16 = 0x37f;

/// Tells whether the CPU has XSAVE.
#[must_use]
pub fn has_xsave() -> bool {
    cpuid(1, 0).ecx & 1 << 26 != 0
}

/// Returns the XCR0 bits that a guest may set on this CPU: x87, SSE, AVX, AVX-512 and nothing else.
#[must_use]
pub fn guest_xcr0_mask() -> u64 {
    if !has_xsave() {
        return XCR0_X87 | XCR0_SSE;
    }
    let leaf = cpuid(0xd, 0);
    let host = u64::from(leaf.eax) | u64::from(leaf.edx) << 32;
    let mut mask = host & (XCR0_X87 | XCR0_SSE | XCR0_AVX);
    if host & XCR0_AVX512 == XCR0_AVX512 && mask & XCR0_AVX != 0 {
        mask |= XCR0_AVX512;
    }
    mask
}

/// A vCPU's extended state in memory.
#[derive(Debug)]
pub struct FpuState {
    area: NonNull<u8>,
    layout: Layout,
    xsave: bool,
    mask: u64,
    /// The guest's XCR0.
    xcr0: u64,
}

// SAFETY: the area is owned memory; nothing in it depends on the thread or CPU.
unsafe impl Send for FpuState {}

impl FpuState {
    /// Makes the state after reset.
    #[must_use]
    pub fn new() -> Self {
        let mask = guest_xcr0_mask();
        let size = area_size(mask);
        // The size is at least 576 and the alignment a power of two, so the layout is valid.
        let layout = Layout::from_size_align(size, 64).unwrap_or(Layout::new::<[u64; 512]>());
        // SAFETY: the layout's size is not 0.
        let Some(area) = NonNull::new(unsafe { alloc_zeroed(layout) }) else {
            handle_alloc_error(layout)
        };
        let this = Self {
            area,
            layout,
            xsave: has_xsave(),
            mask,
            xcr0: XCR0_X87,
        };
        // SAFETY: the area is at least 512 bytes; FCW is its first word (APM vol. 2, figure 11-?, FXSAVE image).
        unsafe { this.area.cast::<u16>().write(FCW_DEFAULT) };
        // SAFETY: as above; MXCSR is at byte 24.
        unsafe { this.area.byte_add(24).cast::<u32>().write(MXCSR_DEFAULT) };
        this
    }

    /// Returns the guest's XCR0.
    #[must_use]
    pub fn xcr0(&self) -> u64 {
        self.xcr0
    }

    /// Sets the guest's XCR0, in memory and, because this state is the live one, in the CPU.
    pub fn set_live_xcr0(&mut self, value: u64) {
        self.xcr0 = value & self.mask | XCR0_X87;
        if self.xsave {
            with_osxsave(|| xsetbv(self.xcr0));
        }
    }

    /// Reads the guest's XCR0 from the CPU, where this state is the live one.
    pub fn live_xcr0(&mut self) -> u64 {
        if self.xsave {
            with_osxsave(|| self.xcr0 = xgetbv() & self.mask | XCR0_X87);
        }
        self.xcr0
    }

    /// Saves the CPU's state here; it stays live. The xmm registers and MXCSR are then the host's leftovers: the world switch keeps
    /// the guest's own.
    pub fn save(&mut self) {
        let area = self.area.as_ptr();
        if !self.xsave {
            // SAFETY: the area has 512 bytes and is aligned to 64.
            unsafe { asm!("fxsave64 [{}]", in(reg) area, options(nostack, preserves_flags)) };
            return;
        }
        with_osxsave(|| {
            self.xcr0 = xgetbv() & self.mask | XCR0_X87;
            xsetbv(self.mask);
            let (low, high) = (self.mask as u32, (self.mask >> 32) as u32);
            // SAFETY: the area was sized for all bits of the mask and is aligned to 64; OSXSAVE is on.
            unsafe {
                asm!("xsave64 [{}]", in(reg) area, in("eax") low, in("edx") high, options(nostack, preserves_flags))
            };
            xsetbv(self.xcr0);
        });
    }

    /// Loads the CPU's state from here, and the guest's XCR0.
    pub fn load(&self) {
        let area = self.area.as_ptr();
        if !self.xsave {
            // SAFETY: the area holds an image that `new` or `save` made.
            unsafe {
                asm!("fxrstor64 [{}]", in(reg) area, options(nostack, preserves_flags), clobber_abi("C"))
            };
            return;
        }
        with_osxsave(|| {
            xsetbv(self.mask);
            let (low, high) = (self.mask as u32, (self.mask >> 32) as u32);
            // SAFETY: the area holds an image that `new` (zeroed header) or `save` made; OSXSAVE is on. All vector
            // registers are clobbered for the compiler.
            unsafe {
                asm!("xrstor64 [{}]", in(reg) area, in("eax") low, in("edx") high, options(nostack, preserves_flags),
                    out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _,
                    out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
                    out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _);
            };
            xsetbv(self.xcr0);
        });
        reset_host_mxcsr();
    }
}

impl Default for FpuState {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for FpuState {
    fn drop(&mut self) {
        // SAFETY: the area came from the allocator with this layout.
        unsafe { dealloc(self.area.as_ptr(), self.layout) };
    }
}

/// Returns MMX register `index` (0 to 7) of the vCPU whose state is live on this CPU.
#[must_use]
pub fn mmx(index: u8) -> u64 {
    let value;
    macro_rules! read {
        ($register:literal) => {
            // SAFETY: reads a register; the host has no x87 state of its own, and CR0.EM and CR0.TS are clear in it.
            unsafe { asm!(concat!("movq {}, ", $register), out(reg) value, options(nomem, nostack, preserves_flags)) }
        };
    }
    match index & 7 {
        0 => read!("mm0"),
        1 => read!("mm1"),
        2 => read!("mm2"),
        3 => read!("mm3"),
        4 => read!("mm4"),
        5 => read!("mm5"),
        6 => read!("mm6"),
        _ => read!("mm7"),
    }
    value
}

/// Sets MMX register `index` (0 to 7) of the vCPU whose state is live on this CPU; the x87 state becomes that of an MMX
/// instruction, as it shall.
pub fn set_mmx(index: u8, value: u64) {
    macro_rules! write {
        ($register:literal) => {
            // SAFETY: as in `mmx`; the compiler keeps nothing in x87 registers on this target.
            unsafe { asm!(concat!("movq ", $register, ", {}"), in(reg) value, options(nomem, nostack, preserves_flags)) }
        };
    }
    match index & 7 {
        0 => write!("mm0"),
        1 => write!("mm1"),
        2 => write!("mm2"),
        3 => write!("mm3"),
        4 => write!("mm4"),
        5 => write!("mm5"),
        6 => write!("mm6"),
        _ => write!("mm7"),
    }
}

fn area_size(mask: u64) -> usize {
    let mut size = 576;
    for component in (2..63).filter(|c| mask & 1 << c != 0) {
        let leaf = cpuid(0xd, component);
        size = size.max(leaf.ebx as usize + leaf.eax as usize);
    }
    size.next_multiple_of(64)
}

fn with_osxsave(body: impl FnOnce()) {
    let host = cpu::cr4();
    // SAFETY: callers checked that the CPU has XSAVE; the bit only enables instructions.
    unsafe { cpu::set_cr4(host | Cr4::OSXSAVE) };
    body();
    // SAFETY: restores what was there.
    unsafe { cpu::set_cr4(host) };
}

fn xgetbv() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: OSXSAVE is on inside `with_osxsave`; register 0 exists with XSAVE.
    unsafe {
        asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags))
    };
    u64::from(high) << 32 | u64::from(low)
}

fn xsetbv(value: u64) {
    let (low, high) = (value as u32, (value >> 32) as u32);
    // SAFETY: OSXSAVE is on inside `with_osxsave`; the value is a subset of `guest_xcr0_mask` with bit 0 set, whose
    // dependencies the guest's policy or the mask itself keeps.
    unsafe {
        asm!("xsetbv", in("ecx") 0, in("eax") low, in("edx") high, options(nomem, nostack, preserves_flags))
    };
}

fn reset_host_mxcsr() {
    let value = MXCSR_DEFAULT;
    // SAFETY: loads the ABI's default; the operand is a live local.
    unsafe {
        asm!("ldmxcsr [{}]", in(reg) &raw const value, options(nostack, preserves_flags, readonly))
    };
}
