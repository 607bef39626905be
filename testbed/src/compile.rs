//! C programs that testbed brings as source and compiles where it runs.

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

const CURE: &str = "a C compiler with a static libc (Debian: apt-get install gcc libc6-dev)";

/// Compiles a program, of which `sources` are the files and the first is its
/// C file, in the directory `place`, as a static binary of this name.
///
/// # Errors
/// There is no compiler, or no static libc: what to install.
pub(crate) fn compile(place: &Path, name: &str, sources: &[(&str, &str)]) -> Result<PathBuf> {
    for (file, text) in sources {
        std::fs::write(place.join(file), text).with_context(|| format!("the source of {name}"))?;
    }
    let (first, _) = sources.first().context("a program without source")?;
    let program = place.join(name);
    let mut command = Command::new("cc");
    command
        .args(["-O2", "-std=gnu11", "-static", "-pthread", "-o"])
        .arg(&program)
        .arg(place.join(first))
        .arg("-lm");
    let output = command
        .output()
        .with_context(|| format!("cannot run cc: to compile {name} takes {CURE}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        bail!("cc can't compile {name}; it needs {CURE}:\n{}", said.trim());
    }
    Ok(program)
}
