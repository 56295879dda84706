//! The shapes of charts, as SVG. Colours are classes of the page's style sheet, so that a chart fits a
//! light and a dark page.

mod labels;
mod scale;

use std::fmt::Write as _;

use labels::{Taken, apart, lines_between};
pub(super) use labels::{fitting, room};
pub(super) use scale::Scale;

/// The size of every chart, in its own units; the page scales it.
pub(super) const WIDTH: f64 = 760.0;
/// Space around the plotting area: top, right, bottom, left.
pub(super) const TOP: f64 = 14.0;
pub(super) const RIGHT: f64 = 24.0;
pub(super) const BOTTOM: f64 = 46.0;
pub(super) const LEFT: f64 = 72.0;

/// Text escaped for use between tags and in attributes.
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

/// A number without useless digits.
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

/// An SVG under construction.
#[derive(Debug)]
pub(super) struct Svg {
    text: String,
    height: f64,
    taken: Taken,
}

impl Svg {
    /// An empty picture of this height. `title` is for screen readers.
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
            taken: Taken::default(),
        }
    }

    /// The lower edge of the plotting area.
    pub(super) fn floor(&self) -> f64 {
        self.height - BOTTOM
    }

    /// The axis at the bottom, its grid and its label.
    pub(super) fn x_axis(&mut self, scale: &Scale, label: &str, name: impl Fn(f64) -> String) {
        self.x_axis_to(WIDTH - RIGHT, scale, label, name);
    }

    /// The same for a plotting area that ends at `right`.
    pub(super) fn x_axis_to(
        &mut self,
        right: f64,
        scale: &Scale,
        label: &str,
        name: impl Fn(f64) -> String,
    ) {
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
            (scale.from + right) / 2.0,
            self.height - 8.0,
            "middle",
            "label",
            label,
        );
    }

    /// The labels of the bottom axis again, above a tall picture.
    pub(super) fn x_names_on_top(&mut self, scale: &Scale, name: impl Fn(f64) -> String) {
        for tick in scale.ticks() {
            self.words(scale.at(tick), TOP - 3.0, "middle", "tick", &name(tick));
        }
    }

    /// The axis on the left.
    pub(super) fn y_axis(&mut self, scale: &Scale, label: &str, name: impl Fn(f64) -> String) {
        self.y_axis_to(WIDTH - RIGHT, scale, label, name);
    }

    /// The same for a plotting area that ends at `right`.
    pub(super) fn y_axis_to(
        &mut self,
        right: f64,
        scale: &Scale,
        label: &str,
        name: impl Fn(f64) -> String,
    ) {
        for tick in scale.ticks() {
            let y = scale.at(tick);
            let _ = write!(
                self.text,
                r#"<line class="grid" x1="{LEFT}" x2="{right:.1}" y1="{y:.1}" y2="{y:.1}"/>"#
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

    /// Names a point, beside it, or a little farther off with a line to it; nothing if there is no room.
    pub(super) fn name(&mut self, class: &str, point: (f64, f64), name: &str) {
        let Some(place) = self.taken.place(point, name, self.floor()) else {
            return;
        };
        if let Some(end) = place.lead {
            self.lead(point, end);
        }
        self.words(
            place.x,
            place.line,
            place.anchor,
            &format!("name {class}"),
            name,
        );
    }

    /// A line that no name may cover.
    pub(super) fn take_line(&mut self, points: &[(f64, f64)]) {
        self.taken.line(points);
    }

    /// A thin line from a point to its name.
    fn lead(&mut self, (x, y): (f64, f64), (to_x, to_y): (f64, f64)) {
        let _ = write!(
            self.text,
            r#"<line class="lead" x1="{x:.1}" y1="{y:.1}" x2="{to_x:.1}" y2="{to_y:.1}"/>"#
        );
    }

    /// Names of lines that end at these heights, in a column at `x`: moved apart where they would overlap,
    /// each with a thin line to its end. Names without room are left out.
    pub(super) fn names_beside(&mut self, x: f64, ends: &[(f64, &str)]) {
        const REACH: f64 = 12.0;
        let room = lines_between(TOP, self.floor());
        let mut ends: Vec<(f64, &str)> = ends.iter().copied().take(room).collect();
        ends.sort_by(|a, b| a.0.total_cmp(&b.0));
        let heights: Vec<f64> = ends.iter().map(|(y, _)| *y).collect();
        let width = WIDTH - x - REACH;
        for ((y, name), line) in ends.iter().zip(apart(&heights, TOP, self.floor())) {
            self.lead((x + 2.0, *y), (x + REACH - 2.0, line));
            self.words(
                x + REACH,
                line + 4.0,
                "start",
                "name",
                &fitting(name, width),
            );
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
        self.taken.point((x, y));
        let _ = write!(
            self.text,
            r#"<circle class="mark {class}" cx="{x:.1}" cy="{y:.1}" r="5"><title>{}</title></circle>"#,
            escape(hover)
        );
    }

    /// A data point of another kind.
    pub(super) fn diamond(&mut self, class: &str, (x, y): (f64, f64), hover: &str) {
        self.taken.point((x, y));
        let _ = write!(
            self.text,
            r#"<path class="mark {class}" d="M{x:.1} {:.1}l6 6l-6 6l-6 -6z"><title>{}</title></path>"#,
            y - 6.0,
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

    /// The finished picture.
    pub(super) fn end(mut self) -> String {
        self.text.push_str("</svg>");
        self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_find_no_room_beside_a_chart_are_left_out() {
        let mut svg = Svg::new("", 100.0);
        let many: Vec<(f64, &str)> = (0..50).map(|_| (50.0, "a name")).collect();
        svg.names_beside(600.0, &many);
        assert_eq!(svg.end().matches("a name").count(), 3);
    }

    #[test]
    fn names_do_not_cover_each_other() {
        let mut svg = Svg::new("", 100.0);
        // There is room for one line above and one below, and to the left for none.
        for name in ["one", "two", "three"] {
            svg.name("", (100.0, 30.0), name);
        }
        svg.name("", (740.0, 30.0), "far to the right");
        svg.dot("", (300.0, 20.0), "");
        svg.name("", (280.0, 28.0), "not on the dot");
        let text = svg.end();
        assert!(text.contains("one") && text.contains("two") && !text.contains("three"));
        assert!(text.contains("text-anchor=\"end\">far"));
        assert!(
            text.contains("y=\"44.0\" text-anchor=\"start\">not on the dot"),
            "{text}"
        );
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
