//! What to choose over each link, in words and as the commands that choose it.
//!
//! For links that were measured, from their measurements; for a few rates in common use besides,
//! from what was measured without a limit: the longer of what a setting took and what the link
//! needs for its bytes.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use super::commands::{self, QemuCommands};
use super::limit::{self, Around, Limit};
use super::matrix::{Setting, UNLIMITED, names};
use super::measurement::Run;
use super::report::{Report, SettingReport};
use super::statistics::Summary;
use crate::advice::{self, BreakEven, Cost, Goal};
use crate::codec::Method;
use crate::units::format_duration;

/// The rates that are computed for if they were not measured: names and bits a second.
const COMPUTED: [(&str, f64); 3] = [("10Gbit", 1e10), ("1Gbit", 1e9), ("100Mbit", 1e8)];

/// What is best over one link.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct LinkReport {
    /// The link, or `unlimited`.
    pub link: String,
    /// Whether it was measured, or is computed from what was measured without a limit.
    pub measured: bool,
    /// Milliseconds over this link, by setting.
    pub times: Vec<LinkTime>,
    /// The name of the best setting for each goal.
    pub best: BTreeMap<&'static str, String>,
    /// The best for the goal that was asked for.
    pub recommended: Recommendation,
    /// From where on compression pays, for every setting that compresses. Empty if plain was not
    /// measured, or if the link is not the fastest that was.
    pub break_even: Vec<BreakEvenReport>,
}

/// How long a setting takes over a link.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct LinkTime {
    /// The setting, without the link.
    pub setting: String,
    /// Milliseconds.
    pub time: f64,
}

/// One setting, why, and how it is set.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Recommendation {
    /// The setting's name.
    pub setting: String,
    /// What limits it.
    pub limit: Limit,
    /// In a sentence or two.
    pub reason: String,
    /// The command that receives so.
    pub receive: String,
    /// The command that sends so.
    pub send: String,
    /// The setting that the next two are for: the same, or the best that QEMU has too. Null if
    /// there is none.
    pub qemu_setting: Option<String>,
    /// virsh's command. Multifd: the channels are the threads.
    pub virsh: Option<String>,
    /// The QMP commands, for both ends.
    pub qmp: Vec<Value>,
    /// The same by the capability `compress`, for a QEMU up to 9.0; null where it does not have
    /// the method.
    pub qemu_compress: Option<QemuCommands>,
}

/// From where on compression pays.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct BreakEvenReport {
    /// The setting's name.
    pub setting: String,
    /// The best it is compared with: the same without compression.
    pub plain: String,
    /// `always`, `never` or `below`.
    pub verdict: &'static str,
    /// Below which rate of the link, in bits a second.
    pub bits_per_second: Option<f64>,
}

/// A setting that could be chosen.
struct Candidate<'a> {
    row: &'a SettingReport,
    cost: Cost,
    limit: Limit,
}

/// What all links have in common.
struct Measured<'a> {
    report: &'a Report,
    /// The image's name, for a shell.
    image: String,
}

/// What is best over each link that was measured, and over those in common use.
pub fn links(report: &Report) -> Vec<LinkReport> {
    let settings = &report.settings;
    let measured = Measured {
        report,
        image: match report.image.seed {
            Some(_) => "IMAGE".to_owned(),
            None => commands::quoted(&report.image.path),
        },
    };
    let mut links: Vec<String> = Vec::new();
    for row in settings {
        if !links.contains(&row.link()) {
            links.push(row.link());
        }
    }
    let mut reports = Vec::new();
    for name in &links {
        let rows = settings.iter().filter(|row| row.link() == *name);
        let candidates: Vec<Candidate<'_>> = rows.filter_map(candidate).collect();
        let fastest = links.first() == Some(name) || name == UNLIMITED;
        reports.extend(about(name.clone(), true, &candidates, &measured, fastest));
    }
    for (name, rate) in COMPUTED {
        if links.iter().any(|measured| measured == name) {
            continue;
        }
        let rows = settings.iter().filter(|row| row.link() == UNLIMITED);
        let candidates: Vec<Candidate<'_>> = rows
            .filter_map(candidate)
            .map(|candidate| slowed(candidate, rate))
            .collect();
        let name = name.to_owned();
        reports.extend(about(name, false, &candidates, &measured, false));
    }
    reports
}

fn candidate(row: &SettingReport) -> Option<Candidate<'_>> {
    Some(Candidate {
        cost: row.cost()?,
        limit: row.limit?,
        row,
    })
}

/// The same over a link of this rate.
fn slowed(mut candidate: Candidate<'_>, rate: f64) -> Candidate<'_> {
    let cost = &mut candidate.cost;
    let over = advice::time_over(cost.time, cost.bytes, rate);
    if over > cost.time {
        candidate.limit = Limit::Link;
    }
    cost.time = over;
    let last = candidate.row.runs.last().and_then(|run| run.rounds.last());
    if let (Some(downtime), Some(round)) = (cost.downtime, last) {
        cost.downtime = Some(advice::time_over(downtime, round.wire_bytes as f64, rate));
    }
    candidate
}

fn about(
    link: String,
    measured: bool,
    candidates: &[Candidate<'_>],
    all: &Measured<'_>,
    fastest: bool,
) -> Option<LinkReport> {
    let goal = all.report.plan.goal;
    let costs: Vec<Cost> = candidates.iter().map(|one| one.cost).collect();
    let settings: Vec<Setting> = candidates
        .iter()
        .map(|one| one.row.setting.over(None))
        .collect();
    let names = names(&settings);
    let chosen = advice::best(&costs, goal)?;
    let best = Goal::ALL
        .into_iter()
        .filter(|goal| *goal != Goal::Downtime || costs.iter().any(|cost| cost.downtime.is_some()))
        .filter_map(|goal| Some((goal.name(), names[advice::best(&costs, goal)?].clone())))
        .collect();
    let plain = plain(candidates);
    let break_even = match plain {
        Some(plain) if fastest => break_evens(candidates, plain, &names),
        _ => Vec::new(),
    };
    // The best among what QEMU has too.
    let in_qemu: Vec<usize> = (0..candidates.len())
        .filter(|index| commands::has_qemu(&settings[*index]))
        .collect();
    let qemu_costs: Vec<Cost> = in_qemu.iter().map(|index| costs[*index]).collect();
    let for_qemu = if commands::has_qemu(&settings[chosen]) {
        Some(chosen)
    } else {
        advice::best(&qemu_costs, goal).map(|at| in_qemu[at])
    };
    let setting = &settings[chosen];
    let rounds = candidates[chosen].cost.downtime.is_some();
    let qemu = for_qemu.map(|index| commands::qemu(&settings[index], rounds));
    let recommended = Recommendation {
        setting: names[chosen].clone(),
        limit: candidates[chosen].limit,
        reason: reason(candidates, &names, chosen, plain, &break_even, all.report),
        receive: commands::receive(setting),
        send: commands::send(setting, &all.image, rounds),
        qemu_setting: for_qemu.map(|index| names[index].clone()),
        virsh: qemu.as_ref().map(|qemu| qemu.virsh.clone()),
        qmp: qemu.map_or_else(Vec::new, |qemu| qemu.qmp),
        qemu_compress: for_qemu.and_then(|index| commands::qemu_compress(&settings[index], rounds)),
    };
    Some(LinkReport {
        link,
        measured,
        times: names
            .iter()
            .zip(&costs)
            .map(|(setting, cost)| LinkTime {
                setting: setting.clone(),
                time: cost.time,
            })
            .collect(),
        best,
        recommended,
        break_even,
    })
}

/// The fastest that does not compress.
fn plain(candidates: &[Candidate<'_>]) -> Option<usize> {
    (0..candidates.len())
        .filter(|index| candidates[*index].row.setting.compression.method == Method::None)
        .min_by(|a, b| {
            let (a, b) = (candidates[*a].cost, candidates[*b].cost);
            a.time.total_cmp(&b.time)
        })
}

fn break_evens(
    candidates: &[Candidate<'_>],
    plain: usize,
    names: &[String],
) -> Vec<BreakEvenReport> {
    let pair = |cost: Cost| (cost.time, cost.bytes);
    let compressed = candidates
        .iter()
        .zip(names)
        .filter(|(one, _)| one.row.setting.compression.method != Method::None);
    compressed
        .map(|(one, name)| {
            let even = advice::break_even(pair(candidates[plain].cost), pair(one.cost));
            let (verdict, rate) = match even {
                BreakEven::Always => ("always", None),
                BreakEven::Never => ("never", None),
                BreakEven::Below(rate) => ("below", Some(rate)),
            };
            BreakEvenReport {
                setting: name.clone(),
                plain: names[plain].clone(),
                verdict,
                bits_per_second: rate,
            }
        })
        .collect()
}

/// Which one has the least of what is asked for, if that is not the chosen one: next to it the
/// choice would look like a mistake.
fn as_good(candidates: &[Candidate<'_>], names: &[String], chosen: usize, goal: Goal) -> String {
    let least = (0..candidates.len()).min_by(|a, b| {
        let (a, b) = (candidates[*a].cost, candidates[*b].cost);
        a.of(goal).total_cmp(&b.of(goal))
    });
    let Some(least) = least.filter(|least| *least != chosen) else {
        return String::new();
    };
    let (other, own) = (candidates[least].cost, candidates[chosen].cost);
    let instead = match goal {
        Goal::Cpu => format!(
            "takes {:.0} % longer",
            (other.time / own.time.max(1e-9) - 1.0) * 100.0
        ),
        _ => format!("takes {:.2} CPU s more", (other.cpu - own.cpu).max(0.0)),
    };
    format!("; {} is as good within 2 % and {instead}", names[least])
}

/// Why this one.
fn reason(
    candidates: &[Candidate<'_>],
    names: &[String],
    chosen: usize,
    plain: Option<usize>,
    break_even: &[BreakEvenReport],
    report: &Report,
) -> String {
    let cost = candidates[chosen].cost;
    let time = |milliseconds: f64| {
        format_duration(Duration::try_from_secs_f64(milliseconds / 1e3).unwrap_or_default())
    };
    let mut words = time(cost.time);
    if let Some(downtime) = cost.downtime {
        words.push_str(&format!(", {} of downtime", time(downtime)));
    }
    match plain {
        Some(plain) if plain != chosen => {
            let other = candidates[plain].cost;
            words.push_str(&format!(
                ": {:.2} times as fast as {} ({}), with {:.0} % of its bytes and {:.2} CPU s {}",
                other.time / cost.time.max(1e-9),
                names[plain],
                time(other.time),
                cost.bytes * 100.0 / other.bytes.max(1.0),
                (cost.cpu - other.cpu).abs(),
                if cost.cpu < other.cpu { "less" } else { "more" },
            ));
        }
        Some(_) => {
            let next = (0..candidates.len())
                .filter(|index| candidates[*index].row.setting.compression.method != Method::None)
                .min_by(|a, b| {
                    let (a, b) = (candidates[*a].cost, candidates[*b].cost);
                    a.time.total_cmp(&b.time)
                });
            if let Some(next) = next {
                words.push_str(&format!(
                    ": nothing is gained by compressing, {} takes {}",
                    names[next],
                    time(candidates[next].cost.time)
                ));
            }
        }
        None => {}
    }
    words.push_str(&as_good(candidates, names, chosen, report.plan.goal));
    words.push_str("; ");
    words.push_str(&match candidates[chosen].limit.words() {
        Some(what) => format!("limited by {what}"),
        None => limit::waiting(&around(candidates[chosen].row, report)),
    });
    if candidates[chosen].row.setting.compression.method == Method::None {
        let highest = break_even
            .iter()
            .filter_map(|one| Some((one.bits_per_second?, &one.setting)))
            .max_by(|a, b| a.0.total_cmp(&b.0));
        if let Some((rate, name)) = highest {
            words.push_str(&format!("; {name} pays below {}", bit_rate(rate)));
        }
    } else if let Some(one) = break_even.iter().find(|one| one.setting == names[chosen])
        && let Some(rate) = one.bits_per_second
    {
        words.push_str(&format!("; it pays below {}", bit_rate(rate)));
    }
    words
}

/// Cores that something else used during these runs, by the median; `None` where the system does not
/// tell.
pub fn others<'a>(runs: impl IntoIterator<Item = &'a Run>) -> Option<f64> {
    let cores = runs.into_iter().filter_map(|run| {
        let others = run.machine_cpu_seconds? - run.process_cpu_seconds;
        Some(others.max(0.0) / (run.time / 1e3).max(1e-9))
    });
    Summary::of(cores).map(|cores| cores.median)
}

/// That something else used a good part of the machine while all of it was measured, if so.
pub fn disturbed(report: &Report) -> Option<String> {
    let others = others(report.settings.iter().flat_map(|row| &row.runs))?;
    let conditions = &report.conditions;
    let load = conditions.load.map_or_else(String::new, |[minute, ..]| {
        format!("; load average {minute:.2} before the first run")
    });
    limit::in_the_way(others, conditions.cores).then(|| {
        format!(
            "something else used {others:.1} of {} cores meanwhile{load}: compare, but do not \
             trust the times",
            conditions.cores
        )
    })
}

/// What else may have had a part in how long a setting took.
fn around(row: &SettingReport, report: &Report) -> Around {
    Around {
        delay: row
            .setting
            .link
            .map_or(0.0, |link| link.delay().as_secs_f64()),
        others: others(&row.runs),
        cores: report.conditions.cores,
        load: report.conditions.load.map(|[minute, ..]| minute),
    }
}

/// A rate of a link for people.
pub(super) fn bit_rate(bits_per_second: f64) -> String {
    match bits_per_second {
        rate if rate >= 1e9 => format!("{:.2} Gbit/s", rate / 1e9),
        rate if rate >= 1e6 => format!("{:.1} Mbit/s", rate / 1e6),
        rate => format!("{:.1} kbit/s", rate / 1e3),
    }
}

#[cfg(test)]
mod tests;
