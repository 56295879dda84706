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
    /// Whether every whole number has a name.
    whole: bool,
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
            whole: false,
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
            whole: false,
        }
    }

    /// For things that are counted: from `least` to `most`, and only whole numbers have a name.
    pub(super) fn counts(least: f64, most: f64, from: f64, to: f64) -> Scale {
        Scale {
            first: least,
            last: most.max(least + 1.0),
            from,
            to,
            log: false,
            whole: true,
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
        if self.whole {
            let step = step(self.last - self.first).ceil();
            let count = ((self.last - self.first) / step).floor() as u32;
            return (0..=count)
                .map(|at| self.first + f64::from(at) * step)
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
    /// Where names and points stand.
    taken: Vec<Area>,
}

/// A part of the picture: left, right, top, bottom.
#[derive(Debug, Clone, Copy)]
struct Area(f64, f64, f64, f64);

impl Area {
    fn meets(self, other: Area) -> bool {
        self.0 < other.1 && other.0 < self.1 && self.2 < other.3 && other.2 < self.3
    }
}

/// What a letter of a name takes, about.
const LETTER: f64 = 6.6;
/// What a line of names takes.
const LINE: f64 = 13.0;
/// Names beside a chart take no more than this part of its width.
const MOST_NAME: f64 = 0.36;

/// The room that the longest of these names needs.
pub(super) fn room<'a>(names: impl IntoIterator<Item = &'a str>) -> f64 {
    let longest = names.into_iter().map(|name| name.chars().count()).max();
    (longest.unwrap_or(0) as f64 * LETTER).min(WIDTH * MOST_NAME)
}

/// A name that fits into so much room; all of it is in the table behind the chart.
pub(super) fn fitting(name: &str, room: f64) -> String {
    let most = (room / LETTER + 0.01).floor() as usize;
    if name.chars().count() <= most {
        return name.to_owned();
    }
    let mut text: String = name.chars().take(most.saturating_sub(1)).collect();
    text.push('…');
    text
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
        Svg {
            text,
            height,
            taken: Vec::new(),
        }
    }

    /// The plotting area's height ends here.
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

    /// The names of the axis at the bottom once more, above a tall picture.
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

    /// The name of what is at a place, beside it, or a little farther off with a line to it; nothing
    /// where there is no room: it would stand on other names, or on points that are there already.
    pub(super) fn name(&mut self, class: &str, (x, y): (f64, f64), name: &str) {
        const BESIDE: f64 = 9.0;
        let width = name.chars().count() as f64 * LETTER;
        let pairs = [[-7.0, 16.0], [-24.0, 32.0], [-40.0, 48.0]];
        let (right, left) = (BESIDE, -BESIDE - width);
        let places = pairs.into_iter().flat_map(|[above, below]| {
            [(right, above), (right, below), (left, above), (left, below)]
        });
        let free = places
            .map(|(aside, line)| (x + aside, y + line))
            .find(|(left, line)| {
                let area = Area(*left, left + width, line - 10.0, line + 3.0);
                let within = area.0 > LEFT && area.1 < WIDTH && area.2 > 0.0;
                within && area.3 < self.floor() && !self.taken.iter().any(|one| one.meets(area))
            });
        let Some((left, line)) = free else { return };
        self.taken
            .push(Area(left, left + width, line - 10.0, line + 3.0));
        let (anchor, at) = if left > x {
            ("start", left)
        } else {
            ("end", left + width)
        };
        if (line - y).abs() > 16.5 {
            let from = if line < y { line + 2.0 } else { line - 10.0 };
            self.lead((x, y), (at, from));
        }
        self.words(at, line, anchor, &format!("name {class}"), name);
    }

    /// A thin line from what is named to its name.
    fn lead(&mut self, (x, y): (f64, f64), (to_x, to_y): (f64, f64)) {
        let _ = write!(
            self.text,
            r#"<line class="lead" x1="{x:.1}" y1="{y:.1}" x2="{to_x:.1}" y2="{to_y:.1}"/>"#
        );
    }

    /// A line is there, on which no name may stand.
    pub(super) fn take_line(&mut self, points: &[(f64, f64)]) {
        const STEPS: u32 = 60;
        for pair in points.windows(2) {
            let [(x, y), (to_x, to_y)] = pair else {
                continue;
            };
            for step in 1..STEPS {
                let part = f64::from(step) / f64::from(STEPS);
                let (x, y) = (x + part * (to_x - x), y + part * (to_y - y));
                self.taken.push(Area(x - 1.0, x + 1.0, y - 1.0, y + 1.0));
            }
        }
    }

    /// A point is there, on which no name may stand.
    fn take(&mut self, (x, y): (f64, f64)) {
        self.taken.push(Area(x - 5.0, x + 5.0, y - 5.0, y + 5.0));
    }

    /// Names of what ends at these heights, in a column at `x`: moved apart where they would stand
    /// on each other, each with a line to what it names. Those that find no room are left out.
    pub(super) fn names_beside(&mut self, x: f64, ends: &[(f64, &str)]) {
        const REACH: f64 = 12.0;
        let room = ((self.floor() - TOP) / LINE) as usize;
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
        self.take((x, y));
        let _ = write!(
            self.text,
            r#"<circle class="mark {class}" cx="{x:.1}" cy="{y:.1}" r="5"><title>{}</title></circle>"#,
            escape(hover)
        );
    }

    /// A data point of a sort of its own.
    pub(super) fn diamond(&mut self, class: &str, (x, y): (f64, f64), hover: &str) {
        self.take((x, y));
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

    /// All of it.
    pub(super) fn end(mut self) -> String {
        self.text.push_str("</svg>");
        self.text
    }
}

/// Heights, in rising order, moved as little as it takes to lie a line apart between `top` and
/// `bottom`: those in each other's way are centred on what they name.
fn apart(heights: &[f64], top: f64, bottom: f64) -> Vec<f64> {
    // Bundles that lie a line apart in themselves: where the first would like to be, and how many.
    let mut bundles: Vec<(f64, usize)> = Vec::new();
    for height in heights {
        let (mut first, mut count) = (*height, 1);
        while let Some((above, number)) = bundles.last().copied() {
            let end = above + number as f64 * LINE;
            if first >= end {
                break;
            }
            bundles.pop();
            // Each has its say in where all of them begin.
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
    fn counts_have_whole_numbers_only() {
        assert_eq!(Scale::counts(1.0, 3.0, 0.0, 1.0).ticks(), [1.0, 2.0, 3.0]);
        assert_eq!(Scale::counts(1.0, 3.0, 0.0, 1.0).at(2.0), 0.5);
        assert_eq!(Scale::counts(4.0, 4.0, 0.0, 1.0).ticks(), [4.0, 5.0]);
        assert!(
            Scale::counts(1.0, 255.0, 0.0, 1.0)
                .ticks()
                .iter()
                .all(|tick| tick.fract() == 0.0)
        );
    }

    #[test]
    fn names_beside_a_chart_are_moved_apart_and_cut_to_fit() {
        assert_eq!(apart(&[10.0, 50.0], 0.0, 100.0), [10.0, 50.0]);
        assert_eq!(apart(&[50.0, 51.0, 52.0], 0.0, 100.0), [38.0, 51.0, 64.0]);
        assert_eq!(apart(&[1.0, 2.0, 3.0], 0.0, 100.0), [0.0, 13.0, 26.0]);
        assert_eq!(apart(&[99.0, 100.0], 0.0, 100.0), [87.0, 100.0]);
        let mut svg = Svg::new("", 100.0);
        let many: Vec<(f64, &str)> = (0..50).map(|_| (50.0, "a name")).collect();
        svg.names_beside(600.0, &many);
        assert_eq!(svg.end().matches("a name").count(), 3);
        assert_eq!(
            fitting("twelve chars", room(["twelve chars"])),
            "twelve chars"
        );
        assert_eq!(fitting("twelve chars", room(["eight ch"])), "twelve …");
        assert!(room([&*"x".repeat(1000)]) < WIDTH / 2.0);
    }

    #[test]
    fn names_do_not_stand_on_each_other() {
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
