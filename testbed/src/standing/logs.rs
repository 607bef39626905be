//! `testbed logs`: what the components say, wherever they run.

use super::ask::{Ask, ask};
use super::{SUPERVISOR_LOG, Standing, state_directory};
use crate::ending::Ending;
use crate::out::warn;
use anyhow::{Context, Result, bail};
use std::io::Write;

/// What the supervisor is called here.
const SUPERVISOR: &str = "supervisor";

/// `testbed logs`.
pub(crate) fn logs(name: &str, component: Option<&str>) -> Result<Ending> {
    let standing = Standing::read(name)?;
    if let Some(component) = component {
        copy(&standing, component)?;
        return Ok(Ending::Exit(0));
    }
    for component in
        std::iter::once(SUPERVISOR).chain(standing.components.iter().map(String::as_str))
    {
        crate::out::show(&format!("==> {component} <==\n"))?;
        if let Err(why) = copy(&standing, component) {
            warn(&format!("{why:#}"));
        }
    }
    Ok(Ending::Exit(0))
}

/// Copies one log to standard output.
fn copy(standing: &Standing, component: &str) -> Result<()> {
    let known = component == SUPERVISOR || standing.components.iter().any(|c| c == component);
    if !known {
        bail!(
            "no component {component:?}: give one of {SUPERVISOR}, {}",
            standing.components.join(", ")
        );
    }
    if standing.hosts.contains_key(component) {
        return copy_from_host(standing, component);
    }
    let file = match component {
        SUPERVISOR => SUPERVISOR_LOG.to_owned(),
        name => format!("{name}.log"),
    };
    let path = state_directory(&standing.name)?.join(file);
    let bytes = std::fs::read(&path).with_context(|| path.display().to_string())?;
    write(&bytes)
}

fn copy_from_host(standing: &Standing, component: &str) -> Result<()> {
    let mut from = 0;
    loop {
        let component = component.to_owned();
        let answer = ask(&mut standing.supervisor()?, &Ask::Log { component, from })?;
        let bytes: Vec<u8> = serde_json::from_value(answer)?;
        if bytes.is_empty() {
            return Ok(());
        }
        from += bytes.len() as u64;
        write(&bytes)?;
    }
}

fn write(bytes: &[u8]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes)?;
    Ok(out.flush()?)
}
