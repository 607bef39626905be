//! What a new host process is told before it becomes a program.

use fabric::{BackendChoice, Emulation, Options};
use proto::gmm::NodeInfo;
use proto::process::Spawn;
use proto::{ProcessId, Secret};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The boot message: a memfd, descriptor 3.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Boot {
    /// Who the process is.
    pub process: ProcessId,
    /// Its proof.
    pub secret: Secret,
    /// The memory component that will own its address space.
    pub home: NodeInfo,
    /// The storage component that serves `/`.
    pub storage: NodeInfo,
    /// Where gmm listens.
    pub gmm: Vec<String>,
    /// `auto`, `shm` or `tcp`.
    pub choice: String,
    /// Emulated network, as `--emulate` has it.
    pub emulate: Option<String>,
    /// The program.
    pub spawn: Spawn,
    /// Whether descriptor 7 takes a trace of its misses.
    pub trace: bool,
    /// Log filter.
    pub log: Option<String>,
}

/// Descriptors of the personality start here, below the soft limit on them.
#[must_use]
pub(crate) fn fd_floor() -> i32 {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let soft = limit.current.unwrap_or(1 << 20).min(1 << 20);
    i32::try_from(soft.saturating_sub(soft / 4)).unwrap_or(768)
}

/// Fabric options from their textual forms.
///
/// # Errors
/// A sentence that names the option and the cure.
pub(crate) fn options(choice: &str, emulate: Option<&str>) -> Result<Options, String> {
    let choice = match choice {
        "auto" => BackendChoice::Auto,
        "shm" => BackendChoice::Shm,
        "tcp" => BackendChoice::Tcp,
        "verbs" => BackendChoice::Verbs,
        other => {
            return Err(format!("--fabric {other}: give auto, shm, tcp or verbs"));
        }
    };
    let emulation = emulate
        .map(|text| {
            text.parse::<Emulation>()
                .map_err(|e| format!("--emulate {text}: {e}"))
        })
        .transpose()?;
    Ok(Options {
        choice,
        emulation,
        connect_timeout: Duration::from_secs(2),
        call_timeout: Duration::from_secs(5),
        ..Options::default()
    })
}
