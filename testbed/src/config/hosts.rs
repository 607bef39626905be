//! The machines of a description, and what must hold between them and the
//! components.

use super::name;
use crate::plan::{Fabric, Host, Plan, Rxe, Ssh, Via};
use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Where binaries are put if nothing else is said.
const DIRECTORY: &str = "~/.cache/splitkernel/bin";
/// The soft-RoCE device that is made if no name is given.
const RXE: &str = "rxe0";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HostEntry {
    #[serde(deserialize_with = "name")]
    name: String,
    ssh: String,
    address: String,
    identity: Option<PathBuf>,
    jump: Option<String>,
    #[serde(default)]
    options: Vec<String>,
    directory: Option<String>,
    #[serde(default)]
    rxe: bool,
    netdev: Option<String>,
    device: Option<String>,
}

impl HostEntry {
    /// `base` is where relative paths begin.
    pub(super) fn checked(self, base: &Path) -> Result<Host> {
        let name = self.name.clone();
        self.check(base)
            .with_context(|| format!("[[host]] {name:?}"))
    }

    fn check(self, base: &Path) -> Result<Host> {
        let (destination, port) = destination(&self.ssh)?;
        check_address(&self.address)?;
        for option in &self.options {
            ensure!(
                option.contains('=') && one_line(option),
                "options: {option:?}: give ssh options as \"Key=value\" (ssh_config(5))"
            );
        }
        if let Some(jump) = &self.jump {
            ensure!(
                !jump.starts_with('-') && one_line(jump),
                "jump: {jump:?} is no destination: give one as to ssh -J"
            );
        }
        let directory = self.directory.unwrap_or_else(|| DIRECTORY.to_owned());
        ensure!(
            (directory.starts_with('/') || directory.starts_with("~/")) && one_line(&directory),
            "directory: {directory:?}: give an absolute path, or one that begins with ~/"
        );
        let rxe = match (self.rxe, self.netdev) {
            (true, Some(netdev)) => Some(Rxe {
                name: self.device.unwrap_or_else(|| RXE.to_owned()),
                netdev,
            }),
            (true, None) => bail!(
                "rxe = true makes a soft-RoCE device on a network device: name it, \
                 netdev = \"eth0\""
            ),
            (false, Some(_)) => bail!("netdev is for soft-RoCE: give rxe = true with it"),
            (false, None) => None,
        };
        Ok(Host {
            name: self.name,
            via: Via::Ssh(Ssh {
                destination,
                port,
                identity: self.identity.map(|path| base.join(path)),
                jump: self.jump,
                options: self.options,
                directory,
            }),
            address: self.address,
            rxe,
        })
    }
}

/// `[user@]host[:port]`; an IPv6 address with a port in brackets.
fn destination(text: &str) -> Result<(String, Option<u16>)> {
    let wrong = || {
        format!("ssh: {text:?} is no destination: give \"user@address\" or \"user@address:port\"")
    };
    ensure!(
        !text.is_empty() && !text.starts_with('-') && !text.contains(char::is_whitespace),
        wrong()
    );
    let (user, host) = match text.rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, text),
    };
    let (host, port) = match host.strip_prefix('[') {
        Some(rest) => {
            let (address, after) = rest.split_once(']').with_context(wrong)?;
            (address, after.strip_prefix(':'))
        }
        // More than one colon: an IPv6 address.
        None => match host.split_once(':') {
            Some((name, port)) if !port.contains(':') => (name, Some(port)),
            _ => (host, None),
        },
    };
    ensure!(!host.is_empty() && !host.starts_with('-'), wrong());
    let port = port.map(str::parse).transpose().with_context(wrong)?;
    let destination = user.map_or(host.to_owned(), |user| format!("{user}@{host}"));
    Ok((destination, port))
}

/// An address or a host name, without a port: the system chooses those.
fn check_address(address: &str) -> Result<()> {
    let right = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    let name = !address.is_empty() && address.chars().all(right) && !address.starts_with('-');
    if let Ok(ip) = address.parse::<std::net::IpAddr>() {
        ensure!(
            !ip.is_unspecified(),
            "address: {address} is no address that other hosts reach: give one"
        );
    } else {
        ensure!(
            name,
            "address: {address:?} is neither an address nor a host name: give one that the \
             other hosts reach, without a port"
        );
    }
    Ok(())
}

fn one_line(text: &str) -> bool {
    !text.contains(['\n', '\r', '\0'])
}

/// What must hold between hosts and components.
pub(super) fn check(plan: &Plan) -> Result<()> {
    let mut names = BTreeSet::new();
    for host in &plan.hosts {
        ensure!(
            names.insert(host.name.as_str()),
            "two hosts are called {:?}: give each a name of its own",
            host.name
        );
    }
    let mut here = Vec::new();
    let mut used = BTreeSet::new();
    for (_, component, host) in plan.components() {
        match host {
            None => here.push(component),
            Some(host) if names.contains(host) => {
                used.insert(host);
            }
            Some(host) => bail!(
                "{component} is to run on host {host:?}, which is not described: add a [[host]] \
                 with name = {host:?}, or correct the name"
            ),
        }
    }
    if plan.hosts.is_empty() {
        return Ok(());
    }
    if plan.fabric == Fabric::Shm {
        bail!("fabric = \"shm\" reaches one machine only: give \"tcp\" for several");
    }
    match &plan.address {
        Some(address) => check_address(address)?,
        None if here.is_empty() => {}
        None => bail!(
            "{} would run on this machine: give a host, or say where the hosts reach this one, \
             address = \"…\"",
            here.join(", ")
        ),
    }
    if let Some(idle) = names.iter().find(|name| !used.contains(*name)) {
        bail!("no component runs on host {idle:?}: give one host = {idle:?}, or leave it out");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{EXAMPLE_HOSTS, parse};
    use super::*;

    fn refused(text: &str) -> String {
        let parsed = parse(text, None, Path::new("/"));
        format!("{:#}", parsed.expect_err("accepted"))
    }

    #[test]
    fn the_example_is_a_description() {
        let plan = parse(EXAMPLE_HOSTS, None, Path::new("/")).unwrap().plan;
        assert_eq!(plan.hosts.len(), 3);
        let hosts: BTreeSet<_> = plan.components().iter().map(|c| c.2).collect();
        assert_eq!(hosts.len(), 3);
    }

    #[test]
    fn destinations() {
        for (text, host, port) in [
            ("n1", "n1", None),
            ("me@n1:2222", "me@n1", Some(2222)),
            ("me@10.0.0.1", "me@10.0.0.1", None),
            ("fd00::1", "fd00::1", None),
            ("me@[fd00::1]:22", "me@fd00::1", Some(22)),
        ] {
            assert_eq!(
                destination(text).unwrap(),
                (host.to_owned(), port),
                "{text}"
            );
        }
        for text in [
            "",
            "-oProxyCommand=x",
            "a b",
            "me@",
            "n1:x",
            "n1:99999",
            "me@-x",
            "[::1",
        ] {
            assert!(destination(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_with_a_cure() {
        for (from, to, words) in [
            (
                "host = \"memory\"",
                "host = \"other\"",
                &["other", "[[host]]"][..],
            ),
            (
                "name = \"memory\"",
                "name = \"storage\"",
                &["two hosts", "storage"],
            ),
            ("fabric = \"tcp\"", "fabric = \"shm\"", &["shm", "tcp"]),
            ("host = \"memory\"", "", &["m0", "address"]),
            (
                "address = \"10.0.0.2\"",
                "address = \"10.0.0.2:5\"",
                &["memory", "port"],
            ),
            (
                "address = \"10.0.0.2\"",
                "address = \"0.0.0.0\"",
                &["memory", "reach"],
            ),
            (
                "address = \"10.0.0.2\"",
                "adress = \"10.0.0.2\"",
                &["line", "adress"],
            ),
            (
                "address = \"10.0.0.2\"",
                "address = \"10.0.0.2\"\nrxe = true",
                &["netdev"],
            ),
            ("root = \"/\"", "root = \"here\"", &["s0", "absolute"]),
        ] {
            assert!(EXAMPLE_HOSTS.contains(from), "{from}");
            let said = refused(&EXAMPLE_HOSTS.replacen(from, to, 1));
            for word in words {
                assert!(said.contains(word), "{to:?} lacks {word:?}: {said}");
            }
        }
    }
}
