//! `pcomponent`: the processor component.

mod boot;
mod cli;
mod excache;
mod fatal;
mod files;
mod image;
mod kernel;
mod manager;
mod memory;
mod start;
mod stats;
mod task;

use clap::Parser;

fn main() -> anyhow::Result<()> {
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
