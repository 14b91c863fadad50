//! What the kernel's executors ask for: a mounted volume, the locks under it and all their futures may move between CPUs.
//!
//! The first function proves it at compile time and is never called; the test lets two threads do it.

use alloc::format;
use alloc::sync::Arc;
use core::future::{Future, poll_fn};
use core::pin::pin;
use core::sync::atomic::{AtomicBool, Ordering};
use core::task::{Context, Poll, Waker};

use api::block::Buffer;
use api::time::{Clock, HostInstant};
use lock::{Gate, Host, Locks};

use super::support::{MIB, TestClock, made, run, settings};
use crate::ram::RamDisk;
use crate::{Action, File, FileId, Kind, LockMode, Provision, Span, Volume, fsck, probe};

/// A volume as a kernel mounts it: the gate before the device, the locks shared with the heartbeat.
type Shared = (
    Gate<Arc<Span<RamDisk>>, TestClock>,
    Arc<Locks<Arc<Span<RamDisk>>, TestClock>>,
    TestClock,
);

fn is_send<T: Send>(_: T) {}

fn may_move<T: Send + Sync + 'static>() {}

#[expect(dead_code, reason = "it is compiled, which is all it is for")]
fn all_futures_may_move_between_cpus(
    volume: &mut Volume<Shared>,
    file: &mut File,
    (id, shared): (FileId, &Locks<Arc<Span<RamDisk>>, TestClock>),
    (layout, disk): (&crate::Layout, &RamDisk),
) {
    may_move::<Volume<Shared>>();
    may_move::<File>();
    may_move::<Locks<Arc<Span<RamDisk>>, TestClock>>();
    is_send(volume.tick());
    is_send(volume.sync());
    is_send(volume.give_back_locks());
    is_send(volume.usage());
    is_send(volume.grow(|_| None, |_, _| {}));
    is_send(volume.resolve(""));
    is_send(volume.lookup(id, ""));
    is_send(volume.list(id, 0, 1));
    is_send(volume.stat(id));
    is_send(volume.create(id, "", Kind::File));
    is_send(volume.rename(id, "", id, ""));
    is_send(volume.remove(id, ""));
    is_send(volume.open(id, LockMode::Exclusive));
    is_send(volume.run(file, 0));
    is_send(volume.read(file, 0, Buffer::zeroed(1)));
    is_send(volume.write(file, 0, Buffer::zeroed(1)));
    is_send(volume.allocate(file, 0, 1, Provision::Unwritten));
    is_send(volume.punch(file, 0, 1));
    is_send(volume.set_len(file, 0));
    is_send(volume.fsync(file));
    is_send(shared.keep_alive());
    is_send(shared.survey());
    is_send(probe(disk));
    is_send(crate::replay(disk, layout, 0));
    is_send(fsck(disk, Action::Check, |_, _| {}));
    is_send(async {
        let span = Arc::new(Span::open(alloc::vec![disk.clone()]).await.ok()?);
        let area = layout.lock_terms().ok()?;
        let clock = TestClock::default();
        let journal = |slot| layout.slot_journal(slot);
        let locks = Locks::join(span, clock.clone(), area, HOST, journal);
        let locks = Arc::new(locks.await.ok()?);
        let (gate, shared) = (locks.gate(), Arc::clone(&locks));
        let volume = Volume::<Shared>::mount(gate, layout.clone(), shared, clock, settings()).await;
        volume.ok()?.unmount().await.ok()?;
        Arc::into_inner(locks)?.leave().await.ok()
    });
}

const HOST: Host<'static> = Host {
    uuid: [7; 16],
    name: "two threads",
    nonce: 7,
};

/// A clock that lets its executor go on before it jumps.
#[derive(Clone, Debug, Default)]
struct Yielding(TestClock);

impl Clock for Yielding {
    fn now(&self) -> HostInstant {
        self.0.now()
    }

    async fn sleep_until(&self, deadline: HostInstant) {
        let mut yielded = false;
        poll_fn(|_| {
            if core::mem::replace(&mut yielded, true) {
                return Poll::Ready(());
            }
            Poll::Pending
        })
        .await;
        self.0.sleep_until(deadline).await;
    }
}

/// The heartbeat on one thread, the volume on another, as a kernel has them on two CPUs.
#[test]
fn heartbeat_and_volume_run_on_two_threads() {
    let disk = made(128 * MIB);
    let layout = run(probe(&disk)).unwrap();
    let clock = Yielding::default();
    let area = layout.lock_terms().unwrap();
    let journal = |slot| layout.slot_journal(slot);
    let locks = run(Locks::join(
        disk.clone(),
        clock.clone(),
        area,
        HOST,
        journal,
    ));
    let locks = Arc::new(locks.unwrap());
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let beating = Arc::clone(&locks);
        let over = &over;
        scope.spawn(move || {
            let mut alive = pin!(beating.keep_alive());
            let mut context = Context::from_waker(Waker::noop());
            while !over.load(Ordering::Acquire) {
                std::thread::yield_now();
                assert!(alive.as_mut().poll(&mut context).is_pending());
            }
        });
        let (gate, shared) = (locks.gate(), Arc::clone(&locks));
        let mounting = Volume::<(_, Arc<Locks<_, _>>, _)>::mount(
            gate,
            layout.clone(),
            shared,
            clock.clone(),
            settings(),
        );
        let mut volume = run(mounting).unwrap();
        let working = scope.spawn(move || {
            run(async {
                let root = volume.root();
                for number in 0..200 {
                    let name = format!("{number}");
                    volume.create(root, &name, Kind::File).await.unwrap();
                    if number % 2 == 1 {
                        volume.remove(root, &name).await.unwrap();
                    }
                    volume.tick().await.unwrap();
                }
                volume.unmount().await.unwrap();
            });
        });
        let worked = working.join();
        over.store(true, Ordering::Release);
        worked.unwrap();
    });
    run(Arc::into_inner(locks).unwrap().leave()).unwrap();
    assert!(
        run(fsck(&disk, Action::Check, |_, _| {}))
            .unwrap()
            .is_clean()
    );
}
