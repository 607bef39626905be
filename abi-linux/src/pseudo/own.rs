//! `/proc/self`: the process about itself.

use super::format::{TICKS, cpu_list, cpu_mask, cpu_ticks, cpus, names};
use super::{Names, Node};
use crate::consts::*;
use crate::hostcall::{HostCall, Simple};
use crate::kernel::{Kernel, MapLine};
use crate::layout::stat_from_host;
use crate::path::open_descriptors;
use proto::mem::Prot;
use proto::{Errno, PAGE_SIZE};

const FILES: &[&str] = &[
    "auxv",
    "cgroup",
    "cmdline",
    "comm",
    "environ",
    "limits",
    "maps",
    "mountinfo",
    "mounts",
    "oom_score_adj",
    "splitkernel",
    "stat",
    "statm",
    "status",
];
const LINKS: &[&str] = &["cwd", "exe", "root"];

/// What is at `/proc/PID/` followed by `rest`.
pub(super) fn node<K: Kernel>(k: &K, rest: &[&[u8]]) -> Result<Node, Errno> {
    match rest {
        [b"task"] => {
            let names = k
                .threads()
                .iter()
                .map(|t| (t.to_string().into_bytes(), DT_DIR))
                .collect();
            Ok(Node::Dir(names))
        }
        [b"task", tid, rest @ ..] => {
            let known = k.threads().iter().any(|t| t.to_string().as_bytes() == *tid);
            if !known {
                return Err(Errno::ENOENT);
            }
            // A thread's directory is the process's without the threads.
            match entry(k, rest)? {
                Node::Dir(mut names) if rest.is_empty() => {
                    names.retain(|(name, _)| name != b"task");
                    Ok(Node::Dir(names))
                }
                node => Ok(node),
            }
        }
        rest => entry(k, rest),
    }
}

fn entry<K: Kernel>(k: &K, rest: &[&[u8]]) -> Result<Node, Errno> {
    match rest {
        [] => {
            let mut all: Names = names(FILES, DT_REG);
            all.extend(names(LINKS, DT_LNK));
            all.extend(names(&["fd", "task"], DT_DIR));
            Ok(Node::Dir(all))
        }
        [b"fd"] => {
            let numbers = open_descriptors(k);
            Ok(Node::Dir(
                numbers
                    .iter()
                    .map(|n| (n.to_string().into_bytes(), DT_LNK))
                    .collect(),
            ))
        }
        [b"fd", number] => descriptor(k, number),
        [b"exe"] => Ok(Node::Link(k.executable())),
        [b"cwd"] => Ok(Node::Link(k.process().cwd().path().to_vec())),
        [b"root"] => Ok(Node::Link(b"/".to_vec())),
        [name] => file(k, name).map(Node::Text),
        _ => Err(Errno::ENOENT),
    }
}

fn descriptor<K: Kernel>(k: &K, number: &[u8]) -> Result<Node, Errno> {
    let number = std::str::from_utf8(number)
        .ok()
        .and_then(|n| n.parse::<i32>().ok());
    let fd = number
        .filter(|n| (0..k.fd_floor()).contains(n))
        .ok_or(Errno::ENOENT)?;
    let asked = k.host(HostCall::Fcntl {
        fd,
        command: F_GETFD,
        arg: 0,
    });
    asked
        .map(|_| Node::Descriptor(fd))
        .map_err(|_| Errno::ENOENT)
}

/// `pipe:[123]` and its like, for a host object.
pub(super) fn host_target<K: Kernel>(k: &K, fd: i32) -> Result<Vec<u8>, Errno> {
    let mut raw = [0; 144];
    k.host(HostCall::Fstat { fd, dst: &mut raw })
        .map_err(|_| Errno::ENOENT)?;
    let stat = stat_from_host(&raw);
    let kind = match stat.mode & S_IFMT {
        S_IFIFO => "pipe",
        S_IFSOCK => "socket",
        S_IFCHR => return Ok(b"/dev/tty".to_vec()),
        S_IFREG | S_IFDIR | S_IFBLK => "file",
        _ => return Ok(b"anon_inode:[host]".to_vec()),
    };
    Ok(format!("{kind}:[{}]", stat.ino).into_bytes())
}

fn file<K: Kernel>(k: &K, name: &[u8]) -> Result<Vec<u8>, Errno> {
    Ok(match name {
        b"auxv" => k.auxv(),
        b"cgroup" => b"0::/\n".to_vec(),
        b"cmdline" => terminated(&k.argv()),
        b"comm" => [comm(k).as_bytes(), b"\n"].concat(),
        b"environ" => terminated(&k.environ()),
        b"limits" => limits(k).into_bytes(),
        b"maps" => k.maps().iter().flat_map(map_line).collect(),
        b"mounts" => mounts().into_bytes(),
        b"mountinfo" => mountinfo().into_bytes(),
        b"oom_score_adj" => b"0\n".to_vec(),
        b"splitkernel" => k.statistics(),
        b"stat" => stat(k).into_bytes(),
        b"statm" => statm(k).into_bytes(),
        b"status" => status(k).into_bytes(),
        _ => return Err(Errno::ENOENT),
    })
}

fn terminated(strings: &[Vec<u8>]) -> Vec<u8> {
    strings
        .iter()
        .flat_map(|s| s.iter().copied().chain([0]))
        .collect()
}

fn comm<K: Kernel>(k: &K) -> String {
    let mut name = [0; 16];
    let _ = k.host(HostCall::GetName { name: &mut name });
    let end = name.iter().position(|b| *b == 0).unwrap_or(name.len());
    String::from_utf8_lossy(&name[..end]).into_owned()
}

/// proc_pid_maps(5).
fn map_line(line: &MapLine) -> Vec<u8> {
    let flag = |prot, c| if line.prot.has(prot) { c } else { '-' };
    let (r, w, x) = (
        flag(Prot::READ, 'r'),
        flag(Prot::WRITE, 'w'),
        flag(Prot::EXEC, 'x'),
    );
    let share = if line.shared { 's' } else { 'p' };
    let dev = if line.inode == 0 { "00:00" } else { "00:01" };
    let mut text = format!(
        "{:x}-{:x} {r}{w}{x}{share} {:08x} {dev} {} ",
        line.range.start().0,
        line.range.end().0,
        line.offset,
        line.inode,
    )
    .into_bytes();
    if !line.name.is_empty() {
        // Names begin in a column of their own.
        let width = text.len().max(73);
        text.resize(width, b' ');
        text.extend_from_slice(&line.name);
    }
    text.push(b'\n');
    text
}

const MOUNTS: &[(&str, &str)] = &[
    ("splitkernel", "/"),
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("devtmpfs", "/dev"),
];

fn mounts() -> String {
    let line = |(kind, at): &(&str, &str)| format!("{kind} {at} {kind} rw,relatime 0 0\n");
    MOUNTS.iter().map(line).collect()
}

fn mountinfo() -> String {
    let line = |(n, (kind, at)): (usize, &(&str, &str))| {
        let id = n + 1;
        let parent = usize::from(n > 0);
        format!("{id} {parent} 0:{id} / {at} rw,relatime - {kind} {kind} rw\n")
    };
    MOUNTS.iter().enumerate().map(line).collect()
}

/// proc_pid_limits(5).
fn limits<K: Kernel>(k: &K) -> String {
    const NAMES: [(&str, &str); 16] = [
        ("Max cpu time", "seconds"),
        ("Max file size", "bytes"),
        ("Max data size", "bytes"),
        ("Max stack size", "bytes"),
        ("Max core file size", "bytes"),
        ("Max resident set", "bytes"),
        ("Max processes", "processes"),
        ("Max open files", "files"),
        ("Max locked memory", "bytes"),
        ("Max address space", "bytes"),
        ("Max file locks", "locks"),
        ("Max pending signals", "signals"),
        ("Max msgqueue size", "bytes"),
        ("Max nice priority", ""),
        ("Max realtime priority", ""),
        ("Max realtime timeout", "us"),
    ];
    let show = |n: u64| {
        if n == u64::MAX {
            "unlimited".to_string()
        } else {
            n.to_string()
        }
    };
    let head = ["Limit", "Soft Limit", "Hard Limit", "Units"];
    let mut text = format!(
        "{:<25} {:<20} {:<20} {:<10}\n",
        head[0], head[1], head[2], head[3]
    );
    for (resource, (name, unit)) in (0..).zip(NAMES) {
        let Ok(limit) = k.process().limit(k, resource) else {
            continue;
        };
        let (soft, hard) = (show(limit.cur), show(limit.max));
        text += &format!("{name:<25} {soft:<20} {hard:<20} {unit:<10}\n");
    }
    text
}

/// Bytes mapped.
fn mapped<K: Kernel>(k: &K) -> u64 {
    k.maps().iter().map(|line| line.range.len()).sum()
}

/// proc_pid_statm(5), in pages.
fn statm<K: Kernel>(k: &K) -> String {
    let maps = k.maps();
    let of = |prot: Prot| -> u64 {
        maps.iter()
            .filter(|m| m.prot.has(prot))
            .map(|m| m.range.pages())
            .sum()
    };
    let size: u64 = maps.iter().map(|m| m.range.pages()).sum();
    let resident = k.footprint().0 / PAGE_SIZE;
    format!(
        "{size} {resident} 0 {} 0 {} 0\n",
        of(Prot::EXEC),
        of(Prot::WRITE)
    )
}

/// proc_pid_stat(5): 52 fields.
fn stat<K: Kernel>(k: &K) -> String {
    let id = |call| k.host(HostCall::Simple(call)).unwrap_or(0);
    let (user, system) = cpu_ticks(k);
    let (resident, _) = k.footprint();
    let started = k.started() / (1_000_000_000 / TICKS);
    let (_, stack_top) = k.stack();
    let pid = k.pid();
    let head = format!(
        "{pid} ({}) R {} {} {} 0 -1 4194304 0 0 0 0 {user} {system} 0 0 20 0 {} 0 {started} ",
        comm(k),
        k.ppid(),
        id(Simple::Getpgid(0)),
        id(Simple::Getsid(0)),
        k.threads().len(),
    );
    // vsize rss rsslim, code, stack, then what only a kernel could know.
    let memory = format!(
        "{} {} {} 0 0 {stack_top} ",
        mapped(k),
        resident / PAGE_SIZE,
        u64::MAX
    );
    let rest = ["0"; 24].join(" ");
    head + &memory + &rest + "\n"
}

/// proc_pid_status(5).
fn status<K: Kernel>(k: &K) -> String {
    let id = |call| k.host(HostCall::Simple(call)).unwrap_or(0);
    let (uid, euid) = (id(Simple::Getuid), id(Simple::Geteuid));
    let (gid, egid) = (id(Simple::Getgid), id(Simple::Getegid));
    let (resident, peak) = k.footprint();
    let kib = |bytes: u64| format!("{:>8} kB", bytes / 1024);
    let cpus = cpus(k);
    let lines: [(&str, String); 23] = [
        ("Name", comm(k)),
        ("Umask", format!("{:04o}", k.process().umask())),
        ("State", "R (running)".into()),
        ("Tgid", k.pid().to_string()),
        ("Ngid", "0".into()),
        ("Pid", k.tid().to_string()),
        ("PPid", k.ppid().to_string()),
        ("TracerPid", "0".into()),
        ("Uid", format!("{uid}\t{euid}\t{euid}\t{euid}")),
        ("Gid", format!("{gid}\t{egid}\t{egid}\t{egid}")),
        (
            "FDSize",
            k.process()
                .fds
                .numbers()
                .last()
                .map_or(64, |n| (n + 64) & !63)
                .to_string(),
        ),
        ("VmPeak", kib(mapped(k))),
        ("VmSize", kib(mapped(k))),
        ("VmLck", kib(0)),
        ("VmHWM", kib(peak)),
        ("VmRSS", kib(resident)),
        ("VmSwap", kib(0)),
        ("Threads", k.threads().len().to_string()),
        ("SigBlk", format!("{:016x}", k.mask())),
        ("NoNewPrivs", "1".into()),
        ("Cpus_allowed", cpu_mask(&cpus)),
        ("Cpus_allowed_list", cpu_list(&cpus)),
        ("Mems_allowed_list", "0".into()),
    ];
    lines
        .iter()
        .map(|(name, value)| format!("{name}:\t{value}\n"))
        .collect()
}
