//! The asking side.
use crate::auth::{mac, random, same};
use crate::frame::{self, Stream};
use crate::memory::{Entry, Mapping, SLOTS};
use crate::server::SEG;
use crate::{Backend, BackendChoice, Credential, Emulation, FabricError, Segment};
use proto::addr::RemoteAddr;
use proto::{Identity, wire};
use rustix::fd::OwnedFd;
use serde::{Serialize, de::DeserializeOwned};
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};
/// How connections are made and used.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which backend.
    pub choice: BackendChoice,
    /// Longest wait.
    pub connect_timeout: Duration,
    /// Longest wait.
    pub call_timeout: Duration,
    /// Emulated network, added to every operation.
    pub emulation: Option<Emulation>,
    /// Descriptors are moved to this number or above.
    pub fd_floor: Option<i32>,
}
impl Default for Options {
    fn default() -> Self {
        Options {
            choice: BackendChoice::Auto,
            connect_timeout: Duration::from_secs(2),
            call_timeout: Duration::from_secs(5),
            emulation: None,
            fd_floor: None,
        }
    }
}
type Mapped = Arc<(Mapping, bool)>;

/// What all connections of a process to one peer share.
#[derive(Default)]
struct Shared {
    /// Mappings by region; `true` for writable ones.
    regions: RwLock<HashMap<u32, Mapped>>,
    /// Grants whose pages have been mapped: nonce by slot.
    populated: Mutex<HashMap<u32, u64>>,
}

type Maps = Arc<Shared>;

/// The mappings belong to one start of the peer: a restarted one has others
/// under the same numbers.
type PerStart = Mutex<(u64, Maps)>;

fn maps_of(known: &PerStart, start: u64) -> Maps {
    let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
    if known.0 != start {
        *known = (start, Maps::default());
    }
    known.1.clone()
}

/// Regions with higher numbers are looked up in the shared table.
const MOST_CACHED: usize = 1 << 16;
/// How many one-sided operations may go by before the peer's death is seen.
const ALIVE_EVERY: u32 = 64;
/// One connection, for one thread at a time: calls and one-sided transfers.
pub struct Connection {
    st: Stream,
    peer: Identity,
    backend: Backend,
    options: Options,
    next: u64,
    broken: bool,
    maps: Maps,
    cache: Vec<Option<Mapped>>,
    seen: Vec<u64>,
    unchecked: u32,
}
fn local(what: &str, why: impl std::fmt::Display) -> FabricError {
    FabricError::Local {
        what: what.into(),
        why: why.to_string(),
    }
}
impl Connection {
    /// Dials `addrs` in order, as far as the chosen backend allows, and proves
    /// who we are.
    ///
    /// # Errors
    /// Unreachable, or refused with a reason.
    pub fn open(
        addrs: &[String],
        credential: &Credential,
        options: &Options,
    ) -> Result<Connection, FabricError> {
        Self::open_with(addrs, credential, options, &PerStart::default())
    }
    fn open_with(
        addrs: &[String],
        credential: &Credential,
        options: &Options,
        maps: &PerStart,
    ) -> Result<Connection, FabricError> {
        let mut last = FabricError::Unreachable {
            addr: addrs.join(", "),
            why: "no address fits the fabric chosen".into(),
        };
        for a in addrs {
            let fits = match options.choice {
                BackendChoice::Auto => true,
                BackendChoice::Shm => a.starts_with("shm:"),
                BackendChoice::Tcp => a.starts_with("tcp:"),
            };
            if !fits {
                continue;
            }
            match Self::dial(a, credential, options, maps) {
                Ok(c) => return Ok(c),
                Err(e) => last = e,
            }
        }
        Err(last)
    }
    fn dial(
        a: &str,
        credential: &Credential,
        options: &Options,
        maps: &PerStart,
    ) -> Result<Connection, FabricError> {
        let un = |why: String| FabricError::Unreachable {
            addr: a.into(),
            why,
        };
        let (fd, backend): (OwnedFd, _) = if let Some(p) = a.strip_prefix("shm:") {
            (
                std::os::unix::net::UnixStream::connect(p)
                    .map_err(|e| un(e.to_string()))?
                    .into(),
                Backend::Shm,
            )
        } else {
            let hp = a
                .strip_prefix("tcp:")
                .ok_or_else(|| un("unknown address".into()))?;
            let sa = std::net::ToSocketAddrs::to_socket_addrs(hp)
                .map_err(|e| un(e.to_string()))?
                .next()
                .ok_or_else(|| un("no address".into()))?;
            let t = std::net::TcpStream::connect_timeout(&sa, options.connect_timeout)
                .map_err(|e| un(e.to_string()))?;
            let _ = t.set_nodelay(true);
            (t.into(), Backend::Tcp)
        };
        let fd = match options.fd_floor {
            Some(f) => host::descriptor::raise(fd, f).map_err(|e| local("dup", e))?,
            None => fd,
        };
        let limit = options.connect_timeout;
        let mut st = Stream::new(fd, a.to_string());
        let nonce: [u8; 16] = random()?;
        let hello = wire::encode(&(wire::PROTOCOL_VERSION, credential.identity, nonce));
        st.send(
            &[&frame::head(frame::MSG, 0, hello.len(), 0), &hello],
            limit,
        )?;
        let dl = Some(Instant::now() + limit);
        let get = |st: &mut Stream| -> Result<Vec<u8>, FabricError> {
            let h = st.recv_head(dl, limit)?;
            let mut b = vec![0; h.len];
            st.recv(&mut b, dl, limit)?;
            if h.status != 0 {
                return Err(FabricError::Rejected {
                    addr: a.into(),
                    why: String::from_utf8_lossy(&b).into(),
                });
            }
            Ok(b)
        };
        let theirs = get(&mut st)?;
        let proof = mac(&credential.secret.0, &[b"client", &nonce, &theirs]);
        st.send(&[&frame::head(frame::MSG, 0, 32, 0), &proof], limit)?;
        let b = get(&mut st)?;
        let (peer, p, start): (Identity, [u8; 32], u64) =
            wire::decode(&b).map_err(|e| FabricError::Protocol {
                peer: a.into(),
                why: e.to_string(),
            })?;
        if !same(
            &p,
            &mac(&credential.secret.0, &[b"server", &nonce, &theirs]),
        ) {
            return Err(FabricError::Rejected {
                addr: a.into(),
                why: "it does not know the cluster key".into(),
            });
        }
        st.spin = Duration::from_micros(20);
        Ok(Connection {
            st,
            peer,
            backend,
            options: options.clone(),
            next: 1,
            broken: false,
            maps: maps_of(maps, start),
            cache: Vec::new(),
            seen: Vec::new(),
            unchecked: 0,
        })
    }
    /// What carries it.
    pub fn backend(&self) -> Backend {
        self.backend
    }
    /// Who is at the other end.
    pub fn peer(&self) -> Identity {
        self.peer
    }
    /// Whether it can still be used.
    pub fn is_broken(&self) -> bool {
        self.broken
    }
    fn note<T>(&mut self, r: Result<T, FabricError>) -> Result<T, FabricError> {
        if let Err(e) = &r
            && e.is_fatal()
        {
            self.broken = true;
        }
        r
    }
    /// Sends a request and waits for its reply.
    ///
    /// # Errors
    /// A dead or silent peer; the connection is broken then.
    pub fn call(&mut self, request: &[u8]) -> Result<Vec<u8>, FabricError> {
        let t = self.options.call_timeout;
        self.call_timeout(request, t)
    }
    /// Sends a request and waits for its reply.
    ///
    /// # Errors
    /// A dead or silent peer; the connection is broken then.
    pub fn call_timeout(
        &mut self,
        request: &[u8],
        timeout: Duration,
    ) -> Result<Vec<u8>, FabricError> {
        let r = self
            .exchange(frame::MSG, &[request], timeout)
            .and_then(|(s, b)| {
                if s == 0 {
                    Ok(b)
                } else {
                    Err(FabricError::Broken {
                        peer: self.st.name.clone(),
                        why: "it gave the request up".into(),
                    })
                }
            });
        if let Some(e) = &self.options.emulation {
            e.delay(Instant::now(), request.len());
        }
        self.note(r)
    }
    fn exchange(
        &mut self,
        kind: u8,
        parts: &[&[u8]],
        limit: Duration,
    ) -> Result<(u8, Vec<u8>), FabricError> {
        self.check_sound()?;
        let len: usize = parts.iter().map(|p| p.len()).sum();
        if len > frame::MAX {
            return Err(FabricError::Invalid(format!("a message of {len} bytes")));
        }
        let id = self.next;
        self.next += 1;
        let h = frame::head(kind, 0, len, id);
        let mut all: Vec<&[u8]> = vec![&h];
        all.extend(parts);
        self.st.send(&all, limit)?;
        let dl = Some(Instant::now() + limit);
        let h = self.st.recv_head(dl, limit)?;
        if h.id != id {
            return Err(FabricError::Protocol {
                peer: self.st.name.clone(),
                why: "answer to another question".into(),
            });
        }
        let mut b = vec![0; h.len];
        self.st.recv(&mut b, dl, limit)?;
        Ok((h.status, b))
    }
    /// A call with typed messages.
    ///
    /// # Errors
    /// As for a call; a reply that does not decode.
    pub fn ask<Q: Serialize, R: DeserializeOwned>(&mut self, q: &Q) -> Result<R, FabricError> {
        let b = self.call(&wire::encode(q))?;
        wire::decode(&b).map_err(|e| FabricError::Protocol {
            peer: self.st.name.clone(),
            why: e.to_string(),
        })
    }
    /// The mapping of a region of the peer's: where, and whether for writing.
    fn map(&mut self, region: u32) -> Result<(*mut u8, bool, usize), FabricError> {
        if let Some(Some(m)) = self.cache.get(region as usize) {
            return Ok((m.0.at, m.1, m.0.len));
        }
        let known = {
            let regions = self
                .maps
                .regions
                .read()
                .unwrap_or_else(PoisonError::into_inner);
            regions.get(&region).cloned()
        };
        let m = match known {
            Some(m) => m,
            None => {
                let m = Arc::new(self.fetch_region(region)?);
                let mut regions = self
                    .maps
                    .regions
                    .write()
                    .unwrap_or_else(PoisonError::into_inner);
                regions.entry(region).or_insert(m).clone()
            }
        };
        let at = region as usize;
        if at < MOST_CACHED {
            if self.cache.len() <= at {
                self.cache.resize(at + 1, None);
            }
            self.cache[at] = Some(m.clone());
        }
        Ok((m.0.at, m.1, m.0.len))
    }

    /// Asks the peer for a region's memfd and maps it.
    fn fetch_region(&mut self, region: u32) -> Result<(Mapping, bool), FabricError> {
        let limit = self.options.call_timeout;
        self.st.send(
            &[&frame::head(frame::MAP, 0, 4, 0), &region.to_le_bytes()],
            limit,
        )?;
        self.st.wait_readable(limit)?;
        let mut b = [0u8; 64];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut anc = rustix::net::RecvAncillaryBuffer::new(&mut space);
        let m = rustix::net::recvmsg(
            &self.st.fd,
            &mut [std::io::IoSliceMut::new(&mut b)],
            &mut anc,
            rustix::net::RecvFlags::CMSG_CLOEXEC,
        )
        .map_err(|e| local("recvmsg", e))?;
        let rights = |a| match a {
            rustix::net::RecvAncillaryMessage::ScmRights(mut r) => r.next(),
            _ => None,
        };
        let fd = anc.drain().find_map(rights).ok_or(FabricError::BadKey)?;
        let body = b.get(frame::HEAD..m.bytes).unwrap_or_default();
        let (len, writable): (u64, bool) = wire::decode(body).map_err(|e| local("map", e))?;
        // A length that the descriptor does not have would fault later.
        let real = rustix::fs::fstat(&fd).map_or(0, |s| s.st_size.unsigned_abs());
        let seals = rustix::fs::fcntl_get_seals(&fd).unwrap_or(rustix::fs::SealFlags::empty());
        if len == 0 || len > real || !seals.contains(rustix::fs::SealFlags::SHRINK) {
            return Err(FabricError::Protocol {
                peer: self.st.name.clone(),
                why: format!("a region of {len} bytes in a file of {real}"),
            });
        }
        Ok((Mapping::new(&fd, len as usize, writable)?, writable))
    }

    fn entry(&mut self, slot: u32) -> Result<*const Entry, FabricError> {
        let (table, _, size) = self.map(0)?;
        if slot as usize >= SLOTS.min(size / size_of::<Entry>()) {
            return Err(FabricError::BadKey);
        }
        Ok(table.cast::<Entry>().wrapping_add(slot as usize))
    }

    /// A dead peer's memory is still mapped here: look at the socket now and
    /// then, which its end closes. At most this many operations go by unseen.
    fn check_alive(&mut self) -> Result<(), FabricError> {
        self.unchecked += 1;
        if self.unchecked < ALIVE_EVERY {
            return Ok(());
        }
        self.unchecked = 0;
        self.st.check_open()
    }

    fn place(&mut self, at: RemoteAddr, len: usize, write: bool) -> Result<*mut u8, FabricError> {
        self.check_alive()?;
        let e = self.entry(at.key.slot)?;
        // SAFETY: the table's mapping lives as long as this connection, and
        // the slot is inside it; entries are atomics.
        let e = unsafe { &*e };
        if at.key.nonce == 0 || e.nonce.load(Ordering::Acquire) != at.key.nonce {
            return Err(FabricError::BadKey);
        }
        let (start, granted) = (
            e.offset.load(Ordering::Relaxed),
            e.len.load(Ordering::Relaxed),
        );
        if at
            .offset
            .checked_add(len as u64)
            .is_none_or(|end| end > granted)
        {
            return Err(FabricError::OutOfBounds);
        }
        let writable = e.region_access.load(Ordering::Relaxed) & 1 != 0;
        if write && !writable {
            return Err(FabricError::AccessDenied);
        }
        let granted_region = e.region_access.load(Ordering::Relaxed) >> 8;
        if granted_region != u64::from(at.key.region) {
            return Err(FabricError::BadKey);
        }
        let (base, mapped_writable, size) = self.map(at.key.region)?;
        if start
            .checked_add(granted)
            .is_none_or(|end| end > size as u64)
        {
            return Err(FabricError::OutOfBounds);
        }
        if write && !mapped_writable {
            return Err(FabricError::AccessDenied);
        }
        if writable && mapped_writable {
            self.populate(at, base.wrapping_add(start as usize), granted as usize);
        }
        Ok(base.wrapping_add((start + at.offset) as usize))
    }

    /// On the first use of a grant its pages are mapped at once: one call
    /// instead of a fault for each page.
    fn populate(&mut self, at: RemoteAddr, start: *mut u8, len: usize) {
        let slot = at.key.slot as usize;
        if self.seen.get(slot) == Some(&at.key.nonce) {
            return;
        }
        if self.seen.len() <= slot {
            self.seen.resize(slot + 1, 0);
        }
        self.seen[slot] = at.key.nonce;
        let mut done = self
            .maps
            .populated
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if done.insert(at.key.slot, at.key.nonce) != Some(at.key.nonce) {
            drop(done);
            // SAFETY: the grant lies inside the mapping, which stays.
            let _ = unsafe {
                rustix::mm::madvise(start.cast(), len, rustix::mm::Advice::LinuxPopulateWrite)
            };
        }
    }

    /// Whether the key has not been revoked: asked after a read through
    /// [`Connection::mapped`].
    pub fn still_valid(&mut self, at: RemoteAddr) -> bool {
        // SAFETY: inside the table.
        self.entry(at.key.slot)
            .is_ok_and(|e| unsafe { &*e }.nonce.load(Ordering::Acquire) == at.key.nonce)
    }
    /// Where granted memory is mapped in this process, for reading. `None`
    /// where it must be fetched.
    pub fn mapped(&mut self, at: RemoteAddr, len: usize) -> Option<*const u8> {
        if self.broken || self.backend != Backend::Shm || self.options.emulation.is_some() {
            return None;
        }
        let place = self.place(at, len, false);
        self.note(place).ok().map(<*mut u8>::cast_const)
    }

    /// A link that broke stays broken: what came after would be out of step.
    fn check_sound(&self) -> Result<(), FabricError> {
        if self.broken {
            return Err(FabricError::Broken {
                peer: self.st.name.clone(),
                why: "it failed before".into(),
            });
        }
        Ok(())
    }

    /// Reads one-sided; `local` of the segments are offsets in `dst`.
    ///
    /// # Errors
    /// `BadKey`, `OutOfBounds`, `AccessDenied`; a dead peer.
    pub fn read(&mut self, segs: &[Segment], dst: &mut [u8]) -> Result<(), FabricError> {
        let r = self
            .check_sound()
            .and_then(|()| check_segments(segs, dst.len()))
            .and_then(|()| self.read_inner(segs, dst));
        if let Some(e) = &self.options.emulation {
            e.delay(Instant::now(), segs.iter().map(|s| s.len as usize).sum());
        }
        self.note(r)
    }
    fn read_inner(&mut self, segs: &[Segment], dst: &mut [u8]) -> Result<(), FabricError> {
        if self.backend == Backend::Shm {
            for s in segs {
                let p = self.place(s.remote, s.len as usize, false)?;
                let to = &mut dst[s.local as usize..(s.local + s.len) as usize];
                // SAFETY: `place` checked that the range lies inside the mapping.
                unsafe { std::ptr::copy_nonoverlapping(p, to.as_mut_ptr(), to.len()) };
                if !self.still_valid(s.remote) {
                    return Err(FabricError::BadKey);
                }
            }
            return Ok(());
        }
        let body: Vec<u8> = segs.iter().flat_map(pack).collect();
        let limit = self.options.call_timeout;
        let (st, b) = self.exchange(frame::READ, &[&body], limit)?;
        status(st)?;
        let mut b = &b[..];
        for s in segs {
            let Some((h, t)) = b.split_at_checked(s.len as usize) else {
                return Err(FabricError::Protocol {
                    peer: self.st.name.clone(),
                    why: "short read".into(),
                });
            };
            dst[s.local as usize..(s.local + s.len) as usize].copy_from_slice(h);
            b = t;
        }
        Ok(())
    }
    /// Writes one-sided; `local` of the segments are offsets in `src`.
    ///
    /// # Errors
    /// As for [`Connection::read`].
    pub fn write(&mut self, segs: &[Segment], src: &[u8]) -> Result<(), FabricError> {
        let r = self
            .check_sound()
            .and_then(|()| check_segments(segs, src.len()))
            .and_then(|()| self.write_inner(segs, src));
        if let Some(e) = &self.options.emulation {
            e.delay(Instant::now(), segs.iter().map(|s| s.len as usize).sum());
        }
        self.note(r)
    }
    fn write_inner(&mut self, segs: &[Segment], src: &[u8]) -> Result<(), FabricError> {
        if self.backend == Backend::Shm {
            for s in segs {
                let p = self.place(s.remote, s.len as usize, true)?;
                let from = &src[s.local as usize..(s.local + s.len) as usize];
                // SAFETY: `place` checked that the range lies inside the mapping.
                unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), p, from.len()) };
                if !self.still_valid(s.remote) {
                    return Err(FabricError::BadKey);
                }
            }
            return Ok(());
        }
        let mut body = (segs.len() as u32).to_le_bytes().to_vec();
        body.extend(segs.iter().flat_map(pack));
        let mut parts: Vec<&[u8]> = vec![&body];
        parts.extend(
            segs.iter()
                .map(|s| &src[s.local as usize..(s.local + s.len) as usize]),
        );
        let limit = self.options.call_timeout;
        let (st, _) = self.exchange(frame::WRITE, &parts, limit)?;
        status(st)
    }
}
fn pack(s: &Segment) -> [u8; SEG] {
    let mut b = [0; SEG];
    let k = s.remote.key;
    b[..4].copy_from_slice(&k.region.to_le_bytes());
    b[4..8].copy_from_slice(&k.slot.to_le_bytes());
    b[8..16].copy_from_slice(&k.nonce.to_le_bytes());
    b[16..24].copy_from_slice(&s.remote.offset.to_le_bytes());
    b[24..].copy_from_slice(&s.len.to_le_bytes());
    b
}
/// Segments must lie inside the local buffer.
fn check_segments(segments: &[Segment], len: usize) -> Result<(), FabricError> {
    let inside = |s: &Segment| s.local as usize + s.len as usize <= len;
    if segments.iter().all(inside) {
        Ok(())
    } else {
        Err(FabricError::Invalid(
            "a segment leaves its local buffer".into(),
        ))
    }
}

fn status(s: u8) -> Result<(), FabricError> {
    match s {
        0 => Ok(()),
        1 => Err(FabricError::BadKey),
        2 => Err(FabricError::OutOfBounds),
        _ => Err(FabricError::AccessDenied),
    }
}
struct PeerInner {
    addrs: Mutex<Vec<String>>,
    credential: Credential,
    options: Options,
    idle: Mutex<Vec<Connection>>,
    maps: PerStart,
}
/// A pool of connections to one component.
#[derive(Clone)]
pub struct Peer(Arc<PeerInner>);
/// A connection taken from the pool; a sound one goes back.
pub struct PeerGuard<'a> {
    peer: &'a PeerInner,
    c: Option<Connection>,
}
impl Drop for PeerGuard<'_> {
    fn drop(&mut self) {
        if let Some(c) = self.c.take()
            && !c.broken
        {
            self.peer
                .idle
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(c);
        }
    }
}
impl std::ops::Deref for PeerGuard<'_> {
    type Target = Connection;
    fn deref(&self) -> &Connection {
        self.c.as_ref().unwrap_or_else(|| unreachable!())
    }
}
impl std::ops::DerefMut for PeerGuard<'_> {
    fn deref_mut(&mut self) -> &mut Connection {
        self.c.as_mut().unwrap_or_else(|| unreachable!())
    }
}
impl Peer {
    /// Without connections yet.
    pub fn new(addrs: Vec<String>, credential: Credential, options: Options) -> Peer {
        Peer(Arc::new(PeerInner {
            addrs: Mutex::new(addrs),
            credential,
            options,
            idle: Mutex::default(),
            maps: PerStart::default(),
        }))
    }
    /// An idle connection, or a new one.
    ///
    /// # Errors
    /// As for [`Connection::open`].
    pub fn get(&self) -> Result<PeerGuard<'_>, FabricError> {
        let idle = self
            .0
            .idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        let c = match idle {
            Some(c) => c,
            None => {
                let a = self
                    .0
                    .addrs
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .clone();
                Connection::open_with(&a, &self.0.credential, &self.0.options, &self.0.maps)?
            }
        };
        Ok(PeerGuard {
            peer: &self.0,
            c: Some(c),
        })
    }
    /// A call with typed messages.
    ///
    /// # Errors
    /// As for a call; a reply that does not decode.
    pub fn ask<Q: Serialize, R: DeserializeOwned>(&self, q: &Q) -> Result<R, FabricError> {
        self.get()?.ask(q)
    }
    /// Where the component listens now.
    pub fn set_addrs(&self, addrs: Vec<String>) {
        *self.0.addrs.lock().unwrap_or_else(PoisonError::into_inner) = addrs;
    }
}
