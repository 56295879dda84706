//! A report as one page for a browser: charts, the tables behind them, the conditions. Nothing is
//! loaded from elsewhere, and nothing in it runs.

mod charts;
mod svg;

use minijinja::{Environment, Value, context};

use crate::bench::report::BenchReport;
use crate::bench::show::rows::{self, Sort};
use crate::bench::show::terminal;
use crate::units::{format_bytes, format_duration};

/// The page's frame. Its name says how values are escaped.
const NAME: &str = "page.html";
const PAGE: &str = include_str!("page.html");

/// The page. Rows of its table are sorted.
///
/// # Errors
/// When the template does not fit, which would be a bug.
pub fn page(report: &BenchReport, sort: Sort) -> Result<String, minijinja::Error> {
    let mut environment = Environment::new();
    environment.add_template(NAME, PAGE)?;
    let charts: Vec<Value> = charts::all(report)
        .into_iter()
        .map(|chart| {
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
        })
        .collect();
    let columns = rows::columns(report);
    let headings: Vec<_> = rows::HEADINGS.into_iter().take(columns).collect();
    let groups: Vec<Value> = rows::groups(report, sort)
        .into_iter()
        .map(|group| {
            let row = |row: rows::TableRow<'_>| {
                context! { cells => row.cells, dominated_by => row.dominated_by }
            };
            let rows: Vec<Value> = group.rows.into_iter().map(row).collect();
            context! { title => group.title, rows }
        })
        .collect();
    let failed: Vec<Value> = report
        .peers
        .iter()
        .filter(|peer| peer.error_desc.is_some())
        .map(|peer| context! { name => peer.name.clone(), why => peer.error_desc.clone() })
        .collect();
    let warnings: Vec<Value> = terminal::warnings(report)
        .into_iter()
        .map(|(words, names)| context! { words, names => names.join("; ") })
        .collect();
    let links: Vec<Value> = report
        .links
        .iter()
        .map(|link| {
            context! {
                link => link.link.clone(),
                measured => link.measured,
                setting => link.recommended.setting.clone(),
                reason => link.recommended.reason.clone(),
            }
        })
        .collect();
    let commands: Vec<Value> = terminal::commands_by_link(report)
        .into_iter()
        .map(|link| {
            let block = |block: terminal::CommandBlock| {
                context! { words => block.words, lines => block.lines }
            };
            let blocks: Vec<Value> = link.blocks.into_iter().map(block).collect();
            context! { chosen => link.chosen, blocks }
        })
        .collect();
    environment.get_template(NAME)?.render(context! {
        image => report.image.path.clone(),
        ram => format_bytes(report.image.ram_bytes),
        data => format_bytes(report.image.data_bytes),
        goal => report.plan.goal.name(),
        error => report.error_desc.clone(),
        links,
        commands,
        charts,
        headings,
        columns,
        groups,
        failed,
        warnings,
        peer_note => (!report.peers.is_empty()).then_some(terminal::PEER_NOTE),
        conditions => conditions(report),
        version => report.version,
    })
}

/// What belongs to the result, as names and words.
fn conditions(report: &BenchReport) -> Vec<(&'static str, String)> {
    let (conditions, image, plan) = (&report.conditions, &report.image, &report.plan);
    let unknown = || "unknown".to_owned();
    let time = |milliseconds: f64| {
        let time = std::time::Duration::try_from_secs_f64(milliseconds / 1e3);
        format_duration(time.unwrap_or_default())
    };
    let mut lines = vec![
        ("CPU", conditions.cpu_model.clone().unwrap_or_else(unknown)),
        ("cores", conditions.cores.to_string()),
        ("kernel", conditions.kernel.clone().unwrap_or_else(unknown)),
        (
            "governor",
            conditions.governor.clone().unwrap_or_else(unknown),
        ),
        (
            "load before",
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
        ("expected to take", time(plan.expected_time)),
    ];
    if let Some(mix) = image.mix {
        lines.push(("mix of pages", mix.to_owned()));
    }
    if let Some(seed) = image.seed {
        lines.push(("seed", seed.to_string()));
    }
    if !plan.dropped.is_empty() {
        lines.push(("left out for want of time", plan.dropped.join("; ")));
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
        // Two of the peer's ways have run, and one of them counts its bytes.
        for (title, points, rows) in [
            ("Time against bytes, link unlimited", 7, 7),
            ("Time against bytes, link 1Gbit", 6, 6),
            ("Time against the link's rate", 12, 12),
            ("Compressing threads, link unlimited", 6, 6),
            ("Compressing threads, link 1Gbit", 6, 6),
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
