//! The address space: arguments are checked here, the rest is the memory
//! component's.

use crate::args::Args;
use crate::consts::*;
use crate::fds::Object;
use crate::kernel::{Kernel, MmapRequest};
use crate::outcome::Answer;
use crate::path::{Place, Target, target};
use crate::pseudo::Device;
use crate::user::{UserExt, prot};
use proto::Errno;
use proto::addr::{PAGE_SIZE, USER_MAX, USER_MIN, UserAddr, UserRange};
use proto::mem::{Backing, MapFlags, Prot};

use super::open::is_directory;

/// mmap(2).
pub fn mmap<K: Kernel>(k: &K, a: Args) -> Answer {
    let (len, raw_flags) = (a.raw(1), a.raw(3));
    if len == 0 || !a.raw(5).is_multiple_of(PAGE_SIZE) {
        return Err(Errno::EINVAL.into());
    }
    if len > USER_MAX.0 {
        return Err(Errno::ENOMEM.into());
    }
    // mmap(2) ignores protection bits that it does not know.
    let prot = Prot((a.raw(2) & 7) as u8);
    let flags = map_flags(raw_flags)?;
    let addr = map_address(a.addr(0), len, flags)?;
    let backing = if raw_flags & MAP_ANONYMOUS != 0 {
        Backing::Anonymous
    } else {
        file_backing(k, a, prot, flags)?
    };
    let populate = raw_flags & (MAP_POPULATE | MAP_LOCKED) != 0;
    let request = MmapRequest {
        addr,
        len,
        prot,
        flags,
        backing,
        populate,
    };
    Ok(k.map(&request)?.0)
}

fn map_flags(raw: u64) -> Result<MapFlags, Errno> {
    const WORDS: [(u64, MapFlags); 5] = [
        (MAP_FIXED, MapFlags::FIXED),
        (MAP_NORESERVE, MapFlags::NORESERVE),
        (MAP_GROWSDOWN, MapFlags::STACK),
        (MAP_32BIT, MapFlags::LOW),
        (MAP_FIXED_NOREPLACE, MapFlags::NOREPLACE),
    ];
    let mut flags = match raw & MAP_TYPE {
        MAP_PRIVATE => MapFlags::default(),
        MAP_SHARED => MapFlags::SHARED,
        MAP_SHARED_VALIDATE if raw & MAP_SYNC != 0 => return Err(Errno::EOPNOTSUPP),
        MAP_SHARED_VALIDATE => MapFlags::SHARED,
        _ => return Err(Errno::EINVAL),
    };
    if raw & MAP_HUGETLB != 0 {
        // As on a machine whose pool of huge pages is empty.
        return Err(Errno::ENOMEM);
    }
    for (bit, flag) in WORDS {
        if raw & bit != 0 {
            flags = flags.with(flag);
        }
    }
    Ok(flags)
}

/// An exact address must be one that a program may have; a hint need not.
fn map_address(addr: UserAddr, len: u64, flags: MapFlags) -> Result<UserAddr, Errno> {
    if flags.has(MapFlags::FIXED) || flags.has(MapFlags::NOREPLACE) {
        if !addr.is_aligned(PAGE_SIZE) {
            return Err(Errno::EINVAL);
        }
        if addr < USER_MIN {
            return Err(Errno::EPERM);
        }
        return UserRange::new(addr, len).map(|_| addr).ok_or(Errno::ENOMEM);
    }
    let hint = addr.align_down(PAGE_SIZE);
    Ok(if UserRange::new(hint, len).is_some() {
        hint
    } else {
        UserAddr(0)
    })
}

fn file_backing<K: Kernel>(k: &K, a: Args, prot: Prot, flags: MapFlags) -> Result<Backing, Errno> {
    let file = match target(k, a.int(4))? {
        Target::Ours(file) => file,
        Target::Host(fd) => {
            super::stat::facts(k, Place::Host(fd), true)?;
            return Err(Errno::ENODEV);
        }
    };
    if file.is_path_only() {
        return Err(Errno::EBADF);
    }
    file.check_readable().map_err(|_| Errno::EACCES)?;
    let shared = flags.has(MapFlags::SHARED);
    if shared && prot.has(Prot::WRITE) {
        file.check_writable().map_err(|_| Errno::EACCES)?;
    }
    match &file.object {
        Object::Device(Device::Zero) => Ok(Backing::Anonymous),
        Object::Remote(remote) if !is_directory(k, &file) => {
            let writes = shared && file.check_writable().is_ok();
            Ok(Backing::File {
                file: k.file_ref(remote, writes)?,
                offset: a.raw(5),
            })
        }
        _ => Err(Errno::ENODEV),
    }
}

/// The range of an address and a length that need not be whole pages.
/// `None`: empty.
fn range(addr: UserAddr, len: u64, outside: Errno) -> Result<Option<UserRange>, Errno> {
    if !addr.is_aligned(PAGE_SIZE) {
        return Err(Errno::EINVAL);
    }
    if len == 0 {
        return Ok(None);
    }
    UserRange::new(addr, len).map(Some).ok_or(outside)
}

/// munmap(2).
pub fn munmap<K: Kernel>(k: &K, a: Args) -> Answer {
    let (addr, len) = (a.addr(0), a.raw(1));
    let end = addr.checked_add(len).filter(|end| *end <= USER_MAX);
    if !addr.is_aligned(PAGE_SIZE) || len == 0 || end.is_none() {
        return Err(Errno::EINVAL.into());
    }
    let end = end.and_then(|e| e.align_up(PAGE_SIZE)).unwrap_or(USER_MAX);
    // Nothing is mapped below the window: unmapping it is no error.
    if let Some(range) = UserRange::between(addr.max(USER_MIN), end) {
        k.unmap(range)?;
    }
    Ok(0)
}

/// mprotect(2).
pub fn mprotect<K: Kernel>(k: &K, a: Args) -> Answer {
    let Some(range) = range(a.addr(0), a.raw(1), Errno::ENOMEM)? else {
        return Ok(0);
    };
    k.protect(range, prot(a.raw(2))?)?;
    Ok(0)
}

/// pkey_mprotect(2): only without a key.
pub fn pkey_mprotect<K: Kernel>(k: &K, a: Args) -> Answer {
    if a.int(3) == -1 {
        mprotect(k, a)
    } else {
        Err(Errno::EINVAL.into())
    }
}

/// pkey_alloc(2): there are no keys.
pub fn pkey_alloc<K: Kernel>(_: &K, a: Args) -> Answer {
    Err(if a.raw(0) != 0 || a.raw(1) > 3 {
        Errno::EINVAL
    } else {
        Errno::ENOSPC
    }
    .into())
}

/// pkey_free(2): there are no keys.
pub fn pkey_free<K: Kernel>(_: &K, _: Args) -> Answer {
    Err(Errno::EINVAL.into())
}

/// mremap(2).
pub fn mremap<K: Kernel>(k: &K, a: Args) -> Answer {
    let (addr, old_len, new_len, flags) = (a.addr(0), a.raw(1), a.raw(2), a.raw(3));
    let (fixed, may_move) = (flags & MREMAP_FIXED != 0, flags & MREMAP_MAYMOVE != 0);
    if flags & !(MREMAP_MAYMOVE | MREMAP_FIXED) != 0
        || (fixed && !may_move)
        || !addr.is_aligned(PAGE_SIZE)
        || old_len == 0
        || new_len == 0
    {
        return Err(Errno::EINVAL.into());
    }
    if new_len > USER_MAX.0 {
        return Err(if fixed { Errno::EINVAL } else { Errno::ENOMEM }.into());
    }
    let old = UserRange::new(addr, old_len).ok_or(Errno::EFAULT)?;
    let to = if fixed {
        Some(new_place(a.addr(4), new_len, old)?)
    } else {
        None
    };
    Ok(k.remap(old, new_len, may_move, to)?.0)
}

fn new_place(addr: UserAddr, len: u64, old: UserRange) -> Result<UserAddr, Errno> {
    match UserRange::new(addr, len) {
        Some(new) if !new.overlaps(old) => Ok(addr),
        _ if addr.is_aligned(PAGE_SIZE) && addr < USER_MIN => Err(Errno::EPERM),
        _ => Err(Errno::EINVAL),
    }
}

/// brk(2): the break after it, moved or not.
pub fn brk<K: Kernel>(k: &K, a: Args) -> Answer {
    Ok(k.brk(a.addr(0)).0)
}

/// madvise(2).
pub fn madvise<K: Kernel>(k: &K, a: Args) -> Answer {
    const WILLNEED: u32 = 3;
    const DONTNEED: u32 = 4;
    const FREE: u32 = 8;
    const REMOVE: u32 = 9;
    const POPULATE_READ: u32 = 22;
    const POPULATE_WRITE: u32 = 23;
    const HWPOISON: u32 = 100;
    let advice = a.uint(2);
    match advice {
        // Access patterns, fork, merging, huge pages, dumps, ageing.
        0..=4 | 8 | 10..=17 | 20..=25 => {}
        REMOVE => return Err(Errno::EOPNOTSUPP.into()),
        HWPOISON | 101 => return Err(Errno::EPERM.into()),
        _ => return Err(Errno::EINVAL.into()),
    }
    let outside = Errno::ENOMEM;
    let Some(range) = range(a.addr(0), a.raw(1), outside)? else {
        return Ok(0);
    };
    match advice {
        DONTNEED | FREE => k.discard(range)?,
        _ if !k.is_mapped(range) => return Err(Errno::ENOMEM.into()),
        WILLNEED | POPULATE_READ | POPULATE_WRITE => k.will_need(range),
        _ => {}
    }
    Ok(0)
}

/// msync(2).
pub fn msync<K: Kernel>(k: &K, a: Args) -> Answer {
    let flags = a.raw(2);
    let both = MS_ASYNC | MS_SYNC;
    if flags & !(both | MS_INVALIDATE) != 0 || flags & both == both {
        return Err(Errno::EINVAL.into());
    }
    let Some(range) = range(a.addr(0), a.raw(1), Errno::ENOMEM)? else {
        return Ok(0);
    };
    k.sync_range(range, flags & MS_SYNC != 0)?;
    Ok(0)
}

/// mincore(2).
pub fn mincore<K: Kernel>(k: &K, a: Args) -> Answer {
    /// Pages looked at in one step.
    const STEP: u64 = 64 << 10;
    let Some(whole) = range(a.addr(0), a.raw(1), Errno::ENOMEM)? else {
        return Ok(0);
    };
    let mut start = whole.start();
    while start < whole.end() {
        let len = (whole.end().0 - start.0).min(STEP * PAGE_SIZE);
        let part = UserRange::new(start, len).ok_or(Errno::ENOMEM)?;
        let pages: Vec<u8> = k.residency(part)?.into_iter().map(u8::from).collect();
        let done = (start.0 - whole.start().0) / PAGE_SIZE;
        k.write(a.addr(2).checked_add(done).ok_or(Errno::EFAULT)?, &pages)?;
        start = part.end();
    }
    Ok(0)
}

/// The pages that mlock(2) means: any that the bytes touch.
fn touched(addr: UserAddr, len: u64) -> Result<Option<UserRange>, Errno> {
    let end = addr.checked_add(len).ok_or(Errno::EINVAL)?;
    if len == 0 {
        return Ok(None);
    }
    let start = addr.align_down(PAGE_SIZE);
    UserRange::new(start, end.0 - start.0)
        .map(Some)
        .ok_or(Errno::ENOMEM)
}

/// mlock(2) and munlock(2): the pages must be there.
pub fn mlock<K: Kernel>(k: &K, a: Args) -> Answer {
    match touched(a.addr(0), a.raw(1))? {
        Some(range) if !k.is_mapped(range) => Err(Errno::ENOMEM.into()),
        _ => Ok(0),
    }
}

/// munlock(2).
pub fn munlock<K: Kernel>(k: &K, a: Args) -> Answer {
    mlock(k, a)
}

/// mlock2(2).
pub fn mlock2<K: Kernel>(k: &K, a: Args) -> Answer {
    const MLOCK_ONFAULT: u32 = 1;
    if a.uint(2) & !MLOCK_ONFAULT != 0 {
        Err(Errno::EINVAL.into())
    } else {
        mlock(k, a)
    }
}

/// mlockall(2).
pub fn mlockall<K: Kernel>(_: &K, a: Args) -> Answer {
    const KNOWN: u32 = 7;
    const ONFAULT: u32 = 4;
    let flags = a.uint(0);
    let wrong = flags == 0 || flags & !KNOWN != 0 || flags == ONFAULT;
    if wrong {
        Err(Errno::EINVAL.into())
    } else {
        Ok(0)
    }
}

/// munlockall(2).
pub fn munlockall<K: Kernel>(_: &K, _: Args) -> Answer {
    Ok(0)
}
