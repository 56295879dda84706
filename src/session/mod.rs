//! What both ends of a migration share: its phases, negotiation, and messages.
//!
//! [`negotiate`] and [`check_answer`] are pure functions of the messages; `messages.rs` writes
//! records to a stream and reads them; [`Phase`] says how far a migration has come and which end
//! may run the guest.

mod context;
mod messages;
mod negotiate;
mod phase;
mod probe;

pub(crate) use context::{CancelledBy, Context};
pub(crate) use messages::{
    LAST_WORDS, PeerFailure, TooLong, failure_message, last_words, out_of_place, patience,
    peer_failure, receive_answer, receive_header, receive_hello, receive_message, receive_rest,
    send_message,
};
pub use negotiate::{
    Agreed, answer, check_answer, folder_offers, hello, known_capabilities, negotiate, offers,
};
pub(crate) use negotiate::{
    CAPABILITY_GUEST_FOLDER, CAPABILITY_GUEST_STAYS, CAPABILITY_XBZRLE, FOLDER_CAPABILITIES,
    check_hello, common_version, lacking, session_id, stays_offer,
};
pub(crate) use phase::Phase;
pub use probe::probe_hello;
pub(crate) use probe::{CAPABILITY_PROBE, answer_probe, is_probe};
