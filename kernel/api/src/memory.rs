//! Guest memory as devices and loaders see it: copies in and out, never references.

use addr::Gpa;
use thiserror::Error;

/// Why an access to guest memory failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum MemoryError {
    /// No RAM is behind some byte of the range.
    #[error("no guest memory at {gpa} ({len} bytes)")]
    Unbacked {
        /// First byte of the access.
        gpa: Gpa,
        /// Length of the access in bytes.
        len: usize,
    },
    /// The host has no frame left to back the range.
    #[error("host memory exhausted while backing guest memory at {gpa}")]
    Exhausted {
        /// First byte of the access.
        gpa: Gpa,
    },
}

/// RAM of one guest. Accesses may cross pages and are not atomic as a whole; a failed access may have copied a prefix.
pub trait GuestMemory {
    /// Fills `buf` from guest memory at `gpa`.
    ///
    /// # Errors
    /// [`MemoryError`] when some byte is not backed by RAM.
    fn read(&self, gpa: Gpa, buf: &mut [u8]) -> Result<(), MemoryError>;

    /// Copies `data` to guest memory at `gpa`.
    ///
    /// # Errors
    /// [`MemoryError`] when some byte is not backed by RAM.
    fn write(&self, gpa: Gpa, data: &[u8]) -> Result<(), MemoryError>;

    /// Fills `len` bytes of guest memory at `gpa` with zeros.
    ///
    /// The default copies zeros; an implementation that knows which frames were never touched may skip those.
    ///
    /// # Errors
    /// [`MemoryError`] when some byte is not backed by RAM.
    fn fill_zero(&self, gpa: Gpa, len: u64) -> Result<(), MemoryError> {
        const ZEROS: [u8; 4096] = [0; 4096];
        let mut done = 0;
        while done < len {
            let chunk = ZEROS
                .len()
                .min(usize::try_from(len - done).unwrap_or(usize::MAX));
            let unbacked = MemoryError::Unbacked { gpa, len: chunk };
            let at = gpa.checked_add(done).ok_or(unbacked)?;
            self.write(at, ZEROS.get(..chunk).unwrap_or(&ZEROS))?;
            done += chunk as u64;
        }
        Ok(())
    }
}
