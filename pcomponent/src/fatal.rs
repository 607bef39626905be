//! When the system, not the program, fails: a component is gone, the host
//! refuses what it must give. The process can't go on, because its memory is
//! not here. It ends at once with a message that names the cause; the manager
//! passes it on to whoever started the program.

use fabric::FabricError;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::OnceLock;

/// Exit status of a process that the system ended.
pub(crate) const STATUS: i32 = 125;

static REPORT: OnceLock<OwnedFd> = OnceLock::new();

/// Where messages go: the manager's end of the process's report pipe.
pub(crate) fn report_to(fd: OwnedFd) {
    let _ = REPORT.set(fd);
}

/// Ends the process with a message.
pub(crate) fn end(message: &str) -> ! {
    match REPORT.get().and_then(|fd| fd.try_clone().ok()) {
        Some(fd) => {
            let line = format!("fatal {}\n", message.replace('\n', " "));
            let _ = std::fs::File::from(fd).write_all(line.as_bytes());
        }
        None => {
            let _ = writeln!(std::io::stderr(), "splitkernel: {message}");
        }
    }
    exit_now(STATUS)
}

/// A component did not answer.
pub(crate) fn component_lost(name: &str, error: &FabricError) -> ! {
    end(&format!("component {name} is lost: {error}"))
}

/// A component answered something that is no answer to the question.
pub(crate) fn confused(name: &str, answer: &str) -> ! {
    let short: String = answer.chars().take(80).collect();
    end(&format!(
        "component {name} gave an answer that does not fit: {short}"
    ))
}

/// The host refused what it must give.
pub(crate) fn host(what: &str, error: host::sys::Errno) -> ! {
    end(&format!(
        "{what} failed on this host: {error} (see `testbed doctor`)"
    ))
}

/// Ends all threads of the process at once, running nothing more.
pub(crate) fn exit_now(status: i32) -> ! {
    loop {
        // SAFETY: exit_group(2) takes a number and does not return.
        let _ = unsafe {
            host::sys::plain(
                linux_raw_sys::general::__NR_exit_group,
                [status as usize, 0, 0, 0, 0, 0],
            )
        };
    }
}
