//! One setting to measure, and how settings are named among each other.

use super::methods::Compression;
use crate::caps::{Capability, Caps};
use crate::codec::{Method, ZlibEngine};
use crate::params::{LinkSpec, Params};
use crate::units::format_bytes;
use crate::wire::Format;

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
