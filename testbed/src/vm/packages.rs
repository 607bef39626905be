//! Debian packages that machines are made of: fetched and unpacked below the
//! cache directory, never installed.

use super::progress;
use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The kernel of the stable release, whatever its version is now.
const KERNEL: &str = "linux-image-amd64";
/// RDMA's libraries and tools, and what these need beside the C library.
const TOOLS: [&str; 15] = [
    "busybox-static",
    "ibverbs-providers",
    "ibverbs-utils",
    "iproute2",
    "libbpf1",
    "libcap2",
    "libelf1",
    "libibumad3",
    "libibverbs1",
    "libmnl0",
    "libnl-3-200",
    "libnl-route-3-200",
    "libpci3",
    "librdmacm1",
    "perftest",
];

/// Where packages were unpacked.
pub(super) struct Unpacked {
    pub(super) root: PathBuf,
    /// As `uname -r` has it.
    pub(super) release: String,
}

/// Fetches what is not there yet.
pub(super) fn fetch(cache: &Path) -> Result<Unpacked> {
    let kernel = kernel()?;
    let release = kernel
        .strip_prefix("linux-image-")
        .context("the kernel's package has another name than was expected")?
        .to_owned();
    let root = cache.join(format!("root-{release}"));
    let done = root.join(".complete");
    if !done.exists() {
        let part = cache.join(format!("part-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&part);
        let made = unpack(&kernel, &part);
        if let Err(why) = made.and_then(|()| settle(&part, &root)) {
            let _ = std::fs::remove_dir_all(&part);
            return Err(why);
        }
    }
    Ok(Unpacked { root, release })
}

/// Another one may have been faster: its result is as good.
fn settle(part: &Path, root: &Path) -> Result<()> {
    std::fs::write(part.join(".complete"), [])?;
    if std::fs::rename(part, root).is_err() {
        ensure!(
            root.join(".complete").exists(),
            "{} is in the way: remove it",
            root.display()
        );
        std::fs::remove_dir_all(part)?;
    }
    Ok(())
}

/// The package that the release's kernel is in.
fn kernel() -> Result<String> {
    let text = output(Command::new("apt-cache").args(["depends", KERNEL]))?;
    depends(&text).with_context(|| {
        format!("apt-cache knows no package {KERNEL}: run apt-get update, on Debian for x86-64")
    })
}

fn depends(text: &str) -> Option<String> {
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|package| package.starts_with("linux-image-"))
        .map(str::to_owned)
}

fn unpack(kernel: &str, to: &Path) -> Result<()> {
    let debs = to.join("debs");
    std::fs::create_dir_all(&debs).with_context(|| debs.display().to_string())?;
    progress("fetching Debian packages (about 80 MB, once)");
    let mut download = Command::new("apt-get");
    download.args(["download", "-q", kernel]).args(TOOLS);
    output(download.current_dir(&debs)).context(
        "packages could not be fetched: see that the network works, and run apt-get update",
    )?;
    progress("unpacking them");
    for deb in std::fs::read_dir(&debs)? {
        let deb = deb?.path();
        output(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(to))
            .with_context(|| format!("unpacking {}", deb.display()))?;
    }
    std::fs::remove_dir_all(&debs)?;
    Ok(())
}

/// Runs a command to its end; what it printed, or why it failed.
pub(super) fn output(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {name}: is it installed?"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let last: Vec<&str> = said.lines().rev().take(3).collect();
        bail!("{name} failed: {}", last.join(" / "));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_package_is_found() {
        let text = "linux-image-amd64\n  Depends: linux-image-6.1.0-56-amd64\n  Suggests: x\n";
        assert_eq!(depends(text).as_deref(), Some("linux-image-6.1.0-56-amd64"));
        assert_eq!(depends("linux-image-amd64\n"), None);
    }
}
