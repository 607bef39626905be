//! Small pieces of text that several pseudo-files share.

use crate::hostcall::HostCall;
use crate::kernel::Kernel;
use crate::layout::{Layout, RawTimespec, Rusage, Timeval};

/// Clock ticks a second, as `AT_CLKTCK` tells the program.
pub(super) const TICKS: u64 = 100;

/// The numbers of the processors that `/proc/cpuinfo` lists.
pub(super) fn cpus<K: Kernel>(k: &K) -> Vec<u32> {
    k.process().cpus(|| listed(&k.cpuinfo()))
}

fn listed(text: &[u8]) -> Vec<u32> {
    let number = |line: &[u8]| {
        let line = std::str::from_utf8(line).ok()?;
        let (key, value) = line.split_once(':')?;
        if key.trim() != "processor" {
            return None;
        }
        value.trim().parse().ok()
    };
    let cpus: Vec<u32> = text.split(|b| *b == b'\n').filter_map(number).collect();
    if cpus.is_empty() { vec![0] } else { cpus }
}

/// `0-3,6`: how the kernel prints a set of processors, in order.
pub(super) fn cpu_list(cpus: &[u32]) -> String {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for cpu in cpus {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == *cpu => *last = *cpu,
            _ => runs.push((*cpu, *cpu)),
        }
    }
    let show = |(first, last): &(u32, u32)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    runs.iter().map(show).collect::<Vec<_>>().join(",")
}

/// A set of processors as comma-separated 32-bit hexadecimal words.
pub(super) fn cpu_mask(cpus: &[u32]) -> String {
    let words = cpus.iter().max().map_or(1, |most| most / 32 + 1);
    let word = |n: u32| {
        cpus.iter()
            .filter(|c| *c / 32 == n)
            .fold(0u32, |word, c| word | (1 << (c % 32)))
    };
    let words: Vec<String> = (0..words)
        .rev()
        .map(|n| format!("{:08x}", word(n)))
        .collect();
    words.join(",")
}

/// Nanoseconds since boot.
pub(super) fn uptime<K: Kernel>(k: &K) -> u64 {
    const CLOCK_BOOTTIME: i32 = 7;
    let mut raw = [0; 16];
    let _ = k.host(HostCall::ClockGettime {
        clock: CLOCK_BOOTTIME,
        dst: &mut raw,
    });
    let time = RawTimespec::decode(&raw);
    time.sec.unsigned_abs().saturating_mul(1_000_000_000) + time.nsec.unsigned_abs()
}

/// Ticks that the process has run, in user mode and in the kernel.
pub(super) fn cpu_ticks<K: Kernel>(k: &K) -> (u64, u64) {
    let mut raw = [0; 144];
    let _ = k.host(HostCall::Getrusage {
        who: 0,
        dst: &mut raw,
    });
    let usage = Rusage::decode(&raw);
    let ticks =
        |t: Timeval| t.sec.unsigned_abs() * TICKS + t.usec.unsigned_abs() * TICKS / 1_000_000;
    (ticks(usage.utime), ticks(usage.stime))
}

/// Names of a directory's entries, all of one kind.
pub(super) fn names(names: &[&str], kind: u8) -> super::Names {
    names
        .iter()
        .map(|n| (n.as_bytes().to_vec(), kind))
        .collect()
}
