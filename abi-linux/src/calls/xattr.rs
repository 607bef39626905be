//! Extended attributes: `ENOTSUP`, as on a file system without them.

use crate::args::Args;
use crate::consts::AT_FDCWD;
use crate::kernel::Kernel;
use crate::outcome::Answer;
use crate::path::{Place, Target, resolve, target};
use proto::Errno;

use super::stat::facts;

/// The calls that name the file by its path.
pub fn path<K: Kernel>(k: &K, a: Args) -> Answer {
    let place = resolve(k, AT_FDCWD, a.addr(0), 0)?;
    facts(k, place, false)?;
    Err(Errno::EOPNOTSUPP.into())
}

/// The calls that name the file by a descriptor.
pub fn fd<K: Kernel>(k: &K, a: Args) -> Answer {
    if let Target::Host(fd) = target(k, a.int(0))? {
        facts(k, Place::Host(fd), false)?;
    }
    Err(Errno::EOPNOTSUPP.into())
}
