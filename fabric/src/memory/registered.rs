//! Granted memory as RDMA devices know it.

use super::{Memory, Region};
use crate::FabricError;
use crate::table::Grant;
use crate::verbs::{Domain, Registration, Resolved};
use proto::Identity;
use proto::addr::RemoteKey;
use std::sync::{Arc, PoisonError};

impl Memory {
    /// How the device names the memory that `key` grants to `who`, whose
    /// protection domain is `domain`; registers it there if it was not.
    pub(crate) fn serve_registered(
        &self,
        who: Identity,
        key: RemoteKey,
        domain: &Arc<Domain>,
    ) -> Result<Resolved, FabricError> {
        let (region, grant, known) = {
            let slots = self.0.slots.read().unwrap_or_else(PoisonError::into_inner);
            let slot = slots.slot(who, key)?;
            let known = slot.registered.iter().find(|r| r.is_in(domain));
            let known = known.map(|known| slot.grant.resolved(known));
            (slot.region.upgrade(), slot.grant.clone(), known)
        };
        // Outlives the lock, which its last clone would take when dropped.
        let region = region.filter(|r| r.id == key.region);
        let region = region.map(Region).ok_or(FabricError::BadKey)?;
        if let Some(known) = known {
            return Ok(known);
        }
        // Not under the lock: it takes time for every page.
        let (map, pin) = (&region.0.map, region.0.pins.pin());
        let new = Registration::new(domain, map, &grant.range, grant.writable, pin)?;
        let resolved = grant.resolved(&new);
        let mut slots = self.0.slots();
        let slot = slots.slot_mut(who, key)?;
        slot.registered.retain(Registration::is_used);
        slot.registered.push(new);
        Ok(resolved)
    }
}

impl Grant {
    fn resolved(&self, registered: &Registration) -> Resolved {
        let (start, rkey) = registered.name();
        Resolved {
            start,
            len: self.range.end - self.range.start,
            rkey,
            writable: self.writable,
        }
    }
}
