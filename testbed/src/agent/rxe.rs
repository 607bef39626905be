//! Soft-RoCE devices: made with rdma(8) where asked, and removed by whoever
//! made them. Their names are kept in the run directory, so that the janitor
//! removes them behind an agent that was killed.

use anyhow::{Context, Result, bail, ensure};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// The list of devices that we made.
const LIST: &str = "rxe-devices";
/// Linux's longest name of a network device (IFNAMSIZ less its zero).
const LONGEST: usize = 15;

/// Makes one if the network device has none of that name.
pub(super) fn add(directory: &Path, name: &str, netdev: &str) -> Result<()> {
    check_device_name(name)?;
    check_device_name(netdev)?;
    ensure!(
        Path::new("/sys/class/net").join(netdev).exists(),
        "no network device {netdev:?}: give one of `ip link` as netdev"
    );
    if Path::new("/sys/class/infiniband").join(name).exists() {
        return Ok(());
    }
    // It may be there, or built in; what is missing shows below.
    let _ = run("modprobe", &["rdma_rxe"]);
    run(
        "rdma",
        &["link", "add", name, "type", "rxe", "netdev", netdev],
    )
    .with_context(|| {
        format!(
            "no soft-RoCE device {name} on {netdev}: it needs root, rdma (Debian: iproute2) and \
             the kernel module rdma_rxe (Ubuntu: linux-modules-extra)"
        )
    })?;
    let list = std::fs::File::options()
        .create(true)
        .append(true)
        .open(directory.join(LIST));
    let written = list.and_then(|mut list| writeln!(list, "{name}"));
    if let Err(why) = written {
        let _ = remove_device(name);
        return Err(why).context("cannot note the soft-RoCE device");
    }
    Ok(())
}

/// Removes all that were made for this run directory.
pub(crate) fn remove_all(directory: &Path) {
    for name in listed(directory) {
        let _ = remove_device(&name);
    }
}

fn listed(directory: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(directory.join(LIST)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn remove_device(name: &str) -> Result<()> {
    check_device_name(name)?;
    run("rdma", &["link", "delete", name])
}

fn check_device_name(name: &str) -> Result<()> {
    let right = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let fine = (1..=LONGEST).contains(&name.len()) && name.chars().all(right);
    ensure!(
        fine && name.starts_with(|c: char| c.is_ascii_alphanumeric()),
        "{name:?} is not the name of a device"
    );
    Ok(())
}

fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{program} {}: {}", arguments.join(" "), said.trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_no_devices_are_refused() {
        for name in ["", "-x", "a b", "../x", "0123456789012345", "x;y"] {
            assert!(check_device_name(name).is_err(), "{name}");
        }
        assert!(check_device_name("enp3s0.100").is_ok());
    }

    #[test]
    fn an_unknown_network_device_is_named() {
        let place = tempfile::tempdir().unwrap();
        let said = add(place.path(), "rxe0", "none-such").unwrap_err();
        assert!(said.to_string().contains("none-such"), "{said}");
    }
}
