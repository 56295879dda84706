//! What the measured costs of settings mean: which are dominated, which is best for what, what
//! limits it, and below which rate of the link compression pays.
//!
//! Pure functions over numbers, without any knowledge of where they come from.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

/// What a setting costs, by medians.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cost {
    /// Milliseconds.
    pub time: f64,
    /// Bytes on the wire.
    pub bytes: f64,
    /// CPU seconds of both ends.
    pub cpu: f64,
    /// Milliseconds of downtime, if there were rounds.
    pub downtime: Option<f64>,
}

impl Cost {
    /// Whether this is nowhere worse, and better in time, bytes or CPU.
    pub fn dominates(&self, other: &Cost) -> bool {
        let pairs = [
            (self.time, other.time),
            (self.bytes, other.bytes),
            (self.cpu, other.cpu),
        ];
        pairs.iter().all(|(own, other)| own <= other)
            && pairs.iter().any(|(own, other)| own < other)
    }

    /// What `goal` wants to have as little of as possible.
    pub(super) fn of(&self, goal: Goal) -> f64 {
        match goal {
            Goal::Time => self.time,
            Goal::Bytes => self.bytes,
            Goal::Cpu => self.cpu,
            // Without later rounds the guest stands still all the time.
            Goal::Downtime => self.downtime.unwrap_or(self.time),
        }
    }
}

/// What there should be as little of as possible.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Goal {
    /// From the start to the end.
    #[default]
    Time,
    /// Bytes on the wire.
    Bytes,
    /// CPU seconds of both ends.
    Cpu,
    /// How long the guest stands still.
    Downtime,
}

impl Goal {
    /// All of them.
    pub const ALL: [Goal; 4] = [Goal::Time, Goal::Bytes, Goal::Cpu, Goal::Downtime];

    /// Its name: `time`, `bytes`, `cpu` or `downtime`.
    pub fn name(self) -> &'static str {
        match self {
            Goal::Time => "time",
            Goal::Bytes => "bytes",
            Goal::Cpu => "cpu",
            Goal::Downtime => "downtime",
        }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Goal {
    type Err = String;

    fn from_str(name: &str) -> Result<Goal, String> {
        Goal::ALL
            .into_iter()
            .find(|goal| goal.name() == name)
            .ok_or_else(|| {
                format!("'{name}' is no goal: allowed are time, bytes, cpu and downtime")
            })
    }
}

/// Which other setting dominates each: the fastest of those that do.
pub fn dominated_by(costs: &[Cost]) -> Vec<Option<usize>> {
    costs
        .iter()
        .map(|cost| {
            (0..costs.len())
                .filter(|other| costs[*other].dominates(cost))
                .min_by(|a, b| costs[*a].time.total_cmp(&costs[*b].time))
        })
        .collect()
}

/// The points that no other beats in both of their coordinates, from the least first coordinate to
/// the greatest: indexes into `points`.
pub fn front(points: &[(f64, f64)]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..points.len()).collect();
    order.sort_by(|a, b| {
        let ((ax, ay), (bx, by)) = (points[*a], points[*b]);
        ax.total_cmp(&bx).then(ay.total_cmp(&by))
    });
    let mut least = f64::INFINITY;
    order.retain(|index| {
        let better = points[*index].1 < least;
        if better {
            least = points[*index].1;
        }
        better
    });
    order
}

/// Two costs that differ by less than this part are as good as each other: the next goal decides.
const AS_GOOD: f64 = 0.02;

/// The best setting for a goal. Of settings that are as good as the best, within 2 %, the one that
/// takes the least CPU; for the goal `cpu` the one that takes the least time. `None` without any.
pub fn best(costs: &[Cost], goal: Goal) -> Option<usize> {
    let least = costs
        .iter()
        .map(|cost| cost.of(goal))
        .min_by(f64::total_cmp)?;
    let then = match goal {
        Goal::Cpu => Goal::Time,
        _ => Goal::Cpu,
    };
    (0..costs.len())
        .filter(|index| costs[*index].of(goal) <= least * (1.0 + AS_GOOD))
        .min_by(|a, b| costs[*a].of(then).total_cmp(&costs[*b].of(then)))
}

/// How long something takes over a slower link than it was measured on: the longer of what it
/// took, in milliseconds, and what the link needs for its bytes.
pub fn time_over(time: f64, bytes: f64, bits_per_second: f64) -> f64 {
    time.max(link_time(bytes, bits_per_second))
}

/// Milliseconds that a link needs for so many bytes.
pub fn link_time(bytes: f64, bits_per_second: f64) -> f64 {
    bytes * 8e3 / bits_per_second.max(1.0)
}

/// Below which rate of the link compression pays.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum BreakEven {
    /// It was no slower than plain where it was measured, and sends less: at any rate.
    Always,
    /// It is slower and does not send less: at no rate.
    Never,
    /// Below so many bits a second.
    Below(f64),
}

/// From which rate on plain is faster. Both as milliseconds and bytes, measured over a link that
/// limits neither; over a slower one each takes [`time_over`].
pub fn break_even(plain: (f64, f64), compressed: (f64, f64)) -> BreakEven {
    let slower = compressed.0 > plain.0;
    let smaller = compressed.1 < plain.1;
    match (slower, smaller) {
        (false, true) => BreakEven::Always,
        (_, false) => BreakEven::Never,
        // Compression takes its time however fast the link; plain becomes as slow as that when
        // the link needs that time for its bytes.
        (true, true) => BreakEven::Below(plain.1 * 8e3 / compressed.0),
    }
}

/// What a migration would be faster with more of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Limit {
    /// The link's rate.
    Link,
    /// CPU at the source.
    SourceCpu,
    /// CPU at the destination.
    DestinationCpu,
    /// Nothing of its own: neither the link nor a CPU was full. [`waiting`] has the likely reason.
    Waiting,
}

impl Limit {
    /// Its name in documents.
    pub fn name(self) -> &'static str {
        match self {
            Limit::Link => "link",
            Limit::SourceCpu => "source-cpu",
            Limit::DestinationCpu => "destination-cpu",
            Limit::Waiting => "waiting",
        }
    }

    /// In words, to follow "limited by"; `None` where nothing limits.
    pub fn words(self) -> Option<&'static str> {
        match self {
            Limit::Link => Some("the link"),
            Limit::SourceCpu => Some("CPU at the source"),
            Limit::DestinationCpu => Some("CPU at the destination"),
            Limit::Waiting => None,
        }
    }
}

/// What [`limit`] looks at.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Milliseconds.
    pub time: f64,
    /// Bytes on the wire.
    pub bytes: f64,
    /// The link's bits a second, if it has a limit.
    pub bits_per_second: Option<f64>,
    /// The source's CPU seconds.
    pub source_cpu: f64,
    /// The destination's CPU seconds.
    pub destination_cpu: f64,
    /// CPU seconds of the process that was both ends, with what belongs to no stage of either.
    pub process_cpu: f64,
    /// Cores that something else used meanwhile, where the system tells.
    pub others: Option<f64>,
    /// Compressing threads.
    pub compress_threads: usize,
    /// Decompressing threads.
    pub decompress_threads: usize,
    /// Cores that both ends share.
    pub cores: usize,
}

/// Something that is busy for this part of the time is what limits.
const BUSY: f64 = 0.8;
/// An end that is busy for less than this part of the time limits nothing.
const IDLE: f64 = 0.5;

/// What limits a migration: the link if it was in use nearly all the time, else the end whose
/// threads were busier; but nothing of its own if none of them was busy nearly all the time, and
/// something else used a good part of the machine.
pub fn limit(load: &Load) -> Limit {
    let seconds = (load.time / 1e3).max(1e-9);
    let link = load.bits_per_second.map_or(0.0, |rate| {
        link_time(load.bytes, rate) / load.time.max(1e-6)
    });
    if link >= BUSY {
        return Limit::Link;
    }
    let (source, destination) = (load.source_cpu / seconds, load.destination_cpu / seconds);
    let by_side = |source: f64, destination: f64| {
        if source >= destination {
            Limit::SourceCpu
        } else {
            Limit::DestinationCpu
        }
    };
    // Where both ends together use the machine up, the one that uses more of it is in the way.
    let both = (source + destination).max(load.process_cpu / seconds);
    if both >= BUSY * load.cores.max(1) as f64 {
        return by_side(source, destination);
    }
    let part = |cpu: f64, threads: usize| cpu / threads.min(load.cores).max(1) as f64;
    let source = part(source, load.compress_threads);
    let destination = part(destination, load.decompress_threads);
    let busier = source.max(destination);
    if busier < BUSY && load.others.is_some_and(|used| in_the_way(used, load.cores)) {
        Limit::Waiting
    } else if busier >= IDLE.max(link) {
        by_side(source, destination)
    } else if link >= IDLE {
        Limit::Link
    } else {
        Limit::Waiting
    }
}

/// What may have kept a migration waiting that nothing of its own limited.
#[derive(Debug, Clone, Copy, Default)]
pub struct Around {
    /// Seconds that what is sent spends on the link, one way.
    pub delay: f64,
    /// Cores that something else used meanwhile, where the system tells.
    pub others: Option<f64>,
    /// Cores that there are.
    pub cores: usize,
    /// The load average of the minute before the first run, where the system tells.
    pub load: Option<f64>,
}

/// Something else that uses this part of the cores is in the way.
const IN_THE_WAY: f64 = 0.15;

/// Whether so many cores are a good part of all of them.
pub fn in_the_way(used: f64, cores: usize) -> bool {
    used >= IN_THE_WAY * cores.max(1) as f64
}

/// Why nothing was full, in words: something else, the delay of the link, or else the two ends
/// themselves.
pub fn waiting(around: &Around) -> String {
    let cores = around.cores;
    let full = "neither the link nor a CPU of ours was full";
    match around.others {
        Some(others) if in_the_way(others, around.cores) => {
            format!("{full}: something else used {others:.1} of {cores} cores")
        }
        _ if around.delay > 0.0 => format!(
            "{full}: the ends waited for the link, which takes {:.0} ms each way",
            around.delay * 1e3
        ),
        _ => match around.load {
            Some(load) if around.others.is_none() && in_the_way(load, cores) => {
                format!("{full}: was the machine busy with something else? load average {load:.2}")
            }
            _ => format!("{full}: the two ends waited for each other"),
        },
    }
}

#[cfg(test)]
mod tests;
