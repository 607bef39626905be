//! File handles: what a client keeps instead of a descriptor. A handle says
//! where the file was and which file it was, so it survives a restart, and so
//! a path that leads to another file by now is noticed. It gives no rights:
//! the worst that a forged one can name is another file of the root.

use crate::core::path::MAX_PATH;
use proto::Errno;
use proto::store::{FileHandle, FileId};

/// First byte of an encoded handle.
const VERSION: u8 = 1;
/// Bytes before the path.
const HEADER: usize = 1 + 8 + 8 + 8 + 4;

/// An inode, told from later ones of the same number by its time of birth
/// (zero where the file system keeps none).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct FileKey {
    /// Device and inode number.
    pub id: FileId,
    /// Time of birth: seconds, nanoseconds.
    pub born: (i64, u32),
}

/// A decoded handle: a claim, until the path was followed and led to `key`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Handle {
    /// Which file.
    pub key: FileKey,
    /// Where it was, relative to the root, without symbolic links; empty for
    /// the root itself.
    pub path: Vec<u8>,
}

impl Handle {
    /// Its form on the wire.
    #[must_use]
    pub fn encode(&self) -> FileHandle {
        let mut bytes = Vec::with_capacity(HEADER + self.path.len());
        bytes.push(VERSION);
        bytes.extend_from_slice(&self.key.id.dev.to_le_bytes());
        bytes.extend_from_slice(&self.key.id.ino.to_le_bytes());
        bytes.extend_from_slice(&self.key.born.0.to_le_bytes());
        bytes.extend_from_slice(&self.key.born.1.to_le_bytes());
        bytes.extend_from_slice(&self.path);
        FileHandle(bytes)
    }

    /// Reads what a client sent.
    ///
    /// # Errors
    /// `ESTALE` where it is not a handle of this version of this component.
    pub fn decode(handle: &FileHandle) -> Result<Handle, Errno> {
        let bytes = &handle.0[..];
        let (version, rest) = take::<1>(bytes)?;
        let (dev, rest) = take::<8>(rest)?;
        let (ino, rest) = take::<8>(rest)?;
        let (sec, rest) = take::<8>(rest)?;
        let (nsec, path) = take::<4>(rest)?;
        let sound = version == [VERSION]
            && path.len() <= MAX_PATH
            && path.first() != Some(&b'/')
            && !path.contains(&0);
        if !sound {
            return Err(Errno::ESTALE);
        }
        Ok(Handle {
            key: FileKey {
                id: FileId {
                    dev: u64::from_le_bytes(dev),
                    ino: u64::from_le_bytes(ino),
                },
                born: (i64::from_le_bytes(sec), u32::from_le_bytes(nsec)),
            },
            path: path.to_vec(),
        })
    }
}

fn take<const N: usize>(bytes: &[u8]) -> Result<([u8; N], &[u8]), Errno> {
    bytes
        .split_first_chunk::<N>()
        .map(|(head, rest)| (*head, rest))
        .ok_or(Errno::ESTALE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn encoding_is_pinned() {
        let key = FileKey {
            id: FileId {
                dev: 0x0102,
                ino: 3,
            },
            born: (-2, 5),
        };
        let handle = Handle {
            key,
            path: b"a/b".to_vec(),
        };
        let mut bytes = vec![1, 2, 1, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0];
        bytes.extend([0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 5, 0, 0, 0]);
        bytes.extend(b"a/b");
        assert_eq!(handle.encode().0, bytes);
    }

    #[test]
    fn what_is_no_handle_is_stale() {
        let key = FileKey {
            id: FileId { dev: 1, ino: 2 },
            born: (0, 0),
        };
        let good = |path: &[u8]| {
            Handle {
                key,
                path: path.to_vec(),
            }
            .encode()
        };
        for path in [&b"/etc/passwd"[..], b"a\0b", &[b'x'; MAX_PATH + 1]] {
            assert_eq!(Handle::decode(&good(path)), Err(Errno::ESTALE));
        }
        let mut other_version = good(b"a");
        other_version.0[0] = 2;
        assert_eq!(Handle::decode(&other_version), Err(Errno::ESTALE));
        for len in 0..HEADER {
            let cut = FileHandle(good(b"").0[..len].to_vec());
            assert_eq!(Handle::decode(&cut), Err(Errno::ESTALE), "{len} bytes");
        }
    }

    proptest! {
        #[test]
        fn round_trip(dev: u64, ino: u64, born: (i64, u32), path in "[a-z./]{0,40}") {
            let path = path.trim_start_matches('/').as_bytes().to_vec();
            let handle = Handle { key: FileKey { id: FileId { dev, ino }, born }, path };
            prop_assert_eq!(Handle::decode(&handle.encode()), Ok(handle));
        }
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(handle) = Handle::decode(&FileHandle(bytes.clone())) {
                prop_assert_eq!(handle.encode().0, bytes);
            }
        }
    }
}
