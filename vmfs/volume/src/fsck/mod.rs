//! Checking a volume, and repairing what can be repaired without guessing.
//!
//! A check reads everything that is in use: first what each cluster says is in use, then every inode with its tree, then
//! directories against inodes, at last the clusters' maps against what was found. Transactions in journals count as if
//! they were in place. A repair needs the volume for itself. It frees nothing as long as some file's mapping cannot be
//! read, because what looks free may be that file's.

mod claims;
mod clusters;
mod finding;
mod inodes;
mod names;
mod repair;
mod source;

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use api::block::BlockDevice;
use api::time::Clock;

use crate::disk::Disk;
use crate::error::Error;
use crate::layout::Layout;

pub use finding::Finding;

/// Findings kept; more are only counted.
const FINDINGS_MAX: usize = 10_000;

/// What shall be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Only look.
    Check,
    /// Look, repair, look again. No host may have the volume mounted.
    Repair,
}

/// How a check ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What is wrong; after a repair, what is still wrong.
    pub findings: Vec<Finding>,
    /// How many findings there were beyond those kept.
    pub more: u64,
    /// What was wrong before the repair and is not any more.
    pub repaired: Vec<Finding>,
    /// Transactions that stood in journals; a repair has put them in place.
    pub transactions: u64,
    /// Files.
    pub files: u64,
    /// Directories, the root counted.
    pub directories: u64,
    /// Blocks that files use, those carved into sub-blocks counted.
    pub blocks: u64,
    /// Units in use.
    pub units: u64,
}

impl Report {
    /// Tells whether nothing is wrong.
    #[must_use]
    pub const fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }
}

/// Checks a volume that no host has mounted, and repairs it if asked; `progress` is told how many clusters of how many
/// were read.
///
/// # Errors
/// [`Error::NotAVolume`] and [`Error::Unsupported`] if no superblock can be believed; the device's.
pub async fn fsck<D: BlockDevice>(
    device: &D,
    action: Action,
    mut progress: impl FnMut(u64, u64),
) -> Result<Report, Error> {
    let layout = crate::probe(device).await?;
    let disk = Disk::new(device);
    let mut checker = Checker::new(&disk, &layout, action);
    checker.check(&mut progress).await?;
    if action == Action::Check || checker.report.is_clean() && checker.report.transactions == 0 {
        return Ok(checker.report);
    }
    let before = checker.report.findings.clone();
    let transactions = checker.report.transactions;
    repair::repair(checker).await?;
    let mut again = Checker::new(&disk, &layout, Action::Check);
    again.check(&mut progress).await?;
    let mut report = again.report;
    report.transactions = transactions;
    let left: BTreeSet<Finding> = report.findings.iter().copied().collect();
    report.repaired = before;
    report.repaired.retain(|finding| !left.contains(finding));
    Ok(report)
}

/// Checks a volume that hosts have mounted and change meanwhile: looks twice, `apart_ms` apart, and reports what both
/// looks found. That time should be longer than hosts take to write in place what they have committed.
///
/// # Errors
/// As [`fsck`].
pub async fn fsck_online<D: BlockDevice, C: Clock>(
    device: &D,
    clock: &C,
    apart_ms: u64,
    mut progress: impl FnMut(u64, u64),
) -> Result<Report, Error> {
    let layout = crate::probe(device).await?;
    let disk = Disk::new(device);
    let mut first = Checker::new(&disk, &layout, Action::Check);
    first.check(&mut progress).await?;
    if first.report.is_clean() {
        return Ok(first.report);
    }
    let later = clock
        .now()
        .saturating_add(apart_ms.saturating_mul(1_000_000));
    clock.sleep_until(later).await;
    let mut second = Checker::new(&disk, &layout, Action::Check);
    second.check(&mut progress).await?;
    let seen: BTreeSet<Finding> = first.report.findings.into_iter().collect();
    second
        .report
        .findings
        .retain(|finding| seen.contains(finding));
    Ok(second.report)
}

/// What is known of an inode in use.
#[derive(Clone, Debug)]
struct Known {
    kind: u16,
    deleting: bool,
    parent: u64,
    name: Vec<u8>,
    /// Times that its directory names it.
    named: u32,
}

/// A check under way.
#[derive(Debug)]
struct Checker<'a, D> {
    disk: &'a Disk<&'a D>,
    layout: &'a Layout,
    action: Action,
    report: Report,
    /// Newest images of units in journals.
    images: BTreeMap<u64, alloc::sync::Arc<crate::format::Bytes>>,
    /// Units marked as used that can be read: nodes, and whether something was found that uses them.
    nodes: BTreeMap<u64, bool>,
    inodes: BTreeMap<u64, Known>,
    /// Inodes found on the way that are still to be checked.
    late: Vec<u64>,
    /// Inodes marked as used that are free by their own state.
    freed: BTreeSet<u64>,
    /// Inodes that slots are to go on deleting.
    pending: BTreeMap<u64, u16>,
    claims: claims::Claims,
    /// Directories whose tree cannot be believed.
    rebuild: BTreeSet<u64>,
    /// Some file's mapping, or some unit, could not be read: what looks free may be used.
    blind: bool,
    /// Highest version of any unit.
    newest: u64,
}

impl<'a, D: BlockDevice> Checker<'a, D> {
    fn new(disk: &'a Disk<&'a D>, layout: &'a Layout, action: Action) -> Self {
        Self {
            disk,
            layout,
            action,
            report: Report::default(),
            images: BTreeMap::new(),
            nodes: BTreeMap::new(),
            inodes: BTreeMap::new(),
            late: Vec::new(),
            freed: BTreeSet::new(),
            pending: BTreeMap::new(),
            claims: claims::Claims::default(),
            rebuild: BTreeSet::new(),
            blind: false,
            newest: 0,
        }
    }

    async fn check(&mut self, progress: &mut impl FnMut(u64, u64)) -> Result<(), Error> {
        self.check_superblocks().await?;
        self.read_journals().await?;
        self.read_slot_units().await?;
        for cluster in 0..self.layout.clusters {
            self.read_cluster(cluster).await?;
            progress(cluster.saturating_add(1), self.layout.clusters);
        }
        self.check_inodes().await?;
        self.check_names().await?;
        self.check_clusters().await
    }

    fn find(&mut self, finding: Finding) {
        if self.report.findings.len() < FINDINGS_MAX {
            self.report.findings.push(finding);
        } else {
            self.report.more = self.report.more.saturating_add(1);
        }
    }
}
