//! Dependencies between the folders point one way (see ARCHITECTURE.md): a
//! component knows the messages and the fabric, never another component, and
//! `testbed` starts binaries and links none of them.
#![cfg(test)]

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// What each package may depend on; each stands after those it may use.
const ALLOWED: [(&str, &[&str]); 11] = [
    ("splitkernel-proto", &[]),
    ("splitkernel-host", &[]),
    (
        "splitkernel-fabric",
        &["splitkernel-proto", "splitkernel-host"],
    ),
    (
        "splitkernel-member",
        &["splitkernel-proto", "splitkernel-fabric"],
    ),
    ("splitkernel-aspace", &["splitkernel-proto"]),
    ("splitkernel-abi-linux", &["splitkernel-proto"]),
    (
        "gmm",
        &[
            "splitkernel-proto",
            "splitkernel-fabric",
            "splitkernel-member",
        ],
    ),
    (
        "scomponent",
        &[
            "splitkernel-proto",
            "splitkernel-fabric",
            "splitkernel-member",
        ],
    ),
    (
        "mcomponent",
        &[
            "splitkernel-proto",
            "splitkernel-fabric",
            "splitkernel-member",
            "splitkernel-host",
            "splitkernel-aspace",
        ],
    ),
    (
        "pcomponent",
        &[
            "splitkernel-proto",
            "splitkernel-fabric",
            "splitkernel-member",
            "splitkernel-host",
            "splitkernel-aspace",
            "splitkernel-abi-linux",
        ],
    ),
    (
        "testbed",
        &[
            "splitkernel-proto",
            "splitkernel-fabric",
            "splitkernel-host",
            "splitkernel-member",
        ],
    ),
];

/// Dependencies of each package on others of the workspace, those for tests
/// and for building among them.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--no-deps",
            "--format-version",
            "1",
            "--offline",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo metadata");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "cargo metadata: {said}");
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let name = |value: &Value| value["name"].as_str().expect("a name").to_owned();
    let packages = metadata["packages"].as_array().expect("packages");
    let ours: BTreeSet<String> = packages.iter().map(name).collect();
    let of = |package: &Value| {
        let all = package["dependencies"]
            .as_array()
            .expect("dependencies")
            .iter()
            .map(name);
        all.filter(|dependency| ours.contains(dependency)).collect()
    };
    packages
        .iter()
        .map(|package| (name(package), of(package)))
        .collect()
}

#[test]
fn point_one_way() {
    let allowed: BTreeMap<_, _> = ALLOWED.into_iter().collect();
    for (package, dependencies) in dependencies() {
        let allowed = allowed
            .get(package.as_str())
            .unwrap_or_else(|| panic!("{package} is new: say here what it may depend on"));
        for dependency in dependencies {
            assert!(
                allowed.contains(&dependency.as_str()),
                "{package} must not depend on {dependency}"
            );
        }
    }
}

/// The list itself has no cycle.
#[test]
fn are_layers() {
    let mut below = BTreeSet::new();
    for (package, allowed) in ALLOWED {
        for dependency in allowed {
            assert!(
                below.contains(dependency),
                "{package} stands before {dependency}"
            );
        }
        below.insert(package);
    }
}

/// Nobody but cargo reads it, so nobody but this test sees it grow stale.
#[test]
fn the_list_names_what_is_there() {
    let there: BTreeSet<String> = dependencies().into_keys().collect();
    for (package, _) in ALLOWED {
        assert!(there.contains(package), "{package} is gone");
    }
}
