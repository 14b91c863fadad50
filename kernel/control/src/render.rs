//! Answers as text for people and as JSON for programs.
//!
//! Lines end with a line feed alone; whoever owns the terminal adds what it wants before that.

mod storage;

use crate::cpu_time::CpuTime;
use crate::definition::VmDefinition;
use crate::report::{
    CpuInfo, HostInfo, LeakState, LogLevel, LogLine, MemoryInfo, Mitigation, Response, StopRecord,
    VcpuDetails, VmDetails, VmState, VmSummary, WritesReport,
};
use crate::table::{Align, Table};
use crate::units::{format_bytes, format_nanos, format_permille};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::Write;
use serde::Serialize;

mod usage;

/// Reasons for exits that `vm info` shows per vCPU.
const REASONS_SHOWN: usize = 8;

/// The form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// For people, on any terminal.
    Plain,
    /// For people, on a terminal with the colours of ECMA-48.
    Colour,
    /// For programs: one line of JSON.
    Json,
}

/// Returns an answer as text that ends with a line feed.
#[must_use]
pub fn render(response: &Response, style: Style) -> String {
    if style == Style::Json {
        return match response {
            Response::Done(text) => json(&Message { message: text }),
            Response::Text(text) => json(&Message { message: text }),
            Response::Vms(vms) => json(vms),
            Response::Vm(vm) => json(vm),
            Response::Writes(report) => json(report),
            Response::Host(host) => json(host),
            Response::Cpus(cpus) => json(cpus),
            Response::Devices(devices) => json(devices),
            Response::Block(block) => json(block),
            Response::Datastores(stores) => json(stores),
            Response::Datastore(store) => json(store),
            Response::Files(files) => json(files),
            Response::Check(check) => json(check),
            Response::Mitigations(list) => json(list),
            Response::Memory(memory) => json(memory),
            Response::Log(lines) => json(lines),
            Response::Top(page) => json(page),
            Response::Stats(stats) => json(stats),
            Response::Pools(pools) => json(pools),
        };
    }
    match response {
        Response::Done(text) => format!("{text}\n"),
        Response::Text(text) => text.clone(),
        Response::Vms(vms) => list(vms, style),
        Response::Vm(vm) => details(vm, style),
        Response::Writes(report) => writes(report),
        Response::Host(host) => host_info(host),
        Response::Cpus(cpus) => cpu_list(cpus),
        Response::Devices(devices) => storage::device_list(devices),
        Response::Block(block) => hex_dump(&block.bytes),
        Response::Datastores(stores) => storage::datastore_list(stores),
        Response::Datastore(store) => storage::datastore(store),
        Response::Files(files) => storage::file_list(files),
        Response::Check(check) => storage::check(check),
        Response::Mitigations(list) => mitigations(list, style),
        Response::Memory(memory) => memory_info(memory),
        Response::Log(lines) => log(lines, style),
        Response::Top(page) => usage::top(page),
        Response::Stats(stats) => usage::stats(stats),
        Response::Pools(pools) => usage::pools(pools),
    }
}

/// Returns an error as text that ends with a line feed.
#[must_use]
pub fn render_error(error: &str, style: Style) -> String {
    match style {
        Style::Json => json(&Failure { error }),
        Style::Plain => format!("error: {error}\n"),
        Style::Colour => format!("{}: {error}\n", RED.paint("error")),
    }
}

#[derive(Serialize)]
struct Message<'a> {
    message: &'a str,
}

#[derive(Serialize)]
struct Failure<'a> {
    error: &'a str,
}

fn json<T: Serialize + ?Sized>(value: &T) -> String {
    // Only maps with keys that are no strings and failing `Serialize` implementations have no JSON; none is here.
    let mut text = serde_json::to_string(value)
        .unwrap_or_else(|_| r#"{"error":"the answer has no JSON form"}"#.to_string());
    text.push('\n');
    text
}

/// A colour of ECMA-48 (8.3.117, select graphic rendition).
struct Colour(&'static str);

const RED: Colour = Colour("31");
const GREEN: Colour = Colour("32");
const YELLOW: Colour = Colour("33");

impl Colour {
    fn paint(&self, text: &str) -> String {
        format!("\x1b[{}m{text}\x1b[0m", self.0)
    }
}

fn state(state: VmState, style: Style) -> String {
    let colour = match state {
        VmState::Running => GREEN,
        VmState::Paused | VmState::Stopping => YELLOW,
        VmState::Failed => RED,
        VmState::Stopped => return state.name().to_string(),
    };
    if style == Style::Colour {
        colour.paint(state.name())
    } else {
        state.name().to_string()
    }
}

fn or_dash(text: Option<String>) -> String {
    text.unwrap_or_else(|| "-".to_string())
}

fn list(vms: &[VmSummary], style: Style) -> String {
    if vms.is_empty() {
        return "no VMs; `help vm create` tells how to define one\n".to_string();
    }
    let mut table = Table::new(&[
        ("NAME", Align::Left),
        ("CPUS", Align::Right),
        ("MEMORY", Align::Right),
        ("UPTIME", Align::Right),
        ("CPU", Align::Right),
        ("STATE", Align::Left),
        ("DESCRIPTION", Align::Left),
    ]);
    for vm in vms {
        table.row([
            vm.name.clone(),
            vm.vcpus.to_string(),
            format_bytes(vm.memory_bytes),
            or_dash(vm.uptime_ns.map(format_nanos)),
            or_dash(vm.cpu_permille.map(format_permille)),
            state(vm.state, style),
            vm.description.clone(),
        ]);
    }
    table.to_text()
}

/// Names and values below each other; a value may have several lines.
struct Sheet(Table);

impl Sheet {
    fn new() -> Self {
        Self(Table::bare(&[Align::Left, Align::Left]))
    }

    fn put(&mut self, name: &str, value: impl Into<String>) -> &mut Self {
        self.0.row([format!("{name}:"), value.into()]);
        self
    }

    fn put_given(&mut self, name: &str, value: &str) -> &mut Self {
        if !value.is_empty() {
            self.put(name, value);
        }
        self
    }
}

fn details(vm: &VmDetails, style: Style) -> String {
    let summary = &vm.summary;
    let mut sheet = Sheet::new();
    sheet
        .put("name", &*summary.name)
        .put("state", state(summary.state, style))
        .put_given("description", &summary.description)
        .put("CPUs", summary.vcpus.to_string())
        .put(
            "memory",
            format!(
                "{}, {} of it backed",
                format_bytes(summary.memory_bytes),
                format_bytes(vm.memory_backed_bytes)
            ),
        );
    if let Some(uptime) = summary.uptime_ns {
        sheet.put("uptime", format_nanos(uptime));
    }
    if let Some(cpu) = summary.cpu_permille {
        sheet.put("CPU time", format!("{} of a CPU", format_permille(cpu)));
    }
    definition(&vm.definition, &mut sheet);
    let mut text = sheet.0.to_text();
    if let Some(stop) = &vm.last_stop {
        text.push('\n');
        text.push_str(&last_stop(stop));
    }
    if !vm.vcpus.is_empty() {
        text.push('\n');
        text.push_str(&vcpus(&vm.vcpus));
    }
    text
}

fn definition(definition: &VmDefinition, sheet: &mut Sheet) {
    sheet.put("kernel", &*definition.kernel);
    if let Some(initrd) = &definition.initrd {
        sheet.put("initrd", &**initrd);
    }
    sheet
        .put_given("modules", &definition.modules.join(", "))
        .put_given("command line", &definition.cmdline)
        .put("autostart", if definition.autostart { "yes" } else { "no" });
    if definition.cpu != CpuTime::default() {
        sheet.put("CPU time is", usage::cpu_time(&definition.cpu));
    }
}

fn last_stop(stop: &StopRecord) -> String {
    let mut text = format!("last stop: {}\n", stop.reason);
    let kind = if stop.fault { "fault" } else { "ordinary" };
    let _ = write!(text, "  {kind}, at {}", format_nanos(stop.at_ns));
    if let Some(vcpu) = stop.vcpu {
        let _ = write!(text, ", vCPU {vcpu}");
    }
    if let Some(rip) = stop.rip {
        let _ = write!(text, ", rip {rip:#x}");
    }
    text.push('\n');
    for line in &stop.details {
        let _ = writeln!(text, "  {line}");
    }
    text
}

fn vcpus(vcpus: &[VcpuDetails]) -> String {
    let mut table = Table::new(&[
        ("VCPU", Align::Right),
        ("STATE", Align::Left),
        ("CPU TIME", Align::Right),
        ("RIP", Align::Left),
        ("EXITS", Align::Right),
        ("MOSTLY", Align::Left),
    ]);
    for vcpu in vcpus {
        let reasons: Vec<String> = vcpu
            .exits_by_reason
            .iter()
            .take(REASONS_SHOWN)
            .map(|exit| format!("{} {}", exit.reason, exit.count))
            .collect();
        table.row([
            vcpu.index.to_string(),
            vcpu.state.clone(),
            format_nanos(vcpu.cpu_time_ns),
            format!("{:#x}", vcpu.rip),
            vcpu.exits.to_string(),
            reasons.join(", "),
        ]);
    }
    table.to_text()
}

fn host_info(host: &HostInfo) -> String {
    let mut sheet = Sheet::new();
    sheet
        .put("version", &*host.version)
        .put("booted by", &*host.boot_protocol)
        .put("CPU", &*host.cpu_model)
        .put(
            "CPUs",
            format!("{} of {} run", host.cpus_online, host.cpus_present),
        )
        .put("TSC", format!("{} kHz", host.tsc_hz.div_euclid(1000)))
        .put("virtualization", &*host.virtualization)
        .put(
            "memory",
            format!(
                "{}, {} free",
                format_bytes(host.memory_total_bytes),
                format_bytes(host.memory_free_bytes)
            ),
        )
        .put("uptime", format_nanos(host.uptime_ns))
        .put(
            "VMs",
            format!("{}, {} running", host.vms_defined, host.vms_running),
        );
    sheet.0.to_text()
}

fn writes(report: &WritesReport) -> String {
    let per_second = u128::from(report.written_bytes)
        .saturating_mul(1_000_000_000)
        .checked_div(u128::from(report.time_ns))
        .unwrap_or(0);
    let mut sheet = Sheet::new();
    sheet
        .put(
            "measured",
            format!(
                "{} in {} rounds, by {}",
                format_nanos(report.time_ns),
                report.rounds,
                report.noticed_by
            ),
        )
        .put(
            "written",
            format!(
                "{} in different pages, of {}",
                format_bytes(report.distinct_bytes),
                format_bytes(report.backed_bytes)
            ),
        )
        .put(
            "to send again",
            format!(
                "{} per second",
                format_bytes(u64::try_from(per_second).unwrap_or(u64::MAX))
            ),
        );
    if let Some(pages) = report.unnoticed_pages {
        sheet.put("unnoticed", format!("{pages} pages"));
    }
    sheet.0.to_text()
}

/// Shows bytes 16 to a line: offset, hexadecimal, text. Lines that repeat the one before are left out.
fn hex_dump(bytes: &[u8]) -> String {
    let mut text = String::new();
    let mut before: &[u8] = &[];
    let mut skipping = false;
    for (offset, line) in (0_usize..).step_by(16).zip(bytes.chunks(16)) {
        if line == before {
            if !skipping {
                text.push_str("*\n");
            }
            skipping = true;
            continue;
        }
        (before, skipping) = (line, false);
        let hex: Vec<String> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        let shown: String = line
            .iter()
            .map(|byte| match byte {
                b' '..=b'~' => char::from(*byte),
                _ => '.',
            })
            .collect();
        text.push_str(&format!("{:04x}  {:<47}  {shown}\n", offset, hex.join(" ")));
    }
    text
}

fn cpu_list(cpus: &[CpuInfo]) -> String {
    let mut table = Table::new(&[
        ("CPU", Align::Right),
        ("APIC", Align::Right),
        ("NODE", Align::Right),
        ("WORLDS", Align::Right),
        ("BUSY", Align::Right),
        ("INTERRUPTS", Align::Right),
        ("EXITS", Align::Right),
    ]);
    for cpu in cpus {
        table.row([
            cpu.index.to_string(),
            cpu.apic_id.to_string(),
            cpu.node.to_string(),
            cpu.worlds.to_string(),
            format_permille(cpu.busy_permille),
            cpu.interrupts.to_string(),
            cpu.exits.to_string(),
        ]);
    }
    table.to_text()
}

fn mitigations(list: &[Mitigation], style: Style) -> String {
    let mut table = Table::new(&[
        ("LEAK", Align::Left),
        ("STATE", Align::Left),
        ("GUARD", Align::Left),
        ("WHY", Align::Left),
    ]);
    for entry in list {
        let colour = match entry.state {
            LeakState::Absent | LeakState::Guarded => GREEN,
            LeakState::Open | LeakState::Defenceless => RED,
        };
        let state = entry.state.name();
        let guard = Some(entry.guard.clone()).filter(|text| !text.is_empty());
        table.row([
            entry.leak.clone(),
            if style == Style::Colour {
                colour.paint(state)
            } else {
                state.to_string()
            },
            or_dash(guard),
            entry.reason.clone(),
        ]);
    }
    table.to_text()
}

fn memory_info(memory: &MemoryInfo) -> String {
    let mut sheet = Sheet::new();
    sheet
        .put("total", format_bytes(memory.total_bytes))
        .put("free", format_bytes(memory.free_bytes))
        .put("guests", format_bytes(memory.guests_bytes))
        .put("heap", format_bytes(memory.heap_bytes))
        .put("kernel", format_bytes(memory.kernel_bytes));
    for node in &memory.nodes {
        sheet.put(
            &format!("node {}", node.node),
            format!(
                "{}, {} free",
                format_bytes(node.total_bytes),
                format_bytes(node.free_bytes)
            ),
        );
    }
    sheet.0.to_text()
}

fn log(lines: &[LogLine], style: Style) -> String {
    let mut text = String::new();
    for line in lines {
        let seconds = line.at_ns.div_euclid(1_000_000_000);
        let micros = line.at_ns.div_euclid(1000).rem_euclid(1_000_000);
        let name = format!("{:5}", line.level.name());
        let level = match line.level {
            LogLevel::Error if style == Style::Colour => RED.paint(&name),
            LogLevel::Warn if style == Style::Colour => YELLOW.paint(&name),
            _ => name,
        };
        let _ = writeln!(text, "[{seconds:5}.{micros:06}] {level} {}", line.text);
    }
    text
}

#[cfg(test)]
mod tests;
