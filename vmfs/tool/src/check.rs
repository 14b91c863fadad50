//! `fsck`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use lock::SlotState;
use serde_json::json;
use volume::{Action, Finding};

use crate::clock::{HostClock, block_on};
use crate::output::Output;
use crate::session;

/// Arguments of `fsck`.
#[derive(Debug, Args)]
pub(crate) struct Fsck {
    /// The image.
    image: PathBuf,
    /// Repairs what needs no guess. No host may have the volume mounted.
    #[arg(long, conflicts_with = "online")]
    repair: bool,
    /// Looks twice, while hosts have the volume mounted, and reports what is wrong both times.
    #[arg(long)]
    online: bool,
    /// Milliseconds between the two looks.
    #[arg(long, default_value_t = 5_000)]
    apart_ms: u64,
    /// Repairs although a slot is taken: its host is known to be dead.
    #[arg(long)]
    force: bool,
}

pub(crate) fn fsck(options: &Fsck, members: &[PathBuf], output: &Output) -> Result<ExitCode> {
    let (lun, layout) = session::open(&options.image, members)?;
    let clock = HostClock::new();
    if options.repair && !options.force {
        let area = layout.lock_terms()?;
        for slot in block_on(lock::read_slots(lun.clone(), clock, &area))?
            .iter()
            .flatten()
        {
            if slot.state != SlotState::Free {
                bail!(
                    "{} (slot {}) has the volume mounted, or died; --force if you know that it is dead",
                    slot.name(),
                    slot.number
                );
            }
        }
    }
    let bar = output.progress("clusters", layout.clusters);
    let progress = |done, _| bar.set_position(done);
    let report = block_on(async {
        if options.online {
            return volume::fsck_online(&lun, &clock, options.apart_ms, progress).await;
        }
        let action = if options.repair {
            Action::Repair
        } else {
            Action::Check
        };
        volume::fsck(&lun, action, progress).await
    })?;
    bar.finish_and_clear();
    let texts = |findings: &[Finding]| -> Vec<String> {
        findings.iter().map(ToString::to_string).collect()
    };
    let value = json!({
        "clean": report.is_clean(),
        "findings": texts(&report.findings),
        "more_findings": report.more,
        "repaired": texts(&report.repaired),
        "transactions": report.transactions,
        "files": report.files,
        "directories": report.directories,
        "blocks": report.blocks,
        "units": report.units,
    });
    output.result(&value, || {
        let mut text = String::new();
        for line in texts(&report.repaired) {
            text += &format!("repaired: {line}\n");
        }
        for line in texts(&report.findings) {
            text += &format!("{line}\n");
        }
        text + &format!(
            "{} files, {} directories, {} MiB, {} units, {} transactions in journals: {}\n",
            report.files,
            report.directories,
            report.blocks,
            report.units,
            report.transactions,
            if report.is_clean() {
                "clean"
            } else {
                "damaged"
            }
        )
    });
    Ok(ExitCode::from(u8::from(!report.is_clean())))
}
