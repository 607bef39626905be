//! `scomponent`: the storage component. Wires clock, fabric and configuration
//! to the library.
#![forbid(unsafe_code)]

use anyhow::{Context, Result};
use clap::Parser;
use fabric::{ClusterKey, Server};
use member::{Member, MemberConfig};
use proto::{Identity, NodeKind};
use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit, umask};
use scomponent::cli::Cli;
use scomponent::fs::Store;
use scomponent::service::Storage;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// Between two rounds of closing what is not used.
const SWEEP: Duration = Duration::from_secs(30);

fn main() -> Result<()> {
    let cli = Cli::parse();
    member::start_log(cli.log.as_deref());
    member::catch_termination();
    run(&cli)
}

fn run(cli: &Cli) -> Result<()> {
    prepare()?;
    let key = ClusterKey::load(&cli.key)
        .with_context(|| format!("cluster key {} (--key)", cli.key.display()))?;
    let store = Store::new(&cli.root, descriptors())
        .with_context(|| format!("cannot serve the directory {} (--root)", cli.root.display()))?;
    let server = Server::bind(&cli.listen, Identity::Operator, key.clone())
        .context("cannot listen (--listen)")?;
    let server = Arc::new(server);
    let storage = Storage::new(store, usize::from(cli.threads), server.memory())?;
    let storage = Arc::new(storage);
    server.serve(storage.clone())?;
    if let Some(addr) = cli.metrics {
        let (storage, name) = (storage.clone(), cli.name.clone());
        let render = move || {
            let clients = storage.load().processes;
            scomponent::metrics::exposition(&name, &storage.stats(), clients)
        };
        member::serve_metrics(addr, render)?;
    }
    let member = join(cli, key, &storage, &server)?;
    if let Some(fd) = cli.ready_fd {
        member::report_ready(fd, member.node(), &server.addrs())?;
    }
    sweep(&storage)?;
    member::wait_for_termination();
    member.leave();
    server.shutdown();
    match &cli.stats {
        Some(path) => write_stats(path, &storage),
        None => Ok(()),
    }
}

/// Makes the process fit to act for programs: their mode bits come with the
/// umask applied, and a file that grows beyond a limit is an error for the
/// program, not the end of this component (SIGXFSZ's default).
fn prepare() -> Result<()> {
    umask(Mode::empty());
    signal_hook::flag::register(
        signal_hook::consts::SIGXFSZ,
        Arc::new(AtomicBool::new(false)),
    )
    .context("cannot catch SIGXFSZ")?;
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(why) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!("the limit of open files stays {:?}: {why}", limit.current);
    }
    Ok(())
}

/// How many files to keep open: half of what the process may, for the rest is
/// connections.
fn descriptors() -> usize {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(limit / 2)
        .unwrap_or(usize::MAX)
        .clamp(16, 1 << 16)
}

fn join(
    cli: &Cli,
    key: ClusterKey,
    storage: &Arc<Storage>,
    server: &Arc<Server>,
) -> Result<Member> {
    let config = MemberConfig {
        kind: NodeKind::Storage,
        name: cli.name.clone(),
        addrs: server.addrs(),
        control: None,
        gmm: cli.gmm.clone(),
        key,
    };
    let storage = storage.clone();
    Ok(Member::start(
        config,
        move || storage.load(),
        Some(server.clone()),
    )?)
}

fn sweep(storage: &Arc<Storage>) -> Result<()> {
    let storage = Arc::downgrade(storage);
    let sweeping = move || {
        while let Some(storage) = storage.upgrade() {
            storage.sweep();
            drop(storage);
            std::thread::sleep(SWEEP);
        }
    };
    std::thread::Builder::new()
        .name("sweep".to_owned())
        .spawn(sweeping)?;
    Ok(())
}

fn write_stats(path: &std::path::Path, storage: &Storage) -> Result<()> {
    let json = serde_json::to_string_pretty(&storage.stats())?;
    std::fs::write(path, json + "\n")
        .with_context(|| format!("cannot write {} (--stats)", path.display()))
}
