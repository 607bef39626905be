//! Shared mappings of files: what is cached of them goes to the files' caches.

use super::{Memory, Scratch};
use crate::stats::Counters;
use aspace::{AddressSpace, VmaBacking};
use proto::addr::UserRange;
use proto::mem::MapFlags;
use proto::store::FileId;
use proto::{Errno, NodeId};
use std::sync::atomic::Ordering;

impl Memory {
    /// Writes resident pages of shared file mappings in `range` back.
    pub(super) fn flush_shared(
        &self,
        space: &AddressSpace,
        range: UserRange,
        me: &mut Scratch,
        counters: &Counters,
    ) {
        me.victims.clear();
        for vma in space.overlapping(range) {
            if is_shared_file(vma)
                && let Some(part) = vma.range.intersect(range)
            {
                let shift = self.cache.shape().line_shift;
                let to = crate::excache::LineNo(((part.end().0 - 1) >> shift) + 1);
                self.cache
                    .take_range(self.line_of(part.start()), to, &mut me.victims);
            }
        }
        me.victims.sort_unstable_by_key(|v| v.line);
        self.evict_victims(space, me, counters);
    }

    /// msync(2): shared file pages of `range` are at the memory component, and
    /// with `sync` in storage.
    ///
    /// # Errors
    /// `ENOMEM` for a hole; `EIO`.
    pub(crate) fn sync(
        &self,
        range: UserRange,
        sync: bool,
        me: &mut Scratch,
        counters: &Counters,
    ) -> Result<(), Errno> {
        let files = {
            let space = self.space_mut();
            self.flush_shared(&space, range, me, counters);
            if !space.is_mapped(range) {
                return Err(Errno::ENOMEM);
            }
            let mut files = Vec::new();
            for vma in space.overlapping(range).filter(|v| is_shared_file(v)) {
                if let VmaBacking::File { file, .. } = &vma.backing
                    && !files.contains(file)
                {
                    files.push(file.clone());
                }
            }
            files
        };
        for file in files.iter().filter(|_| sync) {
            self.remote.file_sync(file)?;
        }
        Ok(())
    }

    /// Before a file is read, written or synchronised otherwise, and after it was
    /// written: what is cached of it under shared mappings goes to the file's
    /// cache, and comes back from there, so that mapping and file show the same.
    pub(crate) fn settle_file(
        &self,
        storage: NodeId,
        id: FileId,
        me: &mut Scratch,
        counters: &Counters,
    ) {
        if !self.shares_files.load(Ordering::Relaxed) {
            return;
        }
        let space = self.space_mut();
        let is_of_it = |vma: &&aspace::Vma| match &vma.backing {
            VmaBacking::File { file, .. } => (file.storage, file.id) == (storage, id),
            VmaBacking::Anonymous => false,
        };
        let mapped = space.iter().filter(|vma| is_shared_file(vma));
        let ranges: Vec<UserRange> = mapped.filter(is_of_it).map(|vma| vma.range).collect();
        for range in ranges {
            self.flush_shared(&space, range, me, counters);
        }
    }

    /// Before the process ends: pages of shared file mappings go to their files'
    /// caches. The files have to be flushed after it.
    pub(crate) fn flush_for_exit(&self, me: &mut Scratch, counters: &Counters) {
        let space = self.space_mut();
        if let Some(all) = UserRange::between(proto::addr::USER_MIN, proto::addr::USER_MAX)
            && space.iter().any(is_shared_file)
        {
            self.flush_shared(&space, all, me, counters);
        }
    }
}

/// Whether stores to it are stores to a file.
pub(super) fn is_shared_file(vma: &aspace::Vma) -> bool {
    vma.flags.has(MapFlags::SHARED) && matches!(vma.backing, VmaBacking::File { .. })
}
