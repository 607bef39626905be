//! Finds what belongs to one run of `testbed`, and that nothing of it stays.

use rustix::process::Pid;
use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// Long enough for a janitor that has to see the end of its parent first.
const GRACE: Duration = Duration::from_secs(10);

/// A place of its own for one testbed's run directory. Its path is the mark
/// by which the testbed's processes are known: it is in their environment, or
/// on their command line, or they are children of one that has it. Whoever was
/// seen once is known for good, so that an orphan is not overlooked.
pub(crate) struct Home {
    directory: tempfile::TempDir,
    seen: RefCell<Vec<Identity>>,
}

/// Process id and start time, which together are never used again.
type Identity = (i32, u64);

impl Home {
    pub(crate) fn new() -> Home {
        Home {
            // Not under cargo's directory, whose path may be too long for the
            // sockets in it (unix(7): 107 bytes).
            directory: tempfile::Builder::new().prefix("home-").tempdir().unwrap(),
            seen: RefCell::default(),
        }
    }

    /// Makes a command put its run directory and state here.
    pub(crate) fn mark<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command
            .env("XDG_RUNTIME_DIR", self.path())
            .env("XDG_STATE_HOME", self.path())
            .env("TMPDIR", self.path())
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The testbed's living processes.
    pub(crate) fn processes(&self) -> Vec<Process> {
        let mark = self.path().as_os_str().as_encoded_bytes();
        let mut others = Process::all();
        let mut family: Vec<Process> = Vec::new();
        let mut seen = self.seen.borrow_mut();
        loop {
            let belongs = |p: &mut Process| {
                p.carries(mark)
                    || seen.contains(&p.identity)
                    || family.iter().any(|known| known.identity.0 == p.parent)
            };
            let found: Vec<Process> = others.extract_if(.., belongs).collect();
            if found.is_empty() {
                seen.extend(family.iter().map(|p| p.identity));
                return family;
            }
            family.extend(found);
        }
    }

    /// The one process that runs this binary as a child of `parent`.
    pub(crate) fn component(&self, binary: &str, parent: Pid) -> Pid {
        let found: Vec<_> = self
            .processes()
            .into_iter()
            .filter(|p| p.binary == binary && p.parent == parent.as_raw_nonzero().get())
            .collect();
        match &found[..] {
            [one] => one.pid(),
            _ => panic!(
                "not one {binary} but {found:?} among {:?}",
                self.processes()
            ),
        }
    }

    /// Fails unless all processes and files of the run have gone.
    pub(crate) fn expect_empty(&self) {
        let start = Instant::now();
        loop {
            let processes = self.processes();
            let files: Vec<PathBuf> = crate::scratch::tree_paths(self.path());
            if processes.is_empty() && files.is_empty() {
                return;
            }
            assert!(
                start.elapsed() < GRACE,
                "left behind: {processes:?}, files {files:?}"
            );
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Home {
    /// A failed test leaves no processes to disturb the next one.
    fn drop(&mut self) {
        for process in self.processes() {
            let _ = rustix::process::kill_process(process.pid(), rustix::process::Signal::KILL);
        }
    }
}

/// A process as `/proc` shows it (proc(5)).
pub(crate) struct Process {
    identity: Identity,
    pub(crate) parent: i32,
    /// Name of the file that it runs.
    pub(crate) binary: String,
    marks: Vec<u8>,
}

impl Process {
    fn all() -> Vec<Process> {
        fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter_map(Process::look)
            .collect()
    }

    /// `None` where it has ended, as a zombie too.
    fn look(pid: i32) -> Option<Process> {
        let file = |name: &str| fs::read(format!("/proc/{pid}/{name}")).ok();
        let stat = String::from_utf8_lossy(&file("stat")?).into_owned();
        // The name, in parentheses, may hold anything.
        let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let (state, parent, start) = (fields.first()?, fields.get(1)?, fields.get(19)?);
        if matches!(*state, "Z" | "X") {
            return None;
        }
        let binary = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
        let mut marks = file("environ").unwrap_or_default();
        marks.extend(file("cmdline").unwrap_or_default());
        Some(Process {
            identity: (pid, start.parse().ok()?),
            parent: parent.parse().ok()?,
            binary: binary.file_name()?.to_string_lossy().into_owned(),
            marks,
        })
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.identity.0).unwrap()
    }

    fn carries(&self, mark: &[u8]) -> bool {
        self.marks.windows(mark.len()).any(|window| window == mark)
    }
}

impl std::fmt::Debug for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} {} (child of {})",
            self.binary, self.identity.0, self.parent
        )
    }
}

/// The check itself can fail: what is there is found.
#[test]
fn what_is_left_is_found() {
    let home = Home::new();
    assert!(home.processes().is_empty());
    let mut command = Command::new("sleep");
    let mut sleeper = home.mark(command.arg("100")).spawn().unwrap();
    // spawn returns in the middle of execve, before the new environment is set.
    let begun = Instant::now();
    while !home.processes().iter().any(|p| p.binary == "sleep") {
        assert!(begun.elapsed().as_secs() < 20, "{:?}", home.processes());
        thread::yield_now();
    }
    sleeper.kill().unwrap();
    // A zombie has ended: only its parent has not looked yet.
    while !home.processes().is_empty() {
        thread::yield_now();
    }
    sleeper.wait().unwrap();
    fs::write(home.path().join("file"), "").unwrap();
    assert_eq!(
        crate::scratch::tree_paths(home.path()),
        [home.path().join("file")]
    );
}
