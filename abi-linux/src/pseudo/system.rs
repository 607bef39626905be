//! `/proc` beside the process's own directory, and `/sys`: the disaggregated
//! machine. Its processors are the processor component's, its memory is that
//! of the memory components.

use super::format::{TICKS, cpu_list, cpu_mask, cpu_ticks, cpus, names, uptime};
use super::{Names, Node, own};
use crate::consts::{DT_DIR, DT_LNK, DT_REG};
use crate::hostcall::HostCall;
use crate::kernel::Kernel;
use crate::layout::{Layout, Sysinfo, Utsname};
use proto::Errno;

const PROC_FILES: &[&str] = &[
    "cmdline",
    "cpuinfo",
    "filesystems",
    "loadavg",
    "meminfo",
    "stat",
    "uptime",
    "version",
];

/// What is at `/proc/` followed by `rest`.
pub(super) fn proc<K: Kernel>(k: &K, rest: &[&[u8]]) -> Result<Node, Errno> {
    let pid = k.pid().to_string();
    match rest {
        [] => Ok(Node::Dir(proc_names(&pid))),
        [b"self"] => Ok(Node::Link(pid.into_bytes())),
        [b"thread-self"] => Ok(Node::Link(format!("{pid}/task/{}", k.tid()).into_bytes())),
        [b"mounts"] => Ok(Node::Link(b"self/mounts".to_vec())),
        [b"sys", rest @ ..] => sysctl(k, rest),
        [name, rest @ ..] if *name == pid.as_bytes() => own::node(k, rest),
        [name] => proc_file(k, name).map(|text| Node::Text(text.into_bytes())),
        _ => Err(Errno::ENOENT),
    }
}

fn proc_names(pid: &str) -> Names {
    let mut all = names(PROC_FILES, DT_REG);
    all.extend(names(&[pid, "sys"], DT_DIR));
    all.extend(names(&["self", "thread-self", "mounts"], DT_LNK));
    all
}

fn proc_file<K: Kernel>(k: &K, name: &[u8]) -> Result<String, Errno> {
    Ok(match name {
        b"cmdline" => "splitkernel\n".to_string(),
        b"cpuinfo" => String::from_utf8_lossy(&k.cpuinfo()).into_owned(),
        b"filesystems" => "nodev\tproc\nnodev\tsysfs\nnodev\tdevtmpfs\nnodev\tsplitkernel\n".into(),
        b"loadavg" => loadavg(k),
        b"meminfo" => meminfo(k),
        b"stat" => stat(k),
        b"uptime" => uptime_text(k),
        b"version" => String::from_utf8_lossy(&k.version()).into_owned(),
        _ => return Err(Errno::ENOENT),
    })
}

fn loadavg<K: Kernel>(k: &K) -> String {
    let mut raw = [0; 112];
    let _ = k.host(HostCall::Sysinfo { dst: &mut raw });
    let loads = Sysinfo::decode(&raw)
        .loads
        .map(|load| load as f64 / 65536.0);
    let threads = k.threads().len();
    let [one, five, fifteen] = loads;
    format!("{one:.2} {five:.2} {fifteen:.2} 1/{threads} {}\n", k.tid())
}

fn meminfo<K: Kernel>(k: &K) -> String {
    let (total, free) = k.memory();
    let used = k.footprint().0;
    let (total, free, used) = (total / 1024, free / 1024, used / 1024);
    let lines = [
        ("MemTotal", total),
        ("MemFree", free),
        ("MemAvailable", free),
        ("Buffers", 0),
        ("Cached", 0),
        ("SwapCached", 0),
        ("Active", used),
        ("Inactive", 0),
        ("SwapTotal", 0),
        ("SwapFree", 0),
        ("AnonPages", used),
        ("Mapped", 0),
        ("Shmem", 0),
        ("CommitLimit", total),
        ("Committed_AS", total.saturating_sub(free)),
    ];
    let mut text = String::new();
    for (name, kib) in lines {
        text += &format!("{:<16}{kib:>8} kB\n", format!("{name}:"));
    }
    text + "HugePages_Total:       0\nHugePages_Free:        0\nHugepagesize:       2048 kB\n"
}

fn stat<K: Kernel>(k: &K) -> String {
    let cpus = cpus(k);
    let up = uptime(k);
    let (user, system) = cpu_ticks(k);
    let count = cpus.len() as u64;
    let idle = (up / (1_000_000_000 / TICKS) * count).saturating_sub(user + system);
    let mut text = format!("cpu  {user} 0 {system} {idle} 0 0 0 0 0 0\n");
    for cpu in cpus {
        let [user, system, idle] = [user, system, idle].map(|ticks| ticks / count);
        text += &format!("cpu{cpu} {user} 0 {system} {idle} 0 0 0 0 0 0\n");
    }
    let mut clock = [0; 16];
    let _ = k.host(HostCall::ClockGettime {
        clock: 0,
        dst: &mut clock,
    });
    let now = i64::decode(&clock).unsigned_abs();
    let boot = now.saturating_sub(up / 1_000_000_000);
    text + &format!("intr 0\nctxt 0\nbtime {boot}\nprocesses 1\nprocs_running 1\nprocs_blocked 0\n")
}

fn uptime_text<K: Kernel>(k: &K) -> String {
    let up = uptime(k) as f64 / 1e9;
    let (user, system) = cpu_ticks(k);
    let busy = (user + system) as f64 / TICKS as f64;
    let idle = (up * cpus(k).len() as f64 - busy).max(0.0);
    format!("{up:.2} {idle:.2}\n")
}

const SYSCTL: &[(&str, &[&str])] = &[
    ("fs", &["file-max", "nr_open", "pipe-max-size"]),
    (
        "kernel",
        &[
            "cap_last_cap",
            "hostname",
            "ngroups_max",
            "osrelease",
            "ostype",
            "pid_max",
            "threads-max",
            "version",
        ],
    ),
    (
        "vm",
        &[
            "max_map_count",
            "mmap_min_addr",
            "overcommit_memory",
            "overcommit_ratio",
        ],
    ),
];

fn sysctl<K: Kernel>(k: &K, rest: &[&[u8]]) -> Result<Node, Errno> {
    let part = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match rest {
        [] => {
            let all: Vec<&str> = SYSCTL.iter().map(|(name, _)| *name).collect();
            Ok(Node::Dir(names(&all, DT_DIR)))
        }
        [dir] => {
            let dir = part(dir);
            let found = SYSCTL
                .iter()
                .find(|(name, _)| *name == dir)
                .ok_or(Errno::ENOENT)?;
            Ok(Node::Dir(names(found.1, DT_REG)))
        }
        [dir, file] => {
            let text = sysctl_value(k, &part(dir), &part(file)).ok_or(Errno::ENOENT)?;
            Ok(Node::Text((text + "\n").into_bytes()))
        }
        _ => Err(Errno::ENOENT),
    }
}

fn sysctl_value<K: Kernel>(k: &K, dir: &str, file: &str) -> Option<String> {
    let uts = || {
        let mut raw = [0; 390];
        let _ = k.host(HostCall::Uname { dst: &mut raw });
        Utsname::decode(&raw)
    };
    let text = |field: [u8; 65]| {
        let end = field.iter().position(|b| *b == 0).unwrap_or(field.len());
        String::from_utf8_lossy(&field[..end]).into_owned()
    };
    Some(match (dir, file) {
        ("fs", "file-max" | "nr_open") => k.fd_floor().to_string(),
        ("fs", "pipe-max-size") => "1048576".into(),
        ("kernel", "cap_last_cap") => "40".into(),
        ("kernel", "hostname") => text(uts().nodename),
        ("kernel", "osrelease") => text(uts().release),
        ("kernel", "ostype") => text(uts().sysname),
        ("kernel", "version") => text(uts().version),
        ("kernel", "ngroups_max") => "65536".into(),
        ("kernel", "pid_max") => "4194304".into(),
        ("kernel", "threads-max") => "65536".into(),
        ("vm", "max_map_count") => "65530".into(),
        ("vm", "mmap_min_addr") => proto::addr::USER_MIN.0.to_string(),
        // Heuristic, from a program's view: MAP_NORESERVE is honoured.
        ("vm", "overcommit_memory") => "0".into(),
        ("vm", "overcommit_ratio") => "50".into(),
        _ => return None,
    })
}

/// What is at `/sys/` followed by `rest`.
pub(super) fn sys<K: Kernel>(k: &K, rest: &[&[u8]]) -> Result<Node, Errno> {
    let dirs = |all: &[&str]| Ok(Node::Dir(names(all, DT_DIR)));
    match rest {
        [] => dirs(&["devices", "kernel"]),
        [b"devices"] => dirs(&["system"]),
        [b"devices", b"system"] => dirs(&["cpu"]),
        [b"devices", b"system", b"cpu", rest @ ..] => cpu_dir(k, rest),
        [b"kernel"] => dirs(&["mm"]),
        [b"kernel", b"mm"] => dirs(&["transparent_hugepage"]),
        [b"kernel", b"mm", b"transparent_hugepage"] => Ok(Node::Dir(names(&["enabled"], DT_REG))),
        [b"kernel", b"mm", b"transparent_hugepage", b"enabled"] => {
            Ok(Node::Text(b"always madvise [never]\n".to_vec()))
        }
        _ => Err(Errno::ENOENT),
    }
}

const CPU_SETS: &[&str] = &["online", "possible", "present"];
const TOPOLOGY: &[&str] = &[
    "core_id",
    "core_siblings",
    "core_siblings_list",
    "physical_package_id",
    "thread_siblings",
    "thread_siblings_list",
];

fn cpu_dir<K: Kernel>(k: &K, rest: &[&[u8]]) -> Result<Node, Errno> {
    let cpus = cpus(k);
    let text = |s: String| Ok(Node::Text((s + "\n").into_bytes()));
    let Some((name, rest)) = rest.split_first() else {
        let mut all = names(CPU_SETS, DT_REG);
        all.extend(
            cpus.iter()
                .map(|n| (format!("cpu{n}").into_bytes(), DT_DIR)),
        );
        return Ok(Node::Dir(all));
    };
    let name = String::from_utf8_lossy(name);
    if CPU_SETS.contains(&&*name) {
        return if rest.is_empty() {
            text(cpu_list(&cpus))
        } else {
            Err(Errno::ENOTDIR)
        };
    }
    let number: u32 = name
        .strip_prefix("cpu")
        .and_then(|n| n.parse().ok())
        .ok_or(Errno::ENOENT)?;
    if !cpus.contains(&number) {
        return Err(Errno::ENOENT);
    }
    match rest {
        [] => {
            let mut all = names(&["topology"], DT_DIR);
            all.extend(names(&["online"], DT_REG));
            Ok(Node::Dir(all))
        }
        [b"online"] => text("1".into()),
        [b"topology"] => Ok(Node::Dir(names(TOPOLOGY, DT_REG))),
        [b"topology", file] => text(topology(&cpus, number, file).ok_or(Errno::ENOENT)?),
        _ => Err(Errno::ENOENT),
    }
}

/// Every processor is a core of its own in one package.
fn topology(cpus: &[u32], number: u32, file: &[u8]) -> Option<String> {
    Some(match file {
        b"core_id" => number.to_string(),
        b"physical_package_id" => "0".into(),
        b"core_siblings" => cpu_mask(cpus),
        b"core_siblings_list" => cpu_list(cpus),
        b"thread_siblings" => cpu_mask(&[number]),
        b"thread_siblings_list" => cpu_list(&[number]),
        _ => return None,
    })
}
