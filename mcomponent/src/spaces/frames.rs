//! The frames of a process here: a region for each vRegion, a key for each
//! committed extent.

use fabric::{Access, FabricError, Memory, Region};
use proto::addr::{EXTENT_SIZE, RemoteKey, UserAddr, VREGION_SIZE};
use proto::{Errno, Identity, ProcessId, VRegionId};
use std::collections::HashMap;
use std::ops::Range;

/// See the module. Nobody but the process is granted anything of its regions,
/// so whatever a region's memory is shared with can harm that process alone.
#[derive(Default)]
pub(super) struct Frames {
    regions: HashMap<VRegionId, Region>,
    keys: HashMap<u64, RemoteKey>,
    ended: bool,
}

/// The vRegion of an extent and where in it the extent lies.
fn place(extent: u64) -> (VRegionId, Range<u64>) {
    let at = UserAddr(extent.saturating_mul(EXTENT_SIZE));
    let offset = at.0 % VREGION_SIZE;
    (at.vregion(), offset..offset + EXTENT_SIZE)
}

impl Frames {
    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    pub(super) fn is_ended(&self) -> bool {
        self.ended
    }

    /// Drops the last extents; nothing is committed from now on.
    pub(super) fn end(&mut self, extents: &[u64]) -> u64 {
        self.ended = true;
        self.drop_all(extents)
    }

    /// The key of a committed extent.
    pub(super) fn key(&self, extent: u64) -> Option<RemoteKey> {
        self.keys.get(&extent).copied()
    }

    /// Makes the frames of an extent and grants them to the process.
    pub(super) fn commit(
        &mut self,
        memory: &Memory,
        process: ProcessId,
        extent: u64,
    ) -> Result<RemoteKey, Errno> {
        let key = self.try_commit(memory, process, extent).map_err(|e| {
            tracing::error!("extent {extent:#x} of {process} cannot be committed: {e}");
            Errno::ENOMEM
        })?;
        self.keys.insert(extent, key);
        Ok(key)
    }

    fn try_commit(
        &mut self,
        memory: &Memory,
        process: ProcessId,
        extent: u64,
    ) -> Result<RemoteKey, FabricError> {
        let (vregion, range) = place(extent);
        let region = match self.regions.get(&vregion) {
            Some(region) => region.clone(),
            None => {
                let name = format!("{process}.{}", vregion.0);
                let region = memory.register(VREGION_SIZE, &name)?;
                region.prefer_huge_pages();
                region
            }
        };
        self.regions.insert(vregion, region.clone());
        // All at once: a fault for each page that is written first costs more.
        region.commit(range.clone())?;
        region.grant(Identity::Process(process), range, Access::ReadWrite)
    }

    /// Revokes the keys of extents and frees their frames; how many there were.
    pub(super) fn drop_all(&mut self, extents: &[u64]) -> u64 {
        let mut dropped = 0;
        for extent in extents {
            let (vregion, range) = place(*extent);
            let (Some(key), Some(region)) = (self.keys.remove(extent), self.regions.get(&vregion))
            else {
                continue;
            };
            region.revoke(key);
            if let Err(e) = region.zero(range) {
                tracing::error!("frames of extent {extent:#x} cannot be freed: {e}");
            }
            dropped += 1;
        }
        dropped
    }
}
