//! Making a datastore on a device.

use super::{Datastore, mount, names};
use crate::storage::{self, Device};
use crate::{random, timer};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec;
use api::block::BlockDevice;
use control::StoreName;
use lock::Backend;
use volume::{MkfsOptions, mkfs};

/// Makes a datastore named `name` on a device or partition, and mounts it. With `force`, whatever is there goes; with
/// `shared`, other hosts can mount it as well.
///
/// # Errors
/// A text that says what is in the way.
pub async fn create(
    device: &str,
    name: &StoreName,
    force: bool,
    shared: bool,
) -> Result<Arc<Datastore>, String> {
    if names().iter().any(|other| other == name.as_str()) {
        return Err(format!("there is a datastore {name} already"));
    }
    let device = storage::device(device)?;
    check_unused(&device, force).await?;
    let mut options = MkfsOptions::new(random::bytes(), random::bytes());
    options.label = name.to_string();
    options.now = timer::wall_clock_seconds();
    options.backend = match (shared, device.part().geometry().compare_and_write_blocks) {
        (false, _) => Backend::Local,
        (true, 0) => Backend::Paxos,
        (true, _) => Backend::CompareAndWrite,
    };
    let made = mkfs(device.part(), &options, |_, _| {}).await;
    made.map_err(|error| format!("no datastore on {}: {error}", device.name()))?;
    mount::mount(vec![device]).await
}

/// Refuses a device that something uses, or holds something.
async fn check_unused(device: &Device, force: bool) -> Result<(), String> {
    let name = device.name();
    let in_use = super::all().into_iter().find(|store| {
        let on_it = |used: &String| used == name;
        store.turns.is_mounted() && store.devices.iter().any(on_it)
    });
    if let Some(store) = in_use {
        return Err(format!("{name} carries the datastore {}", store.name));
    }
    if device.is_divided() {
        return Err(format!(
            "{name} is divided into partitions; name one of them"
        ));
    }
    let blank = storage::is_blank(device.part()).await;
    match blank.map_err(|error| format!("{name}: {error}"))? {
        false if !force => Err(format!(
            "something is on {name}; --force overwrites it, and then it is lost"
        )),
        _ => Ok(()),
    }
}
