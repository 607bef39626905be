//! The two ends of a measurement: one with memory that answers, one that asks.

use super::figures::Figures;
use super::measure::Step;
use super::perftest;
use anyhow::{Context, Result, bail};
use fabric::{
    Access, BackendChoice, ClusterKey, Connection, Credential, Emulation, Options, Region,
    Responder, Server, Service,
};
use proto::Identity;
use proto::addr::RemoteAddr;
use proto::wire;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

/// Bytes of the answering end's memory: the largest transfer.
pub(super) const LARGEST: usize = 1 << 20;

// The first byte of a request.
/// It is answered with itself.
const ECHO: u8 = 0;
/// It is answered with nothing.
const SINK: u8 = 1;
/// A [`Question`] follows.
const QUESTION: u8 = 2;

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
enum Question {
    /// Where the memory is: a [`RemoteAddr`].
    Where,
    /// Starts a program of perftest's: a [`perftest::Waiting`].
    Perftest(perftest::Asked),
}

/// A request of `len` bytes that is answered with itself.
pub(super) fn echo(len: usize) -> Vec<u8> {
    vec![ECHO; len]
}

/// As [`echo`], answered with nothing.
pub(super) fn sink(len: usize) -> Vec<u8> {
    vec![SINK; len]
}

struct Answers {
    memory: RemoteAddr,
}

impl Service for Answers {
    fn call(&self, _peer: Identity, request: &[u8], reply: Responder) {
        match request.split_first() {
            Some((&ECHO, _)) => reply.send(request),
            Some((&SINK, _)) => reply.send(&[]),
            Some((&QUESTION, question)) => match wire::decode(question) {
                Ok(Question::Where) => reply.answer(&self.memory),
                Ok(Question::Perftest(asked)) => reply.answer(&perftest::wait_for(&asked)),
                Err(_) => {}
            },
            // Dropped: the asker is told that there is no answer.
            _ => {}
        }
    }
}

/// The end that answers.
pub(crate) struct Partner {
    server: Server,
    // Its memory goes with it.
    _region: Region,
}

impl Partner {
    pub(crate) fn new(listen: &str, key: &ClusterKey) -> Result<Partner> {
        let server = Server::bind(&[listen.to_owned()], Identity::Operator, key.clone())?;
        let whole = 0..LARGEST as u64;
        let region = server.memory().register(LARGEST as u64, "bench")?;
        region.commit(whole.clone())?;
        let key = region.grant(Identity::Operator, whole, Access::ReadWrite)?;
        let memory = RemoteAddr { key, offset: 0 };
        server.serve(Arc::new(Answers { memory }))?;
        Ok(Partner {
            server,
            _region: region,
        })
    }

    /// Where it answers.
    pub(crate) fn address(&self) -> String {
        self.server.addrs().concat()
    }
}

impl Drop for Partner {
    fn drop(&mut self) {
        self.server.shutdown();
    }
}

fn ask<R: DeserializeOwned>(connection: &mut Connection, question: &Question) -> Result<R> {
    let request = [&[QUESTION][..], &wire::encode(question)].concat();
    Ok(wire::decode(&connection.call(&request)?)?)
}

/// The end that asks.
pub(crate) struct Asker {
    pub(super) connection: Connection,
    pub(super) memory: RemoteAddr,
}

impl Asker {
    pub(super) fn new(
        address: &str,
        key: &ClusterKey,
        emulation: Option<Emulation>,
    ) -> Result<Asker> {
        let identity = Identity::Operator;
        let credential = Credential {
            identity,
            secret: key.derive(identity),
        };
        let options = Options {
            choice: BackendChoice::Auto,
            connect_timeout: Duration::from_secs(10),
            call_timeout: Duration::from_secs(30),
            emulation,
            ..Options::default()
        };
        let mut connection = Connection::open(&[address.to_owned()], &credential, &options)?;
        let memory = ask(&mut connection, &Question::Where)
            .with_context(|| format!("what listens at {address} is no `testbed bench fabric`"))?;
        Ok(Asker { connection, memory })
    }

    /// Measures, with a partner that listens at `address`.
    pub(crate) fn measure(address: &str, key: &ClusterKey, step: &Step) -> Result<Figures> {
        step.measure(&mut Asker::new(address, key, None)?, address)
    }

    /// Has the other end wait in a program of perftest's.
    pub(super) fn perftest(&mut self, asked: perftest::Asked) -> Result<u16> {
        match ask(&mut self.connection, &Question::Perftest(asked))? {
            perftest::Waiting::At(port) => Ok(port),
            perftest::Waiting::Not(why) => bail!("at the other end: {why}"),
        }
    }
}
