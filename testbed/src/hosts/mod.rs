//! The machines of a testbed besides the operator's: each is reached through
//! its agent, and made ready before anything starts.

mod ssh;

use crate::agent::Client;
use crate::cluster::StartError;
use crate::component::wait_all;
use crate::places::Binaries;
use crate::plan::{Host, Plan, Rxe, Via};
use crate::signals::Signals;
use anyhow::{Context, Result, anyhow, bail};
use proto::NodeKind;
use rustix::fd::BorrowedFd;
use ssh::{Carrier, Line};
use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

/// How long a machine's agent may take to answer when it runs already.
const MEET_DEADLINE: Duration = Duration::from_secs(60);
/// How often to look whether we were told to end meanwhile.
const LOOK: Duration = Duration::from_millis(100);
/// How long an agent may take to remove what it made.
const END_DEADLINE: Duration = Duration::from_secs(15);

/// All of a testbed's machines. Dropped, nothing of it is left on them.
#[derive(Default)]
pub(crate) struct Hosts(BTreeMap<String, Link>);

struct Link {
    client: Client,
    /// Ends with the channel.
    _carrier: Option<Carrier>,
}

/// What is done on one machine, on a thread of its own.
struct Job {
    host: Host,
    testbed: String,
    key: Vec<u8>,
    binaries: Vec<(String, PathBuf)>,
    runs_programs: bool,
}

impl Hosts {
    /// Reaches all machines of a plan, side by side, and makes them ready. To
    /// be called from a thread that lives as long as they are used.
    pub(crate) fn connect(
        plan: &Plan,
        testbed: &str,
        key: &Path,
        signals: &mut Signals,
    ) -> Result<Hosts, StartError> {
        let key = std::fs::read(key).with_context(|| key.display().to_string())?;
        let (done, results) = mpsc::channel();
        let mut carriers = BTreeMap::new();
        for host in &plan.hosts {
            let job = Job {
                host: host.clone(),
                testbed: testbed.to_owned(),
                key: key.clone(),
                binaries: binaries(plan, host)?,
                runs_programs: kinds(plan, host).any(|kind| kind == NodeKind::Processor),
            };
            let line = match &host.via {
                Via::Ssh(to) => {
                    let started = ssh::start(&host.name, to);
                    let (carrier, line) = started.map_err(|why| named(&host.name, &why))?;
                    carriers.insert(host.name.clone(), carrier);
                    Some(line)
                }
                Via::Socket(_) => None,
            };
            let done = done.clone();
            let run = move || {
                let name = job.host.name.clone();
                // If nobody listens any more another one has failed.
                let _ = done.send((name, job.run(line)));
            };
            let thread = std::thread::Builder::new().name(host.name.clone());
            thread.spawn(run).context("cannot start a thread")?;
        }
        drop(done);
        let mut hosts = Hosts::default();
        while hosts.0.len() < plan.hosts.len() {
            if let Some(signal) = signals.take_ending() {
                return Err(StartError::Signal(signal));
            }
            match results.recv_timeout(LOOK) {
                Ok((name, result)) => {
                    let client = result.map_err(|why| named(&name, &why))?;
                    let _carrier = carriers.remove(&name);
                    hosts.0.insert(name, Link { client, _carrier });
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(StartError::Failed(anyhow!("a host was given up")));
                }
            }
        }
        Ok(hosts)
    }

    /// The agent of one.
    pub(crate) fn client(&self, host: &str) -> Result<&Client> {
        let link = self.0.get(host);
        link.map(|link| &link.client)
            .with_context(|| format!("no host {host:?}"))
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        let links = self.0.values();
        links.clone().for_each(|link| link.client.say_goodbye());
        let events: Vec<BorrowedFd<'_>> = links.map(|link| link.client.lost_event()).collect();
        wait_all(&events, END_DEADLINE);
    }
}

fn named(host: &str, why: &anyhow::Error) -> StartError {
    let said = format!("{why:#}");
    let said = said
        .strip_prefix(&format!("host {host}: "))
        .unwrap_or(&said);
    StartError::Failed(anyhow!("host {host}: {said}"))
}

fn kinds<'a>(plan: &'a Plan, host: &'a Host) -> impl Iterator<Item = NodeKind> + 'a {
    let all = plan.components().into_iter();
    all.filter(|(_, _, on)| *on == Some(&host.name))
        .map(|(kind, _, _)| kind)
}

/// What a machine needs, by name. Those of a virtual machine are in its image.
fn binaries(plan: &Plan, host: &Host) -> Result<Vec<(String, PathBuf)>> {
    if matches!(host.via, Via::Socket(_)) {
        return Ok(Vec::new());
    }
    let ours = Binaries::find()?;
    let names: std::collections::BTreeSet<String> =
        kinds(plan, host).map(|kind| kind.to_string()).collect();
    Ok(names
        .into_iter()
        .map(|name| (name.clone(), ours.path(&name)))
        .collect())
}

impl Job {
    fn run(self, line: Option<Line>) -> Result<Client> {
        let client = match (&self.host.via, line) {
            (Via::Socket(path), _) => self.meet_socket(path)?,
            (Via::Ssh(_), Some(line)) => line.meet(&self.testbed)?,
            (Via::Ssh(_), None) => bail!("no ssh"),
        };
        let prepared = self.prepare(&client);
        if prepared.is_err() {
            client.say_goodbye();
            wait_all(&[client.lost_event()], END_DEADLINE);
        }
        prepared.map(|()| client)
    }

    fn meet_socket(&self, path: &Path) -> Result<Client> {
        let context = || format!("connecting to its agent at {}", path.display());
        let stream = UnixStream::connect(path).with_context(context)?;
        let reader = stream.try_clone().with_context(context)?;
        let (name, testbed) = (&self.host.name, &self.testbed);
        Client::connect(
            name,
            testbed,
            Box::new(reader),
            Box::new(stream),
            MEET_DEADLINE,
        )
    }

    fn prepare(&self, client: &Client) -> Result<()> {
        let doctor = client.doctor().context("checking what it offers")?;
        check(&doctor, self.runs_programs)?;
        for (name, path) in &self.binaries {
            client
                .put_binary(name, path)
                .context("copying the components: see that there is room in `directory`")?;
        }
        client
            .put("key", 0o600, &self.key)
            .context("copying the cluster key")?;
        if let Some(Rxe { name, netdev }) = &self.host.rxe {
            client
                .add_rxe(name, netdev)
                .context("making a soft-RoCE device")?;
        }
        Ok(())
    }
}

/// Refuses a machine that lacks what its components need. What programs need
/// counts where programs run; binaries are copied, and not looked for.
fn check(doctor: &[u8], runs_programs: bool) -> Result<()> {
    let found: serde_json::Value =
        serde_json::from_slice(doctor).context("checking what it offers: its answer is no JSON")?;
    let matters = |finding: &&serde_json::Value| {
        let chapter = &finding["chapter"];
        let needed = chapter == "network" || (runs_programs && chapter == "kernel");
        finding["level"] == "missing" && needed
    };
    let missing: Vec<String> = found["findings"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(matters)
        .map(|f| {
            let text = |key: &str| f[key].as_str().unwrap_or_default().to_owned();
            format!(
                "{}: {}; to get it: {}",
                text("name"),
                text("seen"),
                text("cure")
            )
        })
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    bail!("checking what it offers: it lacks {}", missing.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_lacks_something_is_refused_where_it_matters() {
        let doctor = br#"{"findings":[
            {"chapter":"kernel","name":"userfaultfd","level":"missing","seen":"no","cure":"Linux 6"},
            {"chapter":"testbed","name":"component binaries","level":"missing","seen":"","cure":""}
        ]}"#;
        assert!(check(doctor, false).is_ok());
        let said = check(doctor, true).unwrap_err().to_string();
        assert!(
            said.contains("userfaultfd") && said.contains("Linux 6"),
            "{said}"
        );
        assert!(check(b"nonsense", false).is_err());
    }
}
