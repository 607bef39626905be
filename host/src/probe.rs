//! What this host offers, probed without leaving a trace: for `testbed doctor`
//! and for the checks at start-up, which refuse with the same words.

use crate::sys::{self, Errno};
use crate::uffd::{Features, Uffd};
use linux_raw_sys::general as nr;
use rustix::fd::AsRawFd;
use std::fmt;

/// How bad a finding is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Level {
    /// As wanted.
    Ok,
    /// It works without, less well.
    Degraded,
    /// It does not work without.
    Missing,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Level::Ok => "ok",
            Level::Degraded => "degraded",
            Level::Missing => "missing",
        })
    }
}

/// One thing that was looked at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// What.
    pub name: String,
    /// How it stands.
    pub level: Level,
    /// What was seen.
    pub seen: String,
    /// What is lost without it; empty where nothing is.
    pub lost: String,
    /// How to get it; empty where nothing is lost.
    pub cure: String,
}

impl Finding {
    /// All is well.
    #[must_use]
    pub fn ok(name: &str, seen: impl Into<String>) -> Finding {
        Finding {
            name: name.to_owned(),
            level: Level::Ok,
            seen: seen.into(),
            lost: String::new(),
            cure: String::new(),
        }
    }

    /// Something is not as wanted.
    #[must_use]
    pub fn lacking(
        name: &str,
        level: Level,
        seen: impl Into<String>,
        lost: &str,
        cure: &str,
    ) -> Finding {
        let (lost, cure) = (lost.to_owned(), cure.to_owned());
        Finding {
            name: name.to_owned(),
            level,
            seen: seen.into(),
            lost,
            cure,
        }
    }
}

/// In one line, as the checks at start-up say it.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({})", self.name, self.level, self.seen)?;
        if self.level == Level::Ok {
            return Ok(());
        }
        write!(f, "; without it: {}; to get it: {}", self.lost, self.cure)
    }
}

/// The checks that a processor component can't do without.
///
/// # Errors
/// What is missing.
pub fn required() -> Result<(), Vec<Finding>> {
    let mut all = vec![dispatch(), segment_bases(), memory_files()];
    all.extend(userfaultfd());
    all.retain(|finding| finding.level == Level::Missing);
    if all.is_empty() { Ok(()) } else { Err(all) }
}

const UFFD: &str = "userfaultfd";
const UFFD_LOST: &str = "cache misses can't be caught, no program can run";

/// userfaultfd(2): whether it can be had, then each of its features that
/// matters, by the `UFFDIO_API` handshake (ioctl_userfaultfd(2)).
#[must_use]
pub fn userfaultfd() -> Vec<Finding> {
    match Uffd::open(Features(0)) {
        Ok(uffd) => {
            let opened = Finding::ok(UFFD, "can be opened for user-mode faults");
            let features = FEATURES.iter().map(|feature| feature.look(uffd.features()));
            std::iter::once(opened).chain(features).collect()
        }
        Err(why) => vec![uffd_absent(why)],
    }
}

fn uffd_absent(why: Errno) -> Finding {
    let cure = match why.0 {
        libc::ENOSYS => "run a kernel built with CONFIG_USERFAULTFD (5.11 or later)",
        libc::EPERM => {
            "a seccomp filter or security module forbids it: in a container, permit \
             userfaultfd (docker: --security-opt seccomp=unconfined)"
        }
        libc::EINVAL => "run Linux 5.11 or later: this one lacks UFFD_USER_MODE_ONLY",
        _ => "see the error",
    };
    Finding::lacking(UFFD, Level::Missing, why.to_string(), UFFD_LOST, cure)
}

struct Feature {
    name: &'static str,
    bit: Features,
    without: Level,
    lost: &'static str,
    cure: &'static str,
}

const FEATURES: [Feature; 4] = [
    Feature {
        name: "userfaultfd: faults as signals (SIGBUS)",
        bit: Features::SIGBUS,
        without: Level::Missing,
        lost: UFFD_LOST,
        cure: "run Linux 4.14 or later",
    },
    Feature {
        name: "userfaultfd: write protection (WP)",
        bit: Features::WP,
        without: Level::Missing,
        lost: "it can't be known which lines changed, no program can run",
        cure: "run Linux 5.7 or later on x86-64",
    },
    Feature {
        name: "userfaultfd: asynchronous write protection (WP_ASYNC)",
        bit: Features::WP_ASYNC,
        without: Level::Degraded,
        lost: "the first write to a clean line always costs a fault",
        cure: "run Linux 6.7 or later",
    },
    Feature {
        name: "userfaultfd: moving pages (MOVE)",
        bit: Features::MOVE,
        without: Level::Degraded,
        lost: "pages are copied, never moved",
        cure: "run Linux 6.8 or later",
    },
];

impl Feature {
    fn look(&self, offered: Features) -> Finding {
        if offered.has(self.bit) {
            Finding::ok(self.name, "offered")
        } else {
            Finding::lacking(self.name, self.without, "not offered", self.lost, self.cure)
        }
    }
}

/// Syscall User Dispatch (Linux 5.11): turning off what is off is an error
/// only where there is no such thing.
#[must_use]
pub fn dispatch() -> Finding {
    const NAME: &str = "syscall user dispatch";
    const PR_SET_SYSCALL_USER_DISPATCH: libc::c_int = 59;
    const PR_SYS_DISPATCH_OFF: usize = 0;
    // SAFETY: prctl(2) with numbers alone; it is off in this thread already.
    let answer = unsafe {
        sys::plain(
            nr::__NR_prctl,
            [
                PR_SET_SYSCALL_USER_DISPATCH as usize,
                PR_SYS_DISPATCH_OFF,
                0,
                0,
                0,
                0,
            ],
        )
    };
    match answer {
        Ok(_) => Finding::ok(NAME, "offered"),
        Err(why) => Finding::lacking(
            NAME,
            Level::Missing,
            why.to_string(),
            "system calls can't be caught, no program can run",
            "run Linux 5.11 or later, x86-64, built with CONFIG_GENERIC_ENTRY",
        ),
    }
}

/// `PAGEMAP_SCAN` (Linux 6.7, ioctl(2) on /proc/PID/pagemap).
#[must_use]
pub fn pagemap_scan() -> Finding {
    const NAME: &str = "pagemap scan";
    match scan_one_page() {
        Ok(()) => Finding::ok(NAME, "offered"),
        Err(why) => Finding::lacking(
            NAME,
            Level::Degraded,
            why,
            "changed lines are found by write faults alone",
            "run Linux 6.7 or later, with /proc mounted",
        ),
    }
}

fn scan_one_page() -> Result<(), String> {
    /// `_IOWR('f', 16, struct pm_scan_arg)`, linux/fs.h.
    const PAGEMAP_SCAN: usize = 0xC060_6610;
    const PAGE: u64 = 4096;
    let file = std::fs::File::open("/proc/self/pagemap").map_err(|e| e.to_string())?;
    let on_stack = 0u64;
    let start = (&raw const on_stack) as u64 & !(PAGE - 1);
    // size, flags, start, end; then walk_end, vec, vec_len, max_pages and the
    // category masks, all zero: count nothing, return nothing.
    let mut arg = [
        size_of::<[u64; 12]>() as u64,
        0,
        start,
        start + PAGE,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
    ];
    let fd = file.as_raw_fd() as usize;
    // SAFETY: the array has the size and layout of struct pm_scan_arg, and
    // asks for no output beyond it.
    unsafe {
        let at = (&raw mut arg) as usize;
        sys::plain(nr::__NR_ioctl, [fd, PAGEMAP_SCAN, at, 0, 0, 0])
    }
    .map(|_| ())
    .map_err(|e| e.to_string())
}

/// process_madvise(2) of a process on itself with any advice (Linux 6.13).
#[must_use]
pub fn process_madvise() -> Finding {
    const NAME: &str = "process_madvise on itself";
    match advise_nothing() {
        Ok(()) => Finding::ok(NAME, "offered"),
        Err(why) => Finding::lacking(
            NAME,
            Level::Degraded,
            why.to_string(),
            "evicted pages are dropped one call each, about 1 us dearer a page",
            "run Linux 6.13 or later",
        ),
    }
}

/// One empty range: enough for the kernel to check advice and target.
fn advise_nothing() -> Result<(), Errno> {
    let pid = rustix::process::getpid();
    let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())
        .map_err(|e| Errno(e.raw_os_error()))?;
    let empty = crate::mapping::Span { start: 0, len: 0 };
    let args = [
        pidfd.as_raw_fd() as usize,
        (&raw const empty) as usize,
        1,
        libc::MADV_DONTNEED as usize,
        0,
        0,
    ];
    // SAFETY: a range of no bytes is advised.
    unsafe { sys::plain(nr::__NR_process_madvise, args) }.map(|_| ())
}

/// FSGSBASE instructions enabled by the kernel: AT_HWCAP2 bit 1
/// (Documentation/arch/x86/elf_auxvec.rst).
#[must_use]
pub fn segment_bases() -> Finding {
    const NAME: &str = "FSGSBASE instructions";
    const HWCAP2_FSGSBASE: usize = 1 << 1;
    let (_, hwcap2) = rustix::param::linux_hwcap();
    if hwcap2 & HWCAP2_FSGSBASE != 0 {
        Finding::ok(NAME, "enabled")
    } else {
        Finding::lacking(
            NAME,
            Level::Missing,
            format!("AT_HWCAP2 is {hwcap2:#x}"),
            "thread-local storage can't be switched on a trap, no program can run",
            "an x86-64 CPU with FSGSBASE (Ivy Bridge, Zen or later), Linux 5.9 or later, \
             not booted with nofsgsbase",
        )
    }
}

/// memfd_create(2).
#[must_use]
pub fn memory_files() -> Finding {
    const NAME: &str = "memfd";
    match rustix::fs::memfd_create("probe", rustix::fs::MemfdFlags::CLOEXEC) {
        Ok(_) => Finding::ok(NAME, "offered"),
        Err(why) => Finding::lacking(
            NAME,
            Level::Missing,
            why.to_string(),
            "memory can't be shared between components, nothing starts",
            "permit memfd_create (Linux 3.17 or later; in a container, its seccomp profile)",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lacking_is_said_with_its_cure() {
        let absent = uffd_absent(Errno(libc::EPERM)).to_string();
        assert!(absent.starts_with("userfaultfd: missing"), "{absent}");
        assert!(absent.contains("seccomp=unconfined"), "{absent}");
        for feature in &FEATURES {
            let finding = feature.look(Features(!feature.bit.0));
            assert_eq!(finding.level, feature.without);
            assert!(!finding.lost.is_empty() && !finding.cure.is_empty());
            assert_eq!(feature.look(feature.bit).level, Level::Ok);
        }
    }

    /// These tests run programs on this host, so it has what that takes.
    #[test]
    fn this_host_suffices() {
        assert_eq!(required(), Ok(()));
    }
}
