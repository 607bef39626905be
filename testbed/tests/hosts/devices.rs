//! Soft-RoCE devices: asked for of rdma(8), which stands in here for what this
//! machine's kernel may lack, and given back however the testbed ends.

use crate::rig::{Odd, Rig, able, kill, said, until};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

const RXE: &str = "rxe = true\nnetdev = \"eth0\"\ndevice = \"lab0\"";

/// A host whose rdma(8) is this script, and two usual ones.
fn rig_with(place: &Path, script: &str) -> Rig {
    for (name, text) in [("rdma", script), ("modprobe", "")] {
        let path = place.join(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let others = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(Path::new);
    let path = std::env::join_paths([&[place][..], &others].concat()).unwrap();
    let odd = Odd {
        path: Some(path.into()),
        ..Odd::default()
    };
    Rig::new(&[Odd::default(), odd, Odd::default()])
}

fn hosts(rig: &Rig) -> String {
    rig.host(1, "") + &rig.host(2, RXE) + &rig.host(3, "")
}

#[test]
fn devices_are_made_and_given_back() {
    if !able() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let log = place.path().join("log");
    let rig = rig_with(place.path(), &format!("echo \"$@\" >>{}", log.display()));
    let calls = || fs::read_to_string(&log).unwrap_or_default();
    let made = "link add lab0 type rxe netdev eth0\n";
    let removed = "link delete lab0\n";

    let up = rig.up(&hosts(&rig));
    assert!(up.status.success(), "{}", said(&up));
    assert_eq!(calls(), made);
    let down = rig.testbed(&["down", "lab"]).output().unwrap();
    assert!(down.status.success(), "{}", said(&down));
    assert_eq!(calls(), [made, removed].concat());

    // By the janitor, behind an agent that was killed.
    fs::remove_file(&log).unwrap();
    let up = rig.up(&hosts(&rig));
    assert!(up.status.success(), "{}", said(&up));
    rig.processes(2, "--stdio")
        .iter()
        .for_each(|pid| kill(*pid));
    until("the device is removed", || {
        (calls() == [made, removed].concat()).then_some(())
    });
    rig.expect_nothing_left(2);
}

#[test]
fn a_device_that_can_not_be_made() {
    if !able() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let rig = rig_with(place.path(), "echo Operation not supported >&2; exit 1");
    let up = rig.up(&hosts(&rig));
    let text = said(&up);
    assert!(!up.status.success(), "{text}");
    for word in [
        "host n2",
        "soft-RoCE device",
        "not supported",
        "rdma_rxe",
        "root",
    ] {
        assert!(text.contains(word), "lacks {word:?}: {text}");
    }
    (0..=3).for_each(|host| rig.expect_nothing_left(host));
}
