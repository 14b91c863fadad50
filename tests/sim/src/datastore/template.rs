//! Fresh volumes, made once for each kind of disk and then copied for every schedule.
//!
//! A directory for each host and one for all stand on them already.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use api::fake::FakeClock;
use lock::Backend;
use volume::ram::RamDisk;
use volume::{Error, Kind, Layout, LocalLocks, MkfsOptions, Settings, Volume, mkfs, probe};

use super::files::{SHARED, home};

/// Bytes of a simulated volume.
pub const VOLUME_BYTES: u64 = 192 << 20;
/// Hosts that have a directory.
const HOMES: usize = 8;

/// A fresh volume.
#[derive(Clone, Debug)]
pub struct Template {
    /// Where things lie on it.
    pub layout: Layout,
    /// Its blocks that are not zero.
    pub blocks: Rc<[(u64, Rc<[u8]>)]>,
}

/// What a template is for: the atomic step, bytes of a logical block, slots, bytes of the volume.
type Key = (Backend, u32, u16, u64);

thread_local! {
    static TEMPLATES: RefCell<HashMap<Key, Template>> = RefCell::default();
}

/// Returns a fresh volume for disks with such blocks.
///
/// # Errors
/// What `mkfs` and the making of directories return; with the sizes used here nothing.
pub fn volume(
    backend: Backend,
    logical_block: u32,
    slots: u16,
    bytes: u64,
) -> Result<Template, Error> {
    let key = (backend, logical_block, slots, bytes);
    let known = TEMPLATES.with_borrow(|templates| templates.get(&key).cloned());
    if let Some(template) = known {
        return Ok(template);
    }
    let template = make(key)?;
    TEMPLATES.with_borrow_mut(|templates| templates.insert(key, template.clone()));
    Ok(template)
}

fn make((backend, logical_block, slots, bytes): Key) -> Result<Template, Error> {
    let disk = RamDisk::new(bytes, logical_block);
    let mut options = MkfsOptions::new(*b"a simulated one!", *b"0123456789abcdef");
    options.backend = backend;
    options.slots = u32::from(slots);
    options.cluster_blocks = 32;
    options.journal_blocks = 1;
    let layout = finish(async {
        mkfs(&disk, &options, |_, _| {})
            .await
            .map_err(|_| Error::Unsupported)?;
        let layout = probe(&disk).await?;
        let locks = LocalLocks::default();
        let clock = FakeClock::default();
        let mut volume = Volume::<(RamDisk, LocalLocks, FakeClock)>::mount(
            disk.clone(),
            layout.clone(),
            locks,
            clock,
            Settings::default(),
        )
        .await?;
        let root = volume.root();
        for host in 0..HOMES {
            volume.create(root, &home(host), Kind::Directory).await?;
        }
        volume.create(root, SHARED, Kind::Directory).await?;
        volume.unmount().await?;
        Ok::<_, Error>(layout)
    })?;
    Ok(Template {
        layout,
        blocks: blocks_of(&disk, logical_block),
    })
}

fn blocks_of(disk: &RamDisk, logical_block: u32) -> Rc<[(u64, Rc<[u8]>)]> {
    let mut chunks = Vec::new();
    disk.for_chunks(|at| chunks.push(at));
    let mut blocks = Vec::new();
    for at in chunks {
        for at in (at..at + 4096).step_by(logical_block as usize) {
            let mut bytes = vec![0; logical_block as usize];
            disk.peek(at, &mut bytes);
            if bytes.iter().any(|&byte| byte != 0) {
                blocks.push((at / u64::from(logical_block), Rc::from(bytes)));
            }
        }
    }
    Rc::from(blocks)
}

/// Drives a future on a disk in memory, which never makes it wait for long.
fn finish<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    loop {
        let mut context = Context::from_waker(Waker::noop());
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
    }
}
