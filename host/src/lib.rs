//! Safe (or narrowly unsafe) wrappers for the Linux facilities that
//! Splitkernel stands on: userfaultfd, memory mapping, syscall user dispatch,
//! signal frames, segment bases, the time-stamp counter. No policy lives here.

pub mod child;
pub mod clock;
pub mod descriptor;
pub mod mapping;
pub mod probe;
pub mod signal;
pub mod sys;
pub mod trap;
pub mod uffd;
