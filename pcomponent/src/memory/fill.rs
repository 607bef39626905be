//! The middle of the path of a miss: where the bytes of a line come from, and
//! how they get into the program's pages.

use super::fault::Access;
use super::mappings::Mappings;
use super::remote::{Links, within};
use super::{Memory, Scratch};
use crate::fatal;
use crate::stats::{Counters, Split};
use aspace::{AddressSpace, Vma, VmaBacking};
use fabric::Segment;
use host::clock;
use proto::NodeId;
use proto::addr::{EXTENT_SIZE, PAGE_SIZE, RemoteAddr, UserAddr, UserRange};
use proto::mem::MapFlags;

/// Where some bytes of a line come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Source {
    Zero,
    Remote { node: NodeId, at: RemoteAddr },
}

/// A run of pages with one source and one host mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Piece {
    pub(super) start: u64,
    pub(super) len: u64,
    pub(super) source: Source,
    /// Of a file (for the count of misses by cause).
    pub(super) file: bool,
    vma_end: u64,
}

/// Which leases a plan goes by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Leases {
    /// Asks for those that are not held, or may be out of date.
    Ask,
    /// Those that are held; no message is sent.
    Held,
}

/// What came of a look at a range.
pub(super) enum Plan {
    Ready,
    /// The page at the address has no bytes to show.
    NoBacking,
}

static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

impl Memory {
    /// Finds out where each page of the run's lines comes from.
    pub(super) fn plan(
        &self,
        space: &AddressSpace,
        at: UserAddr,
        access: Access,
        leases: Leases,
        me: &mut Scratch,
    ) -> Plan {
        me.pieces.clear();
        let (wanted, alone) = (at.align_down(PAGE_SIZE), me.run.len() == 1);
        let (run, pieces) = (&me.run, &mut me.pieces);
        let line_of = |n: usize| run.get(n).map(|(line, _)| *line);
        let ascends = line_of(0) <= line_of(run.len().saturating_sub(1));
        let mut mappings = Mappings::of(space);
        for n in 0..run.len() {
            let (line, _) = run[if ascends { n } else { run.len() - 1 - n }];
            let Some(range) = self.range_of(line, 1) else {
                continue;
            };
            for (vma, part) in mappings.parts(range) {
                for page in part.page_numbers() {
                    let page = UserAddr(page * PAGE_SIZE);
                    match self.source(vma, page, access, (page == wanted, leases)) {
                        Some(source) => push_page(pieces, vma, page, source),
                        None if page == wanted || !alone => return Plan::NoBacking,
                        // A hole behind the page that was asked for does no harm.
                        None => self.pages.untouch(page),
                    }
                }
            }
        }
        Plan::Ready
    }

    /// Where `page` comes from; `wanted`: it is the one that was touched.
    fn source(
        &self,
        vma: &Vma,
        page: UserAddr,
        access: Access,
        (wanted, leases): (bool, Leases),
    ) -> Option<Source> {
        let ask = leases == Leases::Ask;
        if self.pages.is_remote(page) {
            let number = page.extent();
            let extent = self.pages.extent_or_new(number)?;
            let held = if ask {
                self.remote.lease(extent, number).ok()?
            } else {
                extent.lease()?
            };
            return Some(Source::Remote {
                node: held.node,
                at: within(&held, page),
            });
        }
        match &vma.backing {
            VmaBacking::Anonymous => Some(Source::Zero),
            VmaBacking::File { file, offset } => {
                let at = offset + (page.0 - vma.range.start().0);
                let writable = vma.flags.has(MapFlags::SHARED) && access == Access::Write;
                let (index, inside) = (at / EXTENT_SIZE, at % EXTENT_SIZE);
                let mut held = if ask {
                    self.remote.file_lease(file, index, writable).ok()?
                } else {
                    let held = self.remote.held_file(file, index)?;
                    Some(held).filter(|held| held.lease.lease.writable || !writable)?
                };
                // The file may have grown since. Lines fetched ahead do not
                // ask: streams run into the ends of files all the time.
                if ask && wanted && inside >= held.lease.valid {
                    held = self.remote.renew_file_lease(file, index, writable).ok()?;
                }
                (inside < held.lease.valid).then_some(Source::Remote {
                    node: held.node,
                    at: RemoteAddr {
                        key: held.lease.lease.key,
                        offset: inside,
                    },
                })
            }
        }
    }

    /// Brings the bytes and installs the pages, so that `write`s are let through
    /// or fault. `None`: a lease was revoked. Otherwise whether they are let
    /// through: always to zeros.
    pub(super) fn fill(
        &self,
        (access, write): (Access, bool),
        me: &mut Scratch,
        split: &mut Split,
        counters: &Counters,
    ) -> Option<bool> {
        let before = clock::now();
        if me.pieces.iter().all(|p| p.source == Source::Zero) {
            self.install_zeros(access, me);
            split.install += clock::now().since(before);
            return Some(true);
        }
        if let Some(valid) = self.fill_all_mapped(!write, me, split, counters) {
            return valid.then_some(write);
        }
        let fetched = self.gather(me, counters)?;
        counters.fetched(fetched);
        let arrived = clock::now();
        split.wire += arrived.since(before);
        self.install_gathered(me, |_| !write);
        split.install += clock::now().since(arrived);
        Some(write)
    }

    /// Installs straight from the memory component's frames where all of them are
    /// mapped here. `None`: they are not; `Some(false)`: a lease is void.
    fn fill_all_mapped(
        &self,
        protect: bool,
        me: &mut Scratch,
        split: &mut Split,
        counters: &Counters,
    ) -> Option<bool> {
        // Pieces that are installed stay, whatever becomes of the next ones. So
        // these must be there: the process's own are, while the address space is
        // locked, and a second attempt finds them. A file may become shorter.
        let alone = me.pieces.len() == 1;
        let unsure = |p: &Piece| p.source == Source::Zero || (p.file && !alone);
        if me.pieces.iter().any(unsure) {
            return None;
        }
        let before = clock::now();
        for n in 0..me.pieces.len() {
            if !self.fill_mapped(me.pieces[n], protect, &mut me.links, counters)? {
                return Some(false);
            }
        }
        split.install += clock::now().since(before);
        Some(true)
    }

    /// The same for one piece.
    fn fill_mapped(
        &self,
        piece: Piece,
        protect: bool,
        links: &mut Links,
        counters: &Counters,
    ) -> Option<bool> {
        let Source::Remote { node, at } = piece.source else {
            return None;
        };
        let mut done = None;
        let len = piece.len;
        let sound = self.remote.transfer_over(links, node, |connection| {
            let Some(src) = connection.mapped(at, len as usize) else {
                return Ok(());
            };
            // SAFETY: the fabric keeps the mapping for as long as the process
            // lives, and a revoked key reads as anything but never faults.
            let result = unsafe { self.uffd.copy_raw(piece.start, src, len, protect) };
            match result {
                Ok(n) if n == len => {}
                // Part was present: page by page settles it.
                Ok(_) | Err(_) => return Ok(()),
            }
            done = Some(connection.still_valid(at));
            Ok(())
        });
        if !sound {
            return Some(false);
        }
        match done {
            Some(true) => {
                counters.fetched(len);
                counters.read_from(node, len);
            }
            Some(false) => {
                // What was installed is not to be seen.
                let span = [host::mapping::Span {
                    start: piece.start,
                    len,
                }];
                // SAFETY: the pages are the program's, the line is ours (busy).
                if let Err(e) = unsafe { self.dropper.drop_pages(&span) } {
                    fatal::host("madvise", e);
                }
            }
            None => {}
        }
        done
    }

    /// Whether bytes of the pieces must come over the fabric: the memory component's
    /// frames are not mapped here.
    pub(super) fn crosses_the_wire(&self, me: &mut Scratch) -> bool {
        let mut crosses = false;
        for piece in &me.pieces {
            if let Source::Remote { node, at } = piece.source {
                let sound = self
                    .remote
                    .transfer_over(&mut me.links, node, |connection| {
                        crosses |= connection.mapped(at, piece.len as usize).is_none();
                        Ok(())
                    });
                crosses |= !sound;
            }
        }
        crosses
    }

    /// Brings the bytes of all pieces into the thread's buffer, one behind the
    /// other.
    pub(super) fn gather(&self, me: &mut Scratch, counters: &Counters) -> Option<u64> {
        let len = me.pieces.iter().map(|p| p.len as usize).sum();
        if me.buffer.len() < len {
            me.buffer.resize(len, 0);
        }
        me.segments.clear();
        let (mut fetched, mut local) = (0, 0);
        for piece in &me.pieces {
            match piece.source {
                Source::Zero => me.buffer[local..local + piece.len as usize].fill(0),
                Source::Remote { node, at } => {
                    fetched += piece.len;
                    let segment = Segment {
                        local: local as u32,
                        len: piece.len as u32,
                        remote: at,
                    };
                    me.segments.push((node, segment));
                }
            }
            local += piece.len as usize;
        }
        while let Some(node) = me.next_node() {
            let dst = &mut me.buffer[..len];
            if !self.remote.read(&mut me.links, node, &me.posted, dst) {
                return None;
            }
            counters.read_from(node, Segment::total(&me.posted) as u64);
        }
        Some(fetched)
    }

    /// Installs what [`Memory::gather`] has brought; stores to the n-th piece fault
    /// where `protect` says so of it.
    pub(super) fn install_gathered(&self, me: &Scratch, protect: impl Fn(usize) -> bool) {
        let mut rest = &me.buffer[..];
        for (n, piece) in me.pieces.iter().enumerate() {
            let (bytes, behind) = rest.split_at(piece.len as usize);
            self.install(piece.start, bytes, protect(n));
            rest = behind;
        }
    }

    /// Installs bytes page by page where some of them are present already.
    fn install(&self, start: u64, bytes: &[u8], protect: bool) {
        match self.uffd.copy(start, bytes, protect) {
            Ok(n) if n == bytes.len() as u64 => return,
            Err(e) if e.0 != libc::EEXIST && e.0 != libc::ENOENT => fatal::host("UFFDIO_COPY", e),
            _ => {}
        }
        for (n, page) in bytes.chunks(PAGE_SIZE as usize).enumerate() {
            match self.uffd.copy(start + n as u64 * PAGE_SIZE, page, protect) {
                Err(e) if e.0 != libc::EEXIST => fatal::host("UFFDIO_COPY", e),
                _ => {}
            }
        }
    }

    /// First touches: zeros from nowhere, no message. A load maps the host's
    /// shared page of zeros, a store needs a page of its own.
    pub(super) fn install_zeros(&self, access: Access, me: &Scratch) {
        for piece in &me.pieces {
            if access == Access::Write {
                let mut at = piece.start;
                while at < piece.start + piece.len {
                    let n = (piece.start + piece.len - at).min(ZEROS.len() as u64);
                    self.install(at, &ZEROS[..n as usize], false);
                    at += n;
                }
                continue;
            }
            match self.uffd.zeropage(piece.start, piece.len) {
                Ok(n) if n == piece.len => {}
                Err(e) if e.0 != libc::EEXIST && e.0 != libc::ENOENT => {
                    fatal::host("UFFDIO_ZEROPAGE", e)
                }
                _ => {
                    for page in (0..piece.len).step_by(PAGE_SIZE as usize) {
                        match self.uffd.zeropage(piece.start + page, PAGE_SIZE) {
                            Err(e) if e.0 != libc::EEXIST => fatal::host("UFFDIO_ZEROPAGE", e),
                            _ => {}
                        }
                    }
                }
            }
        }
    }

    /// Forgets the leases that `range` is read under, so that the next plan
    /// asks for new ones.
    pub(super) fn drop_leases(&self, space: &AddressSpace, range: UserRange) {
        for number in range.extents() {
            if let Some(extent) = self.pages.extent(number) {
                extent.set_lease(None);
            }
        }
        for vma in space.overlapping(range) {
            if let VmaBacking::File { file, .. } = &vma.backing {
                self.remote.forget_file(file.storage, file.id);
            }
        }
    }
}

/// Adds a page to the last piece where it continues it.
fn push_page(pieces: &mut Vec<Piece>, vma: &Vma, page: UserAddr, source: Source) {
    let vma_end = vma.range.end().0;
    let file = matches!(vma.backing, VmaBacking::File { .. });
    if let Some(last) = pieces.last_mut() {
        let adjoins = last.start + last.len == page.0 && last.vma_end == vma_end;
        let same = match (last.source, source) {
            (Source::Zero, Source::Zero) => true,
            (Source::Remote { node, at }, Source::Remote { node: n, at: a }) => {
                node == n && at.plus(last.len) == a
            }
            _ => false,
        };
        if adjoins && same {
            last.len += PAGE_SIZE;
            return;
        }
    }
    pieces.push(Piece {
        start: page.0,
        len: PAGE_SIZE,
        source,
        file,
        vma_end,
    });
}
