//! What a supervisor answers on its socket: one question, a line of JSON, per
//! connection, and one answer. It asks the testbed's hosts on behalf of
//! whoever runs a command: only it is connected to them.

use crate::agent::Client;
use crate::bench::{Asker, Partner, Step};
use crate::cluster::Operator;
use crate::plan::Fabric;
use crate::program::Search;
use crate::stats::Question;
use anyhow::{Context, Result, anyhow, bail};
use fabric::ClusterKey;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

/// How long a client may take to say what it wants.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long an answer may take; what it needs has deadlines of its own.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a command of a host may take.
const EXEC_DEADLINE: Duration = Duration::from_secs(600);
/// Longest question: a program's name, directory and PATH.
const LONGEST: u64 = 4 << 20;

/// What can be asked.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) enum Ask {
    /// Take the testbed down.
    Down,
    /// Something that gmm or the components know.
    Testbed(Question),
    /// Where a program is, on the host of the storage component.
    Find(Search),
    /// A command of a host itself.
    Exec { host: String, argv: Vec<Vec<u8>> },
    /// A component's log from a byte on; bytes, none at its end.
    Log { component: String, from: u64 },
    /// Figures of the link between two hosts, `None` for this one, to a
    /// partner that listens at `address` meanwhile.
    Bench {
        from: Option<String>,
        to: Option<String>,
        address: String,
        step: Step,
    },
}

/// Asks a supervisor.
pub(super) fn ask(supervisor: &mut UnixStream, ask: &Ask) -> Result<Value> {
    let timeout = match ask {
        Ask::Exec { .. } => EXEC_DEADLINE + ANSWER_TIMEOUT,
        Ask::Bench { step, .. } => step.limit() + ANSWER_TIMEOUT,
        _ => ANSWER_TIMEOUT,
    };
    supervisor.set_read_timeout(Some(timeout))?;
    let question = format!("{}\n", json!(ask));
    supervisor
        .write_all(question.as_bytes())
        .context("the supervisor does not listen")?;
    let mut answer = String::new();
    supervisor
        .read_to_string(&mut answer)
        .context("the supervisor does not answer")?;
    let answer: Result<Value, String> =
        serde_json::from_str(&answer).context("the supervisor does not answer")?;
    answer.map_err(anyhow::Error::msg)
}

/// What a supervisor needs to answer, on any thread.
pub(super) struct Answers {
    /// Of hosts other than this, by name.
    pub(super) clients: BTreeMap<String, Client>,
    /// The host of each component that is not on this one.
    pub(super) hosts: BTreeMap<String, String>,
    /// The host of programs' files, if not this one.
    pub(super) storage_host: Option<String>,
    pub(super) gmm: Vec<String>,
    pub(super) fabric: Fabric,
    /// The run directory here.
    pub(super) directory: PathBuf,
    pub(super) key: PathBuf,
}

impl Answers {
    /// Hears one client out; true if it wants the testbed to end. One that
    /// hangs up without a word only wanted to know whether we live.
    pub(super) fn serve(&self, client: &UnixStream) -> bool {
        let _ = client.set_read_timeout(Some(CLIENT_TIMEOUT));
        let mut line = Vec::new();
        let heard = BufReader::new(client.take(LONGEST)).read_until(b'\n', &mut line);
        if heard.is_err() || line.is_empty() {
            return false;
        }
        let answer = match serde_json::from_slice(&line) {
            Ok(Ask::Down) => return true,
            Ok(ask) => self.answer(ask).map_err(|why| format!("{why:#}")),
            Err(why) => Err(format!("not a question: {why}")),
        };
        // One that did not wait for its answer needs none.
        let mut client = client;
        let _ = client.write_all(json!(answer).to_string().as_bytes());
        false
    }

    fn answer(&self, ask: Ask) -> Result<Value> {
        match ask {
            Ask::Down => bail!("no question"),
            Ask::Testbed(question) => match self.hosts.get(question.component()) {
                Some(host) => {
                    let json = self.client(host)?.ask(&self.gmm, self.fabric, question)?;
                    Ok(serde_json::from_slice(&json)?)
                }
                None => {
                    let operator = Operator::new(&self.key, self.gmm.clone(), self.fabric)?;
                    question.answer(&operator, &self.directory)
                }
            },
            Ask::Find(search) => match &self.storage_host {
                Some(host) => {
                    let found = self.client(host)?.find(search)?;
                    Ok(serde_json::from_slice(&found)?)
                }
                None => Ok(json!(search.run())),
            },
            Ask::Exec { host, argv } => Ok(json!(self.client(&host)?.output(argv, EXEC_DEADLINE)?)),
            Ask::Log { component, from } => {
                let host = self.hosts.get(&component);
                let host = host.with_context(|| format!("{component} has its log here"))?;
                Ok(json!(self.client(host)?.read_log(&component, from)?))
            }
            Ask::Bench {
                from,
                to,
                address,
                step,
            } => self.bench(from.as_deref(), to.as_deref(), &address, step),
        }
    }

    fn bench(
        &self,
        from: Option<&str>,
        to: Option<&str>,
        address: &str,
        step: Step,
    ) -> Result<Value> {
        let key = ClusterKey::load(&self.key)?;
        // They listen until the figures are there.
        let (here, there);
        let address = match to {
            None => {
                here = Partner::new(address, &key)?;
                here.address()
            }
            Some(host) => {
                there = self.client(host)?.bench_listen(address)?;
                there.address().to_owned()
            }
        };
        match from {
            None => Ok(json!(Asker::measure(&address, &key, &step)?)),
            Some(host) => {
                let json = self.client(host)?.bench_measure(&address, step)?;
                Ok(serde_json::from_slice(&json)?)
            }
        }
    }

    fn client(&self, host: &str) -> Result<&Client> {
        let client = self.clients.get(host);
        client.ok_or_else(|| {
            let names: Vec<&str> = self.clients.keys().map(String::as_str).collect();
            anyhow!("no host {host:?}: give one of {}", names.join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_is_answered_and_who_hangs_up_is_not() {
        let place = tempfile::tempdir().unwrap();
        let answers = Answers {
            clients: BTreeMap::new(),
            hosts: BTreeMap::new(),
            storage_host: None,
            gmm: Vec::new(),
            fabric: Fabric::Tcp,
            directory: place.path().to_owned(),
            key: place.path().join("none"),
        };
        let say = |what: Option<Ask>| {
            let (mut ours, theirs) = UnixStream::pair().unwrap();
            std::thread::scope(|scope| {
                let answers = &answers;
                let served = scope.spawn(move || answers.serve(&theirs));
                let said = what.map(|what| ask(&mut ours, &what));
                drop(ours);
                (served.join().unwrap(), said)
            })
        };
        assert!(!say(None).0);
        assert!(say(Some(Ask::Down)).0);
        let (down, said) = say(Some(Ask::Testbed(Question::Status)));
        let said = format!("{:#}", said.unwrap().unwrap_err());
        assert!(!down && said.contains("cluster key"), "{said}");
    }
}
