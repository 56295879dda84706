//! A report as a page for a browser: charts, their tables, the conditions. It loads nothing and has no
//! script.

mod charts;
mod svg;

use std::time::Duration;

use minijinja::{Environment, Value, context};

use crate::bench::judge::noise;
use crate::bench::judge::recommend::bit_rate;
use crate::bench::peer::PeerReport;
use crate::bench::report::{Alternative, BenchReport, LinkReport};
use crate::bench::show::rows::{self, Sort};
use crate::bench::show::terminal;
use crate::units::{format_bytes, format_duration};

/// The template's name, whose ending decides how values are escaped.
const NAME: &str = "page.html";
const PAGE: &str = include_str!("page.html");

/// The page. The rows of its table are sorted.
///
/// # Errors
/// The template does not fit, which would be a bug.
pub fn page(report: &BenchReport, sort: Sort) -> Result<String, minijinja::Error> {
    let mut environment = Environment::new();
    environment.add_template(NAME, PAGE)?;
    let columns = rows::columns(report);
    let headings: Vec<_> = rows::HEADINGS.into_iter().take(columns).collect();
    let image = &report.image;
    environment.get_template(NAME)?.render(context! {
        image => image.mix.map_or_else(
            || image.path.clone(),
            |mix| format!("a synthetic guest ({mix})"),
        ),
        started => report.conditions.started.clone(),
        machine => machine(report),
        ram => format_bytes(image.ram_bytes),
        data => format_bytes(image.data_bytes),
        goal => terminal::goal_words(report.plan.goal),
        error => report.error_desc.clone(),
        disturbed => noise::disturbed(report),
        links => report.links.iter().map(link).collect::<Vec<Value>>(),
        commands => terminal::commands_by_link(report)
            .into_iter()
            .map(commands)
            .collect::<Vec<Value>>(),
        charts => charts::all(report).into_iter().map(chart).collect::<Vec<Value>>(),
        headings,
        columns,
        groups => rows::groups(report, sort).into_iter().map(group).collect::<Vec<Value>>(),
        failed => report.peers.iter().filter_map(failed).collect::<Vec<Value>>(),
        warnings => terminal::warnings(report)
            .into_iter()
            .map(|(words, names)| context! { words, names => names.join("; ") })
            .collect::<Vec<Value>>(),
        peer_note => (!report.peers.is_empty()).then_some(terminal::PEER_NOTE),
        conditions => conditions(report),
        version => report.version,
    })
}

/// The machine in a few words.
fn machine(report: &BenchReport) -> String {
    let cores = report.conditions.cores;
    match &report.conditions.cpu_model {
        Some(model) => format!("{model}, {cores} cores"),
        None => format!("{cores} cores"),
    }
}

fn chart(chart: charts::Chart) -> Value {
    context! {
        title => chart.title,
        note => chart.note,
        // All text in it is escaped where it is made.
        svg => Value::from_safe_string(chart.svg),
        legend => chart.legend,
        head => chart.head,
        rows => chart.rows,
        points => chart.points,
    }
}

/// A recommendation, as the cells of a table.
fn link(link: &LinkReport) -> Value {
    let chosen = &link.recommended;
    let other = chosen.alternative.as_ref();
    let speed = |other: &Alternative| match (other.measurable, other.times_as_fast) {
        (false, _) => format!("no measurable difference from {}", other.setting),
        (true, times) => format!("{times:.2} times as fast as {}", other.setting),
    };
    context! {
        link => link.link.clone(),
        measured => link.measured,
        setting => chosen.setting.clone(),
        time => milliseconds(chosen.time),
        downtime => chosen.downtime.map(milliseconds),
        speed => other.map(speed),
        bytes => other.map(|other| format!("{:.0} %", other.bytes_percent)),
        limit => chosen.limit.words().unwrap_or("neither link nor CPU"),
        pays => chosen.pays_below.map(|rate| format!("below {}", bit_rate(rate))),
        reason => chosen.reason.clone(),
    }
}

fn commands(link: terminal::LinkCommands) -> Value {
    let block = |block: terminal::CommandBlock| {
        context! { words => block.words, lines => block.lines }
    };
    let blocks: Vec<Value> = link.blocks.into_iter().map(block).collect();
    context! { chosen => link.chosen, blocks }
}

fn group(group: rows::RowGroup<'_>) -> Value {
    let row = |row: rows::TableRow<'_>| {
        context! { cells => row.cells, dominated_by => row.dominated_by }
    };
    let rows: Vec<Value> = group.rows.into_iter().map(row).collect();
    context! { title => group.title, rows }
}

fn failed(peer: &PeerReport) -> Option<Value> {
    let why = peer.error_desc.clone()?;
    Some(context! { name => peer.name.clone(), why })
}

fn milliseconds(time: f64) -> String {
    format_duration(Duration::try_from_secs_f64(time / 1e3).unwrap_or_default())
}

/// The conditions of the measurement, as names and values.
fn conditions(report: &BenchReport) -> Vec<(&'static str, String)> {
    let (conditions, image, plan) = (&report.conditions, &report.image, &report.plan);
    let unknown = || "unknown".to_owned();
    let mut lines = vec![
        (
            "started",
            conditions.started.clone().unwrap_or_else(unknown),
        ),
        ("CPU", conditions.cpu_model.clone().unwrap_or_else(unknown)),
        ("cores", conditions.cores.to_string()),
        ("kernel", conditions.kernel.clone().unwrap_or_else(unknown)),
        (
            "governor",
            conditions.governor.clone().unwrap_or_else(unknown),
        ),
        (
            "load average before",
            conditions.load.map_or_else(unknown, |load| {
                load.map(|number| format!("{number:.2}")).join(", ")
            }),
        ),
        (
            "codecs",
            conditions
                .codecs
                .values()
                .cloned()
                .collect::<Vec<_>>()
                .join(", "),
        ),
        ("image", image.path.clone()),
        ("digest", image.digest.to_string()),
        ("later images", image.then.len().to_string()),
        ("transport", plan.transport.to_string()),
        ("output in", plan.scratch.clone()),
        ("runs of each setting", plan.runs.to_string()),
        ("expected to take", milliseconds(plan.expected_time)),
    ];
    if let Some(mix) = image.mix {
        lines.push(("mix of pages", mix.to_owned()));
    }
    if let Some(seed) = image.seed {
        lines.push(("seed", seed.to_string()));
    }
    if !plan.dropped.is_empty() {
        lines.push(("left out to fit into the time", plan.dropped.join("; ")));
    }
    lines.extend(plan.notes.iter().map(|note| ("note", note.clone())));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::tests::{peer, report_of, report_with, run};

    fn marks(svg: &str) -> usize {
        svg.matches("class=\"mark ").count()
    }

    /// Whether tags are closed in the order in which they were opened.
    fn is_well_formed(text: &str) -> bool {
        const VOID: [&str; 2] = ["meta", "br"];
        let mut open: Vec<&str> = Vec::new();
        for tag in text.split('<').skip(1) {
            let Some((tag, _)) = tag.split_once('>') else {
                return false;
            };
            let name = tag.split([' ', '/']).find(|word| !word.is_empty());
            let name = name.unwrap_or("");
            if tag.starts_with('/') {
                if open.pop() != Some(name) {
                    return false;
                }
            } else if !tag.starts_with('!') && !tag.ends_with('/') && !VOID.contains(&name) {
                open.push(name);
            }
        }
        open.is_empty()
    }

    #[test]
    fn every_chart_has_as_many_marks_as_the_data_has_points() {
        let base = report_with(&[("none", 1.0, 1), ("zstd:1", 1.0, 1)]);
        let mut rows = Vec::new();
        for setting in base.settings.iter().map(|row| row.setting) {
            for threads in [1_u8, 2, 4] {
                for link in [None, "1Gbit".parse().ok()] {
                    let mut setting = setting.over(link);
                    setting.compress_threads = threads;
                    let time = 900.0 / f64::from(threads) + setting.compression.level as f64;
                    rows.push((setting, vec![run(time, 1 << 27), run(time * 1.1, 1 << 27)]));
                }
            }
        }
        let mut report = report_of(rows);
        report.peers = vec![
            peer("plain", &[(600.0, Some(1 << 29))]),
            peer("multifd zlib:1", &[(800.0, None)]),
            peer("multifd zstd:1", &[]),
        ];
        let charts = charts::all(&report);
        let of = |title: &str| {
            let chart = charts.iter().find(|chart| chart.title.starts_with(title));
            chart.unwrap_or_else(|| panic!("{title}"))
        };
        // Twelve settings, six over each link; codec and read at the source, place at the other end.
        // Two of the peer's modes have run, and one of them counts its bytes.
        for (title, points, rows) in [
            ("Time against bytes, link unlimited", 7, 7),
            ("Time against bytes, link 1Gbit", 6, 6),
            ("Time against the link's rate", 12, 12),
            ("Compression threads, link unlimited", 6, 6),
            ("Compression threads, link 1Gbit", 6, 6),
            ("CPU seconds", 40, 40),
            // The plain copy has one; the hand-made runs have a codec in any case.
            ("The codec alone", 1 + 3 * 2 + 3 * 3, 7),
            ("The pages", 4, 4),
        ] {
            let chart = of(title);
            assert_eq!(
                (chart.points, marks(&chart.svg)),
                (points, points),
                "{title}"
            );
            assert_eq!(chart.rows.len(), rows, "{title}");
            let even = |row: &Vec<String>| row.len() == chart.head.len();
            assert!(chart.rows.iter().all(even), "{title}");
            assert!(chart.svg.matches("<title>").count() >= points, "{title}");
            assert!(
                !chart.legend.is_empty() && !chart.svg.contains("NaN"),
                "{title}"
            );
            assert!(is_well_formed(&chart.svg), "{title}");
        }
        assert_eq!(charts.len(), 8);
        let unlimited = of("Time against bytes, link unlimited");
        assert!(unlimited.note.ends_with("their bytes: multifd zlib:1."));
        assert!(!of("Time against bytes, link 1Gbit").note.contains("QEMU"));
        let page = page(&report, Sort::Given).expect("a page");
        let points: usize = charts.iter().map(|chart| chart.points).sum();
        assert!(is_well_formed(&page) && marks(&page) == points);
    }

    #[test]
    fn what_a_peer_said_last_is_on_the_page() {
        let mut report = report_with(&[("none", 500.0, 400)]);
        report.peers[0].error_desc = Some("<it> ended".to_owned());
        let page = page(&report, Sort::Given).expect("a page");
        let words = "QEMU 7.2.22 multifd zlib:1 failed: &lt;it&gt; ended.";
        assert!(page.contains(words) && page.contains("not emulated"));
        assert!(is_well_formed(&page));
    }

    #[test]
    fn delta_rounds_have_a_bar_for_each_round_after_the_first() {
        let mut with_rounds = run(100.0, 1 << 20);
        let round = |round, wire_bytes| {
            crate::stats::RoundReport::from(&crate::stats::RoundStats {
                round: crate::round::Round(round),
                time: std::time::Duration::from_millis(1),
                wire_bytes,
                tally: crate::stats::Tally::default(),
            })
        };
        with_rounds.rounds = vec![round(1, 1 << 24), round(2, 1 << 20), round(3, 1 << 19)];
        let setting = report_with(&[("lz4", 1.0, 1)]).settings[0].setting;
        let charts = charts::all(&report_of(vec![(setting, vec![with_rounds])]));
        let chart = charts.iter().find(|chart| chart.title == "Delta rounds");
        let chart = chart.expect("there are rounds");
        assert_eq!((chart.points, marks(&chart.svg)), (2, 2));
        assert_eq!(chart.rows[0], ["lz4", "2", "1"]);
    }

    #[test]
    fn the_page_stands_alone_and_nothing_in_it_is_taken_for_markup() {
        let mut report = report_with(&[("none", 500.0, 400 << 20), ("zstd:1", 700.0, 100 << 20)]);
        report.image.path = "<script>alert(1)</script>.ram".to_owned();
        report.settings[0].name = "<b>none".to_owned();
        let page = page(&report, Sort::Given).expect("a page");
        assert!(!page.contains("<script") && !page.contains("<b>none"));
        assert!(!page.contains("http:") && !page.contains("https:") && !page.contains("url("));
        assert!(page.contains("prefers-color-scheme: dark"));
        assert!(page.contains("A CPU") && page.contains("ramferry send"));
        assert!(is_well_formed(&page), "{page}");
        let points: usize = charts::all(&report).iter().map(|chart| chart.points).sum();
        assert_eq!(marks(&page), points);
    }

    #[test]
    fn a_page_of_nothing_is_a_page() {
        let empty = page(&report_of(vec![]), Sort::Given).expect("a page");
        assert!(is_well_formed(&empty));
    }
}
