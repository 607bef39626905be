//! The answering end of `testbed bench fabric` on one machine: a process of its
//! own, as components are.

use super::bare;
use super::partner::Partner;
use crate::ending::Ending;
use crate::out::show;
use anyhow::{Context, Result, bail};
use fabric::ClusterKey;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Longest that it may take to start.
const PATIENCE: Timespec = Timespec {
    tv_sec: 30,
    tv_nsec: 0,
};

/// Answers at `listen`, and bare, until standard input ends: it does when
/// whoever started this is gone.
pub(super) fn run(listen: &str, key: &Path) -> Result<Ending> {
    let key = ClusterKey::load(key).context("the key")?;
    let partner = Partner::new(listen, &key)?;
    let port = bare::answer()?;
    show(&format!("{port} {}\n", partner.address()))?;
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    Ok(Ending::Exit(0))
}

/// It, from outside.
pub(super) struct Other {
    child: Child,
    /// Of the fabric.
    pub(super) address: String,
    /// Of the bare ping-pong.
    pub(super) port: u16,
}

impl Other {
    pub(super) fn start(listen: &str, key: &Path) -> Result<Other> {
        let child = Command::new("/proc/self/exe")
            .args(["bench", "answer", listen])
            .arg(key)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the process that answers")?;
        // From here on it goes whatever fails.
        let mut other = Other {
            child,
            address: String::new(),
            port: 0,
        };
        let output = other.child.stdout.take().context("its output")?;
        let mut ready = [PollFd::new(&output, PollFlags::IN)];
        if poll(&mut ready, Some(&PATIENCE)).context("the process that answers")? == 0 {
            bail!(
                "the process that answers said nothing for {} s: is this machine overloaded?",
                PATIENCE.tv_sec
            );
        }
        let mut line = String::new();
        BufReader::new(output)
            .read_line(&mut line)
            .context("the process that answers")?;
        let said = line.trim().split_once(' ');
        let said = said.and_then(|(port, address)| Some((port.parse().ok()?, address)));
        // It has said why itself.
        let (port, address) = said.context("the process that answers did not start")?;
        (other.port, other.address) = (port, address.to_owned());
        Ok(other)
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
