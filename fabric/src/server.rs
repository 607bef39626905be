//! The answering side: a thread a connection.
use crate::FabricError;
use crate::auth::{ClusterKey, mac, random, same};
use crate::frame::{self, Stream};
use crate::memory::{Access, Memory};
use proto::addr::{RemoteAddr, RemoteKey};
use proto::{Identity, wire};
use rustix::fd::{AsFd, OwnedFd};
use serde::Serialize;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;
const LIMIT: Duration = Duration::from_secs(5);
/// What answers a component's peers.
pub trait Service: Send + Sync + 'static {
    /// A request came, on its connection's thread. Answer at once, or keep
    /// `reply` for another thread.
    fn call(&self, peer: Identity, request: &[u8], reply: Responder);
    /// A connection of `peer` was accepted.
    fn connected(&self, peer: Identity) {
        let _ = peer;
    }
    /// The last connection of `peer` closed.
    fn gone(&self, peer: Identity) {
        let _ = peer;
    }
}
/// Carries the answer to one request. Dropped without one, the asker is told.
pub struct Responder {
    to: Arc<Mutex<Stream>>,
    id: u64,
    done: bool,
}
impl Responder {
    /// Answers with bytes.
    pub fn send(mut self, bytes: &[u8]) {
        self.done = true;
        self.put(0, bytes);
    }
    /// Answers with a message.
    pub fn answer<R: Serialize>(self, r: &R) {
        self.send(&wire::encode(r));
    }
    fn put(&self, status: u8, bytes: &[u8]) {
        let s = self.to.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = s.send(
            &[
                &frame::head(frame::REPLY, status, bytes.len(), self.id),
                bytes,
            ],
            LIMIT,
        );
    }
}
impl Drop for Responder {
    fn drop(&mut self) {
        if !self.done {
            self.put(1, &[]);
        }
    }
}
struct Shared {
    /// Drawn anew at every start.
    start: u64,
    connections: AtomicUsize,
    stopped: AtomicBool,
    /// The sockets of connections, by number, to close them from outside.
    live: Mutex<HashMap<u64, OwnedFd>>,
    next: AtomicU64,
    key: ClusterKey,
    identity: RwLock<Identity>,
    memory: Memory,
    counts: Mutex<HashMap<Identity, u32>>,
}
enum Listener {
    Unix(OwnedFd, String),
    Tcp(OwnedFd, String),
}
/// A component's listening end, with its registered memory.
#[derive(Clone)]
pub struct Server {
    shared: Arc<Shared>,
    listeners: Arc<Vec<Listener>>,
}
/// Removes a socket that nobody listens on any more, and nothing else.
fn remove_stale(path: &str) {
    use std::os::unix::fs::FileTypeExt;
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket());
    let refused = std::os::unix::net::UnixStream::connect(path)
        .is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused);
    if is_socket && refused {
        let _ = std::fs::remove_file(path);
    }
}

/// Takes a connection off the books when it ends, however it ends.
struct Counted<'a>(&'a Shared, u64);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::SeqCst);
        let mut live = self.0.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.remove(&self.1);
    }
}

/// Most connections at once: each has a thread.
const MOST_CONNECTIONS: usize = 4096;

fn local(what: &str, why: impl std::fmt::Display) -> FabricError {
    FabricError::Local {
        what: what.into(),
        why: why.to_string(),
    }
}
impl Server {
    /// Listens on `shm:PATH` and `tcp:HOST:PORT` addresses.
    ///
    /// # Errors
    /// An address that cannot be listened on.
    pub fn bind(
        listen: &[String],
        identity: Identity,
        key: ClusterKey,
    ) -> Result<Server, FabricError> {
        let mut l = Vec::new();
        for a in listen {
            if let Some(path) = a.strip_prefix("shm:") {
                remove_stale(path);
                let u = std::os::unix::net::UnixListener::bind(path).map_err(|e| local(a, e))?;
                l.push(Listener::Unix(u.into(), a.clone()));
            } else if let Some(hp) = a.strip_prefix("tcp:") {
                let t = std::net::TcpListener::bind(hp).map_err(|e| local(a, e))?;
                let at = t.local_addr().map_err(|e| local(a, e))?;
                l.push(Listener::Tcp(t.into(), format!("tcp:{at}")));
            } else {
                return Err(FabricError::Invalid(format!(
                    "{a}: give shm:PATH or tcp:HOST:PORT"
                )));
            }
        }
        Ok(Server {
            shared: Arc::new(Shared {
                start: u64::from_le_bytes(random()?),
                connections: AtomicUsize::new(0),
                stopped: AtomicBool::new(false),
                live: Mutex::default(),
                next: AtomicU64::new(0),
                key,
                identity: RwLock::new(identity),
                memory: Memory::new()?,
                counts: Mutex::default(),
            }),
            listeners: Arc::new(l),
        })
    }
    /// Where it listens, with the ports that were chosen.
    pub fn addrs(&self) -> Vec<String> {
        self.listeners
            .iter()
            .map(|l| match l {
                Listener::Unix(_, a) | Listener::Tcp(_, a) => a.clone(),
            })
            .collect()
    }
    /// Its registered memory.
    pub fn memory(&self) -> Memory {
        self.shared.memory.clone()
    }
    /// Who we are, once we are registered.
    pub fn set_identity(&self, i: Identity) {
        *self
            .shared
            .identity
            .write()
            .unwrap_or_else(PoisonError::into_inner) = i;
    }
    /// Starts answering; returns at once. The threads keep the service.
    ///
    /// # Errors
    /// No thread could be started.
    #[allow(clippy::needless_pass_by_value)]
    pub fn serve(&self, service: Arc<dyn Service>) -> Result<(), FabricError> {
        for n in 0..self.listeners.len() {
            let (me, service) = (self.clone(), service.clone());
            std::thread::Builder::new()
                .name("accept".into())
                .spawn(move || {
                    loop {
                        let fd = match &me.listeners[n] {
                            Listener::Unix(fd, _) | Listener::Tcp(fd, _) => fd,
                        };
                        match rustix::net::accept_with(fd, rustix::net::SocketFlags::CLOEXEC) {
                            Ok(s) => {
                                let unix = matches!(me.listeners[n], Listener::Unix(..));
                                if !unix {
                                    let _ = rustix::net::sockopt::set_tcp_nodelay(&s, true);
                                }
                                let (shared, service) = (me.shared.clone(), service.clone());
                                let _ = std::thread::Builder::new()
                                    .name("conn".into())
                                    .stack_size(256 << 10)
                                    .spawn(move || {
                                        if let Err(e) = serve(s, unix, &shared, &service) {
                                            tracing::debug!("connection: {e}");
                                        }
                                    });
                            }
                            Err(_) if me.shared.stopped.load(Ordering::SeqCst) => return,
                            Err(_) => std::thread::sleep(Duration::from_millis(10)),
                        }
                    }
                })
                .map_err(|e| local("thread", e))?;
        }
        Ok(())
    }
    /// Answers no more: stops listening, closes every connection, and takes the
    /// socket files away.
    pub fn shutdown(&self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        let both = rustix::net::Shutdown::Both;
        for l in self.listeners.iter() {
            let (Listener::Unix(fd, _) | Listener::Tcp(fd, _)) = l;
            let _ = rustix::net::shutdown(fd, both);
        }
        let live = self
            .shared
            .live
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for fd in live.values() {
            let _ = rustix::net::shutdown(fd, both);
        }
        drop(live);
        for l in self.listeners.iter() {
            if let Listener::Unix(_, a) = l {
                let _ = std::fs::remove_file(&a[4..]);
            }
        }
    }
}
fn serve(
    s: OwnedFd,
    unix: bool,
    shared: &Shared,
    service: &Arc<dyn Service>,
) -> Result<(), FabricError> {
    let before = shared.connections.fetch_add(1, Ordering::SeqCst);
    let number = shared.next.fetch_add(1, Ordering::SeqCst);
    let _counted = Counted(shared, number);
    let held = s.try_clone().map_err(|e| local("dup", e))?;
    let mut live = shared.live.lock().unwrap_or_else(PoisonError::into_inner);
    live.insert(number, held);
    drop(live);
    if shared.stopped.load(Ordering::SeqCst) {
        return Ok(());
    }
    if before >= MOST_CONNECTIONS {
        tracing::warn!("{before} connections are open: another one is refused");
        return Ok(());
    }
    let dup = s.try_clone().map_err(|e| local("dup", e))?;
    let mut st = Stream::new(s, "client".into());
    let dl = Some(std::time::Instant::now() + LIMIT);
    let h = st.recv_head(dl, LIMIT)?;
    if h.len > 256 {
        return Ok(());
    }
    let mut b = vec![0; h.len];
    st.recv(&mut b, dl, LIMIT)?;
    let bad = |why: &str| FabricError::Protocol {
        peer: "client".into(),
        why: why.into(),
    };
    let (version, who, nonce): (u16, Identity, [u8; 16]) =
        wire::decode(&b).map_err(|e| bad(&e.to_string()))?;
    let refuse = |st: &Stream, why: &str| {
        let _ = st.send(
            &[&frame::head(frame::REPLY, 1, why.len(), 0), why.as_bytes()],
            LIMIT,
        );
    };
    if version != wire::PROTOCOL_VERSION {
        refuse(
            &st,
            &format!(
                "it speaks protocol {}, we speak {version}",
                wire::PROTOCOL_VERSION
            ),
        );
        return Ok(());
    }
    let mine: [u8; 16] = random()?;
    st.send(&[&frame::head(frame::REPLY, 0, 16, 0), &mine], LIMIT)?;
    let h = st.recv_head(dl, LIMIT)?;
    if h.len != 32 {
        return Err(bad("proof"));
    }
    let mut p = [0; 32];
    st.recv(&mut p, dl, LIMIT)?;
    let secret = shared.key.derive(who);
    if !same(&p, &mac(&secret.0, &[b"client", &nonce, &mine])) {
        refuse(&st, "wrong key");
        return Ok(());
    }
    let me = *shared
        .identity
        .read()
        .unwrap_or_else(PoisonError::into_inner);
    let proof = mac(&secret.0, &[b"server", &nonce, &mine]);
    let body = wire::encode(&(me, proof, shared.start));
    st.send(
        &[&frame::head(frame::REPLY, 0, body.len(), 0), &body],
        LIMIT,
    )?;
    {
        *shared
            .counts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(who)
            .or_default() += 1;
    }
    service.connected(who);
    let out = Arc::new(Mutex::new(Stream::new(dup, format!("{who}"))));
    st.name = format!("{who}");
    let r = pump(&mut st, unix, shared, service, who, &out);
    let last = {
        let mut c = shared.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let n = c.entry(who).or_default();
        *n -= 1;
        if *n == 0 {
            c.remove(&who);
            true
        } else {
            false
        }
    };
    if last {
        service.gone(who);
    }
    r
}
pub(crate) const SEG: usize = 28;
fn seg(b: &[u8]) -> (RemoteAddr, u32) {
    let q = |i: usize| u64::from_le_bytes(b[i..i + 8].try_into().unwrap_or_default());
    let d = |i: usize| u32::from_le_bytes(b[i..i + 4].try_into().unwrap_or_default());
    (
        RemoteAddr {
            key: RemoteKey {
                region: d(0),
                slot: d(4),
                nonce: q(8),
            },
            offset: q(16),
        },
        d(24),
    )
}
pub(crate) fn code(e: &FabricError) -> u8 {
    match e {
        FabricError::BadKey => 1,
        FabricError::OutOfBounds => 2,
        _ => 3,
    }
}
fn pump(
    st: &mut Stream,
    unix: bool,
    shared: &Shared,
    service: &Arc<dyn Service>,
    who: Identity,
    out: &Arc<Mutex<Stream>>,
) -> Result<(), FabricError> {
    let mem = &shared.memory.0;
    st.spin = Duration::from_micros(30);
    let mut body = Vec::new();
    loop {
        let h = st.recv_head(None, LIMIT)?;
        body.resize(h.len, 0);
        st.recv(&mut body, Some(std::time::Instant::now() + LIMIT), LIMIT)?;
        let reply = |kind, status, bytes: &[u8]| {
            out.lock().unwrap_or_else(PoisonError::into_inner).send(
                &[&frame::head(kind, status, bytes.len(), h.id), bytes],
                LIMIT,
            )
        };
        match h.kind {
            frame::MSG => service.call(
                who,
                &body,
                Responder {
                    to: out.clone(),
                    id: h.id,
                    done: false,
                },
            ),
            frame::READ => {
                let segs: Vec<_> = body.chunks_exact(SEG).map(seg).collect();
                let total: usize = segs.iter().map(|s| s.1 as usize).sum();
                if total > frame::MAX {
                    return Err(FabricError::Protocol {
                        peer: st.name.clone(),
                        why: "read too long".into(),
                    });
                }
                let mut data = Vec::with_capacity(total);
                let mut bad = 0;
                for (at, len) in segs {
                    match mem.resolve(who, at, len, false) {
                        Ok((r, off)) => {
                            r.load(off, len as usize, &mut data);
                        }
                        Err(e) => {
                            bad = code(&e);
                            break;
                        }
                    }
                }
                if bad != 0 {
                    data.clear();
                }
                reply(frame::DATA, bad, &data)?;
            }
            frame::WRITE => {
                let n = body
                    .get(..4)
                    .map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize);
                let Some(mut data) = body.get(4 + n * SEG..) else {
                    return Err(FabricError::Protocol {
                        peer: st.name.clone(),
                        why: "write".into(),
                    });
                };
                let mut targets = Vec::with_capacity(n);
                let mut bad = 0;
                for (at, len) in body[4..4 + n * SEG].chunks_exact(SEG).map(seg) {
                    let Some((part, rest)) = data.split_at_checked(len as usize) else {
                        return Err(FabricError::Protocol {
                            peer: st.name.clone(),
                            why: "a write is shorter than its segments".into(),
                        });
                    };
                    data = rest;
                    match mem.resolve(who, at, len, true) {
                        Ok((region, offset)) => targets.push((region, offset, part)),
                        Err(e) => bad = code(&e),
                    }
                }
                // All or nothing, as far as the checks go.
                if bad == 0 {
                    targets
                        .iter()
                        .for_each(|(region, at, part)| region.store(*at, part));
                }
                reply(frame::WROTE, bad, &[])?;
            }
            frame::MAP if unix => {
                let id = body
                    .get(..4)
                    .map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
                let answer = if id == 0 {
                    ro(&mem.table_fd).map(|f| {
                        (
                            f,
                            crate::memory::SLOTS * size_of::<crate::memory::Entry>(),
                            false,
                        )
                    })
                } else {
                    let r = mem
                        .regions
                        .read()
                        .unwrap_or_else(PoisonError::into_inner)
                        .get(&id)
                        .and_then(std::sync::Weak::upgrade);
                    r.and_then(|r| {
                        let a = r
                            .holders
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .get(&who)
                            .map(|h| h.0)?;
                        match a {
                            Access::ReadWrite => r.fd.try_clone().ok().map(|f| (f, r.size(), true)),
                            Access::Read => ro(&r.fd).map(|f| (f, r.size(), false)),
                        }
                    })
                };
                match answer {
                    None => reply(frame::MAPPED, 1, &[])?,
                    Some((fd, len, w)) => {
                        let b = wire::encode(&(len as u64, w));
                        let hd = frame::head(frame::MAPPED, 0, b.len(), h.id);
                        let o = out.lock().unwrap_or_else(PoisonError::into_inner);
                        let mut space =
                            [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                        let mut anc = rustix::net::SendAncillaryBuffer::new(&mut space);
                        let fds = [fd.as_fd()];
                        anc.push(rustix::net::SendAncillaryMessage::ScmRights(&fds));
                        rustix::net::sendmsg(
                            &o.fd,
                            &[std::io::IoSlice::new(&hd), std::io::IoSlice::new(&b)],
                            &mut anc,
                            rustix::net::SendFlags::NOSIGNAL,
                        )
                        .map_err(|e| local("sendmsg", e))?;
                    }
                }
            }
            _ => {
                return Err(FabricError::Protocol {
                    peer: st.name.clone(),
                    why: format!("frame {}", h.kind),
                });
            }
        }
    }
}
fn ro(fd: &OwnedFd) -> Option<OwnedFd> {
    use std::os::fd::AsRawFd;
    rustix::fs::open(
        format!("/proc/self/fd/{}", fd.as_raw_fd()),
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )
    .ok()
}
