//! The receiving end. The phases of a migration, top-down; `pipeline.rs` is where a page goes.
//!
//! Mirrors [`crate::source`], file by file.

mod accept;
mod decode;
mod folder;
mod pipeline;
mod prove;
mod qemu;
mod rounds;

use std::path::PathBuf;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use crate::caps::Caps;
use crate::error::{Error, Kind, Result};
use crate::fault::Site;
use crate::image::Output;
use crate::page::{Digest, PAGE_SIZE};
use crate::pool::analysis_pool;
use crate::session::{self, Context, PeerFailure, Phase};
use crate::stats::Stage;
use crate::sync;
use crate::transport::{Address, Stream, TransportError};
use crate::wire::native::Message;
use accept::{Accepted, Links};
use prove::Proof;

/// How long a source may take to hear why it was given up.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// From where to receive, and what to make of it.
#[derive(Debug, Clone)]
pub struct Request {
    /// From where. Whether it is one of us or a QEMU that sends shows by itself.
    pub address: Address,
    /// What is written: a raw image or, if the source has one, a guest folder.
    pub output: PathBuf,
    /// The one block that is kept, as a raw image; the others are received, proven and dropped.
    pub block: Option<String>,
    /// What the source may use.
    pub caps: Caps,
    /// Whether an output that is there already is replaced.
    pub force: bool,
}

impl Request {
    /// All of a guest, with everything that may be used.
    pub fn new(address: Address, output: impl Into<PathBuf>) -> Request {
        Request {
            address,
            output: output.into(),
            block: None,
            caps: Caps::default(),
            force: false,
        }
    }
}

/// Receives a guest's RAM, and returns when it is proven and OUTPUT holds it.
///
/// `listening` hears the address that is listened on, as soon as it is; `dropped` hears a line
/// for each connection that is dropped because it is none of ours.
///
/// # Errors
/// OUTPUT is then as it was, and the source, if it can hear it, knows why.
pub fn run(
    request: &Request,
    context: &Context,
    listening: &dyn Fn(&Address),
    dropped: &(dyn Fn(&str) + Sync),
) -> Result<()> {
    Output::check(&request.output, request.force)?;
    let (mut links, output) = match accept::accept(request, context, listening, dropped)? {
        Accepted::Native(native) => *native,
        Accepted::Qemu(source) => {
            let (mut stream, head, others) = *source;
            context.emulate_link(&mut stream)?;
            return qemu::receive(&mut stream, (&head, others), request, context);
        }
    };
    for stream in &mut links.streams {
        context.emulate_link(stream)?;
    }
    context.stats.ram(
        output.pages() * PAGE_SIZE as u64,
        links.streams.len() as u16,
    );

    let outcome = if links.is_two_way() {
        from_a_peer(&links, output, context)
    } else {
        from_a_writer(&mut links, output, context)
    };
    let outcome = outcome.map_err(|error| {
        links.give_up(&error);
        links.explain(error)
    });
    context.stats.bytes(links.received(), links.sent());
    outcome
}

/// Receives from somebody who waits for answers: ends with the commit protocol.
fn from_a_peer(links: &Links, mut output: Output, context: &Context) -> Result<()> {
    // The ticker and the main thread both write.
    let main = Mutex::new(&links.streams[0]);
    let say = |message: &Message| {
        let main = sync::lock(&main);
        session::send_message(*main, message)
    };
    let (done, until_done) = crossbeam_channel::bounded::<()>(0);
    thread::scope(|scope| {
        thread::Builder::new()
            .name("keep-alive".into())
            .spawn_scoped(scope, || {
                let interval = links.agreed.keepalive_interval();
                // Nothing is ever sent on the channel: it ends when its sender is dropped.
                while until_done.recv_timeout(interval)
                    == Err(crossbeam_channel::RecvTimeoutError::Timeout)
                {
                    if say(&Message::KeepAlive).is_err() {
                        return;
                    }
                }
            })
            .map_err(|error| Error::new(Kind::Failed, error).in_stage("start a thread"))?;
        let outcome = pipeline::run(links, &output, context).and_then(|finished| {
            Error::catch("commit", || {
                let (digest, proof) = finished.take(&mut output);
                prove(digest, proof, &mut output, context)?;
                commit(digest, &links.streams[0], &say, &mut output, context)
            })
        });
        context.abort_on_error(&outcome);
        drop(done);
        outcome
    })
}

/// Receives from a file or a pipe: nobody hears an answer.
fn from_a_writer(links: &mut Links, mut output: Output, context: &Context) -> Result<()> {
    let finished = pipeline::run(links, &output, context)?;
    let (digest, proof) = finished.take(&mut output);
    // The end of the stream, or a writer that has not hung up yet.
    if let Ok(Some(_)) = links.streams[0].try_read(&mut [0]) {
        return Err(
            Error::new(Kind::Failed, "the stream goes on behind its end").in_stage("receive"),
        );
    }
    prove(digest, proof, &mut output, context)?;
    // A command that failed may have written all the same.
    for stream in &mut links.streams {
        stream.finish()?;
    }
    if context.abort.is_raised() {
        return Err(Error::interrupted());
    }
    context.enter(Phase::Commit)?;
    output.commit()?;
    context.stats.proven(digest);
    Ok(())
}

/// Reads back what the output really holds, as far as that was not done beside the rounds, and
/// compares it with what was sent.
fn prove(sent: Digest, proof: Proof, output: &mut Output, context: &Context) -> Result<()> {
    context.enter(Phase::Switchover)?;
    context.faults.check(Site::Finish)?;
    let held = if proof.is_begun() {
        let blocks = proof
            .finish(output, context)
            .map_err(|error| error.in_stage("prove"))?;
        let mut held = Digest::default();
        blocks.iter().for_each(|block| held.add(block.0));
        output.set_digests(blocks);
        held
    } else {
        walk(output, context).map_err(|error| error.in_stage("prove"))?
    };
    if held == sent {
        // Reading it back is what proves it.
        output
            .device_state()
            .map_err(|error| Error::from(error).in_stage("prove"))?;
        Ok(())
    } else {
        Err(Error::new(
            Kind::Differs,
            format!("what arrived is not what was sent: the digest is {held}, not {sent}"),
        )
        .in_stage("prove"))
    }
}

/// All of it at once.
fn walk(output: &mut Output, context: &Context) -> Result<Digest> {
    let pool = analysis_pool(context.tuning.get().decompress_threads)
        .map_err(|error| Error::new(Kind::Failed, error))?;
    let (held, time) = pool.install(|| output.sum_hashes())?;
    context.stats.add_cpu(Stage::Proof, time);
    Ok(Digest(held))
}

/// It is proven: says so, and takes over when the source has let go.
fn commit(
    digest: Digest,
    main: &Stream,
    say: &dyn Fn(&Message) -> Result<(), TransportError>,
    output: &mut Output,
    context: &Context,
) -> Result<()> {
    say(&Message::Proven { digest })?;
    context.stats.proven(digest);
    loop {
        match session::receive_message(main).map_err(|error| error.in_stage("commit"))? {
            Message::KeepAlive => {}
            Message::Commit => break,
            Message::Failure { code, text } => return Err(session::peer_failure(code, &text)),
            other => return Err(session::out_of_place(&other, "Commit was expected")),
        }
    }
    context.enter(Phase::Commit)?;
    context.faults.check(Site::Commit)?;
    output.commit()?;
    // The source has let go and the output is there: what happens to the link is no matter now.
    if say(&Message::Committed).is_err() && context.abort.is_raised() {
        // Whoever cancels now comes too late, and the source is to know how it ended.
        main.last_word(&Message::Committed.to_bytes(), LAST_WORDS);
    }
    context.end(&Ok(()));
    Ok(())
}

/// Whether the source knows of this error already, or is gone.
fn source_knows(error: &Error) -> bool {
    error.cause::<PeerFailure>().is_some() || matches!(error.cause(), Some(TransportError::Closed))
}
