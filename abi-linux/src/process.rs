//! What the threads of a process share, as far as system calls are concerned.

use crate::consts::{O_PATH, RLIM_NLIMITS, RLIMIT_NOFILE};
use crate::fds::{FdTable, Object, OpenFile};
use crate::hostcall::HostCall;
use crate::kernel::Kernel;
use crate::layout::{Layout, Rlimit};
use crate::path;
use proto::Errno;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

/// The working directory.
#[derive(Debug)]
pub enum Cwd<F> {
    /// By its path, as the process was started with it.
    Path(Vec<u8>),
    /// An open directory (chdir(2), fchdir(2)).
    Open(Arc<OpenFile<F>>),
}

impl<F> Cwd<F> {
    /// Its absolute path when it became the working directory.
    pub fn path(&self) -> &[u8] {
        match self {
            Cwd::Path(path) => path,
            Cwd::Open(file) => &file.path,
        }
    }
    /// Whether it is a directory of `/proc`, `/sys` or `/dev`.
    pub fn is_pseudo(&self) -> bool {
        matches!(self, Cwd::Open(file) if !matches!(file.object, Object::Remote(_)))
    }
}

/// See the module.
#[derive(Debug)]
pub struct ProcessState<F> {
    /// Descriptors that are not the host's own.
    pub fds: FdTable<F>,
    cwd: RwLock<Arc<Cwd<F>>>,
    umask: AtomicU32,
    cpus: OnceLock<Vec<u32>>,
    limits: Mutex<[Option<Rlimit>; RLIM_NLIMITS as usize]>,
}

impl<F> ProcessState<F> {
    /// A process that starts in the absolute directory `cwd`.
    #[must_use]
    pub fn new(cwd: &[u8], umask: u32) -> ProcessState<F> {
        ProcessState {
            fds: FdTable::default(),
            cwd: RwLock::new(Arc::new(Cwd::Path(path::clean(cwd)))),
            umask: AtomicU32::new(umask & 0o777),
            cpus: OnceLock::new(),
            limits: Mutex::new([None; RLIM_NLIMITS as usize]),
        }
    }

    /// The working directory.
    pub fn cwd(&self) -> Arc<Cwd<F>> {
        self.cwd
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// chdir(2), once the directory is open.
    pub fn set_cwd(&self, file: Arc<OpenFile<F>>) {
        debug_assert!(file.flags() & O_PATH != 0 || !file.path.is_empty());
        *self.cwd.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(Cwd::Open(file));
    }

    /// The numbers of the processors, found out by `find` when first asked:
    /// programs ask often.
    pub fn cpus(&self, find: impl FnOnce() -> Vec<u32>) -> Vec<u32> {
        self.cpus.get_or_init(find).clone()
    }

    /// The file-creation mask.
    pub fn umask(&self) -> u32 {
        self.umask.load(Ordering::Relaxed)
    }

    /// umask(2): returns the mask before.
    pub fn set_umask(&self, mask: u32) -> u32 {
        self.umask.swap(mask & 0o777, Ordering::Relaxed)
    }

    /// getrlimit(2). What the program sets is kept here and not handed to the
    /// host, whose limits are the personality's too.
    ///
    /// # Errors
    /// `EINVAL`: no such resource.
    pub fn limit<K: Kernel<File = F>>(&self, k: &K, resource: u32) -> Result<Rlimit, Errno> {
        let slot = slot(resource)?;
        let mut limits = self.limits.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(limit) = limits[slot] {
            return Ok(limit);
        }
        let limit = first_limit(k, resource)?;
        limits[slot] = Some(limit);
        Ok(limit)
    }

    /// setrlimit(2).
    ///
    /// # Errors
    /// `EINVAL`: no such resource, or the soft limit is above the hard one;
    /// `EPERM`: the hard limit can't be raised.
    pub fn set_limit<K: Kernel<File = F>>(
        &self,
        k: &K,
        resource: u32,
        new: Rlimit,
    ) -> Result<(), Errno> {
        let old = self.limit(k, resource)?;
        if new.cur > new.max {
            return Err(Errno::EINVAL);
        }
        if new.max > old.max {
            return Err(Errno::EPERM);
        }
        self.limits.lock().unwrap_or_else(PoisonError::into_inner)[slot(resource)?] = Some(new);
        Ok(())
    }
}

fn slot(resource: u32) -> Result<usize, Errno> {
    if resource < RLIM_NLIMITS {
        Ok(resource as usize)
    } else {
        Err(Errno::EINVAL)
    }
}

fn first_limit<K: Kernel>(k: &K, resource: u32) -> Result<Rlimit, Errno> {
    let mut raw = [0; 16];
    k.host(HostCall::Getrlimit {
        resource,
        dst: &mut raw,
    })?;
    let mut limit = Rlimit::decode(&raw);
    if resource == RLIMIT_NOFILE {
        // Descriptors from the floor on are the personality's.
        let floor = u64::try_from(k.fd_floor()).unwrap_or(0);
        limit = Rlimit {
            cur: limit.cur.min(floor),
            max: limit.max.min(floor),
        };
    }
    Ok(limit)
}
