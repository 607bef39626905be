//! The peer's granted memory as its device names it, remembered: a key is
//! looked up once by a process, not by each of its connections.

use super::attach::Resolved;
use super::transfers::Target;
use crate::{FabricError, Segment};
use proto::addr::RemoteKey;
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// Keys remembered at most; revoked ones are among them until they are used.
const MOST: usize = 1 << 16;

/// The keys of one protection domain of one running peer.
#[derive(Default)]
pub(crate) struct Keys(Mutex<HashMap<RemoteKey, Resolved, BuildHasherDefault<Nonces>>>);

/// Hashes keys by what they hold: nonces are counted, no two keys of a peer
/// have the same one, and whoever grants a key may slow its users down anyway.
#[derive(Default)]
struct Nonces(u64);

impl Hasher for Nonces {
    fn finish(&self) -> u64 {
        self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }
    fn write_u32(&mut self, n: u32) {
        self.write_u64(n.into());
    }
    fn write_u64(&mut self, n: u64) {
        self.0 = self.0.rotate_left(5) ^ n;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Those of protection domain `domain` of the running peer `instance`, which
/// the connections to it share.
pub(crate) fn keys_of(instance: u64, domain: u64) -> Arc<Keys> {
    static ALL: Mutex<BTreeMap<(u64, u64), Weak<Keys>>> = Mutex::new(BTreeMap::new());
    let mut all = lock(&ALL);
    if let Some(keys) = all.get(&(instance, domain)).and_then(Weak::upgrade) {
        return keys;
    }
    all.retain(|_, keys| keys.strong_count() > 0);
    let keys = Arc::default();
    all.insert((instance, domain), Arc::downgrade(&keys));
    keys
}

impl Keys {
    pub(crate) fn get(&self, key: RemoteKey) -> Option<Resolved> {
        lock(&self.0).get(&key).copied()
    }

    pub(crate) fn remember(&self, key: RemoteKey, resolved: Resolved) {
        let mut known = lock(&self.0);
        if known.len() >= MOST {
            known.clear();
        }
        known.insert(key, resolved);
    }

    /// The key was revoked.
    pub(crate) fn forget(&self, key: RemoteKey) {
        lock(&self.0).remove(&key);
    }
}

impl Resolved {
    /// Where `segment` lies.
    pub(crate) fn target(&self, segment: &Segment, writes: bool) -> Result<Target, FabricError> {
        if writes && !self.writable {
            return Err(FabricError::AccessDenied);
        }
        let offset = segment.remote.offset;
        let end = offset.checked_add(u64::from(segment.len));
        if end.is_none_or(|end| end > self.len) {
            return Err(FabricError::OutOfBounds);
        }
        Ok(Target {
            local: segment.local,
            len: segment.len,
            at: self.start + offset,
            rkey: self.rkey,
            key: segment.remote.key,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::addr::RemoteAddr;

    #[test]
    fn a_target_stays_in_its_grant() {
        let resolved = Resolved {
            start: 0x1000,
            len: 100,
            rkey: 7,
            writable: false,
        };
        let key = RemoteKey {
            region: 1,
            slot: 2,
            nonce: 3,
        };
        let segment = |offset, len| Segment {
            local: 5,
            len,
            remote: RemoteAddr { key, offset },
        };
        let target = resolved.target(&segment(60, 40), false).unwrap();
        assert_eq!((target.at, target.rkey, target.local), (0x103c, 7, 5));
        let outside = Err(FabricError::OutOfBounds);
        assert_eq!(resolved.target(&segment(60, 41), false), outside);
        assert_eq!(resolved.target(&segment(u64::MAX, 1), false), outside);
        let denied = Err(FabricError::AccessDenied);
        assert_eq!(resolved.target(&segment(0, 1), true), denied);
    }

    #[test]
    fn connections_to_one_domain_share_its_keys() {
        let one = keys_of(0x5eed, 1);
        assert!(Arc::ptr_eq(&one, &keys_of(0x5eed, 1)));
        assert!(!Arc::ptr_eq(&one, &keys_of(0x5eed, 2)));
    }
}
