//! Text cells on a linear framebuffer: each cell is a glyph of 8 by 16 pixels. Scrolling and cursors are `screen`'s.

use api::port::Cells;
use noto_sans_mono_bitmap::{FontWeight, RasterHeight, get_raster};

const COLUMNS: usize = 80;
const ROWS: usize = 25;
/// Pixels of a cell.
const CELL: (usize, usize) = (8, 16);
/// Pixels that the text needs, width and height.
pub const SIZE: (usize, usize) = (COLUMNS * CELL.0, ROWS * CELL.1);

/// Where pixels go.
pub trait Pixels {
    /// Sets the pixel at `x`, `y` (below [`SIZE`]) to a shade of grey, 0 is black.
    fn put(&mut self, x: usize, y: usize, shade: u8);
}

/// A text screen made of pixels.
#[derive(Debug)]
pub struct PixelCells<P> {
    pixels: P,
    /// What each cell shows, so that unchanged cells are not drawn again and nothing is read back.
    shown: [u16; COLUMNS * ROWS],
}

impl<P: Pixels> PixelCells<P> {
    /// Takes the framebuffer over.
    pub fn new(pixels: P) -> Self {
        Self {
            pixels,
            shown: [0; COLUMNS * ROWS],
        }
    }

    fn draw(&mut self, index: usize, character: char) {
        let (left, top) = (index % COLUMNS * CELL.0, index / COLUMNS * CELL.1);
        let glyph = get_raster(character, FontWeight::Regular, RasterHeight::Size16);
        for y in 0..CELL.1 {
            for x in 0..CELL.0 {
                let shade = glyph.and_then(|g| g.pixel(x, y)).unwrap_or(0);
                self.pixels.put(left + x, top + y, shade);
            }
        }
    }
}

impl<P: Pixels> Cells for PixelCells<P> {
    fn get(&self, index: usize) -> u16 {
        self.shown.get(index).copied().unwrap_or(0)
    }

    fn set(&mut self, index: usize, value: u16) {
        let Some(cell) = self.shown.get_mut(index) else {
            return;
        };
        if *cell != value {
            *cell = value;
            let [character, _] = value.to_le_bytes();
            self.draw(index, char::from(character));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{PixelCells, Pixels, SIZE};
    use api::port::Cells;

    #[derive(Default)]
    struct Count {
        lit: usize,
        puts: usize,
    }

    impl Pixels for Count {
        fn put(&mut self, x: usize, y: usize, shade: u8) {
            assert!(x < SIZE.0 && y < SIZE.1);
            self.lit += usize::from(shade > 0);
            self.puts += 1;
        }
    }

    #[test]
    fn a_letter_lights_pixels_and_an_unchanged_cell_is_not_drawn() {
        let mut cells = PixelCells::new(Count::default());
        cells.set(80 * 25 - 1, 0x0700 | u16::from(b'B'));
        assert!(cells.pixels.lit > 10);
        let puts = cells.pixels.puts;
        cells.set(80 * 25 - 1, 0x0700 | u16::from(b'B'));
        assert_eq!(cells.pixels.puts, puts);
        cells.set(80 * 25, 1);
        assert_eq!(cells.pixels.puts, puts);
    }
}
