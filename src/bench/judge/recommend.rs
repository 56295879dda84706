//! What to choose over each link, in words and as commands.
//!
//! For links that were measured, from their measurements. For a few common rates besides, computed
//! from what was measured without a limit: the longer of the setting's time and the time that the
//! link needs for its bytes.

use std::time::Duration;

use super::commands;
use super::noise::others;
use crate::advice::{self, BreakEven, Cost, Goal};
use crate::bench::limit::{self, Limit, WaitCauses};
use crate::bench::measure::setting::{UNLIMITED, names};
use crate::bench::report::{
    Alternative, BenchReport, BreakEvenReport, LinkReport, LinkTime, Recommendation, SettingReport,
};
use crate::bench::statistics::Summary;
use crate::codec::Method;
use crate::units::format_duration;

/// The rates that are computed if they were not measured: names and bits per second.
const COMPUTED: [(&str, f64); 3] = [("10Gbit", 1e10), ("1Gbit", 1e9), ("100Mbit", 1e8)];

/// What is best over each link that was measured, and over the common ones.
pub fn links(report: &BenchReport) -> Vec<LinkReport> {
    let settings = &report.settings;
    let mut links: Vec<String> = Vec::new();
    for row in settings {
        if !links.contains(&row.link()) {
            links.push(row.link());
        }
    }
    let mut reports = Vec::new();
    for name in &links {
        let rows = settings.iter().filter(|row| row.link() == *name);
        let fastest = links.first() == Some(name) || name == UNLIMITED;
        let choice = Choice::new(report, rows.filter_map(candidate).collect(), fastest);
        reports.extend(choice.link_report(name, true));
    }
    for (name, rate) in COMPUTED {
        if links.iter().any(|measured| measured == name) {
            continue;
        }
        let rows = settings.iter().filter(|row| row.link() == UNLIMITED);
        let slowed = rows.filter_map(candidate).map(|one| slowed(one, rate));
        let choice = Choice::new(report, slowed.collect(), false);
        reports.extend(choice.link_report(name, false));
    }
    reports
}

/// A setting that could be chosen.
struct Candidate<'a> {
    row: &'a SettingReport,
    cost: Cost,
    limit: Limit,
    /// The time with its noise.
    time: Summary,
}

impl Candidate<'_> {
    fn compresses(&self) -> bool {
        self.row.setting.compression.method != Method::None
    }
}

fn candidate(row: &SettingReport) -> Option<Candidate<'_>> {
    Some(Candidate {
        cost: row.cost()?,
        limit: row.limit?,
        time: row.time?,
        row,
    })
}

/// The same over a link of this rate.
fn slowed(mut candidate: Candidate<'_>, rate: f64) -> Candidate<'_> {
    let cost = &mut candidate.cost;
    let over = advice::time_over(cost.time, cost.bytes, rate);
    if over > cost.time {
        candidate.limit = Limit::Link;
        // The time of a link that is always busy has no noise.
        candidate.time = Summary {
            min: over,
            median: over,
            max: over,
            mad: 0.0,
        };
    }
    cost.time = over;
    let last = candidate.row.runs.last().and_then(|run| run.rounds.last());
    if let (Some(downtime), Some(round)) = (cost.downtime, last) {
        cost.downtime = Some(advice::time_over(downtime, round.wire_bytes as f64, rate));
    }
    candidate
}

/// The candidates over one link.
struct Choice<'a> {
    report: &'a BenchReport,
    candidates: Vec<Candidate<'a>>,
    names: Vec<String>,
    costs: Vec<Cost>,
    /// The fastest that does not compress.
    plain: Option<usize>,
    /// Whether no faster link was measured, so that break-even rates follow.
    fastest: bool,
}

impl<'a> Choice<'a> {
    fn new(report: &'a BenchReport, candidates: Vec<Candidate<'a>>, fastest: bool) -> Choice<'a> {
        let settings = candidates.iter().map(|one| one.row.setting.over(None));
        Choice {
            names: names(&settings.collect::<Vec<_>>()),
            costs: candidates.iter().map(|one| one.cost).collect(),
            plain: fastest_of(&candidates, |one| !one.compresses()),
            report,
            candidates,
            fastest,
        }
    }

    fn link_report(&self, link: &str, measured: bool) -> Option<LinkReport> {
        let costs = &self.costs;
        let chosen = advice::best(costs, self.report.plan.goal)?;
        let with_downtime = costs.iter().any(|cost| cost.downtime.is_some());
        let goals = Goal::ALL.into_iter();
        let goals = goals.filter(|goal| *goal != Goal::Downtime || with_downtime);
        let break_even = self.break_even();
        let times = self.names.iter().zip(costs);
        Some(LinkReport {
            link: link.to_owned(),
            measured,
            times: times
                .map(|(setting, cost)| LinkTime {
                    setting: setting.clone(),
                    time: cost.time,
                })
                .collect(),
            best: goals
                .filter_map(|goal| {
                    let best = advice::best(costs, goal)?;
                    Some((goal.name(), self.names[best].clone()))
                })
                .collect(),
            best_tolerance: advice::AS_GOOD,
            recommended: self.recommendation(chosen, &break_even),
            break_even,
        })
    }

    fn recommendation(&self, chosen: usize, break_even: &[BreakEvenReport]) -> Recommendation {
        let one = &self.candidates[chosen];
        let setting = &one.row.setting.over(None);
        let rounds = one.cost.downtime.is_some();
        let for_qemu = self.for_qemu(chosen);
        let qemu = for_qemu.map(|index| (&self.names[index], self.candidates[index].row.setting));
        let qemu_commands = qemu.map(|(_, setting)| commands::qemu(&setting, rounds));
        let mut recommendation = Recommendation {
            setting: self.names[chosen].clone(),
            time: one.cost.time,
            downtime: one.cost.downtime,
            limit: one.limit,
            alternative: self.alternative(chosen),
            pays_below: self.pays_below(chosen, break_even),
            reason: String::new(),
            receive: commands::receive(setting),
            send: commands::send(setting, &self.report.image, rounds),
            qemu_setting: qemu.map(|(name, _)| name.clone()),
            virsh: qemu_commands.as_ref().map(|qemu| qemu.virsh.clone()),
            qmp: qemu_commands.map_or_else(Vec::new, |qemu| qemu.qmp),
            qemu_compress: qemu.and_then(|(_, setting)| commands::qemu_compress(&setting, rounds)),
        };
        recommendation.reason = self.reason(chosen, &recommendation, break_even);
        recommendation
    }

    /// The chosen one, or the best that QEMU supports.
    fn for_qemu(&self, chosen: usize) -> Option<usize> {
        let has = |index: &usize| commands::has_qemu(&self.candidates[*index].row.setting);
        if has(&chosen) {
            return Some(chosen);
        }
        let supported: Vec<usize> = (0..self.candidates.len()).filter(has).collect();
        let costs: Vec<Cost> = supported.iter().map(|index| self.costs[*index]).collect();
        advice::best(&costs, self.report.plan.goal).map(|at| supported[at])
    }

    fn break_even(&self) -> Vec<BreakEvenReport> {
        let Some(plain) = self.plain.filter(|_| self.fastest) else {
            return Vec::new();
        };
        let pair = |cost: Cost| (cost.time, cost.bytes);
        let compressed = self.candidates.iter().zip(&self.names);
        compressed
            .filter(|(one, _)| one.compresses())
            .map(|(one, name)| {
                let even = advice::break_even(pair(self.costs[plain]), pair(one.cost));
                let (verdict, rate) = match even {
                    BreakEven::Always => ("always", None),
                    BreakEven::Never => ("never", None),
                    BreakEven::Below(rate) => ("below", Some(rate)),
                };
                BreakEvenReport {
                    setting: name.clone(),
                    plain: self.names[plain].clone(),
                    verdict,
                    bits_per_second: rate,
                }
            })
            .collect()
    }

    /// The best that does not compress, or, for that one, the fastest that does.
    fn alternative(&self, chosen: usize) -> Option<Alternative> {
        let plain = self.plain?;
        let other = if plain == chosen {
            fastest_of(&self.candidates, |one| one.compresses())?
        } else {
            plain
        };
        let (own, cost) = (self.costs[chosen], self.costs[other]);
        let times = (&self.candidates[chosen].time, &self.candidates[other].time);
        Some(Alternative {
            setting: self.names[other].clone(),
            time: cost.time,
            times_as_fast: cost.time / own.time.max(1e-9),
            bytes_percent: own.bytes * 100.0 / cost.bytes.max(1.0),
            more_cpu_seconds: own.cpu - cost.cpu,
            measurable: times.0.differs_from(times.1),
        })
    }

    /// Of a chosen setting that compresses, the rate below which it pays; without compression, the
    /// highest such rate of all settings that compress.
    fn pays_below(&self, chosen: usize, break_even: &[BreakEvenReport]) -> Option<f64> {
        self.paying(chosen, break_even)?.bits_per_second
    }

    fn paying<'b>(
        &self,
        chosen: usize,
        break_even: &'b [BreakEvenReport],
    ) -> Option<&'b BreakEvenReport> {
        if self.candidates[chosen].compresses() {
            return break_even
                .iter()
                .find(|one| one.setting == self.names[chosen]);
        }
        let rated = break_even
            .iter()
            .filter_map(|one| Some((one.bits_per_second?, one)));
        rated.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, one)| one)
    }

    /// Why this one, in words.
    fn reason(
        &self,
        chosen: usize,
        recommendation: &Recommendation,
        break_even: &[BreakEvenReport],
    ) -> String {
        let one = &self.candidates[chosen];
        let mut words = duration(one.cost.time);
        if let Some(downtime) = one.cost.downtime {
            words.push_str(&format!(", {} of downtime", duration(downtime)));
        }
        if let Some(other) = &recommendation.alternative {
            words.push_str(": ");
            words.push_str(&comparison(one.compresses(), other));
        }
        words.push_str(&self.as_good(chosen));
        words.push_str("; ");
        words.push_str(&match one.limit.words() {
            Some(what) => format!("limited by {what}"),
            None => limit::waiting(&self.wait_causes(one)),
        });
        if let Some(rate) = recommendation.pays_below {
            let rate = bit_rate(rate);
            words.push_str(&match self.paying(chosen, break_even) {
                Some(paying) if !one.compresses() => {
                    format!("; {} pays below {rate}", paying.setting)
                }
                _ => format!("; it pays below {rate}"),
            });
        }
        words
    }

    /// Names the setting with the least of the goal, if that is not the chosen one. Without this
    /// remark the choice would look like a mistake beside the table.
    fn as_good(&self, chosen: usize) -> String {
        let goal = self.report.plan.goal;
        let least = (0..self.costs.len())
            .min_by(|a, b| self.costs[*a].of(goal).total_cmp(&self.costs[*b].of(goal)));
        let Some(least) = least.filter(|least| *least != chosen) else {
            return String::new();
        };
        let (other, own) = (self.costs[least], self.costs[chosen]);
        let instead = match goal {
            Goal::Cpu => format!(
                "takes {:.0} % longer",
                (other.time / own.time.max(1e-9) - 1.0) * 100.0
            ),
            _ => format!("takes {:.2} CPU s more", (other.cpu - own.cpu).max(0.0)),
        };
        let name = &self.names[least];
        format!("; {name} is as good within 2 % and {instead}")
    }

    fn wait_causes(&self, one: &Candidate<'_>) -> WaitCauses {
        let link = one.row.setting.link;
        WaitCauses {
            delay: link.map_or(0.0, |link| link.delay().as_secs_f64()),
            others: others(&one.row.runs),
            cores: self.report.conditions.cores,
            load: self.report.conditions.load.map(|[minute, ..]| minute),
        }
    }
}

fn fastest_of(
    candidates: &[Candidate<'_>],
    wanted: impl Fn(&Candidate<'_>) -> bool,
) -> Option<usize> {
    (0..candidates.len())
        .filter(|index| wanted(&candidates[*index]))
        .min_by(|a, b| {
            let (a, b) = (candidates[*a].cost, candidates[*b].cost);
            a.time.total_cmp(&b.time)
        })
}

/// A setting against the other, in words.
fn comparison(compresses: bool, other: &Alternative) -> String {
    let (name, time) = (&other.setting, duration(other.time));
    if !compresses {
        return if other.measurable {
            format!("compression gains nothing, {name} takes {time}")
        } else {
            format!("no measurable difference from {name} ({time})")
        };
    }
    let speed = if other.measurable {
        format!("{:.2} times as fast as", other.times_as_fast)
    } else {
        "no measurable difference from".to_owned()
    };
    let cpu = match other.more_cpu_seconds {
        more if more >= 0.005 => format!("{more:.2} CPU s more"),
        more if more <= -0.005 => format!("{:.2} CPU s less", -more),
        _ => "as much CPU time".to_owned(),
    };
    format!(
        "{speed} {name} ({time}), with {:.0} % of its bytes and {cpu}",
        other.bytes_percent
    )
}

fn duration(milliseconds: f64) -> String {
    format_duration(Duration::try_from_secs_f64(milliseconds / 1e3).unwrap_or_default())
}

/// The rate of a link, for people.
pub fn bit_rate(bits_per_second: f64) -> String {
    match bits_per_second {
        rate if rate >= 1e9 => format!("{:.2} Gbit/s", rate / 1e9),
        rate if rate >= 1e6 => format!("{:.1} Mbit/s", rate / 1e6),
        rate => format!("{:.1} kbit/s", rate / 1e3),
    }
}

#[cfg(test)]
mod tests;
