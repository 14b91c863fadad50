//! The wiring: which chip answers, where lines lead, what waits for the caller.

use crate::chipset::{Attention, Chipset, ChipsetConfig, Env};
use addr::Gpa;
use alloc::vec::Vec;
use api::device::{Device, Gsi, MachineAction, Width};
use api::fake::FakeMemory;
use api::memory::GuestMemory;
use api::time::VmInstant;
use devices::fw_cfg::{FwCfg, key};
use devices::message::{ApicMessage, Delivery, Destination};
use devices::rtc::RtcConfig;

const IOAPIC: u64 = 0xfec0_0000;
const LEVEL: u32 = 1 << 15;

/// A chipset with memory and a clock.
pub(super) struct Board {
    pub(super) chipset: Chipset,
    pub(super) memory: FakeMemory,
    pub(super) now: VmInstant,
}

impl Board {
    pub(super) fn new() -> Self {
        let mut fw_cfg = FwCfg::new();
        fw_cfg.set_u16(key::NB_CPUS, 4);
        Self {
            chipset: Chipset::new(ChipsetConfig {
                rtc: RtcConfig {
                    wall_clock_seconds: 1_800_000_000,
                    memory_below_4g: 512 << 20,
                    memory_above_4g: 0,
                },
                keyboard: true,
                test_devices: true,
                fw_cfg,
            }),
            memory: FakeMemory::new(0x1000),
            now: VmInstant::ZERO,
        }
    }

    pub(super) fn read(&mut self, port: u16, width: Width) -> u32 {
        let env = Env {
            now: self.now,
            memory: &self.memory,
        };
        self.chipset.port_read(port, width, &env)
    }

    pub(super) fn write(&mut self, port: u16, width: Width, value: u32) {
        let env = Env {
            now: self.now,
            memory: &self.memory,
        };
        self.chipset.port_write(port, width, value, &env);
    }

    fn inb(&mut self, port: u16) -> u8 {
        self.read(port, Width::Byte) as u8
    }

    fn outb(&mut self, port: u16, value: u8) {
        self.write(port, Width::Byte, value.into());
    }

    fn redirect(&mut self, pin: u8, low: u32) {
        for (index, value) in [(0x10 + pin * 2, low), (0x11 + pin * 2, 0)] {
            self.ioapic_write(0x00, index.into());
            self.ioapic_write(0x10, value);
        }
    }

    fn ioapic_write(&mut self, offset: u64, value: u32) {
        let gpa = Gpa::new(IOAPIC + offset).unwrap();
        let now = self.now;
        let taken = self
            .chipset
            .mmio_write(gpa, Width::Dword, value.into(), now);
        assert!(taken);
    }

    /// Initialises the 8259 pair with vectors 20h and 28h, all unmasked.
    fn init_pic(&mut self) {
        for (port, base) in [(0x20, 0x20), (0xa0, 0x28)] {
            self.outb(port, 0x11);
            for data in [base, 4, 1, 0] {
                self.outb(port + 1, data);
            }
        }
    }

    fn vectors(&mut self) -> Vec<u8> {
        core::iter::from_fn(|| self.chipset.take_message())
            .map(|message| message.vector)
            .collect()
    }

    fn start_timer(&mut self, count: u16) {
        let [low, high] = count.to_le_bytes();
        self.outb(0x43, 0x34);
        self.outb(0x40, low);
        self.outb(0x40, high);
    }
}

#[test]
fn nobody_answers_with_all_ones() {
    let mut board = Board::new();
    for (width, ones) in [
        (Width::Byte, 0xff),
        (Width::Word, 0xffff),
        (Width::Dword, 0xffff_ffff),
    ] {
        assert_eq!(board.read(0x1234, width), ones);
        assert_eq!(board.read(0xffff, width), ones);
        board.write(0xffff, width, 0);
    }
    let nowhere = Gpa::new(0xfed0_0000).unwrap();
    assert_eq!(board.chipset.mmio_read(nowhere, Width::Dword), None);
    assert!(
        !board
            .chipset
            .mmio_write(nowhere, Width::Dword, 0, VmInstant::ZERO)
    );
    assert_eq!(board.chipset.take_attention(), Attention::empty());
}

#[test]
fn the_timer_reaches_both_interrupt_controllers() {
    let mut board = Board::new();
    board.init_pic();
    board.redirect(2, 0x30);
    board.start_timer(1193);
    board.vectors();
    board.chipset.take_attention();
    board.now = board.chipset.next_deadline().unwrap();
    board.chipset.poll(board.now);
    let attention = board.chipset.take_attention();
    assert!(attention.contains(Attention::MESSAGES | Attention::DEADLINE));
    let message = board.chipset.take_message().unwrap();
    assert_eq!(
        message,
        ApicMessage {
            destination: Destination::narrow(0, false),
            delivery: Delivery::Fixed,
            vector: 0x30,
            level: false,
        }
    );
    assert!(board.chipset.pic_intr());
    assert_eq!(board.chipset.pic_ack(), 0x20);
    assert!(!board.chipset.pic_intr());
    assert!(board.chipset.take_attention().contains(Attention::INTR));
}

#[test]
fn a_masked_timer_wakes_nobody_and_catches_up() {
    let mut board = Board::new();
    board.init_pic();
    board.start_timer(1193);
    board.outb(0x21, 0x01);
    while board.chipset.pic_intr() {
        board.chipset.pic_ack();
        board.outb(0x20, 0x20);
    }
    assert_eq!(board.chipset.next_deadline(), None);
    board.now = VmInstant::from_nanos(50_000_000);
    assert_eq!(board.inb(0x20) & 1, 1, "the request register shows it");
    board.outb(0x21, 0x00);
    assert!(board.chipset.pic_intr());
    assert!(board.chipset.next_deadline().unwrap() > board.now);
    assert_eq!(board.chipset.pic_ack(), 0x20);
    assert!(!board.chipset.pic_intr(), "fifty periods are one interrupt");
}

#[test]
fn a_serial_port_interrupts_and_talks() {
    let mut board = Board::new();
    board.init_pic();
    board.redirect(4, 0x34);
    board.outb(0x3fc, 0x08);
    board.outb(0x3f9, 0x01);
    board.chipset.take_attention();
    assert_eq!(board.chipset.receive(0, b"hi"), 1);
    assert!(
        board
            .chipset
            .take_attention()
            .contains(Attention::MESSAGES | Attention::INTR)
    );
    assert_eq!(board.vectors(), [0x34]);
    assert_eq!(board.chipset.pic_ack(), 0x24);
    assert_eq!(board.inb(0x3f8), b'h');
    assert!(board.chipset.take_attention().contains(Attention::INPUT));
    assert_eq!(board.chipset.receive(0, b"i"), 1);
    assert_eq!(board.chipset.receive(2, b"i"), 0);
    for (port, byte) in [(0x3f8, b'a'), (0x2f8, b'b'), (0xe9, b'c')] {
        board.outb(port, byte);
        assert!(board.chipset.take_attention().contains(Attention::OUTPUT));
    }
    let said: Vec<_> = core::iter::from_fn(|| board.chipset.take_output()).collect();
    assert_eq!(said, [(0, b'a'), (1, b'b'), (2, b'c')]);
}

#[test]
fn a_test_line_repeats_until_it_falls() {
    let mut board = Board::new();
    board.redirect(14, LEVEL | 0x9a);
    board.outb(0x200e, 1);
    assert_eq!(board.vectors(), [0x9a]);
    board.chipset.eoi_broadcast(0x9a);
    assert_eq!(board.vectors(), [0x9a]);
    board.write(0x200e, Width::Dword, 0);
    board.chipset.eoi_broadcast(0x9a);
    assert_eq!(board.vectors(), []);
}

#[test]
fn the_power_button_is_gsi_9() {
    let mut board = Board::new();
    board.redirect(9, LEVEL | 0x39);
    assert!(!board.chipset.press_power_button());
    board.outb(0xb2, 0xf1);
    board.write(0xb002, Width::Word, 0x100);
    assert_eq!(board.vectors(), [0x39]);
    board.write(0xb000, Width::Word, 0x100);
    assert!(board.chipset.press_power_button());
    board.chipset.eoi_broadcast(0x39);
    assert_eq!(board.vectors(), [0x39]);
    board.write(0xb004, Width::Word, 0x2001);
    assert!(board.chipset.take_attention().contains(Attention::ACTIONS));
    assert_eq!(board.chipset.take_action(), Some(MachineAction::PowerOff));
    assert_eq!(board.chipset.take_action(), None);
}

#[test]
fn the_clocks_alarm_is_a_power_event() {
    let mut board = Board::new();
    board.redirect(8, 0x38);
    for (index, value) in [(1, 0xc0), (3, 0xc0), (5, 0xc0), (0xb, 0x22)] {
        board.outb(0x70, index);
        board.outb(0x71, value);
    }
    board.now = board.chipset.next_deadline().unwrap();
    board.chipset.poll(board.now);
    assert_eq!(board.vectors(), [0x38]);
    assert_eq!(board.read(0xb000, Width::Word), 0x400);
    assert_eq!(board.chipset.next_deadline(), None);
    board.outb(0x70, 0x0c);
    assert_eq!(board.inb(0x71) & 0xa0, 0xa0);
    assert!(board.chipset.next_deadline().is_some());
}

#[test]
fn the_pm_timer_moves_with_its_base() {
    let mut board = Board::new();
    board.now = VmInstant::from_nanos(1_000_000_000);
    assert_eq!(board.read(0xb008, Width::Dword), 3_579_545);
    let low = board.read(0xb008, Width::Word);
    assert_eq!(low, 3_579_545 & 0xffff);
    board.write(0xcf8, Width::Dword, 0x8000_0b40);
    board.write(0xcfc, Width::Dword, 0x601);
    assert_eq!(board.read(0xb008, Width::Dword), u32::MAX);
    assert_eq!(board.read(0x608, Width::Dword), 3_579_545);
}

#[test]
fn reset_control_lies_inside_the_configuration_address() {
    let mut board = Board::new();
    board.write(0xcf8, Width::Dword, 0x8000_0000);
    board.outb(0xcf9, 0x02);
    assert_eq!(board.read(0xcf8, Width::Dword), 0x8000_0000);
    assert_eq!(board.inb(0xcf9), 0x02);
    assert_eq!(board.read(0xcfc, Width::Word), 0x8086);
    assert_eq!(board.inb(0xcfe), 0x37);
    board.outb(0xcf9, 0x06);
    assert_eq!(board.chipset.take_action(), Some(MachineAction::Reset));
    board.outb(0x64, 0xfe);
    board.outb(0x92, 0x01);
    for _ in 0..2 {
        assert_eq!(board.chipset.take_action(), Some(MachineAction::InitCpu));
    }
}

#[test]
fn fw_cfg_answers_at_its_ports() {
    let mut board = Board::new();
    board.write(0x510, Width::Word, 5);
    assert_eq!((board.inb(0x511), board.inb(0x511)), (4, 0));
    assert_eq!(board.read(0x514, Width::Dword).to_le_bytes(), *b"QEMU");
    // Select the signature and read 4 bytes to 80h.
    let structure = [0, 0, 0, 0x0a, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0x80];
    let at = Gpa::new(0x40).unwrap();
    board.memory.write(at, &structure).unwrap();
    board.write(0x518, Width::Dword, 0x40_u32.swap_bytes());
    let mut copied = [0; 4];
    board
        .memory
        .read(Gpa::new(0x80).unwrap(), &mut copied)
        .unwrap();
    assert_eq!(copied, *b"QEMU");
}

#[test]
fn test_devices_take_accesses_whole() {
    let mut board = Board::new();
    board.write(0xe0, Width::Dword, 0x1234_5678);
    assert_eq!(board.read(0xe8, Width::Dword), 0x1234_5678);
    assert_eq!(board.inb(0xe1), 0x56);
    assert_eq!(board.inb(0xe9), 0xe9, "the debug console");
    let window = Gpa::new(0xff00_1000).unwrap();
    assert!(
        board
            .chipset
            .mmio_write(window, Width::Word, 0xabcd, VmInstant::ZERO)
    );
    assert_eq!(board.chipset.mmio_read(window, Width::Byte), Some(0xcd));
    board.write(0xe4, Width::Dword, 0x0012_3000);
    board.write(0xf4, Width::Dword, 7);
    let gpa = Gpa::new(0x0012_3000).unwrap();
    for expected in [
        MachineAction::DropMapping { gpa },
        MachineAction::TestExit { value: 7 },
    ] {
        assert_eq!(board.chipset.take_action(), Some(expected));
    }
}

#[test]
fn without_test_devices_their_ports_are_empty() {
    let mut chipset = Chipset::new(ChipsetConfig {
        rtc: RtcConfig {
            wall_clock_seconds: 0,
            memory_below_4g: 1 << 20,
            memory_above_4g: 0,
        },
        keyboard: false,
        test_devices: false,
        fw_cfg: FwCfg::new(),
    });
    let memory = FakeMemory::new(0);
    let env = Env {
        now: VmInstant::ZERO,
        memory: &memory,
    };
    for port in [0xe0, 0xf4, 0x200e] {
        chipset.port_write(port, Width::Dword, 1, &env);
        let value = chipset.port_read(port, Width::Word, &env);
        assert_eq!(value, 0xffff);
    }
    assert_eq!(chipset.take_attention(), Attention::empty());
    let window = Gpa::new(0xff00_0000).unwrap();
    assert_eq!(chipset.mmio_read(window, Width::Byte), None);
}

#[test]
fn outside_lines_and_the_cascade() {
    let mut board = Board::new();
    board.init_pic();
    board.redirect(2, 0x32);
    board.redirect(20, LEVEL | 0x44);
    board.chipset.set_line(Gsi(2), true);
    assert!(!board.chipset.pic_intr());
    assert_eq!(board.vectors(), []);
    board.chipset.set_line(Gsi(20), true);
    assert_eq!(board.vectors(), [0x44]);
    board.chipset.set_line(Gsi(99), true);
}

#[test]
fn direct_boot_finds_a_pic_as_firmware_leaves_it() {
    let mut board = Board::new();
    board.chipset.prepare_for_direct_boot();
    board.outb(0x200b, 1);
    board.outb(0x200b, 0);
    assert!(board.chipset.pic_intr());
    assert_eq!(board.chipset.pic_ack(), 0x73);
}

#[test]
fn a_reset_lowers_lines_and_keeps_the_clock() {
    let mut board = Board::new();
    board.outb(0x70, 0x40);
    board.outb(0x71, 0x99);
    board.redirect(14, LEVEL | 0x50);
    board.outb(0x200e, 1);
    board.start_timer(100);
    board.write(0xcf8, Width::Dword, 0x8000_0b40);
    board.write(0xcfc, Width::Dword, 0x601);
    board.chipset.reset();
    assert_eq!(board.vectors(), []);
    assert_eq!(board.chipset.next_deadline(), None);
    assert_ne!(board.read(0xb008, Width::Dword), u32::MAX);
    board.outb(0x70, 0x40);
    assert_eq!(board.inb(0x71), 0x99);
    board.redirect(14, LEVEL | 0x50);
    assert_eq!(board.vectors(), [], "the line fell with its device");
}

#[test]
fn a_refused_state_changes_nothing() {
    let mut board = Board::new();
    board.init_pic();
    board.outb(0x3ff, 0x5a);
    let good = board.chipset.save();
    let mut bad = good.clone();
    bad.pic.master.mask = 0x77;
    bad.com2.ier = 0xff;
    assert!(board.chipset.restore(bad).is_err());
    assert_eq!(board.chipset.save(), good);
    let mut other = Board::new();
    other.chipset.restore(good.clone()).unwrap();
    assert_eq!(other.chipset.save(), good);
    assert_eq!(other.inb(0x3ff), 0x5a);
}
