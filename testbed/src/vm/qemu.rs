//! One machine: QEMU's arguments, its process, and what its console says.

use super::image::Image;
use crate::component::wait_all;
use anyhow::{Context, Result};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The program.
pub(super) const QEMU: &str = "qemu-system-x86_64";

/// How long a kernel may take to its first word under KVM; it takes 0.1 s.
const KVM_DEADLINE: Duration = Duration::from_secs(5);

/// How machines are run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum Acceleration {
    /// By the processor: /dev/kvm is there and ours to use.
    Kvm,
    /// By QEMU, in software.
    Tcg {
        /// Of the host's time-stamp counter. Without it most boots hang while
        /// they measure it by a timer that does not keep pace.
        khz: u32,
    },
}

impl Acceleration {
    /// The best that this host has.
    pub(super) fn find(kernel: &Path) -> Acceleration {
        let kvm = File::options().read(true).write(true).open("/dev/kvm");
        if kvm.is_ok() && kvm_works(kernel) {
            return Acceleration::Kvm;
        }
        let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let khz = khz(&cpus).unwrap_or(2_000_000);
        Acceleration::Tcg { khz }
    }
}

/// Whether a kernel comes to speak under KVM: the device may be there and the
/// machine hang all the same, where this host is itself a virtual machine.
fn kvm_works(kernel: &Path) -> bool {
    let mut command = Command::new(QEMU);
    command.args([
        "-accel", "kvm", "-cpu", "host", "-M", "microvm", "-m", "256",
    ]);
    command
        .arg("-kernel")
        .arg(kernel)
        .args(["-append", "console=ttyS0 panic=-1"]);
    command.args(["-nodefaults", "-no-user-config", "-nographic", "-no-reboot"]);
    command.args(["-serial", "stdio"]).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    host::child::tie(&mut command);
    let Ok(mut child) = command.spawn() else {
        return false;
    };
    let mut byte = [0];
    let spoke = child.stdout.as_mut().is_some_and(|out| {
        wait_all(&[out.as_fd()], KVM_DEADLINE) && matches!(out.read(&mut byte), Ok(1))
    });
    let _ = child.kill();
    let _ = child.wait();
    spoke
}

/// The first processor's clock, of /proc/cpuinfo.
fn khz(cpuinfo: &str) -> Option<u32> {
    let line = cpuinfo.lines().find(|line| line.starts_with("cpu MHz"))?;
    let mhz: f64 = line.split_once(':')?.1.trim().parse().ok()?;
    // A clock of some GHz.
    Some((mhz * 1000.0) as u32)
}

/// What one machine is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Node {
    pub(super) name: String,
    /// From 1: the last part of its addresses.
    pub(super) number: u8,
    /// Directory of its sockets.
    pub(super) directory: PathBuf,
    /// Its serial console, kept.
    pub(super) console: PathBuf,
    /// Bytes.
    pub(super) memory: u64,
    pub(super) cpus: u32,
    /// A directory of the host that it sees as /share.
    pub(super) share: Option<PathBuf>,
}

impl Node {
    pub(super) fn address(&self) -> String {
        format!("10.77.0.{}", self.number)
    }

    /// Where the agent for this use answers, `agent` or `exec`.
    pub(super) fn port(&self, port: &str) -> PathBuf {
        self.directory.join(format!("{}.{port}", self.name))
    }

    /// The socket of the switch, next to its own.
    fn switch(&self) -> PathBuf {
        switch_socket(&self.directory)
    }

    fn kernel_arguments(&self, acceleration: Acceleration) -> String {
        let mut all = "console=ttyS0 panic=-1 mitigations=off quiet random.trust_cpu=on".to_owned();
        if let Acceleration::Tcg { khz } = acceleration {
            all += &format!(" tsc=reliable tsc_early_khz={khz} no_timer_check nokaslr");
        }
        all += &format!(
            " splitkernel.node={} splitkernel.address={}/24",
            self.name,
            self.address()
        );
        if self.share.is_some() {
            all += " splitkernel.share=yes";
        }
        all
    }

    /// QEMU's arguments.
    fn arguments(&self, image: &Image, acceleration: Acceleration) -> Vec<String> {
        let (accelerator, processor) = match acceleration {
            Acceleration::Kvm => ("kvm", "host"),
            Acceleration::Tcg { .. } => ("tcg,thread=multi", "max"),
        };
        let mut all: Vec<String> = Vec::new();
        let mut add = |name: &str, value: String| all.extend([name.to_owned(), value]);
        add("-accel", accelerator.to_owned());
        // No PCI bus and no firmware: it boots in seconds.
        add("-M", "microvm,acpi=on,pit=on,pic=on,rtc=on".to_owned());
        add("-global", "virtio-mmio.force-legacy=false".to_owned());
        add("-cpu", processor.to_owned());
        add("-smp", self.cpus.to_string());
        add("-m", format!("{}k", self.memory >> 10));
        add("-kernel", shown(&image.kernel));
        add("-initrd", shown(&image.initramfs));
        add("-append", self.kernel_arguments(acceleration));
        add(
            "-chardev",
            format!("file,id=console,path={}", escaped(&self.console)),
        );
        add("-serial", "chardev:console".to_owned());
        add(
            "-netdev",
            format!(
                "stream,id=net,server=off,addr.type=unix,addr.path={}",
                escaped(&self.switch())
            ),
        );
        add(
            "-device",
            format!(
                "virtio-net-device,netdev=net,mac=52:54:00:77:00:{:02x}",
                self.number
            ),
        );
        add("-device", "virtio-serial-device".to_owned());
        for port in ["agent", "exec"] {
            let path = escaped(&self.port(port));
            add(
                "-chardev",
                format!("socket,id={port},path={path},server=on,wait=off"),
            );
            add(
                "-device",
                format!("virtserialport,chardev={port},name={port}"),
            );
        }
        if let Some(share) = &self.share {
            let path = escaped(share);
            add(
                "-fsdev",
                format!("local,id=share,path={path},security_model=none,multidevs=remap"),
            );
            add(
                "-device",
                "virtio-9p-device,fsdev=share,mount_tag=share".to_owned(),
            );
        }
        let alone = ["-nodefaults", "-no-user-config", "-nographic", "-no-reboot"];
        all.extend(alone.map(str::to_owned));
        all
    }
}

/// Where the switch listens.
pub(super) fn switch_socket(directory: &Path) -> PathBuf {
    directory.join("switch")
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// A path inside a list of options: commas are doubled.
fn escaped(path: &Path) -> String {
    shown(path).replace(',', ",,")
}

/// A machine's process; killed when dropped.
pub(super) struct Machine {
    pub(super) node: Node,
    child: Child,
    pidfd: OwnedFd,
    console: Console,
}

impl Machine {
    /// Starts it. It dies with the calling thread.
    pub(super) fn start(
        node: Node,
        image: &Image,
        acceleration: Acceleration,
        log: &Path,
    ) -> Result<Machine> {
        let said = File::create(log).with_context(|| log.display().to_string())?;
        let console = Console::new(&node.console)?;
        let mut command = Command::new(QEMU);
        command.args(node.arguments(image, acceleration));
        command
            .stdin(Stdio::null())
            .stdout(said.try_clone()?)
            .stderr(said);
        host::child::tie(&mut command);
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start {QEMU}: install the package qemu-system-x86"))?;
        match pidfd_open(Pid::from_child(&child), PidfdFlags::empty()) {
            Ok(pidfd) => Ok(Machine {
                node,
                child,
                pidfd,
                console,
            }),
            Err(why) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(why).context("pidfd_open")
            }
        }
    }

    /// Readable when it has ended.
    pub(super) fn exit_event(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    pub(super) fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// What its console said since the last call.
    pub(super) fn hear(&mut self) -> Vec<Said> {
        self.console.hear()
    }

    /// Pulls the plug.
    pub(super) fn kill(&mut self) {
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
        let _ = self.child.wait();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What a machine says on its console while it boots.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Said {
    /// It is at this step.
    Step(String),
    /// Its agents run.
    Ready,
    /// It gave up.
    Failed(String),
    /// Its kernel did.
    Panic(String),
}

impl Said {
    fn parse(line: &str) -> Option<Said> {
        if let Some(at) = line.find("Kernel panic") {
            return Some(Said::Panic(line[at..].trim().to_owned()));
        }
        let step = line.trim().strip_prefix("splitkernel: ")?;
        Some(match step.strip_prefix("failed: ") {
            Some(why) => Said::Failed(why.to_owned()),
            None if step == "ready" => Said::Ready,
            None => Said::Step(step.to_owned()),
        })
    }
}

/// Follows a console's log.
struct Console {
    file: File,
    /// The line that is not complete yet.
    line: Vec<u8>,
}

impl Console {
    fn new(path: &Path) -> Result<Console> {
        let file = File::options()
            .create(true)
            .truncate(true)
            .read(true)
            .write(true)
            .open(path);
        Ok(Console {
            file: file.with_context(|| path.display().to_string())?,
            line: Vec::new(),
        })
    }

    fn hear(&mut self) -> Vec<Said> {
        let mut bytes = Vec::new();
        let _ = self.file.read_to_end(&mut bytes);
        let mut said = Vec::new();
        for byte in bytes {
            if byte == b'\n' {
                said.extend(Said::parse(&String::from_utf8_lossy(&self.line)));
                self.line.clear();
            } else {
                self.line.push(byte);
            }
        }
        said
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn node(share: Option<&str>) -> Node {
        Node {
            name: "memory".to_owned(),
            number: 2,
            directory: "/run/x".into(),
            console: "/state/a,b.log".into(),
            memory: 512 << 20,
            cpus: 1,
            share: share.map(PathBuf::from),
        }
    }

    fn arguments(node: &Node, acceleration: Acceleration) -> String {
        let image = Image {
            kernel: "/k".into(),
            initramfs: "/i".into(),
        };
        node.arguments(&image, acceleration).join(" ")
    }

    #[test]
    fn arguments_name_what_the_machine_is() {
        let all = arguments(&node(None), Acceleration::Tcg { khz: 2_100_000 });
        for part in [
            "-accel tcg,thread=multi",
            "-m 524288k",
            "tsc_early_khz=2100000",
            "splitkernel.node=memory splitkernel.address=10.77.0.2/24",
            "mac=52:54:00:77:00:02",
            "path=/state/a,,b.log",
            "addr.path=/run/x/switch",
            "path=/run/x/memory.agent,server=on,wait=off",
        ] {
            assert!(all.contains(part), "{part} is not in {all}");
        }
        assert!(!all.contains("9p") && !all.contains("splitkernel.share"));
        let all = arguments(&node(Some("/")), Acceleration::Kvm);
        assert!(all.contains("-accel kvm") && !all.contains("tsc_early_khz"));
        assert!(all.contains("local,id=share,path=/,") && all.contains("splitkernel.share=yes"));
    }

    #[test]
    fn the_clock_is_read() {
        assert_eq!(
            khz("processor\t: 0\ncpu MHz\t\t: 2099.998\n"),
            Some(2_099_998)
        );
        assert_eq!(khz("no clock"), None);
    }

    #[test]
    fn consoles_are_followed_line_by_line() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("console");
        let mut console = Console::new(&path).unwrap();
        let mut out = File::options().append(true).open(&path).unwrap();
        let mut heard = |text: &str| {
            out.write_all(text.as_bytes()).unwrap();
            console.hear()
        };
        assert_eq!(heard("[ 0.1] Linux\r\nsplitkernel: mod"), []);
        assert_eq!(heard("ules\r\n"), [Said::Step("modules".to_owned())]);
        assert_eq!(
            heard("splitkernel: failed: no eth0\nsplitkernel: ready\n"),
            [Said::Failed("no eth0".to_owned()), Said::Ready]
        );
        let panic = "Kernel panic - not syncing".to_owned();
        assert_eq!(
            heard("[ 1.0] Kernel panic - not syncing\n"),
            [Said::Panic(panic)]
        );
    }
}
