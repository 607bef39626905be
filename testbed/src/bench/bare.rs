//! A bare ping-pong: 64 bytes answered by 4 KiB over a TCP socket, without any
//! of the fabric's framing. What a page over tcp can't be cheaper than.

use super::Times;
use anyhow::{Context, Result, bail};
use serde::Serialize;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// Bytes asked with, and answered.
const ASKED: usize = 64;
pub(super) const ANSWERED: usize = 4096;
/// Longest that an end waits for the other.
const PATIENCE: Duration = Duration::from_secs(10);
/// Looks in vain after which the clock is read.
const LOOKS: u32 = 64;
const WARM_UP: usize = 100;
const MOST: usize = 200_000;

/// How both ends wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum How {
    /// In the receive call.
    Blocking,
    /// Receiving again and again, giving the CPU away between two looks: an end
    /// that polled on the other's CPU would keep it from answering.
    Polling,
}

impl How {
    pub(super) const ALL: [How; 2] = [How::Blocking, How::Polling];

    /// As tables have it.
    pub(super) fn name(self) -> &'static str {
        match self {
            How::Blocking => "blocking",
            How::Polling => "polling",
        }
    }

    fn byte(self) -> u8 {
        match self {
            How::Blocking => b'b',
            How::Polling => b'p',
        }
    }
}

/// An end of the socket.
struct End {
    stream: TcpStream,
    how: How,
}

impl End {
    fn new(stream: TcpStream, how: How) -> Result<End> {
        stream.set_nodelay(true)?;
        stream.set_nonblocking(how == How::Polling)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(End { stream, how })
    }

    /// Fills `into`; false at a hang-up before its first byte.
    fn receive(&mut self, into: &mut [u8]) -> Result<bool> {
        let (mut got, mut looks, mut begun) = (0, 0, None);
        while got < into.len() {
            match self.stream.read(&mut into[got..]) {
                Ok(0) if got == 0 => return Ok(false),
                Ok(0) => bail!("the other end hung up amid an answer"),
                Ok(n) => got += n,
                Err(why) if why.kind() == ErrorKind::Interrupted => {}
                Err(why) if why.kind() == ErrorKind::WouldBlock && self.how == How::Polling => {
                    looks += 1;
                    if looks >= LOOKS && begun.get_or_insert_with(Instant::now).elapsed() > PATIENCE
                    {
                        bail!("the other end said nothing for {PATIENCE:?}");
                    }
                    std::thread::yield_now();
                }
                Err(why) => return Err(why).context("receiving"),
            }
        }
        Ok(true)
    }

    /// So little goes out at once: the buffers are empty.
    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).context("sending")
    }
}

/// The end that answers: where it listens.
pub(super) fn answer() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("a port")?;
    let port = listener.local_addr()?.port();
    std::thread::Builder::new()
        .name("bare".to_owned())
        .spawn(move || {
            for stream in listener.incoming().flatten() {
                // An asker that goes away ends its own measurement alone.
                let _ = answer_one(stream);
            }
        })
        .context("a thread")?;
    Ok(port)
}

fn answer_one(mut stream: TcpStream) -> Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut how = [0];
    stream.read_exact(&mut how)?;
    let how = How::ALL.into_iter().find(|h| h.byte() == how[0]);
    let mut end = End::new(stream, how.context("neither blocking nor polling")?)?;
    let (mut question, answer) = ([0; ASKED], [0x5a; ANSWERED]);
    while end.receive(&mut question)? {
        end.send(&answer)?;
    }
    Ok(())
}

/// Asks the one that answers at `port`, for `time`.
pub(super) fn ask(port: u16, how: How, time: Duration) -> Result<Times> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).context("a bare socket")?;
    stream.write_all(&[how.byte()])?;
    let mut end = End::new(stream, how)?;
    let mut once = || {
        let (question, mut answer) = ([0; ASKED], [0; ANSWERED]);
        let begun = Instant::now();
        end.send(&question)?;
        if !end.receive(&mut answer)? {
            bail!("the end that answers is gone");
        }
        Ok(begun.elapsed())
    };
    for _ in 0..WARM_UP {
        once()?;
    }
    let (begun, mut times) = (Instant::now(), Vec::new());
    while times.is_empty() || (begun.elapsed() < time && times.len() < MOST) {
        times.push(once()?);
    }
    Ok(Times::of(times))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_are_answered() {
        let port = answer().unwrap();
        for how in How::ALL {
            let times = ask(port, how, Duration::from_millis(5)).unwrap();
            assert!(times.count >= 1 && times.min > Duration::ZERO, "{times:?}");
        }
    }

    #[test]
    fn an_end_that_hangs_up_is_told_from_an_answer() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let short = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.read_exact(&mut [0; 1 + ASKED]).unwrap();
            stream.write_all(&[0; 7]).unwrap();
        });
        let said = ask(port, How::Polling, PATIENCE).unwrap_err().to_string();
        short.join().unwrap();
        assert!(said.contains("hung up amid"), "{said}");
    }
}
