//! The key table: which grants are valid, in shared memory that the owner
//! writes and its peers on the same machine map read-only. An entry is one
//! cache line.

use crate::FabricError;
use crate::mapping::{Mapping, memfd, read_only};
use proto::Identity;
use proto::addr::RemoteKey;
use rustix::fd::OwnedFd;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering, fence};

/// Grants that one component can have out at a time.
pub(crate) const SLOTS: u32 = 1 << 20;
const ENTRY: u64 = 64;
/// Length of the table in bytes; sparse.
pub(crate) const TABLE: u64 = SLOTS as u64 * ENTRY;

const NONCE: usize = 0;
const START: usize = 1;
const LEN: usize = 2;
const REGION: usize = 3;
const HOLDER: usize = 4;
const WRITABLE: u64 = 1 << 32;

/// What a key stands for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Grant {
    /// Bytes of the region.
    pub(crate) range: Range<u64>,
    pub(crate) writable: bool,
}

/// A number for an identity. Not a protection (that is who gets descriptors),
/// but it tells a mistaken key.
pub(crate) fn holder(identity: Identity) -> u64 {
    let (kind, a, b) = match identity {
        Identity::Operator => (1, 0, 0),
        Identity::Node(node, generation) => (2, node.0, generation.0),
        Identity::Process(process) => (3, process.0, 0),
    };
    let mix = |n: u64| (n ^ (n >> 31)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mix(mix(mix(kind).wrapping_add(a)).wrapping_add(b))
}

/// The owner's end.
pub(crate) struct Table {
    fd: OwnedFd,
    map: Mapping,
}

impl Table {
    pub(crate) fn new() -> Result<Table, FabricError> {
        let fd = memfd("splitkernel-keys", TABLE)?;
        Ok(Table {
            map: Mapping::new(&fd, TABLE, true)?,
            fd,
        })
    }

    /// A descriptor for a peer.
    pub(crate) fn descriptor(&self) -> Result<OwnedFd, FabricError> {
        read_only(&self.fd)
    }

    /// Makes `key` valid.
    pub(crate) fn publish(&self, key: RemoteKey, to: Identity, grant: &Grant) {
        let Some(entry) = entry(&self.map, key.slot) else {
            return;
        };
        let access = if grant.writable { WRITABLE } else { 0 };
        entry[START].store(grant.range.start, Ordering::Relaxed);
        entry[LEN].store(grant.range.end - grant.range.start, Ordering::Relaxed);
        entry[REGION].store(u64::from(key.region) | access, Ordering::Relaxed);
        entry[HOLDER].store(holder(to), Ordering::Relaxed);
        entry[NONCE].store(key.nonce, Ordering::Release);
    }

    /// Makes a slot's key invalid.
    pub(crate) fn withdraw(&self, slot: u32) {
        if let Some(entry) = entry(&self.map, slot) {
            entry[NONCE].store(0, Ordering::SeqCst);
            fence(Ordering::SeqCst);
        }
    }
}

fn entry(map: &Mapping, slot: u32) -> Option<&[AtomicU64; 5]> {
    map.words(u64::from(slot) * ENTRY)
}

/// Whether `key` is valid, as its user sees it.
pub(crate) fn is_valid(table: &Mapping, key: RemoteKey) -> bool {
    // What was read before must not be read after this.
    fence(Ordering::Acquire);
    let nonce = entry(table, key.slot).map(|e| e[NONCE].load(Ordering::Acquire));
    nonce == Some(key.nonce) && key.nonce != 0
}

/// What `key` grants to `me`.
pub(crate) fn look_up(table: &Mapping, key: RemoteKey, me: u64) -> Result<Grant, FabricError> {
    let entry = entry(table, key.slot).ok_or(FabricError::BadKey)?;
    if key.nonce == 0 || entry[NONCE].load(Ordering::Acquire) != key.nonce {
        return Err(FabricError::BadKey);
    }
    let start = entry[START].load(Ordering::Relaxed);
    let len = entry[LEN].load(Ordering::Relaxed);
    let region = entry[REGION].load(Ordering::Relaxed);
    let held_by = entry[HOLDER].load(Ordering::Relaxed);
    // The slot may have been granted anew in between.
    let sound = is_valid(table, key) && held_by == me && region as u32 == key.region;
    let end = start
        .checked_add(len)
        .filter(|_| sound)
        .ok_or(FabricError::BadKey)?;
    Ok(Grant {
        range: start..end,
        writable: region & WRITABLE != 0,
    })
}

impl Grant {
    /// Where `len` bytes at `offset` of the grant lie in the region.
    pub(crate) fn place(&self, offset: u64, len: u64, write: bool) -> Result<u64, FabricError> {
        if write && !self.writable {
            return Err(FabricError::AccessDenied);
        }
        let granted = self.range.end.saturating_sub(self.range.start);
        match offset.checked_add(len) {
            Some(end) if end <= granted => Ok(self.range.start + offset),
            _ => Err(FabricError::OutOfBounds),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::ProcessId;

    #[test]
    fn a_grant_is_seen_by_its_holder_until_withdrawn() {
        let table = Table::new().unwrap();
        let peer = Mapping::new(table.descriptor().unwrap(), TABLE, false).unwrap();
        let (a, b) = (
            Identity::Process(ProcessId(1)),
            Identity::Process(ProcessId(2)),
        );
        let key = RemoteKey {
            region: 7,
            slot: SLOTS - 1,
            nonce: 9,
        };
        let grant = Grant {
            range: 4096..8192,
            writable: true,
        };
        table.publish(key, a, &grant);
        assert_eq!(look_up(&peer, key, holder(a)), Ok(grant));
        for (wrong, who) in [
            (key, b),
            (RemoteKey { region: 8, ..key }, a),
            (RemoteKey { nonce: 8, ..key }, a),
            (
                RemoteKey {
                    slot: 0,
                    nonce: 0,
                    ..key
                },
                a,
            ),
            (RemoteKey { slot: SLOTS, ..key }, a),
        ] {
            assert_eq!(look_up(&peer, wrong, holder(who)), Err(FabricError::BadKey));
        }
        table.withdraw(key.slot);
        assert!(!is_valid(&peer, key));
        assert_eq!(look_up(&peer, key, holder(a)), Err(FabricError::BadKey));
    }

    #[test]
    fn a_place_is_inside_the_grant() {
        let grant = Grant {
            range: 4096..8192,
            writable: false,
        };
        assert_eq!(grant.place(0, 4096, false), Ok(4096));
        assert_eq!(grant.place(4095, 1, false), Ok(8191));
        assert_eq!(grant.place(4095, 2, false), Err(FabricError::OutOfBounds));
        assert_eq!(
            grant.place(u64::MAX, 2, false),
            Err(FabricError::OutOfBounds)
        );
        assert_eq!(grant.place(0, 1, true), Err(FabricError::AccessDenied));
    }
}
