//! Events on their way into a guest: interrupts, NMIs and exceptions.
//!
//! The layout is that of SVM's EVENTINJ (APM vol. 2, 15.20). Its low half is also VMX's interruption information (SDM
//! vol. 3, 25.8.3) for the kinds named here; VMX keeps the error code in a field of its own.

/// An event to inject, or one whose delivery an exit interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Event(pub u64);

impl Event {
    const VALID: u64 = 1 << 31;
    const ERROR_CODE_VALID: u64 = 1 << 11;
    /// External interrupt.
    pub const TYPE_INTR: u64 = 0;
    /// Non-maskable interrupt.
    pub const TYPE_NMI: u64 = 2;
    /// Exception.
    pub const TYPE_EXCEPTION: u64 = 3;
    /// Software interrupt.
    pub const TYPE_SOFTWARE: u64 = 4;

    /// An external interrupt with `vector`.
    #[must_use]
    pub const fn interrupt(vector: u8) -> Self {
        Self(vector as u64 | Self::TYPE_INTR << 8 | Self::VALID)
    }

    /// A non-maskable interrupt.
    #[must_use]
    pub const fn nmi() -> Self {
        Self(2 | Self::TYPE_NMI << 8 | Self::VALID)
    }

    /// An exception, with its error code where it has one.
    #[must_use]
    pub const fn exception(vector: u8, error_code: Option<u32>) -> Self {
        let base = vector as u64 | Self::TYPE_EXCEPTION << 8 | Self::VALID;
        match error_code {
            Some(code) => Self(base | Self::ERROR_CODE_VALID | (code as u64) << 32),
            None => Self(base),
        }
    }

    /// Tells whether there is an event at all.
    #[must_use]
    pub const fn is_valid(self) -> bool {
        self.0 & Self::VALID != 0
    }

    /// Returns the vector.
    #[must_use]
    pub const fn vector(self) -> u8 {
        self.0 as u8
    }

    /// Returns one of the `TYPE_` numbers.
    #[must_use]
    pub const fn kind(self) -> u64 {
        self.0 >> 8 & 7
    }

    /// Returns the error code, if the event has one.
    #[must_use]
    pub const fn error_code(self) -> Option<u32> {
        if self.0 & Self::ERROR_CODE_VALID != 0 {
            Some((self.0 >> 32) as u32)
        } else {
            None
        }
    }
}
