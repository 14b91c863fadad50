//! Several hosts on one disk, with the locks of `vmfs/lock`. Delays, lost replies and cuts are the simulator's work,
//! tests/sim; here hosts work beside each other and die between two requests.

use alloc::boxed::Box;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll, Waker};

use api::block::Buffer;
use api::time::{Clock, HostInstant};
use lock::{Backend, Gate, Host, Locks};

use super::support::{GIB, options, pattern, run};
use crate::ram::RamDisk;
use crate::{Action, Error, Kind, LockMode, Settings, Volume, fsck, mkfs, probe};

/// A clock that moves when every task waits.
#[derive(Clone, Debug, Default)]
struct Timers {
    now: Rc<Cell<u64>>,
    next: Rc<Cell<u64>>,
}

impl Clock for Timers {
    fn now(&self) -> HostInstant {
        HostInstant::from_nanos(self.now.get())
    }

    async fn sleep_until(&self, deadline: HostInstant) {
        core::future::poll_fn(|_| {
            if self.now.get() >= deadline.as_nanos() {
                return Poll::Ready(());
            }
            self.next.set(self.next.get().min(deadline.as_nanos()));
            Poll::Pending
        })
        .await;
    }
}

type Task<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// Polls tasks in turn until the first one has ended; time passes when all wait.
fn run_beside(clock: &Timers, tasks: &mut [Task<'_>]) {
    let mut context = Context::from_waker(Waker::noop());
    let mut ended = [false; 8];
    for _ in 0..1_000_000 {
        clock.next.set(u64::MAX);
        for (task, ended) in tasks.iter_mut().zip(&mut ended) {
            if !*ended {
                *ended = task.as_mut().poll(&mut context).is_ready();
            }
        }
        if ended[0] {
            return;
        }
        if clock.next.get() != u64::MAX {
            clock.now.set(clock.now.get().max(clock.next.get()));
        }
    }
    panic!("the hosts make no progress");
}

type Service = Rc<Locks<RamDisk, Timers>>;
type Shared = (Gate<RamDisk, Timers>, Service, Timers);

async fn join(disk: &RamDisk, clock: &Timers, id: u8) -> (Volume<Shared>, Service) {
    let layout = probe(disk).await.unwrap();
    let host = Host {
        uuid: [id; 16],
        name: "tester",
        nonce: u64::from(id),
    };
    let area = layout.lock_terms().unwrap();
    let journals = layout.clone();
    let journal = |slot| journals.slot_journal(slot);
    let locks = Locks::join(disk.clone(), clock.clone(), area, host, journal).await;
    let service = Rc::new(locks.unwrap());
    let settings = Settings {
        lock_wait_ms: 60_000,
        ..Settings::default()
    };
    let mounted = Volume::mount(
        service.gate(),
        layout,
        Rc::clone(&service),
        clock.clone(),
        settings,
    );
    (mounted.await.unwrap(), service)
}

fn disk(backend: Backend) -> RamDisk {
    let disk = RamDisk::new(2 * GIB, 512);
    let mut options = options();
    options.slots = 8;
    options.cluster_blocks = 64;
    options.backend = backend;
    run(mkfs(&disk, &options, |_, _| {})).unwrap();
    disk
}

async fn nap(clock: &Timers, ms: u64) {
    clock
        .sleep_until(clock.now().saturating_add(ms * 1_000_000))
        .await;
}

/// Makes files in a directory that all hosts use, ticking between them; returns when all are synced.
async fn work(
    volume: &mut Volume<Shared>,
    clock: &Timers,
    who: u8,
    files: u64,
) -> Result<(), Error> {
    let root = volume.root();
    match volume.create(root, "shared", Kind::Directory).await {
        Ok(_) | Err(Error::Exists) => {}
        Err(error) => return Err(error),
    }
    let directory = volume.lookup(root, "shared").await?;
    for index in 0..files {
        let name = format!("{who}-{index}");
        let id = volume.create(directory, &name, Kind::File).await?;
        let mut file = volume.open(id, LockMode::Exclusive).await?;
        let content = pattern(index, 100 + 5000 * index as usize);
        let (_, result) = volume
            .write(&mut file, 0, Buffer::copied_from(&content))
            .await;
        result?;
        volume.close(file);
        volume.sync().await?;
        for _ in 0..4 {
            nap(clock, 80).await;
            volume.tick().await?;
        }
    }
    Ok(())
}

/// One host: works, then gives everything back and leaves.
async fn host(disk: &RamDisk, clock: &Timers, who: u8, files: u64, left: &Cell<u32>) {
    let (mut volume, service) = join(disk, clock, who).await;
    let mut beat: Task<'_> = Box::pin({
        let service = Rc::clone(&service);
        async move {
            service.keep_alive().await;
        }
    });
    let mut main = Box::pin(async {
        work(&mut volume, clock, who, files).await.unwrap();
        volume.give_back_locks().await.unwrap();
    });
    core::future::poll_fn(|context| {
        assert!(
            beat.as_mut().poll(context).is_pending(),
            "host {who} lost its lease"
        );
        main.as_mut().poll(context)
    })
    .await;
    drop(main);
    left.set(left.get() - 1);
}

fn names(disk: &RamDisk, clock: &Timers) -> Vec<String> {
    let found = RefCell::new(Vec::new());
    let list: Task<'_> = Box::pin(async {
        let (mut volume, _service) = join(disk, clock, 99).await;
        let directory = volume.resolve("/shared").await.unwrap();
        let (stats, _) = volume.list(directory, 0, 1000).await.unwrap();
        found
            .borrow_mut()
            .extend(stats.into_iter().map(|stat| stat.name));
        volume.unmount().await.unwrap();
    });
    run_beside(clock, &mut [list]);
    found.into_inner()
}

#[test]
fn hosts_share_a_directory() {
    for backend in [Backend::CompareAndWrite, Backend::Paxos] {
        let disk = disk(backend);
        let clock = Timers::default();
        let left = Cell::new(3);
        let all: Task<'_> = Box::pin(core::future::poll_fn(|_| {
            if left.get() == 0 {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        }));
        let mut tasks: Vec<Task<'_>> = alloc::vec![all];
        for who in 1..=3 {
            tasks.push(Box::pin(host(&disk, &clock, who, 12, &left)));
        }
        run_beside(&clock, &mut tasks);
        drop(tasks);
        let report = run(fsck(&disk, Action::Check, |_, _| {})).unwrap();
        assert!(report.is_clean(), "{:?}", report.findings);
        assert_eq!(names(&disk, &clock).len(), 36);
    }
}

#[test]
fn a_dead_hosts_journal_is_replayed_by_whoever_needs_its_locks() {
    let mut taken_over = 0;
    for stop in (0..400).step_by(7) {
        let disk = disk(Backend::CompareAndWrite);
        let clock = Timers::default();
        let left = Cell::new(1);
        let synced = RefCell::new(Vec::new());
        let victim: Task<'_> = Box::pin(async {
            let (mut volume, _service) = join(&disk, &clock, 1).await;
            let root = volume.root();
            let directory = volume
                .create(root, "shared", Kind::Directory)
                .await
                .unwrap();
            for index in 0..100 {
                let name = format!("1-{index}");
                volume.create(directory, &name, Kind::File).await.unwrap();
                if index % 3 == 2 {
                    volume.sync().await.unwrap();
                    synced.borrow_mut().push(index);
                }
                if disk.writes() > stop + 100 {
                    break;
                }
            }
            // It stops here, with all its locks, and nobody hears of it again.
            core::mem::forget(volume);
        });
        run_beside(&clock, &mut [victim]);
        let before = run(fsck(&disk, Action::Check, |_, _| {})).unwrap();
        assert!(before.is_clean(), "{:?}", before.findings);
        taken_over += u32::from(before.transactions > 0);
        let heir: Task<'_> = Box::pin(host(&disk, &clock, 2, 3, &left));
        run_beside(&clock, &mut [heir]);
        let report = run(fsck(&disk, Action::Check, |_, _| {})).unwrap();
        assert!(report.is_clean(), "{:?}", report.findings);
        let names = names(&disk, &clock);
        let last = synced.borrow().last().copied();
        for index in 0..last.map_or(0, |last| last + 1) {
            assert!(
                names.contains(&format!("1-{index}")),
                "1-{index} was acknowledged"
            );
        }
        assert!(names.contains(&"2-2".into()));
    }
    assert!(
        taken_over > 10,
        "{taken_over} journals had something in them"
    );
}
