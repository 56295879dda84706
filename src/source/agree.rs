//! What a migration uses of what was asked for, once the destination has said what it can.

use crate::caps::{Capability, Caps};
use crate::codec::Method;
use crate::error::{Error, Kind, Result};
use crate::params::Params;
use crate::session::{self, Agreed, Context};
use crate::wire::native::Offer;

use super::Request;

/// What is used instead of a method that the destination lacks: the first of these that it has,
/// and no method if it has none. Every version of this program has the first.
const INSTEAD: [Method; 4] = [Method::Zlib, Method::Gzip, Method::Zstd, Method::Lz4];

/// What a source offers: what it uses is required.
pub(super) fn offers(request: &Request, caps: &Caps, params: &Params) -> Vec<Offer> {
    let compress = caps.has(Capability::Compress);
    let method = Some(params.compress_method).filter(|&one| compress && one != Method::None);
    let xbzrle = caps.has(Capability::Xbzrle) && request.has_later_rounds();
    session::offers(method, xbzrle)
}

/// Requires no more than the guest itself does: what is missing then can be left out.
pub(super) fn ask_only(offers: &mut [Offer]) {
    for offer in offers {
        offer.required &= offer.name == session::CAPABILITY_GUEST_FOLDER;
    }
}

/// Leaves out what the destination lacks, if that may be done, and tells of it. From here on no
/// method can be chosen that it does not have.
pub(super) fn settle(request: &Request, context: &Context, agreed: &Agreed) -> Result<Caps> {
    let has = |name: &str| agreed.capabilities.contains(name);
    let mut caps = request.caps;
    context.tuning.update(|params| {
        // Nobody changes parameters between this and what follows.
        let _ = context.agreed.set(agreed.capabilities.clone());
        let method = params.compress_method;
        if !caps.has(Capability::Compress) || method == Method::None || has(method.name()) {
            return Ok::<_, Error>(());
        }
        let instead = INSTEAD.into_iter().find(|one| has(one.name()));
        let instead = instead.unwrap_or(Method::None);
        drop_one(request, context, method.name(), || match instead {
            Method::None => "nothing is compressed".to_owned(),
            _ => format!("{instead} is used instead"),
        })?;
        params.compress_method = instead;
        params.compress_level = params.compress_level.min(*instead.levels().end());
        Ok(())
    })?;
    let xbzrle = caps.has(Capability::Xbzrle) && request.has_later_rounds();
    if xbzrle && !has(session::CAPABILITY_XBZRLE) {
        drop_one(request, context, session::CAPABILITY_XBZRLE, || {
            "pages that change go whole".to_owned()
        })?;
        caps.switch(Capability::Xbzrle, false);
    }
    Ok(caps)
}

/// One thing is left out, or the migration ends by its name.
fn drop_one(
    request: &Request,
    context: &Context,
    name: &'static str,
    instead: impl FnOnce() -> String,
) -> Result<()> {
    if !request.fallback {
        return Err(Error::new(Kind::Refused, session::lacking(name)));
    }
    let notice = format!("{}: {}", session::lacking(name), instead());
    context.stats.notice(notice);
    context.stats.dropped(name);
    Ok(())
}
