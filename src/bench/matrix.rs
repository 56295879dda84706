//! The settings that are compared: every combination of what is given for each axis.
//!
//! An axis is a parameter with a list of values. Values are read by the table of parameters, so an
//! axis takes what the parameter takes. Combinations that mean the same are measured once, and
//! those that cannot be are left out, with a note.

use super::sweep::{self, Compression};
use crate::caps::{Capability, Caps};
use crate::codec::{Method, ZlibEngine};
use crate::params::{LinkSpec, ParamError, Params};
use crate::units::format_bytes;
use crate::wire::Format;

/// The most values of an axis, and the most settings of a matrix.
pub const MOST: usize = 10_000;

/// One combination: everything in which settings may differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Setting {
    /// The method and its level.
    pub compression: Compression,
    /// Compressing threads.
    pub compress_threads: u8,
    /// Decompressing threads.
    pub decompress_threads: u8,
    /// Pages in a batch; `None` for what suits the method.
    pub batch_pages: Option<u16>,
    /// Connections.
    pub connections: u8,
    /// The delta cache in bytes; `None` without deltas.
    pub xbzrle: Option<u64>,
    /// What compresses for zlib and gzip.
    pub zlib_engine: ZlibEngine,
    /// The link that is emulated.
    pub link: Option<LinkSpec>,
    /// The format of the stream.
    pub wire: Format,
}

impl Setting {
    /// `params` with this setting's values in place of theirs.
    pub fn apply(&self, params: &Params) -> Params {
        Params {
            compress_threads: self.compress_threads,
            decompress_threads: self.decompress_threads,
            batch_pages: self.batch_pages,
            connections: self.connections,
            xbzrle_cache_size: self.xbzrle.unwrap_or(params.xbzrle_cache_size),
            zlib_engine: self.zlib_engine,
            link: self.link,
            ..self.compression.apply(params)
        }
    }

    /// `caps` with deltas as this setting has them; on the qemu wire also compression, which is
    /// not a matter of the method alone there.
    pub fn caps(&self, caps: &Caps) -> Caps {
        let mut caps = *caps;
        let mut switch = |capability: Capability, on| {
            // The name comes from the capability itself.
            let _ = caps.set(capability.name(), on);
        };
        switch(Capability::Xbzrle, self.xbzrle.is_some());
        if self.wire == Format::Qemu {
            switch(
                Capability::Compress,
                self.compression.method != Method::None,
            );
        }
        caps
    }

    /// What it has on each axis but the method's, in words.
    fn words(&self) -> [String; 8] {
        [
            counted(self.compress_threads, "thread"),
            format!("{} decompressing", self.decompress_threads),
            match self.batch_pages {
                Some(pages) => counted(pages, "page"),
                None => "auto pages".to_owned(),
            },
            counted(self.connections, "connection"),
            match self.xbzrle {
                Some(bytes) => format!("xbzrle {}", format_bytes(bytes)),
                None => "xbzrle off".to_owned(),
            },
            self.zlib_engine.to_string(),
            link_name(self.link),
            format!("{} wire", self.wire),
        ]
    }

    /// The same over another link.
    #[must_use]
    pub fn over(self, link: Option<LinkSpec>) -> Setting {
        Setting { link, ..self }
    }
}

/// A number of things.
fn counted(count: impl Into<u16>, what: &str) -> String {
    match count.into() {
        1 => format!("1 {what}"),
        count => format!("{count} {what}s"),
    }
}

/// The names of settings among each other: the method, and whatever else not all of them have in
/// common.
pub fn names(settings: &[Setting]) -> Vec<String> {
    let words: Vec<[String; 8]> = settings.iter().map(Setting::words).collect();
    let Some(first) = words.first() else {
        return Vec::new();
    };
    let differs = |axis: &usize| words.iter().any(|other| other[*axis] != first[*axis]);
    let axes: Vec<usize> = (0..first.len()).filter(differs).collect();
    let name = |(setting, words): (&Setting, &[String; 8])| {
        let mut name = setting.compression.to_string();
        for axis in &axes {
            name.push_str(", ");
            name.push_str(&words[*axis]);
        }
        name
    };
    settings.iter().zip(&words).map(name).collect()
}

/// An emulated link's name, or `unlimited`.
pub fn link_name(link: Option<LinkSpec>) -> String {
    link.map_or_else(|| UNLIMITED.to_owned(), |link| link.to_string())
}

/// The link that is not emulated.
pub const UNLIMITED: &str = "unlimited";

/// The values of each axis; every one has one at least, unless nothing is to be measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Axes {
    /// Methods with levels.
    pub compressions: Vec<Compression>,
    /// Compressing threads.
    pub compress_threads: Vec<u8>,
    /// Decompressing threads.
    pub decompress_threads: Vec<u8>,
    /// Pages in a batch.
    pub batch_pages: Vec<Option<u16>>,
    /// Connections.
    pub connections: Vec<u8>,
    /// Delta caches.
    pub xbzrle: Vec<Option<u64>>,
    /// Engines of zlib and gzip.
    pub zlib_engines: Vec<ZlibEngine>,
    /// Links.
    pub links: Vec<Option<LinkSpec>>,
    /// Formats.
    pub wires: Vec<Format>,
}

impl Axes {
    /// One value on each axis, that of `params` and `caps`, and these methods.
    pub fn of(compressions: Vec<Compression>, params: &Params, caps: &Caps) -> Axes {
        let cache = caps
            .has(Capability::Xbzrle)
            .then_some(params.xbzrle_cache_size);
        Axes {
            compressions,
            compress_threads: vec![params.compress_threads],
            decompress_threads: vec![params.decompress_threads],
            batch_pages: vec![params.batch_pages],
            connections: vec![params.connections],
            xbzrle: vec![cache],
            zlib_engines: vec![params.zlib_engine],
            links: vec![params.link],
            wires: vec![Format::Native],
        }
    }

    /// Replaces the values of the axis with this name by those in `list`: numbers may also be
    /// ranges `A-B`, an `xbzrle` may be `off`, a link `unlimited`.
    ///
    /// # Errors
    /// The first value that the axis cannot have.
    pub fn set(&mut self, name: &'static str, list: &str) -> Result<(), AxisError> {
        match name {
            "compress-threads" => {
                self.compress_threads = values(name, list, |params| params.compress_threads)?;
            }
            "decompress-threads" => {
                self.decompress_threads = values(name, list, |params| params.decompress_threads)?;
            }
            "batch-pages" => self.batch_pages = values(name, list, |params| params.batch_pages)?,
            "connections" => self.connections = values(name, list, |params| params.connections)?,
            "zlib-engine" => self.zlib_engines = values(name, list, |params| params.zlib_engine)?,
            "links" => {
                let links = list.replace(UNLIMITED, "off");
                self.links = values("link", &links, |params| params.link)?;
            }
            "xbzrle" => {
                let read = |word: &str| match word {
                    "off" => Ok(None),
                    size => {
                        one("xbzrle-cache-size", size, |params| params.xbzrle_cache_size).map(Some)
                    }
                };
                self.xbzrle = distinct(list.split(',').map(|word| read(word.trim())))?;
            }
            "wire" => {
                let read = |word: &str| {
                    word.parse()
                        .map_err(|_| AxisError::Wire(crate::text::printable(word)))
                };
                self.wires = distinct(list.split(',').map(|word| read(word.trim())))?;
            }
            _ => return Err(ParamError::UnknownParameter(name.to_owned()).into()),
        }
        Ok(())
    }

    /// Every combination that can be measured, in the order of the lists, the links outermost.
    /// `later_rounds` says whether deltas are of any use.
    ///
    /// # Errors
    /// More than [`MOST`] combinations, or none.
    pub fn matrix(&self, later_rounds: bool) -> Result<Matrix, AxisError> {
        let sizes = [
            self.compressions.len(),
            self.compress_threads.len(),
            self.decompress_threads.len(),
            self.batch_pages.len(),
            self.connections.len(),
            self.xbzrle.len(),
            self.zlib_engines.len(),
            self.links.len(),
            self.wires.len(),
        ];
        let all = sizes
            .iter()
            .try_fold(1_usize, |all, size| all.checked_mul(*size));
        match all {
            Some(0) => return Err(AxisError::Empty(String::new())),
            Some(all) if all <= MOST => {}
            _ => return Err(AxisError::TooMany),
        }
        let mut settings = Vec::new();
        let mut left_out = Vec::new();
        for number in 0..all.unwrap_or(0) {
            let setting = self.combination(number, later_rounds);
            let list = if impossible(&setting).is_some() {
                &mut left_out
            } else {
                &mut settings
            };
            if !list.contains(&setting) {
                list.push(setting);
            }
        }
        let mut notes = Vec::new();
        if !later_rounds && self.xbzrle.len() > 1 {
            notes.push(
                "without later images (--then) there are no deltas: --xbzrle has no effect"
                    .to_owned(),
            );
        }
        if let Some(why) = left_out.first().and_then(impossible) {
            let names = names(&left_out);
            let what = format!("{} ({why})", names.join("; "));
            if settings.is_empty() {
                return Err(AxisError::Empty(format!(": {what}")));
            }
            notes.push(format!("left out: {what}"));
        }
        Ok(Matrix { settings, notes })
    }

    /// The combination with this number: the methods vary fastest, the links slowest.
    fn combination(&self, number: usize, later_rounds: bool) -> Setting {
        let mut rest = number;
        let mut pick = |count: usize| {
            let index = rest % count;
            rest /= count;
            index
        };
        let compression = self.compressions[pick(self.compressions.len())];
        let deflates = matches!(compression.method, Method::Zlib | Method::Gzip);
        let mut setting = Setting {
            compression,
            zlib_engine: self.zlib_engines[pick(self.zlib_engines.len())],
            compress_threads: self.compress_threads[pick(self.compress_threads.len())],
            decompress_threads: self.decompress_threads[pick(self.decompress_threads.len())],
            batch_pages: self.batch_pages[pick(self.batch_pages.len())],
            connections: self.connections[pick(self.connections.len())],
            xbzrle: self.xbzrle[pick(self.xbzrle.len())],
            wire: self.wires[pick(self.wires.len())],
            link: self.links[pick(self.links.len())],
        };
        if !deflates {
            setting.zlib_engine = ZlibEngine::default();
        }
        if !later_rounds {
            setting.xbzrle = self.xbzrle[0];
        }
        setting
    }
}

/// Why a setting cannot be measured.
fn impossible(setting: &Setting) -> Option<&'static str> {
    let method = setting.compression.method;
    if setting.wire != Format::Qemu {
        None
    } else if !matches!(method, Method::None | Method::Zlib) {
        Some("the qemu wire has zlib and none")
    } else if setting.connections > 1 {
        Some("the qemu wire has one connection")
    } else {
        None
    }
}

/// What is measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matrix {
    /// The settings, each once.
    pub settings: Vec<Setting>,
    /// What somebody should know who gave the axes, a line each.
    pub notes: Vec<String>,
}

/// What is wrong with an axis or with all of them together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AxisError {
    /// A value that the parameter cannot have.
    #[error(transparent)]
    Value(#[from] ParamError),
    /// A range that is none.
    #[error("{axis} '{given}' is no range: allowed is A-B with A no more than B")]
    Range {
        /// The axis.
        axis: &'static str,
        /// What was given.
        given: String,
    },
    /// No such format.
    #[error("wire '{0}' is not native or qemu")]
    Wire(String),
    /// Nothing can be measured.
    #[error("there is nothing to measure{0}")]
    Empty(String),
    /// Too many combinations.
    #[error("there are more than {MOST} settings to measure: give fewer values")]
    TooMany,
}

/// What `get` finds after a parameter was set to `value`.
fn one<T>(name: &str, value: &str, get: impl Fn(&Params) -> T) -> Result<T, AxisError> {
    let mut params = Params::default();
    params.set_text(name, value)?;
    Ok(get(&params))
}

/// The values of an axis: each word of the list, or each number of a range.
fn values<T: PartialEq>(
    name: &'static str,
    list: &str,
    get: impl Fn(&Params) -> T,
) -> Result<Vec<T>, AxisError> {
    let mut words = Vec::new();
    for word in list.split(',').map(str::trim) {
        match range(word) {
            None => words.push(word.to_owned()),
            Some(range) if !range.is_empty() && range.clone().count() <= MOST => {
                words.extend(range.map(|number| number.to_string()));
            }
            Some(_) => {
                return Err(AxisError::Range {
                    axis: name,
                    given: word.to_owned(),
                });
            }
        }
    }
    distinct(words.iter().map(|word| one(name, word, &get)))
}

/// `A-B`, if that is what it is.
fn range(word: &str) -> Option<std::ops::RangeInclusive<u32>> {
    let (first, last) = word.split_once('-')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if digits(first) && digits(last) {
        // What does not fit is out of every parameter's range.
        let number = |text: &str| text.parse().unwrap_or(u32::MAX);
        Some(number(first)..=number(last))
    } else {
        None
    }
}

/// Each value once.
fn distinct<T: PartialEq>(
    values: impl Iterator<Item = Result<T, AxisError>>,
) -> Result<Vec<T>, AxisError> {
    let mut all = Vec::new();
    for value in values {
        let value = value?;
        if !all.contains(&value) {
            all.push(value);
        }
        if all.len() > MOST {
            return Err(AxisError::TooMany);
        }
    }
    Ok(all)
}

/// What to compare, for people who do not want to say it in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Preset {
    /// A useful level or two of each method, as fast as the machine goes: under a minute for the
    /// synthesised guest on two cores.
    #[default]
    Quick,
    /// Every level that could be of use.
    Levels,
    /// From one compressing thread to twice the cores.
    Threads,
    /// From no limit down to 200 Mbit/s with a delay.
    Links,
    /// Delta caches; needs later images.
    Delta,
}

names!(
    "preset",
    Preset {
        Quick: "quick",
        Levels: "levels",
        Threads: "threads",
        Links: "links",
        Delta: "delta"
    }
);

impl Preset {
    /// The methods that it compares, as [`sweep::parse`] takes them.
    pub fn methods(self) -> &'static str {
        match self {
            Preset::Quick => sweep::QUICK,
            Preset::Levels => "none,lz4,zstd:1-12,zlib:1-9",
            Preset::Threads => "none,lz4,zstd:1,zlib:1",
            Preset::Links => "none,lz4,zstd:1,3,9,zlib:1",
            Preset::Delta => "none,lz4,zstd:1",
        }
    }

    /// Sets the axes that it is about; `cores` is what the machine has.
    pub fn apply(self, axes: &mut Axes, cores: usize) {
        match self {
            Preset::Quick | Preset::Levels => {}
            Preset::Threads => {
                let most = u8::try_from(cores.saturating_mul(2)).unwrap_or(u8::MAX);
                let doubled = std::iter::successors(Some(1_u8), |threads| threads.checked_mul(2));
                axes.compress_threads = doubled.take_while(|threads| *threads < most).collect();
                axes.compress_threads.push(most);
            }
            Preset::Links => {
                // All of these can be read, which a test says.
                let _ = axes.set("links", "unlimited,10Gbit,1Gbit,200Mbit/20ms");
            }
            Preset::Delta => {
                axes.xbzrle = vec![None, Some(16 << 20), Some(64 << 20), Some(256 << 20)];
            }
        }
    }
}

#[cfg(test)]
mod tests;
