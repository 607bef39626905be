//! The control socket of a processor component on another host, here: whoever
//! starts a program need not know where it runs. Each program has a connection
//! and threads of its own, so none stalls another.

use crate::agent::{Client, Reach};
use anyhow::{Context, Result, bail, ensure};
use proto::process::{ControlReply, ControlRequest, Spawn};
use proto::wire;
use rustix::fd::OwnedFd;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use std::io::{IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread::Builder;
use std::time::Duration;

/// Longest request: a program's arguments and environment.
const LONGEST: usize = 4 << 20;
/// How long a client may take to say which program it wants.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait for news at a time; there is nothing else to do.
const WHILE: Duration = Duration::from_secs(3600);

/// Serves a processor component's control socket at `path` as long as this
/// process lives.
pub(super) fn start(path: &Path, client: Client, processor: &str) -> Result<()> {
    let context = || format!("cannot listen at {}", path.display());
    let listener = UnixListener::bind(path).with_context(context)?;
    let processor = processor.to_owned();
    let serve = move || {
        for stream in listener.incoming().flatten() {
            let (client, processor) = (client.clone(), processor.clone());
            let relay = move || {
                if let Err(why) = relay(&stream, &client, &processor) {
                    let message = format!("{why:#}");
                    let _ = tell(
                        &stream,
                        &ControlReply::Failed {
                            message,
                            status: 125,
                        },
                    );
                }
            };
            // Without a thread for it, it is hung up on.
            let _ = Builder::new().name("program".to_owned()).spawn(relay);
        }
    };
    let thread = Builder::new().name("control".to_owned()).spawn(serve);
    thread.map(drop).context("cannot start a thread")
}

/// One program, from its start to its end.
fn relay(stream: &UnixStream, client: &Client, processor: &str) -> Result<()> {
    stream.set_read_timeout(Some(CLIENT_TIMEOUT))?;
    let (spawn, stdio, trace) = hear_spawn(stream)?;
    stream.set_read_timeout(None)?;
    let program = client.spawn(processor, spawn, stdio, trace)?;
    let requests = stream.try_clone()?;
    let reach = program.reach();
    let listen = move || {
        while let Ok(ControlRequest::Signal(signal)) = hear(&requests, &[]) {
            reach.signal(signal);
        }
        // It hung up, or makes no sense: nobody wants the program.
        Reach::hang_up(&reach);
    };
    let listener = Builder::new().name("signals".to_owned()).spawn(listen)?;
    loop {
        let Some(news) = program.hear(WHILE) else {
            continue;
        };
        let told = tell(stream, &news);
        if told.is_err() || !matches!(news, ControlReply::Started { .. }) {
            break;
        }
    }
    let _ = stream.shutdown(std::net::Shutdown::Both);
    let _ = listener.join();
    Ok(())
}

fn tell(mut stream: &UnixStream, reply: &ControlReply) -> std::io::Result<()> {
    let body = wire::encode(reply);
    let head = u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes();
    stream.write_all(&[&head[..], &body].concat())
}

/// The request, and the descriptors that come with its first bytes.
fn hear_spawn(stream: &UnixStream) -> Result<(Spawn, [OwnedFd; 3], Option<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0; 4];
    let slices = &mut [IoSliceMut::new(&mut bytes)];
    let heard = recvmsg(stream, slices, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?.bytes;
    let rights = ancillary.drain().filter_map(|item| match item {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    let mut fds: Vec<OwnedFd> = rights.flatten().collect();
    ensure!(heard > 0, "nothing was asked");
    let trace = if fds.len() == 4 { fds.pop() } else { None };
    let Ok(stdio) = fds.try_into() else {
        bail!("a program needs three descriptors, and one more for a trace");
    };
    match hear(stream, &bytes[..heard])? {
        ControlRequest::Spawn(spawn) => Ok((spawn, stdio, trace)),
        ControlRequest::Signal(_) => bail!("a signal for no program"),
        ControlRequest::Counters => bail!("counters are asked of the supervisor"),
    }
}

/// The next request, of which some bytes may have been read.
fn hear(mut stream: &UnixStream, begun: &[u8]) -> Result<ControlRequest> {
    let mut head = [0; 4];
    head[..begun.len()].copy_from_slice(begun);
    stream.read_exact(&mut head[begun.len()..])?;
    let len = u32::from_le_bytes(head) as usize;
    ensure!(len <= LONGEST, "a request of {len} bytes");
    let mut body = vec![0; len];
    stream.read_exact(&mut body)?;
    Ok(wire::decode(&body)?)
}
