//! Datastores of the host: volumes on its devices, found by their UUID, mounted at start-up or when they are made.
//!
//! Each is used by one task at a time (`turn.rs`); its heartbeat goes on beside. What is done with files stands in
//! `files.rs`. Not here: VM definitions (`vm::definitions`), and any knowledge of the format, which is `vmfs/volume`'s.

mod create;
mod files;
mod mount;
mod report;
mod test;
mod turn;

pub use create::create;
pub use files::{copy, list, make_directory, read, remove, rename, replace};
pub use report::{check, details, summaries};
pub use test::write_records;
pub use turn::Turn;

use crate::memory::ranks;
use crate::storage::Part;
use crate::timer::HostClock;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use arch::sync::SpinLock;
use lock::{Gate, Locks};
use volume::{Layout, Span, Volume};

/// The devices of a datastore, joined.
type Lun = Arc<Span<Part>>;
/// Its locks.
type Service = Arc<Locks<Lun, HostClock>>;
/// It as this host has mounted it.
pub type Mounted = Volume<(Gate<Lun, HostClock>, Service, HostClock)>;

static STORES: SpinLock<Vec<Arc<Datastore>>> = SpinLock::new(ranks::STORAGE, Vec::new());

/// A datastore that is mounted, or was until something went wrong.
#[derive(Debug)]
pub struct Datastore {
    name: String,
    devices: Vec<String>,
    layout: Layout,
    lun: Lun,
    turns: turn::Turns,
}

impl Datastore {
    /// Returns its name on this host.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Waits until nobody else uses it, and has it until the returned value is dropped.
    ///
    /// # Errors
    /// A text that says why it cannot be used any more.
    pub async fn turn(&self) -> Result<Turn<'_>, String> {
        self.turns.take().await.map_err(|reason| self.gone(&reason))
    }

    fn gone(&self, reason: &str) -> String {
        format!("datastore {} is not mounted any more: {reason}", self.name)
    }

    fn uuid(&self) -> String {
        uuid_text(&self.layout.uuid)
    }
}

/// Writes a UUID as 32 digits, as `vmfs_tool` does.
fn uuid_text(uuid: &[u8; 16]) -> String {
    uuid.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns all datastores, those that are gone among them.
#[must_use]
pub fn all() -> Vec<Arc<Datastore>> {
    STORES.lock().clone()
}

/// Returns the datastore that new VM definitions go to: the first that is mounted.
#[must_use]
pub fn default_store() -> Option<Arc<Datastore>> {
    all().into_iter().find(|store| store.turns.is_mounted())
}

/// Returns the datastore of that name.
///
/// # Errors
/// A text that says what there is.
pub fn find(name: &str) -> Result<Arc<Datastore>, String> {
    let found = all().into_iter().find(|store| store.name == name);
    found.ok_or_else(|| {
        format!("there is no datastore {name}; `datastore list` shows those that are mounted")
    })
}

/// Names of all datastores.
#[must_use]
pub fn names() -> Vec<String> {
    all().iter().map(|store| store.name.to_string()).collect()
}

/// Looks for datastores on all devices, and mounts those that are not.
pub async fn mount_all() {
    for (uuid, devices) in mount::find_volumes().await {
        if all().iter().any(|store| store.layout.uuid == uuid) {
            continue;
        }
        let names: Vec<String> = devices.iter().map(|d| d.name().to_string()).collect();
        let where_from = names.join(" ");
        match mount::mount(devices).await {
            Ok(store) => crate::info!("datastore {} on {where_from} is mounted", store.name),
            Err(reason) => crate::error!(
                "the datastore {} on {where_from} cannot be mounted: {reason}",
                uuid_text(&uuid)
            ),
        }
    }
}

/// Unmounts all datastores, before the host goes down.
pub async fn unmount_all() {
    let stores = core::mem::take(&mut *STORES.lock());
    for store in stores {
        if let Err(reason) = store.turns.end().await {
            crate::error!("datastore {}: {reason}", store.name);
        }
    }
}
