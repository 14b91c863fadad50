//! This host's clock, and the loop that drives futures by it.
//!
//! Requests to a file end when they are made, so the only thing that a future here waits for is time.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use api::time::{Clock, HostInstant};

/// How long to sleep when every future waits.
const NAP: Duration = Duration::from_millis(1);

/// Time since the program's start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HostClock {
    start: Instant,
}

impl HostClock {
    pub(crate) fn new() -> Self {
        Self {
            start: Instant::now(),
        }
    }

    /// Seconds since 1970 at the zero of this clock.
    pub(crate) fn unix_seconds_at_zero(&self) -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let since_start = self.start.elapsed().as_secs();
        now.map_or(0, |now| now.as_secs().saturating_sub(since_start))
    }
}

impl Clock for HostClock {
    fn now(&self) -> HostInstant {
        let nanos = self.start.elapsed().as_nanos();
        HostInstant::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    async fn sleep_until(&self, deadline: HostInstant) {
        poll_fn(|_| {
            if self.now() >= deadline {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }
}

/// Drives a future to its end.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return value;
        }
        thread::sleep(NAP);
    }
}

/// Drives `main` to its end and `beside` as long; `None` if `beside` ended first.
pub(crate) async fn with<T>(
    main: impl Future<Output = T>,
    beside: impl Future<Output = impl Sized>,
) -> Option<T> {
    let (mut main, mut beside) = (pin!(main), pin!(beside));
    poll_fn(|context| {
        if let Poll::Ready(value) = main.as_mut().poll(context) {
            return Poll::Ready(Some(value));
        }
        beside.as_mut().poll(context).map(|_| None)
    })
    .await
}
