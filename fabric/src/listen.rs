//! Listening sockets, and the books about the connections they accept.

use crate::dial::tune_tcp;
use crate::server::{Hub, Service};
use crate::{Backend, FabricError, port, sim, verbs};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{Shutdown, SocketFlags, accept_with, shutdown};
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Most connections at once: each has a thread and a descriptor.
const MOST_CONNECTIONS: usize = 4096;
/// Descriptors that a component needs for everything else.
const OTHER_DESCRIPTORS: u64 = 256;
/// Most that have not proved yet who they are; of more the oldest is closed,
/// so that who sends nothing keeps nobody out.
const MOST_STRANGERS: usize = 256;
const STACK: usize = 256 << 10;

/// What a server listens on.
pub(crate) enum Listener {
    Unix {
        fd: OwnedFd,
        text: String,
        path: PathBuf,
        inode: Option<(u64, u64)>,
    },
    Tcp {
        fd: OwnedFd,
        text: String,
        /// What connections are carried by from the handshake on: tcp or
        /// verbs.
        carrier: Backend,
    },
    Sim(sim::Listener),
}

/// Which file a path names.
fn inode(path: &Path) -> Option<(u64, u64)> {
    std::fs::symlink_metadata(path)
        .ok()
        .map(|m| (m.dev(), m.ino()))
}

/// Removes a socket that nobody listens on any more, and nothing else.
fn remove_stale(path: &Path) {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket());
    let refused = || {
        UnixStream::connect(path).is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused)
    };
    if is_socket && refused() {
        let _ = std::fs::remove_file(path);
    }
}

pub(crate) fn bind_unix(path: &Path, text: &str) -> Result<Listener, FabricError> {
    remove_stale(path);
    let fd = UnixListener::bind(path)
        .map_err(|e| FabricError::local(text, e))?
        .into();
    Ok(Listener::Unix {
        fd,
        text: text.to_owned(),
        path: path.to_owned(),
        inode: inode(path),
    })
}

pub(crate) fn bind_tcp(place: &str, text: &str) -> Result<Listener, FabricError> {
    let (fd, local) = bind_inet(place, text)?;
    Ok(Listener::Tcp {
        fd,
        text: format!("tcp:{local}"),
        carrier: Backend::Tcp,
    })
}

pub(crate) fn bind_verbs(place: &str, text: &str) -> Result<Listener, FabricError> {
    let (fd, local) = bind_inet(place, text)?;
    verbs::check(local.ip())?;
    Ok(Listener::Tcp {
        fd,
        text: format!("verbs:{local}"),
        carrier: Backend::Verbs,
    })
}

fn bind_inet(place: &str, text: &str) -> Result<(OwnedFd, SocketAddr), FabricError> {
    let failed = |e| FabricError::local(text, e);
    let listener = std::net::TcpListener::bind(place).map_err(failed)?;
    let local = listener.local_addr().map_err(failed)?;
    Ok((listener.into(), local))
}

impl Listener {
    pub(crate) fn text(&self) -> &str {
        match self {
            Listener::Unix { text, .. } | Listener::Tcp { text, .. } => text,
            Listener::Sim(listener) => listener.text(),
        }
    }

    /// Accepts until the server stops; each connection gets a thread.
    pub(crate) fn accept_all(&self, hub: &Arc<Hub>, service: &Arc<dyn Service>) {
        let (Listener::Unix { fd, .. } | Listener::Tcp { fd, .. }) = self else {
            return;
        };
        loop {
            match accept_with(fd, SocketFlags::CLOEXEC) {
                Ok(socket) => self.start(socket, hub, service),
                Err(_) if hub.sockets.is_stopped() => return,
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(e) => {
                    // Out of descriptors or memory: it may pass.
                    tracing::warn!("{}: accepting a connection: {e}", self.text());
                    std::thread::sleep(Duration::from_millis(50));
                }
            }
        }
    }

    fn start(&self, socket: OwnedFd, hub: &Arc<Hub>, service: &Arc<dyn Service>) {
        let carrier = match self {
            Listener::Tcp { carrier, .. } => *carrier,
            Listener::Unix { .. } | Listener::Sim(_) => Backend::Shm,
        };
        if carrier != Backend::Shm {
            tune_tcp(&socket);
        }
        let socket = Arc::new(socket);
        let Some(entry) = Entry::enter(hub, &socket) else {
            return;
        };
        let (hub, service) = (hub.clone(), service.clone());
        let serve = move || {
            if let Err(e) = port::serve(&socket, carrier, &hub, service, &entry) {
                tracing::debug!("a connection ended: {e}");
            }
        };
        let thread = std::thread::Builder::new()
            .name("connection".to_owned())
            .stack_size(STACK);
        if let Err(e) = thread.spawn(serve) {
            tracing::warn!("a connection was refused: no thread for it: {e}");
        }
    }

    pub(crate) fn close(&self) {
        match self {
            Listener::Sim(listener) => listener.close(),
            Listener::Tcp { fd, .. } => drop(shutdown(fd, Shutdown::Both)),
            Listener::Unix {
                fd,
                path,
                inode: ours,
                ..
            } => {
                let _ = shutdown(fd, Shutdown::Both);
                // A newer server may listen there already.
                if ours.is_some() && inode(path) == *ours {
                    let _ = std::fs::remove_file(path);
                }
            }
        }
    }
}

/// The sockets of a server's connections, to close them from outside.
pub(crate) struct Sockets {
    books: Mutex<Books>,
    most: usize,
}

#[derive(Default)]
struct Books {
    stopped: bool,
    next: u64,
    open: HashMap<u64, Arc<OwnedFd>>,
    strangers: VecDeque<u64>,
}

/// As many connections as there are descriptors for, the soft limit being
/// raised as far as this process may.
fn affordable() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let wanted = MOST_CONNECTIONS as u64 + OTHER_DESCRIPTORS;
    let limit = getrlimit(Resource::Nofile);
    let hard = limit.maximum.unwrap_or(u64::MAX);
    let mut soft = limit.current.unwrap_or(u64::MAX);
    if soft < wanted {
        let raised = Rlimit {
            current: Some(wanted.min(hard)),
            maximum: limit.maximum,
        };
        if setrlimit(Resource::Nofile, raised).is_ok() {
            soft = wanted.min(hard);
        }
    }
    let most = soft.saturating_sub(OTHER_DESCRIPTORS).max(16);
    usize::try_from(most)
        .unwrap_or(usize::MAX)
        .min(MOST_CONNECTIONS)
}

impl Sockets {
    pub(crate) fn new() -> Sockets {
        Sockets {
            books: Mutex::default(),
            most: affordable(),
        }
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.books().stopped
    }

    /// Closes every connection; new ones are not entered.
    pub(crate) fn stop(&self) {
        let mut books = self.books();
        books.stopped = true;
        for socket in books.open.values() {
            let _ = shutdown(socket, Shutdown::Both);
        }
    }
}

/// A connection's place in the books, until it is dropped.
pub(crate) struct Entry {
    hub: Arc<Hub>,
    number: u64,
}

impl Entry {
    fn enter(hub: &Arc<Hub>, socket: &Arc<OwnedFd>) -> Option<Entry> {
        let sockets = &hub.sockets;
        let mut books = sockets.books();
        if books.stopped {
            return None;
        }
        if books.open.len() >= sockets.most {
            let most = sockets.most;
            tracing::warn!("{most} connections are open: another one is refused");
            return None;
        }
        let number = books.next;
        books.next += 1;
        books.open.insert(number, socket.clone());
        books.strangers.push_back(number);
        if books.strangers.len() > MOST_STRANGERS
            && let Some(oldest) = books.strangers.pop_front()
            && let Some(socket) = books.open.get(&oldest)
        {
            let _ = shutdown(socket, Shutdown::Both);
        }
        Some(Entry {
            hub: hub.clone(),
            number,
        })
    }

    /// It has proved who it is.
    pub(crate) fn is_known(&self) {
        self.hub
            .sockets
            .books()
            .strangers
            .retain(|n| *n != self.number);
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut books = self.hub.sockets.books();
        books.open.remove(&self.number);
        books.strangers.retain(|n| *n != self.number);
    }
}
