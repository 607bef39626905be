//! `testbed exec`: a command of a host itself, such as a tool that looks at its
//! network, over the connection that is there anyway.

use super::Standing;
use super::ask::{Ask, ask};
use crate::agent::Output;
use crate::ending::Ending;
use anyhow::Result;
use std::ffi::OsString;
use std::io::Write;
use std::os::unix::ffi::OsStringExt;

/// Runs it without input, shows its output, and ends as it does.
pub(crate) fn exec(name: &str, host: &str, command: &[OsString]) -> Result<Ending> {
    let standing = Standing::find(name)?;
    let argv = command.iter().map(|word| word.clone().into_vec()).collect();
    let host = host.to_owned();
    let answer = ask(&mut standing.supervisor()?, &Ask::Exec { host, argv })?;
    let Output {
        end,
        stdout,
        stderr,
    } = serde_json::from_value(answer)?;
    std::io::stderr().lock().write_all(&stderr)?;
    let mut out = std::io::stdout().lock();
    out.write_all(&stdout)?;
    out.flush()?;
    Ok(end.into())
}
