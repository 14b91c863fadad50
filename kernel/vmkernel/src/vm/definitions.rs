//! VM definitions on datastores: `vms/NAME.toml` each, in the form that the boot archive has them.
//!
//! What a definition says is `control`'s; what runs of it is `inventory`'s.

use crate::datastore;
use crate::vm::inventory;
use alloc::format;
use alloc::string::{String, ToString};
use control::{Mode, StorePath, VmDefinition};

/// The directory of definitions.
const DIRECTORY: &str = "vms";
const SUFFIX: &str = ".toml";
/// What stands behind the name of a definition whose replacement was interrupted.
const FRESH: &str = ".new";

fn path_of(store: &str, file: &str) -> StorePath {
    StorePath {
        store: store.to_string(),
        path: format!("{DIRECTORY}/{file}"),
    }
}

/// Reads the definitions on all datastores. One that is bad, or whose name is taken, is reported and left out; those of
/// the boot archive give way.
pub async fn load_all() {
    for store in datastore::all() {
        let directory = path_of(store.name(), "");
        let directory = StorePath {
            path: DIRECTORY.to_string(),
            ..directory
        };
        // Without the directory there are none.
        let entries = datastore::list(&directory).await.unwrap_or_default();
        let is_there = |name: &str| entries.iter().any(|entry| entry.name == name);
        for entry in &entries {
            let name = entry.name.as_str();
            let finished = name.strip_suffix(FRESH).unwrap_or(name);
            let superseded = finished != name && is_there(finished);
            if entry.directory || superseded || !finished.ends_with(SUFFIX) {
                continue;
            }
            let path = path_of(store.name(), name);
            if let Err(error) = load(store.name(), &path).await {
                crate::error!("{path}: {error}");
            }
        }
    }
}

async fn load(store: &str, path: &StorePath) -> Result<(), String> {
    let text = datastore::read(path).await?;
    let definition = VmDefinition::from_toml(&text, Mode::Shell).map_err(|e| e.to_string())?;
    inventory::add_from(definition, store)
}

/// Writes a definition: to the datastore `home`, or the default one if it has none yet. Returns where it is; `None` where
/// no datastore is mounted.
///
/// # Errors
/// A text that says what failed.
pub async fn save(
    definition: &VmDefinition,
    home: Option<String>,
) -> Result<Option<String>, String> {
    let default = || datastore::default_store().map(|store| store.name().to_string());
    let Some(home) = home.or_else(default) else {
        return Ok(None);
    };
    let text = definition.to_toml().map_err(|e| e.to_string())?;
    let directory = StorePath {
        store: home.clone(),
        path: DIRECTORY.to_string(),
    };
    if datastore::list(&directory).await.is_err() {
        datastore::make_directory(&directory).await?;
    }
    let path = path_of(&home, &format!("{}{SUFFIX}", definition.name));
    datastore::replace(&path, text.as_bytes()).await?;
    Ok(Some(home))
}

/// Removes the definition of `name` from the datastore `home`.
///
/// # Errors
/// A text that says what failed.
pub async fn remove(name: &str, home: &str) -> Result<(), String> {
    datastore::remove(&path_of(home, &format!("{name}{SUFFIX}"))).await
}
