//! The few shapes that charts are made of, as SVG. Colours are classes of the page's style sheet,
//! so that a chart is at home in light and in dark.

use std::fmt::Write as _;

/// The size of every chart, in its own units; the page scales it.
pub(super) const WIDTH: f64 = 760.0;
/// Space around the plotting area: top, right, bottom, left.
pub(super) const TOP: f64 = 14.0;
pub(super) const RIGHT: f64 = 24.0;
pub(super) const BOTTOM: f64 = 46.0;
pub(super) const LEFT: f64 = 72.0;

/// Text as it stands between tags and in attributes.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

/// Where values lie along an axis.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scale {
    first: f64,
    last: f64,
    from: f64,
    to: f64,
    log: bool,
}

impl Scale {
    /// From 0 to a round number no less than `most`, at `from` to `to`.
    pub(super) fn linear(most: f64, from: f64, to: f64) -> Scale {
        let most = if most > 0.0 { most } else { 1.0 };
        let step = step(most);
        Scale {
            first: 0.0,
            last: (most / step).ceil() * step,
            from,
            to,
            log: false,
        }
    }

    /// Logarithmic, from a round number at `first` or below to one at `last` or above.
    pub(super) fn log(first: f64, last: f64, from: f64, to: f64) -> Scale {
        let first = first.max(1e-9);
        let last = last.max(first * 1.001);
        let power = |value: f64| value.log10().floor() as i32;
        let numbers: Vec<f64> = (power(first)..=power(last) + 1).flat_map(round).collect();
        let below = numbers
            .iter()
            .rev()
            .find(|number| **number <= first * 1.000_001);
        let above = numbers.iter().find(|number| **number >= last * 0.999_999);
        Scale {
            first: below.map_or(first, |number| *number).log10(),
            last: above.map_or(last, |number| *number).log10(),
            from,
            to,
            log: true,
        }
    }

    /// Where a value lies.
    pub(super) fn at(&self, value: f64) -> f64 {
        let value = if self.log {
            value.max(f64::MIN_POSITIVE).log10()
        } else {
            value
        };
        let part = (value - self.first) / (self.last - self.first);
        self.from + part * (self.to - self.from)
    }

    /// The values that are named.
    pub(super) fn ticks(&self) -> Vec<f64> {
        if self.log {
            let (low, high) = (self.first.floor() as i32, self.last.floor() as i32);
            let all = (low..=high).flat_map(round);
            let within = |number: &f64| {
                let at = number.log10();
                at >= self.first - 1e-6 && at <= self.last + 1e-6
            };
            // Over many powers only these.
            let few = self.last - self.first <= 3.0;
            let power = |number: &f64| (number.log10() - number.log10().round()).abs() < 1e-6;
            return all
                .filter(|number| within(number) && (few || power(number)))
                .collect();
        }
        let step = step(self.last);
        let count = (self.last / step).round() as u32;
        (0..=count).map(|at| f64::from(at) * step).collect()
    }
}

/// The round numbers of a power of ten.
fn round(power: i32) -> [f64; 3] {
    [1.0, 2.0, 5.0].map(|factor| factor * 10_f64.powi(power))
}

/// A round number of which about five go into `most`.
fn step(most: f64) -> f64 {
    let rough = most / 5.0;
    let power = 10_f64.powf(rough.log10().floor());
    let factor = [1.0, 2.0, 2.5, 5.0, 10.0]
        .into_iter()
        .find(|factor| factor * power >= rough * 0.999)
        .unwrap_or(10.0);
    factor * power
}

/// A number for people, with no more digits than they need.
pub(super) fn short(number: f64) -> String {
    let text = match number.abs() {
        size if size >= 100.0 => format!("{number:.0}"),
        size if size >= 10.0 => format!("{number:.1}"),
        _ => format!("{number:.2}"),
    };
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

/// An SVG that grows.
#[derive(Debug)]
pub(super) struct Svg {
    text: String,
    height: f64,
    /// Where names stand: left, right, line.
    named: Vec<(f64, f64, f64)>,
}

/// What a letter of a name takes, about.
const LETTER: f64 = 6.6;

impl Svg {
    /// An empty one of this height. `title` is for those who do not see it.
    pub(super) fn new(title: &str, height: f64) -> Svg {
        let mut text = String::new();
        let _ = write!(
            text,
            r#"<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{}">"#,
            escape(title)
        );
        Svg {
            text,
            height,
            named: Vec::new(),
        }
    }

    /// The plotting area's height ends here.
    pub(super) fn floor(&self) -> f64 {
        self.height - BOTTOM
    }

    /// The axis at the bottom, its grid and its label.
    pub(super) fn x_axis(&mut self, scale: &Scale, label: &str, name: impl Fn(f64) -> String) {
        let floor = self.floor();
        for tick in scale.ticks() {
            let x = scale.at(tick);
            let _ = write!(
                self.text,
                r#"<line class="grid" x1="{x:.1}" x2="{x:.1}" y1="{TOP}" y2="{floor}"/>"#
            );
            self.words(x, floor + 17.0, "middle", "tick", &name(tick));
        }
        self.words(
            (LEFT + WIDTH - RIGHT) / 2.0,
            self.height - 8.0,
            "middle",
            "label",
            label,
        );
    }

    /// The axis on the left.
    pub(super) fn y_axis(&mut self, scale: &Scale, label: &str, name: impl Fn(f64) -> String) {
        for tick in scale.ticks() {
            let y = scale.at(tick);
            let _ = write!(
                self.text,
                r#"<line class="grid" x1="{LEFT}" x2="{:.1}" y1="{y:.1}" y2="{y:.1}"/>"#,
                WIDTH - RIGHT
            );
            self.words(LEFT - 8.0, y + 4.0, "end", "tick", &name(tick));
        }
        let middle = (TOP + self.floor()) / 2.0;
        let _ = write!(
            self.text,
            r#"<text class="label" text-anchor="middle" transform="translate(16 {middle:.1}) rotate(-90)">{}</text>"#,
            escape(label)
        );
    }

    /// Text at a place; `anchor` is start, middle or end.
    pub(super) fn words(&mut self, x: f64, y: f64, anchor: &str, class: &str, words: &str) {
        let _ = write!(
            self.text,
            r#"<text class="{class}" x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{}</text>"#,
            escape(words)
        );
    }

    /// The name of what is at a place, beside it; nothing if it would stand on another name.
    pub(super) fn name(&mut self, (x, y): (f64, f64), name: &str) {
        let width = name.chars().count() as f64 * LETTER;
        let right = x + 9.0 + width < WIDTH;
        let left = if right { x + 9.0 } else { x - 9.0 - width };
        let free = [y - 7.0, y + 16.0].into_iter().find(|line| {
            self.named.iter().all(|(from, to, other)| {
                left > *to || left + width < *from || (line - other).abs() > 13.0
            })
        });
        if let Some(line) = free {
            self.named.push((left, left + width, line));
            let (x, anchor) = if right {
                (x + 9.0, "start")
            } else {
                (x - 9.0, "end")
            };
            self.words(x, line, anchor, "name", name);
        }
    }

    /// A line through points.
    pub(super) fn line(&mut self, class: &str, dash: &str, points: &[(f64, f64)], hover: &str) {
        let points: Vec<String> = points
            .iter()
            .map(|(x, y)| format!("{x:.1},{y:.1}"))
            .collect();
        let _ = write!(
            self.text,
            r#"<polyline class="line {class}" stroke-dasharray="{dash}" points="{}"><title>{}</title></polyline>"#,
            points.join(" "),
            escape(hover)
        );
    }

    /// A data point.
    pub(super) fn dot(&mut self, class: &str, (x, y): (f64, f64), hover: &str) {
        let _ = write!(
            self.text,
            r#"<circle class="mark {class}" cx="{x:.1}" cy="{y:.1}" r="5"><title>{}</title></circle>"#,
            escape(hover)
        );
    }

    /// A data value as a bar.
    pub(super) fn bar(&mut self, class: &str, (x, y): (f64, f64), (w, h): (f64, f64), hover: &str) {
        let _ = write!(
            self.text,
            r#"<rect class="mark {class}" x="{x:.1}" y="{y:.1}" width="{:.1}" height="{h:.1}" rx="2"><title>{}</title></rect>"#,
            w.max(0.5),
            escape(hover)
        );
    }

    /// All of it.
    pub(super) fn end(mut self) -> String {
        self.text.push_str("</svg>");
        self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_begin_at_nothing_and_end_at_a_round_number() {
        let scale = Scale::linear(930.0, 0.0, 100.0);
        assert_eq!(scale.ticks(), [0.0, 200.0, 400.0, 600.0, 800.0, 1000.0]);
        assert_eq!((scale.at(0.0), scale.at(500.0)), (0.0, 50.0));
        let log = Scale::log(700.0, 3e3, 100.0, 0.0);
        assert_eq!(log.ticks(), [500.0, 1e3, 2e3, 5e3]);
        assert!((log.at(500.0) - 100.0).abs() < 1e-9 && log.at(5e3).abs() < 1e-9);
        let wide = Scale::log(1e2, 1e9, 0.0, 1.0);
        assert_eq!(wide.ticks().len(), 8);
        assert_eq!(Scale::log(0.0, 0.0, 0.0, 1.0).ticks().len(), 2);
        for most in [0.0, 1e-9, 3.0, 1e12] {
            assert!(Scale::linear(most, 0.0, 1.0).ticks().len() <= 12, "{most}");
        }
    }

    #[test]
    fn names_do_not_stand_on_each_other() {
        let mut svg = Svg::new("", 100.0);
        for name in ["one", "two", "three"] {
            svg.name((100.0, 50.0), name);
        }
        svg.name((740.0, 50.0), "far to the right");
        let text = svg.end();
        assert!(text.contains("one") && text.contains("two") && !text.contains("three"));
        assert!(text.contains("text-anchor=\"end\">far"));
    }

    #[test]
    fn numbers_are_short_and_text_cannot_leave_its_place() {
        assert_eq!(
            [0.5, 12.0, 1234.5, 0.0].map(short),
            ["0.5", "12", "1234", "0"]
        );
        assert_eq!(
            escape("<a href=\"x\">&\n"),
            "&lt;a href=&quot;x&quot;&gt;&amp; "
        );
    }
}
