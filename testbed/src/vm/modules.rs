//! Kernel modules in the order in which they can be loaded.

use super::kernel::decompress;
use anyhow::{Context, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// What a machine needs; what these need is found out.
const WANTED: [&str; 10] = [
    "virtio_mmio",
    "virtio_pci",
    "virtio_console",
    "virtio_net",
    "9pnet_virtio",
    "9p",
    "ib_uverbs",
    "rdma_ucm",
    // RoCE's checksum; rdma_rxe asks for it by the name of its algorithm.
    "crc32_generic",
    "rdma_rxe",
];

/// A module's name and content.
pub(super) type Module = (String, Vec<u8>);

/// All that is needed of the modules below `directory`, each after those that
/// it depends on.
pub(super) fn load(directory: &Path) -> Result<Vec<Module>> {
    let mut files = BTreeMap::new();
    find(directory, &mut files).with_context(|| directory.display().to_string())?;
    let builtin = std::fs::read_to_string(directory.join("modules.builtin")).unwrap_or_default();
    let builtin: BTreeSet<String> = builtin.lines().filter_map(|l| name(Path::new(l))).collect();
    let mut loaded = Vec::new();
    let mut seen = builtin;
    for wanted in WANTED {
        visit(wanted, &files, &mut seen, &mut loaded)?;
    }
    Ok(loaded)
}

fn find(directory: &Path, files: &mut BTreeMap<String, PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            find(&entry.path(), files)?;
        } else if let Some(name) = name(&entry.path()) {
            files.insert(name, entry.path());
        }
    }
    Ok(())
}

/// `a-b.ko.xz` is the module a_b.
fn name(path: &Path) -> Option<String> {
    let file = path.file_name()?.to_str()?;
    let (name, compression) = file.split_once(".ko")?;
    matches!(compression, "" | ".xz" | ".zst" | ".gz").then(|| name.replace('-', "_"))
}

fn visit(
    name: &str,
    files: &BTreeMap<String, PathBuf>,
    seen: &mut BTreeSet<String>,
    loaded: &mut Vec<Module>,
) -> Result<()> {
    if !seen.insert(name.to_owned()) {
        return Ok(());
    }
    let path = files
        .get(name)
        .with_context(|| format!("the kernel has no module {name}"))?;
    let mut content = std::fs::read(path).with_context(|| path.display().to_string())?;
    if path.extension().is_some_and(|e| e != "ko") {
        content = decompress(&content).with_context(|| path.display().to_string())?;
    }
    for needed in depends(&content) {
        visit(&needed, files, seen, loaded)?;
    }
    loaded.push((name.to_owned(), content));
    Ok(())
}

/// What a module's .modinfo says that it depends on.
fn depends(content: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let at = content.windows(KEY.len()).position(|w| w == KEY);
    let list = at.map_or(&[][..], |at| &content[at + KEY.len()..]);
    let end = list.iter().position(|b| *b == 0).unwrap_or(list.len());
    String::from_utf8_lossy(&list[..end])
        .split(',')
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files() {
        for (file, module) in [
            ("/a/ib_core.ko", Some("ib_core")),
            ("crc32-generic.ko.xz", Some("crc32_generic")),
            ("x.ko.zst", Some("x")),
            ("modules.dep", None),
        ] {
            assert_eq!(name(Path::new(file)).as_deref(), module);
        }
    }

    #[test]
    fn modules_come_after_what_they_need() {
        let place = tempfile::tempdir().unwrap();
        let put = |name: &str, needs: &str| {
            let content = format!("\x7fELF\0license=GPL\0depends={needs}\0name={name}\0");
            std::fs::write(place.path().join(format!("{name}.ko")), content).unwrap();
        };
        for wanted in WANTED {
            put(&wanted.replace('_', "-"), "common");
        }
        put("common", "base");
        put("base", "");
        put("rdma-rxe", "ib-uverbs,udp_tunnel");
        put("udp_tunnel", "");
        std::fs::write(place.path().join("modules.builtin"), "kernel/9p.ko\n").unwrap();
        let order: Vec<String> = load(place.path())
            .unwrap()
            .into_iter()
            .map(|m| m.0)
            .collect();
        let at = |name: &str| order.iter().position(|n| n == name);
        assert!(at("base") < at("common") && at("common") < at("virtio_mmio"));
        assert!(at("udp_tunnel") < at("rdma_rxe") && at("ib_uverbs") < at("rdma_rxe"));
        assert_eq!(at("9p"), None, "it is built in");
        std::fs::remove_file(place.path().join("base.ko")).unwrap();
        let why = load(place.path()).unwrap_err().to_string();
        assert!(why.contains("base"), "{why}");
    }
}
