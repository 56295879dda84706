//! Where labels find room: they must not cover points, lines or each other.

use super::{LEFT, WIDTH};

/// The width of a letter, about.
pub(super) const LETTER: f64 = 6.6;
/// The height of a line of labels.
const LINE: f64 = 13.0;
/// Labels beside a chart take at most this part of its width.
const MOST_LABEL: f64 = 0.36;
/// Added to the width of a label: a short one of wide letters is wider than the estimate.
const MARGIN: f64 = 10.0;

/// The room that the longest of these labels needs.
pub(in super::super) fn room<'a>(labels: impl IntoIterator<Item = &'a str>) -> f64 {
    let longest = labels.into_iter().map(|label| label.chars().count()).max();
    (longest.unwrap_or(0) as f64 * LETTER + MARGIN).min(WIDTH * MOST_LABEL)
}

/// A label shortened to fit into `room`; the table below the chart has all of it.
pub(in super::super) fn fitting(label: &str, room: f64) -> String {
    let most = ((room - MARGIN) / LETTER + 0.01).floor().max(1.0) as usize;
    if label.chars().count() <= most {
        return label.to_owned();
    }
    let mut text: String = label.chars().take(most.saturating_sub(1)).collect();
    text.push('…');
    text
}

/// A part of the picture: left, right, top, bottom.
#[derive(Debug, Clone, Copy)]
struct Area(f64, f64, f64, f64);

impl Area {
    fn meets(self, other: Area) -> bool {
        self.0 < other.1 && other.0 < self.1 && self.2 < other.3 && other.2 < self.3
    }
}

/// The parts of a picture that are taken.
#[derive(Debug, Default)]
pub(super) struct Taken(Vec<Area>);

/// A place that was found for a label.
#[derive(Debug, Clone, Copy)]
pub(super) struct LabelPlace {
    /// `start` or `end`.
    pub(super) anchor: &'static str,
    pub(super) x: f64,
    /// The base line.
    pub(super) line: f64,
    /// Whether it is so far off that a line has to lead to it, and where that ends.
    pub(super) lead: Option<(f64, f64)>,
}

impl Taken {
    /// A point that no label may cover.
    pub(super) fn point(&mut self, (x, y): (f64, f64)) {
        self.0.push(Area(x - 5.0, x + 5.0, y - 5.0, y + 5.0));
    }

    /// A line that no label may cover.
    pub(super) fn line(&mut self, points: &[(f64, f64)]) {
        const STEPS: u32 = 60;
        for pair in points.windows(2) {
            let [(x, y), (to_x, to_y)] = pair else {
                continue;
            };
            for step in 1..STEPS {
                let part = f64::from(step) / f64::from(STEPS);
                let (x, y) = (x + part * (to_x - x), y + part * (to_y - y));
                self.0.push(Area(x - 1.0, x + 1.0, y - 1.0, y + 1.0));
            }
        }
    }

    /// Takes a place for a label beside a point or a little farther off, above `floor`; `None` if
    /// there is none.
    pub(super) fn place(
        &mut self,
        (x, y): (f64, f64),
        label: &str,
        floor: f64,
    ) -> Option<LabelPlace> {
        const BESIDE: f64 = 9.0;
        let width = label.chars().count() as f64 * LETTER;
        let pairs = [[-7.0, 16.0], [-24.0, 32.0], [-40.0, 48.0]];
        let (right, left) = (BESIDE, -BESIDE - width);
        let places = pairs.into_iter().flat_map(|[above, below]| {
            [(right, above), (right, below), (left, above), (left, below)]
        });
        let area = |left: f64, line: f64| Area(left, left + width, line - 10.0, line + 3.0);
        let (left, line) =
            places
                .map(|(aside, line)| (x + aside, y + line))
                .find(|(left, line)| {
                    let area = area(*left, *line);
                    let within = area.0 > LEFT && area.1 < WIDTH && area.2 > 0.0 && area.3 < floor;
                    within && !self.0.iter().any(|one| one.meets(area))
                })?;
        self.0.push(area(left, line));
        let (anchor, at) = if left > x {
            ("start", left)
        } else {
            ("end", left + width)
        };
        let far = (line - y).abs() > 16.5;
        let edge = if line < y { line + 2.0 } else { line - 10.0 };
        Some(LabelPlace {
            anchor,
            x: at,
            line,
            lead: far.then_some((at, edge)),
        })
    }
}

/// How many labels fit below each other between `top` and `bottom`.
pub(super) fn lines_between(top: f64, bottom: f64) -> usize {
    ((bottom - top) / LINE) as usize
}

/// Heights, in rising order, moved as little as necessary to be a line apart between `top` and
/// `bottom`: labels that would overlap are centred on what they name.
pub(super) fn apart(heights: &[f64], top: f64, bottom: f64) -> Vec<f64> {
    // Bundles of labels a line apart: the height that the first would like to have, and how many.
    let mut bundles: Vec<(f64, usize)> = Vec::new();
    for height in heights {
        let (mut first, mut count) = (*height, 1);
        while let Some((above, number)) = bundles.last().copied() {
            let end = above + number as f64 * LINE;
            if first >= end {
                break;
            }
            bundles.pop();
            // All of them together decide where the bundle begins.
            let shifted = first - number as f64 * LINE;
            let sum = above * number as f64 + shifted * count as f64;
            count += number;
            first = sum / count as f64;
        }
        bundles.push((first, count));
    }
    let mut placed: Vec<f64> = bundles
        .into_iter()
        .flat_map(|(first, count)| (0..count).map(move |at| first + at as f64 * LINE))
        .collect();
    let mut least = top;
    for height in &mut placed {
        *height = height.max(least);
        least = *height + LINE;
    }
    let mut most = bottom;
    for height in placed.iter_mut().rev() {
        *height = height.min(most);
        most = *height - LINE;
    }
    placed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_beside_a_chart_are_moved_apart_and_cut_to_fit() {
        assert_eq!(apart(&[10.0, 50.0], 0.0, 100.0), [10.0, 50.0]);
        assert_eq!(apart(&[50.0, 51.0, 52.0], 0.0, 100.0), [38.0, 51.0, 64.0]);
        assert_eq!(apart(&[1.0, 2.0, 3.0], 0.0, 100.0), [0.0, 13.0, 26.0]);
        assert_eq!(apart(&[99.0, 100.0], 0.0, 100.0), [87.0, 100.0]);
        let text = "twelve chars";
        assert_eq!(fitting(text, room([text])), text);
        assert_eq!(fitting(text, room(["eight ch"])), "twelve …");
        assert!(room([&*"x".repeat(1000)]) < WIDTH / 2.0);
        // "memcpy" in 12 pixels is 46 wide.
        assert!(room(["memcpy"]) > 46.0);
    }
}
