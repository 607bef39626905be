//! What the components say of themselves.

use crate::cluster::{Operator, control_path};
use crate::control;
use crate::places::check_name;
use anyhow::{Context, Result, bail};
use proto::NodeKind;
use proto::gmm::{GmmReply, GmmRequest, NodeInfo, Status};
use proto::mem::{MemReply, MemRequest};
use proto::store::{StoreReply, StoreRequest};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::path::Path;
use std::time::{Duration, Instant};

/// A gmm that is being started again is waited for.
const GMM_DEADLINE: Duration = Duration::from_secs(5);
const GMM_RETRY: Duration = Duration::from_millis(20);

/// Asks gmm, again if it does not answer: it may be starting. Only for
/// questions that change nothing.
fn ask_gmm(operator: &Operator, request: &GmmRequest) -> Result<GmmReply> {
    let until = Instant::now() + GMM_DEADLINE;
    let gmm = operator.gmm();
    loop {
        match gmm.ask(request) {
            Ok(GmmReply::Refused(why)) => bail!("gmm refused: {why}"),
            Ok(reply) => return Ok(reply),
            Err(why) if Instant::now() >= until => return Err(why).context("gmm does not answer"),
            Err(_) => std::thread::sleep(GMM_RETRY),
        }
    }
}

/// All that gmm knows.
pub(crate) fn status(operator: &Operator) -> Result<Status> {
    match ask_gmm(operator, &GmmRequest::Status)? {
        GmmReply::Status(status) => Ok(status),
        other => bail!("gmm answered {other:?} to Status"),
    }
}

/// The name of the processor component that gmm chooses.
pub(crate) fn place_process(operator: &Operator) -> Result<String> {
    match ask_gmm(operator, &GmmRequest::PlaceProcess)? {
        GmmReply::Placed(NodeInfo {
            control: Some(_),
            name,
            ..
        }) => Ok(name),
        other => bail!("gmm answered {other:?} to PlaceProcess"),
    }
}

/// What can be asked of a testbed from elsewhere.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Question {
    /// [`status`].
    Status,
    /// [`place_process`].
    Place,
    /// [`components`].
    Components,
    /// The counters of the programs of a processor component.
    Counters(String),
}

impl Question {
    /// The component on whose host it is answered.
    pub(crate) fn component(&self) -> &str {
        match self {
            Question::Counters(processor) => processor,
            Question::Status | Question::Place | Question::Components => "gmm",
        }
    }

    /// The answer as JSON. `directory` is the run directory on this host.
    pub(crate) fn answer(self, operator: &Operator, directory: &Path) -> Result<Value> {
        Ok(match self {
            Question::Status => json!(status(operator)?),
            Question::Place => json!(place_process(operator)?),
            Question::Components => components(operator),
            Question::Counters(processor) => {
                // A name becomes a path.
                check_name(&processor).map_err(anyhow::Error::msg)?;
                json!(control::counters(&control_path(directory, &processor))?)
            }
        })
    }
}

/// The counters of every component that has some, by name. One that can't be
/// asked has its reason there.
pub(crate) fn components(operator: &Operator) -> Value {
    let status = match status(operator) {
        Ok(status) => status,
        Err(why) => return json!({ "gmm": { "error": format!("{why:#}") } }),
    };
    let mut all = Map::new();
    for node in &status.nodes {
        if let Some(stats) = of_node(operator, &node.info) {
            all.insert(node.info.name.clone(), stats);
        }
    }
    all.insert("gmm".to_owned(), json!(status));
    Value::Object(all)
}

fn of_node(operator: &Operator, node: &NodeInfo) -> Option<Value> {
    let peer = operator.peer(&node.addrs);
    let answer = match node.kind {
        NodeKind::Memory => peer.ask(&MemRequest::Stats).map(|reply| match reply {
            MemReply::Stats(stats) => json!(stats),
            other => json!({ "error": format!("answered {other:?}") }),
        }),
        NodeKind::Storage => peer.ask(&StoreRequest::Stats).map(|reply| match reply {
            StoreReply::Stats(stats) => json!(stats),
            other => json!({ "error": format!("answered {other:?}") }),
        }),
        NodeKind::Processor | NodeKind::Manager => return None,
    };
    Some(answer.unwrap_or_else(|why| json!({ "error": why.to_string() })))
}
