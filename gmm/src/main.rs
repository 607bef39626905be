//! `gmm`: the global managers. Wires clock, fabric and configuration to the
//! library.
#![forbid(unsafe_code)]

use anyhow::{Context, Result};
use clap::Parser;
use fabric::{ClusterKey, Server};
use gmm::cli::Cli;
use gmm::core::Config;
use gmm::manager::Manager;
use gmm::service::Managers;
use gmm::store::Store;
use proto::{Identity, NodeId};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long a scrape waits for the manager's thread.
const METRICS_DEADLINE: Duration = Duration::from_secs(2);

fn main() -> Result<()> {
    let cli = Cli::parse();
    member::start_log(cli.log.as_deref());
    member::catch_termination();
    run(&cli)
}

fn run(cli: &Cli) -> Result<()> {
    let key = ClusterKey::load(&cli.key)
        .with_context(|| format!("cluster key {} (--key)", cli.key.display()))?;
    let (store, first_id) = open(cli)?;
    let config = Config {
        policy: cli.policy,
        lease: Duration::from_millis(cli.lease),
        paths: cli.path.clone(),
        first_id,
    };
    let epoch = Instant::now();
    let manager = Manager::new(config, store, epoch.elapsed()).context("state (--state)")?;
    let server =
        Server::bind(&cli.listen, Identity::Operator, key).context("cannot listen (--listen)")?;
    let managers = Managers::start(manager, epoch)?;
    if let Some(addr) = cli.metrics {
        let watcher = managers.watcher();
        let render = move || gmm::metrics::exposition(watcher.status(METRICS_DEADLINE).as_ref());
        member::serve_metrics(addr, render)?;
    }
    server.serve(Arc::new(managers))?;
    if let Some(fd) = cli.ready_fd {
        member::report_ready(fd, NodeId(0), &server.addrs())?;
    }
    tracing::info!("serving on {}", server.addrs().join(", "));
    member::wait_for_termination();
    server.shutdown();
    Ok(())
}

/// The store, and the lowest number that it may give away. A state that is
/// forgotten must not lead to numbers that were given before: the secret of a
/// process follows from its number. So without a file numbers start at the
/// time of day.
fn open(cli: &Cli) -> Result<(Store, u64)> {
    match &cli.state {
        Some(path) => {
            let store = Store::open(path);
            Ok((
                store.with_context(|| format!("state {} (--state)", path.display()))?,
                1,
            ))
        }
        None => {
            let since = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default();
            let first = u64::try_from(since.as_millis()).unwrap_or(1);
            Ok((Store::in_memory()?, first))
        }
    }
}
