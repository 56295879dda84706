//! What has been measured so far, as the document that everything else is made from.

use std::path::Path;
use std::time::Duration;

use super::Bench;
use super::Request;
use super::measurement;
use super::peer::Peer;
use super::report::{self, Circumstances, Image, Memcpy, PlanReport, Report, SettingReport};
use super::statistics::Summary;
use crate::caps::Capability;
use crate::page::PAGE_SIZE;
use crate::params::{BenchUse, TABLE};

impl Bench {
    /// What has been measured so far.
    pub fn report(&self) -> Report {
        let Request { params, caps, .. } = &self.request;
        let milliseconds = |time: &Duration| (time.as_secs_f64() * 1e6).round() / 1e3;
        let copies: Vec<f64> = self.copies.iter().map(milliseconds).collect();
        let zero_bytes = self.pages.zero * PAGE_SIZE as u64;
        let per_second = |bytes: u64| {
            let rate = move |time: &f64| bytes as f64 / (time / 1e3).max(1e-9);
            Summary::of(copies.iter().map(rate))
        };
        let circumstances = Circumstances {
            cores: self.conditions.cores,
            zero_bytes,
        };
        let settings = self.request.settings.iter().enumerate();
        let mut report = Report {
            schema: report::SCHEMA,
            schema_version: report::SCHEMA_VERSION,
            status: self.status,
            error_desc: self.error.clone(),
            version: env!("CARGO_PKG_VERSION"),
            conditions: self.conditions.clone(),
            image: Image {
                path: match self.request.synthetic {
                    Some(_) => "synthetic".to_owned(),
                    None => shown(self.course.image()),
                },
                mix: self.request.synthetic.map(|(mix, _)| mix.name()),
                seed: self.request.synthetic.map(|(_, seed)| seed),
                then: self.course.then().iter().map(|path| shown(path)).collect(),
                ram_bytes: self.ram_bytes,
                data_bytes: self.data_bytes,
                digest: self.digest,
                pages: self.pages,
            },
            plan: PlanReport {
                runs: self.plan.runs,
                min_time: milliseconds(&self.request.min_time),
                max_time: self.request.max_time.as_ref().map(milliseconds),
                expected_time: milliseconds(&self.expected()),
                dropped: self.dropped.clone(),
                notes: self.request.notes.clone(),
                goal: self.request.goal,
                transport: self.request.transport,
                scratch: shown(&self.scratch),
                parameters: TABLE
                    .iter()
                    .filter(|row| row.in_bench == BenchUse::Same)
                    .map(|row| (row.name, (row.get)(params)))
                    .collect(),
                capabilities: Capability::ALL
                    .into_iter()
                    .map(|capability| (capability.name(), caps.has(capability)))
                    .collect(),
            },
            memcpy: Memcpy {
                threads: measurement::copy_threads(),
                time: Summary::of(copies.iter().copied()),
                ram_bytes_per_second: per_second(self.ram_bytes),
                data_bytes_per_second: per_second(self.ram_bytes.saturating_sub(zero_bytes)),
                runs: copies.clone(),
            },
            settings: settings
                .map(|(index, setting)| {
                    SettingReport::new(
                        *setting,
                        self.names[index].clone(),
                        &self.runs[index],
                        self.codecs.report(index),
                        &circumstances,
                    )
                })
                .collect(),
            peers: self.peer.as_ref().map_or_else(Vec::new, Peer::reports),
            links: Vec::new(),
        };
        report::compare_settings(&mut report);
        report
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
