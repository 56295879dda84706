//! What limited a migration, and why one that nothing limited had to wait.

use serde::Serialize;

use crate::advice::link_time;

/// What a migration would have been faster with more of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Limit {
    /// The link's rate.
    Link,
    /// CPU at the source.
    SourceCpu,
    /// CPU at the destination.
    DestinationCpu,
    /// Neither the link nor a CPU was busy all the time. [`waiting`] has the likely reason.
    Waiting,
}

impl Limit {
    /// The name in documents.
    pub fn name(self) -> &'static str {
        match self {
            Limit::Link => "link",
            Limit::SourceCpu => "source-cpu",
            Limit::DestinationCpu => "destination-cpu",
            Limit::Waiting => "waiting",
        }
    }

    /// In words, to follow "limited by"; `None` for [`Limit::Waiting`].
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
    /// CPU seconds of the process that ran both ends, including what belongs to no stage.
    pub process_cpu: f64,
    /// Cores that other programs used at the time, if the system reports it.
    pub others: Option<f64>,
    /// Compression threads.
    pub compress_threads: usize,
    /// Decompression threads.
    pub decompress_threads: usize,
    /// Cores that both ends share.
    pub cores: usize,
}

/// What is busy for this part of the time is the limit.
const BUSY: f64 = 0.8;
/// An end that is busy for less than this part of the time limits nothing.
const IDLE: f64 = 0.5;

/// What limited a migration: the link if it was in use nearly all the time, else the end whose
/// threads were busier; but [`Limit::Waiting`] if none of them was busy nearly all the time while
/// other programs used a good part of the machine.
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
    // Where both ends together use up the machine, the one that uses more of it is the limit.
    let both = (source + destination).max(load.process_cpu / seconds);
    if both >= BUSY * load.cores.max(1) as f64 {
        return by_side(source, destination);
    }
    let part = |cpu: f64, threads: usize| cpu / threads.min(load.cores).max(1) as f64;
    let source = part(source, load.compress_threads);
    let destination = part(destination, load.decompress_threads);
    let busier = source.max(destination);
    if busier < BUSY && load.others.is_some_and(|used| disturbs(used, load.cores)) {
        Limit::Waiting
    } else if busier >= IDLE.max(link) {
        by_side(source, destination)
    } else if link >= IDLE {
        Limit::Link
    } else {
        Limit::Waiting
    }
}

/// What may have kept a migration waiting that was limited by neither link nor CPU.
#[derive(Debug, Clone, Copy, Default)]
pub struct WaitCauses {
    /// The link's delay one way, in seconds.
    pub delay: f64,
    /// Cores that other programs used at the time, if the system reports it.
    pub others: Option<f64>,
    /// Cores that there are.
    pub cores: usize,
    /// The load average of the minute before the first run, if the system reports it.
    pub load: Option<f64>,
}

/// Other programs that use this part of the cores disturb a measurement.
const DISTURBING: f64 = 0.15;

/// Whether other programs that use this many cores disturb a measurement.
pub fn disturbs(used: f64, cores: usize) -> bool {
    used >= DISTURBING * cores.max(1) as f64
}

/// The likely cause of the waiting, in words: other programs, the delay of the link, or else the two
/// ends themselves.
pub fn waiting(causes: &WaitCauses) -> String {
    let cores = causes.cores;
    let why = match causes.others {
        Some(others) if disturbs(others, cores) => {
            format!("other programs used {others:.1} of {cores} cores")
        }
        _ if causes.delay > 0.0 => format!(
            "the ends waited for the link, with its delay of {:.0} ms each way",
            causes.delay * 1e3
        ),
        _ => match causes.load {
            Some(load) if causes.others.is_none() && disturbs(load, cores) => {
                format!("other programs may have been running (load average {load:.2})")
            }
            _ => "the two ends waited for each other".to_owned(),
        },
    };
    format!("{why}; neither the link nor ramferry's CPU time was the limit")
}

#[cfg(test)]
mod tests;
