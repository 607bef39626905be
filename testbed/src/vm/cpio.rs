//! An initramfs: a cpio archive of the `newc` kind
//! (Documentation/driver-api/early-userspace/buffer-format.rst of Linux).

use std::collections::BTreeSet;
use std::io::{self, Write};

const DIRECTORY: u32 = 0o040_755;
const FILE: u32 = 0o100_000;
const TRAILER: &str = "TRAILER!!!";

/// Writes an archive, parent directories first.
pub(super) struct Archive<W> {
    out: W,
    inode: u32,
    made: BTreeSet<String>,
}

impl<W: Write> Archive<W> {
    pub(super) fn new(out: W) -> Archive<W> {
        Archive {
            out,
            inode: 0,
            made: BTreeSet::new(),
        }
    }

    /// A regular file. Paths have no leading slash; what is there already
    /// stays as it is.
    pub(super) fn file(&mut self, path: &str, permissions: u32, content: &[u8]) -> io::Result<()> {
        self.entry(path, FILE | permissions & 0o7777, content)
    }

    pub(super) fn directory(&mut self, path: &str) -> io::Result<()> {
        self.entry(path, DIRECTORY, &[])
    }

    /// Ends the archive.
    pub(super) fn end(mut self) -> io::Result<W> {
        self.write(TRAILER, 0, &[])?;
        Ok(self.out)
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.directory(parent)?;
        }
        if !self.made.insert(path.to_owned()) {
            return Ok(());
        }
        self.inode += 1;
        self.write(path, mode, content)
    }

    fn write(&mut self, path: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        let too_long = |_| io::Error::other(format!("{path} is too long for an initramfs"));
        let size = u32::try_from(content.len()).map_err(too_long)?;
        let name = u32::try_from(path.len() + 1).map_err(too_long)?;
        // inode, mode, owner, group, links, time, size, device and its own
        // number (two each), length of the name with its NUL, no checksum.
        let fields = [self.inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name, 0];
        let mut head = "070701".to_owned();
        for field in fields {
            head.push_str(&format!("{field:08x}"));
        }
        self.out.write_all(head.as_bytes())?;
        self.out.write_all(path.as_bytes())?;
        self.out.write_all(&[0])?;
        self.pad(head.len() + path.len() + 1)?;
        self.out.write_all(content)?;
        self.pad(content.len())
    }

    /// Names and contents begin at multiples of four.
    fn pad(&mut self, written: usize) -> io::Result<()> {
        self.out.write_all(&[0; 3][..written.wrapping_neg() % 4])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_byte_by_byte() {
        let mut archive = Archive::new(Vec::new());
        archive.file("a/b", 0o755, b"hello").unwrap();
        archive.file("c", 0o600, b"a/b").unwrap();
        // Once more: as it was.
        archive.directory("a").unwrap();
        let bytes = archive.end().unwrap();
        let zeros = |n: usize| "00000000".repeat(n);
        let head = |inode: &str, mode: &str, size: &str, name: &str| {
            format!(
                "070701{inode}{mode}{}00000001{}{size}{}{name}{}",
                zeros(2),
                zeros(1),
                zeros(4),
                zeros(1)
            )
        };
        let expected = [
            head("00000001", "000041ed", "00000000", "00000002"),
            "a\0".to_owned(),
            head("00000002", "000081ed", "00000005", "00000004"),
            "a/b\0\0\0hello\0\0\0".to_owned(),
            head("00000003", "00008180", "00000003", "00000002"),
            "c\0a/b\0".to_owned(),
            head("00000003", "00000000", "00000000", "0000000b"),
            "TRAILER!!!\0\0\0\0".to_owned(),
        ]
        .concat();
        assert_eq!(String::from_utf8(bytes).unwrap(), expected);
    }
}
