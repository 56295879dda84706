//! Text in columns, no wider than it may be.

/// A line of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Line {
    /// What the rows below it have in common.
    Title(String),
    /// Cells; the first one is a name.
    Row {
        /// One for each column.
        cells: Vec<String>,
        /// Whether it stands under a title.
        indented: bool,
        /// Whether it is of less interest.
        dim: bool,
    },
}

const DIM: &str = "\x1b[2m";
const NORMAL: &str = "\x1b[0m";
const INDENT: &str = "  ";

/// Headings, each a name and a unit, and lines below them. Columns lie two characters apart, or one
/// where they would not fit otherwise; then names are broken at their commas; and in the end the
/// columns go that can be done without, the first of `spare` first. With `dim`, rows of less
/// interest are dimmed by the escape sequences of a terminal. Gives the places of the columns that
/// went, too.
pub(crate) fn grid(
    headings: &[(&str, &str)],
    lines: &[Line],
    spare: &[usize],
    width: usize,
    dim: bool,
) -> (String, Vec<usize>) {
    let len = |text: &str| text.chars().count();
    // What of a name cannot be broken.
    let mut least_name = headings.first().map_or(0, |(name, _)| len(name));
    let mut widths: Vec<usize> = headings
        .iter()
        .map(|(name, unit)| len(name).max(len(unit)))
        .collect();
    for line in lines {
        let Line::Row {
            cells, indented, ..
        } = line
        else {
            continue;
        };
        for (at, (cell, most)) in cells.iter().zip(&mut widths).enumerate() {
            let indent = if at == 0 && *indented { INDENT } else { "" };
            *most = (*most).max(len(cell) + indent.len());
            if at == 0 {
                let parts = broken(cell, indent, 0);
                least_name = parts
                    .iter()
                    .map(|part| len(part))
                    .fold(least_name, usize::max);
            }
        }
    }
    let mut shown = vec![true; widths.len()];
    let least = |shown: &[bool]| {
        let wide = widths.iter().zip(shown).skip(1);
        let wide: usize = wide
            .map(|(width, shown)| if *shown { width + 1 } else { 0 })
            .sum();
        least_name + wide
    };
    let mut show = |column: &usize, whether: bool| {
        if let Some(shown) = shown.get_mut(*column) {
            *shown = whether;
        }
        least(&shown) <= width
    };
    let fits = show(&0, true);
    if !fits && spare.iter().any(|column| show(column, false)) {
        // The last to go may have made room for one that went before.
        for column in spare.iter().rev() {
            if !show(column, true) {
                show(column, false);
            }
        }
    }
    let numbers = widths
        .iter()
        .zip(&shown)
        .skip(1)
        .filter(|(_, shown)| **shown);
    let gaps = numbers.clone().count();
    let numbers: usize = numbers.map(|(width, _)| width).sum();
    let name = widths.first().copied().unwrap_or(0);
    let gap = if name + numbers + 2 * gaps <= width {
        2
    } else {
        1
    };
    let room = width.saturating_sub(numbers + gap * gaps);
    let name = name.min(room.max(least_name));
    if let Some(first) = widths.first_mut() {
        *first = name;
    }

    let row = |cells: &[String]| {
        let mut text = String::new();
        for (at, (cell, width)) in cells.iter().zip(&widths).enumerate() {
            if at == 0 {
                text.push_str(&format!("{cell:width$}"));
            } else if shown[at] {
                text.push_str(&format!("{:gap$}{cell:>width$}", ""));
            }
        }
        text.trim_end().to_owned()
    };
    let all = numbers + gap * gaps + name;
    let rule = "─".repeat(all);
    let mut text: Vec<String> = Vec::new();
    let names: Vec<String> = headings
        .iter()
        .map(|(name, _)| (*name).to_owned())
        .collect();
    let units: Vec<String> = headings
        .iter()
        .map(|(_, unit)| (*unit).to_owned())
        .collect();
    text.extend([row(&names), row(&units), rule.clone()]);
    for line in lines {
        match line {
            Line::Title(title) => text.push(title.clone()),
            Line::Row {
                cells,
                indented,
                dim: of_less_interest,
            } => {
                let indent = if *indented { INDENT } else { "" };
                let first = cells.first().map_or("", String::as_str);
                for (at, part) in broken(first, indent, name).into_iter().enumerate() {
                    let mut shown = vec![part];
                    if at == 0 {
                        shown.extend(cells.iter().skip(1).cloned());
                    }
                    let shown = row(&shown);
                    text.push(if dim && *of_less_interest {
                        format!("{DIM}{shown}{NORMAL}")
                    } else {
                        shown
                    });
                }
            }
        }
    }
    text.push(rule);
    let left_out = (0..shown.len()).filter(|at| !shown[*at]).collect();
    (text.join("\n") + "\n", left_out)
}

/// A name in lines of at most so many characters, broken at commas; what lies between them is
/// never broken.
fn broken(name: &str, indent: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut line = indent.to_owned();
    let mut empty = true;
    for part in name.split_inclusive(", ") {
        let fits = line.chars().count() + part.trim_end().chars().count() <= width;
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

/// Lines that are no longer than `width`, if there is one and their words allow it: what is too long
/// goes on in the next line, four characters further in.
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
            let len = word.chars().count();
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

    fn line(cells: &[&str], indented: bool, dim: bool) -> Line {
        Line::Row {
            cells: cells.iter().map(|cell| (*cell).to_owned()).collect(),
            indented,
            dim,
        }
    }

    const HEADINGS: [(&str, &str); 3] = [("name", ""), ("time", "ms"), ("size", "")];

    #[test]
    fn columns_stand_apart_and_closer_together_before_names_are_broken() {
        let lines = [
            line(&["copy", "1", "-"], false, false),
            Line::Title("others".to_owned()),
            line(&["slow, of two parts", "12345", "9"], true, true),
        ];
        let of = |width| grid(&HEADINGS, &lines, &[2, 9], width, false).0;
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
        let (dimmed, _) = grid(&HEADINGS, &lines, &[], 27, true);
        assert_eq!(dimmed.matches(DIM).count(), 2);
        assert_eq!(grid(&HEADINGS, &lines, &[2], 26, true).1, [2]);
        let room_again = [line(&["a", "1", "a long cell"], false, false)];
        assert_eq!(grid(&HEADINGS, &room_again, &[1, 2], 10, true).1, [2]);
        assert_eq!(
            grid(&[], &[], &[], 10, true),
            ("\n\n\n\n".to_owned(), vec![])
        );
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
