//! Run-guest mode: one guest, its COM1 on the host's COM1, and a verdict as the last line of the log console.

use crate::vm::inventory;
use crate::vm::machine::StopReason;
use crate::{console, exec, fault, input};
use alloc::format;
use alloc::string::String;
use archive::Archive;
use control::{Mode, VmDefinition};

/// Runs the guest that `run.toml` of the archive defines, then ends the emulator.
pub async fn run(files: Archive<'static>) {
    let verdict = match guest(files).await {
        Ok(reason) => verdict_of(&reason),
        Err(error) => format!("fault {error}"),
    };
    console::write_log_console(&format!("verdict: {verdict}\r\n"));
    fault::end_emulator();
    crate::error!("the machine has no debug-exit device, so it stays on");
}

async fn guest(files: Archive<'static>) -> Result<StopReason, String> {
    let text = files
        .find("run.toml")
        .ok_or("the boot archive has no run.toml")?;
    let definition = VmDefinition::from_toml(text, Mode::RunGuest).map_err(|e| format!("{e}"))?;
    inventory::add(definition.clone())?;
    let ended = inventory::power_on(&definition, true, None).await?;
    let name = String::from(definition.name.as_str());
    exec::spawn(0, input::feed(name)).detach();
    Ok(inventory::run_to_end(&definition, true, ended).await)
}

fn verdict_of(reason: &StopReason) -> String {
    match reason {
        StopReason::PowerOff => String::from("poweroff"),
        StopReason::TestExit(value) => format!("exit {value}"),
        StopReason::Reset => {
            String::from("fault the guest could not be started again after its reset")
        }
        StopReason::Killed | StopReason::Ended => String::from("fault the VM was ended"),
        StopReason::Fault(fault) => format!(
            "fault {}: vCPU {}, {}",
            fault.what,
            fault.vcpu,
            fault.details.join(", ")
        ),
    }
}
