//! How a destination gets its source: it waits for one in the [lobby](super::lobby), or opens a stored
//! stream; then it recognises the wire by the first bytes, and on the native wire negotiates.

use crate::error::{Error, Kind, Result};
use crate::session::{self, Context};
use crate::transport::Address;
use crate::transport::listen::{Listener, is_listened_on, open_for_reading};
use crate::wire::native::HELLO_HEAD_LEN;

use super::greet::{answer, is_qemu, welcome};
use super::links::{Links, is_closed};
use super::lobby::{Lobby, NativeSource, QemuSource, Source};
use super::request::Request;
use super::stage::NEGOTIATING;

/// Waits for a source, or opens what there is to read.
pub(super) fn accept(
    request: &Request,
    context: &Context,
    listening: &dyn Fn(&Address),
    dropped: &(dyn Fn(&str) + Sync),
) -> Result<Source> {
    let mut source = if is_listened_on(&request.address) {
        let listener = Listener::bind(&request.address)?;
        listening(listener.address());
        Lobby::new(listener, context).wait(request, context, dropped)?
    } else {
        open(request, context)?
    };
    let links = match &mut source {
        Source::Native(source) => &mut source.links,
        Source::Qemu(source) => &mut source.links,
    };
    for stream in &mut links.streams {
        context.emulate_link(stream)?;
    }
    Ok(source)
}

/// Opens a stored stream, a descriptor or a command, which is one source at most.
fn open(request: &Request, context: &Context) -> Result<Source> {
    let silence = context.tuning.get().timeout;
    let stream = open_for_reading(&request.address, &context.abort, silence)?;
    context.stats.start();
    let mut links = Links {
        streams: vec![stream],
    };
    let mut head = [0; HELLO_HEAD_LEN];
    let hello = match links.main().read(&mut head) {
        Ok(()) if is_qemu(&head).map_err(|error| error.in_stage(NEGOTIATING))? => {
            return Ok(Source::Qemu(Box::new(QemuSource {
                links,
                head: head.to_vec(),
                others: None,
            })));
        }
        read => read
            .map_err(Error::from)
            .and_then(|()| session::receive_hello(links.main(), head)),
    };
    let hello = match hello {
        Ok(hello) => hello,
        Err(error) if is_closed(&error) => {
            return Err(links.why_closed().unwrap_or(error.in_stage(NEGOTIATING)));
        }
        // A command that has not hung up is not waited for: it may run for long.
        Err(error) => return Err(error.in_stage(NEGOTIATING)),
    };
    let main = links.main();
    if session::is_probe(&hello) {
        if main.is_two_way() {
            let answer = session::answer_probe(&hello, &context.caps, silence);
            main.write(&answer.to_bytes(), &[])?;
        }
        let what = "the other end only asked what this destination supports";
        return Err(Error::new(Kind::Failed, what).in_stage(NEGOTIATING));
    }
    let outcome = match hello.connections {
        1 => welcome(&hello, request, &context.caps),
        many => Err(Error::new(
            Kind::Refused,
            format!("this is one of {many} connections, and no other can join"),
        )),
    };
    if main.is_two_way() {
        let agreed = outcome.as_ref().map(|(agreed, _)| agreed);
        answer(main, agreed, silence)?;
    }
    let (agreed, output) = outcome?;
    Ok(Source::Native(Box::new(NativeSource {
        links,
        agreed,
        output,
    })))
}
