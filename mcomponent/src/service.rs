//! Answers the fabric.

use crate::files::Files;
use crate::spaces::Spaces;
use fabric::{Responder, Service};
use proto::gmm::Load;
use proto::mem::{MemReply, MemRequest};
use proto::stats::MemoryStats;
use proto::{Errno, Generation, Identity, ProcessId, wire};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A process that has had no connection for this long is asked about.
const SILENT: Duration = Duration::from_secs(5);

/// The memory component as a [`Service`].
pub struct Component {
    spaces: Spaces,
    files: Arc<Files>,
    ledger: Arc<crate::core::ledger::Ledger>,
    generation: AtomicU64,
    requests: Mutex<BTreeMap<&'static str, u64>>,
    /// Processes without a connection, and since when.
    silent: Mutex<HashMap<ProcessId, Instant>>,
}

impl Component {
    /// Serves `spaces` and `files`.
    pub fn new(
        spaces: Spaces,
        files: Arc<Files>,
        ledger: Arc<crate::core::ledger::Ledger>,
    ) -> Component {
        Component {
            spaces,
            files,
            ledger,
            generation: AtomicU64::new(0),
            requests: Mutex::default(),
            silent: Mutex::default(),
        }
    }

    /// Leases carry this from now on.
    pub fn set_generation(&self, generation: Generation) {
        self.generation.store(generation.0, Ordering::SeqCst);
    }

    fn generation(&self) -> Generation {
        Generation(self.generation.load(Ordering::SeqCst))
    }

    fn answer(&self, peer: Identity, request: MemRequest) -> Result<MemReply, Errno> {
        let process = || match peer {
            Identity::Process(p) => Ok(p),
            _ => Err(Errno::EPERM),
        };
        let component = || match peer {
            Identity::Process(_) => Err(Errno::EPERM),
            _ => Ok(()),
        };
        match request {
            MemRequest::CreateSpace => {
                self.spaces.create(process()?);
                Ok(MemReply::Done)
            }
            MemRequest::EndSpace { process: which } => {
                if process().is_ok_and(|own| own != which) {
                    return Err(Errno::EPERM);
                }
                self.end(which);
                Ok(MemReply::Done)
            }
            MemRequest::Space(ops) => self.spaces.change(process()?, &ops).map(MemReply::Space),
            MemRequest::Commit { extent } => self
                .spaces
                .commit(process()?, extent, self.generation())
                .map(MemReply::Lease),
            MemRequest::Reserve { process, extents } => {
                component()?;
                self.spaces
                    .reserve(process, &extents)
                    .map(|()| MemReply::Done)
            }
            MemRequest::Unreserve { process, extents } => {
                component()?;
                self.spaces.unreserve(process, &extents);
                Ok(MemReply::Done)
            }
            MemRequest::Stats => Ok(MemReply::Stats(self.stats())),
            of_files => self.answer_file(peer, of_files),
        }
    }

    fn answer_file(&self, peer: Identity, request: MemRequest) -> Result<MemReply, Errno> {
        let files = &self.files;
        match request {
            MemRequest::FileOpen { file, attr } => Ok(files.open(&file, &attr)),
            MemRequest::FileClose { file } => files.close(&file),
            MemRequest::FileRead { file, offset, len } => {
                files.read(&file, offset, len).map(MemReply::Data)
            }
            MemRequest::FileWrite { file, offset, data } => {
                let (offset, size) = files.write(&file, offset, &data)?;
                Ok(MemReply::Written { offset, size })
            }
            MemRequest::FileTruncate { file, len } => files.truncate(&file, len),
            MemRequest::FileSync { file, data_only } => files.sync(&file, data_only),
            MemRequest::FileStat { file } => files.stat(&file),
            MemRequest::FileExtent {
                file,
                index,
                writable,
                more,
            } => {
                let holder = (peer, self.generation());
                let leases = files.lease(&file, index, more, writable, holder)?;
                Ok(MemReply::FileLeases(leases))
            }
            MemRequest::FileDirty { file, pages } => {
                files.dirty(&file, &pages, peer).map(|()| MemReply::Done)
            }
            _ => Err(Errno::EINVAL),
        }
    }

    /// Frees everything that a process has here.
    fn end(&self, process: ProcessId) {
        self.spaces.end(process);
        self.files.forget(Identity::Process(process));
    }

    /// Counters since the start.
    pub fn stats(&self) -> MemoryStats {
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let mut stats = MemoryStats {
            requests: requests
                .iter()
                .map(|(k, n)| ((*k).to_string(), *n))
                .collect(),
            capacity: self.ledger.capacity(),
            ..MemoryStats::default()
        };
        drop(requests);
        self.spaces.report(&mut stats);
        self.files.report(&mut stats);
        stats
    }

    /// What gmm is told.
    pub fn load(&self) -> Load {
        let stats = self.stats();
        Load {
            capacity: stats.capacity,
            reserved: stats.reserved,
            used: stats.committed + stats.file_cache,
            processes: stats.processes,
            requests: stats.requests.iter().map(|(_, n)| n).sum(),
        }
    }

    /// Ends the spaces of processes that have been silent and that gmm does
    /// not know any more.
    pub fn audit(&self, known: impl FnOnce() -> Option<std::collections::BTreeSet<ProcessId>>) {
        let silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        let long: Vec<ProcessId> = silent
            .iter()
            .filter(|(_, since)| since.elapsed() > SILENT)
            .map(|(p, _)| *p)
            .collect();
        drop(silent);
        if long.is_empty() {
            return;
        }
        let Some(known) = known() else { return };
        for process in long.into_iter().filter(|p| !known.contains(p)) {
            tracing::info!("{process} is gone: its address space is ended");
            self.end(process);
            self.silent
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(&process);
        }
    }
}

fn kind(request: &MemRequest) -> &'static str {
    match request {
        MemRequest::CreateSpace => "CreateSpace",
        MemRequest::EndSpace { .. } => "EndSpace",
        MemRequest::Space(_) => "Space",
        MemRequest::Commit { .. } => "Commit",
        MemRequest::Reserve { .. } => "Reserve",
        MemRequest::Unreserve { .. } => "Unreserve",
        MemRequest::FileOpen { .. } => "FileOpen",
        MemRequest::FileClose { .. } => "FileClose",
        MemRequest::FileRead { .. } => "FileRead",
        MemRequest::FileWrite { .. } => "FileWrite",
        MemRequest::FileTruncate { .. } => "FileTruncate",
        MemRequest::FileSync { .. } => "FileSync",
        MemRequest::FileStat { .. } => "FileStat",
        MemRequest::FileExtent { .. } => "FileExtent",
        MemRequest::FileDirty { .. } => "FileDirty",
        MemRequest::Stats => "Stats",
    }
}

impl Service for Component {
    fn call(&self, peer: Identity, request: &[u8], reply: Responder) {
        let request: MemRequest = match wire::decode(request) {
            Ok(request) => request,
            Err(e) => {
                tracing::warn!("{peer} sent a {e}");
                return reply.answer(&MemReply::Failed(Errno::EPROTO));
            }
        };
        let mut counts = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(kind(&request)).or_default() += 1;
        drop(counts);
        reply.answer(&self.answer(peer, request).unwrap_or_else(MemReply::Failed));
    }

    fn connected(&self, peer: Identity) {
        if let Identity::Process(p) = peer {
            self.silent
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(&p);
        }
    }

    fn gone(&self, peer: Identity) {
        if let Identity::Process(p) = peer {
            let mut silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
            if self.spaces.processes().contains(&p) {
                silent.insert(p, Instant::now());
            }
        }
    }
}
