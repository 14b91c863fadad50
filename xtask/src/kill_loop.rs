//! Pulls the plug at random moments: QEMU is killed while Basalt writes numbered records to a datastore, each of them
//! durable before its number is told. Whatever was told must be there afterwards, and the datastore be whole.
//!
//! What is looked at is a copy of the image, so that it is Basalt that recovers the original, in the next round.

use std::io;
use std::path::Path;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use tempfile::NamedTempFile;

use crate::console::Console;
use crate::disks::{self, Bus, Disk, Tool};
use crate::outer::{Line as SerialLine, Medium, Model, Outer};
use crate::qemu;
use crate::script;
use crate::workspace::Workspace;

/// Bytes of the datastore.
const IMAGE_BYTES: u64 = 128 << 20;
/// Bytes of a record.
const RECORD_BYTES: usize = 512;
/// Milliseconds from the command to the plug, at most.
const LIFE_MS_MAX: u64 = 900;
/// How the shell tells of a record.
const TOLD: &str = "record ";
const TOLD_END: &str = " is durable";

/// How a loop is run.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KillLoop {
    /// How often the plug is pulled.
    pub(crate) rounds: u32,
    /// How the disk is connected.
    #[serde(default)]
    pub(crate) bus: Bus,
}

/// Runs a loop with the kernel `basalt`.
pub(crate) fn run(
    workspace: &Workspace,
    tool: &Tool,
    basalt: &Path,
    model: &Model,
    options: &KillLoop,
) -> Result<()> {
    let image = NamedTempFile::new_in(workspace.target())?;
    tool.make_datastore(image.path(), "main", IMAGE_BYTES)?;
    let outer = Outer {
        model,
        medium: Medium::Kernel {
            file: basalt,
            initrd: None,
            append: "",
        },
        firmware: None,
        memory_mib: 512,
        cpus: 2,
        icount: false,
        disks: vec![Disk {
            path: image.path().to_owned(),
            bus: options.bus,
            keep: true,
        }],
    };
    let seed = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as u64 | 1;
    let mut random = seed;
    let mut told = None;
    for round in 1..=options.rounds {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let life = Duration::from_millis(random % LIFE_MS_MAX);
        let context = || format!("round {round} of seed {seed}");
        let now = live_and_die(workspace, &outer, life).with_context(context)?;
        told = told.max(now);
        look(workspace, tool, image.path(), told).with_context(context)?;
    }
    ensure!(told.is_some(), "no record was ever told");
    Ok(())
}

/// Boots, lets records be written for `life`, and kills the machine; returns the last number that was told.
fn live_and_die(workspace: &Workspace, outer: &Outer<'_>, life: Duration) -> Result<Option<u64>> {
    let mut running = outer.start(workspace, None)?;
    let SerialLine { input, output } = running.take_line()?;
    let mut console = Console::new(input, output, io::sink());
    let start =
        "wait 1 s\ndatastore test main:records --records 1000000\nexpect is durable within 30 s\n";
    let lines = qemu::after_prompt(script::parse(start)?);
    if let Err(error) = console.perform_all(&lines) {
        bail!("{error:#}{}", running.explain());
    }
    thread::sleep(life);
    running.end();
    Ok(last_told(&console.text()))
}

/// Finds the last number that was told in full.
fn last_told(text: &str) -> Option<u64> {
    let lines = text.split(['\r', '\n']);
    let number = |line: &str| {
        line.trim()
            .strip_prefix(TOLD)?
            .strip_suffix(TOLD_END)?
            .parse()
            .ok()
    };
    lines.filter_map(number).max()
}

/// Looks at a copy of the image: it must be whole, and have all records up to `told`.
fn look(workspace: &Workspace, tool: &Tool, image: &Path, told: Option<u64>) -> Result<()> {
    let copy = NamedTempFile::new_in(workspace.target())?;
    disks::copy_sparse(image, copy.as_file())?;
    tool.check(copy.path())?;
    let Some(told) = told else {
        return Ok(());
    };
    let file = NamedTempFile::new_in(workspace.target())?;
    tool.get(copy.path(), "records", file.path())?;
    let bytes = std::fs::read(file.path())?;
    check_records(&bytes, told)
}

/// Checks that every record up to `told` is there and says its number.
fn check_records(bytes: &[u8], told: u64) -> Result<()> {
    let records = bytes.chunks_exact(RECORD_BYTES);
    ensure!(
        records.len() as u64 > told,
        "record {told} was told, and {} are there",
        records.len()
    );
    for (number, record) in (0..=told).zip(records) {
        let text = format!("record {number:010} ");
        ensure!(
            record.starts_with(text.as_bytes()),
            "record {number} is not there: {:?}",
            String::from_utf8_lossy(&record[..24])
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{RECORD_BYTES, check_records, last_told};

    #[test]
    fn only_lines_that_are_whole_count() {
        let text = "basalt> datastore test\r\nrecord 0 is durable\r\nrecord 1 is durable\r\nrecord 22 is dur";
        assert_eq!(last_told(text), Some(1));
        assert_eq!(last_told("basalt> "), None);
    }

    #[test]
    fn a_record_that_is_missing_is_found() {
        let record = |number: u64| {
            let mut bytes = format!("record {number:010} ").into_bytes();
            bytes.resize(RECORD_BYTES, b' ');
            bytes
        };
        let good = [record(0), record(1), record(2)].concat();
        assert!(check_records(&good, 2).is_ok());
        assert!(check_records(&good, 3).is_err());
        let torn = [record(0), vec![0; RECORD_BYTES], record(2)].concat();
        assert!(check_records(&torn, 0).is_ok() && check_records(&torn, 2).is_err());
    }
}
