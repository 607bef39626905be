//! Testbeds that stay. Each has a *supervisor*, a process that owns its
//! components and restarts those that die, a *state directory* below
//! [`places::state_home`] with its description and the components' logs, and a
//! run directory with sockets and the cluster key. It is up exactly while its
//! supervisor answers on its socket.

mod ask;
mod backoff;
mod bench;
mod client;
mod exec;
mod logs;
mod proxy;
mod status;
mod supervisor;

pub(crate) use client::{bring_up, down, up};
pub(crate) use exec::exec;
pub(crate) use logs::logs;
pub(crate) use status::{list, status};
pub(crate) use supervisor::supervise;

use crate::cluster::{Cluster, Operator, control_path};
use crate::config::Description;
use crate::places;
use crate::program::{Found, Search, Unrunnable};
use crate::run::Watch;
use crate::stats::Question;
use anyhow::{Context, Result, anyhow};
use ask::{Ask, ask};
use proto::gmm::Status;
use proto::process::CacheConfig;
use proto::stats::ProgramCounters;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// The description, as `testbed up` understood it.
const PLAN: &str = "plan.json";
/// Where what is.
const WHERE: &str = "testbed.json";
/// The supervisor's own log.
const SUPERVISOR_LOG: &str = "supervisor.log";

/// A testbed that is up, as others need to know it. Kept as [`WHERE`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Standing {
    name: String,
    /// The run directory.
    directory: PathBuf,
    /// Where gmm listens.
    gmm: Vec<String>,
    pub(crate) fabric: crate::plan::Fabric,
    /// The emulated network.
    #[serde(default)]
    pub(crate) emulate: Option<String>,
    /// What programs see as `/`.
    pub(crate) root: PathBuf,
    /// Where that is on the operator's machine, if it is another one's.
    #[serde(default)]
    pub(crate) origin: Option<PathBuf>,
    /// Bytes of all memory components.
    pub(crate) memory: u64,
    /// The cache of programs that ask for nothing else.
    pub(crate) cache: CacheConfig,
    /// Names of all components.
    components: Vec<String>,
    /// Hosts of those that are not on this one.
    hosts: BTreeMap<String, String>,
}

impl Standing {
    /// A cluster, as others need to know it.
    fn of(
        name: String,
        cluster: &Cluster,
        hosts: BTreeMap<String, String>,
        cache: CacheConfig,
    ) -> Standing {
        let plan = cluster.plan();
        let storage = plan.storage.first();
        let names = plan.components().into_iter();
        Standing {
            components: names.map(|(_, name, _)| name.to_owned()).collect(),
            hosts,
            name,
            directory: cluster.directory().to_owned(),
            gmm: cluster.gmm().to_vec(),
            fabric: plan.fabric,
            emulate: plan.emulate.clone(),
            root: storage.map(|s| s.root.clone()).unwrap_or_default(),
            origin: storage.and_then(|s| s.origin.clone()),
            memory: plan.memory_bytes(),
            cache,
        }
    }

    /// Makes a cluster of this process, all of it on this host, one to run
    /// programs on: `--on` takes its run directory.
    pub(crate) fn publish(name: &str, cluster: &Cluster) -> Result<()> {
        let hosts = BTreeMap::new();
        let standing = Standing::of(name.to_owned(), cluster, hosts, CacheConfig::default());
        standing.write(&cluster.directory().join(WHERE))
    }

    fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        std::fs::write(path, text).with_context(|| path.display().to_string())
    }

    /// One that is up: its name, or the run directory of one that
    /// [`Standing::publish`] made, which can't be a name.
    pub(crate) fn find(name: &str) -> Result<Standing> {
        if name.contains('/') {
            return Standing::read_from(&Path::new(name).join(WHERE), name);
        }
        let standing = Standing::read(name)?;
        standing.supervisor()?;
        Ok(standing)
    }

    /// The one called so, or the only one that is up.
    pub(crate) fn choose(name: Option<&str>) -> Result<Standing> {
        match name {
            Some(name) => Standing::find(name),
            None => Standing::find(&status::the_only_one()?),
        }
    }

    /// One that was brought up, dead or alive.
    fn read(name: &str) -> Result<Standing> {
        places::check_name(name).map_err(anyhow::Error::msg)?;
        Standing::read_from(&state_directory(name)?.join(WHERE), name)
    }

    fn read_from(path: &Path, name: &str) -> Result<Standing> {
        let text = std::fs::read(path).map_err(|_| {
            anyhow!("no testbed {name:?} is up: see `testbed list`, or bring it up: `testbed up`")
        })?;
        serde_json::from_slice(&text).with_context(|| path.display().to_string())
    }

    /// A connection to the supervisor.
    fn supervisor(&self) -> Result<UnixStream> {
        UnixStream::connect(supervisor_socket(&self.directory)).with_context(|| {
            let name = &self.name;
            format!(
                "the supervisor of testbed {name:?} is gone: clear its remains with \
                 `testbed down {name}`"
            )
        })
    }

    /// Asks gmm and the components: through the supervisor where hosts are
    /// concerned that perhaps only it reaches.
    fn ask(&self, question: Question) -> Result<Value> {
        if self.hosts.is_empty() {
            let key = self.directory.join("key");
            let operator = Operator::new(&key, self.gmm.clone(), self.fabric)?;
            return question.answer(&operator, &self.directory);
        }
        ask(&mut self.supervisor()?, &Ask::Testbed(question))
    }

    /// All that gmm knows.
    fn status(&self) -> Result<Status> {
        Ok(serde_json::from_value(self.ask(Question::Status)?)?)
    }

    /// The control socket on which to start the next program.
    pub(crate) fn place_process(&self) -> Result<PathBuf> {
        let name: String = serde_json::from_value(self.ask(Question::Place)?)?;
        // A name becomes a path.
        places::check_name(&name).map_err(anyhow::Error::msg)?;
        Ok(control_path(&self.directory, &name))
    }

    /// The components' counters.
    pub(crate) fn components(&self) -> Value {
        let counters = self.ask(Question::Components);
        counters.unwrap_or_else(|why| serde_json::json!({ "error": format!("{why:#}") }))
    }

    /// The counters of the programs of a processor component.
    pub(crate) fn programs(&self, processor: &str) -> Result<Vec<ProgramCounters>> {
        let counters = self.ask(Question::Counters(processor.to_owned()))?;
        Ok(serde_json::from_value(counters)?)
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The name that programs have for a program of this machine.
    pub(crate) fn inside(&self, program: &Path) -> Result<PathBuf> {
        let root = self.origin.as_ref().unwrap_or(&self.root);
        let cure = || {
            let (program, root) = (program.display(), root.display());
            format!(
                "{program} is not in the root of testbed {:?}, {root}: set TMPDIR to a directory \
                 there, which the storage component has under the same name",
                self.name
            )
        };
        // Links lead somewhere else inside. A root of another machine is as it is.
        let whole = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let inside = whole(program);
        let inside = inside.strip_prefix(whole(root)).with_context(cure)?;
        Ok(Path::new("/").join(inside))
    }

    /// Looks the program of a command line up where its files are.
    pub(crate) fn find_program(&self, program: &[OsString]) -> Result<Result<Found, Unrunnable>> {
        let origin = self.origin.as_ref().unwrap_or(&self.root);
        let search = Search::new(&self.root, origin, program);
        if self.hosts.is_empty() {
            return Ok(search.run());
        }
        let found = ask(&mut self.supervisor()?, &Ask::Find(search))?;
        Ok(serde_json::from_value(found)?)
    }
}

/// The state directory of a testbed.
fn state_directory(name: &str) -> Result<PathBuf> {
    Ok(places::state_home()?.join(name))
}

fn supervisor_socket(directory: &Path) -> PathBuf {
    directory.join("supervisor")
}

fn read_description(state: &Path) -> Result<Description> {
    let path = state.join(PLAN);
    let text = std::fs::read(&path).with_context(|| path.display().to_string())?;
    serde_json::from_slice(&text).with_context(|| path.display().to_string())
}

/// The process at the other end of a connection to a supervisor: as long as
/// that answers, its number can't be another's.
pub(crate) fn process_of(supervisor: &UnixStream) -> Result<OwnedFd> {
    let pid: Pid = rustix::net::sockopt::socket_peercred(supervisor)
        .context("who is the supervisor")?
        .pid;
    pidfd_open(pid, PidfdFlags::empty()).context("the supervisor is gone")
}

/// Watches a supervisor on behalf of a program: without it nothing is up.
pub(crate) struct StandingWatch {
    name: String,
    process: Option<OwnedFd>,
}

impl StandingWatch {
    pub(crate) fn new(standing: &Standing) -> StandingWatch {
        let process = standing
            .supervisor()
            .and_then(|supervisor| process_of(&supervisor))
            .ok();
        StandingWatch {
            name: standing.name.clone(),
            process,
        }
    }
}

impl Watch for StandingWatch {
    fn events(&self) -> Vec<BorrowedFd<'_>> {
        self.process.iter().map(AsFd::as_fd).collect()
    }

    fn failure(&mut self) -> Option<String> {
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let gone = self.process.as_ref().is_some_and(|process| {
            let mut waits = [PollFd::new(process, PollFlags::IN)];
            matches!(poll(&mut waits, Some(&now)), Ok(n) if n > 0)
        });
        gone.then(|| format!("the testbed {:?} was taken down during the run", self.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_inside_the_root_have_names_there() {
        let mut standing = Standing {
            name: "lab".to_owned(),
            directory: PathBuf::new(),
            gmm: Vec::new(),
            fabric: crate::plan::Fabric::Tcp,
            emulate: None,
            root: "/srv/programs".into(),
            origin: None,
            memory: 0,
            cache: CacheConfig::default(),
            components: Vec::new(),
            hosts: BTreeMap::new(),
        };
        let file = Path::new("/srv/programs/tmp/walk");
        assert_eq!(standing.inside(file).unwrap(), Path::new("/tmp/walk"));
        let outside = format!("{:#}", standing.inside(Path::new("/tmp/walk")).unwrap_err());
        assert!(
            outside.contains("TMPDIR") && outside.contains("/srv/programs"),
            "{outside}"
        );
        // A virtual machine's name for what is all of this one.
        standing.origin = Some("/".into());
        assert_eq!(standing.inside(file).unwrap(), file);
        let place = tempfile::tempdir().unwrap();
        let (there, link) = (place.path().join("there"), place.path().join("link"));
        std::fs::create_dir(&there).unwrap();
        std::fs::write(there.join("walk"), "").unwrap();
        std::os::unix::fs::symlink(&there, &link).unwrap();
        standing.origin = Some(there);
        let linked = standing.inside(&link.join("walk")).unwrap();
        assert_eq!(linked, Path::new("/walk"));
    }
}
