//! The processor component: its manager, and the host processes in which
//! programs run on a personality of their own. See ARCHITECTURE.md for the
//! map of the modules and `docs/fault-path.md` for the path of a miss.

mod boot;
mod cli;
pub mod excache;
mod fatal;
mod files;
pub mod image;
mod kernel;
mod manager;
mod memory;
mod runahead;
mod sparse;
mod start;
mod stats;
mod task;
mod trace;
mod watch;

use clap::Parser;

/// The program `pcomponent`: the manager, or, told so by the manager, the host
/// process of one program.
///
/// # Errors
/// What kept the manager from running, for people.
pub fn run() -> anyhow::Result<()> {
    let cli = cli::Cli::parse();
    if let Some(cli::Role::Process) = cli.role {
        start::run();
    }
    let Some(args) = cli.manager else {
        anyhow::bail!("give --gmm, --key and --control (see --help)");
    };
    member::start_log(args.log.as_deref());
    manager::run(args)
}
