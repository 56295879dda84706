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
    fn of(&self, goal: Goal) -> f64 {
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
    /// Nothing was busy: the ends waited for each other, as over a link with a delay.
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

    /// In words, to follow "limited by".
    pub fn words(self) -> &'static str {
        match self {
            Limit::Link => "the link",
            Limit::SourceCpu => "CPU at the source",
            Limit::DestinationCpu => "CPU at the destination",
            Limit::Waiting => "waiting, not by work",
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
/// threads were busier.
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
    if source + destination >= BUSY * load.cores.max(1) as f64 {
        return by_side(source, destination);
    }
    let part = |cpu: f64, threads: usize| cpu / threads.min(load.cores).max(1) as f64;
    let source = part(source, load.compress_threads);
    let destination = part(destination, load.decompress_threads);
    if source.max(destination) >= IDLE.max(link) {
        by_side(source, destination)
    } else if link >= IDLE {
        Limit::Link
    } else {
        Limit::Waiting
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cost(time: f64, bytes: f64, cpu: f64) -> Cost {
        Cost {
            time,
            bytes,
            cpu,
            downtime: None,
        }
    }

    #[test]
    fn what_is_nowhere_better_and_somewhere_worse_is_dominated_by_the_fastest() {
        let costs = [
            cost(100.0, 1000.0, 1.0),
            cost(200.0, 500.0, 2.0),
            cost(210.0, 500.0, 2.0),
            cost(300.0, 600.0, 3.0),
            cost(400.0, 400.0, 1.5),
        ];
        assert_eq!(
            dominated_by(&costs),
            [None, None, Some(1), Some(1), None],
            "0 is fastest, 4 smallest"
        );
        assert_eq!(dominated_by(&[costs[0], costs[0]]), [None, None]);
    }

    #[test]
    fn the_front_runs_from_the_fastest_to_the_smallest() {
        let points = [(3.0, 1.0), (1.0, 9.0), (2.0, 9.0), (2.0, 4.0), (2.5, 5.0)];
        assert_eq!(front(&points), [1, 3, 0]);
        assert!(front(&[]).is_empty());
    }

    #[test]
    fn each_goal_has_its_best_and_cpu_decides_between_equals() {
        let with_downtime = |downtime, cost| Cost {
            downtime: Some(downtime),
            ..cost
        };
        let costs = [
            with_downtime(9.0, cost(101.0, 900.0, 1.0)),
            with_downtime(8.0, cost(100.0, 500.0, 2.0)),
            with_downtime(3.0, cost(150.0, 400.0, 3.0)),
        ];
        assert_eq!(
            best(&costs, Goal::Time),
            Some(0),
            "1 % slower, half the CPU"
        );
        assert_eq!(best(&costs, Goal::Bytes), Some(2));
        assert_eq!(best(&costs, Goal::Cpu), Some(0));
        assert_eq!(best(&costs, Goal::Downtime), Some(2));
        assert_eq!(best(&[], Goal::Time), None);
        for goal in Goal::ALL {
            assert_eq!(goal.to_string().parse(), Ok(goal));
        }
        assert!("speed".parse::<Goal>().is_err());
    }

    #[test]
    fn compression_pays_below_the_rate_at_which_plain_takes_as_long() {
        // 1000 bytes plain in 1 ms; 250 bytes in 4 ms. At 2 Mbit/s plain takes 4 ms.
        assert_eq!(
            break_even((1.0, 1000.0), (4.0, 250.0)),
            BreakEven::Below(2e6)
        );
        assert_eq!(break_even((4.0, 1000.0), (4.0, 250.0)), BreakEven::Always);
        assert_eq!(break_even((1.0, 1000.0), (4.0, 1000.0)), BreakEven::Never);
        assert_eq!(break_even((1.0, 1000.0), (0.5, 2000.0)), BreakEven::Never);
        assert_eq!(time_over(4.0, 250.0, 1e6), 4.0);
        assert_eq!(time_over(4.0, 1000.0, 1e6), 8.0);
    }

    #[test]
    fn the_limit_is_whatever_was_busy() {
        let load = Load {
            time: 1000.0,
            bytes: 1e6,
            bits_per_second: None,
            source_cpu: 1.5,
            destination_cpu: 0.3,
            compress_threads: 2,
            decompress_threads: 2,
            cores: 2,
        };
        assert_eq!(limit(&load), Limit::SourceCpu);
        let full = Load {
            bits_per_second: Some(8.5e6),
            ..load
        };
        assert_eq!(limit(&full), Limit::Link, "8 of 8.5 Mbit/s are used");
        let unpacking = Load {
            source_cpu: 0.5,
            destination_cpu: 0.9,
            decompress_threads: 1,
            cores: 8,
            ..load
        };
        assert_eq!(limit(&unpacking), Limit::DestinationCpu);
        let waiting = Load {
            source_cpu: 0.1,
            destination_cpu: 0.1,
            bits_per_second: Some(1e9),
            ..load
        };
        assert_eq!(limit(&waiting), Limit::Waiting);
    }

    proptest! {
        #[test]
        fn nothing_on_the_front_is_beaten_and_everything_else_is(
            points in prop::collection::vec((0..20_i32, 0..20_i32), 0..30)
        ) {
            let points: Vec<(f64, f64)> =
                points.into_iter().map(|(x, y)| (f64::from(x), f64::from(y))).collect();
            let front = front(&points);
            for (index, point) in points.iter().enumerate() {
                let beaten = points.iter().any(|other| {
                    other.0 <= point.0 && other.1 <= point.1 && other != point
                });
                let twin = front.iter().any(|other| points[*other] == *point);
                prop_assert_eq!(!beaten, twin, "{} {:?}", index, point);
            }
        }

        #[test]
        fn compression_wins_below_the_break_even_and_loses_above(
            plain in (1.0..1e4_f64, 1e3..1e9_f64),
            slower in 1.01..20.0_f64,
            smaller in 0.05..0.95_f64,
            factor in 1.01..10.0_f64,
        ) {
            let packed = (plain.0 * slower, plain.1 * smaller);
            let BreakEven::Below(rate) = break_even(plain, packed) else {
                return Err(TestCaseError::fail("slower and smaller"));
            };
            let times = |rate| {
                (time_over(plain.0, plain.1, rate), time_over(packed.0, packed.1, rate))
            };
            let (without, with) = times(rate / factor);
            prop_assert!(with < without);
            let (without, with) = times(rate * factor);
            prop_assert!(with > without);
        }

        #[test]
        fn the_best_of_a_goal_is_within_2_percent_of_the_least(
            costs in prop::collection::vec((1.0..9.0_f64, 1.0..9.0_f64, 1.0..9.0_f64), 1..12)
        ) {
            let costs: Vec<Cost> = costs.into_iter().map(|(t, b, c)| cost(t, b, c)).collect();
            for goal in Goal::ALL {
                let chosen = costs[best(&costs, goal).expect("there are some")];
                prop_assert!(costs.iter().all(|cost| chosen.of(goal) <= cost.of(goal) * 1.021));
            }
        }
    }
}
