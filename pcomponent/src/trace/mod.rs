//! Every miss and every eviction of a program, written to a descriptor that
//! whoever started it gave: `docs/tracing.md`.
//!
//! A thread puts its records into a ring of its own ([`ring`]); one more thread
//! writes what is in the rings. What does not fit is lost and counted. Nothing
//! here ends the program: a descriptor that takes no more (a full disk) ends
//! the trace, and the statistics say so.

mod ring;

use proto::trace::{Access, Cause, Event, Header, Record, to_bytes};
use ring::Ring;
use rustix::fd::OwnedFd;
use serde::Serialize;
use std::fs::File;
use std::io::Write;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How often the rings are emptied.
const PERIOD: Duration = Duration::from_millis(5);
/// How long the end of a program waits for the rest to be written: a pipe's
/// reader may have stalled.
const END_LIMIT: Duration = Duration::from_secs(10);

/// The trace of one process.
pub(crate) struct Tracer {
    start: Instant,
    lanes: Mutex<Vec<Arc<Lane>>>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    ending: bool,
    account: Option<Account>,
    /// What is known of it meanwhile.
    so_far: Account,
}

/// What became of a trace.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct Account {
    /// Records written.
    pub records: u64,
    /// Records that were not: their threads were faster than the descriptor,
    /// or it took no more.
    pub lost: u64,
    /// Why it took no more.
    pub error: Option<String>,
}

/// One thread's part.
pub(crate) struct Lane {
    start: Instant,
    thread: AtomicU32,
    ring: Ring,
}

impl Lane {
    /// The records are the calling thread's from now on.
    pub(crate) fn adopt(&self) {
        self.thread.store(this_thread(), Ordering::Relaxed);
    }

    /// A fault at `address` was answered just now and took `duration_ns`.
    pub(crate) fn miss(
        &self,
        address: u64,
        (cause, access): (Cause, Access),
        lines: u32,
        duration_ns: u64,
    ) {
        let event = Event::Miss {
            cause,
            access,
            lines,
        };
        self.push(address, duration_ns, event);
    }

    /// Lines from `address` on were evicted just now in `duration_ns`.
    pub(crate) fn eviction(&self, address: u64, (clean, dirty): (u64, u64), duration_ns: u64) {
        let count = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        let event = Event::Eviction {
            clean: count(clean),
            dirty: count(dirty),
        };
        self.push(address, duration_ns, event);
    }

    fn push(&self, address: u64, duration_ns: u64, event: Event) {
        let record = Record {
            time_ns: nanos(self.start.elapsed()).saturating_sub(duration_ns),
            duration_ns,
            thread: self.thread.load(Ordering::Relaxed),
            address,
            event,
        };
        self.ring.push(&record.words());
    }
}

fn this_thread() -> u32 {
    rustix::thread::gettid()
        .as_raw_nonzero()
        .get()
        .cast_unsigned()
}

fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Tracer {
    /// Begins a trace; its thread takes no signal, as all of ours.
    ///
    /// # Errors
    /// A sentence for people: the host gives no thread.
    pub(crate) fn start(to: OwnedFd, line_bytes: u64, lines: u64) -> Result<Arc<Tracer>, String> {
        let tracer = Arc::new(Tracer {
            start: Instant::now(),
            lanes: Mutex::default(),
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let header = Header {
            pid: std::process::id(),
            line_bytes,
            lines,
            start_monotonic_ns: monotonic_ns(),
            start_unix_ns: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, nanos),
        };
        let theirs = tracer.clone();
        std::thread::Builder::new()
            .name("trace".into())
            .spawn(move || theirs.write_all(header, File::from(to)))
            .map_err(|e| format!("a thread for the trace: {e}"))?;
        Ok(tracer)
    }

    /// A new part, kept for ever; the calling thread's at first.
    pub(crate) fn lane(&self) -> Arc<Lane> {
        let lane = Arc::new(Lane {
            start: self.start,
            thread: AtomicU32::new(this_thread()),
            ring: Ring::new(),
        });
        lock(&self.lanes).push(lane.clone());
        lane
    }

    /// Has the rest written, and says what became of the trace.
    pub(crate) fn finish(&self) -> Account {
        let mut state = lock(&self.state);
        state.ending = true;
        self.changed.notify_all();
        let waited = self
            .changed
            .wait_timeout_while(state, END_LIMIT, |state| state.account.is_none());
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.account.clone().unwrap_or_else(|| Account {
            error: Some(format!(
                "whoever reads the trace took nothing for {END_LIMIT:?}"
            )),
            ..state.so_far.clone()
        })
    }

    fn write_all(&self, header: Header, to: File) {
        let mut output = Output::new(to);
        output.write(&header.encode());
        let mut ending = false;
        while !ending {
            let state = lock(&self.state);
            let waited = self
                .changed
                .wait_timeout_while(state, PERIOD, |state| !state.ending);
            ending = waited.unwrap_or_else(PoisonError::into_inner).0.ending;
            let lanes = lock(&self.lanes).clone();
            output.take(&lanes, nanos(self.start.elapsed()));
            lock(&self.state).so_far.clone_from(&output.account);
        }
        output.end(nanos(self.start.elapsed()));
        lock(&self.state).account = Some(output.account);
        self.changed.notify_all();
    }
}

/// `CLOCK_MONOTONIC`, which `Instant` is on Linux.
fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// The descriptor, as long as it takes something.
struct Output {
    to: File,
    bytes: Vec<u8>,
    /// Of each lane, how many lost records have been written down.
    told: Vec<u64>,
    account: Account,
}

impl Output {
    fn new(to: File) -> Output {
        Output {
            to,
            bytes: Vec::new(),
            told: Vec::new(),
            account: Account::default(),
        }
    }

    /// Writes what is in the rings.
    fn take(&mut self, lanes: &[Arc<Lane>], now_ns: u64) {
        self.told.resize(lanes.len(), 0);
        for (n, lane) in lanes.iter().enumerate() {
            // Before the ring: what was lost came after what is in it.
            let lost = lane.ring.lost();
            let mut records = 0;
            self.bytes.clear();
            lane.ring.drain(|words| {
                self.bytes.extend_from_slice(&to_bytes(words));
                records += 1;
            });
            let newly = lost - std::mem::replace(&mut self.told[n], lost);
            if newly > 0 {
                let record = Record {
                    time_ns: now_ns,
                    duration_ns: 0,
                    thread: lane.thread.load(Ordering::Relaxed),
                    address: 0,
                    event: Event::Lost { records: newly },
                };
                self.bytes.extend_from_slice(&to_bytes(&record.words()));
                self.account.lost += newly;
            }
            let bytes = std::mem::take(&mut self.bytes);
            if self.write(&bytes) {
                self.account.records += records + u64::from(newly > 0);
            } else {
                self.account.lost += records;
            }
            self.bytes = bytes;
        }
    }

    /// False once the descriptor has refused.
    fn write(&mut self, bytes: &[u8]) -> bool {
        if self.account.error.is_none()
            && let Err(why) = self.to.write_all(bytes)
        {
            self.account.error = Some(why.to_string());
        }
        self.account.error.is_none()
    }

    fn end(&mut self, now_ns: u64) {
        let record = Record {
            time_ns: now_ns,
            duration_ns: 0,
            thread: 0,
            address: 0,
            event: Event::End {
                records: self.account.records,
                lost: self.account.lost,
            },
        };
        self.write(&to_bytes(&record.words()));
    }
}

#[cfg(test)]
mod tests;
