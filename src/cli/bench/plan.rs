//! What the options mean: everything that a benchmark or a comparison needs, checked.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::args::{BenchArgs, ExplicitMethod, MatrixArgs};
use crate::advice::Goal;
use crate::bench::BenchRequest;
use crate::bench::measure::axes::{Axes, Matrix};
use crate::bench::measure::memcpy::copy_threads;
use crate::bench::measure::methods;
use crate::bench::measure::preset::Preset;
use crate::bench::measure::workload::Transport;
use crate::bench::peer::PeerSpec;
use crate::bench::show::export::{Exports, Form};
use crate::bench::show::rows::Sort;
use crate::caps::Caps;
use crate::error::{Error, Kind, Result};
use crate::image::{ImageFormat, Later};
use crate::params::Params;
use crate::synthetic::Mix;
use crate::text::printable;

/// What to do.
#[derive(Debug)]
pub(super) enum BenchPlan {
    Compare(CompareFiles),
    Measure(Box<Measurement>),
}

/// Two exported reports to compare.
#[derive(Debug)]
pub(super) struct CompareFiles {
    pub(super) old: PathBuf,
    pub(super) new: PathBuf,
    /// In percent.
    pub(super) fail_if_slower: Option<f64>,
    pub(super) json: bool,
}

/// A benchmark to run.
#[derive(Debug)]
pub(super) struct Measurement {
    pub(super) image: ImageSource,
    pub(super) image_format: ImageFormat,
    paused: bool,
    pub(super) then: Vec<Later>,
    pub(super) peer: Option<PeerSpec>,
    pub(super) scratch: Option<PathBuf>,
    pub(super) sort: Sort,
    pub(super) json: bool,
    pub(super) quiet: bool,
    pub(super) verbose: bool,
    pub(super) dry_run: bool,
    exports: Vec<(Form, PathBuf)>,
    matrix: Matrix,
    params: Params,
    caps: Caps,
    runs: u32,
    min_time: Duration,
    max_time: Option<Duration>,
    goal: Goal,
    transport: Transport,
}

/// Where the guest's RAM comes from.
#[derive(Debug, Clone)]
pub(super) enum ImageSource {
    File(PathBuf),
    Synthetic { bytes: u64, mix: Mix, seed: u64 },
}

impl BenchPlan {
    pub(super) fn new(args: BenchArgs) -> Result<BenchPlan> {
        if let Some([old, new]) = args.output.compare.as_deref() {
            if let Some(other) = &args.explicit.not_for_compare {
                let what =
                    format!("--compare measures nothing, so --{other} has no effect: remove it");
                return Err(Error::new(Kind::Usage, what));
            }
            return Ok(BenchPlan::Compare(CompareFiles {
                old: old.clone(),
                new: new.clone(),
                fail_if_slower: args.output.fail_if_slower,
                json: args.output.json,
            }));
        }
        Measurement::new(args).map(|measurement| BenchPlan::Measure(Box::new(measurement)))
    }
}

impl Measurement {
    fn new(args: BenchArgs) -> Result<Measurement> {
        let (params, caps) = args.params.into_parts(Caps::default())?;
        let later_rounds = !args.then.0.is_empty();
        if later_rounds && args.image.is_none() {
            let what = "--then and --then-diff need IMAGE, the guest's RAM before";
            return Err(Error::new(Kind::Usage, what));
        }
        if args.effort.goal == Goal::Downtime && !later_rounds {
            let what = "the goal downtime needs later images: add --then IMAGE";
            return Err(Error::new(Kind::Usage, what));
        }
        let output = args.output;
        let exports = [
            (Form::Json, output.export_json),
            (Form::Csv, output.export_csv),
            (Form::Markdown, output.export_markdown),
            (Form::Html, output.report),
        ];
        let image = match (args.image, args.mix) {
            (Some(image), Some(mix)) => {
                let what = format!(
                    "--mix {mix} is for a synthetic guest, and '{}' is an image: remove one of them",
                    printable(&image.display().to_string())
                );
                return Err(Error::new(Kind::Usage, what));
            }
            (Some(image), None) => ImageSource::File(image),
            (None, mix) => ImageSource::Synthetic {
                bytes: args.synthetic,
                mix: mix.unwrap_or_default(),
                seed: args.seed,
            },
        };
        Ok(Measurement {
            image,
            image_format: args.format.into(),
            paused: args.at_rest.paused,
            then: args.then.0,
            peer: args.peer,
            scratch: args.scratch,
            sort: output.sort,
            json: output.json,
            quiet: output.quiet,
            verbose: output.verbose,
            dry_run: output.dry_run,
            exports: (exports.into_iter())
                .filter_map(|(form, path)| Some((form, path?)))
                .collect(),
            matrix: matrix(&args.matrix, &args.explicit, &params, &caps, later_rounds)?,
            params,
            caps,
            runs: args.effort.runs,
            min_time: args.effort.min_time.unwrap_or_default(),
            max_time: args.effort.max_time,
            goal: args.effort.goal,
            transport: args.transport,
        })
    }

    /// Makes sure that the files to export to can be written.
    pub(super) fn exports(&self) -> Result<Exports> {
        let image = match &self.image {
            ImageSource::File(image) => Some(image),
            ImageSource::Synthetic { .. } => None,
        };
        let later = self.then.iter().map(|later| &later.path);
        let images: Vec<&Path> = (image.into_iter().chain(later))
            .map(PathBuf::as_path)
            .collect();
        Exports::open(&self.exports, &images, self.sort)
    }

    /// The benchmark of the image at this path.
    pub(super) fn request(&self, image: &Path) -> BenchRequest {
        BenchRequest {
            synthetic: match self.image {
                ImageSource::Synthetic { mix, seed, .. } => Some((mix, seed)),
                ImageSource::File(_) => None,
            },
            image: image.to_owned(),
            image_format: self.image_format,
            paused: self.paused,
            then: self.then.clone(),
            settings: self.matrix.settings.clone(),
            notes: self.matrix.notes.clone(),
            runs: self.runs,
            min_time: self.min_time,
            max_time: self.max_time,
            goal: self.goal,
            transport: self.transport,
            params: self.params.clone(),
            caps: self.caps,
            peer: self.peer.clone(),
        }
    }
}

/// The settings that the options describe.
pub(super) fn matrix(
    args: &MatrixArgs,
    explicit: &ExplicitMethod,
    params: &Params,
    caps: &Caps,
    later_rounds: bool,
) -> Result<Matrix> {
    let usage = |error| Error::new(Kind::Usage, error);
    if args.preset == Preset::Delta && !later_rounds {
        let what = "the preset delta needs later images: add --then IMAGE";
        return Err(Error::new(Kind::Usage, what));
    }
    let (list, level) = match &args.methods {
        Some(list) => (list.clone(), 1),
        None if explicit.given => (
            format!("none,{}", params.compress_method),
            params.compress_level,
        ),
        None => (args.preset.methods().to_owned(), 1),
    };
    let methods = methods::parse(&list, level).map_err(|error| Error::new(Kind::Usage, error))?;
    let cores = copy_threads();
    let params = Params {
        compress_threads: u8::try_from(cores).unwrap_or(u8::MAX),
        ..params.clone()
    };
    let mut axes = Axes::of(methods, &params, caps);
    args.preset.apply(&mut axes, cores);
    for (axis, list) in [
        ("compress-threads", &args.compress_threads),
        ("decompress-threads", &args.decompress_threads),
        ("batch-pages", &args.batch_pages),
        ("connections", &args.connections),
        ("xbzrle", &args.xbzrle),
        ("zlib-engine", &args.zlib_engine),
        ("links", &args.links),
        ("wire", &args.wire),
    ] {
        if let Some(list) = list {
            axes.set(axis, list).map_err(usage)?;
        }
    }
    axes.matrix(later_rounds).map_err(usage)
}
