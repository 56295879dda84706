//! Time against bytes on the wire, over one link.

use super::super::svg::{LEFT, RIGHT, Scale, Svg, TOP, WIDTH, short};
use super::{Chart, HEIGHT, PEER, colour, method_legend, names_without_link, over, strings};
use crate::advice;
use crate::bench::measure::setting::UNLIMITED;
use crate::bench::peer::PeerReport;
use crate::bench::report::{BenchReport, MIB, SettingReport};

/// Times that differ by more than this factor get a logarithmic axis.
const SPREAD: f64 = 6.0;

/// What is compared: milliseconds and MiB each.
struct Points<'a> {
    settings: Vec<(&'a SettingReport, String, (f64, f64))>,
    peers: Vec<(&'a PeerReport, (f64, f64))>,
    /// The peer's modes whose bytes are not known.
    unplaced: Vec<&'a str>,
    /// The settings that no other beats in both, from the fastest to the smallest.
    front: Vec<usize>,
}

impl<'a> Points<'a> {
    fn of(report: &'a BenchReport, link: &str) -> Points<'a> {
        let rows = over(report, link);
        let names = names_without_link(&rows);
        let settings: Vec<_> = (rows.into_iter().zip(names))
            .filter_map(|(row, name)| {
                let cost = row.cost()?;
                Some((row, name, (cost.time, cost.bytes / MIB)))
            })
            .collect();
        let points: Vec<(f64, f64)> = settings.iter().map(|(_, _, point)| *point).collect();
        // No link is emulated for peers.
        let peers = report.peers.iter().filter(|_| link == UNLIMITED);
        let place = |peer: &PeerReport| Some((peer.time?.median, peer.wire_bytes?.median / MIB));
        Points {
            front: advice::front(&points),
            settings,
            unplaced: (peers.clone())
                .filter(|peer| peer.time.is_some() && peer.wire_bytes.is_none())
                .map(|peer| peer.mode.name.as_str())
                .collect(),
            peers: peers
                .filter_map(|peer| Some((peer, place(peer)?)))
                .collect(),
        }
    }

    /// The least and the greatest coordinate.
    fn range(&self, of: fn(&(f64, f64)) -> f64) -> (f64, f64) {
        let settings = self.settings.iter().map(|(_, _, point)| of(point));
        let peers = self.peers.iter().map(|(_, point)| of(point));
        settings
            .chain(peers)
            .fold((f64::INFINITY, 0.0), |(least, greatest), value| {
                (f64::min(least, value), f64::max(greatest, value))
            })
    }

    fn rows(&self) -> Vec<Vec<String>> {
        let line = |name: &str, (time, bytes): (f64, f64), on_front: bool| {
            let front = if on_front { "yes" } else { "" };
            vec![name.to_owned(), short(time), short(bytes), front.to_owned()]
        };
        let settings = self.settings.iter().enumerate();
        let settings = settings
            .map(|(index, (_, name, point))| line(name, *point, self.front.contains(&index)));
        let peers = self.peers.iter();
        let peers = peers.map(|(peer, point)| line(&peer.name, *point, false));
        settings.chain(peers).collect()
    }

    fn note(&self, y: &Scale) -> String {
        let mut note =
            "Lower left is better. The dashed line joins the settings that no other beats \
                        in both time and bytes."
                .to_owned();
        note.push_str(if y.is_log() {
            " Bytes are on a logarithmic axis."
        } else {
            " The axis of bytes does not start at 0."
        });
        if let Some((peer, _)) = self.peers.first() {
            let what = if peer.mode.bulk_only {
                ", without the later rounds"
            } else {
                ""
            };
            note.push_str(&format!(
                " Diamonds are {}'s own modes{what}.",
                peer.mode.peer
            ));
        }
        if !self.unplaced.is_empty() {
            note.push_str(&format!(
                " Not shown, because QEMU does not count their bytes: {}.",
                self.unplaced.join("; ")
            ));
        }
        note
    }
}

/// Time against bytes. Bytes are zoomed: what a reader wants to compare is 64 MiB with 68, and not
/// either of them with 0.
pub(super) fn time_and_bytes(report: &BenchReport, link: &str) -> Option<Chart> {
    let points = Points::of(report, link);
    if points.settings.is_empty() {
        return None;
    }
    let title = format!("Time against bytes, link {link}");
    let mut svg = Svg::new(&title, HEIGHT);
    let (shortest, longest) = points.range(|point| point.0);
    let (x, label) = if longest > SPREAD * shortest {
        let scale = Scale::log(shortest, longest, LEFT, WIDTH - RIGHT);
        (scale, "time [ms], logarithmic")
    } else {
        let scale = Scale::linear(longest * 1.05, LEFT, WIDTH - RIGHT);
        (scale, "time [ms]")
    };
    let (fewest, most) = points.range(|point| point.1);
    let y = Scale::zoomed(fewest, most, svg.floor(), TOP);
    svg.x_axis(&x, label, short);
    svg.y_axis(&y, "on the wire [MiB]", short);
    draw(&mut svg, &points, |(time, bytes)| (x.at(time), y.at(bytes)));
    let rows: Vec<&SettingReport> = points.settings.iter().map(|(row, _, _)| *row).collect();
    let mut legend = method_legend(&rows);
    let peer = points.peers.first();
    legend.extend(peer.map(|(peer, _)| (peer.mode.peer.clone(), PEER)));
    let table = points.rows();
    Some(Chart {
        title,
        note: points.note(&y),
        svg: svg.end(),
        legend,
        head: strings(["setting", "time [ms]", "on the wire [MiB]", "on the line"]),
        points: table.len(),
        rows: table,
    })
}

fn draw(svg: &mut Svg, points: &Points<'_>, at: impl Fn((f64, f64)) -> (f64, f64)) {
    let settings = &points.settings;
    let front = points.front.iter().map(|index| &settings[*index]);
    let line: Vec<(f64, f64)> = front.clone().map(|(_, _, point)| at(*point)).collect();
    svg.line(
        "front",
        "4 4",
        &line,
        "the Pareto front: no setting is both faster and smaller",
    );
    svg.take_line(&line);
    let hover = |name: &str, (time, bytes): (f64, f64)| {
        format!("{name}: {} ms, {} MiB", short(time), short(bytes))
    };
    for (peer, point) in &points.peers {
        svg.diamond(PEER, at(*point), &hover(&peer.name, *point));
    }
    for (row, name, point) in settings {
        svg.dot(colour(row), at(*point), &hover(name, *point));
    }
    // Names on the line first: where there is no room for all, the others go without.
    for (_, name, point) in front {
        svg.name("", at(*point), name);
    }
    for (peer, point) in &points.peers {
        svg.name(PEER, at(*point), &peer.mode.name);
    }
    for (index, (_, name, point)) in settings.iter().enumerate() {
        if !points.front.contains(&index) {
            svg.name("minor", at(*point), name);
        }
    }
}
