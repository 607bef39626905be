//! The calls, one file a family. A handler gets the thread's context and the
//! registers, and answers what the manual page of the call says.

pub mod attrs;
pub mod copy;
pub mod dirs;
pub mod epoll;
pub mod fast;
pub mod fds;
pub mod ids;
pub mod info;
pub mod ioctl;
pub mod memory;
pub mod open;
pub mod poll;
pub mod read;
pub mod sched;
pub mod seek;
pub mod signals;
pub mod sockets;
pub mod special;
pub mod stat;
pub mod threads;
pub mod time;
pub mod write;
pub mod xattr;
