//! The receiving end: the phases of a migration, top-down. `pipeline.rs` is where a page goes.
//!
//! | file | what it knows |
//! |---|---|
//! | `request.rs` | what to receive, and what to make of it |
//! | `accept.rs`, `lobby.rs`, `greet.rs` | how a source comes about: listening, recognising its wire, negotiating |
//! | `pipeline.rs`, `barrier.rs` | work on its way from a connection to the output, round by round |
//! | `wire/` | what is said on the connections, and how it is decoded |
//! | `links.rs` | the connections, whatever is said on them |
//! | `prove.rs` | reading back what the output holds |
//! | `write_out.rs` | writing it to disk before the end |
//!
//! Where a file does the reverse of one in [`crate::source`], it has the same name.

mod accept;
mod barrier;
mod greet;
mod links;
mod lobby;
#[cfg(all(test, shuttle))]
pub(crate) mod model;
mod pipeline;
mod prove;
mod request;
mod stage;
mod wire;
mod write_out;

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Instant;

use crate::error::{Error, Kind, Result};
use crate::fault::Site;
use crate::image::{ImageError, Output};
use crate::page::{Digest, PAGE_SIZE};
use crate::pool::analysis_pool;
use crate::session::{Context, Phase};
use crate::stats::Stage;
use crate::transport::Address;
use lobby::Source;
use prove::Proof;
pub(crate) use request::Request;
use stage::{COMMITTING, PROVING, RECEIVING};
use wire::Wire;
use wire::native::NativeWire;
use wire::qemu::QemuWire;

/// Receives a guest's RAM, and returns when it is proven and OUTPUT holds it.
///
/// `listening` is called with the address that is listened on, as soon as it is; `dropped` with a
/// line for each connection that is dropped or refused.
///
/// # Errors
/// OUTPUT is then unchanged, and the source knows why, on a link with a way back.
pub(crate) fn run(
    request: &Request,
    context: &Context,
    listening: &dyn Fn(&Address),
    dropped: &(dyn Fn(&str) + Sync),
) -> Result<()> {
    request.keep_stream()?;
    Output::check(&request.output, request.force)?;
    let source = accept::accept(request, context, listening, dropped)?;
    context.stats.wire_format(source.format());
    match source {
        Source::Native(source) => receive(NativeWire::new(*source, context), request.sync, context),
        Source::Qemu(source) => receive(
            QemuWire::new(*source, request, context),
            request.sync,
            context,
        ),
    }
}

/// Receives from a source that has been accepted.
fn receive<W: Wire>(mut wire: W, sync: bool, context: &Context) -> Result<()> {
    // The block device whose old content is lost.
    let overwritten = OnceLock::new();
    let outcome = Error::catch(RECEIVING, || {
        let output = receive_and_prove(&wire, sync, &overwritten, context)?;
        wire.links_mut().finish()?;
        take_over(&wire, output, context)
    })
    .map_err(|error| wire.failed(context.name_canceller(error)));
    let links = wire.links();
    context.stats.bytes(links.received(), links.sent());
    outcome.map_err(|error| match overwritten.into_inner() {
        Some(path) => error.caused(|source| ImageError::PartlyWritten { path, source }),
        None => error,
    })?;
    context.end(&Ok(()));
    Ok(())
}

/// All phases up to the source's letting go: the output that may take over.
fn receive_and_prove<W: Wire>(
    wire: &W,
    sync: bool,
    overwritten: &OnceLock<PathBuf>,
    context: &Context,
) -> Result<Output> {
    wire.attend(|| {
        let mut output = wire.output()?;
        output.set_sync(sync);
        output
            .notes()
            .into_iter()
            .for_each(|note| context.stats.notice(note));
        if let Some(path) = output.device() {
            overwritten.get_or_init(|| path.to_owned());
        }
        output.begin(|| match context.abort.is_raised() {
            true => Err(Error::interrupted()),
            false => Ok(()),
        })?;
        let connections = wire.links().streams.len() as u16;
        let bytes = output.pages() * PAGE_SIZE as u64;
        context.stats.ram(bytes, connections);

        let proof = pipeline::run(wire, &output, context)?;
        Error::catch(COMMITTING, || {
            let digest = wire.end(&mut output)?;
            prove(digest, proof, &mut output, context)?;
            // Proven means that a power loss cannot take it back, as the source then lets go.
            let started = Instant::now();
            output
                .sync()
                .map_err(|error| Error::from(error).in_stage(PROVING))?;
            if sync {
                context.stats.synced(started.elapsed());
            }
            context.stats.proven(digest);
            wire.proven(digest)
        })?;
        Ok(output)
    })
}

/// Gives the output its name. The source has let go, so nothing but that may fail any more.
fn take_over<W: Wire>(wire: &W, mut output: Output, context: &Context) -> Result<()> {
    wire.attend(|| {
        Error::catch(COMMITTING, || {
            context.enter(Phase::Commit)?;
            context.faults.check(Site::Commit)?;
            if let Some(unsynced) = output.commit()? {
                context.stats.notice(unsynced.to_string());
            }
            wire.committed();
            Ok(())
        })
    })
}

/// Reads back what the output holds, as far as that was not done during the rounds, and compares it
/// with what was sent.
fn prove(sent: Digest, proof: Proof, output: &mut Output, context: &Context) -> Result<()> {
    context.enter(Phase::Switchover)?;
    context.faults.check(Site::Finish)?;
    let held = if proof.is_begun() {
        let blocks = proof
            .finish(output, context)
            .map_err(|error| error.in_stage(PROVING))?;
        let mut held = Digest::default();
        blocks.iter().for_each(|block| held.add(block.0));
        output.set_digests(blocks);
        held
    } else {
        read_back(output, context).map_err(|error| error.in_stage(PROVING))?
    };
    if held == sent {
        // Reading it back is what proves it.
        output
            .device_state()
            .map_err(|error| Error::from(error).in_stage(PROVING))?;
        Ok(())
    } else {
        Err(Error::new(
            Kind::Differs,
            format!("what arrived is not what was sent: the digest is {held}, not {sent}"),
        )
        .in_stage(PROVING))
    }
}

/// Reads all of the output at once.
fn read_back(output: &mut Output, context: &Context) -> Result<Digest> {
    let pool = analysis_pool(context.tuning.get().decompress_threads)
        .map_err(|error| Error::new(Kind::Failed, error))?;
    let (held, time) = pool.install(|| output.sum_hashes())?;
    context.stats.add_cpu(Stage::Proof, time);
    Ok(Digest(held))
}
