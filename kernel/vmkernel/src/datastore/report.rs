//! What is told of datastores, and the check.

use super::{Datastore, all, find};
use crate::timer::HostClock;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use control::{CheckReport, DatastoreDetails, DatastoreSummary};
use lock::Backend;
use volume::{LockService, Usage, fsck_online};

/// Bytes of a block of a volume.
const BLOCK: u64 = 1 << 20;
/// Milliseconds between two looks of a check, if the first found something.
const APART_MS: u64 = 5_000;

/// Describes all datastores.
pub async fn summaries() -> Vec<DatastoreSummary> {
    let mut summaries = Vec::new();
    for store in all() {
        summaries.push(match usage(&store).await {
            Ok(usage) => summary(&store, &usage, "mounted"),
            Err(reason) => summary(&store, &Usage::default(), &reason),
        });
    }
    summaries
}

async fn usage(store: &Datastore) -> Result<Usage, String> {
    if let Some(reason) = store.turns.reason() {
        return Err(reason);
    }
    let mut volume = store.turn().await?;
    volume.usage().await.map_err(|e| e.to_string())
}

fn summary(store: &Datastore, usage: &Usage, state: &str) -> DatastoreSummary {
    DatastoreSummary {
        name: store.name.clone(),
        uuid: store.uuid(),
        devices: store.devices.clone(),
        state: state.to_string(),
        capacity_bytes: usage.blocks.saturating_mul(BLOCK),
        free_bytes: usage.free_blocks.saturating_mul(BLOCK),
    }
}

/// Describes one datastore.
///
/// # Errors
/// A text that says what is wrong with it.
pub async fn details(name: &str) -> Result<DatastoreDetails, String> {
    let store = find(name)?;
    let usage = usage(&store).await?;
    let volume = store.turn().await?;
    let (units_cached, locks_kept) = volume.in_memory();
    let locks = match store.layout.lock_terms().map(|area| area.backend) {
        Ok(Backend::Local) => "local: this host alone uses it",
        Ok(Backend::Paxos) => "shared, by plain reads and writes",
        Ok(Backend::CompareAndWrite) => "shared, by compare-and-write",
        Err(_) => "unknown",
    };
    Ok(DatastoreDetails {
        summary: summary(&store, &usage, "mounted"),
        locks: locks.to_string(),
        hosts_max: store.layout.slots,
        slot: volume.lock_service().slot(),
        units: usage.units,
        free_units: usage.free_units,
        units_cached,
        locks_kept,
    })
}

/// Looks for damage, while the datastore stays mounted and this host does nothing else with it.
///
/// # Errors
/// A text when it cannot be read.
pub async fn check(name: &str) -> Result<CheckReport, String> {
    let store = find(name)?;
    let mut volume = store.turn().await?;
    let said = |error: volume::Error| error.to_string();
    volume.give_back_locks().await.map_err(said)?;
    let report = fsck_online(&store.lun, &HostClock, APART_MS, |_, _| {}).await;
    let report = report.map_err(said)?;
    Ok(CheckReport {
        name: store.name.clone(),
        clean: report.is_clean(),
        findings: report.findings.iter().map(ToString::to_string).collect(),
        files: report.files,
        directories: report.directories,
        used_bytes: report.blocks.saturating_mul(BLOCK),
    })
}
