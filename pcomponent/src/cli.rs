//! Command line.

use clap::{Args, Parser, Subcommand};
use fabric::Options;
use std::path::PathBuf;

/// The processor component: runs unmodified static Linux programs whose
/// memory lives at memory components and whose files live at a storage
/// component.
#[derive(Parser, Debug)]
#[command(version, about, args_conflicts_with_subcommands = true)]
pub(crate) struct Cli {
    /// What to be, if not the manager.
    #[command(subcommand)]
    pub role: Option<Role>,
    /// The manager.
    #[command(flatten)]
    pub manager: Option<ManagerArgs>,
}

/// Roles beside the manager.
#[derive(Subcommand, Debug)]
pub(crate) enum Role {
    /// The host process of one program; started by the manager, not by people.
    #[command(hide = true)]
    Process,
}

/// Options of the manager.
#[derive(Args, Clone, Debug)]
pub(crate) struct ManagerArgs {
    /// Where gmm listens (shm:PATH, tcp:HOST:PORT or verbs:HOST:PORT); may be repeated.
    #[arg(long, required = true)]
    pub gmm: Vec<String>,
    /// The testbed's cluster key (a file of mode 0600, made by `testbed`).
    #[arg(long)]
    pub key: PathBuf,
    /// This component's name, unique in the testbed.
    #[arg(long, default_value = "p0")]
    pub name: String,
    /// Unix socket on which programs are started.
    #[arg(long)]
    pub control: PathBuf,
    /// How processes reach other components: auto, shm, tcp or verbs.
    #[arg(long, default_value = "auto")]
    pub fabric: String,
    /// Emulated network, e.g. latency=3us,bandwidth=40Gbit.
    #[arg(long)]
    pub emulate: Option<String>,
    /// Descriptor that gets one line of JSON when the component is ready.
    #[arg(long)]
    pub ready_fd: Option<i32>,
    /// Shows metrics for Prometheus at http://ADDR:PORT/metrics (port 0: any,
    /// told in the log).
    #[arg(long, value_name = "ADDR:PORT")]
    pub metrics: Option<std::net::SocketAddr>,
    /// Log filter: error, warn, info, debug, or as in RUST_LOG.
    #[arg(long)]
    pub log: Option<String>,
}

impl ManagerArgs {
    /// The fabric options that the arguments ask for.
    ///
    /// # Errors
    /// A sentence that names the option and the cure.
    pub(crate) fn options(&self) -> Result<Options, String> {
        crate::boot::options(&self.fabric, self.emulate.as_deref())
    }
}
