//! Memory cgroups, of version 1 and 2 (cgroups(7)).

use crate::out::warn;
use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How long what ran in a group may take to be gone.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where groups are made.
#[derive(Clone, Debug)]
pub(super) struct Hierarchy {
    root: PathBuf,
    version: Version,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Version {
    One,
    Two,
}

impl fmt::Display for Hierarchy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.version {
            Version::One => "v1",
            Version::Two => "v2",
        })
    }
}

impl Hierarchy {
    /// The one of this host.
    pub(super) fn find() -> Result<Hierarchy> {
        Hierarchy::below(Path::new("/sys/fs/cgroup"))
    }

    fn below(top: &Path) -> Result<Hierarchy> {
        let memory = top.join("memory");
        if memory.join("memory.limit_in_bytes").exists() {
            return Ok(Hierarchy {
                root: memory,
                version: Version::One,
            });
        }
        let offered = fs::read_to_string(top.join("cgroup.controllers")).unwrap_or_default();
        if !offered.split_whitespace().any(|name| name == "memory") {
            bail!(
                "--baseline swap: no memory controller of cgroups below {}: mount one, and boot \
                 with cgroup_enable=memory if the kernel has it turned off",
                top.display()
            );
        }
        let given = fs::read_to_string(top.join("cgroup.subtree_control")).unwrap_or_default();
        if !given.split_whitespace().any(|name| name == "memory") {
            bail!(
                "--baseline swap: groups in {0} do not have the memory controller: \
                 echo +memory >{0}/cgroup.subtree_control",
                top.display()
            );
        }
        Ok(Hierarchy {
            root: top.to_owned(),
            version: Version::Two,
        })
    }

    /// A new group.
    pub(super) fn group(&self) -> Result<Group> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("splitkernel-sweep-{}-{number}", std::process::id());
        let path = self.root.join(name);
        fs::create_dir(&path).with_context(|| {
            format!(
                "--baseline swap: cannot make the cgroup {}: run as root, where cgroups can be \
                 written",
                path.display()
            )
        })?;
        Ok(Group {
            path,
            version: self.version,
        })
    }
}

/// A group, removed with all that runs in it when dropped.
#[derive(Debug)]
pub(super) struct Group {
    path: PathBuf,
    version: Version,
}

impl Group {
    /// Bytes of memory, and no bound for swap.
    pub(super) fn limit(&self, bytes: u64) -> Result<()> {
        match self.version {
            Version::One => {
                self.write("memory.limit_in_bytes", &bytes.to_string())?;
                // Anonymous pages go as readily as those of files; absent in
                // some kernels.
                let _ = self.write("memory.swappiness", "100");
                Ok(())
            }
            Version::Two => {
                self.write("memory.max", &bytes.to_string())?;
                self.write("memory.swap.max", "max")
            }
        }
    }

    fn write(&self, file: &str, value: &str) -> Result<()> {
        let path = self.path.join(file);
        fs::write(&path, value).with_context(|| {
            format!(
                "--baseline swap: cannot write {value} to {}: is swap accounting on \
                 (swapaccount=1)?",
                path.display()
            )
        })
    }

    /// The file that takes the numbers of processes.
    pub(super) fn members(&self) -> PathBuf {
        self.path.join("cgroup.procs")
    }

    /// Bytes in swap now; reads `memory.stat`.
    pub(super) fn swapped(&self) -> u64 {
        let stat = fs::read_to_string(self.path.join("memory.stat")).unwrap_or_default();
        match self.version {
            Version::One => field(&stat, "swap"),
            Version::Two => {
                let now = fs::read_to_string(self.path.join("memory.swap.current"));
                now.ok()
                    .and_then(|text| text.trim().parse().ok())
                    .unwrap_or(0)
            }
        }
    }

    /// How many processes were killed for want of memory.
    pub(super) fn kills(&self) -> u64 {
        let file = match self.version {
            Version::One => "memory.oom_control",
            Version::Two => "memory.events",
        };
        field(
            &fs::read_to_string(self.path.join(file)).unwrap_or_default(),
            "oom_kill",
        )
    }

    fn kill_members(&self) {
        let members = fs::read_to_string(self.members()).unwrap_or_default();
        let numbers = members.lines().filter_map(|line| line.parse().ok());
        for member in numbers.filter_map(Pid::from_raw) {
            let _ = kill_process(member, Signal::KILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let until = Instant::now() + PATIENCE;
        loop {
            match fs::remove_dir(&self.path) {
                Ok(()) => return,
                Err(why) if Instant::now() >= until => {
                    let path = self.path.display();
                    return warn(&format!("cannot remove {path}: {why}: rmdir {path}"));
                }
                Err(_) => self.kill_members(),
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// A number of a file of `name number` lines.
fn field(text: &str, name: &str) -> u64 {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(key, _)| *key == name)
        .and_then(|(_, value)| value.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(files: &[(&str, &str)]) -> tempfile::TempDir {
        let place = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = place.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        place
    }

    #[test]
    fn either_version_is_found() {
        let one = made(&[("memory/memory.limit_in_bytes", "1")]);
        let found = Hierarchy::below(one.path()).unwrap();
        assert_eq!(
            (found.to_string().as_str(), found.version),
            ("v1", Version::One)
        );
        let two = made(&[
            ("cgroup.controllers", "cpu memory\n"),
            ("cgroup.subtree_control", "memory\n"),
        ]);
        assert_eq!(Hierarchy::below(two.path()).unwrap().version, Version::Two);
    }

    #[test]
    fn what_is_missing_is_said_with_a_cure() {
        let said = |files: &[(&str, &str)]| {
            Hierarchy::below(made(files).path())
                .unwrap_err()
                .to_string()
        };
        assert!(said(&[]).contains("mount"), "{}", said(&[]));
        let other = said(&[("cgroup.controllers", "hugetlb\n")]);
        assert!(other.contains("cgroup_enable=memory"), "{other}");
        let kept = said(&[
            ("cgroup.controllers", "memory\n"),
            ("cgroup.subtree_control", "\n"),
        ]);
        assert!(kept.contains("echo +memory"), "{kept}");
    }

    #[test]
    fn limits_and_counters_of_either_version() {
        let place = made(&[
            ("memory.stat", "cache 5\nswapcached 3\nswap 4096\n"),
            ("memory.oom_control", "under_oom 0\noom_kill 2\n"),
            ("memory.events", "oom 3\noom_kill 1\noom_group_kill 9\n"),
            ("memory.swap.current", "8192\n"),
        ]);
        for (version, swapped, kills, file) in [
            (Version::One, 4096, 2, "memory.limit_in_bytes"),
            (Version::Two, 8192, 1, "memory.max"),
        ] {
            let path = place.path().to_owned();
            let group = std::mem::ManuallyDrop::new(Group { path, version });
            assert_eq!((group.swapped(), group.kills()), (swapped, kills));
            group.limit(1 << 20).unwrap();
            assert_eq!(
                fs::read_to_string(place.path().join(file)).unwrap(),
                "1048576"
            );
        }
    }
}
