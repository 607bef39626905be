//! Files that testbed puts on a host: each appears whole, with the bytes that
//! were announced, or not at all.

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The file system is full long before.
const LONGEST: u64 = 16 << 30;

/// A file on its way.
pub(super) struct Upload {
    file: File,
    partial: PathBuf,
    target: PathBuf,
    left: u64,
    hash: Sha256,
    sha256: String,
    mode: u32,
}

impl Upload {
    /// Begins the file of a `PutFile`.
    pub(super) fn begin(
        directory: &Path,
        name: &str,
        mode: u32,
        length: u64,
        sha256: String,
    ) -> Result<Upload> {
        check_file_name(name)?;
        ensure!(length <= LONGEST, "{name}: {length} bytes are too many");
        let target = directory.join(name);
        let partial = directory.join(format!(".{name}.{}", std::process::id()));
        let context = || format!("cannot write {}", partial.display());
        let _ = std::fs::remove_file(&partial);
        let mut options = OpenOptions::new();
        // Nobody else sees a key, not even before it is whole.
        let file = options.write(true).create_new(true).mode(0o600);
        Ok(Upload {
            file: file.open(&partial).with_context(context)?,
            partial,
            target,
            left: length,
            hash: Sha256::new(),
            sha256,
            mode: mode & 0o777,
        })
    }

    /// Takes the next bytes; true when it is whole and in its place.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<bool> {
        let left = self.left.checked_sub(bytes.len() as u64);
        self.left = left.context("more bytes than announced")?;
        self.file
            .write_all(bytes)
            .with_context(|| format!("cannot write {}", self.partial.display()))?;
        self.hash.update(bytes);
        if self.left > 0 {
            return Ok(false);
        }
        let got = hexadecimal(&self.hash.clone().finalize());
        if got != self.sha256 {
            bail!(
                "{} arrived damaged: its SHA-256 is {got}, not {}: try again",
                self.target.display(),
                self.sha256
            );
        }
        let mode = std::fs::Permissions::from_mode(self.mode);
        self.file.set_permissions(mode).context("chmod")?;
        std::fs::rename(&self.partial, &self.target)
            .with_context(|| format!("cannot write {}", self.target.display()))?;
        Ok(true)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        // Gone already if it is whole.
        let _ = std::fs::remove_file(&self.partial);
    }
}

/// A name, not a path: files of ours lie side by side.
fn check_file_name(name: &str) -> Result<()> {
    let right = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let fine = !name.is_empty() && name.len() <= 128 && name.chars().all(right);
    ensure!(
        fine && !name.starts_with('.'),
        "{name:?} is not a file name of ours"
    );
    Ok(())
}

/// What a binary with these bytes is called in a directory of binaries: so
/// that versions live side by side, and one in use is never replaced.
pub(crate) fn binary_name(name: &str, sha256: &str) -> String {
    format!("{name}-{}", sha256.get(..16).unwrap_or(sha256))
}

/// SHA-256 of a file, hexadecimal.
pub(crate) fn sha256_of(path: &Path) -> Result<String> {
    let context = || format!("cannot read {}", path.display());
    let mut file = File::open(path).with_context(context)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).with_context(context)? {
            0 => return Ok(hexadecimal(&hash.finalize())),
            count => hash.update(&buffer[..count]),
        }
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(directory: &Path, name: &str, bytes: &[u8], sha: &str) -> Result<Upload> {
        Upload::begin(directory, name, 0o600, bytes.len() as u64, sha.to_owned())
    }

    #[test]
    fn a_file_appears_whole_and_private() {
        let place = tempfile::tempdir().unwrap();
        let mut upload = begin(place.path(), "key", b"secret", &sha256(b"secret")).unwrap();
        assert!(!upload.take(b"sec").unwrap());
        assert!(!place.path().join("key").exists());
        assert!(upload.take(b"ret").unwrap());
        let path = place.path().join("key");
        assert_eq!(std::fs::read(&path).unwrap(), b"secret");
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(sha256_of(&path).unwrap(), sha256(b"secret"));
    }

    #[test]
    fn damaged_long_and_abandoned_files_leave_nothing() {
        let place = tempfile::tempdir().unwrap();
        let mut damaged = begin(place.path(), "a", b"right", &sha256(b"right")).unwrap();
        assert!(damaged.take(b"wrong").is_err());
        let mut long = begin(place.path(), "b", b"x", &sha256(b"x")).unwrap();
        assert!(long.take(b"xy").is_err());
        drop((damaged, long));
        drop(begin(place.path(), "c", b"x", "").unwrap());
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
    }

    #[test]
    fn paths_are_refused() {
        let place = tempfile::tempdir().unwrap();
        for name in ["", "..", ".x", "a/b", "/etc/passwd", "a b"] {
            assert!(begin(place.path(), name, b"", "").is_err(), "{name}");
        }
    }
}
