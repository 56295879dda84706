//! The one table of parameters: the command line's options, `ramferry parameters` and a monitor
//! all read [`TABLE`], so a parameter is added, named and documented in one place.
//!
//! Names are QEMU's wherever the meaning is QEMU's, libvirt's where it is libvirt's; types are those
//! of libvirt's typed parameters.
//! A row knows how to read its value into [`Params`], from text ([`Params::set_text`]) as from a
//! [typed list](typed) ([`Params::set`]), and how to give it back ([`Value`]). Rules between
//! parameters are in [`Params::validate`] alone.
//!
//! # The table
#![doc = include_str!("../docs/parameters.md")]

use std::fmt;
use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::codec::{CodecSettings, Method, ZlibEngine};

mod compression;
mod error;
mod link;
mod read;
mod table;
pub mod typed;

pub use error::ParamError;
pub use link::LinkSpec;
use read::Given;
pub use table::TABLE;
pub use typed::{TypedParam, TypedValue};

/// The number of pages in a batch when `batch-pages` is `auto`.
///
/// Measured in the pipeline on real guest RAM. Larger batches wake fewer threads and give deflate a
/// longer window; lz4 and zstd are fastest on what stays in a core's second-level cache.
pub const BATCH_PAGES: [(Method, u16); 5] = [
    (Method::None, 128),
    (Method::Zlib, 128),
    (Method::Gzip, 128),
    (Method::Lz4, 64),
    (Method::Zstd, 64),
];

/// The longest time that any of the time limits may be set to.
pub const LONGEST_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// What happens when a live migration does not converge. The words are libvirt's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum TimeoutAction {
    /// The writer is stopped, and the migration finished, however long that takes.
    #[default]
    Suspend,
    /// The migration fails, and the writer continues.
    Abort,
}

names!(
    "timeout action",
    TimeoutAction {
        Suspend: "suspend",
        Abort: "abort"
    }
);

/// The type of a parameter's value, in libvirt's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// 32 bits, signed.
    Int,
    /// 32 bits.
    Uint,
    /// 64 bits, signed.
    Llong,
    /// 64 bits.
    Ullong,
    /// A floating-point number.
    Double,
    /// `on` or `off`.
    Boolean,
    /// A word.
    String,
}

names!(Kind {
    Int: "int",
    Uint: "uint",
    Llong: "llong",
    Ullong: "ullong",
    Double: "double",
    Boolean: "boolean",
    String: "string"
});

/// Which end of a migration a parameter is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The end that sends.
    Source,
    /// The end that receives.
    Destination,
    /// Either end, each by its own value.
    Both,
}

names!(Side {
    Source: "source",
    Destination: "destination",
    Both: "both"
});

/// What a comparison of settings (`ramferry bench`) does with a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BenchUse {
    /// It is one of the axes along which settings differ.
    Varied,
    /// All settings have the same value of it.
    Same,
    /// It has no effect: no writer is stopped or slowed down, and the two ends find each other at
    /// once.
    Unused,
}

/// The value of a parameter: shown to people by `Display`, in a form that [`Params::set_text`] reads
/// back, and to programs as a JSON number, boolean, string or null.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Value {
    /// Of a [`Kind::Int`], [`Kind::Uint`] or [`Kind::Ullong`] parameter.
    Number(u64),
    /// Of a [`Kind::Double`] parameter.
    Double(f64),
    /// Of a [`Kind::Boolean`] parameter.
    Boolean(bool),
    /// Of a [`Kind::String`] parameter.
    Word(&'static str),
    /// An emulated link, in words.
    Link(LinkSpec),
    /// No value is set; the word for that, such as `auto`. Null in JSON.
    Unset(&'static str),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Number(number) => number.fmt(f),
            Value::Double(number) => number.fmt(f),
            Value::Boolean(on) => f.pad(if *on { "on" } else { "off" }),
            Value::Word(word) | Value::Unset(word) => f.pad(word),
            Value::Link(link) => link.fmt(f),
        }
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match *self {
            Value::Number(number) => serializer.serialize_u64(number),
            Value::Double(number) => serializer.serialize_f64(number),
            Value::Boolean(on) => serializer.serialize_bool(on),
            Value::Word(word) => serializer.serialize_str(word),
            Value::Link(link) => link.serialize(serializer),
            Value::Unset(_) => serializer.serialize_none(),
        }
    }
}

/// A row of [`TABLE`].
#[derive(Debug)]
#[non_exhaustive]
pub struct Parameter {
    /// The name, in lower case with dashes.
    pub name: &'static str,
    /// The type of its value.
    pub kind: Kind,
    /// The default, as text for [`Params::set_text`].
    pub default: &'static str,
    /// The allowed values, in words.
    pub range: &'static str,
    /// The unit of the number, if it has one.
    pub unit: Option<&'static str>,
    /// What it does, in a sentence or two, without a final full stop.
    pub meaning: &'static str,
    /// The end that it applies to.
    pub side: Side,
    /// Whether it can be changed during a migration.
    pub runtime: bool,
    /// The version of this crate that first had it.
    pub since: &'static str,
    /// Whether it may be given several times, with a value each. Such a parameter stores nothing
    /// of its own, and its default lists several values.
    pub repeatable: bool,
    /// The word for having no value at all: a typed value may be this word as a
    /// [`Kind::String`] whatever the parameter's type.
    pub unset: Option<&'static str>,
    /// What a comparison of settings does with it.
    pub in_bench: BenchUse,
    /// Reads a value into its field. The error is what is allowed, to follow the words "VALUE is
    /// not"; the field is unchanged then.
    set: fn(&mut Params, Given<'_>) -> Result<(), String>,
    /// The value of its field.
    pub get: fn(&Params) -> Value,
}

impl Parameter {
    /// Reads a value into the row's field.
    fn put(&self, params: &mut Params, given: Given<'_>) -> Result<(), ParamError> {
        (self.set)(params, given).map_err(|allowed| ParamError::BadValue {
            name: self.name,
            value: given.to_string(),
            allowed,
        })
    }
}

/// The value of every parameter. The fields are typed; the ranges are those of [`TABLE`], which
/// [`Params::set`] keeps and [`Params::validate`] checks together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Params {
    /// The compression method.
    pub compress_method: Method,
    /// 0 for the method's own default, else within [`Method::levels`].
    pub compress_level: u8,
    /// Compression threads, 1 to 255.
    pub compress_threads: u8,
    /// Decompression threads, 1 to 255.
    pub decompress_threads: u8,
    /// Whether a batch waits when every compression thread is busy; if not, it is sent uncompressed.
    pub compress_wait_thread: bool,
    /// Bytes; a power of two no less than a page.
    pub xbzrle_cache_size: u64,
    /// Bytes per second over all connections; 0 is unlimited.
    pub max_bandwidth: u64,
    /// Connections, 1 to 64.
    pub connections: u8,
    /// Pages in a batch, 1 to 256; `None` for what suits the method, see [`Params::batch_pages`].
    pub batch_pages: Option<u16>,
    /// Which library compresses for zlib and gzip.
    pub zlib_engine: ZlibEngine,
    /// Whether batches of deltas are compressed too.
    pub delta_compress: bool,
    /// How long the writer of a live guest may be stopped, up to 2000 s.
    pub downtime_limit: Duration,
    /// Rounds of a live migration before the last, 1 to 65535.
    pub max_rounds: u32,
    /// How long the rounds of a live migration may take before the last; more than 0, or no limit.
    pub max_time: Option<Duration>,
    /// What happens when a live migration does not converge within these.
    pub timeout_action: TimeoutAction,
    /// Percent, 1 to 100.
    pub throttle_trigger_threshold: u8,
    /// Percent, 1 to 99.
    pub cpu_throttle_initial: u8,
    /// Percent, 1 to 99.
    pub cpu_throttle_increment: u8,
    /// Percent, `cpu_throttle_initial` to 99.
    pub max_cpu_throttle: u8,
    /// How long the peer may be silent; more than 0, up to [`LONGEST_TIMEOUT`].
    pub timeout: Duration,
    /// How long to keep trying to connect; more than 0, up to [`LONGEST_TIMEOUT`].
    pub connect_timeout: Duration,
    /// How long to wait for the source; more than 0, up to [`LONGEST_TIMEOUT`], or no limit.
    pub accept_timeout: Option<Duration>,
    /// The link to emulate, if any.
    pub link: Option<LinkSpec>,
}

impl Default for Params {
    fn default() -> Params {
        Params {
            compress_method: Method::Zlib,
            compress_level: 1,
            compress_threads: 8,
            decompress_threads: 2,
            compress_wait_thread: true,
            xbzrle_cache_size: 64 << 20,
            max_bandwidth: 0,
            connections: 1,
            batch_pages: None,
            zlib_engine: ZlibEngine::Libdeflate,
            delta_compress: true,
            downtime_limit: Duration::from_millis(300),
            max_rounds: 30,
            max_time: None,
            timeout_action: TimeoutAction::Suspend,
            throttle_trigger_threshold: 50,
            cpu_throttle_initial: 20,
            cpu_throttle_increment: 10,
            max_cpu_throttle: 99,
            timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(10),
            accept_timeout: None,
            link: None,
        }
    }
}

impl Params {
    /// Sets one parameter from text. Rules between parameters are not checked, because several may have
    /// to be set before they fit together: call [`Params::validate`] after the last.
    ///
    /// # Errors
    /// An unknown name or a value out of the parameter's range; nothing is changed then.
    pub fn set_text(&mut self, name: &str, value: &str) -> Result<(), ParamError> {
        find(name)?.put(self, Given::Text(value))
    }

    /// Sets several parameters from text, all or none, and checks that the result fits together. If a
    /// name is given twice, the later value counts.
    ///
    /// # Errors
    /// As [`Params::set_text`] and [`Params::validate`]; nothing is changed then.
    pub fn set_all(&mut self, values: &[(&str, &str)]) -> Result<(), ParamError> {
        let mut changed = self.clone();
        for (name, value) in values {
            changed.set_text(name, value)?;
        }
        changed.validate()?;
        *self = changed;
        Ok(())
    }

    /// Checks each parameter's range, because fields may be written directly, and the rules between
    /// parameters: the level must be one that the method has. The method `none` takes any level,
    /// since it ignores it.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn validate(&self) -> Result<(), ParamError> {
        typed::check_each(self)?;
        let (method, level) = (self.compress_method, self.compress_level);
        if method != Method::None && !method.levels().contains(&level) {
            return Err(ParamError::BadLevel { method, level });
        }
        if self.max_cpu_throttle < self.cpu_throttle_initial {
            return Err(ParamError::BadValue {
                name: "max-cpu-throttle",
                value: self.max_cpu_throttle.to_string(),
                allowed: format!(
                    "an integer from cpu-throttle-initial, which is {}, to 99",
                    self.cpu_throttle_initial
                ),
            });
        }
        Ok(())
    }

    /// The value of the parameter with this name.
    ///
    /// # Errors
    /// [`ParamError::UnknownParameter`].
    pub fn get(&self, name: &str) -> Result<Value, ParamError> {
        find(name).map(|row| (row.get)(self))
    }

    /// The number of pages in a batch: as set, or by the method from [`BATCH_PAGES`].
    pub fn batch_pages(&self) -> u16 {
        self.batch_pages
            .unwrap_or(BATCH_PAGES[self.compress_method as usize].1)
    }

    /// The settings of the codecs.
    pub fn codec_settings(&self) -> CodecSettings {
        CodecSettings {
            method: self.compress_method,
            level: self.compress_level,
            zlib_engine: self.zlib_engine,
        }
    }
}

/// The row of the parameter with this name.
fn find(name: &str) -> Result<&'static Parameter, ParamError> {
    TABLE
        .iter()
        .find(|row| row.name == name)
        .ok_or_else(|| ParamError::UnknownParameter(name.to_owned()))
}

#[cfg(test)]
mod tests;
