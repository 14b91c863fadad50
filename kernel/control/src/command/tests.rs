//! Lines and the requests that they are.

use super::{Command, PoolAction, Request, TopOptions, TopOrder, VmAction, parse};
use crate::complete::{Names, complete};
use crate::cpu_time::{CpuAmount, CpuShares};
use crate::definition::VmName;
use crate::grammar::COMMANDS;
use crate::report::LogLevel;
use crate::settings::{PoolSetting, Setting};
use crate::testing::Random;
use crate::units::MemorySize;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

fn request(line: &str) -> Request {
    match parse(line) {
        Ok(Some(command)) => command.request,
        other => panic!("{line}: {other:?}"),
    }
}

fn error(line: &str) -> String {
    parse(line).expect_err(line).to_string()
}

fn name(name: &str) -> VmName {
    VmName::new(name).unwrap()
}

#[test]
fn nothing_is_no_request() {
    for line in ["", "   ", "# vm list", "--json"] {
        assert_eq!(parse(line), Ok(None), "{line}");
    }
}

#[test]
fn simple_commands() {
    assert_eq!(request("vm list"), Request::VmList);
    assert_eq!(request("host info"), Request::HostInfo);
    assert_eq!(request("host cpus"), Request::HostCpus);
    assert_eq!(request("host mitigations"), Request::HostMitigations);
    assert_eq!(request("host memory"), Request::HostMemory);
    assert_eq!(request("host reboot"), Request::HostReboot);
    assert_eq!(request("host poweroff"), Request::HostPoweroff);
    assert_eq!(request("help"), Request::Help(vec![]));
    assert_eq!(
        request("help vm list"),
        Request::Help(vec!["vm".to_string(), "list".to_string()])
    );
    for (word, action) in [
        ("info", VmAction::Info),
        ("start", VmAction::Start),
        ("stop", VmAction::Stop),
        ("kill", VmAction::Kill),
        ("pause", VmAction::Pause),
        ("resume", VmAction::Resume),
        ("console", VmAction::Console),
        ("delete", VmAction::Delete),
    ] {
        let name = name("demo");
        assert_eq!(
            request(&["vm", word, "demo"].join(" ")),
            Request::Vm { name, action }
        );
    }
}

#[test]
fn json_stands_anywhere() {
    for line in ["--json vm list", "vm list --json"] {
        let command = parse(line).unwrap();
        let request = Request::VmList;
        assert_eq!(
            command,
            Some(Command {
                request,
                json: true
            }),
            "{line}"
        );
    }
    assert_eq!(error("vm list --json=1"), "`--json` takes no value");
}

#[test]
fn create_takes_everything_that_defines_a_vm() {
    let line = "vm create web-1 --cpus 2 --memory=1G --kernel images/k --module a --module 'b c' \
        --cmdline \"console=ttyS0 x=\\\"y\\\"\" --description 'the web'";
    let Request::VmCreate(vm) = request(line) else {
        panic!("not a create request");
    };
    assert_eq!(vm.name, name("web-1"));
    assert_eq!((vm.cpus, vm.memory), (2, MemorySize::from_bytes(1 << 30)));
    assert_eq!(vm.kernel, "images/k");
    assert_eq!(vm.modules, ["a", "b c"]);
    assert_eq!(vm.cmdline, "console=ttyS0 x=\"y\"");
    assert_eq!(vm.description, "the web");
    assert_eq!(vm.initrd, None);
}

#[test]
fn settings_are_typed() {
    assert_eq!(
        request("vm set demo cpus=4 memory=2G initrd= modules=a,b 'cmdline=a b=c' autostart=yes"),
        Request::VmSet {
            name: name("demo"),
            settings: vec![
                Setting::Cpus(4),
                Setting::Memory(MemorySize::from_bytes(2 << 30)),
                Setting::Initrd(None),
                Setting::Modules(vec!["a".to_string(), "b".to_string()]),
                Setting::Cmdline("a b=c".to_string()),
                Setting::Autostart(true),
            ],
        }
    );
}

#[test]
fn log_and_top_have_options() {
    assert_eq!(
        request("host log --level warn --last 5"),
        Request::HostLog {
            level: LogLevel::Warn,
            last: Some(5)
        }
    );
    assert_eq!(
        request("host top --count 3 --interval 500ms"),
        Request::HostTop(TopOptions {
            count: 3,
            interval_ms: 500,
            order: TopOrder::Used,
            live: false,
        })
    );
    assert_eq!(
        request("host top"),
        Request::HostTop(TopOptions {
            count: 1,
            interval_ms: 1000,
            order: TopOrder::Used,
            live: false,
        })
    );
    assert_eq!(
        request("host top --live --sort ready"),
        Request::HostTop(TopOptions {
            count: 1,
            interval_ms: 1000,
            order: TopOrder::Ready,
            live: true,
        })
    );
}

#[test]
fn cpu_time_is_set_for_vms_and_pools() {
    assert_eq!(
        request("vm set demo cpu.shares=high cpu.limit=30% cpu.reservation=none cpu.pool=gold"),
        Request::VmSet {
            name: name("demo"),
            settings: vec![
                Setting::CpuShares(CpuShares::High),
                Setting::CpuLimit(Some(CpuAmount::Percent(30))),
                Setting::CpuReservation(None),
                Setting::CpuPool(Some(name("gold"))),
            ],
        }
    );
    assert_eq!(
        request("sched pool create silver --parent gold reservation=500MHz expandable=no"),
        Request::Pool {
            name: name("silver"),
            action: PoolAction::Create {
                parent: Some(name("gold")),
                settings: vec![
                    PoolSetting::Reservation(Some(CpuAmount::Mhz(500))),
                    PoolSetting::Expandable(false),
                ],
            },
        }
    );
    assert_eq!(request("sched pool list"), Request::PoolList);
}

#[test]
fn errors_say_what_to_do() {
    for (line, wanted) in [
        ("wm list", "there is no command `wm`, did you mean `vm`?"),
        ("list", "did you mean `vm list`?"),
        ("frobnicate", "`help` lists all commands"),
        ("vm strat demo", "did you mean `vm start`?"),
        ("vm", "`vm` needs one of: create, list, info, stats, start"),
        ("host --json", "`host` needs one of: info, cpus"),
        ("vm start", "NAME is missing; usage: vm start NAME"),
        ("vm start a b", "`b` is too much here; usage: vm start NAME"),
        (
            "vm create x",
            "--kernel FILE is missing; usage: vm create NAME",
        ),
        ("vm create x --kernal y", "did you mean `--kernel`?"),
        (
            "vm create x --kernel",
            "`--kernel` needs a value: --kernel FILE",
        ),
        (
            "vm create x --kernel a --kernel b",
            "`--kernel` was given twice",
        ),
        (
            "vm create X --kernel a",
            "NAME cannot be `X`: a name is 1 to 63",
        ),
        ("vm create x --kernel a --memory 512", "write 512M for MiB"),
        ("vm create x --kernel a --memory 1K", "a VM has 1M to 16T"),
        ("vm create x --kernel a --cpus 65", "a VM has 1 to 64"),
        (
            "vm create x --kernel a --cpus two",
            "it must be a whole number",
        ),
        (
            "vm create x --kernel a --initrd b --module c",
            "exclude each other",
        ),
        ("vm set demo memroy=1G", "did you mean `memory`?"),
        ("vm set demo memory", "write it as KEY=VALUE"),
        ("vm set demo", "KEY=VALUE is missing"),
        ("vm set demo autostart=maybe", "it is yes or no"),
        ("vm list 'x", "a closing ' is missing"),
        ("host log --level loud", "it is error, warn, info or debug"),
        (
            "vm set demo cpu.shares=0",
            "shares are low, normal, high or a number",
        ),
        (
            "vm set demo cpu.limit=40",
            "written as 40% (of one CPU) or 1200MHz",
        ),
        (
            "sched pool set gold colour=blue",
            "expandable, limit, reservation, shares",
        ),
        ("sched pool set gold shares", "write it as KEY=VALUE"),
        ("host top --sort size", "used, ready, exits or name"),
        ("host top --interval x", "a time is a number of seconds"),
    ] {
        let message = error(line);
        assert!(message.contains(wanted), "{line}: {message}");
    }
}

#[test]
fn help_as_an_option_does_nothing_else() {
    assert_eq!(
        request("vm kill --help"),
        Request::Help(vec!["vm".to_string(), "kill".to_string()])
    );
}

#[test]
fn two_dashes_end_the_options() {
    assert_eq!(
        error("vm start -- --help"),
        "NAME cannot be `--help`: a name is 1 to 63 of the characters a-z 0-9 - _ . and starts with a letter or a \
         digit"
    );
}

#[test]
fn commands_of_a_group_stand_together() {
    let firsts: Vec<_> = COMMANDS.iter().map(|spec| spec.words[0]).collect();
    let mut sorted = firsts.clone();
    sorted.dedup();
    let count = sorted.len();
    sorted.sort_unstable();
    sorted.dedup();
    assert_eq!(sorted.len(), count);
}

struct NoNames;

impl Names for NoNames {
    fn vms(&self) -> Vec<String> {
        vec!["demo".to_string()]
    }
    fn files(&self) -> Vec<String> {
        Vec::new()
    }
    fn datastores(&self) -> Vec<String> {
        Vec::new()
    }
    fn devices(&self) -> Vec<String> {
        Vec::new()
    }
}

#[test]
fn random_lines_give_requests_or_errors() {
    let pieces = [
        "vm",
        "datastore",
        "main:a/b",
        "cp",
        "ls",
        "create",
        "set",
        "start",
        "host",
        "log",
        "top",
        "help",
        "--json",
        "--help",
        "--kernel",
        "--memory",
        "--cpus",
        "--module",
        "--last",
        "--level",
        "demo",
        "1G",
        "=",
        "memory=",
        "cpus=9",
        "--",
        "-",
        "\"",
        "'",
        "\\",
        "#",
        "\t",
        "ä",
        "18446744073709551616",
        "--cmdline=",
        "99999999999999999999T",
        "\u{0}",
        "error",
    ];
    let mut random = Random::new(0x0c0f_fee0);
    let mut requests = 0;
    for _ in 0..100_000 {
        let mut line = String::new();
        for _ in 0..random.below(9) {
            line.push_str(random.pick(&pieces));
            if random.below(4) != 0 {
                line.push(' ');
            }
        }
        match parse(&line) {
            Ok(Some(_)) => requests += 1,
            Ok(None) => {}
            Err(error) => assert!(!error.to_string().is_empty()),
        }
        let completion = complete(&line, &NoNames);
        assert!(line.get(completion.start..).is_some());
    }
    assert!(requests > 1000, "{requests}");
}
