//! The links of a testbed that is up, for `testbed bench fabric --on`.

use super::Standing;
use super::ask::{Ask, ask};
use crate::bench::{Figures, Step};
use anyhow::{Context, Result, bail};
use proto::NodeKind;
use proto::gmm::NodeStatus;
use std::collections::BTreeSet;

/// From a processor component to another one, or to gmm.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Link {
    from: End,
    to: End,
    /// Where something else than the component may listen, beside it.
    address: String,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct End {
    kind: NodeKind,
    name: String,
    /// `None` is the operator's.
    host: Option<String>,
}

impl Link {
    /// Whether it goes over an RDMA device.
    pub(crate) fn is_rdma(&self) -> bool {
        self.address.starts_with("verbs:")
    }

    /// Short, as figures have it.
    pub(crate) fn name(&self) -> String {
        format!("{} to {}", self.from.name, self.to.name)
    }

    /// For people.
    pub(crate) fn describe(&self) -> String {
        let end = |end: &End| {
            let on = end.host.as_ref().map(|host| format!(" on {host}"));
            format!("{} ({}{})", end.name, end.kind, on.unwrap_or_default())
        };
        format!("{} to {}", end(&self.from), end(&self.to))
    }
}

impl Standing {
    /// Its links; of those between the same two hosts one.
    pub(crate) fn links(&self) -> Result<Vec<Link>> {
        let mut nodes = self.status()?.nodes;
        nodes.sort_by(|a, b| a.info.name.cmp(&b.info.name));
        let end = |node: &NodeStatus| End {
            kind: node.info.kind,
            name: node.info.name.clone(),
            host: self.hosts.get(&node.info.name).cloned(),
        };
        let alive = || nodes.iter().filter(|node| node.alive);
        let of = |kind| alive().filter(move |node| node.info.kind == kind);
        let mut seen = BTreeSet::new();
        let mut links = Vec::new();
        for from in of(NodeKind::Processor).map(end) {
            for to in of(NodeKind::Memory).chain(of(NodeKind::Storage)) {
                let address = to
                    .info
                    .addrs
                    .first()
                    .with_context(|| format!("{} told gmm no address", to.info.name))?;
                let (to, address) = (end(to), beside(address)?);
                if seen.insert((from.host.clone(), to.host.clone())) {
                    let from = from.clone();
                    links.push(Link { from, to, address });
                }
            }
        }
        if links.is_empty() {
            bail!("no link: it takes a processor component and another that are alive");
        }
        Ok(links)
    }

    /// Measures one.
    pub(crate) fn measure(&self, link: &Link, step: Step) -> Result<Figures> {
        let question = Ask::Bench {
            from: link.from.host.clone(),
            to: link.to.host.clone(),
            address: link.address.clone(),
            step,
        };
        let figures = ask(&mut self.supervisor()?, &question).with_context(|| link.describe())?;
        Ok(serde_json::from_value(figures)?)
    }
}

/// A free address of the same kind and host as a component's.
fn beside(address: &str) -> Result<String> {
    let (backend, place) = address
        .split_once(':')
        .context("an address without a backend")?;
    if backend == "shm" {
        return Ok(format!("{address}.bench"));
    }
    let (host, _port) = place
        .rsplit_once(':')
        .context("an address without a port")?;
    Ok(format!("{backend}:{host}:0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_beside_components() {
        let free = |address| beside(address).unwrap();
        assert_eq!(free("tcp:10.0.0.1:4711"), "tcp:10.0.0.1:0");
        assert_eq!(free("verbs:[fd00::1]:4711"), "verbs:[fd00::1]:0");
        assert_eq!(free("shm:/run/t/m0.sock"), "shm:/run/t/m0.sock.bench");
        assert!(beside("nonsense").is_err());
    }
}
