//! The target's protection domains: one for each identity, on each device
//! over which it came. Memory is registered in the domain of whom it is
//! granted to, when it is first used there; what belongs to another identity
//! is in another domain, and its keys are nothing here.

use super::device::Device;
use super::objects::{MemoryRegion, ProtectionDomain, Remote};
use super::receives::Receives;
use crate::FabricError;
use crate::mapping::Mapping;
use proto::Identity;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Connections of one identity at a time over one device.
const MOST_CONNECTIONS: u32 = 256;

/// The domains of one server.
#[derive(Default)]
pub(crate) struct Domains {
    by_holder: Mutex<HashMap<(String, Identity), Weak<Domain>>>,
    next: AtomicU64,
}

/// What the connections of one identity over one device share.
pub(crate) struct Domain {
    /// Its number, of this server's.
    pub(crate) number: u64,
    pub(crate) protection: Arc<ProtectionDomain>,
    pub(crate) receives: Arc<Receives>,
}

impl Domains {
    /// The domain of `who` on `device`.
    pub(crate) fn of(
        &self,
        device: &Arc<Device>,
        who: Identity,
    ) -> Result<Arc<Domain>, FabricError> {
        let key = (device.name().to_owned(), who);
        let mut known = self
            .by_holder
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(domain) = known.get(&key).and_then(Weak::upgrade) {
            return Ok(domain);
        }
        known.retain(|_, domain| domain.strong_count() > 0);
        let protection = ProtectionDomain::new(device.clone())?;
        let receives = Receives::new(&protection, MOST_CONNECTIONS)?;
        let number = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let domain = Arc::new(Domain {
            number,
            protection,
            receives,
        });
        known.insert(key, Arc::downgrade(&domain));
        Ok(domain)
    }
}

/// A grant as registered in the domain of its holder: gone when dropped.
pub(crate) struct Registration {
    domain: Weak<Domain>,
    region: MemoryRegion,
    _pin: Pin,
}

impl Registration {
    pub(crate) fn new(
        domain: &Arc<Domain>,
        map: &Mapping,
        range: &Range<u64>,
        writable: bool,
        pin: Pin,
    ) -> Result<Registration, FabricError> {
        let remote = match writable {
            true => Remote::ReadsAndWrites,
            false => Remote::Reads,
        };
        let len = range.end - range.start;
        let region = MemoryRegion::new(&domain.protection, map, range.start, len, remote)?;
        Ok(Registration {
            domain: Arc::downgrade(domain),
            region,
            _pin: pin,
        })
    }

    /// Whether the domain still has connections.
    pub(crate) fn is_used(&self) -> bool {
        self.domain.strong_count() > 0
    }

    pub(crate) fn is_in(&self, domain: &Arc<Domain>) -> bool {
        std::ptr::eq(self.domain.as_ptr(), Arc::as_ptr(domain))
    }

    /// Its address and key.
    pub(crate) fn name(&self) -> (u64, u32) {
        (self.region.start(), self.region.rkey())
    }
}

/// How many registrations keep the pages of a region where they are.
#[derive(Clone, Default)]
pub(crate) struct Pins(Arc<Mutex<u32>>);

/// One of them.
pub(crate) struct Pin(Pins);

impl Pins {
    pub(crate) fn pin(&self) -> Pin {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        Pin(self.clone())
    }

    /// Calls `unpinned` if there are none, none being added meanwhile.
    pub(crate) fn if_none<T>(&self, unpinned: impl FnOnce() -> T) -> Option<T> {
        let count = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (*count == 0).then(unpinned)
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut count = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        *count -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_given_back_only_when_nothing_holds_them() {
        let pins = Pins::default();
        assert_eq!(pins.if_none(|| 1), Some(1));
        let (one, two) = (pins.pin(), pins.pin());
        drop(one);
        assert_eq!(pins.if_none(|| 1), None);
        drop(two);
        assert_eq!(pins.if_none(|| 1), Some(1));
    }
}
