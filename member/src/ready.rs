//! Telling whoever started a component that it is ready.

use proto::NodeId;
use serde::Serialize;
use std::io::Write;

/// The descriptor given by `--ready-fd` could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to descriptor {fd} (--ready-fd; give a pipe or a file open for writing)")]
pub struct ReadyError {
    fd: i32,
    #[source]
    source: std::io::Error,
}

#[derive(Serialize)]
struct Ready<'a> {
    node: u64,
    addrs: &'a [String],
}

/// Writes one line, `{"node":3,"addrs":["shm:/run/x/m0.sock"]}`, to the
/// inherited descriptor `fd`.
///
/// It is opened anew by way of `/proc/self/fd`, so that a wrong number can't
/// close a descriptor of somebody else's in this process.
///
/// # Errors
/// [`ReadyError`] where `fd` is not open for writing, or is a socket.
pub fn report_ready(fd: i32, node: NodeId, addrs: &[String]) -> Result<(), ReadyError> {
    let error = |source| ReadyError { fd, source };
    let mut line = serde_json::to_string(&Ready {
        node: node.0,
        addrs,
    })
    .map_err(|e| error(std::io::Error::other(e)))?;
    line.push('\n');
    let mut out = std::fs::OpenOptions::new()
        .append(true)
        .open(format!("/proc/self/fd/{fd}"))
        .map_err(error)?;
    out.write_all(line.as_bytes()).map_err(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::fd::AsRawFd;

    #[test]
    fn writes_one_line_of_json() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let addrs = ["shm:/run/a\"b.sock".to_owned()];
        report_ready(writer.as_raw_fd(), NodeId(3), &addrs).unwrap();
        drop(writer);
        let mut line = String::new();
        reader.read_to_string(&mut line).unwrap();
        assert_eq!(line, "{\"node\":3,\"addrs\":[\"shm:/run/a\\\"b.sock\"]}\n");
    }

    #[test]
    fn a_descriptor_that_is_not_open_is_named() {
        let error = report_ready(999_983, NodeId(1), &[]).unwrap_err();
        assert!(error.to_string().contains("descriptor 999983"), "{error}");
    }
}
