//! Output that may find nobody there: a reader that left is no reason to
//! panic, as `print!` and `eprint!` do.

use std::io::{self, Write};

/// Writes to standard output, all of it now.
pub(crate) fn show(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Says a line on the pipe that stands for our standard input: to whoever
/// started us in the background, and waits for it.
pub(crate) fn tell_starter(line: &str) -> io::Result<()> {
    let line = format!("{line}\n");
    let mut rest = line.as_bytes();
    while !rest.is_empty() {
        let written = rustix::io::write(rustix::stdio::stdin(), rest)?;
        rest = &rest[written..];
    }
    Ok(())
}

/// Writes a line of ours to standard error, if somebody is there.
pub(crate) fn warn(text: &str) {
    show_error(&format!("testbed: {text}\n"));
}

/// Writes to standard error, if somebody is there.
pub(crate) fn show_error(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}
