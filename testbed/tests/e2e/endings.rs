//! How a program ends is how `testbed run` ends.

use crate::case::{Case, Cell};

const ONE: &[Cell] = &[Cell::new(100, "tcp")];

fn ends_alike(arguments: &str) {
    Case::new("ending", arguments).check(ONE);
}

#[test]
fn exit_statuses() {
    ends_alike("return 0");
    ends_alike("return 7");
    ends_alike("_exit 300");
    ends_alike("return 125");
}

#[test]
fn exits_from_threads() {
    ends_alike("thread 3");
    ends_alike("main-first");
}

#[test]
fn deaths_by_signal() {
    for signal in [2, 9, 15, 10, 14] {
        ends_alike(&format!("signal {signal}"));
    }
    ends_alike("signal 18");
    ends_alike("abort");
}

#[test]
fn deaths_by_fault() {
    for fault in [
        "null",
        "kernel-address",
        "read-only",
        "no-exec",
        "divide",
        "illegal",
    ] {
        ends_alike(fault);
    }
}
