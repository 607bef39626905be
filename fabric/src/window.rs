//! A peer's granted memory as mapped here (shm): one-sided operations are
//! checked against its key table and copied, without a system call or a lock.
//!
//! The mappings of one peer's regions are shared by all connections of this
//! process to it, each of which remembers those it has used. An address handed
//! out ([`Window::address`]) holds as long as the connection.

use crate::mapping::Mapping;
use crate::table::{self, Grant};
use crate::{FabricError, Segment};
use proto::Identity;
use proto::addr::{RemoteAddr, RemoteKey};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// Regions with higher numbers are looked up in what is shared.
const MOST_REMEMBERED: usize = 1 << 16;

/// Asks the peer for the region of a key (the key table for region 0), and
/// maps it.
pub(crate) trait Fetch {
    fn fetch(&mut self, key: RemoteKey) -> Result<Mapping, FabricError>;
}

/// What the connections of one identity to one running peer share.
#[derive(Default)]
pub(crate) struct Views {
    regions: Mutex<HashMap<u32, Arc<Mapping>>>,
    /// Grants whose pages have been mapped: nonce by slot.
    populated: Mutex<HashMap<u32, u64>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The views of the running peer `instance`, as `me` has them.
pub(crate) fn views_of(instance: u64, me: Identity) -> Arc<Views> {
    static ALL: Mutex<BTreeMap<(u64, Identity), Weak<Views>>> = Mutex::new(BTreeMap::new());
    let mut all = lock(&ALL);
    if let Some(views) = all.get(&(instance, me)).and_then(Weak::upgrade) {
        return views;
    }
    all.retain(|_, views| views.strong_count() > 0);
    let views = Arc::default();
    all.insert((instance, me), Arc::downgrade(&views));
    views
}

/// One connection's part.
pub(crate) struct Window {
    views: Arc<Views>,
    me: u64,
    table: Option<Arc<Mapping>>,
    /// By region.
    remembered: Vec<Option<Arc<Mapping>>>,
    /// Nonces of grants known to be populated, by slot.
    populated: Vec<u64>,
}

impl Window {
    pub(crate) fn new(views: Arc<Views>, me: Identity) -> Window {
        let me = table::holder(me);
        Window {
            views,
            me,
            table: None,
            remembered: Vec::new(),
            populated: Vec::new(),
        }
    }

    /// Copies `segments` out into `dst`.
    pub(crate) fn read(
        &mut self,
        segments: &[Segment],
        dst: &mut [u8],
        fetch: &mut impl Fetch,
    ) -> Result<(), FabricError> {
        for s in segments {
            let dst = s.of_mut(dst)?;
            let (map, offset) = self.place(s.remote, s.len.into(), false, fetch)?;
            if !map.read(offset, dst) {
                return Err(FabricError::OutOfBounds);
            }
            if !self.is_valid(s.remote.key) {
                return Err(FabricError::BadKey);
            }
        }
        Ok(())
    }

    /// Copies `segments` of `src` in.
    pub(crate) fn write(
        &mut self,
        segments: &[Segment],
        src: &[u8],
        fetch: &mut impl Fetch,
    ) -> Result<(), FabricError> {
        for s in segments {
            let src = s.of(src)?;
            let (map, offset) = self.place(s.remote, s.len.into(), true, fetch)?;
            if !map.write(offset, src) {
                return Err(FabricError::OutOfBounds);
            }
            if !self.is_valid(s.remote.key) {
                return Err(FabricError::BadKey);
            }
        }
        Ok(())
    }

    /// Where `len` bytes at `at` are mapped.
    pub(crate) fn address(
        &mut self,
        at: RemoteAddr,
        len: usize,
        write: bool,
        fetch: &mut impl Fetch,
    ) -> Result<*mut u8, FabricError> {
        let (map, offset) = self.place(at, len as u64, write, fetch)?;
        map.at(offset, len as u64).ok_or(FabricError::OutOfBounds)
    }

    /// Whether `key` has not been revoked, as far as this connection knows.
    pub(crate) fn is_valid(&self, key: RemoteKey) -> bool {
        self.table.as_ref().is_some_and(|t| table::is_valid(t, key))
    }

    fn place(
        &mut self,
        at: RemoteAddr,
        len: u64,
        write: bool,
        fetch: &mut impl Fetch,
    ) -> Result<(&Mapping, u64), FabricError> {
        let table = match &self.table {
            Some(table) => table,
            None => {
                let key = RemoteKey {
                    region: 0,
                    slot: 0,
                    nonce: 0,
                };
                self.table.insert(self.views.region(key, false, fetch)?)
            }
        };
        let grant = table::look_up(table, at.key, self.me)?;
        let offset = grant.place(at.offset, len, write)?;
        let known = self
            .remembered
            .get(at.key.region as usize)
            .and_then(Option::as_ref);
        if !known.is_some_and(|map| map.is_writable() || !grant.writable) {
            self.remember(at.key, &grant, fetch)?;
        }
        if self.populated.get(at.key.slot as usize) != Some(&at.key.nonce) {
            self.populate(at.key, &grant);
        }
        let map = self
            .remembered
            .get(at.key.region as usize)
            .and_then(Option::as_ref);
        Ok((map.ok_or(FabricError::BadKey)?, offset))
    }

    #[cold]
    fn remember(
        &mut self,
        key: RemoteKey,
        grant: &Grant,
        fetch: &mut impl Fetch,
    ) -> Result<(), FabricError> {
        let region = key.region as usize;
        if region == 0 || region >= MOST_REMEMBERED {
            let why = format!("region {region}: this component has made too many");
            return Err(FabricError::Invalid(why));
        }
        let map = self.views.region(key, grant.writable, fetch)?;
        if self.remembered.len() <= region {
            self.remembered.resize(region + 1, None);
        }
        self.remembered[region] = Some(map);
        Ok(())
    }

    /// On the first use of a grant to write its pages are mapped at once: one call
    /// instead of a fault for each. Failing that, they fault; as those of a file
    /// do, most of which may not be there.
    #[cold]
    fn populate(&mut self, key: RemoteKey, grant: &Grant) {
        let slot = key.slot as usize;
        if self.populated.len() <= slot {
            self.populated.resize(slot + 1, 0);
        }
        self.populated[slot] = key.nonce;
        if lock(&self.views.populated).insert(key.slot, key.nonce) == Some(key.nonce) {
            return;
        }
        let map = self
            .remembered
            .get(key.region as usize)
            .and_then(Option::as_ref);
        if let Some(map) = map.filter(|_| grant.writable) {
            let _ = map.populate(grant.range.start, grant.range.end - grant.range.start);
        }
    }
}

impl Views {
    /// The mapping of a key's region, writable if that is asked for.
    fn region(
        &self,
        key: RemoteKey,
        writable: bool,
        fetch: &mut impl Fetch,
    ) -> Result<Arc<Mapping>, FabricError> {
        let sound = |map: &&Arc<Mapping>| map.is_writable() || !writable;
        if let Some(map) = lock(&self.regions).get(&key.region).filter(sound) {
            return Ok(map.clone());
        }
        // Not under the lock: it takes a message. Two threads may both do it.
        let map = Arc::new(fetch.fetch(key)?);
        if writable && !map.is_writable() {
            return Err(FabricError::AccessDenied);
        }
        let mut regions = lock(&self.regions);
        let known = regions.get(&key.region).filter(sound).cloned();
        Ok(known.unwrap_or_else(|| {
            regions.insert(key.region, map.clone());
            map
        }))
    }
}
