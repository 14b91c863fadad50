//! The policy against made-up hosts: greedy, random, and modelled on real ones.

use super::{
    AVX, AVX512, Cpuid, CpuidConfig, CpuidResult, Dynamic, Offer, SSE, Topology, TopologyError,
    Vendor, X87,
};
use api::cpu::{cr4, efer};

fn config() -> CpuidConfig {
    CpuidConfig {
        topology: Topology::new(1, 4, 1).unwrap(),
        apic_id: 2,
        tsc_khz: 2_450_000,
        apic_bus_khz: 1_000_000,
        phys_bits_max: 48,
        xcr0_mask: X87 | SSE | AVX | AVX512,
        offer: Offer::X2APIC | Offer::TSC_DEADLINE,
    }
}

const fn name(text: [u8; 4]) -> u32 {
    u32::from_le_bytes(text)
}

/// A host of the given vendor whose every other bit is `fill`.
fn full(vendor: Vendor, fill: u32) -> impl Fn(u32, u32) -> CpuidResult {
    let names = match vendor {
        Vendor::Amd => [*b"Auth", *b"enti", *b"cAMD"],
        Vendor::Intel => [*b"Genu", *b"ineI", *b"ntel"],
    };
    let [ebx, edx, ecx] = names.map(name);
    let all = CpuidResult {
        eax: fill,
        ebx: fill,
        ecx: fill,
        edx: fill,
    };
    move |leaf, subleaf| match (leaf, subleaf) {
        (0, _) => CpuidResult {
            eax: 0x20,
            ebx,
            ecx,
            edx,
        },
        (0xd, 0) => CpuidResult {
            eax: fill,
            ebx: 0xa88,
            ecx: 0xa88,
            edx: 0,
        },
        (0xd, 2) => CpuidResult {
            eax: 256,
            ebx: 576,
            ..CpuidResult::default()
        },
        (0xd, 5) => CpuidResult {
            eax: 64,
            ebx: 1088,
            ..CpuidResult::default()
        },
        (0xd, 6) => CpuidResult {
            eax: 512,
            ebx: 1152,
            ..CpuidResult::default()
        },
        (0xd, 7) => CpuidResult {
            eax: 1024,
            ebx: 1664,
            ..CpuidResult::default()
        },
        (0xd, 9) => CpuidResult {
            eax: 8,
            ebx: 2688,
            ..CpuidResult::default()
        },
        (0x8000_0000, _) => CpuidResult {
            eax: 0x8000_0028,
            ..all
        },
        _ => all,
    }
}

const ON: Dynamic = Dynamic {
    cr4: cr4::OSXSAVE,
    xcr0: 0xe7,
    is_apic_enabled: true,
};

/// Bits that no guest may see: leaf, subleaf, EAX, EBX, ECX, EDX.
const HIDDEN: [(u32, u32, [u32; 4]); 14] = [
    // DTES64, MONITOR, DS-CPL, VMX, SMX, EST, TM2, CNXT-ID, SDBG, xTPR, PDCM, DCA; PSN, DS, ACPI, SS, TM, PBE.
    (1, 0, [0, 0, 0x0004_cdfc, 0xa864_0400]),
    (5, 0, [!0; 4]),
    // SGX, HLE, RDT-M, MPX, RDT-A, RTM, PT; PKU, OSPKE, WAITPKG, CET-SS, TME, KL, bus lock, ENQCMD, SGX-LC, PKS;
    // UINTR, RTM abort, TSXLDTRK, PCONFIG, LBR, CET-IBT, AMX, L1D flush, ARCH-CAP, CORE-CAP.
    (7, 0, [0, 0x0640_d814, 0xe1be_a0b8, 0x717f_b863]),
    // FRED, LKGS, WRMSRNS, AMX-FP16, HRESET, LAM.
    (7, 1, [0x047e_0200, !0, !0, 0]),
    (7, 2, [!0; 4]),
    (0xa, 0, [!0; 4]),
    (0xd, 1, [0xffff_fff8, 0, !0, !0]),
    (0xf, 0, [!0; 4]),
    (0x10, 0, [!0; 4]),
    (0x12, 0, [!0; 4]),
    (0x14, 0, [!0; 4]),
    // SVM, ExtApic, AltMovCr8, OSVW, IBS, SKINIT, WDT, LWP, TCE, NodeId, PerfCtr, DBX, PTSC, PerfL2I, MWAITX, mask ext.
    (0x8000_0001, 0, [0, 0, 0xff9e_f61c, 0x102c_0400]),
    (0x8000_000a, 0, [!0; 4]),
    // INVLPGB, RDPRU, MCOMMIT, IBPB, INT-WBINVD, IBRS, STIBP, PPIN, SSBD.
    (0x8000_0008, 0, [0, 0xffff_fdfa, 0, !0]),
];

#[test]
fn a_greedy_host_leaks_no_hidden_feature() {
    for vendor in [Vendor::Amd, Vendor::Intel] {
        let cpuid = Cpuid::new(&full(vendor, !0), &config());
        for (leaf, subleaf, [eax, ebx, ecx, edx]) in HIDDEN {
            let r = cpuid.lookup(leaf, subleaf, &ON);
            let leaked = [r.eax & eax, r.ebx & ebx, r.ecx & ecx, r.edx & edx];
            assert_eq!(leaked, [0; 4], "{vendor:?} leaf {leaf:#x}.{subleaf}");
        }
        let c = cpuid.capabilities();
        assert_eq!(c.cr4 & (cr4::PKE | cr4::CET | cr4::VMXE), 0);
        assert_eq!(c.efer & efer::SVME, 0);
        assert_eq!((c.spec_ctrl, c.pred_cmd), (0, 0));
        assert_eq!(c.xcr0, 0xe7);
        assert_eq!(c.vendor, vendor);
    }
}

#[test]
fn leaves_without_a_policy_are_zero_whatever_the_host_says() {
    let known = [
        0,
        1,
        2,
        4,
        6,
        7,
        0xb,
        0xd,
        0x16,
        0x1f,
        0x4000_0000,
        0x4000_0010,
        0x8000_0000,
        0x8000_0001,
        0x8000_0002,
        0x8000_0003,
        0x8000_0004,
        0x8000_0005,
        0x8000_0006,
        0x8000_0007,
        0x8000_0008,
        0x8000_0019,
        0x8000_001a,
        0x8000_001d,
        0x8000_001e,
        0x8000_0021,
    ];
    for vendor in [Vendor::Amd, Vendor::Intel] {
        let cpuid = Cpuid::new(&full(vendor, !0), &config());
        let ranges = (0..0x40)
            .chain(0x4000_0000..0x4000_0040)
            .chain(0x8000_0000..0x8000_0040);
        for leaf in ranges.chain([u32::MAX, 0x2000_0000, 0xc000_0000]) {
            if !known.contains(&leaf) {
                assert_eq!(
                    cpuid.lookup(leaf, 0, &ON),
                    CpuidResult::default(),
                    "{leaf:#x}"
                );
            }
        }
    }
}

#[test]
fn a_poor_host_gets_only_what_is_emulated() {
    let cpuid = Cpuid::new(&full(Vendor::Amd, 0), &config());
    let one = cpuid.lookup(1, 0, &Dynamic::default());
    assert_eq!(one.ecx, 1 << 31 | 1 << 24 | 1 << 21);
    assert_eq!(one.edx, 1 << 28);
    assert_eq!(cpuid.lookup(7, 0, &ON).ebx, 1 << 1);
    assert_eq!(cpuid.lookup(0xd, 0, &ON), CpuidResult::default());
    assert_eq!(cpuid.capabilities().xcr0, 0);
    assert_eq!(cpuid.capabilities().phys_bits, 36);
}

#[test]
fn dynamic_bits_follow_the_vcpu() {
    let cpuid = Cpuid::new(&full(Vendor::Amd, !0), &config());
    let off = Dynamic::default();
    assert_eq!(cpuid.lookup(1, 0, &off).ecx & 1 << 27, 0);
    assert_eq!(cpuid.lookup(1, 0, &ON).ecx & 1 << 27, 1 << 27);
    assert_eq!(cpuid.lookup(1, 0, &off).edx & 1 << 9, 0);
    assert_eq!(cpuid.lookup(1, 0, &ON).edx & 1 << 9, 1 << 9);
    assert_eq!(cpuid.lookup(0x8000_0001, 0, &ON).edx & 1 << 9, 1 << 9);
    let intel = Cpuid::new(&full(Vendor::Intel, !0), &config());
    assert_eq!(intel.lookup(0x8000_0001, 0, &ON).edx & 1 << 9, 0);
}

#[test]
fn xsave_sizes_follow_xcr0() {
    let cpuid = Cpuid::new(&full(Vendor::Intel, !0), &config());
    let size = |xcr0, subleaf| {
        let now = Dynamic { xcr0, ..ON };
        cpuid.lookup(0xd, subleaf, &now).ebx
    };
    assert_eq!(cpuid.lookup(0xd, 0, &ON).eax, 0xe7);
    assert_eq!(cpuid.lookup(0xd, 0, &ON).ecx, 2688);
    assert_eq!(
        (size(1, 0), size(3, 0), size(7, 0), size(0xe7, 0)),
        (576, 576, 832, 2688)
    );
    assert_eq!((size(3, 1), size(7, 1), size(0xe7, 1)), (576, 832, 2432));
    assert_eq!(cpuid.lookup(0xd, 9, &ON), CpuidResult::default());
    assert_eq!(cpuid.lookup(0xd, 2, &ON).eax, 256);
    assert_eq!(cpuid.lookup(0xd, 63, &ON), CpuidResult::default());
}

#[test]
fn without_avx_state_there_are_no_avx_instructions() {
    let narrow = CpuidConfig {
        xcr0_mask: X87 | SSE,
        ..config()
    };
    let cpuid = Cpuid::new(&full(Vendor::Amd, !0), &narrow);
    assert_eq!(cpuid.capabilities().xcr0, 3);
    assert_eq!(
        cpuid.lookup(1, 0, &ON).ecx & (1 << 28 | 1 << 12 | 1 << 29),
        0
    );
    let seven = cpuid.lookup(7, 0, &ON);
    assert_eq!(
        seven.ebx & (1 << 5 | 0xf023_0000),
        0x2000_0000,
        "AVX2, AVX-512; SHA stays"
    );
    assert_eq!(
        seven.ecx & (0b11 << 9 | 1 << 11 | 1 << 12 | 1 << 14 | 1 << 1 | 1 << 6),
        0
    );
    assert_eq!(
        cpuid.lookup(0x8000_0001, 0, &ON).ecx & (1 << 11 | 1 << 16),
        0
    );
    let avx_only = CpuidConfig {
        xcr0_mask: X87 | SSE | AVX,
        ..config()
    };
    let cpuid = Cpuid::new(&full(Vendor::Amd, !0), &avx_only);
    assert_eq!(cpuid.lookup(7, 0, &ON).ebx & (1 << 5 | 1 << 16), 1 << 5);
}

#[test]
fn topology_is_told_alike_in_all_leaves() {
    let config = CpuidConfig {
        topology: Topology::new(2, 4, 2).unwrap(),
        apic_id: 13,
        ..config()
    };
    let amd = Cpuid::new(&full(Vendor::Amd, !0), &config);
    assert_eq!(amd.lookup(1, 0, &ON).ebx >> 16, 13 << 8 | 8);
    let thread = amd.lookup(0xb, 0, &ON);
    assert_eq!(
        (thread.eax, thread.ebx, thread.ecx, thread.edx),
        (1, 2, 0x100, 13)
    );
    let core = amd.lookup(0xb, 1, &ON);
    assert_eq!((core.eax, core.ebx, core.ecx, core.edx), (3, 8, 0x201, 13));
    let end = amd.lookup(0xb, 2, &ON);
    assert_eq!((end.eax, end.ebx, end.ecx, end.edx), (0, 0, 2, 13));
    let identity = amd.lookup(0x8000_001e, 0, &ON);
    assert_eq!((identity.eax, identity.ebx, identity.ecx), (13, 0x102, 1));
    assert_eq!(amd.lookup(0x8000_0008, 0, &ON).ecx, 3 << 12 | 7);
    let l3 = amd.lookup(0x8000_001d, 0, &ON);
    assert_eq!(l3.eax >> 14 & 0xfff, 7);
    let intel = Cpuid::new(&full(Vendor::Intel, !0), &config);
    assert_eq!(intel.lookup(0x1f, 1, &ON), intel.lookup(0xb, 1, &ON));
    assert_eq!(intel.lookup(4, 0, &ON).eax >> 26, 3);
    assert_eq!(amd.lookup(4, 0, &ON), CpuidResult::default());
}

#[test]
fn topologies_that_apic_ids_cannot_express_are_refused() {
    assert!(Topology::new(1, 3, 1).is_ok());
    assert!(Topology::new(2, 3, 1).is_ok());
    assert!(Topology::new(1, 1, 5).is_ok());
    assert!(matches!(
        Topology::new(1, 3, 2),
        Err(TopologyError::NotPowerOfTwo { .. })
    ));
    assert!(matches!(
        Topology::new(3, 2, 1),
        Err(TopologyError::NotPowerOfTwo { .. })
    ));
    for (t, c, p) in [
        (0, 1, 1),
        (1, 0, 1),
        (1, 1, 0),
        (1, 1025, 1),
        (u32::MAX, u32::MAX, 2),
    ] {
        assert!(matches!(
            Topology::new(t, c, p),
            Err(TopologyError::Count { .. })
        ));
    }
}

#[test]
fn the_hypervisor_names_itself_and_its_frequencies() {
    let cpuid = Cpuid::new(&full(Vendor::Amd, !0), &config());
    let first = cpuid.lookup(0x4000_0000, 0, &ON);
    let text = [first.ebx, first.ecx, first.edx].map(u32::to_le_bytes);
    assert_eq!(text.as_flattened(), b"BasaltBasalt");
    assert_eq!(first.eax, 0x4000_0010);
    let frequencies = cpuid.lookup(0x4000_0010, 0, &ON);
    assert_eq!((frequencies.eax, frequencies.ebx), (2_450_000, 1_000_000));
    let intel = Cpuid::new(&full(Vendor::Intel, !0), &config());
    assert_eq!(intel.lookup(0x15, 0, &ON), CpuidResult::default());
    assert_eq!(intel.lookup(0x16, 0, &ON).eax, 2450);
}

#[test]
fn random_hosts_and_leaves_keep_the_promises() {
    let mut state = 0x1234_5678_9abc_def1u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let low = |v: u64| u32::try_from(v & 0xffff_ffff).unwrap();
    for round in 0..2_000 {
        let seed = next();
        let vendor = if round % 2 == 0 {
            Vendor::Amd
        } else {
            Vendor::Intel
        };
        let base = full(vendor, 0);
        let host = move |leaf: u32, subleaf: u32| {
            if matches!(leaf, 0 | 0x8000_0000) {
                return base(leaf, subleaf);
            }
            let mut x = seed ^ u64::from(leaf) << 17 ^ u64::from(subleaf);
            let mut word = || {
                x = x.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ x >> 29;
                low(x >> 13)
            };
            CpuidResult {
                eax: word(),
                ebx: word(),
                ecx: word(),
                edx: word(),
            }
        };
        let cpuid = Cpuid::new(&host, &config());
        for (leaf, subleaf, [eax, ebx, ecx, edx]) in HIDDEN {
            let r = cpuid.lookup(leaf, subleaf, &ON);
            assert_eq!([r.eax & eax, r.ebx & ebx, r.ecx & ecx, r.edx & edx], [0; 4]);
        }
        for _ in 0..100 {
            let leaf = low(next()) >> (next() % 32) | [0, 0x4000_0000, 0x8000_0000][round % 3];
            let now = Dynamic {
                xcr0: next(),
                cr4: next(),
                is_apic_enabled: round % 5 == 0,
            };
            let _ = cpuid.lookup(leaf, low(next()) >> (next() % 32), &now);
            let sizes = cpuid.lookup(0xd, 0, &now);
            assert!(sizes.ebx <= sizes.ecx);
        }
    }
}
