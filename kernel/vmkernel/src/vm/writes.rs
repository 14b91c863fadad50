//! `vm writes`: measures how much memory a VM writes, which is what a migration would have to carry after it.
//!
//! With a check, all of its memory is read before and after, while it stands still: what has changed must have been noticed.

use crate::timer;
use crate::vm::machine::VmShared;
use crate::vm::tracking::Tracked;
use addr::{Gpa, PAGE_SIZE};
use alloc::string::String;
use alloc::vec::Vec;
use api::memory::GuestMemory;
use arch::nested::Tracking;
use checksum::crc32c;
use control::{WritesOptions, WritesReport};
use machine::{WriteLog, write_log};

/// Time of a round, in milliseconds: about what a migration takes to send what it found in the one before.
const ROUND_MS: u64 = 100;
/// Time between looks whether all vCPUs stand still.
const LOOK_NANOS: u64 = 100_000;
/// Pages that are read in one poll.
const PAGES_AT_ONCE: u64 = 64;

/// A page, and the checksum of what it holds.
type Content = (Gpa, u32);

/// Measures.
///
/// # Errors
/// A text, when the VM is paused, ends meanwhile, or is measured already.
pub async fn measure(vm: &VmShared, options: WritesOptions) -> Result<WritesReport, String> {
    if vm.is_paused() {
        return Err(String::from(
            "the VM is paused and writes nothing; `vm resume` lets it go on",
        ));
    }
    let tracked = Tracked::begin(vm).await?;
    let result = rounds(vm, &tracked, options).await;
    tracked.end().await;
    match vm.take_stop() {
        Some(_) => Err(String::from("the VM has stopped meanwhile")),
        None => result,
    }
}

async fn rounds(
    vm: &VmShared,
    tracked: &Tracked<'_>,
    options: WritesOptions,
) -> Result<WritesReport, String> {
    let end = vm.ram.map().high().end.max(vm.ram.map().low_end());
    let ever = WriteLog::new(end).ok_or("no host memory is left for a list of the VM's pages")?;
    let before = match options.check {
        true => Some(contents_at_rest(vm, tracked, &ever).await),
        false => None,
    };
    // What was written until now does not count.
    tracked.round(|gpa| note(&ever, gpa, options.check)).await;
    let start = timer::host_nanos();
    let end = start.saturating_add(options.time_ms.saturating_mul(1_000_000));
    let (mut written, mut rounds) = (0, 0);
    while timer::host_nanos() < end && vm.take_stop().is_none() {
        let left = end.saturating_sub(timer::host_nanos());
        timer::sleep(left.min(ROUND_MS * 1_000_000)).await;
        let one = |gpa| {
            written += PAGE_SIZE;
            note(&ever, gpa, true);
        };
        tracked.round(one).await;
        rounds += 1;
    }
    let time_ns = timer::host_nanos() - start;
    let after = match before {
        Some(_) => Some(contents_at_rest(vm, tracked, &ever).await),
        None => None,
    };
    let mut distinct: Vec<u64> = (0..ever.words())
        .flat_map(|word| write_log::frames(word, ever.take(word)))
        .collect();
    distinct.sort_unstable();
    Ok(WritesReport {
        time_ns,
        rounds,
        noticed_by: String::from(match arch::virt::tracking() {
            Tracking::Faults => "faults",
            Tracking::Log => "the CPU's log",
        }),
        written_bytes: written,
        distinct_bytes: distinct.len() as u64 * PAGE_SIZE,
        backed_bytes: vm.ram.bytes_backed(),
        unnoticed_pages: before
            .zip(after)
            .map(|(before, after)| unnoticed(&before, &after, &distinct)),
    })
}

fn note(log: &WriteLog, gpa: Gpa, wanted: bool) {
    if wanted {
        log.note(gpa.as_u64()..gpa.as_u64() + 1);
    }
}

/// Stops the VM's time, reads all of its memory, and lets it go on. What was written up to then goes to `ever`.
async fn contents_at_rest(vm: &VmShared, tracked: &Tracked<'_>, ever: &WriteLog) -> Vec<Content> {
    let paused = vm.set_paused(true);
    while !vm.clock.stands_still() && vm.take_stop().is_none() {
        timer::sleep(LOOK_NANOS).await;
    }
    tracked.round(|gpa| note(ever, gpa, true)).await;
    let contents = contents(vm).await;
    if paused {
        vm.set_paused(false);
    }
    contents
}

async fn contents(vm: &VmShared) -> Vec<Content> {
    let map = vm.ram.map();
    let mut found = Vec::new();
    let mut page = [0; PAGE_SIZE as usize];
    for range in [0..map.low_end(), map.high()] {
        for at in range.step_by(PAGE_SIZE as usize) {
            let gpa = Gpa::new_truncate(at);
            if vm.ram.is_backed(gpa) && vm.ram.read(gpa, &mut page).is_ok() {
                found.push((gpa, crc32c(&page)));
            }
            if (at / PAGE_SIZE).is_multiple_of(PAGES_AT_ONCE) {
                timer::give_way().await;
            }
        }
    }
    found
}

/// Counts the pages that are not as they were and are not among `noticed`, which is sorted. A page that was not there holds
/// zeroes.
fn unnoticed(before: &[Content], after: &[Content], noticed: &[u64]) -> u64 {
    let zeroes = crc32c(&[0; PAGE_SIZE as usize]);
    let was = |gpa: Gpa| {
        before
            .binary_search_by_key(&gpa, |(at, _)| *at)
            .ok()
            .and_then(|index| before.get(index))
            .map_or(zeroes, |(_, sum)| *sum)
    };
    let is_unnoticed =
        |(gpa, sum): &&Content| was(*gpa) != *sum && noticed.binary_search(&gpa.as_u64()).is_err();
    after.iter().filter(is_unnoticed).count() as u64
}
