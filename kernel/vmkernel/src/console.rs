//! The console: COM1 and the text screen for the shell, and the place where log lines are echoed.
//!
//! In run-guest mode COM1 belongs to the guest and log lines go to COM2. Output is polled; input arrives by interrupt.
#![expect(
    unsafe_code,
    reason = "the console's devices are ports and a window of memory"
)]

use crate::log::Level;
use crate::memory::ranks;
use alloc::boxed::Box;
use alloc::format;
use api::port::{BytePorts, Cells};
use arch::sync::SpinLock;
use core::sync::atomic::{AtomicBool, Ordering};
use platform::framebuffer::{self, PixelCells, Pixels};
use platform::screen::Screen;
use platform::uart::Uart;

const COM1: u16 = 0x3f8;
const COM2: u16 = 0x2f8;
const SCREEN: u64 = 0xb_8000;

/// The ports of one UART.
#[derive(Debug)]
struct ComPorts(u16);

impl BytePorts for ComPorts {
    fn read(&self, offset: u16) -> u8 {
        // SAFETY: only made for COM1 and COM2; a UART touches no memory.
        unsafe { arch::cpu::inb(self.0 + offset) }
    }

    fn write(&self, offset: u16, value: u8) {
        // SAFETY: as above.
        unsafe { arch::cpu::outb(self.0 + offset, value) };
    }
}

/// The screen's cells, in whichever form the firmware left it.
#[derive(Debug)]
enum ScreenCells {
    Text(TextMemory),
    Pixels(Box<PixelCells<Framebuffer>>),
}

impl Cells for ScreenCells {
    fn get(&self, index: usize) -> u16 {
        match self {
            Self::Text(text) => text.get(index),
            Self::Pixels(pixels) => pixels.get(index),
        }
    }

    fn set(&mut self, index: usize, value: u16) {
        match self {
            Self::Text(text) => text.set(index, value),
            Self::Pixels(pixels) => pixels.set(index, value),
        }
    }
}

/// The memory of the text screen.
#[derive(Debug)]
struct TextMemory {
    base: u64,
}

const CELLS: usize = 80 * 25;

impl Cells for TextMemory {
    fn get(&self, index: usize) -> u16 {
        let at = (self.base as *const u16).wrapping_add(index);
        if index >= CELLS {
            return 0;
        }
        // SAFETY: `base` maps the screen's 4000 bytes and the index is checked.
        unsafe { at.read_volatile() }
    }

    fn set(&mut self, index: usize, value: u16) {
        if index < CELLS {
            let at = (self.base as *mut u16).wrapping_add(index);
            // SAFETY: as above.
            unsafe { at.write_volatile(value) };
        }
    }
}

/// A linear framebuffer of 24 or 32 bits per pixel.
#[derive(Debug)]
struct Framebuffer {
    base: u64,
    pitch: usize,
    bytes_per_pixel: usize,
}

impl Pixels for Framebuffer {
    fn put(&mut self, x: usize, y: usize, shade: u8) {
        let at = (self.base as *mut u8).wrapping_add(y * self.pitch + x * self.bytes_per_pixel);
        for byte in 0..self.bytes_per_pixel.min(3) {
            // SAFETY: `init_screen` checked that the text's pixels lie inside the framebuffer, which is mapped.
            unsafe { at.wrapping_add(byte).write_volatile(shade) };
        }
    }
}

#[derive(Debug)]
struct Devices {
    com1: Option<Uart<ComPorts>>,
    com2: Option<Uart<ComPorts>>,
    screen: Option<Screen<ScreenCells>>,
}

static DEVICES: SpinLock<Devices> = SpinLock::new(
    ranks::CONSOLE,
    Devices {
        com1: None,
        com2: None,
        screen: None,
    },
);
static COM1_IS_THE_GUESTS: AtomicBool = AtomicBool::new(false);

/// Finds the UARTs; call once, first of all.
pub fn init_serial() {
    let mut devices = DEVICES.lock();
    devices.com1 = Uart::probe(ComPorts(COM1));
    devices.com2 = Uart::probe(ComPorts(COM2));
}

/// Takes the screen over: the framebuffer that the boot loader set up, or the text screen of a PC. `map` maps physical
/// memory, uncached, and returns where.
pub fn init_screen(framebuffer: Option<&boot::Framebuffer>, map: impl Fn(u64, u64) -> u64) {
    let cells = match framebuffer.filter(|f| f.bits_per_pixel != 0) {
        None => ScreenCells::Text(TextMemory {
            base: map(SCREEN, CELLS as u64 * 2),
        }),
        Some(f) if is_large_enough(f) => {
            let base = map(f.address, u64::from(f.pitch) * u64::from(f.height));
            let bytes_per_pixel = usize::from(f.bits_per_pixel / 8);
            let target = Framebuffer {
                base,
                pitch: f.pitch as usize,
                bytes_per_pixel,
            };
            ScreenCells::Pixels(Box::new(PixelCells::new(target)))
        }
        Some(_) => return,
    };
    let screen = Screen::new(cells);
    DEVICES.lock().screen = Some(screen);
}

fn is_large_enough(f: &boot::Framebuffer) -> bool {
    let (width, height) = framebuffer::SIZE;
    let line = u64::from(f.width) * u64::from(f.bits_per_pixel / 8);
    matches!(f.bits_per_pixel, 24 | 32)
        && f.width as usize >= width
        && f.height as usize >= height
        && u64::from(f.pitch) >= line
}

/// Gives COM1 to the one guest of run-guest mode; log lines go to COM2 from here on.
pub fn give_com1_to_guest() {
    COM1_IS_THE_GUESTS.store(true, Ordering::Release);
}

/// Turns the interrupt for console input on.
pub fn enable_input() {
    if let Some(uart) = &mut DEVICES.lock().com1 {
        uart.enable_receive_interrupt();
    }
}

/// Returns a byte typed on COM1.
pub fn read_byte() -> Option<u8> {
    DEVICES.lock().com1.as_mut()?.read()
}

/// Writes to the console's user: COM1 and the screen.
pub fn write(bytes: &[u8]) {
    let mut devices = DEVICES.lock();
    if let Some(uart) = &mut devices.com1 {
        uart.write(bytes);
    }
    if let Some(screen) = &mut devices.screen
        && !COM1_IS_THE_GUESTS.load(Ordering::Acquire)
    {
        screen.write(bytes);
    }
}

/// Echoes a log line, unless the console is busy.
pub fn echo_log(nanos: u64, level: Level, text: &str) {
    let line = LogLine { nanos, level, text };
    if let Some(mut devices) = DEVICES.try_lock() {
        line.emit(&mut devices);
    }
}

/// Writes to where log lines are echoed.
pub fn write_log_console(text: &str) {
    let mut devices = DEVICES.lock();
    let guests = COM1_IS_THE_GUESTS.load(Ordering::Acquire);
    if let Some(uart) = if guests {
        &mut devices.com2
    } else {
        &mut devices.com1
    } {
        uart.write(text.as_bytes());
    }
}

/// Waits until both UARTs have sent everything, whoever holds the console.
pub fn drain() {
    for port in [COM1, COM2] {
        Uart::drain(&ComPorts(port));
    }
}

/// Writes a panic's text, whoever holds the console.
pub fn write_in_panic(text: &str) {
    let guests = COM1_IS_THE_GUESTS.load(Ordering::Acquire);
    // A CPU that was stopped may hold the lock for ever: fresh handles to the same ports do without it.
    let port = if guests { COM2 } else { COM1 };
    // Setting the UART up anew drops what it has not sent yet.
    Uart::drain(&ComPorts(port));
    if let Some(mut uart) = Uart::probe(ComPorts(port)) {
        for part in text.split_inclusive('\n') {
            uart.write(part.trim_end_matches('\n').as_bytes());
            if part.ends_with('\n') {
                uart.write(b"\r\n");
            }
        }
    }
    if let Some(mut devices) = DEVICES.try_lock()
        && let Some(screen) = &mut devices.screen
    {
        text.split_inclusive('\n').for_each(|part| {
            screen.write(part.as_bytes());
            if part.ends_with('\n') {
                screen.write(b"\r");
            }
        });
    }
}

struct LogLine<'a> {
    nanos: u64,
    level: Level,
    text: &'a str,
}

impl LogLine<'_> {
    fn emit(&self, devices: &mut Devices) {
        let (seconds, micros) = (self.nanos / 1_000_000_000, self.nanos / 1000 % 1_000_000);
        let name = self.level.name();
        let line = format!("[{seconds:5}.{micros:06}] {name:5} {}\r\n", self.text);
        let guests = COM1_IS_THE_GUESTS.load(Ordering::Acquire);
        let uart = if guests {
            &mut devices.com2
        } else {
            &mut devices.com1
        };
        if let Some(uart) = uart {
            uart.write(line.as_bytes());
        }
        if let Some(screen) = &mut devices.screen {
            screen.write(line.as_bytes());
        }
    }
}
