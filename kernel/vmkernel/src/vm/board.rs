//! A VM's board: the devices of its chipset, and what follows from their effects.

use crate::vm::machine::VmShared;
use api::device::{Cx, Effects, Gsi, MachineAction, PortIo, Width};
use core::sync::atomic::Ordering;
use devices::ioapic::Ioapic;
use devices::layout;
use devices::pic::Pic;
use devices::pit::Pit;
use devices::uart::Uart;

/// Effects of one device call, recorded.
#[derive(Debug, Default)]
struct Recorded {
    lines: [Option<(u8, bool)>; 8],
    count: usize,
    action: Option<MachineAction>,
    out: [(u8, u8); 4],
    out_count: usize,
}

impl Effects for Recorded {
    fn set_irq(&mut self, gsi: Gsi, level: bool) {
        if self.count < 8 {
            self.lines[self.count] = Some((gsi.0, level));
            self.count += 1;
        }
    }
    fn request(&mut self, action: MachineAction) {
        self.action.get_or_insert(action);
    }
    fn emit(&mut self, channel: u8, byte: u8) {
        if self.out_count < 4 {
            self.out[self.out_count] = (channel, byte);
            self.out_count += 1;
        }
    }
}

/// The board.
#[derive(Debug)]
pub struct Board {
    pic: Pic,
    pit: Pit,
    ioapic: Ioapic,
    com1: Uart,
    fx: Recorded,
}

impl Board {
    /// Makes a board.
    #[must_use]
    pub fn new(_b: &crate::vm::start::Blueprint<'_>) -> Self {
        Self {
            pic: Pic::new(),
            pit: Pit::new(),
            ioapic: Ioapic::new(),
            com1: Uart::new(0, Gsi(4)),
            fx: Recorded::default(),
        }
    }

    /// Reads a port.
    pub fn port_read(&mut self, port: u16, width: Width, vm: &VmShared) -> u32 {
        let mut cx = Cx {
            now: vm.clock.now(),
            memory: &vm.ram,
            effects: &mut self.fx,
        };
        match port {
            0x20 | 0x21 | 0xa0 | 0xa1 | 0x4d0 | 0x4d1 => self.pic.read(port).into(),
            0x3f8..=0x3ff => self.com1.read_u8(port - 0x3f8, &mut cx).into(),
            0x40..=0x43 => self.pit.read_u8(port - 0x40, &mut cx).into(),
            0x61 => self.pit.read_port_61(cx.now).into(),
            _ => width.all_ones() as u32,
        }
    }

    /// Writes a port.
    pub fn port_write(&mut self, port: u16, _width: Width, value: u32, vm: &VmShared) {
        let mut cx = Cx {
            now: vm.clock.now(),
            memory: &vm.ram,
            effects: &mut self.fx,
        };
        match port {
            0x20 | 0x21 | 0xa0 | 0xa1 | 0x4d0 | 0x4d1 => self.pic.write(port, value as u8),
            0x3f8..=0x3ff => self.com1.write_u8(port - 0x3f8, value as u8, &mut cx),
            0x40..=0x43 => self.pit.write_u8(port - 0x40, value as u8, &mut cx),
            0x61 => self.pit.write_port_61(value as u8, cx.now),
            0xf4 => cx.effects.request(MachineAction::TestExit { value }),
            0xb004 if value & 0x2000 != 0 => cx.effects.request(MachineAction::PowerOff),
            _ => {}
        }
    }

    /// Acknowledges the 8259s.
    pub fn pic_ack(&mut self, _vm: &VmShared) -> u8 {
        self.pic.acknowledge()
    }

    /// EOI broadcast.
    pub fn end_of_interrupt(&mut self, vector: u8) {
        self.ioapic.end_of_interrupt(vector);
    }

    /// MMIO.
    pub fn mmio_read(&mut self, gpa: u64, width: Width) -> Option<u64> {
        (gpa & !0xfff == layout::IOAPIC_BASE).then(|| self.ioapic.mmio_read(gpa & 0xfff, width))
    }

    /// MMIO.
    pub fn mmio_write(&mut self, gpa: u64, width: Width, value: u64) {
        if gpa & !0xfff == layout::IOAPIC_BASE {
            self.ioapic.mmio_write(gpa & 0xfff, width, value);
        }
    }

    /// Runs due timers.
    pub fn poll(&mut self, vm: &VmShared) {
        self.pit.poll(vm.clock.now(), &mut self.fx);
    }

    /// Acts on effects.
    pub fn settle(&mut self, vm: &VmShared) {
        let fx = core::mem::take(&mut self.fx);
        for (line, level) in fx.lines.into_iter().flatten() {
            self.pic.set_line(line, level);
            self.ioapic
                .set_line(if line == 0 { 2 } else { line }, level);
        }
        for (channel, byte) in fx.out.into_iter().take(fx.out_count) {
            vm.serial.emit(channel, byte);
        }
        while let Some(message) = self.ioapic.next_message() {
            vm.send(&message, None);
        }
        vm.links[0].set_extint(self.pic.intr());
        if let Some(action) = fx.action {
            vm.act(action);
        }
        let next = self.pit.next_deadline().map_or(u64::MAX, |i| i.as_nanos());
        if vm.board_deadline.swap(next, Ordering::AcqRel) > next {
            vm.wake_board();
        }
    }

    /// Power button.
    pub fn power_button(&mut self, _vm: &VmShared) {}

    /// Serial input.
    pub fn receive(&mut self, bytes: &[u8]) -> usize {
        self.com1.receive(bytes, &mut self.fx)
    }
}
