//! Finding volumes on the host's devices, and mounting them.

use super::{Datastore, Lun, STORES, Service, turn::Turns, uuid_text};
use crate::exec;
use crate::random;
use crate::storage::{self, Device};
use crate::timer::{self, HostClock};
use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use api::block::{BlockDevice, Buffer};
use control::StoreName;
use lock::{Host, Locks};
use volume::format::{SUPERBLOCK_A, SUPERBLOCK_B, Superblock, UNIT};
use volume::{Error, Layout, Settings, Span, Volume, probe};

/// Between two looks at what time asks for.
const TICK_NANOS: u64 = 200_000_000;
/// Milliseconds to go on trying for a lock: longer than a dead host keeps one.
const LOCK_WAIT_MS: u64 = 60_000;
/// Units in memory, 4 KiB each.
const CACHE_UNITS: usize = 2048;

/// Returns the volumes on all devices, by UUID, each with the devices that it is on.
pub(super) async fn find_volumes() -> BTreeMap<[u8; 16], Vec<Device>> {
    let mut found: BTreeMap<[u8; 16], Vec<Device>> = BTreeMap::new();
    for device in storage::devices() {
        if device.is_divided() {
            continue;
        }
        match probe(device.part()).await {
            Ok(layout) => found.entry(layout.uuid).or_default().push(device),
            Err(Error::NotAVolume) => {}
            Err(error) => crate::error!("{}: {error}", device.name()),
        }
    }
    found
}

/// Mounts the volume whose devices these are, and makes it one of the host's datastores.
///
/// # Errors
/// A text that says what is wrong.
pub(super) async fn mount(devices: Vec<Device>) -> Result<Arc<Datastore>, String> {
    let names: Vec<String> = devices.iter().map(|d| d.name().to_string()).collect();
    let parts = devices.iter().map(|d| d.part().clone()).collect();
    let lun: Lun = Arc::new(Span::open(parts).await.map_err(|e| e.to_string())?);
    let layout = probe(&lun).await.map_err(|e| e.to_string())?;
    let service = join(&lun, &layout).await?;
    let beating = Arc::clone(&service);
    // The lease lasts only as long as the heart beats, and a mount may take long: replays of journals.
    let heart = exec::spawn(0, async move { beating.keep_alive().await.to_string() });
    let settings = Settings {
        unix_seconds_at_zero: timer::wall_clock_seconds()
            .saturating_sub(timer::host_nanos() / 1_000_000_000),
        lock_wait_ms: LOCK_WAIT_MS,
        cache_units: CACHE_UNITS,
        ..Settings::default()
    };
    let gate = service.gate();
    let volume = Volume::mount(gate, layout.clone(), service, HostClock, settings);
    let volume = volume.await.map_err(|e| e.to_string())?;
    let store = Arc::new(Datastore {
        name: free_name(&lun, &layout).await,
        devices: names,
        layout,
        lun,
        turns: Turns::new(volume),
    });
    let (watched, ticked) = (Arc::downgrade(&store), Arc::downgrade(&store));
    let watch = exec::spawn(0, async move {
        let reason = heart.await;
        if let Some(store) = watched.upgrade() {
            crate::error!("datastore {}: {reason}", store.name);
            store.turns.fail(&reason);
        }
    });
    let tick = exec::spawn(0, tick(ticked));
    store.turns.keep(vec![watch, tick]);
    for name in &store.devices {
        storage::set_content(name, &["datastore ", &store.name].concat());
    }
    STORES.lock().push(Arc::clone(&store));
    Ok(store)
}

/// Takes a slot of the volume for this host.
async fn join(lun: &Lun, layout: &Layout) -> Result<Service, String> {
    let area = layout.lock_terms().map_err(|e| e.to_string())?;
    // Nothing on this machine is known to be its own and to stay, so every start is a new host to the others.
    let host = Host {
        uuid: random::bytes(),
        name: "basalt",
        nonce: random::number(),
    };
    let journal_of = |slot| layout.slot_journal(slot);
    let locks = Locks::join(Arc::clone(lun), HostClock, area, host, journal_of);
    let locks = locks.await.map_err(|e| e.to_string())?;
    Ok(Arc::new(locks))
}

/// Does what time asks for until the datastore is gone.
async fn tick(store: alloc::sync::Weak<Datastore>) {
    loop {
        timer::sleep(TICK_NANOS).await;
        let Some(store) = store.upgrade() else {
            return;
        };
        let Ok(mut turn) = store.turns.take().await else {
            return;
        };
        let result = turn.tick().await;
        drop(turn);
        if let Err(error) = result {
            crate::error!("datastore {}: {error}", store.name);
            if error == Error::Failed {
                store.turns.fail(&error.to_string());
                return;
            }
        }
    }
}

/// Returns the volume's label as its name, with a part of the UUID where that is no name or taken.
async fn free_name(lun: &Lun, layout: &Layout) -> String {
    let label = label(lun).await.unwrap_or_default();
    let taken = |name: &str| super::names().iter().any(|other| other == name);
    if StoreName::new(&label).is_some() && !taken(&label) {
        return label;
    }
    let uuid = uuid_text(&layout.uuid);
    let short = uuid.get(..8).unwrap_or_default();
    match StoreName::new(&label) {
        Some(label) => alloc::format!("{label}-{short}"),
        None => alloc::format!("datastore-{short}"),
    }
}

async fn label(lun: &Lun) -> Option<String> {
    let block = u64::from(lun.geometry().logical_block);
    for at in [SUPERBLOCK_A, SUPERBLOCK_B] {
        let (buffer, result) = lun.read(at / block, Buffer::zeroed(UNIT)).await;
        let bytes = buffer.first_chunk::<UNIT>();
        if let (Ok(()), Some(bytes)) = (result, bytes)
            && Layout::read(bytes, lun.geometry().bytes()).is_ok()
        {
            let label = String::from_utf8_lossy(&Superblock::of(bytes).label).into_owned();
            return Some(String::from(label.trim_end_matches('\0')));
        }
    }
    None
}
