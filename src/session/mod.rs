//! What both ends of a migration share: its phases, what they agree on, and how they speak.
//!
//! [`negotiate`] and [`check_answer`] are pure functions of what was said; `messages.rs` puts
//! records on a stream and takes them off; [`Phase`] says how far a migration is and which end may
//! run the guest.

mod context;
mod messages;
mod negotiate;
mod phase;
mod probe;

pub use context::{Context, Tuning};
pub use messages::{
    PeerFailure, failure_message, out_of_place, peer_failure, receive_answer, receive_header,
    receive_hello, receive_message, receive_rest, send_message,
};
pub use negotiate::{
    Agreed, CAPABILITY_GUEST_FOLDER, CAPABILITY_XBZRLE, answer, check_answer, check_hello,
    folder_offer, hello, known_capabilities, milliseconds, negotiate, offers, session_id,
};
pub(crate) use negotiate::{common_version, lacking};
pub use phase::{IllegalTransition, Phase};
pub use probe::{CAPABILITY_PROBE, answer_probe, is_probe, probe_hello};
