//! Carrying out requests.

use super::{attach, datastores, print, reports, typed_within, usage};
use crate::pools;
use crate::vm::inventory;
use crate::vm::machine::StopReason;
use crate::vm::writes;
use crate::{datastore, exec, mitigations, power, storage, timer};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use api::block::{BlockDevice, Buffer};
use control::{
    BlockContent, PoolAction, Request, Response, Setting, Style, TopOptions, TopOrder, VmAction,
    VmName, render,
};

/// Most time that a kill waits for the VM's end. Its vCPUs notice at once, unless their CPUs are very busy.
const KILL_NANOS_MAX: u64 = 5_000_000_000;
/// Most time that the host's end waits for its datastores, and between two looks.
const UNMOUNT_NANOS_MAX: u64 = 20_000_000_000;
const UNMOUNT_LOOK_NANOS: u64 = 1_000_000;

/// Carries a request out; `Ok(None)` when it has shown its answer itself.
///
/// # Errors
/// A text that says what to do.
pub(super) async fn carry_out(request: Request, style: Style) -> Result<Option<Response>, String> {
    let response = match request {
        Request::Help(words) => Response::Text(control::help(&words).map_err(|e| e.to_string())?),
        Request::VmCreate(definition) => {
            let name = definition.name.to_string();
            let kept = match inventory::create(*definition).await? {
                Some(home) => format!("on datastore {home}"),
                None => String::from("until the host restarts, because no datastore is mounted"),
            };
            Response::Done(format!(
                "VM {name} is defined, {kept}; `vm start {name}` starts it"
            ))
        }
        Request::VmList => Response::Vms(reports::vms()),
        Request::Vm { name, action } => return act(name.as_str(), action).await,
        Request::VmSet { name, settings } => set(name.as_str(), &settings).await?,
        Request::Datastore(request) => return datastores::carry_out(request).await,
        Request::VmWrites { name, options } => {
            let vm = inventory::running(name.as_str())?.vm;
            Response::Writes(writes::measure(&vm, options).await?)
        }
        Request::HostInfo => Response::Host(reports::host()),
        Request::HostCpus => Response::Cpus(reports::cpus()),
        Request::StorageList => Response::Devices(storage::report()),
        Request::StorageRead { device, block } => read_block(&device, block).await?,
        Request::HostMitigations => Response::Mitigations(mitigations::report()),
        Request::HostMemory => Response::Memory(reports::memory()),
        Request::HostLog { level, last } => Response::Log(reports::log(level, last)),
        Request::HostTop(options) => return top(options, style).await,
        Request::Pool { name, action } => pool(name, action)?,
        Request::PoolList => Response::Pools(pools::list()),
        Request::HostReboot => {
            close_storage().await;
            power::reboot()
        }
        Request::HostPoweroff => {
            close_storage().await;
            power::power_off()
        }
    };
    Ok(Some(response))
}

async fn act(name: &str, action: VmAction) -> Result<Option<Response>, String> {
    let done = |what: &str| Ok(Some(Response::Done(format!("VM {name} {what}"))));
    match action {
        VmAction::Info => Ok(Some(Response::Vm(Box::new(reports::vm(name)?)))),
        VmAction::Stats => Ok(Some(Response::Stats(usage::stats(name)?))),
        VmAction::Start => {
            inventory::start(name).await?;
            done("started")
        }
        VmAction::Stop => {
            if !inventory::running(name)?.vm.power_button() {
                return Err(format!(
                    "the guest does not listen to its power button; `vm kill {name}` ends it"
                ));
            }
            done("was asked to power off")
        }
        VmAction::Kill => {
            let vm = inventory::running(name)?.vm;
            vm.end(StopReason::Killed);
            if inventory::is_gone_within(name, &vm, KILL_NANOS_MAX).await {
                done("killed")
            } else {
                done("is being killed")
            }
        }
        VmAction::Pause => match inventory::running(name)?.vm.set_paused(true) {
            true => done("paused"),
            false => Err(format!("VM {name} is paused already")),
        },
        VmAction::Resume => match inventory::running(name)?.vm.set_paused(false) {
            true => done("resumed"),
            false => Err(format!("VM {name} is not paused")),
        },
        VmAction::Console => {
            let running = inventory::running(name)?;
            attach::attach(name, &running).await?;
            Ok(None)
        }
        VmAction::Delete => {
            inventory::delete(name).await?;
            done("deleted")
        }
    }
}

async fn read_block(name: &str, block: u64) -> Result<Response, String> {
    let device = storage::device(name)?;
    let device = device.part();
    let buffer = Buffer::zeroed(device.geometry().logical_block as usize);
    let (buffer, result) = device.read(block, buffer).await;
    result.map_err(|error| format!("block {block} of {name}: {error}"))?;
    Ok(Response::Block(BlockContent {
        device: String::from(name),
        block,
        bytes: buffer.to_vec(),
    }))
}

/// Unmounts all datastores, unless a device keeps them from it for too long.
async fn close_storage() {
    let unmounted = exec::spawn(0, datastore::unmount_all());
    let end = timer::host_nanos().saturating_add(UNMOUNT_NANOS_MAX);
    while !unmounted.is_finished() {
        if timer::host_nanos() >= end {
            crate::error!("a datastore cannot be unmounted; its journal will be replayed");
            return;
        }
        timer::sleep(UNMOUNT_LOOK_NANOS).await;
    }
}

async fn set(name: &str, settings: &[Setting]) -> Result<Response, String> {
    let running = inventory::set(name, settings).await?;
    let when = if running && !settings.iter().all(Setting::is_immediate) {
        "; it takes effect at its next start"
    } else {
        ""
    };
    Ok(Response::Done(format!("VM {name} changed{when}")))
}

fn pool(name: VmName, action: PoolAction) -> Result<Response, String> {
    let text = match action {
        PoolAction::Create { parent, settings } => {
            let text = format!("pool {name} is there");
            pools::create(name, parent, &settings)?;
            text
        }
        PoolAction::Set(settings) => {
            pools::set(&name, &settings)?;
            format!("pool {name} changed")
        }
        PoolAction::Delete => {
            pools::delete(&name)?;
            format!("pool {name} deleted")
        }
    };
    Ok(Response::Done(text))
}

async fn top(options: TopOptions, style: Style) -> Result<Option<Response>, String> {
    /// Moves the cursor home and clears what is below it (ECMA-48, 8.3.21 and 8.3.39).
    const OVER_THE_LAST: &str = "\x1b[H\x1b[J";
    let mut order = options.order;
    let mut before = usage::Sample::take();
    let mut page = 0;
    while options.live || page < options.count {
        let wanted = |key| options.live || key == super::CTRL_C;
        match typed_within(options.interval_ms.saturating_mul(1_000_000), wanted).await {
            None => {}
            Some(b'u') => order = TopOrder::Used,
            Some(b'r') => order = TopOrder::Ready,
            Some(b'e') => order = TopOrder::Exits,
            Some(b'n') => order = TopOrder::Name,
            Some(_) => break,
        }
        let now = usage::Sample::take();
        if options.live {
            print(OVER_THE_LAST).await;
        }
        print(&render(&Response::Top(now.since(&before, order)), style)).await;
        before = now;
        page += 1;
    }
    Ok(None)
}
