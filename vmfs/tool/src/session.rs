//! Opening a volume: its members, its locks, its mount.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context, Result, anyhow};
use lock::{Gate, Host, Locks};
use volume::{Layout, Settings, Span, Volume, probe};

use crate::clock::{HostClock, block_on, with};
use crate::file_disk::FileDisk;

/// A volume's LUNs, joined.
pub(crate) type Lun = Rc<Span<FileDisk>>;
/// The locks of a volume.
pub(crate) type Service = Rc<Locks<Lun, HostClock>>;
/// A mounted volume.
pub(crate) type Mounted = Volume<(Gate<Lun, HostClock>, Service, HostClock)>;

/// Opens the LUNs of a volume.
pub(crate) fn open(image: &Path, members: &[PathBuf]) -> Result<(Lun, Layout)> {
    let mut devices = vec![FileDisk::open(image)?];
    for member in members {
        devices.push(FileDisk::open(member)?);
    }
    let name = image.display();
    let span = block_on(Span::open(devices)).with_context(|| format!("cannot open {name}"))?;
    let span = Rc::new(span);
    let layout = block_on(probe(&span)).with_context(|| format!("cannot open {name}"))?;
    Ok((span, layout))
}

/// Mounts a volume as one host more, does something with it, and unmounts it.
pub(crate) fn mounted<T>(
    image: &Path,
    members: &[PathBuf],
    work: impl AsyncFnOnce(&mut Mounted, &Lun) -> Result<T>,
) -> Result<T> {
    let (lun, layout) = open(image, members)?;
    let clock = HostClock::new();
    block_on(async {
        let journals = layout.clone();
        let mut nonce = [0; 8];
        random(&mut nonce)?;
        let mut uuid = [0; 16];
        random(&mut uuid)?;
        let host = Host {
            uuid,
            name: "vmfs_tool",
            nonce: u64::from_le_bytes(nonce),
        };
        let area = layout.lock_terms()?;
        let locks = Locks::join(Rc::clone(&lun), clock, area, host, |slot| {
            journals.slot_journal(slot)
        });
        let service = Rc::new(locks.await?);
        let beating = Rc::clone(&service);
        let settings = Settings {
            unix_seconds_at_zero: clock.unix_seconds_at_zero(),
            lock_wait_ms: 60_000,
            ..Settings::default()
        };
        let result = with(
            async {
                let gate = service.gate();
                let mut volume =
                    Volume::mount(gate, layout, Rc::clone(&service), clock, settings).await?;
                let result = work(&mut volume, &lun).await;
                volume.unmount().await?;
                result
            },
            beating.keep_alive(),
        )
        .await;
        drop(beating);
        // The slot is given back also when the work has failed.
        if let Some(service) = Rc::into_inner(service) {
            service.leave().await?;
        }
        result.ok_or_else(|| anyhow!("the lease of this host ran out"))?
    })
}

/// Fills bytes at random.
pub(crate) fn random(bytes: &mut [u8]) -> Result<()> {
    use std::io::Read;
    let mut source = std::fs::File::open("/dev/urandom").context("no random numbers")?;
    Ok(source.read_exact(bytes)?)
}
