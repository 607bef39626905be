//! What machines boot: a kernel and an initramfs, made on the spot of Debian's
//! packages, of our own binaries and of the libraries that they need.

use super::cpio::Archive;
use super::packages::{self, Unpacked};
use super::{kernel, modules, progress};
use crate::places::{BINARIES, Binaries, cache_home};
use anyhow::{Context, Result};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

const INIT: &str = include_str!("init.sh");
/// The dynamic linker, of the host and of its machines.
const LINKER: &str = "/lib64/ld-linux-x86-64.so.2";
/// Where libraries are in a machine.
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";
/// Programs of the packages that go along, and may miss.
const TOOLS: [&str; 14] = [
    "sbin/ip",
    "bin/ip",
    "sbin/rdma",
    "usr/sbin/rdma",
    "usr/bin/rdma",
    "usr/bin/ibv_devices",
    "usr/bin/ibv_devinfo",
    "usr/bin/ibv_rc_pingpong",
    "usr/bin/ib_read_lat",
    "usr/bin/ib_write_lat",
    "usr/bin/ib_send_lat",
    "usr/bin/ib_read_bw",
    "usr/bin/ib_write_bw",
    "usr/bin/ib_send_bw",
];

/// What is booted.
#[derive(Clone, Debug)]
pub(super) struct Image {
    pub(super) kernel: PathBuf,
    pub(super) initramfs: PathBuf,
}

/// Fetches and unpacks what is not there yet.
pub(super) fn prepare() -> Result<(Unpacked, PathBuf)> {
    let cache = cache_home().join("vm");
    std::fs::create_dir_all(&cache).with_context(|| cache.display().to_string())?;
    let unpacked = packages::fetch(&cache)?;
    let release = &unpacked.release;
    let vmlinux = cache.join(format!("vmlinux-{release}"));
    kernel::extract(
        &unpacked
            .root
            .join("boot")
            .join(format!("vmlinuz-{release}")),
        &vmlinux,
    )?;
    Ok((unpacked, vmlinux))
}

/// Makes an image; its initramfs goes to `directory`.
pub(super) fn make(directory: &Path) -> Result<Image> {
    let (unpacked, kernel) = prepare()?;
    progress("making the initramfs");
    let initramfs = directory.join("initramfs");
    let out = File::create(&initramfs).with_context(|| initramfs.display().to_string())?;
    let mut builder = Builder {
        archive: Archive::new(BufWriter::new(out)),
        root: &unpacked.root,
        scratch: directory,
    };
    builder.all(&unpacked.release)?;
    builder.archive.end()?.flush()?;
    Ok(Image { kernel, initramfs })
}

struct Builder<'a> {
    archive: Archive<BufWriter<File>>,
    /// Of the unpacked packages.
    root: &'a Path,
    scratch: &'a Path,
}

impl Builder<'_> {
    fn all(&mut self, release: &str) -> Result<()> {
        for directory in ["proc", "sys", "dev", "tmp", "run", "root", "sbin"] {
            self.archive.directory(directory)?;
        }
        self.archive.file("init", 0o755, INIT.as_bytes())?;
        self.archive
            .file("etc/passwd", 0o644, b"root:x:0:0::/root:/bin/sh\n")?;
        self.archive.file("etc/group", 0o644, b"root:x:0:\n")?;
        let busybox = self.root.join("bin/busybox");
        self.copy(&busybox, "bin/busybox", 0o755)?;
        self.modules(release)?;
        for tool in TOOLS {
            let path = self.root.join(tool);
            if path.is_file() {
                let name = path
                    .file_name()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned();
                // Ahead of busybox's own in the search path, and never
                // replaced by its links.
                self.program(&path, &format!("bin/{name}"))?;
            }
        }
        self.providers()?;
        let binaries = Binaries::find()?;
        for name in BINARIES {
            self.own(&binaries.path(name), name)?;
        }
        let testbed = std::env::current_exe().context("testbed's own binary")?;
        self.own(&testbed, "testbed")
    }

    fn copy(&mut self, from: &Path, to: &str, mode: u32) -> Result<()> {
        let content = std::fs::read(from).with_context(|| from.display().to_string())?;
        Ok(self.archive.file(to, mode, &content)?)
    }

    fn modules(&mut self, release: &str) -> Result<()> {
        let directory = self.root.join("lib/modules").join(release);
        let mut order = String::new();
        for (name, content) in modules::load(&directory)? {
            self.archive
                .file(&format!("lib/modules/{name}.ko"), 0o644, &content)?;
            order.push_str(&name);
            order.push('\n');
        }
        Ok(self
            .archive
            .file("lib/modules/order", 0o644, order.as_bytes())?)
    }

    /// What libibverbs loads by itself.
    fn providers(&mut self) -> Result<()> {
        let drivers = self.root.join("etc/libibverbs.d/rxe.driver");
        self.copy(&drivers, "etc/libibverbs.d/rxe.driver", 0o644)?;
        let directory = self.root.join(LIBRARIES).join("libibverbs");
        let entries =
            std::fs::read_dir(&directory).with_context(|| directory.display().to_string())?;
        for entry in entries {
            let path = entry?.path();
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if name.starts_with("librxe-") {
                self.program(&path, &format!("{LIBRARIES}/libibverbs/{name}"))?;
            }
        }
        let verbs = self.root.join(LIBRARIES).join("libibverbs.so.1");
        self.program(&verbs, &format!("{LIBRARIES}/libibverbs.so.1"))
    }

    /// One of ours, without what only a debugger reads.
    fn own(&mut self, path: &Path, name: &str) -> Result<()> {
        let stripped = self.scratch.join("stripped");
        let strip = packages::output(
            Command::new("strip")
                .arg("--strip-debug")
                .arg("-o")
                .arg(&stripped)
                .arg(path),
        );
        // Without binutils it is only larger.
        let from = if strip.is_ok() { &stripped } else { path };
        self.copy(from, &format!("bin/{name}"), 0o755)?;
        let _ = std::fs::remove_file(&stripped);
        self.libraries(path)
    }

    /// A file with the libraries that it needs.
    fn program(&mut self, path: &Path, to: &str) -> Result<()> {
        self.copy(path, to, 0o755)?;
        self.libraries(path)
    }

    /// The host's C library goes along: our binaries were linked with it.
    fn libraries(&mut self, path: &Path) -> Result<()> {
        let ours = self.root.join(LIBRARIES);
        let older = self.root.join("lib/x86_64-linux-gnu");
        let search = format!("{}:{}", ours.display(), older.display());
        let mut list = Command::new(LINKER);
        list.args(["--library-path", &search, "--list"]).arg(path);
        let text = match packages::output(&mut list) {
            Ok(text) => text,
            // Static: it needs none.
            Err(why) if format!("{why:#}").contains("statically linked") => return Ok(()),
            Err(why) => return Err(why).with_context(|| path.display().to_string()),
        };
        for (name, library) in needed(&text) {
            self.copy(Path::new(&library), &format!("{LIBRARIES}/{name}"), 0o755)?;
        }
        self.copy(Path::new(LINKER), LINKER.trim_start_matches('/'), 0o755)
    }
}

/// Names and files of libraries, as the dynamic linker lists them.
fn needed(text: &str) -> Vec<(String, String)> {
    let library = |line: &str| {
        let (name, rest) = line.trim().split_once(" => ")?;
        let path = rest.split(" (").next()?;
        let known = path.starts_with('/') && !name.contains('/');
        known.then(|| (name.to_owned(), path.to_owned()))
    };
    text.lines().filter_map(library).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_listed() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\
                    \tlibgcc_s.so.1 => /lib/x86_64-linux-gnu/libgcc_s.so.1 (0x00007f1)\n\
                    \tlibx.so => not found\n\
                    \t/lib64/ld-linux-x86-64.so.2 => /lib64/ld-linux-x86-64.so.2 (0x00007f2)\n";
        let expected = (
            "libgcc_s.so.1".to_owned(),
            "/lib/x86_64-linux-gnu/libgcc_s.so.1".to_owned(),
        );
        assert_eq!(needed(text), [expected]);
    }
}
