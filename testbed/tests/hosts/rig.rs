//! Hosts made of network namespaces, each with an sshd of its own, joined by a
//! bridge in the operator's namespace: nothing of this machine's own network
//! or ssh is touched. They share its files, but not its run directories.

use crate::binaries::testbed;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Long enough for whatever is to happen on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(60);
/// The operator's end of the network; hosts follow.
const OPERATOR: u32 = 1;

/// Says why such hosts can't be made here; fails where they must be.
pub(crate) fn able() -> bool {
    let mut lacks = Vec::new();
    if !rustix::process::geteuid().is_root() {
        lacks.push("root, to make network namespaces");
    }
    if !Path::new("/usr/sbin/sshd").exists() {
        lacks.push("sshd (Debian: apt-get install openssh-server)");
    }
    for (tool, lack) in [
        ("ssh", "ssh (Debian: apt-get install openssh-client)"),
        ("ip", "ip (Debian: apt-get install iproute2)"),
    ] {
        if Command::new(tool).arg("-V").output().is_err() {
            lacks.push(lack);
        }
    }
    if lacks.is_empty() {
        return true;
    }
    let why = format!(
        "testbeds over ssh are not tested: this machine lacks {}",
        lacks.join(", ")
    );
    assert!(
        std::env::var_os("SPLITKERNEL_REQUIRE_SSH").is_none_or(|v| v != "1"),
        "{why}"
    );
    eprintln!("SKIPPED: {why}");
    false
}

/// Some hosts and an operator. Dropped, all is gone.
pub(crate) struct Rig {
    place: tempfile::TempDir,
    /// Begins the names of namespaces and interfaces.
    mark: String,
    subnet: u32,
    sshds: Vec<Child>,
}

/// What may differ between hosts.
#[derive(Default)]
pub(crate) struct Odd {
    /// `PATH` of its sessions.
    pub(crate) path: Option<PathBuf>,
    /// It accepts nobody's key.
    pub(crate) refuses: bool,
}

impl Rig {
    /// Hosts `n1`, `n2`, …
    pub(crate) fn new(odds: &[Odd]) -> Rig {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let place = tempfile::Builder::new().prefix("rig-").tempdir_in("/tmp");
        let pid = std::process::id();
        let mut rig = Rig {
            place: place.unwrap(),
            mark: format!("s{pid}x{number}"),
            subnet: number % 256,
            sshds: Vec::new(),
        };
        rig.make_operator();
        for (index, odd) in odds.iter().enumerate() {
            rig.make_host(u32::try_from(index).unwrap() + 1, odd);
        }
        rig
    }

    pub(crate) fn path(&self) -> &Path {
        self.place.path()
    }

    /// In the range for tests of network devices (RFC 2544).
    pub(crate) fn address(&self, host: u32) -> String {
        format!("198.18.{}.{}", self.subnet, OPERATOR + host)
    }

    fn namespace(&self, host: u32) -> String {
        format!("{}n{host}", self.mark)
    }

    fn make_operator(&self) {
        let operator = self.namespace(0);
        ip(&["netns", "add", &operator]);
        ip(&["-n", &operator, "link", "add", "br0", "type", "bridge"]);
        let address = format!("{}/24", self.address(0));
        ip(&["-n", &operator, "address", "add", &address, "dev", "br0"]);
        for device in ["lo", "br0"] {
            ip(&["-n", &operator, "link", "set", device, "up"]);
        }
        let directory = self.path().join("n0");
        fs::create_dir(directory).unwrap();
        self.keygen("user");
    }

    fn keygen(&self, name: &str) {
        let key = self.path().join(name);
        let made = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-f"])
            .arg(key)
            .status();
        assert!(made.unwrap().success());
    }

    fn make_host(&mut self, host: u32, odd: &Odd) {
        let (operator, namespace) = (self.namespace(0), self.namespace(host));
        let port = format!("p{host}");
        ip(&["netns", "add", &namespace]);
        let link = ["-n", &operator, "link", "add", &port, "type", "veth"];
        let peer = ["peer", "name", "eth0", "netns", &namespace];
        ip(&[&link[..], &peer[..]].concat());
        ip(&["-n", &operator, "link", "set", &port, "master", "br0", "up"]);
        let address = format!("{}/24", self.address(host));
        ip(&["-n", &namespace, "address", "add", &address, "dev", "eth0"]);
        for device in ["lo", "eth0"] {
            ip(&["-n", &namespace, "link", "set", device, "up"]);
        }
        fs::create_dir(self.directory(host)).unwrap();
        self.start_sshd(host, odd);
    }

    fn start_sshd(&mut self, host: u32, odd: &Odd) {
        let name = format!("host{host}");
        self.keygen(&name);
        let path = self.path().to_owned();
        let public = fs::read_to_string(path.join(format!("{name}.pub"))).unwrap();
        let known = path.join("known_hosts");
        let others = fs::read_to_string(&known).unwrap_or_default();
        let line = format!("{} {public}", self.address(host));
        fs::write(known, others + &line).unwrap();
        // sshd's own, which packages make at boot.
        fs::create_dir_all("/run/sshd").unwrap();
        let mut text = format!(
            "ListenAddress {}\nPort 22\nPidFile none\nUsePAM no\nStrictModes no\n\
             PermitRootLogin prohibit-password\nPasswordAuthentication no\n\
             KbdInteractiveAuthentication no\n",
            self.address(host)
        );
        let shown = path.display();
        writeln!(text, "HostKey {shown}/{name}").unwrap();
        let keys = if odd.refuses { "none" } else { "user.pub" };
        writeln!(text, "AuthorizedKeysFile {shown}/{keys}").unwrap();
        let sets = odd
            .path
            .iter()
            .map(|path| format!(" PATH={}", path.display()));
        let sets: String = sets.collect();
        writeln!(text, "SetEnv XDG_RUNTIME_DIR={shown}/n{host}{sets}").unwrap();
        let file = path.join(format!("{name}.conf"));
        fs::write(&file, text).unwrap();
        let log = fs::File::create(path.join(format!("{name}.log"))).unwrap();
        let mut sshd = self.inside(host, "/usr/sbin/sshd");
        sshd.args(["-D", "-e", "-f"]).arg(file).stderr(log);
        self.sshds.push(sshd.spawn().unwrap());
        let address = format!("{}:22", self.address(host));
        until("sshd listens", || {
            let probe = format!("exec 3<>/dev/tcp/{}", address.replace(':', "/"));
            let mut shell = self.inside(0, "bash");
            let probed = shell.args(["-c", &probe]).stderr(Stdio::null()).status();
            probed.unwrap().success().then_some(())
        });
    }

    /// Where a host's run directories are.
    pub(crate) fn directory(&self, host: u32) -> PathBuf {
        self.path().join(format!("n{host}"))
    }

    /// A command in a host's network; the operator is host 0.
    fn inside(&self, host: u32, program: &str) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.namespace(host), program])
            .stdin(Stdio::null());
        command
    }

    /// `testbed` as the operator runs it.
    pub(crate) fn testbed(&self, arguments: &[&str]) -> Command {
        let mut command = self.inside(0, testbed().to_str().unwrap());
        let own = self.directory(0);
        command
            .args(arguments)
            .env("XDG_RUNTIME_DIR", &own)
            .env("XDG_STATE_HOME", &own)
            .env_remove("SSH_AUTH_SOCK");
        command
    }

    /// A host's part of a description, with more lines.
    pub(crate) fn host(&self, host: u32, more: &str) -> String {
        let (address, path) = (self.address(host), self.path().display());
        let lines = if more.contains("directory") {
            String::new()
        } else {
            format!("directory = {:?}\n", shared_binaries())
        };
        format!(
            "[[host]]\nname = \"n{host}\"\nssh = \"root@{address}\"\naddress = \"{address}\"\n\
             identity = \"{path}/user\"\n\
             options = [\"IdentitiesOnly=yes\", \"GlobalKnownHostsFile=none\", \
             \"UserKnownHostsFile={path}/known_hosts\", \"StrictHostKeyChecking=yes\"]\n\
             {lines}{more}\n"
        )
    }

    /// A description of a testbed of three of these.
    pub(crate) fn description(&self, hosts: &str) -> PathBuf {
        let text = format!(
            "name = \"lab\"\nfabric = \"tcp\"\nlog = \"info\"\n{hosts}\n\
             [gmm]\nhost = \"n3\"\n\
             [[memory]]\nname = \"m0\"\nsize = \"256MiB\"\nhost = \"n2\"\n\
             [[storage]]\nname = \"s0\"\nroot = \"/\"\nhost = \"n3\"\n\
             [[processor]]\nname = \"p0\"\nhost = \"n1\"\n"
        );
        let file = self.path().join("lab.toml");
        fs::write(&file, text).unwrap();
        file
    }

    /// What `testbed up` says of a description.
    pub(crate) fn up(&self, hosts: &str) -> Output {
        let file = self.description(hosts);
        self.testbed(&["up", file.to_str().unwrap()])
            .output()
            .unwrap()
    }

    /// A testbed of three usual hosts, up.
    pub(crate) fn up_as_usual(&self) {
        let hosts: String = (1..=3).map(|host| self.host(host, "")).collect();
        let up = self.up(&hosts);
        assert!(up.status.success(), "{}", said(&up));
    }

    /// Processes of a host's sessions (0: of the operator) whose command line
    /// has this word.
    pub(crate) fn processes(&self, host: u32, word: &str) -> Vec<i32> {
        let mark = format!("XDG_RUNTIME_DIR={}\0", self.directory(host).display());
        let all = fs::read_dir("/proc").unwrap().flatten();
        let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(|pid: &i32| {
            let read = |file| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            let has = |text: Vec<u8>, word: &str| String::from_utf8_lossy(&text).contains(word);
            has(read("environ"), &mark) && has(read("cmdline"), word)
        })
        .collect()
    }

    /// Fails unless nothing is left on a host, soon.
    pub(crate) fn expect_nothing_left(&self, host: u32) {
        until(&format!("host n{host} is clean"), || {
            let entries = fs::read_dir(self.directory(host)).unwrap().flatten();
            let left = entries.filter(|entry| {
                entry
                    .file_name()
                    .to_string_lossy()
                    .starts_with("splitkernel-")
            });
            let clean = left.count() == 0 && self.processes(host, "").is_empty();
            clean.then_some(())
        });
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = self.testbed(&["down", "lab"]).output();
        for sshd in &mut self.sshds {
            let _ = sshd.kill();
            let _ = sshd.wait();
        }
        for host in 0..=self.sshds.len() {
            let name = self.namespace(u32::try_from(host).unwrap_or(0));
            let _ = Command::new("ip").args(["netns", "delete", &name]).output();
        }
    }
}

/// Binaries are sent to all hosts of all tests once.
fn shared_binaries() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("hosts-bin")
}

fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "ip {arguments:?}: {}",
        said(&output)
    );
}

/// Both outputs, for messages.
pub(crate) fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

/// Waits until it has happened.
pub(crate) fn until<T>(what: &str, mut happened: impl FnMut() -> Option<T>) -> T {
    let most = Instant::now() + SOON;
    loop {
        if let Some(value) = happened() {
            return value;
        }
        assert!(Instant::now() < most, "it never came that {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// As kill -9.
pub(crate) fn kill(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}
