//! The host's 16550 UART: 115200 baud, 8N1, FIFOs on, interrupt on received bytes. Output is polled.

use api::port::BytePorts;

const DATA: u16 = 0;
const INTERRUPT_ENABLE: u16 = 1;
const FIFO_CONTROL: u16 = 2;
const LINE_CONTROL: u16 = 3;
const MODEM_CONTROL: u16 = 4;
const LINE_STATUS: u16 = 5;
const SCRATCH: u16 = 7;

const LSR_DATA_READY: u8 = 1;
const LSR_THR_EMPTY: u8 = 1 << 5;
const LSR_ALL_SENT: u8 = 1 << 6;
const FIFO_BYTES: usize = 16;
/// Most polls for room in the transmitter; a UART that takes longer is taken for dead and the bytes are dropped.
const POLLS_MAX: u32 = 200_000;

/// A 16550 that answers.
#[derive(Debug)]
pub struct Uart<P> {
    ports: P,
    /// The transmitter timed out; it is tried again, but no longer waited for.
    stuck: bool,
}

impl<P: BytePorts> Uart<P> {
    /// Sets the UART up; `None` when there is none behind the ports.
    pub fn probe(ports: P) -> Option<Self> {
        for pattern in [0x5a, 0xa5] {
            ports.write(SCRATCH, pattern);
            if ports.read(SCRATCH) != pattern {
                return None;
            }
        }
        ports.write(INTERRUPT_ENABLE, 0);
        ports.write(LINE_CONTROL, 0x80);
        ports.write(DATA, 1);
        ports.write(INTERRUPT_ENABLE, 0);
        ports.write(LINE_CONTROL, 0x03);
        ports.write(FIFO_CONTROL, 0x07);
        ports.write(MODEM_CONTROL, 0x0b);
        Some(Self {
            ports,
            stuck: false,
        })
    }

    /// Turns the interrupt for received bytes on.
    pub fn enable_receive_interrupt(&mut self) {
        self.ports.write(INTERRUPT_ENABLE, 1);
    }

    /// Sends all of `bytes`, a FIFO's worth at a time.
    pub fn write(&mut self, bytes: &[u8]) {
        for burst in bytes.chunks(FIFO_BYTES) {
            let polls = if self.stuck { 1 } else { POLLS_MAX };
            let ready = (0..polls).any(|_| self.ports.read(LINE_STATUS) & LSR_THR_EMPTY != 0);
            self.stuck = !ready;
            if ready {
                burst.iter().for_each(|b| self.ports.write(DATA, *b));
            }
        }
    }

    /// Waits until the UART behind `ports` has sent its last byte, for when the machine is about to go away. It needs
    /// no handle, as whoever has that may have been stopped; where there is no UART, nothing is waited for.
    pub fn drain(ports: &P) {
        let _ = (0..POLLS_MAX).any(|_| ports.read(LINE_STATUS) & LSR_ALL_SENT != 0);
    }

    /// Returns a received byte, if there is one.
    pub fn read(&mut self) -> Option<u8> {
        (self.ports.read(LINE_STATUS) & LSR_DATA_READY != 0).then(|| self.ports.read(DATA))
    }
}

#[cfg(test)]
mod tests {
    use super::Uart;
    use api::port::BytePorts;
    use core::cell::{Cell, RefCell};
    extern crate std;
    use std::vec::Vec;

    /// A UART whose transmitter becomes ready after some polls, or never.
    struct Fake<'a> {
        scratch: Cell<u8>,
        polls_until_ready: Cell<u32>,
        sent: &'a RefCell<Vec<u8>>,
        line_control: Cell<u8>,
    }

    impl BytePorts for Fake<'_> {
        fn read(&self, offset: u16) -> u8 {
            match offset {
                7 => self.scratch.get(),
                5 if self.polls_until_ready.get() == 0 => 0x60,
                5 => {
                    self.polls_until_ready.set(self.polls_until_ready.get() - 1);
                    0
                }
                _ => 0,
            }
        }
        fn write(&self, offset: u16, value: u8) {
            match offset {
                7 => self.scratch.set(value),
                3 => self.line_control.set(value),
                0 if self.line_control.get() == 3 => self.sent.borrow_mut().push(value),
                _ => {}
            }
        }
    }

    fn fake(sent: &RefCell<Vec<u8>>, polls: u32) -> Fake<'_> {
        Fake {
            scratch: Cell::new(0),
            polls_until_ready: Cell::new(polls),
            sent,
            line_control: Cell::new(0),
        }
    }

    #[test]
    fn bytes_wait_for_the_transmitter() {
        let sent = RefCell::new(Vec::new());
        let mut uart = Uart::probe(fake(&sent, 5)).unwrap();
        uart.write(b"a line longer than one FIFO");
        assert_eq!(&sent.borrow()[..], b"a line longer than one FIFO");
    }

    #[test]
    fn draining_ends_with_the_last_byte_or_after_a_time() {
        let sent = RefCell::new(Vec::new());
        let ports = fake(&sent, 7);
        Uart::drain(&ports);
        assert_eq!(ports.polls_until_ready.get(), 0);
        ports.polls_until_ready.set(u32::MAX);
        Uart::drain(&ports);
        assert_eq!(ports.polls_until_ready.get(), u32::MAX - super::POLLS_MAX);
    }

    #[test]
    fn a_dead_transmitter_costs_one_time_out_only() {
        let sent = RefCell::new(Vec::new());
        let mut uart = Uart::probe(fake(&sent, u32::MAX)).unwrap();
        uart.write(b"lost");
        assert!(uart.stuck && sent.borrow().is_empty());
        uart.ports.polls_until_ready.set(0);
        uart.write(b"back");
        assert_eq!(&sent.borrow()[..], b"back");
    }
}
