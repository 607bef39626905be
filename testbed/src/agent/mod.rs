//! The node agent: testbed's hands on another host. `testbed agent` speaks
//! the messages of [`message`] over any byte stream: the standard streams of
//! an ssh, or a virtual machine's port. All that it starts goes when the
//! stream ends.

mod client;
mod components;
mod files;
mod message;
mod programs;
mod relay;
pub(crate) mod rxe;
mod server;
#[cfg(test)]
mod tests;

pub(crate) use client::{Client, Output, Reach, Remote};
pub(crate) use files::sha256_of;
pub(crate) use relay::Event;

use crate::ending::Ending;
use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, poll};
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

/// Without a word for so long, whoever holds the other end is gone: testbed
/// says every few seconds that it is there.
const SILENCE: Duration = Duration::from_secs(60);
/// How long to wait before looking again whether somebody opened the other
/// end of a device.
const RETRY: Duration = Duration::from_millis(50);

/// `testbed agent`.
pub(crate) fn run(device: Option<&Path>, binaries: Option<&Path>) -> Result<Ending> {
    member::start_log(Some("info"));
    let options = server::Options {
        binaries,
        janitor: true,
    };
    match device {
        None => {
            let stdin = rustix::io::dup(rustix::stdio::stdin())?;
            let mut reader = Patient(File::from(stdin));
            let stdout = File::from(rustix::io::dup(rustix::stdio::stdout())?);
            server::serve(&mut reader, Box::new(stdout), options)?;
        }
        Some(path) => serve_device(path, options)?,
    }
    Ok(Ending::Exit(0))
}

/// One channel after the other, for ever: a device outlives who uses it. It
/// stays open meanwhile: closed, it would lose what the next one says before
/// it is opened again.
fn serve_device(path: &Path, options: server::Options<'_>) -> Result<()> {
    let context = || format!("cannot open {}", path.display());
    let device = File::options().read(true).write(true).open(path);
    let device = device.with_context(context)?;
    loop {
        await_somebody(&device)?;
        let reader = device.try_clone().with_context(context)?;
        let writer = device.try_clone().with_context(context)?;
        if let Err(why) = server::serve(&mut Patient(reader), Box::new(writer), options) {
            tracing::warn!("{why:#}");
            std::thread::sleep(RETRY);
        }
    }
}

/// Waits until somebody speaks. While nobody holds the other end, a device is
/// readable and hung up, again and again.
fn await_somebody(device: &File) -> Result<()> {
    loop {
        let mut waits = [PollFd::new(device, PollFlags::IN)];
        match poll(&mut waits, None) {
            Ok(_) if waits[0].revents() == PollFlags::IN => return Ok(()),
            Ok(_) => std::thread::sleep(RETRY),
            Err(rustix::io::Errno::INTR) => {}
            Err(why) => return Err(why).context("poll"),
        }
    }
}

/// Reads with a deadline.
struct Patient(File);

impl Read for Patient {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        let timeout = crate::component::timespec(SILENCE);
        loop {
            match poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&timeout)) {
                Ok(0) => {
                    let why = format!("nothing was heard of testbed for {SILENCE:?}");
                    return Err(std::io::Error::new(std::io::ErrorKind::TimedOut, why));
                }
                Ok(_) => return self.0.read(bytes),
                Err(rustix::io::Errno::INTR) => {}
                Err(why) => return Err(why.into()),
            }
        }
    }
}

/// As uname(2) has it.
pub(crate) fn machine() -> String {
    let uname = rustix::system::uname();
    uname.machine().to_string_lossy().into_owned()
}
