//! What the threads of a process share, beyond memory and signals.

use super::Places;
use crate::boot::Boot;
use crate::files::{RemoteFile, RemoteFiles};
use crate::stats::Stats;
use abi_linux::{ProcessState, path};
use fabric::{Credential, Options, Peer};
use proto::mem::FileRef;
use proto::process::Spawn;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// See the module.
pub(crate) struct Shared {
    /// Descriptors, working directory, limits.
    pub state: ProcessState<RemoteFile>,
    /// Files at the storage component.
    pub files: RemoteFiles,
    /// What was started.
    pub spawn: Spawn,
    /// First descriptor of the personality.
    pub fd_floor: i32,
    /// When the process began, nanoseconds of CLOCK_BOOTTIME.
    pub started: u64,
    auxv: OnceLock<Vec<u8>>,
    stack: OnceLock<(u64, u64)>,
    image: OnceLock<FileRef>,
    missing: Mutex<BTreeSet<&'static str>>,
}

impl Shared {
    /// For the process of `boot`.
    ///
    /// # Errors
    /// A sentence for people.
    pub(crate) fn new(
        boot: &Boot,
        fd_floor: i32,
        credential: &Credential,
        options: &Options,
        places: Arc<Places>,
        storage: Peer,
    ) -> Result<Shared, String> {
        Ok(Shared {
            state: ProcessState::new(&boot.spawn.cwd, boot.spawn.umask),
            files: RemoteFiles::new(
                &boot.storage,
                storage,
                places,
                credential.clone(),
                options.clone(),
            ),
            spawn: boot.spawn.clone(),
            fd_floor,
            started: boottime(),
            auxv: OnceLock::new(),
            stack: OnceLock::new(),
            image: OnceLock::new(),
            missing: Mutex::new(BTreeSet::new()),
        })
    }

    /// Notes what pseudo-files tell of the start.
    pub(crate) fn note_start(&self, auxv: Vec<u8>, stack: (u64, u64), image: FileRef) {
        let _ = self.image.set(image);
        let _ = self.auxv.set(auxv);
        let _ = self.stack.set(stack);
    }

    /// The auxiliary vector's bytes.
    pub(crate) fn auxv(&self) -> Vec<u8> {
        self.auxv.get().cloned().unwrap_or_default()
    }

    /// First and last address of the first stack.
    pub(crate) fn stack(&self) -> (u64, u64) {
        self.stack.get().copied().unwrap_or_default()
    }

    /// The path of a mapped file, as well as it is known.
    pub(crate) fn path_of_mapping(&self, file: &FileRef) -> Vec<u8> {
        if self.image.get().is_some_and(|image| image.id == file.id) {
            return self.executable();
        }
        self.files.path_of_mapping(file)
    }

    /// The absolute path of the image, links resolved. What was asked for at
    /// the start serves where storage can't tell (the image lost its name).
    pub(crate) fn executable(&self) -> Vec<u8> {
        let told = self.image.get().map(|i| self.files.path_of_mapping(i));
        told.filter(|path| !path.is_empty())
            .unwrap_or_else(|| path::clean(&image_path(&self.spawn)))
    }

    /// Logs a call that is not implemented, once by name.
    pub(crate) fn unimplemented(&self, name: &'static str) {
        let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        if missing.insert(name) {
            tracing::warn!("the program called {name}, which is not implemented: ENOSYS");
        }
    }

    /// Adds what files and calls know.
    pub(crate) fn report(&self, stats: &mut Stats) {
        let missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        stats.unimplemented = missing.iter().map(|n| (*n).to_string()).collect();
        self.files.report(&mut stats.messages);
    }

    /// Before the process ends, and after pages of shared mappings went to the
    /// files' caches: storage gets what was written.
    pub(crate) fn flush_files(&self) {
        if let Err(e) = self.files.flush_all() {
            tracing::error!("writing files back at the end of the program: {e}");
        }
    }
}

/// Where the image is: as it was given, below the working directory if it is
/// no absolute path.
pub(crate) fn image_path(spawn: &Spawn) -> Vec<u8> {
    path::join(&spawn.cwd, &spawn.program)
}

fn boottime() -> u64 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    u64::try_from(t.tv_sec * 1_000_000_000 + t.tv_nsec).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::process::CacheConfig;

    fn absolute(cwd: &str, program: &str) -> String {
        let spawn = Spawn {
            program: program.into(),
            argv: Vec::new(),
            envp: Vec::new(),
            cwd: cwd.into(),
            umask: 0o022,
            cache: CacheConfig::default(),
            rewrite: true,
        };
        String::from_utf8(path::clean(&image_path(&spawn))).unwrap()
    }

    #[test]
    fn an_image_is_looked_for_below_the_working_directory() {
        assert_eq!(absolute("/home/me", "bin/tool"), "/home/me/bin/tool");
        assert_eq!(absolute("/home/me", "./../tool"), "/home/tool");
        assert_eq!(absolute("/", "tool"), "/tool");
        assert_eq!(absolute("/home/me", "/bin//./tool"), "/bin/tool");
    }
}
