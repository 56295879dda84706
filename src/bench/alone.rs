//! A codec alone, on pages of the image: what it does without a pipeline around it.
//!
//! One thread, CPU time, a sample of the pages that are not zero, in batches as a migration has
//! them and without the pages that it sets aside as hopeless. What lies between these numbers and
//! those of the codec in the pipeline is what sharing caches and cores costs. So that a machine
//! that grows warm slows both alike, each codec is run once in every round of runs. A run before
//! the first says how long a migration will take.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::matrix::Setting;
use super::statistics::Summary;
use crate::codec::{self, CodecSettings, Encoded, Method};
use crate::codec::{looks_random, sets_aside};
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
/// A measurement goes on for so long at least, over the sample again and again.
const AT_LEAST: Duration = Duration::from_millis(30);
/// And stops after so long, though it has not seen all of the sample.
const AT_MOST: Duration = Duration::from_millis(400);

/// Pages of an image, and what they stand for.
#[derive(Debug)]
pub struct Sample {
    pages: Vec<u8>,
    /// The pages that are not zero, in the whole image, by what the sample says. Bytes.
    data_bytes: f64,
}

/// What a codec does alone, in one run over the sample.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Alone {
    /// Bytes of the sample that went through.
    pub sample_bytes: u64,
    /// Bytes in for each byte out, where a batch that does not shrink counts as it is.
    pub ratio: f64,
    /// Bytes that were compressed for each second of CPU time, without the pages set aside.
    pub compress_bytes_per_second: f64,
    /// Bytes that came out of the decompressor for each second of CPU time.
    pub decompress_bytes_per_second: f64,
}

/// What a codec does alone, in all runs over the sample.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct AloneReport {
    /// Pages that it compressed together.
    pub batch_pages: u16,
    /// Bytes of the sample that went through.
    pub sample_bytes: u64,
    /// Bytes in for each byte out, where a batch that does not shrink counts as it is.
    pub ratio: f64,
    /// Bytes that were compressed for each second of CPU time, without the pages set aside.
    pub compress_bytes_per_second: Summary,
    /// Bytes that came out of the decompressor for each second of CPU time.
    pub decompress_bytes_per_second: Summary,
}

/// A codec as a setting has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Codec {
    settings: CodecSettings,
    batch_pages: u16,
}

impl Codec {
    fn of(setting: &Setting, params: &Params) -> Codec {
        let params = setting.apply(params);
        Codec {
            settings: params.codec_settings(),
            batch_pages: match setting.wire {
                Format::Native => params.batch_pages(),
                // There each page is compressed by itself.
                Format::Qemu => 1,
            },
        }
    }
}

/// The codecs of a comparison's settings, each once, and what they have done so far.
#[derive(Debug)]
pub struct Codecs {
    sample: Sample,
    codecs: Vec<(Codec, Vec<Alone>)>,
    /// The codec of each setting; none without compression.
    of_setting: Vec<Option<usize>>,
    /// How long all of them took the last time.
    took: Duration,
}

impl Codecs {
    /// Those of these settings, none of which has run yet.
    pub fn of(sample: Sample, settings: &[Setting], params: &Params) -> Codecs {
        let mut codecs: Vec<(Codec, Vec<Alone>)> = Vec::new();
        let mut index = |setting: &Setting| {
            let codec = Codec::of(setting, params);
            if codec.settings.method == Method::None {
                return None;
            }
            let known = codecs.iter().position(|(other, _)| *other == codec);
            Some(known.unwrap_or_else(|| {
                codecs.push((codec, Vec::new()));
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

    /// The same sample for other settings, as if nothing had run yet.
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
    /// What a codec's library says.
    pub fn run(&mut self) -> Result<()> {
        let start = Instant::now();
        for (codec, runs) in &mut self.codecs {
            runs.extend(self.sample.run(codec.settings, codec.batch_pages)?);
        }
        self.took = start.elapsed();
        Ok(())
    }

    /// The image's bytes that are no zeroes, as the sample has it.
    pub fn data_bytes(&self) -> f64 {
        self.sample.data_bytes
    }

    /// How long a run of all of them took the last time.
    pub fn took(&self) -> Duration {
        self.took
    }

    /// Whether nothing compresses.
    pub fn is_empty(&self) -> bool {
        self.codecs.is_empty()
    }

    /// What the codec of the setting with this index did in its last run. `None` without one, and
    /// without a page that could be compressed.
    pub fn last(&self, setting: usize) -> Option<Alone> {
        let (_, runs) = self.codecs.get((*self.of_setting.get(setting)?)?)?;
        runs.last().copied()
    }

    /// What the codec of the setting with this index did in all runs; `None` as for
    /// [`Codecs::last`].
    pub fn report(&self, setting: usize) -> Option<AloneReport> {
        let (codec, runs) = self.codecs.get((*self.of_setting.get(setting)?)?)?;
        AloneReport::of(codec.batch_pages, runs)
    }
}

impl AloneReport {
    /// Summarises runs of one codec over one sample; `None` without any.
    pub fn of(batch_pages: u16, runs: &[Alone]) -> Option<AloneReport> {
        let last = runs.last()?;
        let summary = |of: fn(&Alone) -> f64| Summary::of(runs.iter().map(of));
        Some(AloneReport {
            batch_pages,
            sample_bytes: last.sample_bytes,
            ratio: last.ratio,
            compress_bytes_per_second: summary(|run| run.compress_bytes_per_second)?,
            decompress_bytes_per_second: summary(|run| run.decompress_bytes_per_second)?,
        })
    }
}

impl Sample {
    /// Takes pages that are not zero from all over a guest.
    ///
    /// # Errors
    /// When the image cannot be read.
    pub fn of(guest: &Guest) -> Result<Sample> {
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
        Ok(Sample {
            pages,
            data_bytes: all as f64 * part * PAGE_SIZE as f64,
        })
    }

    /// Runs a codec over the sample. `None` for the method `none`, which has none, and without a
    /// page that could be compressed.
    ///
    /// # Errors
    /// What the codec's library says.
    fn run(&self, settings: CodecSettings, batch_pages: u16) -> Result<Option<Alone>> {
        if settings.method == Method::None || self.pages.is_empty() {
            return Ok(None);
        }
        let failed = |error| Error::new(Kind::Failed, error).in_stage("sample");
        let mut encoder = codec::encoder(settings).map_err(failed)?;
        let mut decoder = codec::decoder(settings.method);
        let batch = usize::from(batch_pages.max(1)) * PAGE_SIZE;
        let mut rest = Vec::with_capacity(batch);
        let mut out = vec![0; batch];
        let mut back = vec![0; batch];
        let (mut seen, mut sent, mut tried, mut unpacked) = (0_usize, 0_usize, 0_usize, 0_usize);
        let (mut packing, mut unpacking) = (Duration::ZERO, Duration::ZERO);
        'measured: loop {
            for plain in self.pages.chunks(batch) {
                rest.clear();
                for page in plain.chunks(PAGE_SIZE) {
                    if !(sets_aside(settings.method) && looks_random(page)) {
                        rest.extend_from_slice(page);
                    }
                }
                seen += plain.len();
                sent += plain.len() - rest.len();
                if rest.is_empty() {
                    continue;
                }
                let start = thread_cpu_time();
                let room = rest.len() - 1;
                let encoded = encoder.encode(&rest, &mut out[..room]).map_err(failed)?;
                let middle = thread_cpu_time();
                packing += middle.saturating_sub(start);
                tried += rest.len();
                match encoded {
                    Encoded::WouldGrow => sent += rest.len(),
                    Encoded::Done(len) => {
                        sent += len;
                        decoder
                            .decode(&out[..len], &mut back[..rest.len()])
                            .map_err(failed)?;
                        unpacking += thread_cpu_time().saturating_sub(middle);
                        unpacked += rest.len();
                    }
                }
                if packing >= AT_MOST {
                    break 'measured;
                }
            }
            // A sample of nothing but hopeless pages takes no time at all.
            if packing >= AT_LEAST || tried == 0 {
                break;
            }
        }
        let rate = |bytes: usize, time: Duration| bytes as f64 / time.as_secs_f64().max(1e-9);
        Ok((tried > 0).then(|| Alone {
            sample_bytes: seen.min(self.pages.len()) as u64,
            ratio: seen as f64 / sent.max(1) as f64,
            compress_bytes_per_second: rate(tried, packing),
            decompress_bytes_per_second: rate(unpacked, unpacking),
        }))
    }
}

/// At most `most` bytes of these pages, from all over them, in stretches as long as a piece.
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
    use crate::bench::scratch::Scratch;
    use crate::codec::ZlibEngine;
    use crate::synthetic;

    fn sample(bytes: u64) -> Sample {
        let scratch = Scratch::new_in(&std::env::temp_dir()).expect("a folder");
        let image = scratch.path().join("ram");
        synthetic::write(&image, bytes, 1).expect("an image");
        Sample::of(&Guest::open(&image).expect("a guest")).expect("a sample")
    }

    fn settings(method: Method) -> CodecSettings {
        CodecSettings {
            method,
            level: 1,
            zlib_engine: ZlibEngine::default(),
        }
    }

    #[test]
    fn every_codec_has_a_rate_and_a_ratio_and_none_has_nothing() {
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
    fn a_sample_is_from_all_over() {
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
    fn a_codec_that_several_settings_have_runs_once_and_the_qemu_wire_has_pages_by_themselves() {
        let methods = crate::bench::sweep::parse("none,zlib:1", 1).expect("methods");
        let (params, caps) = (Params::default(), crate::caps::Caps::default());
        let mut axes = crate::bench::matrix::Axes::of(methods, &params, &caps);
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
        assert!(codecs.codecs.iter().all(|(_, runs)| runs.len() == 2));
        assert!(codecs.last(0).is_none() && codecs.took() > Duration::ZERO);
        let of = |at: usize| codecs.report(at).expect("it compresses");
        let (native, qemu) = (of(1), of(5));
        assert_eq!((native.batch_pages, qemu.batch_pages), (128, 1));
        assert!(native.ratio > qemu.ratio, "{native:?} {qemu:?}");
        assert!(codecs.instead_of(&settings[..1], &params).is_empty());
    }

    #[test]
    fn an_image_of_nothing_has_no_rates() {
        let empty = Sample {
            pages: vec![],
            data_bytes: 0.0,
        };
        assert_eq!(
            empty.run(settings(Method::Zstd), 64).expect("it works"),
            None
        );
    }
}
