//! `testbed up` and `testbed down`.

use super::ask::Ask;
use super::{PLAN, SUPERVISOR_LOG, Standing, process_of, state_directory};
use crate::cli::{Example, UpArgs};
use crate::component::wait_all;
use crate::config::{self, Description};
use crate::ending::Ending;
use crate::out::show;
use crate::places;
use anyhow::{Context, Result, bail};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// How long a supervisor may take to bring its testbed up; it has deadlines of
/// its own, which come first.
const UP_DEADLINE: Duration = Duration::from_secs(60);
/// As long where binaries go to other hosts before.
const UP_DEADLINE_HOSTS: Duration = Duration::from_secs(600);
/// As long for taking it down.
const DOWN_DEADLINE: Duration = Duration::from_secs(60);

/// `testbed up`.
pub(crate) fn up(args: &UpArgs) -> Result<Ending> {
    if let Some(example) = args.example {
        show(match example {
            Example::One => config::EXAMPLE,
            Example::Hosts => config::EXAMPLE_HOSTS,
        })?;
        return Ok(Ending::Exit(0));
    }
    let file = args
        .file
        .as_deref()
        .context("give the file that describes the testbed")?;
    let description = config::read(file, args.name.as_deref())?;
    // Other hosts are asked when they are reached.
    if description.plan.processors.iter().any(|p| p.host.is_none()) {
        crate::doctor::refuse_unless_able()?;
    }
    bring_up(&description)?;
    Ok(Ending::Exit(0))
}

/// Brings a testbed up, and says so.
pub(crate) fn bring_up(description: &Description) -> Result<()> {
    let lock = lock_all()?;
    let state = prepare(description)?;
    let deadline = match description.plan.hosts.is_empty() {
        true => UP_DEADLINE,
        false => UP_DEADLINE_HOSTS,
    };
    let said = start_supervisor(&description.name, &state, deadline)?;
    drop(lock);
    if said.trim() != "up" {
        let said = if said.is_empty() {
            end_of_log(&state)
        } else {
            said
        };
        let _ = std::fs::remove_dir_all(&state);
        bail!(
            "testbed {:?} did not come up: {}",
            description.name,
            said.trim()
        );
    }
    show(&summary(description))?;
    Ok(())
}

fn summary(description: &Description) -> String {
    let (name, plan) = (&description.name, &description.plan);
    format!(
        "testbed {name:?} is up: {} memory, {} storage, {} processor components\n\
         run a program on it: testbed run --on {name} -- PROGRAM [ARGS]\n\
         take it down:        testbed down {name}\n",
        plan.memory.len(),
        plan.storage.len(),
        plan.processors.len()
    )
}

/// Only one at a time may make or clear a state directory.
fn lock_all() -> Result<File> {
    let home = places::state_home()?;
    std::fs::create_dir_all(&home)
        .with_context(|| format!("cannot make the state directory {}", home.display()))?;
    let path = home.join(".lock");
    let file = File::create(&path).with_context(|| path.display().to_string())?;
    flock(&file, FlockOperation::LockExclusive).with_context(|| path.display().to_string())?;
    Ok(file)
}

/// Makes the state directory, with the description in it.
fn prepare(description: &Description) -> Result<std::path::PathBuf> {
    let name = &description.name;
    let state = state_directory(name)?;
    if Standing::find(name).is_ok() {
        bail!("a testbed {name:?} is up already: `testbed down {name}` first, or give --name");
    }
    clear(name, &state)?;
    places::make_private(&state)?;
    let text = serde_json::to_string_pretty(description)?;
    std::fs::write(state.join(PLAN), text).with_context(|| state.display().to_string())?;
    Ok(state)
}

/// Removes what a supervisor left that was killed.
fn clear(name: &str, state: &Path) -> Result<()> {
    if let Ok(dead) = Standing::read(name) {
        // Its janitor did that, unless it was killed as well.
        let _ = std::fs::remove_dir_all(dead.directory);
    }
    match std::fs::remove_dir_all(state) {
        Err(why) if why.kind() != std::io::ErrorKind::NotFound => {
            Err(why).with_context(|| format!("cannot remove {}", state.display()))
        }
        _ => Ok(()),
    }
}

/// Starts the supervisor; returns what it says when it is up, or why not. Its
/// standard input is the pipe on which it says so.
fn start_supervisor(name: &str, state: &Path, deadline: Duration) -> Result<String> {
    let (reader, writer) = std::io::pipe().context("a pipe")?;
    let log = File::options()
        .create(true)
        .append(true)
        .open(state.join(SUPERVISOR_LOG));
    let log = log.with_context(|| state.display().to_string())?;
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("testbed")
        .arg("supervise")
        .arg(name)
        .current_dir("/");
    command
        .stdin(OwnedFd::from(writer))
        .stdout(Stdio::null())
        .stderr(log);
    command.spawn().context("cannot start the supervisor")?;
    // Ours of the pipe's write end goes, so that its end is seen.
    drop(command);
    if !wait_all(&[reader.as_fd()], deadline) {
        bail!("testbed {name:?} did not come up within {deadline:?}");
    }
    let mut line = Vec::new();
    let _ = BufReader::new(reader).read_until(b'\n', &mut line);
    Ok(String::from_utf8_lossy(&line).into_owned())
}

fn end_of_log(state: &Path) -> String {
    std::fs::read_to_string(state.join(SUPERVISOR_LOG))
        .ok()
        .and_then(|log| Some(log.lines().last()?.to_owned()))
        .unwrap_or_else(|| "its supervisor ended without a word".to_owned())
}

/// `testbed down`.
pub(crate) fn down(name: &str) -> Result<Ending> {
    let standing = Standing::read(name)?;
    let state = state_directory(name)?;
    let Ok(mut supervisor) = standing.supervisor() else {
        let _lock = lock_all()?;
        // It may have been brought up again meanwhile.
        if standing.supervisor().is_err() {
            clear(name, &state)?;
        }
        return Ok(Ending::Exit(0));
    };
    let process = process_of(&supervisor)?;
    let question = format!("{}\n", serde_json::json!(Ask::Down));
    supervisor
        .write_all(question.as_bytes())
        .context("the supervisor does not listen")?;
    if wait_all(&[process.as_fd()], DOWN_DEADLINE) {
        return Ok(Ending::Exit(0));
    }
    bail!(
        "testbed {name:?} did not end within {DOWN_DEADLINE:?}; see {}",
        state.join(SUPERVISOR_LOG).display()
    )
}
