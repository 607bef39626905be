//! Programs' threads: how they enter the program, what happens when they trap,
//! how they end.

mod clone;
mod deliver;
mod frame;
mod rewrite;
mod robust;
mod thread;
mod trap;

pub(crate) use deliver::UserAction;
pub(crate) use rewrite::Sites;
pub(crate) use thread::{Process, Task, run_main};
