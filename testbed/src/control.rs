//! A processor component's control socket, as its client sees it (see
//! [`proto::process`] for the protocol).

use anyhow::{Context, Result, bail};
use proto::process::{ControlReply, ControlRequest, Spawn};
use proto::stats::ProgramCounters;
use proto::wire;
use rustix::fd::{AsFd, BorrowedFd};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use std::io::{ErrorKind, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// Longest frame that a processor component accepts: a program's arguments
/// and environment.
const MOST_SENT: usize = 4 << 20;
/// Longest frame that is accepted from one: a program's statistics.
const MOST_HEARD: usize = 64 << 20;
/// A component that takes no bytes for so long is given up.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// How long it may take to say what its programs have counted.
const COUNTERS_TIMEOUT: Duration = Duration::from_secs(3);

/// The counters of a processor component's programs.
pub(crate) fn counters(path: &Path) -> Result<Vec<ProgramCounters>> {
    let mut control = Control::connect(path)?;
    let body = wire::encode(&ControlRequest::Counters);
    let head = u32::try_from(body.len())?.to_le_bytes();
    let silent = || format!("the processor component at {} is silent", path.display());
    let sent = control.stream.write_all(&[&head[..], &body].concat());
    sent.with_context(silent)?;
    let until = Instant::now() + COUNTERS_TIMEOUT;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            bail!(silent());
        }
        control.stream.set_read_timeout(Some(left))?;
        match control.hear()? {
            Heard::End => bail!(silent()),
            Heard::Replies(replies) => match replies.into_iter().next() {
                Some(ControlReply::Counters(counters)) => return Ok(counters),
                Some(other) => bail!("{}: answered {other:?}", path.display()),
                None => {}
            },
        }
    }
}

/// One program's connection. Dropped, the program is ended.
pub(crate) struct Control {
    stream: UnixStream,
    heard: Vec<u8>,
}

/// What was heard.
pub(crate) enum Heard {
    /// Complete messages, maybe none yet.
    Replies(Vec<ControlReply>),
    /// The processor component hung up.
    End,
}

impl Control {
    pub(crate) fn connect(path: &Path) -> Result<Control> {
        let stream = UnixStream::connect(path)
            .with_context(|| format!("no processor component answers at {}", path.display()))?;
        stream.set_write_timeout(Some(SEND_TIMEOUT))?;
        Ok(Control {
            stream,
            heard: Vec::new(),
        })
    }

    /// Asks for a program with these standard descriptors; `trace` takes the
    /// trace of its misses.
    pub(crate) fn spawn(
        &mut self,
        spawn: Spawn,
        stdio: [BorrowedFd<'_>; 3],
        trace: Option<BorrowedFd<'_>>,
    ) -> Result<()> {
        let body = wire::encode(&ControlRequest::Spawn(spawn));
        if body.len() > MOST_SENT {
            bail!("the program's arguments and environment exceed {MOST_SENT} bytes: give less");
        }
        let head = u32::try_from(body.len())?.to_le_bytes();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let all: Vec<BorrowedFd<'_>> = stdio.into_iter().chain(trace).collect();
        let mut rights = SendAncillaryBuffer::new(&mut space);
        rights.push(SendAncillaryMessage::ScmRights(&all));
        let sent = sendmsg(
            &self.stream,
            &[IoSlice::new(&head)],
            &mut rights,
            SendFlags::NOSIGNAL,
        );
        let sent = sent.context("the processor component does not listen")?;
        self.stream
            .write_all(&[&head[sent..], &body].concat())
            .context("the processor component does not listen")
    }

    /// Signals the program. One that can't be passed on is not: the end of the
    /// connection is heard of anyway.
    pub(crate) fn signal(&mut self, signal: i32) {
        let body = wire::encode(&ControlRequest::Signal(signal));
        let head = u32::try_from(body.len()).unwrap_or(0).to_le_bytes();
        let _ = self.stream.write_all(&[&head[..], &body].concat());
    }

    /// A second handle of the connection, to signal from another thread.
    pub(crate) fn again(&self) -> Result<Control> {
        let stream = self.stream.try_clone().context("the control connection")?;
        Ok(Control {
            stream,
            heard: Vec::new(),
        })
    }

    /// Ends the connection, and with it the program.
    pub(crate) fn hang_up(&self) {
        // One that has ended already needs no more.
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }

    /// Readable when there is something to hear.
    pub(crate) fn event(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// Reads once; to be called when [`Control::event`] is readable.
    pub(crate) fn hear(&mut self) -> Result<Heard> {
        let mut bytes = vec![0; 64 << 10];
        match self.stream.read(&mut bytes) {
            Ok(0) => return Ok(Heard::End),
            Ok(count) => self.heard.extend(&bytes[..count]),
            Err(why) if why.kind() == ErrorKind::Interrupted => {}
            Err(_) => return Ok(Heard::End),
        }
        let mut replies = Vec::new();
        while let Some(reply) = take_frame(&mut self.heard)? {
            replies.push(reply);
        }
        Ok(Heard::Replies(replies))
    }
}

fn take_frame(heard: &mut Vec<u8>) -> Result<Option<ControlReply>> {
    let Some(head) = heard.first_chunk::<4>() else {
        return Ok(None);
    };
    let len = u32::from_le_bytes(*head) as usize;
    if len > MOST_HEARD {
        bail!("the processor component sent a frame of {len} bytes, more than {MOST_HEARD}");
    }
    let Some(body) = heard.get(4..4 + len) else {
        return Ok(None);
    };
    let reply = wire::decode(body).context("the processor component speaks another version")?;
    heard.drain(..4 + len);
    Ok(Some(reply))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::ProcessId;
    use proto::process::End;

    fn frame(reply: &ControlReply) -> Vec<u8> {
        let body = wire::encode(reply);
        [&u32::try_from(body.len()).unwrap().to_le_bytes()[..], &body].concat()
    }

    #[test]
    fn frames_are_taken_whole_however_they_come() {
        let replies = [
            ControlReply::Started {
                process: ProcessId(3),
                pid: 77,
            },
            ControlReply::Ended {
                end: End::Exit(1),
                stats: None,
                message: None,
            },
        ];
        let bytes: Vec<u8> = replies.iter().flat_map(frame).collect();
        let (mut heard, mut taken) = (Vec::new(), Vec::new());
        for byte in bytes {
            heard.push(byte);
            taken.extend(take_frame(&mut heard).unwrap());
        }
        assert_eq!(taken, replies);
        assert!(heard.is_empty());
    }

    proptest::proptest! {
        #[test]
        fn whatever_comes_is_a_frame_or_an_error(bytes: Vec<u8>) {
            let mut heard = bytes;
            while let Ok(Some(_)) = take_frame(&mut heard) {}
        }
    }

    #[test]
    fn a_frame_beyond_all_bounds_is_refused() {
        let mut heard = u32::MAX.to_le_bytes().to_vec();
        assert!(take_frame(&mut heard).is_err());
    }

    #[test]
    fn descriptors_travel_with_the_request() {
        use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut control = Control {
            stream: ours,
            heard: Vec::new(),
        };
        let spawn = Spawn {
            program: b"/bin/x".to_vec(),
            argv: vec![b"x".to_vec()],
            envp: Vec::new(),
            cwd: b"/".to_vec(),
            umask: 0o22,
            cache: Default::default(),
            rewrite: true,
        };
        let file = tempfile::tempfile().unwrap();
        let fds = [file.as_fd(); 3];
        control
            .spawn(spawn.clone(), fds, Some(file.as_fd()))
            .unwrap();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut bytes = [0; 4096];
        let slices = &mut [std::io::IoSliceMut::new(&mut bytes)];
        let first = recvmsg(&theirs, slices, &mut ancillary, RecvFlags::CMSG_CLOEXEC)
            .unwrap()
            .bytes;
        let count: usize = ancillary
            .drain()
            .map(|item| match item {
                RecvAncillaryMessage::ScmRights(fds) => fds.count(),
                _ => 0,
            })
            .sum();
        assert_eq!(count, 4);
        drop(control);
        let mut rest = bytes[..first].to_vec();
        (&theirs).read_to_end(&mut rest).unwrap();
        let request: ControlRequest = wire::decode(&rest[4..]).unwrap();
        assert_eq!(request, ControlRequest::Spawn(spawn));
    }
}
