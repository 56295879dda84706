//! One setting to measure, and the names that distinguish settings from each other.

use super::methods::MethodLevel;
use crate::caps::{Capability, Caps};
use crate::codec::{Method, ZlibEngine};
use crate::params::{LinkSpec, Params};
use crate::units::format_bytes;
use crate::wire::Format;

/// One combination of everything in which settings may differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Setting {
    /// The method and its level.
    pub compression: MethodLevel,
    /// Compression threads.
    pub compress_threads: u8,
    /// Decompression threads.
    pub decompress_threads: u8,
    /// Pages in a batch; `None` for the method's default.
    pub batch_pages: Option<u16>,
    /// Number of connections.
    pub connections: u8,
    /// The delta cache in bytes; `None` without deltas.
    pub xbzrle: Option<u64>,
    /// The library that compresses for zlib and gzip.
    pub zlib_engine: ZlibEngine,
    /// The emulated link.
    pub link: Option<LinkSpec>,
    /// The format of the stream.
    pub wire: Format,
}

impl Setting {
    /// `params` with this setting's values.
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

    /// `caps` with deltas on or off as in this setting. On the qemu wire also compression, which the
    /// method alone does not turn on there.
    pub fn caps(&self, caps: &Caps) -> Caps {
        let mut caps = *caps;
        let mut switch = |capability: Capability, on| {
            // The name is the capability's own, so it is known.
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

    /// The value on each axis but the method's, in words.
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

    /// The same setting over another link.
    #[must_use]
    pub fn over(self, link: Option<LinkSpec>) -> Setting {
        Setting { link, ..self }
    }
}

/// A count with its noun.
fn counted(count: impl Into<u16>, what: &str) -> String {
    match count.into() {
        1 => format!("1 {what}"),
        count => format!("{count} {what}s"),
    }
}

/// The names that distinguish settings from each other: the method, and every value in which they
/// differ.
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
