//! The speed of a codec alone, without a pipeline around it, on pages of the image.
//!
//! One thread, CPU time, a sample of the pages that are not zero, in batches as in a migration and
//! without the pages that a migration would not try to compress. The gap between these numbers and
//! those of the codec in the pipeline is the cost of sharing caches and cores. Each codec runs once
//! in every round of runs, so that a machine that gets warm slows both alike. A run before the first
//! round is what the forecast of a migration's duration is made from.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::setting::Setting;
use crate::bench::statistics::Summary;
use crate::codec::{self, CodecSettings, Encoded, Method, looks_random, sets_aside};
use crate::error::{Error, Kind, Result};
use crate::image::Guest;
use crate::page::{PAGE_SIZE, is_zero};
use crate::params::Params;
use crate::sys::thread_cpu_time;
use crate::wire::Format;

/// The most bytes in the sample.
const SAMPLE: usize = 8 << 20;
/// Pages that are read at once.
const PIECE: u64 = 64;
/// A run lasts at least this long, over the sample again and again.
const AT_LEAST: Duration = Duration::from_millis(30);
/// It stops after this long, even if it has not seen all of the sample.
const AT_MOST: Duration = Duration::from_millis(400);

/// One run of a codec over the sample.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CodecRun {
    /// Bytes of the sample that went through.
    pub sample_bytes: u64,
    /// Bytes in for each byte out, where a batch that does not shrink counts as it is.
    pub ratio: f64,
    /// Bytes compressed per second of CPU time, without the pages set aside.
    pub compress_bytes_per_second: f64,
    /// Bytes decompressed per second of CPU time.
    pub decompress_bytes_per_second: f64,
}

/// All runs of a codec over the sample.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct CodecReport {
    /// Pages that were compressed together.
    pub batch_pages: u16,
    /// Bytes of the sample that went through.
    pub sample_bytes: u64,
    /// Bytes in for each byte out, where a batch that does not shrink counts as it is.
    pub ratio: f64,
    /// Bytes compressed per second of CPU time, without the pages set aside.
    pub compress_bytes_per_second: Summary,
    /// Bytes decompressed per second of CPU time.
    pub decompress_bytes_per_second: Summary,
}

impl CodecReport {
    /// Summarises the runs of one codec over one sample; `None` without any.
    pub fn of(batch_pages: u16, runs: &[CodecRun]) -> Option<CodecReport> {
        let last = runs.last()?;
        let summary = |of: fn(&CodecRun) -> f64| Summary::of(runs.iter().map(of));
        Some(CodecReport {
            batch_pages,
            sample_bytes: last.sample_bytes,
            ratio: last.ratio,
            compress_bytes_per_second: summary(|run| run.compress_bytes_per_second)?,
            decompress_bytes_per_second: summary(|run| run.decompress_bytes_per_second)?,
        })
    }
}

/// A codec as a setting uses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct CodecUse {
    settings: CodecSettings,
    batch_pages: u16,
}

impl CodecUse {
    fn of(setting: &Setting, params: &Params) -> CodecUse {
        let params = setting.apply(params);
        CodecUse {
            settings: params.codec_settings(),
            batch_pages: match setting.wire {
                Format::Native => params.batch_pages(),
                // That wire compresses each page by itself.
                Format::Qemu => 1,
            },
        }
    }
}

/// A codec and its runs so far.
#[derive(Debug)]
struct MeasuredCodec {
    codec: CodecUse,
    runs: Vec<CodecRun>,
    /// How long the last run took.
    took: Duration,
}

/// The codecs of all settings, each of them once.
#[derive(Debug)]
pub struct Codecs {
    sample: PageSample,
    codecs: Vec<MeasuredCodec>,
    /// The codec of each setting; none without compression.
    of_setting: Vec<Option<usize>>,
    /// How long the last run of all of them took.
    took: Duration,
}

impl Codecs {
    /// The codecs of these settings, without any run.
    pub fn of(sample: PageSample, settings: &[Setting], params: &Params) -> Codecs {
        let mut codecs: Vec<MeasuredCodec> = Vec::new();
        let mut index = |setting: &Setting| {
            let codec = CodecUse::of(setting, params);
            if codec.settings.method == Method::None {
                return None;
            }
            let known = codecs.iter().position(|other| other.codec == codec);
            Some(known.unwrap_or_else(|| {
                codecs.push(MeasuredCodec {
                    codec,
                    runs: Vec::new(),
                    took: Duration::ZERO,
                });
                codecs.len() - 1
            }))
        };
        Codecs {
            of_setting: settings.iter().map(&mut index).collect(),
            sample,
            codecs,
            took: Duration::ZERO,
        }
    }

    /// The same sample for other settings, without any run.
    #[must_use]
    pub fn instead_of(self, settings: &[Setting], params: &Params) -> Codecs {
        Codecs {
            took: self.took,
            ..Codecs::of(self.sample, settings, params)
        }
    }

    /// Runs each codec over the sample.
    ///
    /// # Errors
    /// A codec's library fails.
    pub fn run(&mut self) -> Result<()> {
        let begin = Instant::now();
        for one in &mut self.codecs {
            let begin = Instant::now();
            let codec = one.codec;
            one.runs
                .extend(self.sample.run(codec.settings, codec.batch_pages)?);
            one.took = begin.elapsed();
        }
        self.took = begin.elapsed();
        Ok(())
    }

    /// The image's bytes in pages that are not zero, extrapolated from the sample.
    pub fn data_bytes(&self) -> f64 {
        self.sample.data_bytes
    }

    /// How long the last run of all of them took.
    pub fn took(&self) -> Duration {
        self.took
    }

    /// This setting's share of the last run: its codec's time, divided among the settings that have
    /// the same codec.
    pub fn share(&self, setting: usize) -> Duration {
        let Some(codec) = self.of_setting.get(setting).copied().flatten() else {
            return Duration::ZERO;
        };
        let same = self.of_setting.iter().filter(|of| **of == Some(codec));
        let same = u32::try_from(same.count()).unwrap_or(u32::MAX).max(1);
        self.codecs[codec].took / same
    }

    /// Whether no setting compresses.
    pub fn is_empty(&self) -> bool {
        self.codecs.is_empty()
    }

    fn of_setting(&self, setting: usize) -> Option<&MeasuredCodec> {
        self.codecs.get((*self.of_setting.get(setting)?)?)
    }

    /// The last run of the codec of this setting. `None` without a codec, and if no page of the
    /// sample could be compressed.
    pub fn last(&self, setting: usize) -> Option<CodecRun> {
        self.of_setting(setting)?.runs.last().copied()
    }

    /// All runs of the codec of this setting; `None` as for [`Codecs::last`].
    pub fn report(&self, setting: usize) -> Option<CodecReport> {
        let one = self.of_setting(setting)?;
        CodecReport::of(one.codec.batch_pages, &one.runs)
    }
}

/// Some pages of an image.
#[derive(Debug)]
pub struct PageSample {
    pages: Vec<u8>,
    /// Bytes of the whole image in pages that are not zero, extrapolated.
    data_bytes: f64,
}

impl PageSample {
    /// Takes pages that are not zero, spread over a guest.
    ///
    /// # Errors
    /// The image cannot be read.
    pub fn of(guest: &Guest) -> Result<PageSample> {
        let pieces = guest.ram().data_steps(PIECE)?;
        let wanted = SAMPLE / (PIECE as usize * PAGE_SIZE);
        // Twice as many as there is room for: many pages may be zero.
        let step = pieces.len().div_ceil(wanted * 2).max(1);
        let mut found = Vec::new();
        let (mut looked, mut kept) = (0_u64, 0_u64);
        let mut piece = vec![0; PIECE as usize * PAGE_SIZE];
        for (block, range) in pieces.iter().step_by(step) {
            let len = block.read_some(*range, &mut piece, |_, page| !is_zero(page))?;
            looked += range.count;
            kept += (len / PAGE_SIZE) as u64;
            found.extend_from_slice(&piece[..len]);
        }
        let pages = thinned(&found, SAMPLE);
        let all: u64 = pieces.iter().map(|(_, range)| range.count).sum();
        let part = kept as f64 / looked.max(1) as f64;
        Ok(PageSample {
            pages,
            data_bytes: all as f64 * part * PAGE_SIZE as f64,
        })
    }

    /// The image's bytes in pages that are not zero, extrapolated.
    pub fn data_bytes(&self) -> f64 {
        self.data_bytes
    }

    /// Runs a codec over the sample. `None` for the method `none`, which has no codec, and if no page
    /// could be compressed.
    fn run(&self, settings: CodecSettings, batch_pages: u16) -> Result<Option<CodecRun>> {
        if settings.method == Method::None || self.pages.is_empty() {
            return Ok(None);
        }
        let failed = |error| Error::new(Kind::Failed, error).in_stage("sample");
        let batch = usize::from(batch_pages.max(1)) * PAGE_SIZE;
        let mut bench = CodecBench::new(settings, batch).map_err(failed)?;
        'measured: loop {
            for plain in self.pages.chunks(batch) {
                bench.batch(plain).map_err(failed)?;
                if bench.packing >= AT_MOST {
                    break 'measured;
                }
            }
            // Pages that are all set aside take no time, however often.
            if bench.packing >= AT_LEAST || bench.tried == 0 {
                break;
            }
        }
        let rate = |bytes: usize, time: Duration| bytes as f64 / time.as_secs_f64().max(1e-9);
        Ok((bench.tried > 0).then(|| CodecRun {
            sample_bytes: bench.seen.min(self.pages.len()) as u64,
            ratio: bench.seen as f64 / bench.sent.max(1) as f64,
            compress_bytes_per_second: rate(bench.tried, bench.packing),
            decompress_bytes_per_second: rate(bench.unpacked, bench.unpacking),
        }))
    }
}

/// A codec that is timed batch by batch, with everything that it needs allocated beforehand.
struct CodecBench {
    method: Method,
    encoder: Box<dyn codec::Encoder>,
    decoder: Box<dyn codec::Decoder>,
    /// The pages of a batch that are worth compressing.
    rest: Vec<u8>,
    out: Vec<u8>,
    back: Vec<u8>,
    /// Bytes in, and bytes that would be sent.
    seen: usize,
    sent: usize,
    /// Bytes compressed, and the CPU time of that.
    tried: usize,
    packing: Duration,
    /// Bytes decompressed, and the CPU time of that.
    unpacked: usize,
    unpacking: Duration,
}

impl CodecBench {
    fn new(settings: CodecSettings, batch: usize) -> Result<CodecBench, codec::CodecError> {
        Ok(CodecBench {
            method: settings.method,
            encoder: codec::encoder(settings)?,
            decoder: codec::decoder(settings.method),
            rest: Vec::with_capacity(batch),
            out: vec![0; batch],
            back: vec![0; batch],
            seen: 0,
            sent: 0,
            tried: 0,
            packing: Duration::ZERO,
            unpacked: 0,
            unpacking: Duration::ZERO,
        })
    }

    fn batch(&mut self, plain: &[u8]) -> Result<(), codec::CodecError> {
        self.rest.clear();
        for page in plain.chunks(PAGE_SIZE) {
            if !(sets_aside(self.method) && looks_random(page)) {
                self.rest.extend_from_slice(page);
            }
        }
        self.seen += plain.len();
        self.sent += plain.len() - self.rest.len();
        if self.rest.is_empty() {
            return Ok(());
        }
        let len = self.rest.len();
        let start = thread_cpu_time();
        let encoded = self.encoder.encode(&self.rest, &mut self.out[..len - 1])?;
        let middle = thread_cpu_time();
        self.packing += middle.saturating_sub(start);
        self.tried += len;
        match encoded {
            Encoded::WouldGrow => self.sent += len,
            Encoded::Done(packed) => {
                self.sent += packed;
                self.decoder
                    .decode(&self.out[..packed], &mut self.back[..len])?;
                self.unpacking += thread_cpu_time().saturating_sub(middle);
                self.unpacked += len;
            }
        }
        Ok(())
    }
}

/// At most `most` bytes of these pages, spread over them, in stretches as long as a piece.
fn thinned(pages: &[u8], most: usize) -> Vec<u8> {
    let mut kept = Vec::with_capacity(most.min(pages.len()));
    for (number, stretch) in pages.chunks(PIECE as usize * PAGE_SIZE).enumerate() {
        // As many as are due so far: evenly spread, whatever the proportion.
        let seen = number * PIECE as usize * PAGE_SIZE + stretch.len();
        let due = (seen as u128 * most as u128 / pages.len().max(most) as u128) as usize;
        if kept.len() + stretch.len() <= due {
            kept.extend_from_slice(stretch);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::measure::axes::Axes;
    use crate::bench::measure::methods;
    use crate::bench::measure::scratch::Scratch;
    use crate::codec::ZlibEngine;
    use crate::synthetic;

    fn sample(bytes: u64) -> PageSample {
        let scratch = Scratch::new_in(&std::env::temp_dir()).expect("a folder");
        let image = scratch.path().join("ram");
        synthetic::write(&image, bytes, 1).expect("an image");
        PageSample::of(&Guest::open(&image).expect("a guest")).expect("a sample")
    }

    fn settings(method: Method) -> CodecSettings {
        CodecSettings {
            method,
            level: 1,
            zlib_engine: ZlibEngine::default(),
        }
    }

    #[test]
    fn every_codec_but_none_has_a_rate_and_a_ratio() {
        let sample = sample(1 << 20);
        assert!(sample.data_bytes > 0.0 && sample.data_bytes <= (1 << 20) as f64);
        for method in Method::ALL {
            let alone = sample.run(settings(method), 16).expect("it works");
            let Some(alone) = alone else {
                assert_eq!(method, Method::None);
                continue;
            };
            assert!(
                alone.ratio > 1.2 && alone.ratio < 20.0,
                "{method} {alone:?}"
            );
            assert!(alone.compress_bytes_per_second > 0.0);
            assert!(alone.decompress_bytes_per_second > 0.0);
        }
    }

    #[test]
    fn a_sample_is_spread_over_the_image() {
        let stretch = PIECE as usize * PAGE_SIZE;
        let pages: Vec<u8> = (0..9_u8).flat_map(|n| vec![n; stretch]).collect();
        let numbers = |most| -> Vec<u8> {
            let kept = thinned(&pages, most);
            kept.chunks(stretch).map(|part| part[0]).collect()
        };
        assert_eq!(numbers(3 * stretch), [2, 5, 8]);
        assert_eq!(numbers(6 * stretch), [1, 2, 4, 5, 7, 8]);
        assert_eq!(numbers(20 * stretch).len(), 9);
        assert!(thinned(&[], 5).is_empty());
    }

    #[test]
    fn a_codec_of_several_settings_runs_once_and_page_by_page_for_the_qemu_wire() {
        let methods = methods::parse("none,zlib:1", 1).expect("methods");
        let (params, caps) = (Params::default(), crate::caps::Caps::default());
        let mut axes = Axes::of(methods, &params, &caps);
        axes.set("compress-threads", "1,2").expect("numbers");
        axes.set("wire", "native,qemu").expect("formats");
        let settings = axes.matrix(false).expect("settings").settings;
        assert_eq!(settings.len(), 8);
        let mut codecs = Codecs::of(sample(1 << 20), &settings, &params);
        assert_eq!(codecs.codecs.len(), 2);
        assert!(codecs.last(1).is_none() && codecs.report(1).is_none());
        for _ in 0..2 {
            codecs.run().expect("they work");
        }
        assert!(codecs.codecs.iter().all(|one| one.runs.len() == 2));
        assert!(codecs.last(0).is_none() && codecs.share(1) > Duration::ZERO);
        let of = |at: usize| codecs.report(at).expect("it compresses");
        let (native, qemu) = (of(1), of(5));
        assert_eq!((native.batch_pages, qemu.batch_pages), (128, 1));
        assert!(native.ratio > qemu.ratio, "{native:?} {qemu:?}");
        assert!(codecs.instead_of(&settings[..1], &params).is_empty());
    }

    #[test]
    fn an_empty_image_has_no_rates() {
        let empty = PageSample {
            pages: vec![],
            data_bytes: 0.0,
        };
        assert_eq!(
            empty.run(settings(Method::Zstd), 64).expect("it works"),
            None
        );
    }
}
