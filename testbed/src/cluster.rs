//! The components of one testbed, from their start to their end.
//!
//! They are children of the thread that starts them, and die with it
//! (PR_SET_PDEATHSIG); the [`Janitor`] sees to the rest. Start a cluster from
//! a thread that lives as long as the process.

mod starts;

use crate::component::{Component, timespec, wait_all};
use crate::hosts::Hosts;
use crate::janitor::Janitor;
use crate::places::make_private;
use crate::plan::{Fabric, Plan};
use crate::signals::Signals;
use anyhow::{Context, Result, anyhow};
use fabric::{ClusterKey, Credential, Options, Peer};
use proto::{Identity, NodeKind};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::BorrowedFd;
use starts::{Placed, Starts, fix_address, values};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long components may take to become ready.
const START_DEADLINE: Duration = Duration::from_secs(20);
/// How long components may take to end in good order, writing back what is
/// still on its way to storage.
const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// Why a testbed did not come up.
pub(crate) enum StartError {
    /// We were told to end meanwhile.
    Signal(i32),
    /// It failed.
    Failed(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for StartError {
    fn from(why: E) -> StartError {
        StartError::Failed(why.into())
    }
}

/// A testbed's processes and its run directory. Dropped, all is killed and
/// removed.
pub(crate) struct Cluster {
    plan: Plan,
    directory: PathBuf,
    key: ClusterKey,
    gmm: Vec<String>,
    members: Vec<Member>,
    janitor: Option<Janitor>,
    /// Other machines.
    hosts: Hosts,
}

struct Member {
    component: Component,
    /// Where, if not here.
    host: Option<String>,
    gone: bool,
}

/// A component that ended by itself.
pub(crate) struct Death {
    /// Which: for [`Cluster::restart`].
    pub(crate) index: usize,
    pub(crate) kind: NodeKind,
    /// As people know it.
    pub(crate) name: String,
    /// For people, after its name.
    pub(crate) how: String,
}

impl Cluster {
    /// Brings all components up; logs go to files in `logs`, or to standard
    /// error.
    pub(crate) fn start(
        plan: Plan,
        name: &str,
        directory: PathBuf,
        logs: Option<&Path>,
        signals: &mut Signals,
    ) -> Result<Cluster, StartError> {
        // First, so that the directory never is without one.
        let janitor = Some(Janitor::spawn(&directory)?);
        let key = ClusterKey::generate()?;
        let (gmm, members) = (Vec::new(), Vec::new());
        let hosts = Hosts::default();
        let mut cluster = Cluster {
            plan,
            directory,
            key,
            gmm,
            members,
            janitor,
            hosts,
        };
        make_private(&cluster.directory)?;
        cluster.key.save(&cluster.key_path())?;
        cluster.hosts = Hosts::connect(&cluster.plan, name, &cluster.key_path(), signals)?;
        let gmm = Starts::new(&cluster, logs)?.gmm()?;
        cluster.bring_up(vec![gmm], signals)?;
        cluster.gmm = cluster.listening(0);
        let rest = Starts::new(&cluster, logs)?.rest()?;
        cluster.bring_up(rest, signals)?;
        Ok(cluster)
    }

    /// Starts components side by side and waits until all are ready.
    fn bring_up(&mut self, starts: Vec<Placed>, signals: &mut Signals) -> Result<(), StartError> {
        let first = self.members.len();
        for start in starts {
            let component = self.spawn(&start)?;
            self.tell_janitor(&component);
            self.members.push(Member {
                component,
                host: start.host,
                gone: false,
            });
        }
        let until = Instant::now() + START_DEADLINE;
        let mut waiting: Vec<usize> = (first..self.members.len()).collect();
        while !waiting.is_empty() {
            let ready = self.wait_ready(&waiting, signals, until)?;
            if let Some(signal) = signals.take_ending() {
                return Err(StartError::Signal(signal));
            }
            for index in ready {
                let component = &mut self.members[index].component;
                if let Some(ready) = component.hear_ready()? {
                    fix_address(&mut component.start, &ready.addrs);
                    waiting.retain(|&other| other != index);
                }
            }
        }
        Ok(())
    }

    /// Which of those waited for have something to say.
    fn wait_ready(
        &self,
        waiting: &[usize],
        signals: &Signals,
        until: Instant,
    ) -> Result<Vec<usize>> {
        let events = waiting
            .iter()
            .map(|&index| self.members[index].component.ready_event());
        let mut waits: Vec<PollFd<'_>> = std::iter::once(signals.event())
            .chain(events)
            .map(|event| PollFd::from_borrowed_fd(event, PollFlags::IN))
            .collect();
        let left = until.saturating_duration_since(Instant::now());
        match poll(&mut waits, Some(&timespec(left))) {
            Ok(0) => {
                let names: Vec<String> = waiting
                    .iter()
                    .map(|&index| self.members[index].component.start.to_string())
                    .collect();
                let names = names.join(", ");
                Err(anyhow!(
                    "{names}: not ready within {START_DEADLINE:?}; try --log info"
                ))
            }
            Ok(_) => Ok(waits[1..]
                .iter()
                .zip(waiting)
                .filter(|(wait, _)| !wait.revents().is_empty())
                .map(|(_, &index)| index)
                .collect()),
            Err(rustix::io::Errno::INTR) => Ok(Vec::new()),
            Err(why) => Err(why).context("poll"),
        }
    }

    fn spawn(&self, placed: &Placed) -> Result<Component> {
        let start = placed.start.clone();
        match &placed.host {
            None => Component::spawn(start),
            Some(host) => Component::spawn_there(start, self.hosts.client(host)?),
        }
    }

    fn tell_janitor(&self, component: &Component) {
        if let (Some(janitor), Some(process)) = (&self.janitor, component.process()) {
            janitor.tell(process);
        }
    }

    /// Where a component listens.
    fn listening(&self, index: usize) -> Vec<String> {
        let arguments = &self.members[index].component.start.arguments;
        values(arguments, "--listen").cloned().collect()
    }

    /// What it consists of.
    pub(crate) fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Its run directory.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where gmm listens.
    pub(crate) fn gmm(&self) -> &[String] {
        &self.gmm
    }

    /// The cluster key's file.
    pub(crate) fn key_path(&self) -> PathBuf {
        self.directory.join("key")
    }

    /// The Unix socket on which a processor component starts programs.
    pub(crate) fn control(&self, processor: &str) -> PathBuf {
        control_path(&self.directory, processor)
    }

    /// Readable when [`Cluster::tend`] has something to do.
    pub(crate) fn events(&self) -> Vec<BorrowedFd<'_>> {
        let living = self.members.iter().filter(|member| !member.gone);
        let janitor = self.janitor.as_ref().map(Janitor::exit_event);
        living
            .map(|member| member.component.exit_event())
            .chain(janitor)
            .collect()
    }

    /// Replaces a janitor that was killed, and says which components have
    /// ended since the last call.
    pub(crate) fn tend(&mut self) -> Vec<Death> {
        self.tend_janitor();
        let mut deaths = Vec::new();
        for (index, member) in self.members.iter_mut().enumerate() {
            if member.gone {
                continue;
            }
            if let Some(how) = member.component.ended() {
                member.gone = true;
                let start = &member.component.start;
                let (kind, name) = (start.kind, start.to_string());
                deaths.push(Death {
                    index,
                    kind,
                    name,
                    how,
                });
            }
        }
        deaths
    }

    fn tend_janitor(&mut self) {
        let gone = |janitor: &Janitor| wait_all(&[janitor.exit_event()], Duration::ZERO);
        if !self.janitor.as_ref().is_some_and(gone) {
            return;
        }
        self.janitor.take().into_iter().for_each(Janitor::dismiss);
        // Without one all still goes well, unless we are killed too.
        self.janitor = Janitor::spawn(&self.directory).ok();
        let janitor = self.janitor.iter();
        janitor.for_each(|janitor| {
            self.members
                .iter()
                .filter_map(|m| m.component.process())
                .for_each(|process| janitor.tell(process));
        });
    }

    /// Starts a component that ended again, at the same address. Does not wait
    /// until it is ready.
    pub(crate) fn restart(&mut self, index: usize) -> Result<()> {
        let member = &self.members[index];
        let start = member.component.start.clone();
        let host = member.host.clone();
        let placed = Placed { start, host };
        let component = self.spawn(&placed)?;
        self.tell_janitor(&component);
        self.members[index] = Member {
            component,
            host: placed.host,
            gone: false,
        };
        Ok(())
    }

    /// Whether the machine of a component is lost, and it can't be restarted.
    pub(crate) fn is_lost(&self, index: usize) -> bool {
        let host = self.members[index].host.as_deref();
        let client = host.and_then(|host| self.hosts.client(host).ok());
        client.is_some_and(|client| client.lost().is_some())
    }

    /// Other machines.
    pub(crate) fn hosts(&self) -> &Hosts {
        &self.hosts
    }

    /// Asks gmm and others in the name of whoever runs the testbed.
    pub(crate) fn operator(&self) -> Operator {
        Operator {
            key: self.key.clone(),
            gmm: self.gmm.clone(),
            options: self.options(),
        }
    }

    fn options(&self) -> Options {
        operator_options(self.plan.fabric.choice())
    }

    /// Takes it down in good order: first those that have work for the others.
    pub(crate) fn stop(mut self) {
        use NodeKind::{Manager, Memory, Processor, Storage};
        let until = Instant::now() + STOP_DEADLINE;
        for kinds in [&[Processor][..], &[Memory], &[Storage], &[Manager]] {
            let stopping: Vec<&Component> = self
                .members
                .iter()
                .filter(|member| !member.gone && kinds.contains(&member.component.start.kind))
                .map(|member| &member.component)
                .collect();
            stopping.iter().for_each(|component| component.terminate());
            let events: Vec<BorrowedFd<'_>> = stopping
                .iter()
                .map(|component| component.exit_event())
                .collect();
            wait_all(&events, until.saturating_duration_since(Instant::now()));
        }
        self.clear();
    }

    fn clear(&mut self) {
        self.members
            .iter_mut()
            .for_each(|member| member.component.kill());
        self.members.clear();
        self.hosts = Hosts::default();
        let _ = std::fs::remove_dir_all(&self.directory);
        self.janitor.take().into_iter().for_each(Janitor::dismiss);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Where a processor component of a testbed starts programs.
pub(crate) fn control_path(directory: &Path, processor: &str) -> PathBuf {
    let mut name = processor.to_owned();
    name.push_str(".control");
    directory.join(name)
}

/// Fabric options of `testbed`'s own questions.
pub(crate) fn operator_options(choice: fabric::BackendChoice) -> Options {
    Options {
        choice,
        connect_timeout: Duration::from_secs(2),
        call_timeout: Duration::from_secs(5),
        ..Options::default()
    }
}

/// Whoever holds the cluster key.
pub(crate) struct Operator {
    pub(crate) key: ClusterKey,
    pub(crate) gmm: Vec<String>,
    pub(crate) options: Options,
}

impl Operator {
    /// With the cluster key in a file.
    pub(crate) fn new(key: &Path, gmm: Vec<String>, fabric: Fabric) -> Result<Operator> {
        let key =
            ClusterKey::load(key).with_context(|| format!("the cluster key {}", key.display()))?;
        let options = operator_options(fabric.choice());
        Ok(Operator { key, gmm, options })
    }

    /// A peer at these addresses.
    pub(crate) fn peer(&self, addrs: &[String]) -> Peer {
        let identity = Identity::Operator;
        let credential = Credential {
            identity,
            secret: self.key.derive(identity),
        };
        Peer::new(addrs.to_vec(), credential, self.options.clone())
    }

    /// gmm.
    pub(crate) fn gmm(&self) -> Peer {
        self.peer(&self.gmm)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_sockets_of_names_with_dots_differ() {
        let of = |name| control_path(Path::new("/run/x"), name);
        assert_ne!(of("p.0"), of("p.1"));
    }
}
