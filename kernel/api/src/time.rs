//! Virtual time of a VM, and the host's time as services see it. How they are derived from the TSC is the kernel's
//! concern.

use alloc::rc::Rc;
use alloc::sync::Arc;
use core::future::Future;

macro_rules! instant {
    ($(#[$doc:meta])* $name:ident, $origin:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(u64);

        impl $name {
            #[doc = concat!("The moment of ", $origin, ".")]
            pub const ZERO: Self = Self(0);

            #[doc = concat!("Wraps nanoseconds since ", $origin, ".")]
            #[must_use]
            pub const fn from_nanos(nanos: u64) -> Self {
                Self(nanos)
            }

            #[doc = concat!("Returns nanoseconds since ", $origin, ".")]
            #[must_use]
            pub const fn as_nanos(self) -> u64 {
                self.0
            }

            /// Returns the point `nanos` later; saturates at the end of time (584 years).
            #[must_use]
            pub const fn saturating_add(self, nanos: u64) -> Self {
                Self(self.0.saturating_add(nanos))
            }

            /// Returns the nanoseconds from `earlier` to `self`, 0 if `earlier` is later.
            #[must_use]
            pub const fn saturating_since(self, earlier: Self) -> u64 {
                self.0.saturating_sub(earlier.0)
            }
        }
    };
}

instant! {
    /// A point in a VM's virtual time: nanoseconds since the VM was created, standing still while the VM is paused.
    VmInstant, "the VM's creation"
}

instant! {
    /// A point in a host's time: nanoseconds since its start, never set back, not stopped by anything but power.
    HostInstant, "the host's start"
}

/// The host's clock, for services that wait: the kernel's timers, or a simulator's.
pub trait Clock {
    /// Returns the time now.
    fn now(&self) -> HostInstant;

    /// Completes at `deadline` or later, at once if that has passed.
    fn sleep_until(&self, deadline: HostInstant) -> impl Future<Output = ()>;
}

/// What points to a clock is a clock.
macro_rules! forward {
    ($($pointer:ty),*) => {$(
        impl<C: Clock + ?Sized> Clock for $pointer {
            fn now(&self) -> HostInstant {
                (**self).now()
            }

            fn sleep_until(&self, deadline: HostInstant) -> impl Future<Output = ()> {
                (**self).sleep_until(deadline)
            }
        }
    )*};
}

forward!(&C, Rc<C>, Arc<C>);
