//! Child processes that must not outlive whoever started them.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Makes what `command` starts die (SIGKILL) with the *thread* that starts it
/// (`PR_SET_PDEATHSIG`, prctl(2)), and gives it a session of its own, out of
/// reach of the terminal's signals. Start it from a thread that lives as long
/// as the child shall.
pub fn tie(command: &mut Command) {
    let parent = rustix::process::getpid();
    let prepare = move || {
        rustix::process::setsid()?;
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
        // It may have died before the line above took effect.
        if rustix::process::getppid() == Some(parent) {
            Ok(())
        } else {
            Err(io::Error::from(io::ErrorKind::BrokenPipe))
        }
    };
    // SAFETY: between fork and exec the closure makes three system calls; it
    // neither allocates nor locks.
    unsafe { command.pre_exec(prepare) };
}
