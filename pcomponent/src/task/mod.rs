//! Programs' threads: how they enter the program, what happens when they trap,
//! how they end.

mod clone;
mod deliver;
mod frame;
mod robust;
mod thread;
mod trap;

pub use deliver::{Signals, UserAction};
pub use thread::{Process, Task, current, run_main};
