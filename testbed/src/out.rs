//! Output that may find nobody there: a reader that left is no reason to
//! panic, as `print!` and `eprint!` do.

use std::io::{self, Write};

/// Writes to standard output, all of it now.
pub(crate) fn show(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Writes a line of ours to standard error, if somebody is there.
pub(crate) fn warn(text: &str) {
    show_error(&format!("testbed: {text}\n"));
}

/// Writes to standard error, if somebody is there.
pub(crate) fn show_error(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}
