//! What is left of a request once the destination has said what it supports.

use crate::caps::{Capability, Caps};
use crate::codec::Method;
use crate::error::{Error, Kind, Result};
use crate::image::Guest;
use crate::params::Params;
use crate::session::{self, Agreed, Context};
use crate::wire::native::Offer;

use crate::source::request::Request;

/// Used instead of a method that the destination lacks: the first of these that it has, or none.
/// Every version of this program has the first.
const INSTEAD: [Method; 4] = [Method::Zlib, Method::Gzip, Method::Zstd, Method::Lz4];

/// What of a request is negotiable.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    pub(super) caps: Caps,
    /// Whether what the destination lacks may be left out.
    fallback: bool,
    /// Whether rounds may follow the first, so that deltas can be of use.
    later_rounds: bool,
    /// Whether the guest is a guest folder, which the destination must support.
    folder: bool,
    /// Whether that has device state which precedes RAM's pages in QEMU's stream.
    early: bool,
    /// Whether the guest runs on here, so that what is sent is a copy.
    stays: bool,
}

impl Terms {
    pub(super) fn of(request: &Request, guest: &Guest, caps: Caps) -> Terms {
        Terms {
            caps,
            fallback: request.fallback,
            later_rounds: request.has_later_rounds(),
            folder: guest.description().is_some(),
            early: guest
                .description()
                .is_some_and(|description| description.early.bytes() > 0),
            stays: request.guest_stays(),
        }
    }

    fn deltas(&self) -> bool {
        self.caps.has(Capability::Xbzrle) && self.later_rounds
    }

    /// Leaves out what the destination lacks, if that is allowed, with a notice. From here on, no
    /// other method that it lacks can be chosen.
    pub(super) fn settle(&mut self, context: &Context, agreed: &Agreed) -> Result<()> {
        let has = |name: &str| agreed.capabilities.contains(name);
        context.tuning.update(|params| {
            // Under the same lock as the change, so that no other change slips in between.
            let _ = context.agreed.set(agreed.capabilities.clone());
            let method = params.compress_method;
            let compress = self.caps.has(Capability::Compress);
            if !compress || method == Method::None || has(method.name()) {
                return Ok::<_, Error>(());
            }
            let instead = INSTEAD.into_iter().find(|one| has(one.name()));
            let instead = instead.unwrap_or(Method::None);
            self.leave_out(context, method.name(), || match instead {
                Method::None => "nothing is compressed".to_owned(),
                _ => format!("{instead} is used instead"),
            })?;
            params.compress_method = instead;
            params.compress_level = params.compress_level.min(*instead.levels().end());
            Ok(())
        })?;
        if self.deltas() && !has(session::CAPABILITY_XBZRLE) {
            self.leave_out(context, session::CAPABILITY_XBZRLE, || {
                "changed pages are sent whole".to_owned()
            })?;
            self.caps.switch(Capability::Xbzrle, false);
        }
        Ok(())
    }

    /// Leaves one thing out, or ends the migration with an error that names it.
    fn leave_out(
        &self,
        context: &Context,
        name: &'static str,
        instead: impl FnOnce() -> String,
    ) -> Result<()> {
        if !self.fallback {
            return Err(Error::new(Kind::Refused, session::lacking(name)));
        }
        let notice = format!("{}: {}", session::lacking(name), instead());
        context.stats.notice(notice);
        context.stats.dropped(name);
        Ok(())
    }
}

/// What a source offers: what it uses is required.
pub(super) fn offers(terms: &Terms, params: &Params) -> Vec<Offer> {
    let compress = terms.caps.has(Capability::Compress);
    let method = Some(params.compress_method).filter(|&one| compress && one != Method::None);
    let mut offers = session::offers(method, terms.deltas());
    if terms.folder {
        offers.extend(session::folder_offers(terms.early));
    }
    if terms.stays {
        offers.push(session::stays_offer());
    }
    offers
}

/// Requires only what the guest itself needs, so that a destination that lacks something else still
/// answers.
pub(super) fn ask_only(offers: &mut [Offer]) {
    for offer in offers {
        offer.required &= session::FOLDER_CAPABILITIES.contains(&&*offer.name);
    }
}
