//! An archive in cpio's "newc" format, as the kernel unpacks it into its first
//! root (Documentation/driver-api/early-userspace/buffer-format.rst).

use anyhow::{Context, Result, ensure};
use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Component, Path, PathBuf};

/// File types and permissions as in stat(2).
const DIRECTORY: u32 = 0o040_755;
const CHARACTER_DEVICE: u32 = 0o020_600;
const REGULAR: u32 = 0o100_000;
/// Entries and contents begin at multiples of it, bytes.
const ALIGNMENT: usize = 4;
/// Name of the entry that ends an archive.
const TRAILER: &str = "TRAILER!!!";

/// An archive being written. All belongs to root, from the epoch on: the same
/// contents make the same bytes.
pub(super) struct Archive<W> {
    writer: W,
    /// The inode number of the next entry, from 1 on.
    next: u32,
    made: BTreeSet<PathBuf>,
}

struct Entry<'a> {
    name: &'a str,
    mode: u32,
    device: (u32, u32),
    contents: &'a [u8],
}

impl<W: Write> Archive<W> {
    pub(super) fn new(writer: W) -> Archive<W> {
        let made = BTreeSet::new();
        Archive {
            writer,
            next: 1,
            made,
        }
    }

    /// Whether something of this name is in it.
    pub(super) fn has(&self, path: &str) -> bool {
        self.made.contains(Path::new(path))
    }

    /// A directory and those above it, each once.
    pub(super) fn directory(&mut self, path: &str) -> Result<()> {
        self.parents(path)?;
        if !self.made.insert(PathBuf::from(path)) {
            return Ok(());
        }
        self.entry(&Entry {
            name: path,
            mode: DIRECTORY,
            device: (0, 0),
            contents: &[],
        })
    }

    /// A regular file; `permissions` as in chmod(2).
    pub(super) fn file(&mut self, path: &str, permissions: u32, contents: &[u8]) -> Result<()> {
        self.leaf(&Entry {
            name: path,
            mode: REGULAR | permissions & 0o7777,
            device: (0, 0),
            contents,
        })
    }

    /// A character device.
    pub(super) fn character_device(&mut self, path: &str, major: u32, minor: u32) -> Result<()> {
        self.leaf(&Entry {
            name: path,
            mode: CHARACTER_DEVICE,
            device: (major, minor),
            contents: &[],
        })
    }

    /// The end: without it the archive is not whole.
    pub(super) fn finish(mut self) -> Result<W> {
        self.entry(&Entry {
            name: TRAILER,
            mode: 0,
            device: (0, 0),
            contents: &[],
        })?;
        self.writer.flush().context("writing the archive")?;
        Ok(self.writer)
    }

    fn leaf(&mut self, entry: &Entry<'_>) -> Result<()> {
        self.parents(entry.name)?;
        ensure!(
            self.made.insert(PathBuf::from(entry.name)),
            "{} is in the archive twice",
            entry.name
        );
        self.entry(entry)
    }

    fn parents(&mut self, path: &str) -> Result<()> {
        let path = Path::new(path);
        let plain = |part: Component<'_>| matches!(part, Component::Normal(_));
        ensure!(
            path.components().all(plain),
            "{} is not a plain relative path",
            path.display()
        );
        match path.parent().and_then(Path::to_str) {
            Some(parent) if !parent.is_empty() => self.directory(parent),
            _ => Ok(()),
        }
    }

    fn entry(&mut self, entry: &Entry<'_>) -> Result<()> {
        let context = || format!("{} in the archive", entry.name);
        let size = u32::try_from(entry.contents.len()).with_context(context)?;
        let name_size = u32::try_from(entry.name.len() + 1).with_context(context)?;
        let (major, minor) = entry.device;
        let fields = [
            self.next, entry.mode, 0, 0, 1, 0, size, 0, 0, major, minor, name_size, 0,
        ];
        self.next += 1;
        let mut head = b"070701".to_vec();
        for field in fields {
            head.extend(format!("{field:08X}").into_bytes());
        }
        head.extend(entry.name.as_bytes());
        head.push(0);
        pad(&mut head);
        let padding =
            vec![0; entry.contents.len().next_multiple_of(ALIGNMENT) - entry.contents.len()];
        for part in [&head[..], entry.contents, &padding] {
            self.writer.write_all(part).with_context(context)?;
        }
        Ok(())
    }
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_file_is_written_as_the_format_says() {
        let mut archive = Archive::new(Vec::new());
        archive.file("init", 0o755, b"hello").unwrap();
        let bytes = archive.finish().unwrap();
        let golden = "070701\
            00000001000081ED000000000000000000000001000000000000000500000000\
            00000000000000000000000000000005000000";
        let golden = [golden.as_bytes(), b"00init\0\0hello\0\0\0"].concat();
        assert_eq!(
            String::from_utf8_lossy(&bytes[..golden.len()]),
            String::from_utf8_lossy(&golden)
        );
        let trailer = &bytes[golden.len()..];
        assert!(trailer.starts_with(b"07070100000002"));
        assert!(trailer[110..].starts_with(b"TRAILER!!!\0"));
        assert_eq!(bytes.len() % ALIGNMENT, 0);
    }

    #[test]
    fn directories_come_once_and_before_what_is_in_them() {
        let mut archive = Archive::new(Vec::new());
        archive.file("a/b/c", 0o644, b"").unwrap();
        archive.file("a/b/d", 0o644, b"").unwrap();
        let bytes = archive.finish().unwrap();
        let text = String::from_utf8_lossy(&bytes);
        let at = |name: &str| text.find(&format!("{name}\0")).unwrap();
        assert!(at("00a") < at("00a/b") && at("00a/b") < at("00a/b/c"));
        assert_eq!(text.matches("00a/b\0").count(), 1);
    }

    #[test]
    fn paths_that_lead_elsewhere_and_doubles_are_refused() {
        let mut archive = Archive::new(Vec::new());
        assert!(archive.file("../x", 0o644, b"").is_err());
        assert!(archive.file("/x", 0o644, b"").is_err());
        archive.file("x", 0o644, b"").unwrap();
        assert!(archive.file("x", 0o644, b"").is_err());
        assert!(archive.has("x"));
    }
}
