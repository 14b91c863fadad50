//! Host time, and the timers of a CPU: deadlines in TSC ticks with wakers, and the hardware timer behind them.

use crate::memory::ranks;
use alloc::collections::BTreeMap;
use api::time::HostInstant;
use arch::percpu::CPUS_MAX;
use arch::sync::SpinLock;
use arch::time::Clock;
use core::future::Future;
use core::pin::Pin;
use core::sync::atomic::{AtomicU64, Ordering};
use core::task::{Context, Poll, Waker};
use platform::clock::ClockRegisters;
use spin::Once;

static CLOCK: Once<(Clock, u64)> = Once::new();
static BOOT_SECONDS: AtomicU64 = AtomicU64::new(0);
static NEXT_ID: AtomicU64 = AtomicU64::new(0);
static TIMERS: [SpinLock<BTreeMap<(u64, u64), Waker>>; CPUS_MAX] =
    [const { SpinLock::new(ranks::TIMERS, BTreeMap::new()) }; CPUS_MAX];

/// Sets the clock; `start` is the TSC when the kernel started.
pub fn set_clock(clock: Clock, start: u64) {
    CLOCK.call_once(|| (clock, start));
}

/// Returns the clock; 1 GHz is assumed before it was measured.
#[must_use]
pub fn clock() -> Clock {
    CLOCK
        .get()
        .map_or_else(|| Clock::new(1_000_000_000), |c| c.0)
}

/// Reads the machine's real-time clock; its time is taken as that of this moment.
pub fn init_wall_clock(registers: &mut dyn ClockRegisters) {
    match platform::clock::read_seconds(registers) {
        Some(seconds) => BOOT_SECONDS.store(
            seconds.saturating_sub(host_nanos() / 1_000_000_000),
            Ordering::Relaxed,
        ),
        None => crate::warn!("the real-time clock never settles; guests start in 1970"),
    }
}

/// Returns the time of day in seconds since 1970-01-01 UTC.
#[must_use]
pub fn wall_clock_seconds() -> u64 {
    BOOT_SECONDS.load(Ordering::Relaxed) + host_nanos() / 1_000_000_000
}

/// Returns nanoseconds since the kernel started.
#[must_use]
pub fn host_nanos() -> u64 {
    CLOCK.get().map_or(0, |(clock, start)| {
        clock.nanos(arch::cpu::rdtsc().saturating_sub(*start))
    })
}

/// Wakes what is due on this CPU and arms the hardware for the next deadline.
pub fn run_due() {
    let mut timers = TIMERS[arch::percpu::current().index() as usize].lock();
    let now = arch::cpu::rdtsc();
    while let Some(entry) = timers.first_entry() {
        if entry.key().0 > now {
            arch::apic::arm_timer(entry.key().0);
            return;
        }
        entry.remove().wake();
    }
}

/// Completes at a TSC deadline.
#[derive(Debug)]
pub struct Sleep {
    deadline: u64,
    /// CPU and key of the registered timer.
    registered: Option<(u32, u64)>,
}

/// Sleeps until the TSC reaches `deadline`.
#[must_use]
pub fn sleep_until(deadline: u64) -> Sleep {
    Sleep {
        deadline,
        registered: None,
    }
}

/// Sleeps for `nanos`.
#[must_use]
pub fn sleep(nanos: u64) -> Sleep {
    sleep_until(arch::cpu::rdtsc().saturating_add(clock().ticks(nanos)))
}

/// Lets other tasks of this CPU run for a moment, vCPUs too, which no service's own wake-up would let come first.
pub async fn give_way() {
    const NANOS: u64 = 100_000;
    sleep(NANOS).await;
}

impl Sleep {
    fn cancel(&mut self) {
        if let Some((cpu, id)) = self.registered.take() {
            TIMERS[cpu as usize].lock().remove(&(self.deadline, id));
        }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if arch::cpu::rdtsc() >= self.deadline {
            self.cancel();
            return Poll::Ready(());
        }
        let cpu = arch::percpu::current().index();
        let id = match self.registered {
            Some((on, id)) if on == cpu => id,
            _ => {
                self.cancel();
                NEXT_ID.fetch_add(1, Ordering::Relaxed)
            }
        };
        TIMERS[cpu as usize]
            .lock()
            .insert((self.deadline, id), cx.waker().clone());
        self.registered = Some((cpu, id));
        arch::apic::arm_timer(self.deadline);
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.cancel();
    }
}

/// The host's clock for services: time since the start.
#[derive(Clone, Copy, Debug)]
pub struct HostClock;

impl api::time::Clock for HostClock {
    fn now(&self) -> HostInstant {
        HostInstant::from_nanos(host_nanos())
    }

    fn sleep_until(&self, deadline: HostInstant) -> impl Future<Output = ()> {
        sleep(deadline.saturating_since(self.now()))
    }
}
