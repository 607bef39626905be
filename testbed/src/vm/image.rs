//! The machines' first and only root file system: an initramfs with busybox,
//! kernel modules, RDMA user space, and the libraries that all binaries need.
//! The binaries themselves come over 9p, so that it is small.

use super::cpio::Archive;
use super::modules;
use super::packages::Parts;
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The first process.
const INIT: &str = include_str!("init.sh");
/// Programs of the packages that the machines have. The first is needed to
/// come up, the others are to look and to measure with.
const PROGRAMS: [&str; 11] = [
    "rdma",
    "ibv_devices",
    "ibv_devinfo",
    "ibv_rc_pingpong",
    "ibv_ud_pingpong",
    "ib_read_lat",
    "ib_read_bw",
    "ib_write_lat",
    "ib_write_bw",
    "ib_send_lat",
    "ib_send_bw",
];
/// What our binaries look for when they run.
const LOADED: [&str; 2] = ["libibverbs.so.1", "librdmacm.so.1"];
/// libibverbs' driver of soft-RoCE devices.
const PROVIDER: &str = "libibverbs/librxe-rdmav34.so";
const PROVIDER_CONFIG: &str = "etc/libibverbs.d/rxe.driver";
/// Where binaries are looked for in a package.
const BINARY_PLACES: [&str; 4] = ["usr/bin", "bin", "usr/sbin", "sbin"];

/// Makes the image. `ours` are binaries of this host that shall run there.
pub(super) fn make(parts: &Parts, ours: &[PathBuf], path: &Path) -> Result<()> {
    let context = || format!("making {}", path.display());
    let file = BufWriter::new(File::create(path).with_context(context)?);
    let mut image = Image {
        archive: Archive::new(file),
        tree: parts.tree(),
        libraries: BTreeMap::new(),
    };
    image.base().with_context(context)?;
    image.modules(&parts.modules()?).with_context(context)?;
    image.programs().with_context(context)?;
    for binary in ours {
        image.need(binary)?;
    }
    image.put_libraries().with_context(context)?;
    image.archive.finish().with_context(context)?;
    Ok(())
}

struct Image<W> {
    archive: Archive<W>,
    tree: PathBuf,
    /// By the name that binaries ask for: the linker's whole path, or a
    /// library's.
    libraries: BTreeMap<String, PathBuf>,
}

impl<W: Write> Image<W> {
    fn base(&mut self) -> Result<()> {
        let busybox = self.find("busybox")?;
        let busybox = read(&busybox)?;
        self.archive.file("bin/busybox", 0o755, &busybox)?;
        self.archive.file("init", 0o755, INIT.as_bytes())?;
        for directory in ["usr/bin", "etc", "opt/splitkernel"] {
            self.archive.directory(directory)?;
        }
        self.archive
            .file("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\n")?;
        self.archive.file("etc/group", 0o644, b"root:x:0:\n")?;
        // The kernel opens it for init before devtmpfs is there.
        self.archive.character_device("dev/console", 5, 1)?;
        self.archive.character_device("dev/null", 1, 3)
    }

    fn modules(&mut self, from: &Path) -> Result<()> {
        let modules = modules::gather(from, &modules::WANTED)?;
        let mut order = String::new();
        for module in &modules {
            order += &format!("{}\n", module.name);
            let path = format!("modules/{}.ko", module.name);
            self.archive.file(&path, 0o644, &module.bytes)?;
        }
        self.archive.file("modules/order", 0o644, order.as_bytes())
    }

    fn programs(&mut self) -> Result<()> {
        for name in PROGRAMS {
            let path = self.find(name)?;
            self.need(&path)?;
            self.archive
                .file(&format!("usr/bin/{name}"), 0o755, &read(&path)?)?;
        }
        for name in LOADED.into_iter().chain([PROVIDER]) {
            let found = self.library_places().into_iter().map(|dir| dir.join(name));
            let path = found.into_iter().find(|path| path.is_file());
            let path = path.with_context(|| format!("the packages have no {name}"))?;
            self.need(&path)?;
            if name == PROVIDER {
                // libibverbs has its directory compiled in.
                let inside = path.strip_prefix(&self.tree).ok().and_then(Path::to_str);
                let inside = inside.context("the packages' paths are odd")?.to_owned();
                self.archive.file(&inside, 0o644, &read(&path)?)?;
            } else {
                self.libraries.insert(name.to_owned(), path);
            }
        }
        let config = read(&self.tree.join(PROVIDER_CONFIG))?;
        self.archive.file(PROVIDER_CONFIG, 0o644, &config)
    }

    fn find(&self, program: &str) -> Result<PathBuf> {
        let places = BINARY_PLACES
            .iter()
            .map(|dir| self.tree.join(dir).join(program));
        let mut files = places.filter(|path| path.is_file());
        let found = files.next();
        found.with_context(|| format!("the packages have no {program}"))
    }

    fn library_places(&self) -> Vec<PathBuf> {
        let places = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"];
        places.iter().map(|place| self.tree.join(place)).collect()
    }

    /// Takes note of the libraries of a binary: the packages' where they have
    /// them, else the host's, and so libc is that which our binaries were
    /// built with.
    fn need(&mut self, binary: &Path) -> Result<()> {
        let path = std::env::join_paths(self.library_places()).context("the cache's path")?;
        let output = Command::new("ldd")
            .arg(binary)
            .env("LD_LIBRARY_PATH", path)
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .output()
            .context("cannot run ldd")?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let whole = || format!("the libraries of {}", binary.display());
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr).into_owned();
            let text = said + &why;
            ensure!(is_static(&text), "{}: {}", whole(), text.trim());
            return Ok(());
        }
        self.libraries.extend(parse_ldd(&said).with_context(whole)?);
        Ok(())
    }

    /// All go where libc is: there the linker looks by itself.
    fn put_libraries(&mut self) -> Result<()> {
        let libraries = std::mem::take(&mut self.libraries);
        let libc = libraries.get("libc.so.6").and_then(|path| path.parent());
        let place = libc
            .unwrap_or(Path::new("/lib"))
            .to_string_lossy()
            .into_owned();
        for (name, path) in libraries {
            let inside = if name.starts_with('/') {
                name
            } else {
                format!("{place}/{name}")
            };
            let inside = inside.trim_start_matches('/');
            if !self.archive.has(inside) {
                self.archive.file(inside, 0o755, &read(&path)?)?;
            }
        }
        Ok(())
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| path.display().to_string())
}

fn is_static(said: &str) -> bool {
    said.contains("not a dynamic executable") || said.contains("statically linked")
}

/// ldd(1)'s lines: `name => path (address)`, and the linker without a name.
fn parse_ldd(said: &str) -> Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for line in said.lines().map(str::trim) {
        let line = line.rsplit_once(" (0x").map_or(line, |(before, _)| before);
        match line.split_once(" => ") {
            Some((name, path)) => {
                ensure!(
                    path.starts_with('/'),
                    "{name} is not there: the host's release differs from its packages', or a \
                     package is missing"
                );
                found.push((name.to_owned(), PathBuf::from(path)));
            }
            None if line.starts_with('/') => found.push((line.to_owned(), PathBuf::from(line))),
            // The kernel's own, which is no file; or nothing at all.
            None => {}
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_ldd() {
        let said = "\tlinux-vdso.so.1 (0x00007f39)\n\
                    \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f38)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f3938)\n";
        let found = parse_ldd(said).unwrap();
        let expected = [
            ("libc.so.6", "/lib/x86_64-linux-gnu/libc.so.6"),
            ("/lib64/ld-linux-x86-64.so.2", "/lib64/ld-linux-x86-64.so.2"),
        ];
        let expected = expected.map(|(name, path)| (name.to_owned(), PathBuf::from(path)));
        assert_eq!(found, expected);
    }

    #[test]
    fn a_missing_library_is_named() {
        let said = parse_ldd("\tlibx.so.1 => not found\n")
            .unwrap_err()
            .to_string();
        assert!(said.contains("libx.so.1"), "{said}");
        assert!(is_static("\tstatically linked\n"));
        assert!(parse_ldd("\tstatically linked\n").unwrap().is_empty());
    }
}
