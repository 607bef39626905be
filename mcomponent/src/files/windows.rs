//! The frames of a file: a region for each window of a GiB, leases for each
//! extent.
//!
//! A region holds bytes of one file only. Whoever is granted anything of it
//! may, where memory is shared with it, see all of the window, and with a
//! writable lease write all of it: it may do that to the file anyhow.

use crate::core::cached::Cached;
use fabric::{Access, FabricError, Memory, Region};
use proto::addr::{EXTENT_SIZE, RemoteKey, VREGION_SIZE};
use proto::{Errno, Identity};
use std::collections::HashMap;
use std::ops::Range;

/// Extents in a window.
const WINDOW: u64 = VREGION_SIZE / EXTENT_SIZE;

struct Grant {
    to: Identity,
    writable: bool,
    key: RemoteKey,
}

/// See the module.
#[derive(Default)]
pub(super) struct Windows {
    regions: HashMap<u64, Region>,
    grants: HashMap<u64, Vec<Grant>>,
}

fn failed(e: &FabricError) -> Errno {
    tracing::error!("a cached file: {e}");
    Errno::EIO
}

impl Windows {
    /// The region of extent `index`, made if it is not there.
    pub(super) fn region(&mut self, memory: &Memory, index: u64) -> Result<Region, FabricError> {
        let window = index / WINDOW;
        if let Some(region) = self.regions.get(&window) {
            return Ok(region.clone());
        }
        let region = memory.register(VREGION_SIZE, "file")?;
        self.regions.insert(window, region.clone());
        Ok(region)
    }

    fn at(&self, offset: u64) -> Result<&Region, Errno> {
        self.regions.get(&(offset / VREGION_SIZE)).ok_or(Errno::EIO)
    }

    /// Copies out, within one extent.
    pub(super) fn read(&self, offset: u64, dst: &mut [u8]) -> Result<(), Errno> {
        self.at(offset)?
            .read(offset % VREGION_SIZE, dst)
            .map_err(|e| failed(&e))
    }

    /// Copies in, anywhere.
    pub(super) fn write(&self, offset: u64, mut src: &[u8]) -> Result<(), Errno> {
        let mut at = offset;
        while !src.is_empty() {
            let room = (VREGION_SIZE - at % VREGION_SIZE).min(src.len() as u64);
            let (part, rest) = src.split_at(room as usize);
            self.at(at)?
                .write(at % VREGION_SIZE, part)
                .map_err(|e| failed(&e))?;
            (at, src) = (at + room, rest);
        }
        Ok(())
    }

    /// Makes a range within one extent zeros.
    pub(super) fn zero(&self, range: Range<u64>) -> Result<(), Errno> {
        if range.is_empty() {
            return Ok(());
        }
        let start = range.start % VREGION_SIZE;
        let end = start + (range.end - range.start);
        self.at(range.start)?
            .zero(start..end)
            .map_err(|e| failed(&e))
    }

    /// A lease of extent `index`, and whether it is a new one.
    pub(super) fn grant(
        &mut self,
        index: u64,
        to: Identity,
        writable: bool,
    ) -> Result<(RemoteKey, bool), Errno> {
        let held = self.grants.entry(index).or_default();
        if let Some(grant) = held.iter().find(|g| g.to == to && g.writable == writable) {
            return Ok((grant.key, false));
        }
        let region = self.regions.get(&(index / WINDOW)).ok_or(Errno::EIO)?;
        let start = index % WINDOW * EXTENT_SIZE;
        let access = if writable {
            Access::Shared
        } else {
            Access::Read
        };
        let key = region
            .grant(to, start..start + EXTENT_SIZE, access)
            .map_err(|e| failed(&e))?;
        held.push(Grant { to, writable, key });
        Ok((key, true))
    }

    /// Whether somebody may write extent `index` one-sided: it may be dirty
    /// without our knowing.
    pub(super) fn is_shared(&self, index: u64) -> bool {
        self.grants
            .get(&index)
            .is_some_and(|held| held.iter().any(|g| g.writable))
    }

    /// Whether `who` may write extent `index` one-sided.
    pub(super) fn may_write(&self, index: u64, who: Identity) -> bool {
        let held = self.grants.get(&index);
        held.is_some_and(|held| held.iter().any(|g| g.writable && g.to == who))
    }

    /// Revokes the leases of extent `index`; how many there were.
    pub(super) fn revoke(&mut self, index: u64) -> u64 {
        let held = self.grants.remove(&index).unwrap_or_default();
        if let Some(region) = self.regions.get(&(index / WINDOW)) {
            held.iter().for_each(|grant| region.revoke(grant.key));
        }
        held.len() as u64
    }

    /// Revokes what `who` holds; how much there was.
    pub(super) fn revoke_all_of(&mut self, who: Identity) -> u64 {
        let mut revoked = 0;
        for (index, held) in &mut self.grants {
            let region = self.regions.get(&(index / WINDOW));
            for grant in held.extract_if(.., |grant| grant.to == who) {
                region.inspect(|r| r.revoke(grant.key));
                revoked += 1;
            }
        }
        self.grants.retain(|_, held| !held.is_empty());
        revoked
    }

    /// Revokes and frees extent `index`, which `cached` has dropped; the whole
    /// region with the last one. How many leases there were.
    pub(super) fn drop_extent(&mut self, index: u64, cached: &Cached) -> u64 {
        let revoked = self.revoke(index);
        let window = index / WINDOW;
        if cached.has_any(window * WINDOW..(window + 1) * WINDOW) {
            let start = index * EXTENT_SIZE;
            if let Err(e) = self.zero(start..start + EXTENT_SIZE) {
                tracing::error!("a file's frames cannot be freed: {e}");
            }
        } else {
            self.regions.remove(&window);
        }
        revoked
    }
}
