//! The C programs, compiled once and shared by all tests and test processes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

/// How a program is compiled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Libc {
    /// Static, at a fixed address, with the GNU C library.
    Glibc,
    /// The same, position-independent.
    GlibcPie,
    /// Static, with musl.
    Musl,
    /// With a dynamic linker, which is not supported.
    Dynamic,
}

impl Libc {
    fn compiler(self) -> &'static str {
        if self == Libc::Musl {
            "musl-gcc"
        } else {
            "gcc"
        }
    }

    fn flags(self) -> &'static [&'static str] {
        match self {
            Libc::Glibc | Libc::Musl => &["-static", "-no-pie"],
            Libc::GlibcPie => &["-static-pie", "-fPIE"],
            Libc::Dynamic => &[],
        }
    }

    fn cure(self) -> &'static str {
        if self == Libc::Musl {
            "install musl-gcc (Debian: apt-get install musl-tools)"
        } else {
            "install a C compiler with a static libc (Debian: apt-get install gcc libc6-dev)"
        }
    }
}

/// The program of this name, linked with glibc.
pub(crate) fn program(name: &str) -> PathBuf {
    program_with(name, Libc::Glibc)
}

/// The program of this name, compiled now unless it was since it was written.
pub(crate) fn program_with(name: &str, libc: Libc) -> PathBuf {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs");
    let source = sources.join(name).with_extension("c");
    let headers = ["common.h", "sampling.h", "selftest.h"].map(|name| changed(&sources.join(name)));
    let newest = headers.into_iter().fold(changed(&source), SystemTime::max);
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("programs-{libc:?}"));
    let path = directory.join(name);
    if !path.exists() || changed(&path) < newest {
        fs::create_dir_all(&directory).unwrap();
        compile(&source, &path, libc);
    }
    path
}

fn changed(path: &Path) -> SystemTime {
    fs::metadata(path)
        .and_then(|info| info.modified())
        .unwrap_or_else(|e| {
            panic!("{}: {e}", path.display());
        })
}

/// Compiles beside the result and renames, as other tests may be doing the same.
fn compile(source: &Path, result: &Path, libc: Libc) {
    let made = tempfile::NamedTempFile::new_in(result.parent().unwrap())
        .unwrap()
        .into_temp_path();
    let output = Command::new(libc.compiler())
        .args(["-O2", "-std=gnu11", "-pthread", "-o"])
        .arg(&made)
        .args(libc.flags())
        .arg(source)
        .arg("-lm")
        .output()
        .unwrap_or_else(|e| {
            panic!(
                "{}: {e}; to run the tests, {}",
                libc.compiler(),
                libc.cure()
            )
        });
    assert!(
        output.status.success(),
        "{} could not compile {} ({:?}):\n{}\nperhaps you must {}",
        libc.compiler(),
        source.display(),
        libc,
        String::from_utf8_lossy(&output.stderr),
        libc.cure(),
    );
    made.persist(result).unwrap();
}
