//! The VGA text screen: 80 by 25 cells, scrolling, backspace; no colours beyond one attribute.

use api::port::Cells;

const COLUMNS: usize = 80;
const ROWS: usize = 25;
const ATTRIBUTE: u16 = 0x0700;

/// A text screen.
#[derive(Debug)]
pub struct Screen<C> {
    cells: C,
    row: usize,
    column: usize,
    /// Bytes of an escape sequence still to swallow; its form is CSI ... letter.
    in_escape: bool,
}

impl<C: Cells> Screen<C> {
    /// Takes the screen over, cleared.
    pub fn new(cells: C) -> Self {
        let mut this = Self {
            cells,
            row: 0,
            column: 0,
            in_escape: false,
        };
        (0..COLUMNS * ROWS).for_each(|i| this.cells.set(i, ATTRIBUTE | 0x20));
        this
    }

    /// Writes text; control sequences other than line ends, backspace and tab are swallowed.
    pub fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|b| self.put(*b));
    }

    fn put(&mut self, byte: u8) {
        match byte {
            _ if self.in_escape => self.in_escape = !(byte.is_ascii_alphabetic() || byte == b'~'),
            0x1b => self.in_escape = true,
            b'\r' => self.column = 0,
            b'\n' => self.new_line(),
            8 => self.column = self.column.saturating_sub(1),
            b'\t' => (0..8 - self.column % 8).for_each(|_| self.put(b' ')),
            0x20..0x7f => {
                if self.column == COLUMNS {
                    self.column = 0;
                    self.new_line();
                }
                self.cells.set(
                    self.row * COLUMNS + self.column,
                    ATTRIBUTE | u16::from(byte),
                );
                self.column += 1;
            }
            _ => {}
        }
    }

    fn new_line(&mut self) {
        if self.row + 1 < ROWS {
            self.row += 1;
            return;
        }
        for index in 0..COLUMNS * ROWS {
            let below = index + COLUMNS;
            let value = if below < COLUMNS * ROWS {
                self.cells.get(below)
            } else {
                ATTRIBUTE | 0x20
            };
            self.cells.set(index, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{COLUMNS, ROWS, Screen};
    use api::port::Cells;

    struct Fake([u16; COLUMNS * ROWS]);

    impl Cells for Fake {
        fn get(&self, index: usize) -> u16 {
            self.0[index]
        }
        fn set(&mut self, index: usize, value: u16) {
            self.0[index] = value;
        }
    }

    fn row(screen: &Screen<Fake>, row: usize) -> [u8; 5] {
        core::array::from_fn(|i| screen.cells.0[row * COLUMNS + i] as u8)
    }

    #[test]
    fn the_screen_scrolls_by_a_line() {
        let mut screen = Screen::new(Fake([0; COLUMNS * ROWS]));
        for i in 0..ROWS as u8 + 1 {
            screen.write(&[b'A' + i, b'\r', b'\n']);
        }
        assert_eq!(row(&screen, 0), *b"C    ");
        assert_eq!(row(&screen, ROWS - 2)[0], b'A' + ROWS as u8);
    }

    #[test]
    fn colours_are_swallowed_and_long_lines_wrap() {
        let mut screen = Screen::new(Fake([0; COLUMNS * ROWS]));
        screen.write(b"\x1b[32mok\x1b[0m!");
        assert_eq!(row(&screen, 0), *b"ok!  ");
        screen.write(&[b'x'; COLUMNS]);
        assert_eq!(row(&screen, 1), *b"xxx  ");
    }
}
