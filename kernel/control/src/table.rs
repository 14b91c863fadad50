//! Tables for people: columns as wide as their content, two blanks between.

use alloc::string::String;
use alloc::vec::Vec;

/// On which side a column's texts stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// A table being filled.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<Align>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Starts a table without a head.
    pub(crate) fn bare(columns: &[Align]) -> Self {
        Self {
            columns: columns.to_vec(),
            rows: Vec::new(),
        }
    }

    /// Starts a table with a head.
    pub(crate) fn new(head: &[(&str, Align)]) -> Self {
        let mut table = Self::bare(&[]);
        table.columns = head.iter().map(|(_, align)| *align).collect();
        table.row(head.iter().map(|(name, _)| String::from(*name)));
        table
    }

    /// Adds a row; cells that are missing are empty.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Writes it, a line feed after every row and no blanks before it.
    pub(crate) fn to_text(&self) -> String {
        let cell = |row: &Vec<String>, column: usize| {
            row.get(column).map_or(0, |text: &String| width_of(text))
        };
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|column| self.rows.iter().map(|row| cell(row, column)).max())
            .map(Option::unwrap_or_default)
            .collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for ((cell, width), align) in row.iter().zip(&widths).zip(&self.columns) {
                if !line.is_empty() {
                    line.push_str("  ");
                }
                let padding = core::iter::repeat_n(' ', width.saturating_sub(width_of(cell)));
                if *align == Align::Right {
                    line.extend(padding);
                    line.push_str(cell);
                } else {
                    line.push_str(cell);
                    line.extend(padding);
                }
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Columns of a text; a colour sequence, which runs from ESC to `m`, has none.
fn width_of(text: &str) -> usize {
    let mut in_sequence = false;
    let mut width: usize = 0;
    for character in text.chars() {
        match character {
            '\x1b' => in_sequence = true,
            'm' if in_sequence => in_sequence = false,
            _ if in_sequence => {}
            _ => width = width.saturating_add(1),
        }
    }
    width
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn columns_are_as_wide_as_their_content() {
        let mut table = Table::new(&[("NAME", Align::Left), ("CPUS", Align::Right)]);
        table.row(["a".to_string(), "12".to_string()]);
        table.row(["longer-name".to_string(), "1".to_string()]);
        table.row(["x".to_string()]);
        assert_eq!(
            table.to_text(),
            "NAME         CPUS\na              12\nlonger-name     1\nx\n"
        );
    }

    #[test]
    fn colours_take_no_room() {
        let mut table = Table::bare(&[Align::Left, Align::Left]);
        table.row(["\x1b[31mred\x1b[0m".to_string(), "x".to_string()]);
        table.row(["longer".to_string(), "y".to_string()]);
        assert_eq!(table.to_text(), "\x1b[31mred\x1b[0m     x\nlonger  y\n");
    }
}
