//! Opt-in test devices: the ports and the memory window that public test suites for x86 monitors expect.
//!
//! They exist only in machines made for `run-guest`. They give a guest no power over anything but itself: its
//! interrupt lines, one of its page mappings, and the end of its run. The Hyper-V test port (3000h) is not offered.

use crate::layout::{TEST_IRQ, TEST_LATCH, TEST_LATCH_BYTES, TEST_MMIO_LEN};
use addr::Gpa;
use alloc::boxed::Box;
use alloc::vec;
use api::device::{Device, Effects, Gsi, MachineAction, RestoreError, SavedState, Width};

/// Ports of the latches.
const LATCH_LEN: u16 = 4;
/// Bytes of the memory window.
const WINDOW_LEN: usize = 0x1_0000;

const _: () = assert!(WINDOW_LEN as u64 == TEST_MMIO_LEN);

/// The test devices.
#[derive(Debug)]
pub struct TestDevices {
    latch: [u8; LATCH_LEN as usize],
    window: Box<[u8]>,
}

/// State of the test devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestDevicesSaved {
    /// The port latch.
    pub latch: [u8; 4],
    /// The memory window, 64 KiB.
    pub window: Box<[u8]>,
}

impl SavedState for TestDevicesSaved {
    const KIND: &'static str = "test-devices";
    const VERSION: u16 = 1;
}

impl TestDevices {
    /// Makes the devices with zeroed latches.
    #[must_use]
    pub fn new() -> Self {
        Self {
            latch: [0; 4],
            window: vec![0; WINDOW_LEN].into_boxed_slice(),
        }
    }

    /// Reads `width` bytes of the latch, at either of its two groups of ports.
    #[must_use]
    pub fn read_latch(&self, port: u16, width: Width) -> u32 {
        let mut bytes = [0xff; 4];
        let from = latch_lane(port);
        for (byte, latched) in bytes.iter_mut().zip(self.latch.iter().skip(from)) {
            *byte = *latched;
        }
        u32::from_le_bytes(bytes) & narrow(width.all_ones())
    }

    /// Writes `width` bytes of the latch.
    pub fn write_latch(&mut self, port: u16, width: Width, value: u32) {
        let written = value.to_le_bytes();
        let len = usize::try_from(width.bytes()).unwrap_or(0);
        let lanes = self.latch.iter_mut().skip(latch_lane(port));
        for (latched, byte) in lanes.zip(written.iter().take(len)) {
            *latched = *byte;
        }
    }

    /// Writes the page-mapping port: the page of physical address `value` is to be dropped and backed anew.
    pub fn write_flush(value: u32, effects: &mut dyn Effects) {
        effects.request(MachineAction::DropMapping {
            gpa: Gpa::new_truncate(value.into()),
        });
    }

    /// Writes an interrupt-line port: port [`TEST_IRQ`] + n drives line n, up for anything but 0.
    pub fn write_line(port: u16, value: u32, effects: &mut dyn Effects) {
        let [line, _] = port.wrapping_sub(TEST_IRQ).to_le_bytes();
        effects.set_irq(Gsi(line), value != 0);
    }

    /// Writes the exit port.
    pub fn write_exit(value: u32, effects: &mut dyn Effects) {
        effects.request(MachineAction::TestExit { value });
    }

    /// Reads `width` bytes at `offset` of the memory window; bytes past its end are all ones.
    #[must_use]
    pub fn mmio_read(&self, offset: u64, width: Width) -> u64 {
        let mut bytes = [0xff; 8];
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        for (byte, stored) in bytes.iter_mut().zip(self.window.iter().skip(from)) {
            *byte = *stored;
        }
        u64::from_le_bytes(bytes) & width.all_ones()
    }

    /// Writes `width` bytes at `offset` of the memory window; bytes past its end are lost.
    pub fn mmio_write(&mut self, offset: u64, width: Width, value: u64) {
        let written = value.to_le_bytes();
        let len = usize::try_from(width.bytes()).unwrap_or(0);
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let window = self.window.iter_mut().skip(from);
        for (stored, byte) in window.zip(written.iter().take(len)) {
            *stored = *byte;
        }
    }
}

fn latch_lane(port: u16) -> usize {
    const _: () = assert!(TEST_LATCH & 3 == 0 && TEST_LATCH_BYTES & 3 == 0);
    usize::from(port & 3)
}

fn narrow(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

impl Default for TestDevices {
    fn default() -> Self {
        Self::new()
    }
}

impl Device for TestDevices {
    type Saved = TestDevicesSaved;

    fn reset(&mut self) {
        self.latch = [0; 4];
        self.window.fill(0);
    }

    fn save(&self) -> TestDevicesSaved {
        let Self { latch, window } = self;
        TestDevicesSaved {
            latch: *latch,
            window: window.clone(),
        }
    }

    fn restore(&mut self, saved: TestDevicesSaved) -> Result<(), RestoreError> {
        if saved.window.len() != self.window.len() {
            return Err(RestoreError::Field {
                kind: TestDevicesSaved::KIND,
                field: "window",
            });
        }
        self.latch = saved.latch;
        self.window = saved.window;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::TestDevices;
    use crate::testing::Rng;
    use addr::Gpa;
    use api::device::{Device, Gsi, MachineAction, Width};
    use api::fake::{Effect, Recorder};

    #[test]
    fn the_latch_is_four_bytes_of_memory() {
        let mut devices = TestDevices::new();
        devices.write_latch(0xe0, Width::Dword, 0x8765_4321);
        assert_eq!(devices.read_latch(0xe0, Width::Word), 0x4321);
        assert_eq!(devices.read_latch(0xe2, Width::Byte), 0x65);
        devices.write_latch(0xe0, Width::Byte, 0xff);
        assert_eq!(devices.read_latch(0xe8, Width::Dword), 0x8765_43ff);
        devices.write_latch(0xe3, Width::Dword, 0x1111_1122);
        assert_eq!(devices.read_latch(0xe0, Width::Dword), 0x2265_43ff);
        assert_eq!(devices.read_latch(0xe3, Width::Word), 0xff22);
    }

    #[test]
    fn the_other_ports_are_effects() {
        let mut recorder = Recorder::default();
        TestDevices::write_line(0x200e, 1, &mut recorder);
        TestDevices::write_line(0x200e, 0, &mut recorder);
        TestDevices::write_flush(0x1234_5678, &mut recorder);
        TestDevices::write_exit(3, &mut recorder);
        assert_eq!(
            recorder.effects,
            [
                Effect::Irq(Gsi(14), true),
                Effect::Irq(Gsi(14), false),
                Effect::Action(MachineAction::DropMapping {
                    gpa: Gpa::new(0x1234_5678).unwrap()
                }),
                Effect::Action(MachineAction::TestExit { value: 3 }),
            ]
        );
    }

    #[test]
    fn the_window_is_memory_up_to_its_end() {
        let mut devices = TestDevices::new();
        devices.mmio_write(0x100, Width::Qword, 0x0102_0304_0506_0708);
        assert_eq!(devices.mmio_read(0x102, Width::Dword), 0x0304_0506);
        devices.mmio_write(0xffff, Width::Dword, 0x55);
        assert_eq!(devices.mmio_read(0xffff, Width::Word), 0xff55);
        devices.mmio_write(u64::MAX, Width::Qword, 0);
        assert_eq!(devices.mmio_read(u64::MAX, Width::Byte), 0xff);
    }

    #[test]
    fn random_accesses_are_saved_and_restored() {
        let mut rng = Rng::new(0xe0);
        let mut devices = TestDevices::new();
        for step in 0..100_000 {
            let width = Width::from_bytes(1 << rng.below(4)).unwrap();
            devices.mmio_write(rng.below(0x1_0010), width, rng.next());
            devices.write_latch(0xe0 + rng.below(12) as u16, width, rng.next() as u32);
            let _ = devices.mmio_read(rng.below(0x1_0010), width);
            let _ = devices.read_latch(0xe0 + rng.below(12) as u16, width);
            if step % 10_000 == 0 {
                let saved = devices.save();
                let mut copy = TestDevices::new();
                copy.restore(saved.clone()).unwrap();
                assert_eq!(copy.save(), saved);
            }
        }
        let mut saved = devices.save();
        saved.window = alloc::boxed::Box::new([0; 3]);
        assert!(devices.restore(saved).is_err());
    }
}
