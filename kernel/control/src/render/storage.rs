//! Storage devices and datastores as text.

use crate::report::{CheckReport, DatastoreDetails, DatastoreSummary, DeviceInfo, FileEntry};
use crate::table::{Align, Table};
use crate::units::format_bytes;
use alloc::format;
use alloc::string::{String, ToString};
use core::fmt::Write;

pub(super) fn device_list(devices: &[DeviceInfo]) -> String {
    if devices.is_empty() {
        return String::from(
            "no storage device was found; NVMe, AHCI, IDE and virtio are supported\n",
        );
    }
    let mut table = Table::new(&[
        ("DEVICE", Align::Left),
        ("PCI", Align::Left),
        ("CAPACITY", Align::Right),
        ("BLOCK", Align::Right),
        ("INTERRUPTS", Align::Left),
        ("SERIAL", Align::Left),
        ("MODEL", Align::Left),
        ("CONTENT", Align::Left),
    ]);
    for device in devices {
        table.row([
            device.name.clone(),
            device.address.clone(),
            format_bytes(device.capacity_bytes),
            device.block_bytes.to_string(),
            device.interrupts.clone(),
            device.serial.clone(),
            device.model.clone(),
            device.content.clone(),
        ]);
    }
    table.to_text()
}

pub(super) fn datastore_list(stores: &[DatastoreSummary]) -> String {
    if stores.is_empty() {
        return String::from(
            "no datastore is mounted; `help datastore create` tells how to make one\n",
        );
    }
    let mut table = Table::new(&[
        ("NAME", Align::Left),
        ("STATE", Align::Left),
        ("CAPACITY", Align::Right),
        ("FREE", Align::Right),
        ("DEVICES", Align::Left),
        ("UUID", Align::Left),
    ]);
    for store in stores {
        table.row([
            store.name.clone(),
            store.state.clone(),
            format_bytes(store.capacity_bytes),
            format_bytes(store.free_bytes),
            store.devices.join(" "),
            store.uuid.clone(),
        ]);
    }
    table.to_text()
}

pub(super) fn datastore(store: &DatastoreDetails) -> String {
    let summary = &store.summary;
    let mut table = Table::bare(&[Align::Left, Align::Left]);
    for (name, value) in [
        ("name", summary.name.clone()),
        ("uuid", summary.uuid.clone()),
        ("state", summary.state.clone()),
        ("devices", summary.devices.join(" ")),
        ("capacity", format_bytes(summary.capacity_bytes)),
        ("free", format_bytes(summary.free_bytes)),
        ("locks", store.locks.clone()),
        (
            "hosts",
            format!(
                "at most {}, this one in slot {}",
                store.hosts_max, store.slot
            ),
        ),
        (
            "units",
            format!("{} of {} free", store.free_units, store.units),
        ),
        (
            "in memory",
            format!("{} units, {} locks", store.units_cached, store.locks_kept),
        ),
    ] {
        table.row([name.to_string(), value]);
    }
    table.to_text()
}

pub(super) fn file_list(files: &[FileEntry]) -> String {
    let mut table = Table::bare(&[Align::Right, Align::Right, Align::Left]);
    for file in files {
        let (size, slash) = if file.directory {
            (format!("{} entries", file.size), "/")
        } else {
            (file.size.to_string(), "")
        };
        table.row([
            size,
            format_bytes(file.allocated_bytes),
            format!("{}{slash}", file.name),
        ]);
    }
    table.to_text()
}

pub(super) fn check(check: &CheckReport) -> String {
    let mut text = String::new();
    for finding in &check.findings {
        let _ = writeln!(text, "{finding}");
    }
    let state = if check.clean { "clean" } else { "damaged" };
    let (name, files, directories) = (&check.name, check.files, check.directories);
    let used = format_bytes(check.used_bytes);
    let _ = writeln!(
        text,
        "{name} is {state}: {files} files, {directories} directories, {used}"
    );
    text
}

#[cfg(test)]
mod tests {
    use super::{check, datastore, datastore_list, file_list};
    use crate::report::{CheckReport, DatastoreDetails, DatastoreSummary, FileEntry};
    use alloc::string::ToString;
    use alloc::vec;

    fn summary() -> DatastoreSummary {
        DatastoreSummary {
            name: "main".to_string(),
            uuid: "ab".repeat(16),
            devices: vec!["nvme0p1".to_string(), "nvme1".to_string()],
            state: "mounted".to_string(),
            capacity_bytes: 10 << 30,
            free_bytes: 1 << 30,
        }
    }

    #[test]
    fn datastores_show_where_they_are_and_what_is_free() {
        assert!(datastore_list(&[]).contains("help datastore create"));
        let text = datastore_list(&[summary()]);
        assert!(
            text.contains("10 GiB") && text.contains("nvme0p1 nvme1"),
            "{text}"
        );
        let text = datastore(&DatastoreDetails {
            summary: summary(),
            locks: "local".to_string(),
            hosts_max: 4,
            slot: 1,
            units: 10,
            free_units: 3,
            units_cached: 2,
            locks_kept: 1,
        });
        assert!(
            text.contains("3 of 10 free") && text.contains("in slot 1"),
            "{text}"
        );
    }

    #[test]
    fn files_and_findings_stand_on_lines_of_their_own() {
        let file = |name: &str, directory| FileEntry {
            name: name.to_string(),
            directory,
            size: 3,
            allocated_bytes: 1 << 20,
            modified: 0,
        };
        let text = file_list(&[file("a", true), file("b", false)]);
        assert!(
            text.contains("3 entries") && text.contains("a/\n"),
            "{text}"
        );
        assert_eq!(text.lines().count(), 2);
        let text = check(&CheckReport {
            name: "main".to_string(),
            clean: false,
            findings: vec!["bad".to_string()],
            files: 1,
            directories: 2,
            used_bytes: 0,
        });
        assert!(text.starts_with("bad\nmain is damaged"), "{text}");
    }
}
