//! Text in columns, not wider than a terminal.

use std::io;
use std::os::fd::AsFd;

/// A line of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum GridLine {
    /// What the rows below it have in common.
    Title(String),
    /// One row.
    Row {
        /// One cell for each column; the first one is a name.
        cells: Vec<String>,
        /// Whether it belongs to the title above.
        indented: bool,
        /// Whether it is of less interest.
        dim: bool,
    },
}

impl GridLine {
    /// A row by itself.
    pub(crate) fn row(cells: impl Into<Vec<String>>) -> GridLine {
        GridLine::Row {
            cells: cells.into(),
            indented: false,
            dim: false,
        }
    }
}

const DIM: &str = "\x1b[2m";
const NORMAL: &str = "\x1b[0m";
const INDENT: &str = "  ";

/// A table: the first column holds names, aligned to the left, all others numbers, aligned to the
/// right.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Grid<'a> {
    /// The columns, each with a name and a unit. The line of units is left out if none has one.
    pub(crate) headings: &'a [(&'a str, &'a str)],
    /// The rows and their titles.
    pub(crate) lines: &'a [GridLine],
    /// The columns that may be left out if there is no room, the most dispensable first.
    pub(crate) spare: &'a [usize],
    /// The most characters in a line, as far as that is possible.
    pub(crate) width: usize,
    /// Whether rows of less interest are dimmed, by the escape sequences of a terminal.
    pub(crate) dim: bool,
}

/// How a table fits into its width.
struct Layout {
    /// Of each column.
    widths: Vec<usize>,
    shown: Vec<bool>,
    /// Characters between columns.
    gap: usize,
}

impl Grid<'_> {
    /// Draws the table; with it the columns that were left out.
    ///
    /// Columns are two characters apart, or one where they would not fit otherwise; then names are
    /// broken at their commas; and in the end columns are left out.
    pub(crate) fn draw(&self) -> (String, Vec<usize>) {
        let layout = self.layout();
        let heading = |of: fn(&(&str, &str)) -> String| {
            let cells: Vec<String> = self.headings.iter().map(of).collect();
            layout.row(&cells)
        };
        let rule = "─".repeat(layout.total());
        let mut text = vec![heading(|(name, _)| (*name).to_owned())];
        if self.headings.iter().any(|(_, unit)| !unit.is_empty()) {
            text.push(heading(|(_, unit)| (*unit).to_owned()));
        }
        text.push(rule.clone());
        for line in self.lines {
            match line {
                GridLine::Title(title) => text.push(title.clone()),
                GridLine::Row {
                    cells,
                    indented,
                    dim,
                } => text.extend(layout.lines(cells, *indented, self.dim && *dim)),
            }
        }
        text.push(rule);
        let left_out = (0..layout.shown.len()).filter(|at| !layout.shown[*at]);
        (text.join("\n") + "\n", left_out.collect())
    }

    fn layout(&self) -> Layout {
        let (mut widths, least_name) = self.widths();
        let shown = self.shown(&widths, least_name);
        let numbers = widths.iter().zip(&shown).skip(1);
        let numbers = numbers.filter(|(_, shown)| **shown).map(|(width, _)| width);
        let (gaps, numbers) = (numbers.clone().count(), numbers.sum::<usize>());
        let name = widths.first().copied().unwrap_or(0);
        let roomy = name + numbers + 2 * gaps <= self.width;
        let gap = if roomy { 2 } else { 1 };
        let room = self.width.saturating_sub(numbers + gap * gaps);
        if let Some(first) = widths.first_mut() {
            *first = name.min(room.max(least_name));
        }
        Layout { widths, shown, gap }
    }

    /// The width that each column would like to have, and what of a name cannot be broken.
    fn widths(&self) -> (Vec<usize>, usize) {
        let mut least_name = self.headings.first().map_or(0, |(name, _)| len(name));
        let mut widths: Vec<usize> = (self.headings.iter())
            .map(|(name, unit)| len(name).max(len(unit)))
            .collect();
        for line in self.lines {
            let GridLine::Row {
                cells, indented, ..
            } = line
            else {
                continue;
            };
            let indent = if *indented { INDENT } else { "" };
            for (at, (cell, most)) in cells.iter().zip(&mut widths).enumerate() {
                let indent = if at == 0 { indent.len() } else { 0 };
                *most = (*most).max(len(cell) + indent);
            }
            let name = cells.first().map_or("", String::as_str);
            let parts = broken(name, indent, 0);
            least_name = parts
                .iter()
                .map(|part| len(part))
                .fold(least_name, usize::max);
        }
        (widths, least_name)
    }

    /// Which columns are shown.
    fn shown(&self, widths: &[usize], least_name: usize) -> Vec<bool> {
        let mut shown = vec![true; widths.len()];
        let mut fits_with = |column: usize, whether: bool| {
            if let Some(shown) = shown.get_mut(column) {
                *shown = whether;
            }
            let wide = widths.iter().zip(&shown).skip(1);
            let wide = wide.map(|(width, shown)| if *shown { width + 1 } else { 0 });
            least_name + wide.sum::<usize>() <= self.width
        };
        if !fits_with(0, true) && self.spare.iter().any(|column| fits_with(*column, false)) {
            // The last one to go may have made room for one that went before it.
            for column in self.spare.iter().rev() {
                if !fits_with(*column, true) {
                    fits_with(*column, false);
                }
            }
        }
        shown
    }
}

impl Layout {
    /// The width of a line.
    fn total(&self) -> usize {
        let columns = self.widths.iter().zip(&self.shown).enumerate();
        columns
            .filter(|(_, (_, shown))| **shown)
            .map(|(at, (width, _))| width + if at == 0 { 0 } else { self.gap })
            .sum()
    }

    /// A row in as many lines as its name needs.
    fn lines(&self, cells: &[String], indented: bool, dim: bool) -> Vec<String> {
        let indent = if indented { INDENT } else { "" };
        let name = cells.first().map_or("", String::as_str);
        let width = self.widths.first().copied().unwrap_or(0);
        let parts = broken(name, indent, width).into_iter().enumerate();
        parts
            .map(|(at, part)| {
                let mut shown = vec![part];
                if at == 0 {
                    shown.extend(cells.iter().skip(1).cloned());
                }
                let line = self.row(&shown);
                if dim {
                    format!("{DIM}{line}{NORMAL}")
                } else {
                    line
                }
            })
            .collect()
    }

    fn row(&self, cells: &[String]) -> String {
        let gap = self.gap;
        let mut text = String::new();
        for (at, (cell, width)) in cells.iter().zip(&self.widths).enumerate() {
            if at == 0 {
                text.push_str(&format!("{cell:width$}"));
            } else if self.shown[at] {
                text.push_str(&format!("{:gap$}{cell:>width$}", ""));
            }
        }
        text.trim_end().to_owned()
    }
}

fn len(text: &str) -> usize {
    text.chars().count()
}

/// A name in lines of at most `width` characters, broken at commas; what is between them is never
/// broken.
fn broken(name: &str, indent: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut line = indent.to_owned();
    let mut empty = true;
    for part in name.split_inclusive(", ") {
        let fits = len(&line) + len(part.trim_end()) <= width;
        if !empty && !fits {
            lines.push(std::mem::replace(&mut line, format!("{indent}{INDENT}")));
        }
        line.push_str(part);
        empty = false;
    }
    lines.push(line);
    lines
        .into_iter()
        .map(|line| line.trim_end().to_owned())
        .collect()
}

/// The width of the terminal on standard output; `None` if that is not a terminal.
pub(crate) fn terminal_width() -> Option<usize> {
    terminal_size(io::stdout()).map(|(width, _)| width)
}

/// Columns and lines of a terminal; `None` if it is not one.
pub(crate) fn terminal_size(out: impl AsFd) -> Option<(usize, usize)> {
    let size = rustix::termios::tcgetwinsize(out).ok()?;
    Some((size.ws_col.into(), size.ws_row.into())).filter(|(width, _)| *width > 0)
}

/// Lines that are not longer than `width`, if there is one and their words allow it: what is too
/// long continues in the next line, four characters further in.
pub(crate) fn wrapped(text: &str, width: Option<usize>) -> String {
    let Some(width) = width else {
        return text.to_owned();
    };
    let mut out = String::new();
    for line in text.lines() {
        let indent = line.len() - line.trim_start().len();
        let mut used = indent;
        out.push_str(&line[..indent]);
        for (at, word) in line.split_whitespace().enumerate() {
            let len = len(word);
            if at == 0 {
                used += len;
            } else if used + 1 + len > width {
                out.push('\n');
                out.push_str(&" ".repeat(indent + 4));
                used = indent + 4 + len;
            } else {
                out.push(' ');
                used += 1 + len;
            }
            out.push_str(word);
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(cells: &[&str], indented: bool, dim: bool) -> GridLine {
        GridLine::Row {
            cells: cells.iter().map(|cell| (*cell).to_owned()).collect(),
            indented,
            dim,
        }
    }

    const HEADINGS: [(&str, &str); 3] = [("name", ""), ("time", "ms"), ("size", "")];

    fn draw(lines: &[GridLine], spare: &[usize], width: usize, dim: bool) -> (String, Vec<usize>) {
        let headings = &HEADINGS;
        Grid {
            headings,
            lines,
            spare,
            width,
            dim,
        }
        .draw()
    }

    #[test]
    fn columns_are_apart_and_closer_together_before_names_are_broken() {
        let lines = [
            line(&["copy", "1", "-"], false, false),
            GridLine::Title("others".to_owned()),
            line(&["slow, of two parts", "12345", "9"], true, true),
        ];
        let of = |width| draw(&lines, &[2, 9], width, false).0;
        assert_eq!(
            of(40),
            "name                   time  size\n\
             \u{20}                        ms\n\
             ─────────────────────────────────\n\
             copy                      1     -\n\
             others\n\
             \u{20} slow, of two parts  12345     9\n\
             ─────────────────────────────────\n"
        );
        assert!(of(31).contains("  slow, of two parts 12345    9\n"));
        assert!(
            of(27).contains("  slow,          12345    9\n    of two parts\n"),
            "{}",
            of(27)
        );
        assert!(of(26).contains("  slow, of two parts 12345\n"));
        assert!(of(22).contains("  slow,          12345\n    of two parts\n"));
        assert_eq!(of(22), of(0), "there is a least width");
        let (dimmed, _) = draw(&lines, &[], 27, true);
        assert_eq!(dimmed.matches(DIM).count(), 2);
        assert_eq!(draw(&lines, &[2], 26, true).1, [2]);
        let room_again = [line(&["a", "1", "a long cell"], false, false)];
        assert_eq!(draw(&room_again, &[1, 2], 10, true).1, [2]);
    }

    #[test]
    fn a_table_without_units_has_no_line_for_them_and_an_empty_one_has_its_rules() {
        let grid = Grid {
            headings: &[("a", ""), ("b", "")],
            lines: &[GridLine::row(["x".to_owned(), "10".to_owned()])],
            spare: &[],
            width: 80,
            dim: false,
        };
        assert_eq!(grid.draw().0, "a   b\n─────\nx  10\n─────\n");
        let empty = Grid {
            headings: &[],
            lines: &[],
            ..grid
        };
        assert_eq!(empty.draw(), ("\n\n\n".to_owned(), vec![]));
    }

    #[test]
    fn words_are_wrapped_and_long_ones_left_whole() {
        assert_eq!(
            wrapped("  a bc  def\ng\n", Some(6)),
            "  a bc\n      def\ng\n"
        );
        assert_eq!(
            wrapped("extraordinary one\n", Some(4)),
            "extraordinary\n    one\n"
        );
        assert_eq!(wrapped("a  b\n", None), "a  b\n");
    }
}
