//! Behaviour that drivers probe for, and random register traffic.

use super::{FIFO_LEN, Uart};
use crate::testing::{Bench, Rng};
use alloc::vec::Vec;
use api::device::{Device, Gsi, PortIo};
use api::fake::Effect;

const LINE: Gsi = Gsi(4);
const RBR: u16 = 0;
const IER: u16 = 1;
const IIR: u16 = 2;
const LCR: u16 = 3;
const MCR: u16 = 4;
const LSR: u16 = 5;
const MSR: u16 = 6;
const SCR: u16 = 7;

struct Port {
    uart: Uart,
    bench: Bench,
}

impl Port {
    fn new() -> Self {
        Self {
            uart: Uart::new(0, LINE),
            bench: Bench::new(),
        }
    }

    fn read(&mut self, offset: u16) -> u8 {
        self.uart.read_u8(offset, &mut self.bench.cx())
    }

    fn write(&mut self, offset: u16, value: u8) {
        self.uart.write_u8(offset, value, &mut self.bench.cx());
    }

    fn receive(&mut self, bytes: &[u8]) -> usize {
        self.uart.receive(bytes, &mut self.bench.recorder)
    }

    fn emitted(&self) -> Vec<u8> {
        let effects = self.bench.recorder.effects.iter();
        effects
            .filter_map(|effect| match *effect {
                Effect::Emit(0, byte) => Some(byte),
                _ => None,
            })
            .collect()
    }
}

#[test]
fn linux_detects_a_16550a() {
    let mut port = Port::new();
    // The interrupt enable register keeps its low nibble and nothing else.
    port.write(IER, 0);
    assert_eq!(port.read(IER), 0);
    port.write(IER, 0xff);
    assert_eq!(port.read(IER), 0x0f);
    port.write(IER, 0);
    // Loopback of RTS and OUT2 shows up as CTS and DCD.
    port.write(MCR, 0x10 | 0x0a);
    assert_eq!(port.read(MSR) & 0xf0, 0x90);
    port.write(MCR, 0);
    // FIFOs enabled: both top bits, and no 64-byte flag of the 16750.
    port.write(LCR, 0);
    port.write(2, 0x01);
    assert_eq!(port.read(IIR) >> 6, 3);
    port.write(LCR, 0xbf);
    assert_ne!(port.read(IIR), 0, "not an EFR that reads zero");
    port.write(2, 0x01 | 0x20);
    assert_eq!(port.read(IIR) & 0x20, 0);
    port.write(LCR, 0);
    // A 16550A has a scratch register.
    port.write(SCR, 0xa5);
    assert_eq!(port.read(SCR), 0xa5);
}

#[test]
fn enabling_the_transmit_interrupt_twice_raises_it_twice() {
    let mut port = Port::new();
    for _ in 0..2 {
        port.write(IER, 0x02);
        assert_eq!(port.read(IIR), 0x02);
        assert_eq!(port.read(IIR), 0x01, "reading IIR resets the source");
        port.write(IER, 0x02);
        assert_eq!(port.read(IIR), 0x01, "no change, no new interrupt");
        port.write(IER, 0);
    }
}

#[test]
fn each_transmitted_character_is_a_new_edge() {
    let mut port = Port::new();
    port.write(MCR, 0x08);
    port.write(IER, 0x02);
    assert_eq!(port.bench.rises(LINE), 1);
    port.write(RBR, b'a');
    assert_eq!(
        port.bench.rises(LINE),
        2,
        "a guest may never look at IIR while it sends"
    );
    assert_eq!(port.read(IIR), 0x02);
    assert!(!port.bench.line(LINE));
    port.write(RBR, b'b');
    assert_eq!(port.bench.rises(LINE), 3);
    assert_eq!(port.emitted(), b"ab");
}

#[test]
fn out2_gates_the_interrupt_line() {
    let mut port = Port::new();
    port.write(IER, 0x01);
    assert_eq!(port.receive(b"x"), 1);
    assert!(!port.bench.line(LINE));
    port.write(MCR, 0x08);
    assert!(port.bench.line(LINE));
    port.write(MCR, 0);
    assert!(!port.bench.line(LINE));
}

#[test]
fn the_trigger_level_divides_data_from_timeout() {
    for (bits, level) in [(0x01, 1), (0x41, 4), (0x81, 8), (0xc1, 14)] {
        let mut port = Port::new();
        port.write(2, bits);
        port.write(IER, 0x01);
        for count in 1..=FIFO_LEN {
            assert_eq!(port.receive(b"z"), 1);
            let expected = if count >= level { 0xc4 } else { 0xcc };
            assert_eq!(port.read(IIR), expected, "{count} of {level}");
        }
        assert_eq!(port.receive(b"z"), 0, "a full FIFO pushes back");
        for _ in 0..FIFO_LEN {
            assert_eq!(port.read(LSR) & 1, 1);
            assert_eq!(port.read(RBR), b'z');
        }
        assert_eq!(port.read(LSR) & 1, 0);
        assert_eq!(port.read(IIR), 0xc1);
    }
}

#[test]
fn without_fifo_one_character_is_held() {
    let mut port = Port::new();
    assert_eq!(port.receive(b"ab"), 1);
    assert_eq!(port.read(RBR), b'a');
    assert_eq!(port.read(RBR), 0);
}

#[test]
fn loopback_returns_what_was_sent_and_overruns() {
    let mut port = Port::new();
    port.write(2, 0x01);
    port.write(MCR, 0x10);
    port.write(IER, 0x04);
    assert_eq!(port.receive(b"wire"), 0);
    for byte in 0..17 {
        port.write(RBR, byte);
    }
    assert_eq!(port.read(IIR), 0xc6);
    assert_eq!(port.read(LSR) & 0x03, 0x03);
    assert_eq!(port.read(LSR) & 0x02, 0, "reading clears the error");
    for byte in 0..16 {
        assert_eq!(port.read(RBR), byte);
    }
    assert!(port.emitted().is_empty());
}

#[test]
fn modem_changes_are_latched_until_read() {
    let mut port = Port::new();
    assert_eq!(port.read(MSR), 0xb0);
    port.write(IER, 0x08);
    port.write(MCR, 0x14);
    assert_eq!(port.read(IIR), 0x00);
    assert_eq!(port.read(MSR), 0x40 | 0x0b);
    assert_eq!(port.read(MSR), 0x40);
    port.write(MCR, 0x10);
    assert_eq!(port.read(MSR), 0x04, "RI counts only when it falls");
}

#[test]
fn the_divisor_latch_hides_the_data_registers() {
    let mut port = Port::new();
    port.write(LCR, 0x83);
    port.write(0, 0x34);
    port.write(1, 0x12);
    assert_eq!((port.read(0), port.read(1)), (0x34, 0x12));
    port.write(LCR, 0x03);
    assert_eq!((port.read(0), port.read(1)), (0, 0));
    assert!(port.emitted().is_empty());
}

#[test]
fn a_saved_port_continues_elsewhere() {
    let mut port = Port::new();
    port.write(2, 0xc1);
    port.write(IER, 0x0f);
    port.receive(b"0123456789");
    for _ in 0..7 {
        port.read(RBR);
    }
    port.receive(b"abcdefghij");
    let saved = port.uart.save();
    let mut other = Port::new();
    other.uart.restore(saved.clone()).unwrap();
    assert_eq!(other.uart.save(), saved);
    for expected in *b"789abcdefghij" {
        assert_eq!(other.read(RBR), expected);
    }
}

#[test]
fn a_foreign_saved_state_is_refused_whole() {
    let mut port = Port::new();
    let mut saved = port.uart.save();
    saved.scratch = 7;
    saved.received = [0; FIFO_LEN + 1].to_vec();
    assert!(port.uart.restore(saved.clone()).is_err());
    saved.received.clear();
    saved.ier = 0x10;
    assert!(port.uart.restore(saved).is_err());
    assert_eq!(port.read(SCR), 0);
}

#[test]
fn random_traffic_keeps_line_and_identification_in_step() {
    let mut rng = Rng::new(16_550);
    let mut port = Port::new();
    for _ in 0..200_000 {
        let offset = rng.below(9) as u16;
        match rng.below(8) {
            0..=3 => {
                port.read(offset);
            }
            4..=6 => port.write(offset, rng.byte()),
            _ => {
                let bytes = rng.next().to_le_bytes();
                let accepted = port.receive(&bytes);
                assert!(accepted <= bytes.len());
            }
        }
        let level = port.uart.line_level;
        if let Some(Effect::Irq(_, last)) = port
            .bench
            .recorder
            .effects
            .iter()
            .rev()
            .find(|effect| matches!(effect, Effect::Irq(..)))
        {
            assert_eq!(*last, level);
        }
        if rng.below(1000) == 0 {
            let saved = port.uart.save();
            port.uart.restore(saved).unwrap();
            port.bench.recorder.effects.clear();
        }
    }
}
