//! Aligned columns and the labelled lines of `status`.

use super::paint::{Paint, Tone};

/// Between two columns.
const GAP: &str = "  ";

/// Width of the labels of `status`, right-aligned as Weave's are.
const LABEL_WIDTH: usize = 15;

/// A piece of a table.
#[derive(Debug, Clone)]
pub(crate) struct Cell {
    text: String,
    tone: Tone,
}

/// A cell in a tone.
pub(crate) fn toned(tone: Tone, text: impl Into<String>) -> Cell {
    Cell { text: printable(&text.into()), tone }
}

/// A cell.
pub(crate) fn cell(text: impl Into<String>) -> Cell {
    toned(Tone::Normal, text)
}

/// A cell for what may not be there.
pub(crate) fn maybe(text: Option<impl Into<String>>) -> Cell {
    text.map_or_else(|| cell("-"), cell)
}

/// Rows under a heading, each column as wide as its widest cell. Without rows: `empty`.
pub(crate) fn table(headings: &[&str], rows: &[Vec<Cell>], empty: &str, paint: Paint) -> String {
    if rows.is_empty() {
        return format!("{empty}\n");
    }
    let head: Vec<Cell> = headings.iter().map(|heading| toned(Tone::Strong, *heading)).collect();
    let mut widths = vec![0; headings.len()];
    for row in std::iter::once(&head).chain(rows) {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.text.chars().count());
        }
    }
    let mut text = String::new();
    for row in std::iter::once(&head).chain(rows) {
        let mut line = String::new();
        let last = row.iter().rposition(|cell| !cell.text.is_empty()).unwrap_or(0);
        for (index, (cell, width)) in row.iter().zip(&widths).enumerate().take(last + 1) {
            if index > 0 {
                line.push_str(GAP);
            }
            line.push_str(&paint.tone(cell.tone, &cell.text));
            if index < last {
                line.push_str(&" ".repeat(width - cell.text.chars().count()));
            }
        }
        text.push_str(&line);
        text.push('\n');
    }
    text
}

/// The same with so many rows at most, and a line that says how many more there are.
pub(crate) fn cut_table(
    headings: &[&str],
    rows: &[Vec<Cell>],
    shown: usize,
    empty: &str,
    paint: Paint,
) -> String {
    let mut text = table(headings, &rows[..rows.len().min(shown)], empty, paint);
    let more = rows.len().saturating_sub(shown);
    if more > 0 {
        text.push_str(&format!("and {more} more: pipe this to `cat` or `grep` to see them\n"));
    }
    text
}

/// A line `label: value`.
pub(crate) fn labelled(label: &str, value: &str, paint: Paint) -> String {
    let padding = " ".repeat(LABEL_WIDTH.saturating_sub(label.chars().count()));
    format!("{padding}{} {}\n", paint.strong(&format!("{label}:")), printable(value))
}

/// What peers send is shown without control characters: a nickname must not be able to draw on an operator's terminal.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
