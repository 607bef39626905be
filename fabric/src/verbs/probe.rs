//! What stands in the way of RDMA on this machine, for people.

use super::device::{Device, library, names};
use super::objects::{Buffer, ProtectionDomain};
use super::ports::{self, Port};
use host::probe::{Finding, Level};
use rustix::process::{Resource, getrlimit};
use std::path::Path;

const LOST: &str = "no `verbs:` addresses, no RDMA: components meet over shared memory and TCP";

fn finding(name: &str, result: Result<String, String>) -> Finding {
    match result {
        Ok(seen) => Finding::ok(name, seen),
        Err(cure) => Finding::lacking(name, Level::Degraded, "not usable", LOST, &cure),
    }
}

/// Looks for the library, devices, permission and limits that `verbs:`
/// addresses need. What comes after something that does not work is left out.
#[must_use]
pub fn probe() -> Vec<Finding> {
    let mut findings = vec![finding("RDMA library", look_at_library())];
    if works(&findings) {
        let ports = ports::scan(Path::new(ports::SYSFS));
        findings.push(finding("RDMA devices", look_at_ports(&ports)));
        if works(&findings) {
            findings.push(finding("RDMA permission", look_at_permission(&ports)));
            findings.push(finding("locked memory", look_at_limit()));
        }
    }
    findings
}

fn works(findings: &[Finding]) -> bool {
    findings.iter().all(|f| f.level == Level::Ok)
}

fn look_at_library() -> Result<String, String> {
    library().map_err(|e| e.to_string())?;
    Ok("libibverbs is installed".to_owned())
}

fn look_at_ports(ports: &[Port]) -> Result<String, String> {
    let named = ports::named();
    ports::choose(ports, [127, 0, 0, 1].into(), named.as_deref())?;
    let active = ports.iter().filter(|p| p.active);
    let all: Vec<String> = active.map(describe).collect();
    // A device without its driver's library is in sysfs and not in the list.
    let usable = names().map_err(|e| e.to_string())?;
    if usable.is_empty() {
        return Err(format!(
            "{}, but no library for their driver: install ibverbs-providers (Debian, Ubuntu), \
             or modprobe ib_uverbs",
            all.join("; ")
        ));
    }
    Ok(all.join("; "))
}

fn describe(port: &Port) -> String {
    let kind = if port.ethernet { "RoCE" } else { "InfiniBand" };
    let usable = port.gids.iter().filter(|gid| gid.routable);
    let addresses: Vec<String> = usable
        .map(|gid| match gid.address.to_ipv4_mapped() {
            Some(v4) => v4.to_string(),
            None => gid.address.to_string(),
        })
        .collect();
    let Port { device, number, .. } = port;
    format!("{device}/{number} ({kind} {})", addresses.join(" "))
}

/// Opens a device and registers a little memory with it.
fn look_at_permission(ports: &[Port]) -> Result<String, String> {
    let named = ports::named();
    let (port, _) = ports::choose(ports, [127, 0, 0, 1].into(), named.as_deref())?;
    let tried = Device::open(&port.device, None).and_then(|device| {
        let limits = *device.limits();
        let domain = ProtectionDomain::new(device)?;
        Buffer::new(&domain, 4096)?;
        Ok(limits)
    });
    let limits = tried.map_err(|e| e.to_string())?;
    Ok(format!(
        "{} opens; {} work requests a queue, {} queue pairs, regions of up to {} MiB",
        port.device,
        limits.max_qp_wr,
        limits.max_qp,
        limits.max_mr_size >> 20
    ))
}

/// Locked memory that a testbed's components use at the very least.
const LEAST_LOCKED: u64 = 64 << 20;

fn look_at_limit() -> Result<String, String> {
    match getrlimit(Resource::Memlock).current {
        None => Ok("unlimited".to_owned()),
        Some(n) if n >= LEAST_LOCKED => Ok(format!("{} MiB", n >> 20)),
        Some(n) if rustix::process::geteuid().is_root() => {
            Ok(format!("{} KiB, which root may exceed", n >> 10))
        }
        Some(n) => Err(format!(
            "at most {} KiB may be locked, granted memory and buffers are: ulimit -l unlimited, \
             LimitMEMLOCK=infinity in a systemd unit, or memlock in /etc/security/limits.conf",
            n >> 10
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On any machine: what does not work says how it could.
    #[test]
    fn findings_come_with_cures() {
        let findings = probe();
        assert_eq!(findings[0].name, "RDMA library");
        for found in findings.iter().filter(|f| f.level != Level::Ok) {
            let cures = [
                "install",
                "modprobe",
                "ulimit",
                "root",
                "ip link",
                "rdma link",
            ];
            assert!(cures.iter().any(|c| found.cure.contains(c)), "{found:?}");
        }
    }
}
