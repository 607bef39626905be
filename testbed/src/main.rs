//! `testbed`: what a person uses. Brings testbeds up, runs programs on them,
//! shows what they do, and takes them down without a trace.
#![forbid(unsafe_code)]

mod agent;
mod bench;
mod cli;
mod cluster;
mod compile;
mod component;
mod config;
mod control;
mod demo;
mod doctor;
mod ending;
mod hosts;
mod janitor;
mod out;
mod places;
mod plan;
mod program;
mod report;
mod run;
mod runner;
mod shape;
mod signals;
mod standing;
mod stats;
mod sweep;
mod table;
mod top;
mod trace;
mod vm;

use clap::Parser;
use ending::Ending;

fn main() {
    let cli = cli::Cli::try_parse().unwrap_or_else(|why| refuse(&why));
    let ending = match dispatch(cli) {
        Ok(ending) => ending,
        Err(why) => {
            let broken = |why: &std::io::Error| why.kind() == std::io::ErrorKind::BrokenPipe;
            if why.downcast_ref().is_some_and(broken) {
                // As if the reader's leaving had ended us, which Rust prevents.
                Ending::Signal(signal_hook::consts::SIGPIPE)
            } else {
                out::warn(&format!("{why:#}"));
                Ending::Exit(ending::SYSTEM_FAILED)
            }
        }
    };
    ending.end()
}

/// Help is no failure; a wrong command line is one of ours, not the program's.
fn refuse(why: &clap::Error) -> ! {
    let _ = why.print();
    Ending::Exit(if why.use_stderr() {
        ending::SYSTEM_FAILED
    } else {
        0
    })
    .end()
}

fn dispatch(cli: cli::Cli) -> anyhow::Result<Ending> {
    match cli.command {
        cli::Command::Run(args) => run::run(&args),
        cli::Command::Up(args) => standing::up(&args),
        cli::Command::Down { name } => standing::down(&name),
        cli::Command::Status { name, json } => standing::status(name.as_deref(), json),
        cli::Command::Top(args) => top::top(&args),
        cli::Command::List => standing::list(),
        cli::Command::Exec {
            name,
            host,
            command,
        } => standing::exec(&name, &host, &command),
        cli::Command::Logs { name, component } => standing::logs(&name, component.as_deref()),
        cli::Command::Doctor { json } => doctor::run(json),
        cli::Command::Demo(args) => demo::run(&args),
        cli::Command::Trace(args) => trace::run(&args),
        cli::Command::Sweep(args) => sweep::run(&args),
        cli::Command::Bench { what } => bench::run(&what),
        cli::Command::Janitor { directory } => Ok(janitor::run(&directory)),
        cli::Command::Agent {
            device, binaries, ..
        } => agent::run(device.as_deref(), binaries.as_deref()),
        cli::Command::Vm(command) => vm::run(&command),
        cli::Command::VmSupervise { name } => vm::supervise(&name),
        cli::Command::Supervise { name } => standing::supervise(&name),
    }
}
