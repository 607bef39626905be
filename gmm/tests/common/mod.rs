//! What the tests of the managers share.
#![allow(dead_code, unreachable_pub)]

use gmm::core::Config;
use gmm::core::policy::Policy;
use proto::gmm::{GmmReply, GmmRequest, Load};
use proto::{Generation, Identity, NodeId, NodeKind};
use std::time::Duration;

pub const LEASE: Duration = Duration::from_millis(2000);

pub fn config(policy: Policy) -> Config {
    Config {
        policy,
        lease: LEASE,
        paths: Vec::new(),
        first_id: 1,
    }
}

pub fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

pub fn register(kind: NodeKind, name: &str, incarnation: u64) -> GmmRequest {
    register_at(
        kind,
        name,
        incarnation,
        &format!("shm:/run/{name}.{incarnation}"),
    )
}

pub fn register_at(kind: NodeKind, name: &str, incarnation: u64, addr: &str) -> GmmRequest {
    GmmRequest::Register {
        kind,
        name: name.to_owned(),
        incarnation,
        addrs: vec![addr.to_owned()],
        host: "host".to_owned(),
        control: None,
        load: Load {
            capacity: 1 << 30,
            ..Load::default()
        },
    }
}

pub fn registered(reply: &GmmReply) -> (NodeId, Generation) {
    match reply {
        GmmReply::Registered { id, generation, .. } => (*id, *generation),
        other => panic!("{other:?}"),
    }
}

pub fn heartbeat(node: NodeId, generation: Generation) -> GmmRequest {
    let load = Load {
        capacity: 1 << 30,
        ..Load::default()
    };
    GmmRequest::Heartbeat {
        node,
        generation,
        load,
    }
}

pub fn as_node((node, generation): (NodeId, Generation)) -> Identity {
    Identity::Node(node, generation)
}
