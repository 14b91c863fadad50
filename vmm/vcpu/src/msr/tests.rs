//! Each register's rules, and random accesses.

use super::{
    DE_CFG, EFER, FS_BASE, HWCR, KERNEL_GS_BASE, LSTAR, MC_FIRST, MCG_CAP, MISC_ENABLE, MTRR_CAP,
    MTRR_DEF_TYPE, MTRR_FIRST, Moment, Msrs, PAT, PLATFORM_ID, PRED_CMD, Read, Register, SFMASK,
    SPEC_CTRL, SYSCFG, TSC, TSC_ADJUST, TSC_AUX, VM_CR, Write,
};
use crate::Gp;
use crate::control::Control;
use crate::cpuid::{Capabilities, Vendor};
use api::cpu::{cr0, cr4, efer};

fn capabilities(vendor: Vendor) -> Capabilities {
    Capabilities {
        vendor,
        phys_bits: 40,
        cr4: cr4::PAE,
        efer: efer::SCE | efer::LME | efer::LMA | efer::NXE,
        xcr0: 7,
        spec_ctrl: 0,
        pred_cmd: 0,
        has_tsc_aux: true,
        has_long_mode: true,
    }
}

fn amd() -> Msrs {
    Msrs::new(&capabilities(Vendor::Amd))
}

struct Now {
    guest_tsc: u64,
    control: Control,
}

impl Moment for Now {
    fn guest_tsc(&self) -> u64 {
        self.guest_tsc
    }

    fn control(&self) -> Control {
        self.control
    }
}

fn now() -> Now {
    Now {
        guest_tsc: 1000,
        control: Control {
            cr0: cr0::PE | cr0::PG,
            cr3: 0,
            cr4: cr4::PAE,
            efer: efer::LME | efer::LMA,
        },
    }
}

const NON_CANONICAL: u64 = 0xaaaa_aaaa_aaaa_aaaa;

#[test]
fn the_tsc_and_its_adjustment_move_together() {
    let mut msrs = amd();
    assert_eq!(msrs.write(TSC, 5000, &now()), Ok(Write::ShiftTsc(4000)));
    assert_eq!(msrs.read(TSC_ADJUST, || 0), Ok(Read::Value(4000)));
    assert_eq!(
        msrs.write(TSC_ADJUST, 1000, &now()),
        Ok(Write::ShiftTsc(0u64.wrapping_sub(3000)))
    );
    assert_eq!(msrs.read(TSC_ADJUST, || 0), Ok(Read::Value(1000)));
    assert_eq!(msrs.read(TSC, || 77), Ok(Read::Value(77)));
}

#[test]
fn memory_types_are_checked() {
    let mut msrs = amd();
    assert_eq!(
        msrs.write(PAT, 0x0707_0707, &now()),
        Ok(Write::Pat(0x0707_0707))
    );
    assert_eq!(msrs.write(PAT, 2, &now()), Err(Gp));
    assert_eq!(msrs.pat(), 0x0707_0707);
    assert_eq!(msrs.read(MTRR_CAP, || 0), Ok(Read::Value(0x508)));
    assert_eq!(msrs.write(MTRR_CAP, 0x508, &now()), Err(Gp));
    for (msr, good, bad) in [
        (MTRR_DEF_TYPE, 0xc06, 0x1000),
        (MTRR_DEF_TYPE, 0, 2),
        (MTRR_FIRST, 0x8000_0006, 0x8000_0106),
        (MTRR_FIRST, 0xff_ffff_f000, 0x100_0000_0000),
        (MTRR_FIRST + 15, 0xff_8000_0800, 0xff_8000_0801),
        (0x250, 0x0606_0606_0606_0606, 0x0606_0606_0606_0206),
        (0x26f, 0x0505_0505_0505_0505, 7),
    ] {
        assert_eq!(msrs.write(msr, good, &now()), Ok(Write::Done), "{msr:#x}");
        assert_eq!(msrs.write(msr, bad, &now()), Err(Gp), "{msr:#x}");
        assert_eq!(msrs.read(msr, || 0), Ok(Read::Value(good)), "{msr:#x}");
    }
    for absent in [0x210, 0x24f, 0x251, 0x25a, 0x267] {
        assert_eq!(msrs.read(absent, || 0), Err(Gp));
        assert_eq!(msrs.write(absent, 0, &now()), Err(Gp));
    }
}

#[test]
fn firmware_leaves_ram_cached_and_the_pci_window_not() {
    let msrs = Msrs::after_firmware(&capabilities(Vendor::Amd), 0xe000_0000);
    assert_eq!(msrs.read(MTRR_DEF_TYPE, || 0), Ok(Read::Value(0xc06)));
    assert_eq!(msrs.read(MTRR_FIRST, || 0), Ok(Read::Value(0xe000_0000)));
    assert_eq!(
        msrs.read(MTRR_FIRST + 1, || 0),
        Ok(Read::Value(0xff_e000_0800))
    );
    assert_eq!(msrs.read(0x259, || 0), Ok(Read::Value(0)));
}

#[test]
fn machine_check_banks_take_what_the_manual_allows() {
    let mut msrs = amd();
    let Ok(Read::Value(cap)) = msrs.read(MCG_CAP, || 0) else {
        panic!("no banks")
    };
    let banks = u32::try_from(cap & 0xff).unwrap();
    for bank in 0..banks {
        let msr = MC_FIRST + bank * 4;
        assert_eq!(msrs.write(msr, u64::MAX, &now()), Ok(Write::Done));
        assert_eq!(msrs.write(msr, NON_CANONICAL, &now()), Err(Gp));
        assert_eq!(msrs.write(msr + 1, 1, &now()), Err(Gp));
        assert_eq!(msrs.write(msr + 1, 0, &now()), Ok(Write::Done));
        assert_eq!(msrs.write(msr + 2, NON_CANONICAL, &now()), Ok(Write::Done));
        assert_eq!(msrs.write(msr + 3, u64::MAX, &now()), Ok(Write::Done));
        assert_eq!(msrs.read(msr + 2, || 0), Ok(Read::Value(NON_CANONICAL)));
    }
    for msr in MC_FIRST + banks * 4..0x480 {
        assert_eq!(msrs.read(msr, || 0), Err(Gp));
        assert_eq!(msrs.write(msr, 0, &now()), Err(Gp));
    }
    msrs.write(HWCR, 1 << 18, &now()).unwrap();
    assert_eq!(msrs.write(MC_FIRST + 1, 1, &now()), Ok(Write::Done));
}

#[test]
fn addresses_must_be_canonical() {
    let mut msrs = amd();
    for (msr, register) in [
        (LSTAR, Register::Lstar),
        (FS_BASE, Register::FsBase),
        (KERNEL_GS_BASE, Register::KernelGsBase),
    ] {
        assert_eq!(msrs.write(msr, NON_CANONICAL, &now()), Err(Gp));
        assert_eq!(
            msrs.write(msr, 0x1234, &now()),
            Ok(Write::Register(register, 0x1234))
        );
        assert_eq!(msrs.read(msr, || 0), Ok(Read::Register(register)));
    }
    assert_eq!(msrs.write(SFMASK, 1 << 32, &now()), Err(Gp));
    assert_eq!(
        msrs.write(TSC_AUX, 1 << 32 | 7, &now()),
        Ok(Write::Register(Register::TscAux, 7))
    );
}

#[test]
fn efer_hides_svm() {
    let mut msrs = amd();
    assert_eq!(msrs.write(EFER, efer::LME | efer::SVME, &now()), Err(Gp));
    let Ok(Write::Efer(changed)) = msrs.write(EFER, efer::LME | efer::NXE, &now()) else {
        panic!("NXE exists")
    };
    assert_eq!(changed.control.efer, efer::LME | efer::LMA | efer::NXE);
    assert!(changed.flush);
    assert_eq!(msrs.read(VM_CR, || 0), Ok(Read::Value(0x18)));
}

#[test]
fn misc_enable_keeps_its_read_only_bits() {
    let mut msrs = amd();
    msrs.write(MISC_ENABLE, 0x4_00c5_0809, &now()).unwrap();
    assert_eq!(msrs.read(MISC_ENABLE, || 0), Ok(Read::Value(0x4_00c5_1809)));
    assert_eq!(msrs.write(MISC_ENABLE, 1 << 1, &now()), Err(Gp));
}

#[test]
fn vendors_have_their_own_registers() {
    let intel = Msrs::new(&capabilities(Vendor::Intel));
    assert_eq!(intel.read(PLATFORM_ID, || 0), Ok(Read::Value(0)));
    assert_eq!(intel.read(SYSCFG, || 0), Err(Gp));
    assert_eq!(amd().read(PLATFORM_ID, || 0), Err(Gp));
    assert_eq!(amd().read(DE_CFG, || 0), Ok(Read::Value(2)));
}

#[test]
fn speculation_control_exists_only_when_offered() {
    let mut msrs = amd();
    assert_eq!(msrs.read(SPEC_CTRL, || 0), Err(Gp));
    assert_eq!(msrs.write(PRED_CMD, 0, &now()), Err(Gp));
    let mut msrs = Msrs::new(&Capabilities {
        spec_ctrl: 1,
        pred_cmd: 1,
        ..capabilities(Vendor::Amd)
    });
    assert_eq!(
        msrs.read(SPEC_CTRL, || 0),
        Ok(Read::Register(Register::SpecCtrl))
    );
    assert_eq!(msrs.write(SPEC_CTRL, 2, &now()), Err(Gp));
    assert_eq!(msrs.read(PRED_CMD, || 0), Err(Gp));
    assert_eq!(
        msrs.write(PRED_CMD, 1, &now()),
        Ok(Write::Register(Register::PredCmd, 1))
    );
}

#[test]
fn random_accesses_never_panic_and_reads_return_what_was_written() {
    let mut state = 1u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let bases = [
        0u32,
        0x100,
        0x200,
        0x400,
        0x480,
        0xc000_0080,
        0xc000_0100,
        0xc001_0000,
        0xc001_1000,
    ];
    for vendor in [Vendor::Amd, Vendor::Intel] {
        let mut msrs = Msrs::new(&capabilities(vendor));
        for _ in 0..200_000 {
            let base = bases[usize::try_from(next() % 9).unwrap()];
            let msr = base + u32::try_from(next() % 0x180).unwrap();
            let value = next() >> (next() % 64);
            let answer = msrs.write(msr, value, &now());
            let is_plain_store = matches!(msr, PAT | MTRR_DEF_TYPE | 0x200..=0x26f | 0x400..=0x40f);
            if is_plain_store && answer.is_ok() {
                assert_eq!(msrs.read(msr, || 0), Ok(Read::Value(value)), "{msr:#x}");
            }
            let _ = msrs.read(msr, || value);
        }
    }
}
