//! `testbed status` and `testbed list`.

use super::Standing;
use crate::ending::Ending;
use crate::out::show;
use crate::places;
use crate::table::{bytes, number, text};
use anyhow::{Result, bail};
use proto::gmm::{NodeStatus, ProcessStatus, Status};
use proto::{NodeId, NodeKind};
use std::collections::BTreeMap;

/// Names of all testbeds with a state directory, and whether each is up.
fn all() -> Result<Vec<(String, bool)>> {
    let home = places::state_home()?;
    let entries = std::fs::read_dir(&home).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> = names
        .filter(|name| places::check_name(name).is_ok())
        .collect();
    names.sort();
    Ok(names
        .into_iter()
        .map(|name| (name.clone(), Standing::find(&name).is_ok()))
        .collect())
}

/// `testbed list`.
pub(crate) fn list() -> Result<Ending> {
    let row = |(name, up): (String, bool)| {
        let state = if up {
            "up".to_owned()
        } else {
            format!("dead: testbed down {name}")
        };
        vec![name, state]
    };
    let rows: Vec<Vec<String>> = all()?.into_iter().map(row).collect();
    if rows.is_empty() {
        show("no testbed is up; see `testbed up --help`\n")?;
        return Ok(Ending::Exit(0));
    }
    let heading = vec!["TESTBED".to_owned(), "STATE".to_owned()];
    show(&text(&[&[heading][..], &rows].concat()))?;
    Ok(Ending::Exit(0))
}

/// `testbed status`.
pub(crate) fn status(name: Option<&str>, json: bool) -> Result<Ending> {
    let standing = Standing::choose(name)?;
    let name = standing.name();
    let status = standing.status()?;
    if json {
        let hosts = &standing.hosts;
        let json = serde_json::json!({ "name": name, "status": status, "hosts": hosts });
        show(&format!("{json:#}\n"))?;
    } else {
        show(&describe(name, &status, &standing.hosts))?;
    }
    Ok(Ending::Exit(0))
}

pub(super) fn the_only_one() -> Result<String> {
    let up: Vec<String> = all()?
        .into_iter()
        .filter(|(_, up)| *up)
        .map(|(name, _)| name)
        .collect();
    match &up[..] {
        [one] => Ok(one.clone()),
        [] => bail!("no testbed is up: bring one up with `testbed up`"),
        many => bail!("several testbeds are up: give one of {}", many.join(", ")),
    }
}

/// `hosts` are those of components that are not on this one.
fn describe(name: &str, status: &Status, hosts: &BTreeMap<String, String>) -> String {
    let names: BTreeMap<NodeId, &str> = status
        .nodes
        .iter()
        .map(|node| (node.info.id, node.info.name.as_str()))
        .collect();
    let mut out = format!("testbed {name}, placement {}\n\n", status.policy);
    let mut rows = vec![row([
        "COMPONENT",
        "KIND",
        "HOST",
        "STATE",
        "MEMORY",
        "PROCESSES",
        "REQUESTS",
    ])];
    let mut nodes: Vec<&NodeStatus> = status.nodes.iter().collect();
    nodes.sort_by_key(|node| (node.info.kind, &node.info.name));
    let host = |name: &str| hosts.get(name).map_or("here", String::as_str);
    let of = |node: &NodeStatus| component(node, host(&node.info.name));
    rows.extend(nodes.into_iter().map(of));
    if hosts.is_empty() {
        rows.iter_mut().for_each(|row| drop(row.remove(HOST)));
    }
    out += &text(&rows);
    if status.processes.is_empty() {
        return out + "\nno processes\n";
    }
    let mut rows = vec![row([
        "PROCESS",
        "PROGRAM",
        "PROCESSOR",
        "HOME",
        "GIB REGIONS",
    ])];
    rows.extend(
        status
            .processes
            .iter()
            .map(|process| describe_process(process, &names)),
    );
    out + "\n" + &text(&rows)
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

/// The column that only testbeds of several hosts have.
const HOST: usize = 2;

fn component(node: &NodeStatus, host: &str) -> Vec<String> {
    let load = &node.load;
    let state = if node.alive {
        "alive".to_owned()
    } else {
        format!("dead, silent for {} s", node.silent_ms / 1000)
    };
    let memory = match node.info.kind {
        NodeKind::Memory => format!(
            "{} used, {} promised of {}",
            bytes(load.used),
            bytes(load.reserved),
            bytes(load.capacity)
        ),
        _ => "-".to_owned(),
    };
    vec![
        node.info.name.clone(),
        node.info.kind.to_string(),
        host.to_owned(),
        state,
        memory,
        number(load.processes),
        number(load.requests),
    ]
}

fn describe_process(process: &ProcessStatus, names: &BTreeMap<NodeId, &str>) -> Vec<String> {
    let name = |node: &NodeId| {
        names
            .get(node)
            .map_or_else(|| node.to_string(), |n| (*n).to_owned())
    };
    let mut regions: BTreeMap<String, u64> = BTreeMap::new();
    for (_, node) in &process.vregions {
        *regions.entry(name(node)).or_default() += 1;
    }
    let regions: Vec<String> = regions
        .iter()
        .map(|(node, count)| format!("{count} on {node}"))
        .collect();
    vec![
        process.process.to_string(),
        process.name.clone(),
        name(&process.processor),
        name(&process.home),
        regions.join(", "),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::gmm::{Load, NodeInfo};
    use proto::{Generation, ProcessId, VRegionId};

    fn node(id: u64, kind: NodeKind, name: &str) -> NodeStatus {
        let info = NodeInfo {
            id: NodeId(id),
            kind,
            name: name.to_owned(),
            generation: Generation(1),
            addrs: Vec::new(),
            host: String::new(),
            control: None,
        };
        let load = Load {
            capacity: 1 << 30,
            used: 2 << 20,
            ..Load::default()
        };
        NodeStatus {
            info,
            load,
            alive: id != 3,
            silent_ms: 9000,
        }
    }

    #[test]
    fn components_and_processes_are_named() {
        let status = Status {
            policy: "round-robin".to_owned(),
            nodes: vec![
                node(1, NodeKind::Memory, "m0"),
                node(2, NodeKind::Processor, "p0"),
                node(3, NodeKind::Storage, "s0"),
            ],
            processes: vec![ProcessStatus {
                process: ProcessId(7),
                name: "/bin/busy".to_owned(),
                processor: NodeId(2),
                home: NodeId(1),
                vregions: vec![(VRegionId(0), NodeId(1)), (VRegionId(1), NodeId(1))],
            }],
        };
        let text = describe("lab", &status, &BTreeMap::new());
        assert!(text.contains("m0         mcomponent  alive"), "{text}");
        assert!(
            text.contains("2.00 MiB used, 0 B promised of 1.00 GiB"),
            "{text}"
        );
        assert!(text.contains("dead, silent for 9 s"), "{text}");
        assert!(
            text.contains("process7  /bin/busy  p0         m0    2 on m0"),
            "{text}"
        );
        let hosts = BTreeMap::from([("m0".to_owned(), "n1".to_owned())]);
        let text = describe("lab", &status, &hosts);
        assert!(
            text.contains("m0         mcomponent  n1    alive"),
            "{text}"
        );
        assert!(
            text.contains("p0         pcomponent  here  alive"),
            "{text}"
        );
    }
}
