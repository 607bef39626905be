//! Calls that can be answered at once: nothing is waited for, no signal can
//! interrupt them, and what they need is here. What is not quite so is left to
//! the call proper, which finds everything as it was.

use crate::args::Args;
use crate::consts::{SEEK_CUR, SEEK_SET, nr};
use crate::fds::{Object, OpenFile};
use crate::kernel::Kernel;
use crate::path::{Target, target};
use std::sync::Arc;

/// Most bytes that are read at once here.
const MOST: usize = 64 << 10;

/// The calls that this is worth trying for.
pub const FAST: [u64; 5] = [
    nr::__NR_lseek as u64,
    nr::__NR_pread64 as u64,
    nr::__NR_getpid as u64,
    nr::__NR_getppid as u64,
    nr::__NR_gettid as u64,
];

/// The value for rax, or `None`: make the call proper.
pub fn dispatch_fast<K: Kernel>(k: &K, number: u64, args: [u64; 6]) -> Option<i64> {
    let a = Args(args);
    match u32::try_from(number).ok()? {
        nr::__NR_lseek => lseek(k, a),
        nr::__NR_pread64 => pread64(k, a),
        _ => None,
    }
}

fn own<K: Kernel>(k: &K, fd: i32) -> Option<Arc<OpenFile<K::File>>> {
    match target(k, fd) {
        Ok(Target::Ours(file)) => Some(file),
        _ => None,
    }
}

fn lseek<K: Kernel>(k: &K, a: Args) -> Option<i64> {
    let file = own(k, a.int(0))?;
    if file.is_path_only() || !matches!(file.object, Object::Remote(_)) {
        return None;
    }
    let mut cursor = file.try_offset()?;
    let base = match a.uint(2) {
        SEEK_SET => 0,
        SEEK_CUR => *cursor,
        _ => return None,
    };
    let new = base.checked_add_signed(a.long(1))?;
    let value = i64::try_from(new).ok()?;
    *cursor = new;
    Some(value)
}

fn pread64<K: Kernel>(k: &K, a: Args) -> Option<i64> {
    let (to, len) = (a.addr(1), a.len(2));
    let offset = u64::try_from(a.long(3)).ok()?;
    if !(1..=MOST).contains(&len) {
        return None;
    }
    let file = own(k, a.int(0))?;
    file.check_readable().ok()?;
    let Object::Remote(remote) = &file.object else {
        return None;
    };
    k.read_now(remote, offset, to, len)
        .then(|| i64::try_from(len).ok())?
}
