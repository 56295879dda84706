//! The report: what has been measured so far, and what it means.

use std::path::Path;
use std::time::Duration;

use super::judge::summarize;
use super::measure::memcpy::copy_threads;
use super::peer::QemuPeer;
use super::report::{self, BenchReport, ImageReport, Memcpy, PlanReport, SettingReport};
use super::statistics::Summary;
use super::{Bench, BenchRequest};
use crate::caps::Capability;
use crate::page::PAGE_SIZE;
use crate::params::{BenchUse, TABLE};

impl Bench {
    /// What has been measured so far.
    pub fn report(&self) -> BenchReport {
        let mut report = BenchReport {
            schema: report::SCHEMA,
            schema_version: report::SCHEMA_VERSION,
            status: self.status,
            error_desc: self.error.clone(),
            version: env!("CARGO_PKG_VERSION"),
            conditions: self.conditions.clone(),
            image: self.image_report(),
            plan: self.plan_report(),
            memcpy: self.memcpy_report(),
            settings: self.setting_reports(),
            peers: self.peer.as_ref().map_or_else(Vec::new, QemuPeer::reports),
            links: Vec::new(),
        };
        summarize::compare_settings(&mut report);
        report
    }

    fn image_report(&self) -> ImageReport {
        let synthetic = self.request.synthetic;
        ImageReport {
            path: match synthetic {
                Some(_) => "synthetic".to_owned(),
                None => path_text(self.workload.image()),
            },
            mix: synthetic.map(|(mix, _)| mix.name()),
            seed: synthetic.map(|(_, seed)| seed),
            then: self
                .workload
                .then()
                .iter()
                .map(|later| path_text(&later.path))
                .collect(),
            diffs: (self.workload.then().iter())
                .filter(|later| later.is_diff)
                .map(|later| path_text(&later.path))
                .collect(),
            ram_bytes: self.ram_bytes,
            data_bytes: self.data_bytes,
            digest: self.digest,
            pages: self.pages,
        }
    }

    fn plan_report(&self) -> PlanReport {
        let BenchRequest { params, caps, .. } = &self.request;
        let shared = TABLE.iter().filter(|row| row.in_bench == BenchUse::Same);
        let capabilities = Capability::ALL.into_iter();
        PlanReport {
            runs: self.budget.runs,
            min_time: milliseconds(&self.request.min_time),
            max_time: self.request.max_time.as_ref().map(milliseconds),
            expected_time: milliseconds(&self.expected()),
            dropped: self.dropped.clone(),
            notes: self.request.notes.clone(),
            goal: self.request.goal,
            transport: self.request.transport,
            scratch: path_text(&self.scratch),
            parameters: shared.map(|row| (row.name, (row.get)(params))).collect(),
            capabilities: capabilities
                .map(|capability| (capability.name(), caps.has(capability)))
                .collect(),
        }
    }

    fn memcpy_report(&self) -> Memcpy {
        let copies: Vec<f64> = self.copies.iter().map(milliseconds).collect();
        let per_second = |bytes: u64| {
            let rate = move |time: &f64| bytes as f64 / (time / 1e3).max(1e-9);
            Summary::of(copies.iter().map(rate))
        };
        Memcpy {
            threads: copy_threads(),
            time: Summary::of(copies.iter().copied()),
            ram_bytes_per_second: per_second(self.ram_bytes),
            data_bytes_per_second: per_second(self.ram_bytes.saturating_sub(self.zero_bytes())),
            runs: copies.clone(),
        }
    }

    fn setting_reports(&self) -> Vec<SettingReport> {
        let settings = self.request.settings.iter().zip(&self.names).enumerate();
        settings
            .map(|(index, (setting, name))| {
                summarize::setting(
                    (*setting, name.clone()),
                    &self.runs[index],
                    self.codecs.report(index),
                    self.conditions.cores,
                    self.zero_bytes(),
                )
            })
            .collect()
    }

    fn zero_bytes(&self) -> u64 {
        self.pages.zero * PAGE_SIZE as u64
    }
}

fn milliseconds(time: &Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

fn path_text(path: &Path) -> String {
    path.display().to_string()
}
