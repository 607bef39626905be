//! `mcomponent`: the memory component. Wires clock, fabric and configuration
//! to the library.
#![forbid(unsafe_code)]

use anyhow::{Context, Result};
use clap::Parser;
use fabric::{ClusterKey, Server};
use mcomponent::cli::Cli;
use mcomponent::core::ledger::Ledger;
use mcomponent::files::Files;
use mcomponent::peers::{Network, Others};
use mcomponent::service::Component;
use mcomponent::spaces::Spaces;
use member::{Member, MemberConfig};
use proto::{Identity, NodeKind};
use std::sync::Arc;
use std::time::Duration;

/// Dirty file data goes to storage at the latest after this time.
const WRITE_BACK: Duration = Duration::from_secs(1);
/// Between two looks for processes that died.
const AUDIT: Duration = Duration::from_secs(2);

fn main() -> Result<()> {
    let cli = Cli::parse();
    member::start_log(cli.log.as_deref());
    member::catch_termination();
    run(&cli)
}

fn run(cli: &Cli) -> Result<()> {
    let key = ClusterKey::load(&cli.key)
        .with_context(|| format!("cluster key {} (--key)", cli.key.display()))?;
    let server = Server::bind(&cli.listen, Identity::Operator, key.clone())
        .context("cannot listen (--listen)")?;
    let server = Arc::new(server);
    let network = Arc::new(Network::new(&cli.name, server.addrs()));
    let ledger = Arc::new(Ledger::new(cli.memory));
    let others: Arc<dyn Others> = network.clone();
    let files = Files::new(server.memory(), ledger.clone(), others.clone());
    let spaces = Spaces::new(server.memory(), ledger.clone(), others, files.clone());
    let component = Arc::new(Component::new(spaces, files.clone(), ledger));
    server.serve(component.clone())?;
    if let Some(addr) = cli.metrics {
        let (component, name) = (component.clone(), cli.name.clone());
        let render = move || mcomponent::metrics::exposition(&name, &component.stats());
        member::serve_metrics(addr, render)?;
    }
    let member = join(cli, key, &component, &server)?;
    component.set_generation(member.generation());
    let node = member.node();
    network.set_member(member);
    if let Some(fd) = cli.ready_fd {
        member::report_ready(fd, node, &server.addrs())?;
    }
    start_chores(&files, &component, &network)?;
    member::wait_for_termination();
    files.flush_all();
    if let Some(member) = network.member() {
        member.leave();
    }
    server.shutdown();
    match &cli.stats {
        Some(path) => write_stats(path, &component),
        None => Ok(()),
    }
}

fn join(
    cli: &Cli,
    key: ClusterKey,
    component: &Arc<Component>,
    server: &Arc<Server>,
) -> Result<Member> {
    let config = MemberConfig {
        kind: NodeKind::Memory,
        name: cli.name.clone(),
        addrs: server.addrs(),
        control: None,
        gmm: cli.gmm.clone(),
        key,
    };
    let component = component.clone();
    Ok(Member::start(
        config,
        move || component.load(),
        Some(server.clone()),
    )?)
}

fn start_chores(
    files: &Arc<Files>,
    component: &Arc<Component>,
    network: &Arc<Network>,
) -> Result<()> {
    let files = files.clone();
    std::thread::Builder::new()
        .name("write-back".into())
        .spawn(move || {
            loop {
                std::thread::sleep(WRITE_BACK);
                files.flush_all();
            }
        })?;
    let (component, network) = (component.clone(), network.clone());
    std::thread::Builder::new()
        .name("audit".into())
        .spawn(move || {
            loop {
                std::thread::sleep(AUDIT);
                component.audit(|| network.processes());
            }
        })?;
    Ok(())
}

fn write_stats(path: &std::path::Path, component: &Component) -> Result<()> {
    let json = serde_json::to_string_pretty(&component.stats())?;
    std::fs::write(path, json + "\n")
        .with_context(|| format!("cannot write {} (--stats)", path.display()))
}
