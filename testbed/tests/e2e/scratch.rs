//! Directories and files that a test works on.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A directory under cargo's, removed when dropped.
pub(crate) fn directory(name: &str) -> tempfile::TempDir {
    tempfile::Builder::new()
        .prefix(name)
        .tempdir_in(env!("CARGO_TARGET_TMPDIR"))
        .unwrap()
}

/// What a path holds, as far as two runs must agree on it.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Entry {
    Directory {
        mode: u32,
    },
    Link {
        target: PathBuf,
    },
    File {
        mode: u32,
        links: u64,
        content: Content,
    },
}

/// A file's bytes, shown by length alone when a comparison fails.
#[derive(PartialEq, Eq)]
pub(crate) struct Content(Vec<u8>);

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sum = self
            .0
            .iter()
            .fold(0u32, |sum, byte| sum.rotate_left(5) ^ u32::from(*byte));
        write!(f, "{} bytes, sum {sum:08x}", self.0.len())
    }
}

/// All that is below a directory, by path relative to it.
pub(crate) fn tree(top: &Path) -> BTreeMap<PathBuf, Entry> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![top.to_path_buf()];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let entry = look(&path);
            if matches!(entry, Entry::Directory { .. }) {
                waiting.push(path.clone());
            }
            found.insert(path.strip_prefix(top).unwrap().to_path_buf(), entry);
        }
    }
    found
}

/// Paths below a directory, some of which may vanish meanwhile.
pub(crate) fn tree_paths(top: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut waiting = vec![top.to_path_buf()];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                waiting.push(entry.path());
            }
            found.push(entry.path());
        }
    }
    found
}

fn look(path: &Path) -> Entry {
    let info = fs::symlink_metadata(path).unwrap();
    let mode = info.permissions().mode() & 0o7777;
    if info.is_dir() {
        Entry::Directory { mode }
    } else if info.is_symlink() {
        Entry::Link {
            target: fs::read_link(path).unwrap(),
        }
    } else {
        let content = Content(fs::read(path).unwrap());
        Entry::File {
            mode,
            links: info.nlink(),
            content,
        }
    }
}

/// A stream of numbers for a seed (splitmix64; Steele, Lea, Flood 2014).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count.div_ceil(8))
            .flat_map(|_| self.next().to_le_bytes())
            .take(count)
            .collect()
    }
}

/// Lines of words, the short ones frequent as in a language.
pub(crate) fn text(seed: u64, size: usize) -> Vec<u8> {
    let mut random = Random(seed);
    let mut text = Vec::with_capacity(size + 16);
    while text.len() < size {
        let bits = 1 + random.below(14);
        let rank = random.below(1 << bits);
        let mut rest = rank + 1;
        while rest > 0 {
            let letter = u8::try_from(rest % 23).unwrap();
            text.push(if rank.is_multiple_of(7) { b'A' } else { b'a' } + letter);
            rest /= 23;
        }
        text.push(if random.below(9) == 0 { b'\n' } else { b' ' });
    }
    text.truncate(size);
    text
}
