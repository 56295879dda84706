//! `ramferry probe`: what a listening destination supports.

use crate::error::Result;
use crate::source::{self, Peer};
use crate::text::printable;
use crate::transport::{Address, LISTENING_SCHEMES, TransportError};
use crate::units::format_duration;
use crate::wire::native::VERSIONS;

use super::output::{print, print_json};
use super::params::{Checked, LimitArgs};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
The destination keeps listening for its source. Examples:
  ramferry probe tcp:192.0.2.7:4444
  ramferry probe unix:r.sock --json
Only ramferry receive answers. Do not probe a QEMU that waits with -incoming: it takes the first
connection for its source, and ends when that does not send a stream. Use send --wire qemu for it.
tcp: is neither encrypted nor authenticated.")]
pub(super) struct ProbeArgs {
    /// Where it listens: tcp:HOST:PORT or unix:PATH
    #[arg(value_parser = Checked(listening))]
    uri: Address,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    limits: LimitArgs,
}

/// The names of the members are stable.
#[derive(serde::Serialize)]
#[serde(rename_all = "kebab-case")]
struct Document<'a> {
    address: String,
    /// The oldest and the newest version that the destination speaks, and this program.
    protocol_versions: [u16; 2],
    own_protocol_versions: [u16; 2],
    /// The version that both would use; null if they have none in common.
    protocol_version: Option<u16>,
    /// Seconds of silence after which the destination gives up.
    timeout: f64,
    /// What it would agree to; null if unknown.
    capabilities: Option<Vec<&'a str>>,
    /// What this program supports and the destination does not; null if unknown.
    lacks: Option<Vec<&'static str>>,
    /// Why that is unknown.
    refusal: Option<&'a str>,
}

fn listening(text: &str) -> Result<Address, TransportError> {
    let parsed = text.parse::<Address>();
    parsed.map_err(|error| error.allowing(LISTENING_SCHEMES))
}

pub(super) fn run(args: ProbeArgs) -> Result<()> {
    let peer = source::probe(&args.uri, &args.limits.into_params())?;
    if args.json {
        return print_json(&document(&args.uri, &peer));
    }
    print(&text(&args.uri, &peer))
}

fn document<'a>(address: &Address, peer: &'a Peer) -> Document<'a> {
    let (oldest, newest) = peer.versions;
    let able = peer.capabilities.as_ref();
    Document {
        address: address.to_string(),
        protocol_versions: [oldest, newest],
        own_protocol_versions: [*VERSIONS.start(), *VERSIONS.end()],
        protocol_version: peer.version,
        timeout: peer.silence.as_secs_f64(),
        capabilities: able
            .ok()
            .map(|able| able.iter().map(String::as_str).collect()),
        lacks: peer.lacks(),
        refusal: able.err().map(String::as_str),
    }
}

fn text(address: &Address, peer: &Peer) -> String {
    let (oldest, newest) = peer.versions;
    let (own_oldest, own_newest) = (VERSIONS.start(), VERSIONS.end());
    let list = |names: Vec<&str>| match names.is_empty() {
        true => "nothing".to_owned(),
        false => names.join(", "),
    };
    let version = match peer.version {
        Some(version) => format!("version {version} would be used"),
        None => format!(
            "this program supports {own_oldest} to {own_newest}, so a migration would be refused"
        ),
    };
    let mut lines = vec![
        format!("{address} is a ramferry that receives"),
        format!("protocol     versions {oldest} to {newest}; {version}"),
        format!("timeout      {} of silence", format_duration(peer.silence)),
    ];
    match &peer.capabilities {
        Ok(able) => {
            let able = able.iter().map(String::as_str).collect();
            lines.push(format!("capabilities {}", list(able)));
            let lacks = peer.lacks().unwrap_or_default();
            let ours = if lacks.is_empty() {
                ""
            } else {
                " (this program has it)"
            };
            lines.push(format!("missing      {}{ours}", list(lacks)));
        }
        Err(why) => {
            lines.push(format!("capabilities unknown: {why}"));
        }
    }
    lines.iter().map(|line| printable(line) + "\n").collect()
}
