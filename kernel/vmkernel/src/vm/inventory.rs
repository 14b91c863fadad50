//! All VMs that the host knows: their definitions, what runs of them, and how they last ended.

use crate::exec;
use crate::memory::ranks;
use crate::pools;
use crate::vm::machine::{StopReason, VmShared};
use crate::vm::start::{self, Blueprint};
use crate::{startup, timer};
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use alloc::{format, vec};
use arch::sync::SpinLock;
use archive::Archive;
use control::{Mode, StopRecord, VmDefinition};
use core::future::Future;
use spin::Once;

/// One VM.
#[derive(Debug)]
pub struct Record {
    /// Its definition.
    pub definition: VmDefinition,
    /// What runs of it.
    pub running: Option<Running>,
    /// How it last ended.
    pub last_stop: Option<StopRecord>,
}

/// A VM that runs.
#[derive(Clone, Debug)]
pub struct Running {
    /// The machine.
    pub vm: Arc<VmShared>,
    /// Host time of its start in nanoseconds.
    pub started_nanos: u64,
}

static FILES: Once<Archive<'static>> = Once::new();
static RECORDS: SpinLock<Vec<Record>> = SpinLock::new(ranks::VM, Vec::new());

/// Reads the definitions in the boot archive. A bad one is reported and left out.
pub fn init(files: Archive<'static>) {
    FILES.call_once(|| files);
    for file in files
        .files()
        .filter(|f| f.name.starts_with("vms/") && f.name.ends_with(".toml"))
    {
        match VmDefinition::from_toml(file.data, Mode::Shell) {
            Ok(definition) => {
                let added = add(definition);
                if let Err(error) = added {
                    crate::error!("{}: {error}", file.name);
                }
            }
            Err(error) => crate::error!("{}: {error}", file.name),
        }
    }
}

/// Returns the boot archive.
#[must_use]
pub fn files() -> Archive<'static> {
    FILES.get().copied().unwrap_or(Archive::new(&[]))
}

/// Starts the VMs that start with the host.
pub fn autostart() {
    let wanted = |r: &Record| {
        r.definition
            .autostart
            .then(|| r.definition.name.to_string())
    };
    let names: Vec<String> = with_records(|records| records.iter().filter_map(wanted).collect());
    for name in names {
        if let Err(error) = start(&name) {
            crate::error!("VM {name} did not start: {error}");
        }
    }
}

/// Forgets a definition.
///
/// # Errors
/// A text when there is none, or the VM runs.
pub fn delete(name: &str) -> Result<(), String> {
    with_record(name, |r| match r.running {
        Some(_) => Err(format!(
            "VM {name} is running; `vm stop` or `vm kill` ends it"
        )),
        None => Ok(()),
    })?;
    with_records(|records| records.retain(|r| r.definition.name.as_str() != name));
    Ok(())
}

/// Adds a definition.
///
/// # Errors
/// A text when the name is taken.
pub fn add(definition: VmDefinition) -> Result<(), String> {
    let mut records = RECORDS.lock();
    if records.iter().any(|r| r.definition.name == definition.name) {
        return Err(format!("there is a VM named {} already", definition.name));
    }
    records.push(Record {
        definition,
        running: None,
        last_stop: None,
    });
    Ok(())
}

/// Runs `body` with all records.
pub fn with_records<T>(body: impl FnOnce(&mut Vec<Record>) -> T) -> T {
    body(&mut RECORDS.lock())
}

/// Runs `body` with the record of `name`.
///
/// # Errors
/// A text when there is none.
pub fn with_record<T>(
    name: &str,
    body: impl FnOnce(&mut Record) -> Result<T, String>,
) -> Result<T, String> {
    let mut records = RECORDS.lock();
    match records
        .iter_mut()
        .find(|r| r.definition.name.as_str() == name)
    {
        Some(record) => body(record),
        None => Err(format!("there is no VM named {name}; `vm list` shows all")),
    }
}

/// Returns the running machine of `name`.
///
/// # Errors
/// A text when there is no such VM or it does not run.
pub fn running(name: &str) -> Result<Running, String> {
    with_record(name, |r| {
        r.running
            .clone()
            .ok_or_else(|| format!("VM {name} is not running; `vm start {name}` starts it"))
    })
}

/// Waits until `vm`, which was ended, runs as `name` no more and has given its memory back; false when that takes longer
/// than `nanos`.
pub async fn is_gone_within(name: &str, vm: &Arc<VmShared>, nanos: u64) -> bool {
    const LOOK_NANOS: u64 = 1_000_000;
    let end = timer::host_nanos().saturating_add(nanos);
    while running(name).is_ok_and(|r| Arc::ptr_eq(&r.vm, vm)) {
        if timer::host_nanos() >= end {
            return false;
        }
        timer::sleep(LOOK_NANOS).await;
    }
    true
}

/// Starts the VM `name`.
///
/// # Errors
/// A text that says what to do.
pub fn start(name: &str) -> Result<(), String> {
    startup::milestone("vm-start");
    let definition = with_record(name, |r| match &r.running {
        Some(r) if r.vm.take_stop().is_some() => Err(format!(
            "VM {name} is still stopping; try again in a moment"
        )),
        Some(_) => Err(format!("VM {name} is running already")),
        None => Ok(r.definition.clone()),
    })?;
    let ended = power_on(&definition, false, None)?;
    exec::spawn(0, async move {
        run_to_end(&definition, false, ended).await;
    })
    .detach();
    Ok(())
}

/// Runs a VM that was powered on until it is off; a reset powers it on again. Records how it ended.
pub async fn run_to_end(
    definition: &VmDefinition,
    direct_serial: bool,
    first: impl Future<Output = StopReason> + Send,
) -> StopReason {
    let name = definition.name.as_str();
    let mut reason = first.await;
    while reason == StopReason::Reset {
        crate::info!("VM {name} was reset by its guest");
        let before = running(name).ok().map(|r| r.vm);
        reason = match power_on(definition, direct_serial, before.as_deref()) {
            Ok(ended) => ended.await,
            Err(error) => {
                crate::error!("VM {name} did not start again after its reset: {error}");
                break;
            }
        };
    }
    ended_with(name, &reason);
    reason
}

/// Returns what running VMs may still claim of the host's free memory.
fn promised_bytes() -> u64 {
    let of = |running: &Running| {
        let ram = &running.vm.ram;
        mem::need(ram.map().total()).saturating_sub(ram.bytes_backed())
    };
    with_records(|records| {
        let running = records.iter().filter_map(|r| r.running.as_ref());
        running.map(of).sum()
    })
}

/// Powers a VM on and records it as running; `before` is the machine that was reset.
///
/// # Errors
/// A text that says what to do.
pub fn power_on(
    definition: &VmDefinition,
    direct_serial: bool,
    before: Option<&VmShared>,
) -> Result<impl Future<Output = StopReason> + Send + use<>, String> {
    let file = |name: &str| {
        files()
            .find(name)
            .ok_or_else(|| format!("there is no file {name}; `vm set` can name another"))
    };
    let mut modules = vec![];
    for name in &definition.modules {
        modules.push((name.as_str(), file(name)?));
    }
    let blueprint = Blueprint {
        name: definition.name.as_str(),
        memory_bytes: definition.memory.bytes(),
        promised_bytes: promised_bytes(),
        vcpus: definition.cpus,
        kernel: (&definition.kernel, file(&definition.kernel)?),
        initrd: definition.initrd.as_deref().map(file).transpose()?,
        modules,
        command_line: &definition.cmdline,
        cpu_time: pools::vm_settings(&definition.cpu),
        pool: pools::find_for(&definition.cpu)?,
        test_devices: definition.test_devices,
        direct_serial,
    };
    let (vm, ended) = start::power_on(&blueprint, before)?;
    let running = Running {
        vm,
        started_nanos: timer::host_nanos(),
    };
    let name = definition.name.as_str();
    with_record(name, |r| {
        r.running = Some(running);
        Ok(())
    })?;
    crate::info!("VM {name} started");
    Ok(ended)
}

/// Records that a VM ended, and gives its memory back.
fn ended_with(name: &str, reason: &StopReason) {
    let fault = if let StopReason::Fault(fault) = reason {
        Some(fault)
    } else {
        None
    };
    let gone = with_record(name, |r| {
        r.last_stop = Some(StopRecord {
            reason: reason.to_string(),
            fault: fault.is_some(),
            at_ns: timer::host_nanos(),
            vcpu: fault.map(|f| f.vcpu),
            rip: fault.map(|f| f.rip),
            details: fault.map_or_else(Vec::new, |f| f.details.clone()),
        });
        Ok(r.running.take())
    });
    drop(gone);
    match fault {
        Some(fault) => crate::error!("VM {name} stopped: {reason}; {}", fault.details.join("; ")),
        None => crate::info!("VM {name} stopped: {reason}"),
    }
}
