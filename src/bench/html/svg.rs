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

    /// From the power of ten at `first` or below to that at `last` or above.
    pub(super) fn log(first: f64, last: f64, from: f64, to: f64) -> Scale {
        let first = first.max(f64::MIN_POSITIVE);
        let low = first.log10().floor();
        let high = last.max(first).log10().ceil().max(low + 1.0);
        Scale {
            first: low,
            last: high,
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
            let count = (self.last - self.first).round() as i32;
            let first = self.first.round() as i32;
            return (0..=count).map(|at| 10_f64.powi(first + at)).collect();
        }
        let step = step(self.last);
        let count = (self.last / step).round() as u32;
        (0..=count).map(|at| f64::from(at) * step).collect()
    }
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
}

impl Svg {
    /// An empty one of this height. `title` is for those who do not see it.
    pub(super) fn new(title: &str, height: f64) -> Svg {
        let mut text = String::new();
        let _ = write!(
            text,
            r#"<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{}">"#,
            escape(title)
        );
        Svg { text, height }
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
        let log = Scale::log(2e7, 3e9, 100.0, 0.0);
        assert_eq!(log.ticks(), [1e7, 1e8, 1e9, 1e10]);
        assert!((log.at(1e7) - 100.0).abs() < 1e-9 && log.at(1e10).abs() < 1e-9);
        for most in [0.0, 1e-9, 3.0, 1e12] {
            assert!(Scale::linear(most, 0.0, 1.0).ticks().len() <= 12, "{most}");
        }
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
