//! Directories: where run directories, state and binaries are.

use anyhow::{Context, Result, bail};
use rustix::fs::{Mode, mkdir};
use std::env::{current_exe, var_os};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Bytes of a Unix socket's path, without the final zero (unix(7)).
const LONGEST_SOCKET: usize = 107;
/// Bytes that a run directory's sockets add to its path.
const SOCKET_NAME: usize = "/".len() + LONGEST_NAME + ".control".len();
/// Longest name of a component or a testbed, bytes.
pub(crate) const LONGEST_NAME: usize = 24;

/// A name for a new run directory: below `$XDG_RUNTIME_DIR` where that is a
/// directory of ours and its path short enough for sockets, else below `/tmp`.
/// It is not made yet.
pub(crate) fn run_directory(name: &str) -> Result<PathBuf> {
    let leaf = format!("splitkernel-{name}-{}", random_name()?);
    let runtime = var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let base = runtime.filter(|dir| is_ours(dir) && fits(&dir.join(&leaf)));
    Ok(base.unwrap_or_else(|| "/tmp".into()).join(leaf))
}

fn fits(directory: &Path) -> bool {
    directory.as_os_str().len() + SOCKET_NAME <= LONGEST_SOCKET
}

fn is_ours(directory: &Path) -> bool {
    directory.is_absolute()
        && std::fs::metadata(directory)
            .is_ok_and(|d| d.is_dir() && d.uid() == rustix::process::geteuid().as_raw())
}

/// Makes a directory that nobody else can look into, and that did not exist.
pub(crate) fn make_private(directory: &Path) -> Result<()> {
    mkdir(directory, Mode::RWXU)
        .with_context(|| format!("cannot make the directory {}", directory.display()))
}

fn random_name() -> Result<String> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty())
        .context("cannot draw a random number")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Where testbeds that stay keep their state: `$XDG_STATE_HOME/splitkernel`,
/// by default `~/.local/state/splitkernel`.
pub(crate) fn state_home() -> Result<PathBuf> {
    let absolute = |name: &str| {
        var_os(name)
            .map(PathBuf::from)
            .filter(|dir| dir.is_absolute())
    };
    let base = absolute("XDG_STATE_HOME")
        .or_else(|| Some(absolute("HOME")?.join(".local/state")))
        .context("no place for state: set XDG_STATE_HOME or HOME to an absolute path")?;
    Ok(base.join("splitkernel"))
}

/// Where big files that can be made again are kept: `$XDG_CACHE_HOME/splitkernel`,
/// by default `~/.cache/splitkernel`, else below `/tmp`.
pub(crate) fn cache_home() -> PathBuf {
    let absolute = |name: &str| {
        var_os(name)
            .map(PathBuf::from)
            .filter(|dir| dir.is_absolute())
    };
    absolute("XDG_CACHE_HOME")
        .or_else(|| Some(absolute("HOME")?.join(".cache")))
        .unwrap_or_else(|| "/tmp".into())
        .join("splitkernel")
}

/// A name of a testbed or a component: it becomes part of file names.
pub(crate) fn check_name(name: &str) -> Result<(), String> {
    let right = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let starts = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if starts && name.len() <= LONGEST_NAME && name.chars().all(right) {
        return Ok(());
    }
    Err(format!(
        "{name:?} is not a name: give 1 to {LONGEST_NAME} letters, digits, '-', '_' or '.', \
         a letter or digit first"
    ))
}

/// Where the component binaries are.
#[derive(Clone, Debug)]
pub(crate) struct Binaries(PathBuf);

/// The binaries that a testbed needs.
pub(crate) const BINARIES: [&str; 4] = ["gmm", "mcomponent", "scomponent", "pcomponent"];

impl Binaries {
    /// `$SPLITKERNEL_BIN_DIR`, else the directory of `testbed` itself.
    pub(crate) fn directory() -> Result<PathBuf> {
        if let Some(directory) = var_os("SPLITKERNEL_BIN_DIR") {
            return Ok(directory.into());
        }
        let own = current_exe().context("cannot find the directory of testbed's own binary")?;
        Ok(own.parent().unwrap_or(Path::new("/")).to_owned())
    }

    /// Finds all of [`BINARIES`].
    pub(crate) fn find() -> Result<Binaries> {
        let directory = Binaries::directory()?;
        let missing: Vec<&str> = BINARIES
            .into_iter()
            .filter(|name| !directory.join(name).is_file())
            .collect();
        if !missing.is_empty() {
            bail!(
                "{} not found in {}: build all components (cargo build --release), or set \
                 SPLITKERNEL_BIN_DIR to the directory that has them",
                missing.join(", "),
                directory.display()
            );
        }
        Ok(Binaries(directory))
    }

    /// The path of one.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_safe_in_paths() {
        for name in ["m0", "rack-1.node_2", "a"] {
            assert_eq!(check_name(name), Ok(()));
        }
        for name in [
            "",
            "..",
            "a/b",
            "-x",
            "a b",
            "é",
            "0123456789012345678901234",
        ] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn sockets_of_a_long_directory_do_not_fit() {
        assert!(fits(Path::new(
            "/run/user/1000/splitkernel-x-0123456789abcdef"
        )));
        assert!(!fits(&PathBuf::from("/").join("x".repeat(LONGEST_SOCKET))));
    }

    #[test]
    fn a_private_directory_is_new_and_private() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("run");
        make_private(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        assert!(make_private(&path).is_err());
    }
}
