//! All VMs that the host knows: their definitions, what runs of them, and how they last ended.

use crate::datastore;
use crate::exec;
use crate::memory::{LargeBytes, ranks};
use crate::pools;
use crate::vm::definitions;
use crate::vm::machine::{StopReason, VmShared};
use crate::vm::start::{self, Blueprint};
use crate::{startup, timer};
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use alloc::{format, vec};
use arch::sync::SpinLock;
use archive::Archive;
use control::{Mode, Setting, StopRecord, StorePath, VmDefinition};
use core::future::Future;
use spin::Once;

/// One VM.
#[derive(Debug)]
pub struct Record {
    /// Its definition.
    pub definition: VmDefinition,
    /// The datastore that keeps the definition; `None` for one of the boot archive or of this start only.
    pub home: Option<String>,
    /// Its files are being read for its start.
    starting: bool,
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
pub async fn autostart() {
    let wanted = |r: &Record| {
        r.definition
            .autostart
            .then(|| r.definition.name.to_string())
    };
    let names: Vec<String> = with_records(|records| records.iter().filter_map(wanted).collect());
    for name in names {
        if let Err(error) = start(&name).await {
            crate::error!("VM {name} did not start: {error}");
        }
    }
}

/// Forgets a definition, on its datastore as well.
///
/// # Errors
/// A text when there is none, or the VM runs.
pub async fn delete(name: &str) -> Result<(), String> {
    let home = with_record(name, |r| match r.running {
        Some(_) => Err(format!(
            "VM {name} is running; `vm stop` or `vm kill` ends it"
        )),
        None => Ok(r.home.clone()),
    })?;
    if let Some(home) = home {
        definitions::remove(name, &home).await?;
    }
    with_records(|records| records.retain(|r| r.definition.name.as_str() != name));
    Ok(())
}

/// Adds a definition and keeps it on the default datastore. Tells which that is; `None` where there is none, and the
/// definition goes with this start of the host.
///
/// # Errors
/// A text when the name is taken, or the datastore fails.
pub async fn create(definition: VmDefinition) -> Result<Option<String>, String> {
    let name = definition.name.to_string();
    add(definition.clone())?;
    let saved = definitions::save(&definition, None).await;
    match saved {
        Ok(home) => {
            with_record(&name, |r| {
                r.home.clone_from(&home);
                Ok(())
            })?;
            Ok(home)
        }
        Err(error) => {
            with_records(|records| records.retain(|r| r.definition.name.as_str() != name));
            Err(error)
        }
    }
}

/// Changes a definition, on its datastore as well. Tells whether the VM runs, so that the change waits for its next start.
///
/// # Errors
/// A text when there is none, the settings make no good one, or the datastore fails.
pub async fn set(name: &str, settings: &[Setting]) -> Result<bool, String> {
    let (before, changed, home) = with_record(name, |r| {
        let changed = r.definition.with(settings).map_err(|e| e.to_string())?;
        apply(r, &changed)?;
        Ok((r.definition.clone(), changed, r.home.clone()))
    })?;
    let saved = definitions::save(&changed, home).await;
    with_record(name, |r| match saved {
        Ok(home) => {
            r.definition = changed;
            r.home = home;
            Ok(r.running.is_some())
        }
        Err(error) => {
            // What cannot be kept does not stay in force either; that it was before makes room for it.
            apply(r, &before)?;
            Err(error)
        }
    })
}

/// Gives a running VM the CPU time of `definition`.
fn apply(record: &Record, definition: &VmDefinition) -> Result<(), String> {
    let pool = pools::find_for(&definition.cpu)?;
    match &record.running {
        Some(running) => {
            let settings = pools::vm_settings(&definition.cpu);
            let changed = running.vm.group.change(pool, settings);
            changed.map_err(pools::refusal)
        }
        None => Ok(()),
    }
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
    records.push(Record::new(definition, None));
    Ok(())
}

/// Adds a definition that the datastore `home` keeps; one of the boot archive that does not run gives way.
///
/// # Errors
/// A text when the name is taken.
pub fn add_from(definition: VmDefinition, home: &str) -> Result<(), String> {
    let record = Record::new(definition, Some(home.to_string()));
    let mut records = RECORDS.lock();
    let same = |r: &&mut Record| r.definition.name == record.definition.name;
    match records.iter_mut().find(same) {
        None => records.push(record),
        Some(old) if old.home.is_none() && old.running.is_none() && !old.starting => *old = record,
        Some(old) => {
            return Err(format!(
                "there is a VM named {} already",
                old.definition.name
            ));
        }
    }
    Ok(())
}

impl Record {
    fn new(definition: VmDefinition, home: Option<String>) -> Self {
        Self {
            definition,
            home,
            starting: false,
            running: None,
            last_stop: None,
        }
    }
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
pub async fn start(name: &str) -> Result<(), String> {
    startup::milestone("vm-start");
    let definition = with_record(name, |r| match &r.running {
        Some(r) if r.vm.take_stop().is_some() => Err(format!(
            "VM {name} is still stopping; try again in a moment"
        )),
        Some(_) => Err(format!("VM {name} is running already")),
        None if r.starting => Err(format!("VM {name} is being started already")),
        None => {
            r.starting = true;
            Ok(r.definition.clone())
        }
    })?;
    let ended = power_on(&definition, false, None).await;
    with_record(name, |r| {
        r.starting = false;
        Ok(())
    })?;
    let ended = ended?;
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
        reason = match power_on(definition, direct_serial, before.as_deref()).await {
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

/// A file that a VM is made of.
enum File {
    /// In the boot archive.
    Archive(&'static [u8]),
    /// Read from a datastore.
    Loaded(LargeBytes),
}

impl core::ops::Deref for File {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Archive(bytes) => bytes,
            Self::Loaded(bytes) => bytes,
        }
    }
}

/// Finds a file: `DATASTORE:PATH`, or a path in the boot archive or else in the datastore that keeps the definition.
async fn file(name: &str, home: Option<&str>) -> Result<File, String> {
    if let Some(path) = StorePath::parse(name) {
        return datastore::read(&path).await.map(File::Loaded);
    }
    if let Some(bytes) = files().find(name) {
        return Ok(File::Archive(bytes));
    }
    let path = home.and_then(|home| StorePath::parse(&[home, ":", name].concat()));
    let Some(path) = path else {
        return Err(format!(
            "there is no file {name}; `vm set` can name another"
        ));
    };
    let read = datastore::read(&path).await.map(File::Loaded);
    read.map_err(|error| format!("{error}; `vm set` can name another"))
}

/// Powers a VM on and records it as running; `before` is the machine that was reset.
///
/// # Errors
/// A text that says what to do.
pub async fn power_on(
    definition: &VmDefinition,
    direct_serial: bool,
    before: Option<&VmShared>,
) -> Result<impl Future<Output = StopReason> + Send + use<>, String> {
    let home = with_record(definition.name.as_str(), |r| Ok(r.home.clone()))?;
    let home = home.as_deref();
    let kernel = file(&definition.kernel, home).await?;
    let initrd = match definition.initrd.as_deref() {
        Some(name) => Some(file(name, home).await?),
        None => None,
    };
    let mut modules = vec![];
    for name in &definition.modules {
        modules.push(file(name, home).await?);
    }
    let names = definition.modules.iter().map(String::as_str);
    let modules = names.zip(modules.iter().map(|file| &**file)).collect();
    let blueprint = Blueprint {
        name: definition.name.as_str(),
        memory_bytes: definition.memory.bytes(),
        promised_bytes: promised_bytes(),
        vcpus: definition.cpus,
        kernel: (&definition.kernel, &kernel),
        initrd: initrd.as_deref(),
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
