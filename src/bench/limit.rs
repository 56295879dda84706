//! What limited a migration, and why one that nothing limited had to wait.

use serde::Serialize;

use crate::advice::link_time;

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
