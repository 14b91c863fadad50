//! Looking without changing: `info`, `dump`, `lock-status`.

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};
use api::block::{BlockDevice, Buffer};
use lock::{Image, Record, Slot, SlotState};
use serde_json::{Value, json};
use volume::format::{self, Cluster, Header, Inode, Node, SlotUnit};

use crate::clock::{HostClock, block_on};
use crate::make::hex;
use crate::output::Output;
use crate::session::{self, Lun};

pub(crate) fn info(image: &Path, members: &[PathBuf], output: &Output) -> Result<()> {
    let usage = session::mounted(image, members, async |volume, _| Ok(volume.usage().await?))?;
    let (lun, layout) = session::open(image, members)?;
    let superblock = read(&lun, format::SUPERBLOCK_A)?;
    let superblock = format::Superblock::of(&superblock);
    let label = String::from_utf8_lossy(&superblock.label);
    let label = label.trim_end_matches('\0');
    let value = json!({
        "uuid": hex(&layout.uuid),
        "label": label,
        "format": superblock.format.get(),
        "members": superblock.member_count.get(),
        "logical_block": layout.logical_block,
        "slots": layout.slots,
        "lease_ms": layout.lease_ms,
        "reclaim_ms": layout.reclaim_ms,
        "clusters": layout.clusters,
        "cluster_blocks": layout.cluster_blocks,
        "journal_blocks": layout.journal_blocks,
        "blocks": usage.blocks,
        "free_blocks": usage.free_blocks,
        "units": usage.units,
        "free_units": usage.free_units,
        "overhead_bytes": layout.overhead_bytes(),
    });
    output.result(&value, || {
        let Value::Object(fields) = &value else {
            return String::new();
        };
        let line = |(name, value): (&String, &Value)| format!("{name:>16}: {value}\n");
        fields.iter().map(line).collect()
    });
    Ok(())
}

fn read(lun: &Lun, at: u64) -> Result<Box<format::Bytes>> {
    let sector = u64::from(lun.geometry().logical_block);
    let (buffer, result) = block_on(lun.read(at / sector, Buffer::zeroed(format::UNIT)));
    result?;
    let bytes = buffer.first_chunk().copied();
    Ok(Box::new(bytes.ok_or_else(|| anyhow!("a short read"))?))
}

pub(crate) fn dump(image: &Path, members: &[PathBuf], address: u64, output: &Output) -> Result<()> {
    let (lun, layout) = session::open(image, members)?;
    let bytes = read(&lun, address.saturating_mul(format::UNIT_BYTES))?;
    let header = Header::of(&bytes);
    let fault = format::check(&bytes, None, address, layout.tag).err();
    let body = match header.magic {
        format::MAGIC_CLUSTER => format!("{:#?}", Cluster::of(&bytes).head),
        format::MAGIC_INODE => {
            let inode = Inode::of(&bytes);
            let name = String::from_utf8_lossy(inode.name());
            let count = usize::from(inode.head.entries.get());
            let entries = inode.root.get(..count).unwrap_or_default();
            format!("name {name:?}\n{:#?}\n{}", inode.head, rows(entries))
        }
        format::MAGIC_NODE => {
            let node = Node::of(&bytes);
            let count = usize::from(node.head.entries.get());
            let entries = node.entries.get(..count).unwrap_or_default();
            format!("{:#?}\n{}", node.head, rows(entries))
        }
        format::MAGIC_SLOT => {
            let unit = SlotUnit::of(&bytes);
            format!("slot {}, {} pending", unit.slot, unit.count)
        }
        format::MAGIC_SUPERBLOCK => format!("{layout:#?}"),
        _ => "no unit of metadata".to_owned(),
    };
    let value = json!({
        "magic": String::from_utf8_lossy(&header.magic),
        "address": header.address.get(),
        "version": header.version.get(),
        "fault": fault.map(|fault| format!("{fault:?}")),
        "body": body,
    });
    output.result(&value, || format!("{header:#?}\n{fault:?}\n{body}\n"));
    Ok(())
}

fn rows(entries: &[format::Entry]) -> String {
    let row = |entry: &format::Entry| {
        let (key, target, detail) = (entry.key.get(), entry.target.get(), entry.detail.get());
        format!("{key:>20} -> {target:>16} {detail:#x}\n")
    };
    entries.iter().map(row).collect()
}

pub(crate) fn lock_status(image: &Path, members: &[PathBuf], output: &Output) -> Result<()> {
    let (lun, layout) = session::open(image, members)?;
    let area = layout.lock_terms()?;
    let slots = block_on(lock::read_slots(lun.clone(), HostClock::new(), &area))?;
    let taken: Vec<&Slot> = slots
        .iter()
        .flatten()
        .filter(|slot| slot.state != SlotState::Free)
        .collect();
    let mut locks = Vec::new();
    if layout.lock_bytes == u64::from(layout.logical_block) {
        for cluster in 0..layout.clusters {
            for index in 0..=layout.inodes_per_cluster {
                let unit = layout.unit(cluster, index);
                if let Some(found) = held(&lun, &layout, unit, &slots)? {
                    locks.push((unit, found));
                }
            }
        }
    }
    let value = json!({
        "hosts": taken.iter().map(|slot| json!({
            "slot": slot.number,
            "name": slot.name(),
            "generation": slot.generation,
            "beats": slot.counter,
            "uuid": hex(&slot.uuid),
        })).collect::<Vec<_>>(),
        "locks": locks.iter().map(|(unit, held)| json!({ "unit": unit, "held": held })).collect::<Vec<_>>(),
    });
    output.result(&value, || {
        let hosts = taken.iter().map(|slot| {
            format!(
                "slot {:>2} generation {:>4} beats {:>8} {}\n",
                slot.number,
                slot.generation,
                slot.counter,
                slot.name()
            )
        });
        let locks = locks
            .iter()
            .map(|(unit, held)| format!("unit {unit}: {held}\n"));
        hosts.chain(locks).collect()
    });
    Ok(())
}

/// Says who holds a lock whose cell is one sector; generations that are over hold nothing.
fn held(
    lun: &Lun,
    layout: &volume::Layout,
    unit: u64,
    slots: &[Result<Slot, lock::LockError>],
) -> Result<Option<String>> {
    let Some(at) = layout.lock_area(unit) else {
        return Ok(None);
    };
    let sector = u64::from(layout.logical_block);
    let len = usize::try_from(sector)?;
    let (buffer, result) = block_on(lun.read(at / sector, Buffer::zeroed(len)));
    result?;
    let Ok(record) = Record::decode(&Image::from_block(&buffer), at / sector) else {
        return Ok(Some("damaged".to_owned()));
    };
    let holders: Vec<String> = record
        .holders()
        .filter(|holder| {
            slots.iter().flatten().any(|slot| {
                slot.number == holder.slot
                    && slot.generation == holder.generation
                    && slot.state != SlotState::Free
            })
        })
        .map(|holder| format!("slot {}", holder.slot))
        .collect();
    Ok((!holders.is_empty()).then(|| format!("{:?} by {}", record.mode, holders.join(", "))))
}
