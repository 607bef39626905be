//! What the machines are made of, from the distribution's packages: fetched
//! with `apt-get download` and unpacked into a cache, not installed; that
//! needs no root.

use super::kernel;
use crate::places;
use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The kernel if none is asked for.
pub(super) const KERNEL: &str = "linux-image-amd64";
/// Packages besides the kernel, each with other releases' names.
const PACKAGES: [&[&str]; 17] = [
    &["busybox-static"],
    &["ibverbs-providers"],
    &["ibverbs-utils"],
    &["iproute2"],
    &["libbsd0"],
    &["libcap2"],
    &["libibumad3"],
    &["libibverbs1"],
    &["libmd0"],
    &["libmnl0"],
    &["libnl-3-200"],
    &["libnl-route-3-200"],
    &["libpci3"],
    &["librdmacm1", "librdmacm1t64"],
    &["libudev1", "libudev1t64"],
    &["perftest"],
    &["zlib1g"],
];
/// Programs of the host, and the packages that have them.
const PROGRAMS: [(&str, &str); 5] = [
    (super::qemu::QEMU, "qemu-system-x86 seabios"),
    ("apt-get", "apt"),
    ("dpkg-deb", "dpkg"),
    ("ldd", "libc-bin"),
    ("xz", "xz-utils"),
];

/// A kernel and packages, unpacked.
#[derive(Clone, Debug)]
pub(super) struct Parts {
    /// The cache directory with all of them.
    pub(super) directory: PathBuf,
}

impl Parts {
    /// The packages' files.
    pub(super) fn tree(&self) -> PathBuf {
        self.directory.join("tree")
    }

    /// The kernel's ELF image.
    pub(super) fn kernel(&self) -> PathBuf {
        self.directory.join("vmlinux")
    }

    /// The kernel's modules.
    pub(super) fn modules(&self) -> Result<PathBuf> {
        let tree = self.tree();
        let found = ["usr/lib/modules", "lib/modules"]
            .iter()
            .find_map(|place| only_entry(&tree.join(place), ""));
        found.context("the kernel package has no modules: give another with --kernel")
    }
}

/// Fetches and unpacks what is not there yet; says what it does.
pub(super) fn prepare(kernel: &str, say: &mut dyn FnMut(&str)) -> Result<Parts> {
    check_host()?;
    ensure!(
        kernel.starts_with("linux-image-") && kernel.chars().all(is_package_char),
        "--kernel {kernel:?}: give the name of a kernel package, such as {KERNEL}"
    );
    let home = places::cache_home().join("vm");
    let directory = home.join(kernel);
    std::fs::create_dir_all(&home)
        .with_context(|| format!("cannot make the cache directory {}", home.display()))?;
    let _lock = lock(&home)?;
    if !directory.exists() {
        // Only what is whole gets the name.
        let new = tempfile::tempdir_in(&home).context("the cache directory")?;
        fetch(kernel, new.path(), say)?;
        let new = new.keep();
        std::fs::rename(&new, &directory).with_context(|| directory.display().to_string())?;
    }
    Ok(Parts { directory })
}

fn is_package_char(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || "+-.".contains(c)
}

/// Everything that must be installed here, at once.
fn check_host() -> Result<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let has = |name: &str| std::env::split_paths(&path).any(|dir| dir.join(name).is_file());
    let lacking: Vec<_> = PROGRAMS.iter().filter(|(name, _)| !has(name)).collect();
    if lacking.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = lacking.iter().map(|(name, _)| *name).collect();
    let packages: Vec<_> = lacking.iter().map(|(_, package)| *package).collect();
    bail!(
        "virtual machines need {}, not found in PATH: `apt-get install --no-install-recommends \
         {}` (Debian, Ubuntu)",
        names.join(", "),
        packages.join(" ")
    )
}

fn lock(home: &Path) -> Result<File> {
    let path = home.join(".lock");
    let file = File::create(&path).with_context(|| path.display().to_string())?;
    flock(&file, FlockOperation::LockExclusive).with_context(|| path.display().to_string())?;
    Ok(file)
}

fn fetch(kernel: &str, into: &Path, say: &mut dyn FnMut(&str)) -> Result<()> {
    let mut names = vec![real_kernel(kernel)?];
    for alternatives in PACKAGES {
        names.push(available(alternatives)?);
    }
    say(&format!("fetching {} packages ({})", names.len(), names[0]));
    let archives = into.join("archives");
    std::fs::create_dir(&archives).context("the cache directory")?;
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    run(
        &archives,
        "apt-get",
        &[&["-qq", "download"], &names[..]].concat(),
    )
    .context("fetching packages: `apt-get update` may help")?;
    say("unpacking them");
    let tree = into.join("tree");
    std::fs::create_dir(&tree).context("the cache directory")?;
    for entry in std::fs::read_dir(&archives)? {
        let archive = entry?.path();
        let words = [archive.as_path(), &tree].map(|path| path.to_string_lossy().into_owned());
        run(into, "dpkg-deb", &["-x", &words[0], &words[1]])?;
    }
    std::fs::remove_dir_all(&archives).context("the cache directory")?;
    let image = only_entry(&tree.join("boot"), "vmlinuz-").context("the package has no kernel")?;
    let image = std::fs::read(&image).with_context(|| image.display().to_string())?;
    let elf = kernel::extract(&image)?;
    std::fs::write(into.join("vmlinux"), elf).context("the cache directory")
}

/// What a package that only names the newest kernel depends on; others are
/// themselves the kernel.
fn real_kernel(name: &str) -> Result<String> {
    let text = output("apt-cache", &["depends", name])
        .with_context(|| format!("no package {name}: `apt-get update`, or give --kernel"))?;
    let mut depends = text.lines().filter_map(|line| {
        let target = line.trim().strip_prefix("Depends: ")?;
        target
            .starts_with("linux-image-")
            .then(|| target.to_owned())
    });
    Ok(depends.next_back().unwrap_or_else(|| name.to_owned()))
}

/// The first that can be had.
fn available(names: &[&str]) -> Result<String> {
    let known = |name: &&&str| output("apt-cache", &["show", "--no-all-versions", name]).is_ok();
    match names.iter().find(known) {
        Some(name) => Ok((*name).to_owned()),
        None => bail!(
            "no package {}: `apt-get update` may help",
            names.join(" or ")
        ),
    }
}

fn run(directory: &Path, program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(directory)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {program}: install it"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        bail!("{program} failed ({}): {said}", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn output(program: &str, arguments: &[&str]) -> Result<String> {
    let text = run(Path::new("/"), program, arguments)?;
    ensure!(!text.trim().is_empty(), "{program} says nothing");
    Ok(text)
}

/// The one thing in a directory whose name begins so.
fn only_entry(directory: &Path, prefix: &str) -> Option<PathBuf> {
    let entries = std::fs::read_dir(directory).ok()?;
    let mut found = entries.filter_map(Result::ok).filter(|entry| {
        let name = entry.file_name();
        name.to_string_lossy().starts_with(prefix)
    });
    found.next().map(|entry| entry.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_kernel_package_is_refused() {
        assert!("linux-image-6.1.0-9-amd64".chars().all(is_package_char));
        assert!(!"linux-image-; rm".chars().all(is_package_char));
        assert!(!"linux-image-../x".chars().all(is_package_char));
    }

    #[test]
    fn entries_are_found_by_their_beginning() {
        let place = tempfile::tempdir().unwrap();
        std::fs::write(place.path().join("config-6.1"), "").unwrap();
        assert_eq!(only_entry(place.path(), "vmlinuz-"), None);
        std::fs::write(place.path().join("vmlinuz-6.1"), "").unwrap();
        let found = only_entry(place.path(), "vmlinuz-").unwrap();
        assert!(found.ends_with("vmlinuz-6.1"));
    }
}
