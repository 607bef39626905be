//! The processor component's manager: registers with gmm, listens on its
//! control socket, starts a host process for every program and watches it.

mod child;
mod control;
mod metrics;
mod programs;

use crate::cli::ManagerArgs;
use anyhow::{Context, Result};
use fabric::ClusterKey;
use member::{Member, MemberConfig};
use programs::Programs;
use proto::NodeKind;
use proto::gmm::Load;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What all control connections share.
pub(crate) struct Manager {
    pub(crate) member: Member,
    pub(crate) key: ClusterKey,
    pub(crate) args: ManagerArgs,
    pub(crate) running: Arc<AtomicU64>,
    pub(crate) programs: Arc<Programs>,
}

/// Runs the manager until SIGTERM.
pub(crate) fn run(args: ManagerArgs) -> Result<()> {
    if let Err(findings) = host::probe::required() {
        for finding in &findings {
            tracing::error!("{finding}");
        }
        anyhow::bail!("this host lacks what a processor component needs (see `testbed doctor`)");
    }
    let key = ClusterKey::load(&args.key)
        .with_context(|| format!("cluster key {}", args.key.display()))?;
    let listener = listen(&args.control)?;
    let running = Arc::new(AtomicU64::new(0));
    let programs = Arc::new(Programs::default());
    if let Some(addr) = args.metrics {
        let (programs, name) = (programs.clone(), args.name.clone());
        member::serve_metrics(addr, move || metrics::exposition(&name, &programs))?;
    }
    let member = Member::start(
        MemberConfig {
            kind: NodeKind::Processor,
            name: args.name.clone(),
            addrs: Vec::new(),
            control: Some(args.control.display().to_string()),
            gmm: args.gmm.clone(),
            key: key.clone(),
        },
        {
            let running = running.clone();
            move || Load {
                processes: running.load(Ordering::Relaxed),
                ..Load::default()
            }
        },
        None,
    )
    .context("registering with gmm")?;
    if let Some(fd) = args.ready_fd {
        member::report_ready(fd, member.node(), &[])?;
    }
    let manager = Arc::new(Manager {
        member,
        key,
        args,
        running,
        programs,
    });
    let accepting = manager.clone();
    std::thread::spawn(move || accept(&listener, &accepting));
    member::wait_for_termination();
    manager.member.leave();
    let _ = std::fs::remove_file(&manager.args.control);
    Ok(())
}

/// Binds the control socket; a stale one, that nobody answers, is replaced.
fn listen(path: &std::path::Path) -> Result<UnixListener> {
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        anyhow::bail!("another processor component listens on {}", path.display());
    }
    let _ = std::fs::remove_file(path);
    let listener =
        UnixListener::bind(path).with_context(|| format!("control socket {}", path.display()))?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(path, mode).with_context(|| format!("mode of {}", path.display()))?;
    Ok(listener)
}

fn accept(listener: &UnixListener, manager: &Arc<Manager>) {
    for stream in listener.incoming() {
        match stream {
            Ok(stream) => {
                let manager = manager.clone();
                std::thread::spawn(move || control::serve(stream, &manager));
            }
            Err(e) => {
                tracing::warn!("control socket: {e}");
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
        }
    }
}
