//! The settings that are compared: every combination of the values given for each axis.
//!
//! An axis is a parameter with a list of values. Values are read by the table of parameters, so an
//! axis takes what the parameter takes. Combinations that mean the same are measured once, and
//! those that cannot be measured are left out, with a note.

use super::methods::MethodLevel;
use super::setting::{Setting, UNLIMITED, names};
use crate::caps::{Capability, Caps};
use crate::codec::{Method, ZlibEngine};
use crate::params::{LinkSpec, ParamError, Params};
use crate::wire::Format;

/// The most values of an axis, and the most settings of a matrix.
pub const MOST: usize = 10_000;

/// The values of each axis, at least one each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Axes {
    /// Methods with their levels.
    pub compressions: Vec<MethodLevel>,
    /// Compression threads.
    pub compress_threads: Vec<u8>,
    /// Decompression threads.
    pub decompress_threads: Vec<u8>,
    /// Pages in a batch.
    pub batch_pages: Vec<Option<u16>>,
    /// Numbers of connections.
    pub connections: Vec<u8>,
    /// Sizes of the delta cache; `None` without deltas.
    pub xbzrle: Vec<Option<u64>>,
    /// Libraries for zlib and gzip.
    pub zlib_engines: Vec<ZlibEngine>,
    /// Emulated links.
    pub links: Vec<Option<LinkSpec>>,
    /// Formats of the stream.
    pub wires: Vec<Format>,
}

impl Axes {
    /// These methods, and one value on every other axis: that of `params` and `caps`.
    pub fn of(compressions: Vec<MethodLevel>, params: &Params, caps: &Caps) -> Axes {
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
    /// Names the first invalid value.
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
    /// Without `later_rounds`, deltas make no difference.
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
        Some("the qemu wire supports zlib and none")
    } else if setting.connections > 1 {
        Some("the qemu wire has one connection")
    } else {
        None
    }
}

/// The settings to measure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matrix {
    /// Every setting once.
    pub settings: Vec<Setting>,
    /// Notes for the user, a line each.
    pub notes: Vec<String>,
}

/// An invalid axis, or an invalid combination of axes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AxisError {
    /// An invalid value of a parameter.
    #[error(transparent)]
    Value(#[from] ParamError),
    /// An invalid range.
    #[error("invalid range '{given}' for {axis}: allowed is A-B with A not greater than B")]
    Range {
        /// The axis.
        axis: &'static str,
        /// The invalid text.
        given: String,
    },
    /// An unknown format of the stream.
    #[error("invalid wire '{0}': allowed are native and qemu")]
    Wire(String),
    /// Nothing can be measured.
    #[error("there is nothing to measure{0}")]
    Empty(String),
    /// Too many combinations.
    #[error("more than {MOST} settings to measure: use fewer values")]
    TooMany,
}

/// The value that `get` reads after a parameter was set to the text `value`.
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

/// The numbers of `A-B`, if the word has this form.
fn range(word: &str) -> Option<std::ops::RangeInclusive<u32>> {
    let (first, last) = word.split_once('-')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if digits(first) && digits(last) {
        // A number that does not fit is out of every parameter's range.
        let number = |text: &str| text.parse().unwrap_or(u32::MAX);
        Some(number(first)..=number(last))
    } else {
        None
    }
}

/// The values without repetitions.
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

#[cfg(test)]
mod tests;
