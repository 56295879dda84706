//! `compression`: libvirt's parameter that sets everything that makes the stream smaller at once.

use crate::caps::{Capability, Caps};
use crate::codec::Method;

use super::{ParamError, Params};

/// The parameter's name, which is libvirt's.
pub(super) const NAME: &str = "compression";
/// The parameter's range.
pub(super) const RANGE: &str =
    "zlib, gzip, lz4, zstd, none, mt (libvirt's word for zlib) or xbzrle";

const XBZRLE: &str = "xbzrle";
/// libvirt's name for QEMU's multi-thread compression, which uses zlib.
const MT: &str = "mt";

/// What is used; everything else is switched off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Compression {
    /// The compression method; `None` if none was named, which then means no compression.
    method: Option<Method>,
    /// Whether deltas are used.
    xbzrle: bool,
}

impl Compression {
    /// The meaning of one value. The error is what is allowed, to follow the words "allowed is".
    pub(super) fn of_one(word: &str) -> Result<Compression, String> {
        let method = match word {
            XBZRLE => None,
            MT => Some(Method::Zlib),
            _ => Some(word.parse().map_err(|_| RANGE.to_owned())?),
        };
        Ok(Compression {
            method,
            xbzrle: method.is_none(),
        })
    }

    /// The meaning of several values together; `None` if there are none.
    pub(super) fn of(words: &[&str]) -> Result<Option<Compression>, ParamError> {
        let mut all = Compression::default();
        let mut first = None;
        for (index, word) in words.iter().enumerate() {
            let one = Compression::of_one(word).map_err(|allowed| ParamError::BadValue {
                name: NAME,
                value: (*word).to_owned(),
                allowed,
            })?;
            if words[..index].contains(word) {
                return Err(ParamError::MethodTwice((*word).to_owned()));
            }
            all.xbzrle |= one.xbzrle;
            if one.method.is_some() {
                all.method = one.method;
                if let Some(first) = first.replace(*word) {
                    return Err(ParamError::TwoMethods {
                        first: first.to_owned(),
                        second: (*word).to_owned(),
                    });
                }
            }
        }
        Ok((!words.is_empty()).then_some(all))
    }

    /// Refuses what only capabilities can do. The error is what is allowed, to follow the words
    /// "allowed is".
    pub(super) fn without_caps(self) -> Result<Compression, String> {
        if self.xbzrle {
            return Err(
                "a method that compresses, which are zlib, gzip, lz4, zstd and none: it is a \
                 capability, so switch the capability xbzrle"
                    .to_owned(),
            );
        }
        Ok(self)
    }

    /// The resulting `compress-method`.
    pub(super) fn method(self) -> Method {
        self.method.unwrap_or(Method::None)
    }

    /// Sets `compress-method`, if a method was named.
    pub(super) fn set_method(self, params: &mut Params) {
        if let Some(method) = self.method {
            params.compress_method = method;
        }
    }

    /// Switches capabilities to what was named.
    pub(super) fn switch(self, caps: &mut Caps) {
        caps.switch(Capability::Compress, self.method() != Method::None);
        caps.switch(Capability::Xbzrle, self.xbzrle);
    }
}
