//! A zram device as swap (Documentation/admin-guide/blockdev/zram.rst).

use crate::out::warn;
use anyhow::{Context, Result, bail};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const CONTROL: &str = "/sys/class/zram-control";
/// Used before any other swap (swapon(2)).
const HIGHEST: &str = "32767";
const WANTED: &str = "lz4";

/// A device, off and gone when dropped.
#[derive(Debug)]
pub(super) struct Zram {
    number: u32,
    /// How it compresses.
    pub(super) algorithm: String,
    on: bool,
    /// The device file was made here.
    made: bool,
}

impl Zram {
    /// Of `size` bytes, before compression.
    pub(super) fn new(size: u64) -> Result<Zram> {
        if !rustix::process::geteuid().is_root() {
            bail!("--baseline swap: a swap device can be made by root alone: run as root");
        }
        if !Path::new(CONTROL).exists() {
            let _ = tool("modprobe", &["zram", "num_devices=0"]);
        }
        let number = fs::read_to_string(format!("{CONTROL}/hot_add"))
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .with_context(|| {
                format!(
                    "--baseline swap: no zram device to be had from {CONTROL}: modprobe zram (of \
                     the package with the kernel's extra modules), or swap to --swap existing"
                )
            })?;
        let mut zram = Zram {
            number,
            algorithm: String::new(),
            on: false,
            made: false,
        };
        zram.begin(size).context("--baseline swap: zram")?;
        Ok(zram)
    }

    fn begin(&mut self, size: u64) -> Result<()> {
        // Another than wanted is no failure: it is reported.
        let _ = self.set("comp_algorithm", WANTED);
        let offered = fs::read_to_string(self.attribute("comp_algorithm")).unwrap_or_default();
        self.algorithm = chosen(&offered);
        self.set("disksize", &size.to_string())?;
        self.make_node()?;
        let node = self.node().display().to_string();
        tool("mkswap", &[&node])?;
        tool("swapon", &["-p", HIGHEST, &node])?;
        self.on = true;
        Ok(())
    }

    fn node(&self) -> PathBuf {
        format!("/dev/zram{}", self.number).into()
    }

    fn attribute(&self, name: &str) -> PathBuf {
        format!("/sys/block/zram{}/{name}", self.number).into()
    }

    fn set(&self, name: &str, value: &str) -> Result<()> {
        let path = self.attribute(name);
        fs::write(&path, value)
            .with_context(|| format!("cannot write {value} to {}", path.display()))
    }

    /// Where nothing fills /dev by itself.
    fn make_node(&mut self) -> Result<()> {
        if self.node().exists() {
            return Ok(());
        }
        let text = fs::read_to_string(self.attribute("dev")).context("its device number")?;
        let numbers = text.trim().split_once(':');
        let numbers = numbers.and_then(|(one, two)| Some((one.parse().ok()?, two.parse().ok()?)));
        let (major, minor) = numbers.with_context(|| format!("{text:?} is no device number"))?;
        let mode = Mode::RUSR | Mode::WUSR;
        mknodat(
            CWD,
            self.node(),
            FileType::BlockDevice,
            mode,
            makedev(major, minor),
        )
        .with_context(|| format!("cannot make {}", self.node().display()))?;
        self.made = true;
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        let node = self.node();
        if self.on {
            tool("swapoff", &[&node.display().to_string()])?;
            self.on = false;
        }
        self.set("reset", "1")?;
        fs::write(format!("{CONTROL}/hot_remove"), self.number.to_string())
            .context("hot_remove")?;
        if self.made {
            let _ = fs::remove_file(node);
        }
        Ok(())
    }
}

impl Drop for Zram {
    fn drop(&mut self) {
        if let Err(why) = self.end() {
            let n = self.number;
            warn(&format!(
                "zram{n} is left behind: {why:#}: swapoff /dev/zram{n}; \
                 echo 1 >/sys/block/zram{n}/reset; echo {n} >{CONTROL}/hot_remove"
            ));
        }
    }
}

/// The one in brackets.
fn chosen(offered: &str) -> String {
    let mut names = offered.split_whitespace();
    let chosen = names.find_map(|name| name.strip_prefix('[')?.strip_suffix(']'));
    chosen.unwrap_or("unknown").to_owned()
}

/// Runs a program of the administrator's, who may not have its directory in
/// PATH.
fn tool(name: &str, arguments: &[&str]) -> Result<()> {
    let path = std::env::var("PATH").unwrap_or_default();
    let output = Command::new(name)
        .args(arguments)
        .env("PATH", format!("{path}:/usr/sbin:/sbin"))
        .stdin(Stdio::null())
        // A terminal's interrupt is for us: cleaning up goes on.
        .process_group(0)
        .output()
        .with_context(|| {
            format!("cannot run {name} (Debian: apt-get install mount util-linux kmod)")
        })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        bail!("{name} {}: {}", arguments.join(" "), said.trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_algorithm_in_brackets() {
        assert_eq!(chosen("lzo-rle lzo [lz4] zstd\n"), "lz4");
        assert_eq!(chosen(""), "unknown");
    }

    #[test]
    fn a_tool_that_fails_is_named() {
        let said = format!(
            "{:#}",
            tool("sh", &["-c", "echo no >&2; exit 1"]).unwrap_err()
        );
        assert!(said.contains("sh -c") && said.ends_with("no"), "{said}");
        assert!(tool("no-such-tool", &[]).is_err());
    }
}
