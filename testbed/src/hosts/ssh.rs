//! ssh(1) as the carrier of an agent's channel. The command that runs on the
//! other host is fixed; what differs (a directory, a checksum) goes over its
//! standard input, so nothing needs quoting.

use crate::agent::{Client, sha256_of};
use crate::component::timespec;
use crate::plan::Ssh;
use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::event::{PollFd, PollFlags, poll};
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What runs on the other host: it receives testbed's binary where it is not
/// there yet, sees that it runs, and becomes the agent. POSIX sh, busybox's
/// too; one line without quotes, so that any login shell hands it on.
const BOOTSTRAP: &str = concat!(
    "exec sh -c '",
    "umask 077; ",
    "echo splitkernel-machine $(uname -m); ",
    "read -r dir; read -r sum; read -r size; ",
    "case \"$dir\" in \"~/\"*) dir=\"$HOME/${dir#??}\";; esac; ",
    "mkdir -p \"$dir\" || { echo splitkernel-no-directory; exit 1; }; ",
    "bin=\"$dir/testbed-${sum%????????????????????????????????????????????????}\"; ",
    "have=$(sha256sum \"$bin\" 2>/dev/null); ",
    "if [ \"${have%% *}\" != \"$sum\" ]; then ",
    "echo splitkernel-send; ",
    "{ head -c \"$size\" >\"$bin.$$\" && chmod 755 \"$bin.$$\" && mv \"$bin.$$\" \"$bin\"; } || ",
    "{ rm -f \"$bin.$$\"; echo splitkernel-no-write; exit 1; }; ",
    "fi; ",
    "\"$bin\" --version </dev/null >/dev/null || { echo splitkernel-no-run; exit 1; }; ",
    "echo splitkernel-ready; ",
    "exec \"$bin\" agent --stdio --binaries \"$dir\"",
    "'"
);
/// Lines of the other side's standard error that are kept for messages.
const KEPT_LINES: usize = 8;
/// How long reaching the host may take, logging in included.
const LOGIN_DEADLINE: Duration = Duration::from_secs(30);
/// How long sending the binary may take.
const SEND_DEADLINE: Duration = Duration::from_secs(300);
/// How long a host may take to look at the binary and to start it.
const LOOK_DEADLINE: Duration = Duration::from_secs(30);
/// Longest line of the bootstrap, bytes.
const LONGEST_LINE: usize = 4096;

/// An ssh process. Dropped, it is ended.
pub(super) struct Carrier(Child);

impl Drop for Carrier {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The ends of an ssh whose other side has not been met yet.
pub(super) struct Line {
    host: String,
    ssh: Ssh,
    to: ChildStdin,
    from: ChildStdout,
    said: Arc<Mutex<VecDeque<String>>>,
}

/// Starts ssh; it dies with the calling thread.
pub(super) fn start(host: &str, ssh: &Ssh) -> Result<(Carrier, Line)> {
    let mut command = Command::new("ssh");
    command.args(arguments(ssh)).arg(BOOTSTRAP);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    host::child::tie(&mut command);
    let child = command.spawn();
    let child =
        child.context("cannot run ssh: install it (Debian: openssh-client) and have it in PATH")?;
    let mut carrier = Carrier(child);
    let pipes = (
        carrier.0.stdin.take(),
        carrier.0.stdout.take(),
        carrier.0.stderr.take(),
    );
    let (Some(to), Some(from), Some(errors)) = pipes else {
        bail!("ssh has no standard streams");
    };
    let said = Arc::new(Mutex::new(VecDeque::new()));
    keep_lines(host, errors, said.clone())?;
    let (host, ssh) = (host.to_owned(), ssh.clone());
    let line = Line {
        host,
        ssh,
        to,
        from,
        said,
    };
    Ok((carrier, line))
}

fn arguments(ssh: &Ssh) -> Vec<String> {
    let fixed = [
        "BatchMode=yes",
        "ConnectTimeout=10",
        "ServerAliveInterval=10",
        "ServerAliveCountMax=3",
        "ClearAllForwardings=yes",
    ];
    let mut all = vec!["-T".to_owned()];
    // The first of two values counts: those of the description.
    for option in ssh.options.iter().map(String::as_str).chain(fixed) {
        all.extend(["-o".to_owned(), option.to_owned()]);
    }
    if let Some(port) = ssh.port {
        all.extend(["-p".to_owned(), port.to_string()]);
    }
    if let Some(identity) = &ssh.identity {
        all.extend(["-i".to_owned(), identity.display().to_string()]);
    }
    if let Some(jump) = &ssh.jump {
        all.extend(["-J".to_owned(), jump.clone()]);
    }
    all.extend(["--".to_owned(), ssh.destination.clone()]);
    all
}

/// Logs the other side's standard error, and keeps its end for messages.
fn keep_lines(host: &str, errors: ChildStderr, said: Arc<Mutex<VecDeque<String>>>) -> Result<()> {
    let host = host.to_owned();
    let keep = move || {
        for line in BufReader::new(errors).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim().to_owned();
            tracing::info!("host {host}: {line}");
            let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
            if said.len() == KEPT_LINES {
                said.pop_front();
            }
            said.push_back(line);
        }
    };
    let thread = std::thread::Builder::new().name("ssh-errors".to_owned());
    thread
        .spawn(keep)
        .map(drop)
        .context("cannot start a thread")
}

impl Line {
    /// Brings the agent up at the other end.
    pub(super) fn meet(mut self, testbed: &str) -> Result<Client> {
        self.bootstrap()?;
        let Line {
            host,
            to,
            from,
            said,
            ..
        } = self;
        let client = Client::connect(&host, testbed, Box::new(from), Box::new(to), LOOK_DEADLINE);
        client.map_err(|why| {
            // ssh's last words come a little later than its end.
            std::thread::sleep(Duration::from_millis(100));
            anyhow!("starting the agent: {why:#}{}", quoted(&said))
        })
    }

    fn bootstrap(&mut self) -> Result<()> {
        let own = std::path::Path::new("/proc/self/exe");
        let sum = sha256_of(own)?;
        let mut binary = std::fs::File::open(own).context("testbed's own binary")?;
        let size = binary.metadata().context("testbed's own binary")?.len();
        let machine = self.expect("machine", LOGIN_DEADLINE)?;
        let machine = machine.trim_start_matches("machine").trim();
        let ours = crate::agent::machine();
        ensure!(
            machine == ours,
            "checking the machine: it is {machine}, this testbed is built for {ours}: use a host \
             of the same kind"
        );
        let head = format!("{}\n{sum}\n{size}\n", self.ssh.directory);
        // Where this fails the answer says why.
        let _ = self.to.write_all(head.as_bytes());
        let mut answer = self.expect("the directory", LOOK_DEADLINE)?;
        if answer == "send" {
            let _ = std::io::copy(&mut binary, &mut self.to);
            answer = self.expect("the binary", SEND_DEADLINE)?;
        }
        let directory = &self.ssh.directory;
        let step = match answer.as_str() {
            "ready" => return Ok(()),
            "no-directory" => format!(
                "making the directory {directory}: it can't be made: give another in `directory`"
            ),
            "no-write" => format!(
                "copying testbed to {directory}: it can't be written: make room there, or give \
                 another place in `directory`"
            ),
            "no-run" => format!(
                "running testbed in {directory}: it does not run there: build it for that host \
                 (its C library may be older), or give a `directory` that is not mounted noexec"
            ),
            other => format!("the host said {other:?}: use another login shell"),
        };
        std::thread::sleep(Duration::from_millis(100));
        bail!("{step}{}", quoted(&self.said))
    }

    /// The next line of the bootstrap; what login scripts print is skipped.
    fn expect(&mut self, what: &str, within: Duration) -> Result<String> {
        let until = Instant::now() + within;
        let mut line = Vec::new();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let mut waits = [PollFd::new(&self.from, PollFlags::IN)];
            let mut byte = [0];
            match poll(&mut waits, Some(&timespec(left))) {
                Ok(0) => bail!("nothing was heard of {what} within {within:?}"),
                Ok(_) if self.from.read(&mut byte).unwrap_or(0) == 0 => {
                    return Err(self.refusal());
                }
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(why) => return Err(why).context("poll"),
            }
            if byte[0] != b'\n' {
                line.push(byte[0]);
                ensure!(line.len() < LONGEST_LINE, "the login shell prints too much");
                continue;
            }
            let text = String::from_utf8_lossy(&line).trim().to_owned();
            if let Some(word) = text.strip_prefix("splitkernel-") {
                return Ok(word.to_owned());
            }
            line.clear();
        }
    }

    /// ssh ended: why, and what to do.
    fn refusal(&self) -> anyhow::Error {
        std::thread::sleep(Duration::from_millis(100));
        let to = &self.ssh.destination;
        let said = quoted(&self.said);
        let has = |words: &[&str]| words.iter().any(|word| said.contains(word));
        let cure = if has(&["Permission denied"]) {
            format!("add your key to its authorized_keys (ssh-copy-id {to}), or give `identity`")
        } else if has(&["Host key verification failed", "REMOTE HOST IDENTIFICATION"]) {
            format!("accept its host key: `ssh {to}` once by hand")
        } else if has(&["Could not resolve"]) {
            "correct the name in `ssh`".to_owned()
        } else if has(&["refused", "timed out", "No route", "unreachable"]) {
            "see that the host is up and runs sshd".to_owned()
        } else {
            format!("see that `ssh -o BatchMode=yes {to} true` works")
        };
        anyhow!("connecting by ssh to {to}: {cure}{said}")
    }
}

/// What the other side said, to be appended to a message.
fn quoted(said: &Mutex<VecDeque<String>>) -> String {
    let said = said.lock().unwrap_or_else(PoisonError::into_inner);
    let lines: Vec<&str> = said.iter().map(String::as_str).collect();
    if lines.is_empty() {
        return String::new();
    }
    format!(" (it said: {})", lines.join(" / "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bootstrap_passes_any_login_shell() {
        let inner = BOOTSTRAP.strip_prefix("exec sh -c '").unwrap();
        let inner = inner.strip_suffix('\'').unwrap();
        // Quotes, newlines, and what csh takes out of single quotes.
        assert!(!inner.contains(['\'', '\n', '\\']));
        assert!(!inner.contains("! "), "history of csh");
    }

    #[test]
    fn the_description_comes_before_our_own_options() {
        let ssh = Ssh {
            destination: "me@n1".to_owned(),
            port: Some(2222),
            options: vec!["ConnectTimeout=1".to_owned()],
            ..Ssh::default()
        };
        let all = arguments(&ssh).join(" ");
        assert!(
            all.starts_with("-T -o ConnectTimeout=1 -o BatchMode=yes"),
            "{all}"
        );
        assert!(all.ends_with("-p 2222 -- me@n1"), "{all}");
    }
}
