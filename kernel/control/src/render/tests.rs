//! Answers as people and programs see them.

use super::{Style, render, render_error};
use crate::cpu_time::PoolTime;
use crate::definition::{VmDefinition, VmName};
use crate::report::{
    CpuInfo, ExitCount, HostInfo, LeakState, LogLevel, LogLine, MemoryInfo, Mitigation, NodeMemory,
    Response, StopRecord, VcpuDetails, VmDetails, VmState, VmSummary,
};
use crate::usage::{CpuUse, PoolInfo, ServiceUse, TimeUse, TopPage, VcpuUse, VmStats, WorldStats};
use alloc::boxed::Box;
use alloc::string::ToString;
use alloc::vec;

fn summary(name: &str, state: VmState) -> VmSummary {
    let runs = state == VmState::Running;
    VmSummary {
        name: name.to_string(),
        state,
        vcpus: 2,
        memory_bytes: 512 << 20,
        uptime_ns: runs.then_some(12_300_000_000),
        cpu_permille: runs.then_some(1015),
        description: "a guest".to_string(),
    }
}

fn failed_vm() -> VmDetails {
    VmDetails {
        summary: summary("demo", VmState::Failed),
        definition: VmDefinition::new(VmName::new("demo").unwrap(), "images/demo.elf"),
        memory_backed_bytes: 3 << 20,
        vcpus: vec![VcpuDetails {
            index: 0,
            state: "stopped".to_string(),
            cpu_time_ns: 1_500_000,
            rip: 0xfff0,
            exits: 12,
            exits_by_reason: vec![ExitCount {
                reason: "CPUID".to_string(),
                count: 12,
            }],
        }],
        last_stop: Some(StopRecord {
            reason: "triple fault".to_string(),
            fault: true,
            at_ns: 5_000_000_000,
            vcpu: Some(0),
            rip: Some(0xfff0),
            details: vec!["rax 0".to_string()],
        }),
    }
}

#[test]
fn a_list_is_a_table() {
    let vms = vec![
        summary("demo", VmState::Running),
        summary("debian-with-a-name", VmState::Stopped),
    ];
    assert_eq!(
        render(&Response::Vms(vms), Style::Plain),
        "NAME                CPUS   MEMORY  UPTIME      CPU  STATE    DESCRIPTION\n\
         demo                   2  512 MiB  12.3 s  101.5 %  running  a guest\n\
         debian-with-a-name     2  512 MiB       -        -  stopped  a guest\n"
    );
    assert!(render(&Response::Vms(vec![]), Style::Plain).contains("help vm create"));
}

#[test]
fn json_has_stable_names() {
    let vms = vec![summary("demo", VmState::Running)];
    assert_eq!(
        render(&Response::Vms(vms), Style::Json),
        "[{\"name\":\"demo\",\"state\":\"running\",\"vcpus\":2,\"memory_bytes\":536870912,\
         \"uptime_ns\":12300000000,\"cpu_permille\":1015,\"description\":\"a guest\"}]\n"
    );
    assert_eq!(
        render(&Response::Done("\"x\" is there".to_string()), Style::Json),
        "{\"message\":\"\\\"x\\\" is there\"}\n"
    );
    assert_eq!(render_error("no", Style::Json), "{\"error\":\"no\"}\n");
}

#[test]
fn a_failed_vm_tells_why() {
    let text = render(&Response::Vm(Box::new(failed_vm())), Style::Plain);
    for line in [
        "state:        failed\n",
        "memory:       512 MiB, 3 MiB of it backed\n",
        "last stop: triple fault\n  fault, at 5.0 s, vCPU 0, rip 0xfff0\n  rax 0\n",
        "   0  stopped      1 ms  0xfff0     12  CPUID 12\n",
    ] {
        assert!(text.contains(line), "{text}");
    }
    let json = render(&Response::Vm(Box::new(failed_vm())), Style::Json);
    assert!(
        json.contains("\"last_stop\":{\"reason\":\"triple fault\""),
        "{json}"
    );
    assert!(json.contains("\"definition\":{\"name\":\"demo\""), "{json}");
    let coloured = render(&Response::Vm(Box::new(failed_vm())), Style::Colour);
    assert!(coloured.contains("\x1b[31mfailed\x1b[0m"), "{coloured}");
}

fn host() -> Response {
    Response::Host(HostInfo {
        version: "0.1.0".to_string(),
        boot_protocol: "pvh".to_string(),
        cpu_model: "a CPU".to_string(),
        cpus_online: 4,
        cpus_present: 4,
        tsc_hz: 2_450_000_000,
        virtualization: "SVM".to_string(),
        memory_total_bytes: 1 << 30,
        memory_free_bytes: 1 << 29,
        uptime_ns: 1,
        vms_defined: 2,
        vms_running: 1,
    })
}

fn others() -> [Response; 4] {
    [
        host(),
        Response::Cpus(vec![CpuInfo {
            index: 0,
            apic_id: 0,
            node: 0,
            worlds: 3,
            busy_permille: 15,
            interrupts: 100,
            exits: 7,
        }]),
        Response::Memory(MemoryInfo {
            total_bytes: 1 << 30,
            free_bytes: 1 << 29,
            kernel_bytes: 1 << 21,
            heap_bytes: 1 << 22,
            guests_bytes: 1 << 28,
            nodes: vec![NodeMemory {
                node: 0,
                total_bytes: 1 << 30,
                free_bytes: 1 << 29,
            }],
        }),
        Response::Log(vec![LogLine {
            at_ns: 1_000_002_000,
            level: LogLevel::Warn,
            text: "odd".to_string(),
        }]),
    ]
}

fn usage() -> [Response; 3] {
    [
        Response::Top(TopPage {
            uptime_ns: 1_000_000_000,
            interval_ns: 500_000_000,
            cpus: vec![CpuUse {
                index: 0,
                busy_permille: 999,
            }],
            vcpus: vec![VcpuUse {
                vm: "demo".to_string(),
                index: 0,
                cpu: 0,
                busy_permille: 999,
                time: TimeUse {
                    run_permille: 999,
                    ready_permille: 1,
                    ..TimeUse::default()
                },
                migrations: 12,
                exits_per_s: 1000,
                exits_by_reason: vec![],
            }],
            services: vec![ServiceUse {
                name: "demo's devices".to_string(),
                time: TimeUse::default(),
                migrations: 0,
            }],
        }),
        Response::Stats(VmStats {
            name: "demo".to_string(),
            tsc_hz: 1_000_000_000,
            worlds: vec![WorldStats {
                name: "vcpu 0".to_string(),
                state: "running".to_string(),
                run_cycles: 1_000_000_000,
                ready_cycles: 500_000_000,
                ready_cycles_max: 1_000_000,
                co_stop_cycles: 0,
                limited_cycles: 0,
                wait_cycles: 77,
                system_cycles: 0,
                dispatches: 12,
                migrations: 3,
                yields: 0,
                exits_by_reason: vec![ExitCount {
                    reason: "cpuid".to_string(),
                    count: 7,
                }],
            }],
        }),
        Response::Pools(vec![PoolInfo {
            name: "gold".to_string(),
            parent: None,
            time: PoolTime::default(),
            held_mhz: 1200,
            reserved_mhz: 600,
            vms_running: 2,
        }]),
    ]
}

#[test]
fn everything_has_a_text_and_json() {
    let log = render(&others()[3], Style::Plain);
    assert_eq!(log, "[    1.000002] warn  odd\n");
    for response in others().into_iter().chain(usage()) {
        let text = render(&response, Style::Plain);
        assert!(text.ends_with('\n') && text.lines().all(|line| line.len() <= 80));
        let json = render(&response, Style::Json);
        assert!(
            serde_json::from_str::<serde_json::Value>(&json).is_ok(),
            "{json}"
        );
        assert_eq!(json.lines().count(), 1);
    }
}

#[test]
fn mitigations_say_what_leaks_and_why() {
    let entry = |leak: &str, state, guard: &str| Mitigation {
        leak: leak.to_string(),
        state,
        guard: guard.to_string(),
        reason: "the CPU says so".to_string(),
    };
    let response = Response::Mitigations(vec![
        entry("return stack", LeakState::Open, "filling it"),
        entry("L1 terminal fault", LeakState::Absent, ""),
    ]);
    let text = render(&response, Style::Plain);
    assert!(text.starts_with("LEAK "), "{text}");
    assert!(text.contains("absent  -  "), "{text}");
    assert!(render(&response, Style::Colour).contains("\x1b[31mopen\x1b[0m"));
    assert!(render(&response, Style::Json).contains(r#""state":"open","guard":"filling it""#));
}
