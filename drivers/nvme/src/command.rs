//! Commands and their answers, as they lie in the queues (NVM Express 1.4, 4.2, 4.6, 5 and 6).

use api::block::BlockError;
use requests::{Operation, Request};

/// Size of a command.
pub(crate) const COMMAND_BYTES: usize = 64;

pub(crate) mod opcode {
    pub(crate) const CREATE_SUBMISSION_QUEUE: u8 = 0x01;
    pub(crate) const CREATE_COMPLETION_QUEUE: u8 = 0x05;
    pub(crate) const IDENTIFY: u8 = 0x06;
    pub(crate) const SET_FEATURES: u8 = 0x09;
    pub(super) const FLUSH: u8 = 0x00;
    pub(super) const WRITE: u8 = 0x01;
    pub(super) const READ: u8 = 0x02;
    pub(super) const WRITE_ZEROES: u8 = 0x08;
    pub(super) const DATASET_MANAGEMENT: u8 = 0x09;
}

/// The only namespace that is used.
const NAMESPACE: u32 = 1;
/// Force unit access, in double word 12.
const FUA: u32 = 1 << 30;
/// Dataset management: the range may be forgotten.
const DEALLOCATE: u32 = 1 << 2;

/// How a command ended: the status field without its phase bit (1.4, 4.6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Status(pub(crate) u16);

impl Status {
    /// Tells whether the command did what it should.
    pub(crate) const fn is_success(self) -> bool {
        self.0 & 0x7ff == 0
    }

    /// Returns what a request on `lba` that ended so says to whoever made it.
    ///
    /// # Errors
    /// What the status stands for.
    pub(crate) const fn result(self, lba: u64) -> Result<(), BlockError> {
        const GENERIC: u16 = 0;
        const MEDIA: u16 = 2;
        let (kind, code) = (self.0 >> 8 & 7, self.0 & 0xff);
        match (kind, code) {
            (GENERIC, 0) => Ok(()),
            (GENERIC, 0x01) => Err(BlockError::Unsupported),
            (GENERIC, 0x02 | 0x80) => Err(BlockError::Invalid),
            (GENERIC, 0x81) => Err(BlockError::NoSpace),
            (GENERIC, 0x04..=0x08) => Err(BlockError::Gone),
            (MEDIA, _) => Err(BlockError::Medium { lba }),
            _ => Err(BlockError::Medium { lba }),
        }
    }
}

/// A command, as 16 double words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Command(pub(crate) [u32; COMMAND_BYTES / 4]);

impl Command {
    /// Makes a command without data; `words` are double words 10 to 12.
    pub(crate) fn plain(opcode: u8, id: u16, namespace: u32, words: [u32; 3]) -> Self {
        let mut all = [0; COMMAND_BYTES / 4];
        all[0] = u32::from(opcode) | u32::from(id) << 16;
        all[1] = namespace;
        all[10..13].copy_from_slice(&words);
        Self(all)
    }

    /// Makes the command of a request.
    pub(crate) fn new(request: &Request, id: u16) -> Self {
        let (low, high) = (request.lba as u32, (request.lba >> 32) as u32);
        let count = request.blocks.wrapping_sub(1) & 0xffff;
        let (opcode, words) = match request.operation {
            Operation::Read => (opcode::READ, [low, high, count]),
            Operation::Write { fua } => {
                let fua = if fua { FUA } else { 0 };
                (opcode::WRITE, [low, high, count | fua])
            }
            Operation::Flush => (opcode::FLUSH, [0; 3]),
            Operation::WriteZeroes => (opcode::WRITE_ZEROES, [low, high, count]),
            // One range, which stands in memory.
            Operation::Discard => (opcode::DATASET_MANAGEMENT, [0, DEALLOCATE, 0]),
        };
        Self::plain(opcode, id, NAMESPACE, words)
    }

    /// Sets the two entries for physical pages.
    pub(crate) fn set_pages(&mut self, first: u64, second: u64) {
        let words = [first, first >> 32, second, second >> 32].map(|word| word as u32);
        self.0[6..10].copy_from_slice(&words);
    }
}

#[cfg(test)]
mod tests {
    use super::{Command, Operation, Request, Status};
    use api::block::BlockError;

    #[test]
    fn a_write_lies_as_the_specification_says() {
        let request = Request {
            operation: Operation::Write { fua: true },
            lba: 0x1_0000_0002,
            blocks: 8,
        };
        let mut command = Command::new(&request, 5);
        command.set_pages(0x1234_5000, 0x1_0000_0000);
        assert_eq!(command.0[0], 0x0005_0001);
        assert_eq!(command.0[1], 1);
        assert_eq!(command.0[6..10], [0x1234_5000, 0, 0, 1]);
        assert_eq!(command.0[10..13], [2, 1, 7 | 1 << 30]);
    }

    #[test]
    fn statuses_become_errors() {
        assert!(Status(0).is_success());
        assert_eq!(Status(0x80).result(1), Err(BlockError::Invalid));
        assert_eq!(Status(0x281).result(7), Err(BlockError::Medium { lba: 7 }));
    }
}
