//! Kernel modules and the order to load them in, from what each says of
//! itself (`depends=` in its section .modinfo): a package that was only
//! unpacked has no list of dependencies.

use super::kernel::filter;
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Needed in every machine. In that order, dependencies first.
pub(super) const WANTED: [&str; 11] = [
    "virtio_mmio",
    "virtio_net",
    "virtio_console",
    "virtio_rng",
    "crc32_generic",
    "crc32c_generic",
    "ib_uverbs",
    "rdma_ucm",
    "rdma_rxe",
    "9p",
    "9pnet_virtio",
];

/// A module, unpacked.
pub(super) struct Module {
    pub(super) name: String,
    pub(super) bytes: Vec<u8>,
}

/// The wanted modules and what they depend on, in the order to load them.
/// What is built into the kernel is left out.
pub(super) fn gather(tree: &Path, wanted: &[&str]) -> Result<Vec<Module>> {
    let mut gathering = Gathering {
        files: files(tree)?,
        builtin: builtin(tree),
        done: Vec::new(),
    };
    for name in wanted {
        gathering.add(&canonical(name), 0)?;
    }
    Ok(gathering.done)
}

struct Gathering {
    files: BTreeMap<String, PathBuf>,
    builtin: Vec<String>,
    done: Vec<Module>,
}

/// Deeper than any module's dependencies: those of a broken package might be
/// circular.
const DEEPEST: usize = 32;

impl Gathering {
    fn add(&mut self, name: &str, depth: usize) -> Result<()> {
        if self.done.iter().any(|m| m.name == name) || self.builtin.iter().any(|b| b == name) {
            return Ok(());
        }
        let Some(path) = self.files.get(name) else {
            bail!("the kernel package has no module {name}: give another with --kernel");
        };
        if depth > DEEPEST {
            bail!("the kernel's modules depend on each other in a circle at {name}");
        }
        let bytes = read(path)?;
        for dependency in depends(&bytes) {
            self.add(&dependency, depth + 1)?;
        }
        let name = name.to_owned();
        self.done.push(Module { name, bytes });
        Ok(())
    }
}

/// Modules by name, below a directory.
fn files(directory: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![directory.to_owned()];
    while let Some(directory) = waiting.pop() {
        let entries = std::fs::read_dir(&directory);
        for entry in entries.with_context(|| directory.display().to_string())? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                waiting.push(entry.path());
            } else if let Some((name, _)) = entry.file_name().to_string_lossy().split_once(".ko") {
                found.insert(canonical(name), entry.path());
            }
        }
    }
    Ok(found)
}

fn builtin(tree: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(tree.join("modules.builtin")).unwrap_or_default();
    let name = |line: &str| Some(canonical(line.rsplit('/').next()?.split_once(".ko")?.0));
    text.lines().filter_map(name).collect()
}

/// File names have dashes where module names have underscores.
fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
    match path.extension().and_then(|e| e.to_str()) {
        Some("xz") => filter(&["xz", "-dc"], &bytes),
        Some("zst") => filter(&["zstd", "-dc"], &bytes),
        Some("gz") => filter(&["gzip", "-dc"], &bytes),
        _ => Ok(bytes),
    }
}

/// What a module says it depends on.
fn depends(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"depends=";
    let strings = module.split(|byte| *byte == 0);
    let value = strings.filter_map(|s| s.strip_prefix(KEY)).next();
    let text = String::from_utf8_lossy(value.unwrap_or_default()).into_owned();
    let names = text.split(',').filter(|name| !name.is_empty());
    names.map(canonical).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(modules: &[(&str, &str)]) -> tempfile::TempDir {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("kernel/drivers");
        std::fs::create_dir_all(&folder).unwrap();
        for (name, depends) in modules {
            let text = format!("ELF\0license=GPL\0depends={depends}\0name={name}\0");
            std::fs::write(folder.join(format!("{name}.ko")), text).unwrap();
        }
        place
    }

    #[test]
    fn dependencies_come_first_and_once() {
        let place = tree(&[("a", "b,c-d"), ("b", "c_d"), ("c-d", ""), ("e", "a")]);
        let modules = gather(place.path(), &["a", "e"]).unwrap();
        let names: Vec<&str> = modules.iter().map(|m| m.name.as_str()).collect();
        assert_eq!(names, ["c_d", "b", "a", "e"]);
    }

    #[test]
    fn built_in_ones_are_left_out_and_missing_ones_named() {
        let place = tree(&[("a", "b")]);
        let builtin = place.path().join("modules.builtin");
        std::fs::write(&builtin, "kernel/lib/b.ko\n").unwrap();
        assert_eq!(gather(place.path(), &["a"]).unwrap().len(), 1);
        std::fs::remove_file(builtin).unwrap();
        let said = gather(place.path(), &["a"]).err().unwrap().to_string();
        assert!(
            said.contains("module b") && said.contains("--kernel"),
            "{said}"
        );
    }

    #[test]
    fn circles_end() {
        let place = tree(&[("a", "b"), ("b", "a")]);
        assert!(gather(place.path(), &["a"]).is_err());
    }
}
