//! Rewriting system calls that a program makes often: `mov eax, number; syscall`
//! becomes `jmp stub; syscall` where it lies, and the stub leads to the gate
//! ([`host::trap`]), which answers without the kernel what it can.
//!
//! The `syscall` itself stays: a branch to it, from a loop that tries again or
//! from another path that sets eax, traps as before, and so does what the gate
//! does not answer. `mov` and `jmp` have five bytes each, so no thread can be
//! found between two instructions that are now one.
//!
//! Sites are in the ExCache like all code: an evicted page comes back as the
//! file has it, and its sites trap until they have been seen often enough again,
//! twice as often each time. So code that passes through a small cache is not
//! rewritten over and over.

use super::thread::{Process, Task};
use crate::memory::MapRequest;
use host::signal::{UContext, reg};
use host::trap::{self, SITE, STUB_AREA, Stubs};
use proto::addr::{UserAddr, UserRange};
use proto::mem::{Backing, MapFlags, Prot};
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A site is rewritten when it has trapped so often.
const FIRST: u32 = 8;
const MOST: u32 = 1 << 20;
/// Sites that are looked at.
const MOST_SITES: usize = 2048;

/// The sites of a process.
pub(crate) struct Sites {
    /// Where the stubs go, if there are to be any; what is at the other end of
    /// a 32-bit jump from the program's code.
    place: Option<UserAddr>,
    floor: i32,
    area: Mutex<Option<UserRange>>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    seen: HashMap<u64, Seen>,
    stubs: Area,
}

#[derive(Default)]
enum Area {
    #[default]
    Not,
    Made(Stubs),
    Failed,
}

/// A site that trapped.
struct Seen {
    number: u64,
    traps: u32,
    /// Rewritten at so many.
    limit: u32,
    stub: Option<u64>,
}

impl Sites {
    /// With stubs at `place`, or without any; `floor` is the personality's
    /// first descriptor.
    pub(crate) fn new(place: Option<UserAddr>, floor: i32) -> Sites {
        Sites {
            place: place.filter(|_| trap::gate_is_able()),
            floor,
            area: Mutex::default(),
            inner: Mutex::default(),
        }
    }

    /// Whether sites are rewritten at all.
    pub(super) fn is_on(&self) -> bool {
        self.place.is_some()
    }

    /// Whether `range` touches the stubs, which must stay.
    pub(crate) fn touches(&self, range: UserRange) -> bool {
        let area = *self.area();
        area.is_some_and(|area| area.intersect(range).is_some())
    }

    fn area(&self) -> MutexGuard<'_, Option<UserRange>> {
        self.area.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The call `number` has trapped at `context`. Others that come meanwhile
    /// are not counted.
    pub(super) fn note(&self, process: &Process, task: &Task, number: u64, context: &UContext) {
        if self.place.is_none() || !abi_linux::FAST.contains(&number) {
            return;
        }
        let Ok(mut inner) = self.inner.try_lock() else {
            return;
        };
        let Some(site) = context.gregs[reg::RIP].checked_sub(SITE) else {
            return;
        };
        let inner = &mut *inner;
        if inner.seen.len() >= MOST_SITES && !inner.seen.contains_key(&site) {
            return;
        }
        let seen = inner.seen.entry(site).or_insert(Seen::new(number));
        if seen.number != number {
            *seen = Seen::new(number);
        }
        seen.traps += 1;
        if seen.traps < seen.limit {
            return;
        }
        seen.traps = 0;
        seen.limit = (seen.limit * 2).min(MOST);
        let stubs = match &mut inner.stubs {
            Area::Failed => return,
            Area::Made(stubs) => stubs,
            none => {
                *none = self
                    .make_area(process, task)
                    .map_or(Area::Failed, Area::Made);
                match none {
                    Area::Made(stubs) => stubs,
                    _ => return,
                }
            }
        };
        rewrite(process, task, UserAddr(site), seen, stubs);
    }

    fn make_area(&self, process: &Process, task: &Task) -> Option<Stubs> {
        let (addr, memory) = (self.place?, &process.memory);
        let request = MapRequest {
            addr,
            len: STUB_AREA.max(memory.cache_shape().0),
            prot: Prot::NONE,
            flags: MapFlags::NOREPLACE,
            backing: Backing::Anonymous,
        };
        // From here on nobody maps or unmaps anything there.
        *self.area() = UserRange::new(addr, request.len);
        let me = &mut task.scratch.borrow_mut();
        let made = match memory.map(&request, me, &task.counters) {
            // SAFETY: mapped a moment ago, inaccessible, and nobody else's.
            Ok(_) => unsafe { Stubs::new(addr.0, self.floor) }.map_err(|e| e.to_string()),
            Err(e) => Err(format!("mapping at {addr}: {e}")),
        };
        if let Err(why) = &made {
            tracing::warn!("no system call is rewritten: {why}");
            *self.area() = None;
        }
        made.ok()
    }
}

impl Seen {
    fn new(number: u64) -> Seen {
        Seen {
            number,
            traps: 0,
            limit: FIRST,
            stub: None,
        }
    }
}

fn rewrite(process: &Process, task: &Task, site: UserAddr, seen: &mut Seen, stubs: &mut Stubs) {
    let mut code = [0; trap::BEFORE + SITE as usize];
    let start = UserAddr(site.0.saturating_sub(trap::BEFORE as u64));
    if process.copy_in(task, start, &mut code) != code.len() || !trap::recognise(&code, seen.number)
    {
        return;
    }
    let Ok(number) = u32::try_from(seen.number) else {
        return;
    };
    if seen.stub.is_none() {
        seen.stub = stubs.add(number, site.0 + SITE);
    }
    let Some(jump) = seen.stub.and_then(|stub| trap::jump_to(site.0, stub)) else {
        return;
    };
    let mut old = [0; 5];
    old.copy_from_slice(&code[trap::BEFORE..trap::BEFORE + 5]);
    let me = &mut task.scratch.borrow_mut();
    let done = process
        .memory
        .rewrite(site, &old, &jump, me, &task.counters);
    tracing::debug!("system call {number} at {site}: rewritten: {done}");
}

/// Answers a call through the gate, if it can be answered at once.
pub(super) fn answer(number: u64, args: &[u64; 6]) -> Option<i64> {
    let (process, task) = (super::thread::process(), super::thread::current());
    let kernel = crate::kernel::Kernel::new(process, task);
    let value = abi_linux::dispatch_fast(&kernel, number, *args)?;
    task.counters.syscall(number);
    Some(value)
}
