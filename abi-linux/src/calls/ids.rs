//! Users, groups, sessions and capabilities: those of the host process. A
//! process may only become what it is.

use crate::args::Args;
use crate::hostcall::{HostCall, Simple};
use crate::kernel::Kernel;
use crate::outcome::Answer;
use crate::user::UserExt;
use proto::Errno;

fn simple<K: Kernel>(k: &K, call: Simple) -> Result<u64, Errno> {
    k.host(HostCall::Simple(call))
}

/// getuid(2).
pub fn getuid<K: Kernel>(k: &K, _: Args) -> Answer {
    Ok(simple(k, Simple::Getuid)?)
}

/// geteuid(2).
pub fn geteuid<K: Kernel>(k: &K, _: Args) -> Answer {
    Ok(simple(k, Simple::Geteuid)?)
}

/// getgid(2).
pub fn getgid<K: Kernel>(k: &K, _: Args) -> Answer {
    Ok(simple(k, Simple::Getgid)?)
}

/// getegid(2).
pub fn getegid<K: Kernel>(k: &K, _: Args) -> Answer {
    Ok(simple(k, Simple::Getegid)?)
}

/// Real and effective id.
type Ids = [u64; 2];

fn users<K: Kernel>(k: &K) -> Result<Ids, Errno> {
    Ok([simple(k, Simple::Getuid)?, simple(k, Simple::Geteuid)?])
}

fn groups<K: Kernel>(k: &K) -> Result<Ids, Errno> {
    Ok([simple(k, Simple::Getgid)?, simple(k, Simple::Getegid)?])
}

/// `EPERM` unless each wanted id is one of `ids` or "leave it" (-1).
fn permit(ids: Ids, wanted: &[u32]) -> Answer {
    let same = |id: &u32| *id == u32::MAX || ids.contains(&u64::from(*id));
    if wanted.iter().all(same) {
        Ok(0)
    } else {
        Err(Errno::EPERM.into())
    }
}

fn permit_one(ids: Ids, wanted: u32) -> Answer {
    if wanted == u32::MAX {
        Err(Errno::EINVAL.into())
    } else {
        permit(ids, &[wanted])
    }
}

/// setuid(2).
pub fn setuid<K: Kernel>(k: &K, a: Args) -> Answer {
    permit_one(users(k)?, a.uint(0))
}

/// setgid(2).
pub fn setgid<K: Kernel>(k: &K, a: Args) -> Answer {
    permit_one(groups(k)?, a.uint(0))
}

/// setreuid(2).
pub fn setreuid<K: Kernel>(k: &K, a: Args) -> Answer {
    permit(users(k)?, &[a.uint(0), a.uint(1)])
}

/// setregid(2).
pub fn setregid<K: Kernel>(k: &K, a: Args) -> Answer {
    permit(groups(k)?, &[a.uint(0), a.uint(1)])
}

/// setresuid(2).
pub fn setresuid<K: Kernel>(k: &K, a: Args) -> Answer {
    permit(users(k)?, &[a.uint(0), a.uint(1), a.uint(2)])
}

/// setresgid(2).
pub fn setresgid<K: Kernel>(k: &K, a: Args) -> Answer {
    permit(groups(k)?, &[a.uint(0), a.uint(1), a.uint(2)])
}

/// setfsuid(2): the id before, whatever was asked for.
pub fn setfsuid<K: Kernel>(k: &K, _: Args) -> Answer {
    Ok(simple(k, Simple::Geteuid)?)
}

/// setfsgid(2).
pub fn setfsgid<K: Kernel>(k: &K, _: Args) -> Answer {
    Ok(simple(k, Simple::Getegid)?)
}

/// getresuid(2); the saved id is the effective one.
pub fn getresuid<K: Kernel>(k: &K, a: Args) -> Answer {
    put_three(k, a, users(k)?)
}

/// getresgid(2).
pub fn getresgid<K: Kernel>(k: &K, a: Args) -> Answer {
    put_three(k, a, groups(k)?)
}

fn put_three<K: Kernel>(k: &K, a: Args, [real, effective]: Ids) -> Answer {
    for (n, id) in [real, effective, effective].into_iter().enumerate() {
        k.put(a.addr(n), &u32::try_from(id).unwrap_or(u32::MAX))?;
    }
    Ok(0)
}

/// getgroups(2).
pub fn getgroups<K: Kernel>(k: &K, a: Args) -> Answer {
    const NGROUPS_MAX: usize = 65536;
    let room = usize::try_from(a.int(0))
        .map_err(|_| Errno::EINVAL)?
        .min(NGROUPS_MAX);
    let mut list = vec![0; room];
    let count = k.host(HostCall::Getgroups { dst: &mut list })?;
    let used = usize::try_from(count).unwrap_or(0).min(room);
    let bytes: Vec<u8> = list[..used]
        .iter()
        .flat_map(|id| id.to_le_bytes())
        .collect();
    k.write(a.addr(1), &bytes)?;
    Ok(count)
}

/// The process itself, or `ESRCH`.
fn own<K: Kernel>(k: &K, pid: i32) -> Result<(), Errno> {
    if pid == 0 || pid == k.pid() {
        Ok(())
    } else {
        Err(Errno::ESRCH)
    }
}

/// getpgid(2).
pub fn getpgid<K: Kernel>(k: &K, a: Args) -> Answer {
    own(k, a.int(0))?;
    Ok(simple(k, Simple::Getpgid(0))?)
}

/// getpgrp(2).
pub fn getpgrp<K: Kernel>(k: &K, _: Args) -> Answer {
    Ok(simple(k, Simple::Getpgid(0))?)
}

/// setpgid(2).
pub fn setpgid<K: Kernel>(k: &K, a: Args) -> Answer {
    own(k, a.int(0))?;
    if a.int(1) < 0 {
        return Err(Errno::EINVAL.into());
    }
    Ok(simple(k, Simple::Setpgid(0, a.int(1)))?)
}

/// getsid(2).
pub fn getsid<K: Kernel>(k: &K, a: Args) -> Answer {
    own(k, a.int(0))?;
    Ok(simple(k, Simple::Getsid(0))?)
}

/// setsid(2).
pub fn setsid<K: Kernel>(k: &K, _: Args) -> Answer {
    Ok(simple(k, Simple::Setsid)?)
}

/// capget(2) of the process itself.
pub fn capget<K: Kernel>(k: &K, a: Args) -> Answer {
    const VERSION_1: u32 = 0x1998_0330;
    let mut header: [u8; 8] = k.get(a.addr(0))?;
    let [_, _, _, _, pid @ ..] = header;
    own(k, i32::from_le_bytes(pid)).map_err(|_| Errno::EPERM)?;
    header[4..].fill(0);
    let first = header.first_chunk().map(|b| u32::from_le_bytes(*b)) == Some(VERSION_1);
    let mut data = [0; 24];
    let result = k.host(HostCall::Capget {
        header: &mut header,
        data: &mut data,
    });
    // A wrong version is answered with the right one.
    k.write(a.addr(0), &header[..4])?;
    match (result, a.opt_addr(1)) {
        (Err(_), None) => Ok(0),
        (Err(e), Some(_)) => Err(e.into()),
        (Ok(_), None) => Ok(0),
        (Ok(_), Some(at)) => {
            k.write(at, &data[..if first { 12 } else { 24 }])?;
            Ok(0)
        }
    }
}
