//! A real text of any size, from what this machine has: sources and
//! documentation. Nothing is invented; where the machine has too little, what
//! there is is repeated.

use super::step;
use crate::table::{bytes, number};
use anyhow::{Context, Result, bail};
use std::ffi::OsStr;
use std::fs;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Names that end so are prose, code or markup.
const ENDINGS: [&str; 14] = [
    "md", "txt", "rs", "c", "h", "html", "toml", "py", "pl", "pm", "hpp", "tex", "rst", "json",
];
/// Larger ones are data, not text.
const LARGEST: u64 = 4 << 20;

/// The path of a text of exactly `size` bytes below `cache`, made now unless
/// it is there.
pub(super) fn text(cache: &Path, size: u64) -> Result<PathBuf> {
    if size == 0 {
        bail!("--size: a text needs bytes: give a size such as 100M");
    }
    fs::create_dir_all(cache).with_context(|| format!("cannot make {}", cache.display()))?;
    let path = cache.join(format!("text-{size}"));
    if fs::metadata(&path).is_ok_and(|text| text.len() == size) {
        step(&format!(
            "text: {}, gathered before, in {}",
            bytes(size),
            path.display()
        ));
        return Ok(path);
    }
    step(&format!(
        "gathering {} of text from this machine",
        bytes(size)
    ));
    let made = tempfile::NamedTempFile::new_in(cache).context("a file for the text")?;
    let mut gathering = Gathering {
        out: BufWriter::new(made.as_file()),
        left: size,
    };
    gathering.gather(&sources())?;
    gathering.out.flush().context("writing the text")?;
    drop(gathering);
    made.persist(&path)
        .with_context(|| format!("cannot write {}", path.display()))?;
    step(&format!(
        "text kept for the next time in {}",
        path.display()
    ));
    Ok(path)
}

/// Directories with text, those with most prose first.
fn sources() -> Vec<PathBuf> {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let cargo = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| home.map(|home| home.join(".cargo")));
    let mut all = vec![PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))];
    all.extend(cargo.map(|cargo| cargo.join("registry/src")));
    all.extend(sysroot().map(|sysroot| sysroot.join("share")));
    all.extend(["/usr/include", "/usr/share/doc", "/usr/share", "/usr/lib"].map(PathBuf::from));
    all
}

/// The Rust toolchain, where there is one.
fn sysroot() -> Option<PathBuf> {
    let output = Command::new("rustc")
        .args(["--print", "sysroot"])
        .output()
        .ok()?;
    let path = String::from_utf8(output.stdout).ok()?;
    Some(PathBuf::from(path.trim())).filter(|path| path.is_absolute())
}

struct Gathering<W: Write> {
    out: W,
    left: u64,
}

impl<W: Write> Gathering<W> {
    /// Goes round the sources until there is enough.
    fn gather(&mut self, sources: &[PathBuf]) -> Result<()> {
        while self.left > 0 {
            let before = self.left;
            for source in sources {
                self.take_source(source)?;
            }
            if self.left == before {
                bail!("no text in any of {sources:?}: the demo needs some to count");
            }
            if self.left > 0 {
                step("that is all this machine has: repeating it");
            }
        }
        Ok(())
    }

    fn take_source(&mut self, source: &Path) -> Result<()> {
        let (before, mut files) = (self.left, 0);
        let mut waiting = vec![source.to_path_buf()];
        while let Some(path) = waiting.pop() {
            if self.left == 0 {
                break;
            }
            let Ok(data) = fs::symlink_metadata(&path) else {
                continue;
            };
            if data.is_dir() {
                waiting.extend(children(&path));
            } else if data.is_file() && data.len() <= LARGEST && has_text_name(&path) {
                files += u64::from(self.take_file(&path)?);
            }
        }
        let taken = before - self.left;
        if taken > 0 {
            let files = number(files);
            step(&format!(
                "  {} from {files} files in {}",
                bytes(taken),
                source.display()
            ));
        }
        Ok(())
    }

    /// Whether it held text, and that was taken.
    fn take_file(&mut self, path: &Path) -> Result<bool> {
        let Ok(content) = fs::read(path) else {
            return Ok(false);
        };
        if content.is_empty() || content.contains(&0) || std::str::from_utf8(&content).is_err() {
            return Ok(false);
        }
        let most = usize::try_from(self.left)
            .unwrap_or(usize::MAX)
            .min(content.len());
        self.out
            .write_all(&content[..most])
            .context("writing the text")?;
        self.left -= most as u64;
        Ok(true)
    }
}

/// In the order of their names, the last first: they are taken from the end.
/// What builds make is no text of people.
fn children(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.retain(|path| {
        !matches!(
            path.file_name().and_then(OsStr::to_str),
            Some("target" | ".git")
        )
    });
    paths.sort_unstable_by(|a, b| b.cmp(a));
    paths
}

fn has_text_name(path: &Path) -> bool {
    let ending = path.extension().and_then(OsStr::to_str);
    match ending {
        Some(ending) => ENDINGS.contains(&ending),
        None => path
            .file_name()
            .and_then(OsStr::to_str)
            .is_some_and(|name| name.len() > 3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gathered(place: &Path, size: u64) -> Vec<u8> {
        let mut out = Vec::new();
        let mut gathering = Gathering {
            out: &mut out,
            left: size,
        };
        gathering.gather(&[place.to_path_buf()]).unwrap();
        out
    }

    #[test]
    fn text_is_taken_in_order_and_repeated() {
        let place = tempfile::tempdir().unwrap();
        for (name, content) in [
            ("b.md", &b"two "[..]),
            ("a.txt", b"one "),
            ("c.rs", b"\0x"),
            ("d.o", b"object"),
        ] {
            fs::write(place.path().join(name), content).unwrap();
        }
        assert_eq!(gathered(place.path(), 13), b"one two one t");
    }

    #[test]
    fn no_text_is_an_error() {
        let place = tempfile::tempdir().unwrap();
        let mut gathering = Gathering {
            out: Vec::new(),
            left: 1,
        };
        assert!(gathering.gather(&[place.path().to_path_buf()]).is_err());
    }
}
