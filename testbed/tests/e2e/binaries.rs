//! Where the binaries under test are.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The binaries that `testbed run` starts.
const COMPONENTS: [&str; 4] = ["gmm", "mcomponent", "scomponent", "pcomponent"];

/// Path of `testbed`, with the components beside it.
pub(crate) fn testbed() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| match std::env::var_os("SPLITKERNEL_BIN_DIR") {
        Some(directory) => {
            let path = PathBuf::from(directory).join("testbed");
            assert!(
                path.exists(),
                "SPLITKERNEL_BIN_DIR has no {}",
                path.display()
            );
            path
        }
        None => {
            let path = PathBuf::from(env!("CARGO_BIN_EXE_testbed"));
            build_missing_components(&path);
            path
        }
    })
}

/// `cargo test -p testbed` builds no other package's binaries. Asking cargo
/// also when they exist keeps them from being older than the sources; it does
/// nothing where they are new.
fn build_missing_components(testbed: &Path) {
    let directory = testbed.parent().unwrap();
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args(["build", "--workspace", "--bins"])
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    // The directory is target/PROFILE, or target/TRIPLE/PROFILE.
    match directory.file_name().and_then(|name| name.to_str()) {
        Some("debug") => {}
        Some(profile) => drop(cargo.args(["--profile", profile])),
        None => panic!("{} has no profile's name", directory.display()),
    }
    cargo.env("CARGO_TARGET_DIR", directory.parent().unwrap());
    let output = cargo.output().unwrap();
    let missing: Vec<_> = COMPONENTS
        .iter()
        .filter(|name| !directory.join(name).exists())
        .collect();
    assert!(
        output.status.success() && missing.is_empty(),
        "no {missing:?} beside {}; `cargo build --workspace --bins` said:\n{}",
        testbed.display(),
        String::from_utf8_lossy(&output.stderr),
    );
}
