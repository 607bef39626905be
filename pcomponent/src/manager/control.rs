//! One control connection: a program from its start to its end, or a question
//! for the counters of all.

use super::{Manager, child};
use proto::gmm::{GmmReply, GmmRequest};
use proto::process::{ControlReply, ControlRequest, End, Spawn};
use proto::wire;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use std::io::{IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Longest control frame: arguments and environment of a program.
const MAX_FRAME: usize = 4 << 20;

pub(super) fn serve(mut stream: UnixStream, manager: &Manager) {
    let _ = stream.set_read_timeout(Some(Duration::from_secs(10)));
    let _ = stream.set_write_timeout(Some(Duration::from_secs(10)));
    let (spawn, streams) = match receive_first(&stream) {
        Ok(First::Spawn(spawn, streams)) => (spawn, streams),
        Ok(First::Counters) => {
            let counters = ControlReply::Counters(manager.programs.counters());
            let _ = send(&mut stream, &counters);
            return;
        }
        Ok(First::HungUp) => return,
        Err(e) => {
            tracing::warn!("control connection: {e}");
            return;
        }
    };
    manager.running.fetch_add(1, Ordering::Relaxed);
    let name = String::from_utf8_lossy(&spawn.program).into_owned();
    let last = match start(manager, spawn, streams) {
        Ok(mut running) => {
            if let Some(questions) = running.take_questions() {
                let (process, pid) = (running.process(), running.pid());
                manager.programs.add(process, name, pid, questions);
            }
            supervise(&mut stream, manager, running)
        }
        Err(message) => ControlReply::Failed {
            message,
            status: 125,
        },
    };
    manager.running.fetch_sub(1, Ordering::Relaxed);
    let _ = send(&mut stream, &last);
}

fn send(stream: &mut UnixStream, reply: &ControlReply) -> std::io::Result<()> {
    let body = wire::encode(reply);
    let len = u32::try_from(body.len()).map_err(|_| std::io::ErrorKind::InvalidInput)?;
    stream.write_all(&[&len.to_le_bytes()[..], &body].concat())
}

/// The standard descriptors of a program, and where its trace goes.
pub(super) type Streams = ([OwnedFd; 3], Option<OwnedFd>);

/// How a connection begins.
enum First {
    /// With a program, and three or four descriptors beside it.
    Spawn(Spawn, Streams),
    Counters,
    /// With nothing.
    HungUp,
}

/// The first frame.
fn receive_first(stream: &UnixStream) -> Result<First, String> {
    let mut fds = Vec::new();
    let mut head = [0; 4];
    if !receive(stream, &mut head, &mut fds)? {
        return Ok(First::HungUp);
    }
    let len = u32::from_le_bytes(head) as usize;
    if len > MAX_FRAME {
        return Err(format!("a frame of {len} bytes is longer than {MAX_FRAME}"));
    }
    let mut body = vec![0; len];
    if !receive(stream, &mut body, &mut fds)? {
        return Err("hung up inside a frame".into());
    }
    let request = wire::decode(&body).map_err(|e| e.to_string())?;
    let spawn = match request {
        ControlRequest::Spawn(spawn) => spawn,
        ControlRequest::Counters => return Ok(First::Counters),
        ControlRequest::Signal(_) => return Err("a signal for no program".into()),
    };
    let trace = if fds.len() == 4 { fds.pop() } else { None };
    let stdio = fds.try_into().map_err(|f: Vec<OwnedFd>| {
        format!("{} descriptors came with Spawn, not 3 or 4", f.len())
    })?;
    Ok(First::Spawn(spawn, (stdio, trace)))
}

/// Fills `buffer`, gathering descriptors on the way. False at end of file.
fn receive(stream: &UnixStream, buffer: &mut [u8], fds: &mut Vec<OwnedFd>) -> Result<bool, String> {
    let mut done = 0;
    while done < buffer.len() {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let message = recvmsg(
            stream,
            &mut [IoSliceMut::new(&mut buffer[done..])],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        )
        .map_err(|e| e.to_string())?;
        for item in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = item {
                fds.extend(rights);
            }
        }
        if message.bytes == 0 {
            return if done == 0 {
                Ok(false)
            } else {
                Err("hung up inside a frame".into())
            };
        }
        done += message.bytes;
    }
    Ok(true)
}

fn start(manager: &Manager, spawn: Spawn, streams: Streams) -> Result<child::Child, String> {
    let name = String::from_utf8_lossy(&spawn.program).into_owned();
    let request = GmmRequest::CreateProcess {
        node: manager.member.node(),
        name,
    };
    let grant = match manager.member.gmm().ask(&request) {
        Ok(GmmReply::Process(grant)) => grant,
        Ok(GmmReply::Refused(why)) => return Err(format!("gmm refused the process: {why}")),
        Ok(other) => return Err(format!("gmm answered {other:?} to CreateProcess")),
        Err(e) => return Err(format!("gmm cannot be asked for a process: {e}")),
    };
    child::spawn(manager, spawn, streams, grant)
}

/// Watches the process and the connection until the process has ended.
fn supervise(
    stream: &mut UnixStream,
    manager: &Manager,
    mut running: child::Child,
) -> ControlReply {
    let started = ControlReply::Started {
        process: running.process(),
        pid: running.pid(),
    };
    let mut connected = send(stream, &started).is_ok();
    let _ = stream.set_nonblocking(false);
    let mut input = Vec::new();
    let mut failed = None;
    loop {
        if !connected {
            running.kill();
        }
        let mut ready = [
            PollFd::from_borrowed_fd(running.exit_event(), PollFlags::IN),
            PollFd::from_borrowed_fd(running.report(), PollFlags::IN),
            PollFd::from_borrowed_fd(stream.as_fd(), PollFlags::IN),
        ];
        let count = if connected { 3 } else { 2 };
        // Woken by events; the limit only bounds a lost one.
        let limit = Timespec {
            tv_sec: 60,
            tv_nsec: 0,
        };
        if poll(&mut ready[..count], Some(&limit)).is_err() {
            continue;
        }
        let [exited, reported, asked] = ready.map(|r| !r.revents().is_empty());
        if reported {
            failed = running.read_report().or(failed);
        }
        if exited {
            break;
        }
        if connected && asked {
            connected = read_requests(stream, &mut input, &running);
        }
    }
    failed = running.read_report().or(failed);
    finish(manager, running, failed)
}

/// Reads what the peer sent; false when it has hung up.
fn read_requests(stream: &mut UnixStream, input: &mut Vec<u8>, running: &child::Child) -> bool {
    let mut chunk = [0; 256];
    match stream.read(&mut chunk) {
        Ok(0) | Err(_) => return false,
        Ok(n) => input.extend(&chunk[..n]),
    }
    while let Some(head) = input.first_chunk::<4>() {
        let len = u32::from_le_bytes(*head) as usize;
        if len > 64 {
            return false;
        }
        if input.len() < 4 + len {
            break;
        }
        match wire::decode(&input[4..4 + len]) {
            Ok(ControlRequest::Signal(signal)) => running.signal(signal),
            _ => return false,
        }
        input.drain(..4 + len);
    }
    true
}

fn finish(manager: &Manager, running: child::Child, failed: Option<child::Report>) -> ControlReply {
    let process = running.process();
    manager.programs.remove(process);
    let request = GmmRequest::EndProcess { process };
    let _ = manager.member.gmm().ask::<_, GmmReply>(&request);
    let (end, stats) = running.reap();
    match failed {
        Some(child::Report::CannotStart { status, message }) => {
            ControlReply::Failed { message, status }
        }
        Some(child::Report::Fatal(message)) => ControlReply::Ended {
            end: End::Exit(125),
            stats,
            message: Some(message),
        },
        None => ControlReply::Ended {
            end,
            stats,
            message: None,
        },
    }
}
