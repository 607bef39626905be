//! Descriptors of the personality's own live at high numbers, out of the way
//! of the program, whose `open` must get the lowest free one.

use rustix::fd::{AsFd, OwnedFd};
use rustix::io::{Errno, fcntl_dupfd_cloexec};

/// Moves `fd` to the lowest free number not below `floor`, close-on-exec.
///
/// # Errors
/// `EMFILE` where no number from `floor` on is free.
pub fn raise(fd: OwnedFd, floor: i32) -> Result<OwnedFd, Errno> {
    let high = fcntl_dupfd_cloexec(fd.as_fd(), floor)?;
    drop(fd);
    Ok(high)
}
