//! The simplest thing that could be an address space: a map of pages. It
//! shares no code with the tree that it checks.

#![allow(clippy::unwrap_used)]

use aspace::{AddressSpace, Vma, VmaBacking};
use proto::Errno;
use proto::NodeId;
use proto::addr::{PAGE_SIZE, PAGES_PER_EXTENT, USER_MAX, USER_MIN, UserAddr, UserRange};
use proto::mem::{FileRef, MapFlags, Prot};
use proto::store::{FileHandle, FileId};
use std::collections::BTreeMap;
use std::sync::Arc;

const GAP: u64 = 256;
pub(crate) const TOP_PAGE: u64 = (USER_MAX.0 - (1 << 30)) / PAGE_SIZE;

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Page {
    prot: Prot,
    flags: MapFlags,
    /// Inode and offset of this page.
    file: Option<(u64, u64)>,
    accounted: bool,
}

#[derive(Clone, Default)]
pub(crate) struct Model {
    pub(crate) pages: BTreeMap<u64, Page>,
    pub(crate) brk: Option<(u64, u64)>,
    pub(crate) limit: usize,
}

pub(crate) fn file(ino: u64) -> FileRef {
    FileRef {
        id: FileId { dev: 1, ino },
        storage: NodeId(7),
        handle: FileHandle(vec![ino as u8]),
    }
}

pub(crate) fn backing(spec: Option<(u64, u64)>) -> VmaBacking {
    match spec {
        None => VmaBacking::Anonymous,
        Some((ino, offset)) => VmaBacking::File {
            file: Arc::new(file(ino)),
            offset,
        },
    }
}

pub(crate) fn range(page: u64, pages: u64) -> UserRange {
    UserRange::new(UserAddr(page * PAGE_SIZE), pages * PAGE_SIZE).unwrap()
}

fn own_writable(page: &Page, prot: Prot) -> bool {
    let own = !page.flags.has(MapFlags::SHARED) || page.file.is_none();
    own && prot.has(Prot::WRITE) && !page.flags.has(MapFlags::NORESERVE)
}

impl Model {
    pub(crate) fn new(limit: usize) -> Model {
        Model {
            limit,
            ..Model::default()
        }
    }

    /// Where pages next to each other are not alike.
    fn vmas(&self) -> usize {
        let mut n = 0;
        let mut last: Option<(u64, &Page)> = None;
        for (at, page) in &self.pages {
            let goes_on = last.is_some_and(|(before, p)| {
                let follows = match (p.file, page.file) {
                    (None, None) => true,
                    (Some((a, x)), Some((b, y))) => a == b && x + PAGE_SIZE == y,
                    _ => false,
                };
                let same = Page {
                    file: None,
                    ..p.clone()
                } == Page {
                    file: None,
                    ..page.clone()
                };
                before + 1 == *at && follows && same
            });
            n += usize::from(!goes_on);
            last = Some((*at, page));
        }
        n
    }

    /// The number of VMAs if an edge were forced at both ends of the pages.
    fn splits(&self, first: u64, count: u64) -> usize {
        let edge = |at: u64| {
            let (Some(a), Some(b)) = (self.pages.get(&(at - 1)), self.pages.get(&at)) else {
                return false;
            };
            let two = BTreeMap::from([(at - 1, a.clone()), (at, b.clone())]);
            Model {
                pages: two,
                ..Model::default()
            }
            .vmas()
                == 1
        };
        usize::from(edge(first)) + usize::from(edge(first + count))
    }

    fn is_free(&self, first: u64, count: u64) -> bool {
        self.pages.range(first..first + count).next().is_none()
    }

    fn is_clear(&self, first: u64, count: u64, flags: MapFlags) -> bool {
        let below = if flags.has(MapFlags::STACK) { GAP } else { 0 };
        let above = self.pages.range(first + count..).next();
        let kept = above.is_none_or(|(at, page)| {
            !page.flags.has(MapFlags::STACK) || at - (first + count) >= GAP
        });
        self.is_free(first - below, count + below) && kept
    }

    pub(crate) fn choose(&self, count: u64, hint: u64, flags: MapFlags) -> Result<u64, Errno> {
        let low_top = (1 << 31) / PAGE_SIZE;
        let low = flags.has(MapFlags::LOW);
        if hint != 0 && self.is_clear(hint, count, flags) && (!low || hint + count <= low_top) {
            return Ok(hint);
        }
        let top = if low { low_top } else { TOP_PAGE };
        (USER_MIN.page()..=top - count)
            .rev()
            .find(|first| self.is_clear(*first, count, flags))
            .ok_or(Errno::ENOMEM)
    }

    pub(crate) fn map(
        &mut self,
        at: u64,
        count: u64,
        prot: Prot,
        flags: MapFlags,
        file: Option<(u64, u64)>,
    ) -> Result<u64, Errno> {
        let fixed = flags.has(MapFlags::FIXED) || flags.has(MapFlags::NOREPLACE);
        let first = if fixed {
            at
        } else {
            self.choose(count, at, flags)?
        };
        if flags.has(MapFlags::NOREPLACE) && !self.is_free(first, count) {
            return Err(Errno::EEXIST);
        }
        if self.vmas() >= self.limit {
            return Err(Errno::ENOMEM);
        }
        let kept = MapFlags::SHARED
            .with(MapFlags::NORESERVE)
            .with(MapFlags::STACK);
        let flags = MapFlags(flags.0 & kept.0);
        for n in 0..count {
            let file = file.map(|(ino, offset)| (ino, offset + n * PAGE_SIZE));
            let mut page = Page {
                prot,
                flags,
                file,
                accounted: false,
            };
            page.accounted = own_writable(&page, prot);
            self.pages.insert(first + n, page);
        }
        Ok(first)
    }

    pub(crate) fn unmap(&mut self, first: u64, count: u64) {
        self.pages
            .retain(|at, _| !(first..first + count).contains(at));
    }

    pub(crate) fn protect(&mut self, first: u64, count: u64, prot: Prot) -> Result<(), Errno> {
        let whole = (first..first + count)
            .take_while(|at| self.pages.contains_key(at))
            .count();
        let splits = self.splits(first, whole as u64);
        if whole == 0 || (splits > 0 && self.vmas() + splits > self.limit) {
            return Err(Errno::ENOMEM);
        }
        for at in first..first + whole as u64 {
            let page = self.pages.get_mut(&at).unwrap();
            page.accounted |= own_writable(page, prot);
            page.prot = prot;
        }
        if whole as u64 == count {
            Ok(())
        } else {
            Err(Errno::ENOMEM)
        }
    }

    /// Whether the pages are of one VMA.
    fn is_one(&self, first: u64, count: u64) -> bool {
        let part: BTreeMap<_, _> = self
            .pages
            .range(first..first + count)
            .map(|(a, p)| (*a, p.clone()))
            .collect();
        part.len() as u64 == count
            && Model {
                pages: part,
                ..Model::default()
            }
            .vmas()
                == 1
    }

    pub(crate) fn remap(
        &mut self,
        old: u64,
        count: u64,
        new_count: u64,
        may_move: bool,
        to: Option<u64>,
    ) -> Result<u64, Errno> {
        let first = self.pages.get(&old).cloned().ok_or(Errno::EFAULT)?;
        if let Some(to) = to {
            if !may_move || (to < old + count && old < to + new_count) {
                return Err(Errno::EINVAL);
            }
        } else if new_count <= count {
            self.unmap(old + new_count, count - new_count);
            return Ok(old);
        }
        if !self.is_one(old, count) {
            return Err(Errno::EFAULT);
        }
        let (end, more) = (old + count, new_count.saturating_sub(count));
        let ends = self.splits(end, 0) == 0;
        let in_place = to.is_none() && ends && self.is_clear(end, more, MapFlags::default());
        if !in_place {
            if !may_move {
                return Err(Errno::ENOMEM);
            }
            if self.vmas() + 2 > self.limit {
                return Err(Errno::ENOMEM);
            }
        }
        let stack = MapFlags(first.flags.0 & MapFlags::STACK.0);
        let new = match to {
            _ if in_place => old,
            Some(to) => to,
            None => self.choose(new_count, 0, stack)?,
        };
        self.unmap(old, count);
        self.unmap(new, new_count);
        for n in 0..new_count {
            let file = first
                .file
                .map(|(ino, offset)| (ino, offset + n * PAGE_SIZE));
            let heap = if in_place { MapFlags::HEAP.0 } else { 0 };
            let flags = MapFlags(first.flags.0 & !(MapFlags::HEAP.0 ^ heap));
            self.pages.insert(
                new + n,
                Page {
                    file,
                    flags,
                    ..first.clone()
                },
            );
        }
        Ok(new)
    }

    pub(crate) fn brk(&mut self, addr: u64) -> u64 {
        let Some((start, end)) = self.brk else {
            return 0;
        };
        let page = |a: u64| a.div_ceil(PAGE_SIZE);
        if addr < start || page(addr) * PAGE_SIZE > USER_MAX.0 {
            return end;
        }
        if page(addr) > page(end) {
            let (first, count) = (page(end), page(addr) - page(end));
            let clear = self.is_clear(first, count, MapFlags::HEAP)
                && self.is_free(first, count + 1)
                && self.vmas() < self.limit;
            if !clear {
                return end;
            }
            for at in first..first + count {
                let prot = Prot::READ_WRITE;
                let flags = MapFlags::HEAP;
                self.pages.insert(
                    at,
                    Page {
                        prot,
                        flags,
                        file: None,
                        accounted: true,
                    },
                );
            }
        } else {
            self.unmap(page(addr), page(end) - page(addr));
        }
        self.brk = Some((start, addr));
        addr
    }

    pub(crate) fn extents(&self) -> Vec<u64> {
        let per = PAGES_PER_EXTENT as u64;
        let mut all: Vec<u64> = self
            .pages
            .iter()
            .filter(|(_, p)| p.accounted)
            .map(|(at, _)| at / per)
            .collect();
        all.dedup();
        all
    }

    /// Checks everything that can be asked of `space` against the pages.
    pub(crate) fn check(&self, space: &AddressSpace) {
        let shown: BTreeMap<u64, Page> = space.iter().flat_map(pages_of).collect();
        assert_eq!(shown, self.pages);
        assert_eq!(
            space.len(),
            self.vmas(),
            "neighbours that are alike are merged"
        );
        assert_eq!(space.total(), self.pages.len() as u64 * PAGE_SIZE);
        assert_eq!(space.extents().collect::<Vec<_>>(), self.extents());
        for number in self.extents().iter().flat_map(|n| n - 1..n + 2) {
            assert_eq!(space.is_accounted(number), self.extents().contains(&number));
        }
    }
}

fn pages_of(vma: &Vma) -> Vec<(u64, Page)> {
    let (prot, flags, accounted) = (vma.prot, vma.flags, vma.accounted);
    let page = |at: u64| {
        let file = match &vma.backing {
            VmaBacking::Anonymous => None,
            VmaBacking::File { file, offset } => {
                Some((file.id.ino, offset + (at * PAGE_SIZE - vma.range.start().0)))
            }
        };
        (
            at,
            Page {
                prot,
                flags,
                file,
                accounted,
            },
        )
    };
    vma.range.page_numbers().map(page).collect()
}
