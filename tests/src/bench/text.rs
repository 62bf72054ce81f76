//! Figures as people read them, and columns that line up.

/// A figure with as many digits as it deserves: `12,345`, `345`, `34.5`, `3.45`, `0.034`.
pub fn figure(value: f64) -> String {
    match value.abs() {
        _ if !value.is_finite() => "–".to_owned(),
        size if size >= 100.0 => grouped(value),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 0.1 || size == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// A whole number with its thousands apart.
pub fn count(value: u64) -> String {
    grouped(value as f64)
}

fn grouped(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if value < 0.0 { format!("-{text}") } else { text }
}

/// Lines of cells under a head. The first `left` columns begin at the left, the others end at the right.
#[derive(Debug)]
pub struct Columns {
    left: usize,
    lines: Vec<Vec<String>>,
}

impl Columns {
    /// Only a head.
    pub fn new(left: usize, head: &[&str]) -> Self {
        Self { left, lines: vec![head.iter().map(|&cell| cell.to_owned()).collect()] }
    }

    /// One more line.
    pub fn line(&mut self, cells: impl IntoIterator<Item = String>) {
        self.lines.push(cells.into_iter().collect());
    }

    /// All of it, each line with its end.
    pub fn text(&self) -> String {
        let columns = self.lines.iter().map(Vec::len).max().unwrap_or_default();
        let width = |column: usize| {
            let cells = self.lines.iter().filter_map(|line| line.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for line in &self.lines {
            let cells = line.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| {
                if column < self.left { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
            });
            let line = cells.collect::<Vec<_>>().join("  ");
            text += "  ";
            text += line.trim_end();
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_has_as_many_digits_as_it_deserves() {
        let figures = [1_234_567.0, 999.6, 34.56, 3.456, 0.0, 0.0345, -1_500.0, f64::NAN].map(figure);
        assert_eq!(figures, ["1,234,567", "1,000", "34.6", "3.46", "0.00", "0.035", "-1,500", "–"]);
        assert_eq!(count(10_000), "10,000");
    }

    #[test]
    fn columns_line_up_whatever_is_in_them() {
        let mut columns = Columns::new(1, &["load", "p50"]);
        columns.line(["uniform".to_owned(), "3.45".to_owned()]);
        columns.line(["µ".to_owned(), "12,345".to_owned()]);
        assert_eq!(columns.text(), "  load        p50\n  uniform    3.45\n  µ        12,345\n");
    }
}
