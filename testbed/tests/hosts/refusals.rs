//! What is wrong with a host is said, with the host, the step and a cure; and
//! nothing is left on the others.

use crate::rig::{Odd, Rig, able, said};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// `testbed up` fails with these words, and cleans up.
fn expect_refusal(rig: &Rig, hosts: &str, words: &[&str]) {
    let up = rig.up(hosts);
    let text = said(&up);
    assert!(!up.status.success(), "it came up: {text}");
    for word in words {
        assert!(text.contains(word), "lacks {word:?}: {text}");
    }
    (0..=3).for_each(|host| rig.expect_nothing_left(host));
}

fn usual(rig: &Rig) -> String {
    rig.host(1, "") + &rig.host(3, "")
}

#[test]
fn a_host_that_is_not_there() {
    if !able() {
        return;
    }
    let rig = Rig::new(&[Odd::default(), Odd::default(), Odd::default()]);
    let wrong = rig.host(2, "").replace(
        &format!("ssh = \"root@{}\"", rig.address(2)),
        "ssh = \"root@no-such-host.invalid\"",
    );
    expect_refusal(
        &rig,
        &(usual(&rig) + &wrong),
        &[
            "host n2",
            "connecting by ssh",
            "no-such-host.invalid",
            "correct the name",
        ],
    );
    let nobody = rig.host(2, "").replace(
        &format!("ssh = \"root@{}\"", rig.address(2)),
        &format!("ssh = \"root@{}:23\"", rig.address(2)),
    );
    expect_refusal(
        &rig,
        &(usual(&rig) + &nobody),
        &["host n2", "refused", "runs sshd"],
    );
}

#[test]
fn a_host_that_refuses_the_key_or_is_not_known() {
    if !able() {
        return;
    }
    let refuses = Odd {
        refuses: true,
        ..Odd::default()
    };
    let rig = Rig::new(&[Odd::default(), refuses, Odd::default()]);
    expect_refusal(
        &rig,
        &(usual(&rig) + &rig.host(2, "")),
        &["host n2", "Permission denied", "ssh-copy-id"],
    );
    let unknown = rig.host(2, "").replace("known_hosts", "knows_nobody");
    expect_refusal(
        &rig,
        &(usual(&rig) + &unknown),
        &["host n2", "accept its host key"],
    );
}

/// A file system of its own, for as long as it is held.
struct Mounted(PathBuf);

impl Mounted {
    fn new(place: PathBuf, options: &str) -> Mounted {
        std::fs::create_dir(&place).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(&place)
            .status();
        assert!(mounted.unwrap().success());
        Mounted(place)
    }

    fn line(&self) -> String {
        format!("directory = {:?}", self.0)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn directories_that_do_not_do() {
    if !able() {
        return;
    }
    // First, so that the hosts, each with mounts of its own, see them.
    let place = tempfile::tempdir().unwrap();
    let small = Mounted::new(place.path().join("small"), "size=1m");
    let no_exec = Mounted::new(place.path().join("noexec"), "noexec");
    let rig = Rig::new(&[Odd::default(), Odd::default(), Odd::default()]);
    let no_directory = rig.host(2, "directory = \"/dev/null/bin\"");
    expect_refusal(
        &rig,
        &(usual(&rig) + &no_directory),
        &[
            "host n2",
            "making the directory /dev/null/bin",
            "give another",
        ],
    );
    expect_refusal(
        &rig,
        &(usual(&rig) + &rig.host(2, &small.line())),
        &["host n2", "copying testbed", "make room"],
    );
    expect_refusal(
        &rig,
        &(usual(&rig) + &rig.host(2, &no_exec.line())),
        &["host n2", "running testbed", "noexec"],
    );
}

#[test]
fn a_machine_of_another_kind() {
    if !able() {
        return;
    }
    let tools = tempfile::tempdir().unwrap();
    let uname = tools.path().join("uname");
    std::fs::write(&uname, "#!/bin/sh\necho aarch64\n").unwrap();
    std::fs::set_permissions(&uname, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = std::env::join_paths([tools.path(), Path::new("/usr/bin"), Path::new("/bin")]);
    let other = Odd {
        path: Some(path.unwrap().into()),
        ..Odd::default()
    };
    let rig = Rig::new(&[Odd::default(), other, Odd::default()]);
    expect_refusal(
        &rig,
        &(usual(&rig) + &rig.host(2, "")),
        &["host n2", "checking the machine", "aarch64"],
    );
}
