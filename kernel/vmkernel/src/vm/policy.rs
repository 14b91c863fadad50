//! A vCPU's CPUID and MSRs: joins the policy (crate `vcpu`) with the vCPU's registers, the CPU and the local APIC.
#![expect(unsafe_code, reason = "loads the guest's TSC_AUX into the CPU")]

use crate::timer;
use crate::vm::vcpu::{Clocks, VcpuWorld};
use api::backend::VcpuBackend;
use arch::cpu;
use devices::lapic::LocalApic;
use devices::message::ApicMode;
use spec::msr::Msr;
use vcpu::Gp;
use vcpu::control::{Control, XcrFault, xsetbv};
use vcpu::cpuid::{
    Capabilities, Cpuid, CpuidConfig, CpuidResult, Dynamic, Offer, Topology, TopologyError,
};
use vcpu::msr::{Moment, Msrs, Read, Register, Write};

/// Width of guest-physical addresses that the nested tables and the loader's memory map can have.
const PHYS_BITS_MAX: u8 = 48;
/// Frequency of the local APIC's timer before its divider, in kHz.
const APIC_BUS_KHZ: u32 = 1_000_000;

/// CPUID and MSRs of one vCPU.
#[derive(Debug)]
pub struct Policy {
    cpuid: Cpuid,
    msrs: Msrs,
    tsc_aux: u64,
    spec_ctrl: u64,
    xcr0: u64,
}

impl Policy {
    /// Makes the policy of vCPU `index` of `vcpus`; `pci_window` is where RAM below 4 GiB ends at the latest.
    ///
    /// # Errors
    /// [`TopologyError`] when the number of vCPUs cannot be expressed.
    pub fn new(index: u32, vcpus: u32, pci_window: u32) -> Result<Self, TopologyError> {
        let host = |leaf, subleaf| {
            let r = cpu::cpuid(leaf, subleaf);
            CpuidResult {
                eax: r.eax,
                ebx: r.ebx,
                ecx: r.ecx,
                edx: r.edx,
            }
        };
        let config = CpuidConfig {
            topology: Topology::new(1, vcpus, 1)?,
            apic_id: index,
            tsc_khz: (timer::clock().tsc_hz() / 1000) as u32,
            apic_bus_khz: APIC_BUS_KHZ,
            phys_bits_max: PHYS_BITS_MAX,
            xcr0_mask: arch::fpu::guest_xcr0_mask(),
            offer: Offer::X2APIC | Offer::TSC_DEADLINE | Offer::INVARIANT_TSC,
        };
        let cpuid = Cpuid::new(&host, &config);
        let msrs = Msrs::after_firmware(cpuid.capabilities(), pci_window);
        Ok(Self {
            cpuid,
            msrs,
            tsc_aux: 0,
            spec_ctrl: 0,
            xcr0: arch::fpu::XCR0_X87,
        })
    }

    /// Returns the width of guest-physical addresses.
    #[must_use]
    pub fn phys_bits(&self) -> u32 {
        u32::from(self.cpuid.capabilities().phys_bits)
    }

    /// INIT leaves MSRs as they are (APM vol. 2, table 14-1).
    pub fn init(&mut self) {}

    /// Answers CPUID.
    #[inline]
    #[must_use]
    pub fn cpuid(&self, leaf: u32, subleaf: u32, cr4: u64, lapic: &LocalApic) -> CpuidResult {
        let dynamic = Dynamic {
            cr4,
            xcr0: self.xcr0,
            is_apic_enabled: lapic.mode() != ApicMode::Disabled,
        };
        self.cpuid.lookup(leaf, subleaf, &dynamic)
    }

    /// Returns what CPUID allows in control registers and MSRs.
    #[must_use]
    pub fn capabilities(&self) -> &Capabilities {
        self.cpuid.capabilities()
    }

    /// Remembers XCR0 for CPUID.
    pub fn set_xcr0(&mut self, value: u64) {
        self.xcr0 = value;
    }

    /// Tells whether CPUID shows 1 GiB pages.
    #[must_use]
    pub fn has_page1gb(&self) -> bool {
        self.cpuid.lookup(0x8000_0001, 0, &Dynamic::default()).edx & 1 << 26 != 0
    }

    /// Loads the MSRs that live in the CPU while the guest runs.
    pub fn load_cpu_msrs(&self) {
        if self.cpuid.capabilities().has_tsc_aux {
            // SAFETY: CPUID has RDTSCP; the host does not use the register.
            unsafe { cpu::wrmsr(Msr::TSC_AUX, self.tsc_aux) };
        }
    }
}

/// What MSRs depend on.
struct Live<'a, B> {
    cpu: &'a B,
    clocks: Clocks,
}

impl<B: VcpuBackend> Moment for Live<'_, B> {
    fn guest_tsc(&self) -> u64 {
        self.clocks.now().tsc
    }

    fn control(&self) -> Control {
        control(self.cpu)
    }
}

fn control<B: VcpuBackend>(cpu: &B) -> Control {
    Control {
        cr0: cpu.cr0(),
        cr3: cpu.cr3(),
        cr4: cpu.cr4(),
        efer: cpu.efer(),
    }
}

impl<B: VcpuBackend> VcpuWorld<B> {
    /// Judges XSETBV; returns the value for XCR0.
    pub(super) fn check_xsetbv(&mut self, index: u32, value: u64) -> Result<u64, XcrFault> {
        let cpl = self.cpu.cpl();
        let value = xsetbv(
            index,
            value,
            &control(&self.cpu),
            cpl,
            self.policy.capabilities(),
        )?;
        self.policy.xcr0 = value;
        Ok(value)
    }

    /// Answers RDMSR.
    #[inline(always)]
    pub(super) fn read_msr(&mut self, msr: Msr) -> Result<u64, Gp> {
        match msr {
            Msr(0x800..=0x8ff) => {
                self.sync_tpr();
                self.lapic.msr_read(msr.0, self.now()).map_err(|_| Gp)
            }
            Msr::TSC_DEADLINE => Ok(self.lapic.tsc_deadline(self.now())),
            Msr::APIC_BASE => Ok(self.lapic.apic_base()),
            _ => self.read_policy_msr(msr),
        }
    }

    #[inline(never)]
    fn read_policy_msr(&mut self, msr: Msr) -> Result<u64, Gp> {
        let clocks = self.clocks();
        match self.policy.msrs.read(msr.0, || clocks.now().tsc)? {
            Read::Value(value) => Ok(value),
            Read::Register(register) => Ok(self.read_register(register)),
        }
    }

    #[inline(never)]
    fn read_register(&self, register: Register) -> u64 {
        match register {
            Register::TscAux => self.policy.tsc_aux,
            Register::SpecCtrl => self.policy.spec_ctrl,
            Register::PredCmd => 0,
            held => number_of(held)
                .and_then(|msr| self.cpu.msr(msr))
                .unwrap_or(0),
        }
    }

    /// Performs WRMSR.
    #[inline(always)]
    pub(super) fn write_msr(&mut self, msr: Msr, value: u64) -> Result<(), Gp> {
        let outcome = match msr {
            Msr(0x800..=0x8ff) => {
                self.sync_tpr();
                let outcome = self.lapic.msr_write(msr.0, value, self.now());
                self.publish_tpr();
                outcome
            }
            Msr::TSC_DEADLINE => Ok(self.lapic.set_tsc_deadline(value, self.now())),
            Msr::APIC_BASE => self.lapic.set_apic_base(value),
            _ => return self.write_policy_msr(msr, value),
        };
        self.apply_apic(outcome.map_err(|_| Gp)?);
        Ok(())
    }

    #[inline(never)]
    fn write_policy_msr(&mut self, msr: Msr, value: u64) -> Result<(), Gp> {
        let now = Live {
            cpu: &self.cpu,
            clocks: self.clocks(),
        };
        match self.policy.msrs.write(msr.0, value, &now)? {
            Write::Done => {}
            Write::Register(register, value) => self.write_register(register, value),
            Write::Efer(changed) => {
                self.cpu.set_msr(Msr::EFER, changed.control.efer);
                if changed.flush {
                    self.cpu.flush_tlb();
                }
            }
            Write::Pat(value) => self.cpu.set_msr(Msr::PAT, value),
            Write::ShiftTsc(shift) => {
                self.tsc_adjust = self.tsc_adjust.wrapping_add(shift);
                self.update_tsc_offset();
                self.timer_changed = true;
            }
        }
        Ok(())
    }

    #[inline(never)]
    fn write_register(&mut self, register: Register, value: u64) {
        match register {
            Register::TscAux => {
                self.policy.tsc_aux = value;
                self.policy.load_cpu_msrs();
            }
            // Not offered: `Offer::SPECULATION_CONTROL` is off until the switch saves the register.
            Register::SpecCtrl => self.policy.spec_ctrl = value,
            Register::PredCmd => {}
            held => {
                if let Some(msr) = number_of(held) {
                    self.cpu.set_msr(msr, value);
                }
            }
        }
    }
}

/// Returns the number of an MSR that the CPU holds for the guest.
fn number_of(register: Register) -> Option<Msr> {
    Some(match register {
        Register::Efer => Msr::EFER,
        Register::Star => Msr::STAR,
        Register::Lstar => Msr::LSTAR,
        Register::Cstar => Msr::CSTAR,
        Register::Sfmask => Msr::SFMASK,
        Register::SysenterCs => Msr::SYSENTER_CS,
        Register::SysenterEsp => Msr::SYSENTER_ESP,
        Register::SysenterEip => Msr::SYSENTER_EIP,
        Register::FsBase => Msr::FS_BASE,
        Register::GsBase => Msr::GS_BASE,
        Register::KernelGsBase => Msr::KERNEL_GS_BASE,
        Register::TscAux | Register::SpecCtrl | Register::PredCmd => return None,
    })
}
