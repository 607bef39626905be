//! Which program, as a shell would find it, and how it begins.

use crate::cli::RunArgs;
use proto::process::{CacheConfig, Spawn};
use rustix::fd::AsRawFd;
use rustix::fs::{Access, CWD, Mode, OFlags, ResolveFlags, open, openat2};
use serde::{Deserialize, Serialize};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Statuses that shells give.
const NOT_EXECUTABLE: i32 = 126;
const NOT_FOUND: i32 = 127;
/// What testbed itself gives.
const FAILED: i32 = crate::ending::SYSTEM_FAILED;

/// Where a shell looks without PATH (environ(7), and Debian's dash).
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// A program that can't be run.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Unrunnable {
    pub(crate) status: i32,
    pub(crate) message: String,
}

impl Unrunnable {
    fn not_found(name: &OsStr, why: impl fmt::Display) -> Unrunnable {
        let message = format!("{}: not found ({why})", name.display());
        Unrunnable {
            status: NOT_FOUND,
            message,
        }
    }

    fn not_executable(path: &Path, why: impl fmt::Display) -> Unrunnable {
        let message = format!("{}: not executable: {why}", path.display());
        Unrunnable {
            status: NOT_EXECUTABLE,
            message,
        }
    }
}

/// A program to look up on the host that has the storage component's root.
/// Names are bytes: they need not be UTF-8.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Search {
    root: Vec<u8>,
    name: Vec<u8>,
    /// `PATH`, if there is one.
    path: Option<Vec<u8>>,
    /// The current directory, inside the root if there is one like it.
    directory: Vec<u8>,
}

/// Where a program was found, and the directory it begins in.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Found {
    program: Vec<u8>,
    directory: Vec<u8>,
}

impl Search {
    /// For the program of a command line. `origin` is where the root lies on
    /// this host, as far as the current directory is concerned.
    pub(crate) fn new(root: &Path, origin: &Path, program: &[OsString]) -> Search {
        let name = program.first().map_or(OsStr::new(""), OsString::as_os_str);
        let path = std::env::var_os("PATH");
        let here = Root(origin.to_owned()).current_directory();
        Search {
            root: root.as_os_str().as_bytes().to_vec(),
            name: name.as_bytes().to_vec(),
            path: path.map(OsString::into_vec),
            directory: here.into_os_string().into_vec(),
        }
    }

    /// Looks, on this host.
    pub(crate) fn run(&self) -> Result<Found, Unrunnable> {
        let path = |bytes: &[u8]| PathBuf::from(OsStr::from_bytes(bytes));
        let root = Root::new(&path(&self.root)).map_err(|why| Unrunnable {
            status: FAILED,
            message: format!("{why:#}"),
        })?;
        let mut here = path(&self.directory);
        if !root.has_directory(&here) {
            here = PathBuf::from("/");
        }
        let search = self.path.as_deref().map(OsStr::from_bytes);
        let program = root.find(&here, OsStr::from_bytes(&self.name), search)?;
        Ok(Found {
            program: program.into_os_string().into_vec(),
            directory: here.into_os_string().into_vec(),
        })
    }
}

impl Found {
    /// How the program begins: with our arguments, environment and mask.
    pub(crate) fn spawn(self, args: &RunArgs, cache: CacheConfig) -> Spawn {
        let program = &args.program;
        Spawn {
            program: self.program,
            argv: program
                .iter()
                .map(|argument| argument.as_bytes().to_vec())
                .collect(),
            envp: environment(),
            cwd: self.directory,
            umask: umask(),
            cache,
            rewrite: !args.no_rewrite,
        }
    }
}

/// Where programs and files are: the storage component's root, on this host.
#[derive(Clone, Debug)]
pub(crate) struct Root(PathBuf);

impl Root {
    /// `directory` must exist.
    pub(crate) fn new(directory: &Path) -> anyhow::Result<Root> {
        let path = directory.canonicalize();
        match path {
            Ok(path) if path.is_dir() => Ok(Root(path)),
            Ok(path) => {
                anyhow::bail!("--root {}: not a directory: give one", path.display())
            }
            Err(why) => {
                anyhow::bail!("--root {}: {why}: give a directory", directory.display())
            }
        }
    }

    /// On this host.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// The current directory as seen inside; `/` where it lies outside.
    fn current_directory(&self) -> PathBuf {
        let current = std::env::current_dir().unwrap_or_default();
        let inside = current.strip_prefix(&self.0).unwrap_or(Path::new(""));
        Path::new("/").join(inside)
    }

    /// Whether a path inside can be executed.
    fn check(&self, path: &Path) -> Result<(), Unrunnable> {
        let refuse = |why: rustix::io::Errno| match why {
            rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR => {
                Unrunnable::not_found(path.as_os_str(), "no such file")
            }
            why => Unrunnable::not_executable(path, why),
        };
        let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = open(&self.0, directory, Mode::empty()).map_err(refuse)?;
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let file = openat2(&root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT);
        let file = std::fs::File::from(file.map_err(refuse)?);
        let data = file
            .metadata()
            .map_err(|e| Unrunnable::not_executable(path, e))?;
        if !data.is_file() {
            return Err(Unrunnable::not_executable(path, "it is not a regular file"));
        }
        let link = format!("/proc/self/fd/{}", file.as_raw_fd());
        let denied = rustix::fs::accessat(CWD, link, Access::EXEC_OK, rustix::fs::AtFlags::empty());
        match denied {
            Ok(()) => Ok(()),
            Err(_) => {
                let why = format!("its mode is {:o}: chmod +x it", data.mode() & 0o7777);
                Err(Unrunnable::not_executable(path, why))
            }
        }
    }

    fn has_directory(&self, path: &Path) -> bool {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let within =
            |root| openat2(&root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT).is_ok();
        open(&self.0, flags, Mode::empty()).is_ok_and(within)
    }

    /// The absolute path, inside, of the program that `name` means in the
    /// directory `here`.
    fn find(
        &self,
        here: &Path,
        name: &OsStr,
        search: Option<&OsStr>,
    ) -> Result<PathBuf, Unrunnable> {
        if name.is_empty() {
            return Err(Unrunnable::not_found(name, "an empty name"));
        }
        if name.as_bytes().contains(&b'/') {
            let path = plain(&here.join(name));
            return self.check(&path).map(|()| path);
        }
        let mut denied = None;
        for directory in std::env::split_paths(search.unwrap_or(OsStr::new(DEFAULT_PATH))) {
            let path = plain(&here.join(directory).join(name));
            match self.check(&path) {
                Ok(()) => return Ok(path),
                Err(why) if why.status == NOT_EXECUTABLE => denied = denied.or(Some(why)),
                Err(_) => {}
            }
        }
        Err(denied.unwrap_or_else(|| Unrunnable::not_found(name, "looked for in PATH")))
    }
}

/// Without `.` parts, which mean nothing. `..` is left to storage: it may
/// follow a link.
fn plain(path: &Path) -> PathBuf {
    path.components().collect()
}

fn environment() -> Vec<Vec<u8>> {
    let joined =
        |(name, value): (OsString, OsString)| [name.as_bytes(), b"=", value.as_bytes()].concat();
    std::env::vars_os().map(joined).collect()
}

/// Reading it means setting it; no other thread makes files now.
fn umask() -> u32 {
    let mask = rustix::process::umask(Mode::empty());
    rustix::process::umask(mask);
    mask.bits()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn place() -> (tempfile::TempDir, Root) {
        let place = tempfile::tempdir().unwrap();
        for (path, mode) in [
            ("bin/tool", 0o755),
            ("other/tool", 0o755),
            ("bin/plain", 0o644),
        ] {
            let path = place.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
        let root = Root::new(place.path()).unwrap();
        (place, root)
    }

    fn find(root: &Root, name: &str, search: &str) -> Result<PathBuf, i32> {
        root.find(Path::new("/"), OsStr::new(name), Some(OsStr::new(search)))
            .map_err(|e| e.status)
    }

    #[test]
    fn the_first_in_path_that_can_be_executed() {
        let (_place, root) = place();
        assert_eq!(
            find(&root, "tool", "/none:/other:/bin"),
            Ok("/other/tool".into())
        );
        assert_eq!(find(&root, "tool", "/bin:/other"), Ok("/bin/tool".into()));
        assert_eq!(find(&root, "plain", "/bin:/other"), Err(126));
        assert_eq!(find(&root, "nothing", "/bin:/other"), Err(127));
        assert_eq!(find(&root, "", "/bin"), Err(127));
    }

    #[test]
    fn a_name_with_a_slash_is_a_path() {
        let (_place, root) = place();
        assert_eq!(find(&root, "/bin/./tool", ""), Ok("/bin/tool".into()));
        assert_eq!(find(&root, "bin/tool", ""), Ok("/bin/tool".into()));
        assert_eq!(find(&root, "/bin", "/bin"), Err(126));
        assert_eq!(find(&root, "/bin/plain", ""), Err(126));
        assert_eq!(find(&root, "/bin/tool/x", ""), Err(127));
        assert_eq!(find(&root, "/etc/passwd", ""), Err(127));
    }

    #[test]
    fn links_stay_inside_the_root() {
        let (place, root) = place();
        symlink("/bin/tool", place.path().join("link")).unwrap();
        symlink("../../../../../../bin/sh", place.path().join("out")).unwrap();
        assert_eq!(find(&root, "/link", ""), Ok("/link".into()));
        assert_eq!(find(&root, "/out", ""), Err(127));
    }

    #[test]
    fn messages_name_the_program() {
        let (_place, root) = place();
        let said = root
            .find(Path::new("/"), OsStr::new("/bin/plain"), None)
            .unwrap_err()
            .message;
        assert!(
            said.contains("/bin/plain") && said.contains("chmod +x"),
            "{said}"
        );
    }
}
