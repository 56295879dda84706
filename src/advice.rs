//! What the measured costs of settings mean: which are dominated, which is best for a goal, and below
//! which rate of the link compression pays.
//!
//! Pure functions over numbers, independent of where the numbers come from.

use serde::Serialize;

/// The cost of a setting, by medians.
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
    /// Whether this is not worse in time, bytes and CPU, and better in one of them.
    pub fn dominates(&self, other: &Cost) -> bool {
        let pairs = [
            (self.time, other.time),
            (self.bytes, other.bytes),
            (self.cpu, other.cpu),
        ];
        pairs.iter().all(|(own, other)| own <= other)
            && pairs.iter().any(|(own, other)| own < other)
    }

    /// The part of the cost that `goal` minimises.
    pub fn of(&self, goal: Goal) -> f64 {
        match goal {
            Goal::Time => self.time,
            Goal::Bytes => self.bytes,
            Goal::Cpu => self.cpu,
            // Without later rounds the guest is paused all the time.
            Goal::Downtime => self.downtime.unwrap_or(self.time),
        }
    }
}

/// What to minimise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Goal {
    /// The time from the start to the end.
    #[default]
    Time,
    /// Bytes on the wire.
    Bytes,
    /// CPU seconds of both ends.
    Cpu,
    /// How long the guest is paused.
    Downtime,
}

names!(
    "goal",
    Goal {
        Time: "time",
        Bytes: "bytes",
        Cpu: "cpu",
        Downtime: "downtime"
    }
);

/// The setting that dominates each: the fastest one, if several do.
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

/// The Pareto front: indexes of the points that no other point beats in both coordinates, by rising
/// first coordinate.
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

/// Two costs that differ by less than this part count as equal, and the next goal decides.
pub const AS_GOOD: f64 = 0.02;

/// The best setting for a goal. Of settings within 2 % of the least, it is the one that takes the
/// least CPU; for the goal `cpu`, the one that takes the least time. `None` without settings.
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

/// Milliseconds that a migration takes over a slower link than it was measured on: the longer of its
/// time and the time that the link needs for its bytes.
pub fn time_over(time: f64, bytes: f64, bits_per_second: f64) -> f64 {
    time.max(link_time(bytes, bits_per_second))
}

/// Milliseconds that a link needs for this many bytes.
pub fn link_time(bytes: f64, bits_per_second: f64) -> f64 {
    bytes * 8e3 / bits_per_second.max(1.0)
}

/// The rate of the link below which compression pays.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum BreakEven {
    /// At any rate: it was not slower than plain, and sends less.
    Always,
    /// At no rate: it does not send less.
    Never,
    /// Below this many bits per second.
    Below(f64),
}

/// The rate above which plain is faster. Both as milliseconds and bytes, measured over a link that
/// limits neither; over a slower one each takes [`time_over`].
pub fn break_even(plain: (f64, f64), compressed: (f64, f64)) -> BreakEven {
    let slower = compressed.0 > plain.0;
    let smaller = compressed.1 < plain.1;
    match (slower, smaller) {
        (false, true) => BreakEven::Always,
        (_, false) => BreakEven::Never,
        // Compression takes its time however fast the link is. Plain becomes as slow when the link
        // needs that time for plain's bytes.
        (true, true) => BreakEven::Below(plain.1 * 8e3 / compressed.0),
    }
}

#[cfg(test)]
mod tests;
