//! QEMU's command line for one machine.

use super::Node;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// The emulator that is run.
pub(super) const QEMU: &str = "qemu-system-x86_64";
/// Gives IB an MTU of 4096.
const MTU: u32 = 4500;

/// How the machine's processor is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Acceleration {
    /// By the host's.
    Kvm,
    /// In software; the host's time stamp counter shows through, which runs at
    /// so many kHz, if that is known.
    Tcg { tsc_khz: Option<u64> },
}

impl Acceleration {
    /// The best that can be had here.
    pub(super) fn detect() -> Acceleration {
        let kvm = std::fs::File::options()
            .read(true)
            .write(true)
            .open("/dev/kvm");
        // It may open where the processor lacks what it takes; then QEMU would
        // refuse to start.
        let flags = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        if kvm.is_ok() && has_virtualization(&flags) {
            return Acceleration::Kvm;
        }
        let tsc_khz = tsc_khz(&flags);
        Acceleration::Tcg { tsc_khz }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Acceleration::Kvm => "KVM",
            Acceleration::Tcg { .. } => "software emulation (TCG)",
        }
    }

    fn arguments(self) -> [&'static str; 4] {
        match self {
            Acceleration::Kvm => ["-accel", "kvm", "-cpu", "host"],
            Acceleration::Tcg { .. } => ["-accel", "tcg,thread=multi", "-cpu", "max"],
        }
    }
}

fn field<'a>(cpuinfo: &'a str, name: &str) -> Option<&'a str> {
    let matching = |line: &'a str| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then_some(value.trim())
    };
    cpuinfo.lines().find_map(matching)
}

fn has_flag(cpuinfo: &str, flag: &str) -> bool {
    let flags = field(cpuinfo, "flags").unwrap_or_default();
    flags.split_whitespace().any(|has| has == flag)
}

fn has_virtualization(cpuinfo: &str) -> bool {
    has_flag(cpuinfo, "vmx") || has_flag(cpuinfo, "svm")
}

/// The time stamp counter's rate. On hardware the model's name has it, while
/// "cpu MHz" is the present rate of the core; a virtual machine's "cpu MHz" is
/// the counter's.
fn tsc_khz(cpuinfo: &str) -> Option<u64> {
    let nominal = || {
        let model = field(cpuinfo, "model name")?;
        let rate = model.rsplit_once("@ ")?.1.trim().strip_suffix("GHz")?;
        khz(rate, 1_000_000.0)
    };
    let present = || khz(field(cpuinfo, "cpu MHz")?, 1000.0);
    if has_flag(cpuinfo, "hypervisor") {
        present().or_else(nominal)
    } else {
        nominal().or_else(present)
    }
}

/// A rate between 100 MHz and 100 GHz: others are no processor's.
fn khz(text: &str, unit: f64) -> Option<u64> {
    let khz = text.trim().parse::<f64>().ok()? * unit;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    (1e5..1e8).contains(&khz).then_some(khz as u64)
}

/// What one machine consists of.
pub(super) struct Machine<'a> {
    pub(super) name: &'a str,
    pub(super) node: Node,
    pub(super) acceleration: Acceleration,
    /// Bytes.
    pub(super) memory: u64,
    pub(super) cpus: u16,
    pub(super) kernel: &'a Path,
    pub(super) initramfs: &'a Path,
    /// The component binaries' directory.
    pub(super) binaries: &'a Path,
    /// A directory of the host that this machine serves.
    pub(super) share: Option<&'a Path>,
    /// Where its sockets are.
    pub(super) run: &'a Path,
    /// Where its console's log is.
    pub(super) state: &'a Path,
}

impl Machine<'_> {
    /// QEMU's arguments. QEMU connects to the switch, and listens at the other
    /// sockets.
    pub(super) fn arguments(&self) -> Vec<OsString> {
        let mut all: Vec<OsString> = Vec::new();
        let mut add = |words: &[&str]| all.extend(words.iter().map(OsString::from));
        let name = format!("{}-{}", self.name, self.node);
        add(&["-name", &name, "-nodefaults", "-no-user-config"]);
        add(&["-display", "none", "-no-reboot"]);
        add(&["-M", "microvm,acpi=on,pit=on,pic=on,rtc=on"]);
        add(&["-global", "virtio-mmio.force-legacy=false"]);
        add(&self.acceleration.arguments());
        add(&["-smp", &self.cpus.to_string()]);
        add(&["-m", &format!("{}M", self.memory >> 20)]);
        add(&["-append", &self.kernel_arguments()]);
        all.extend(["-kernel".into(), self.kernel.into()]);
        all.extend(["-initrd".into(), self.initramfs.into()]);
        self.console(&mut all);
        self.network(&mut all);
        self.ports(&mut all);
        share(&mut all, "binaries", self.binaries, true);
        if let Some(directory) = self.share {
            share(&mut all, "share", directory, false);
        }
        all
    }

    fn kernel_arguments(&self) -> String {
        let mut all = "console=ttyS0 panic=-1 mitigations=off tsc=reliable no_timer_check \
                       nokaslr quiet random.trust_cpu=on"
            .to_owned();
        if let Acceleration::Tcg { tsc_khz: Some(khz) } = self.acceleration {
            // Else most boots hang in the clock's calibration.
            all += &format!(" tsc_early_khz={khz}");
        }
        // Those that the kernel does not know become init's environment.
        let (node, address) = (self.node.number(), self.node.address());
        all += &format!(" VM_NODE={node} VM_ADDRESS={address} VM_MTU={MTU}");
        if self.share.is_some() {
            all += " VM_SHARE=1";
        }
        all
    }

    fn console(&self, all: &mut Vec<OsString>) {
        let mut chardev = OsString::from("socket,id=console,server=on,wait=off,path=");
        chardev.push(escaped(&console_socket(self.run, self.node)));
        chardev.push(",logappend=off,logfile=");
        chardev.push(escaped(&console_log(self.state, self.node)));
        all.extend(["-chardev".into(), chardev]);
        all.extend(["-serial".into(), "chardev:console".into()]);
    }

    fn network(&self, all: &mut Vec<OsString>) {
        let mut netdev = OsString::from("stream,id=net,server=off,addr.type=unix,addr.path=");
        netdev.push(escaped(&network_socket(self.run, self.node)));
        all.extend(["-netdev".into(), netdev]);
        let device = format!("virtio-net-device,netdev=net,mac={}", self.node.mac());
        all.extend(["-device".into(), device.into()]);
    }

    fn ports(&self, all: &mut Vec<OsString>) {
        all.extend(["-device".into(), "virtio-serial-device".into()]);
        all.extend(["-device".into(), "virtio-rng-device".into()]);
        for (id, path) in [
            ("agent", agent_socket(self.run, self.node)),
            ("exec", exec_socket(self.run, self.node)),
        ] {
            let mut chardev = OsString::from(format!("socket,id={id},server=on,wait=off,path="));
            chardev.push(escaped(&path));
            all.extend(["-chardev".into(), chardev]);
            let device = format!("virtserialport,chardev={id},name={id}");
            all.extend(["-device".into(), device.into()]);
        }
    }
}

fn share(all: &mut Vec<OsString>, tag: &str, directory: &Path, read_only: bool) {
    let mut fsdev = OsString::from(format!("local,id={tag},security_model=none"));
    if read_only {
        fsdev.push(",readonly=on");
    }
    fsdev.push(",multidevs=remap,path=");
    fsdev.push(escaped(directory));
    all.extend(["-fsdev".into(), fsdev]);
    let device = format!("virtio-9p-device,fsdev={tag},mount_tag={tag}");
    all.extend(["-device".into(), device.into()]);
}

/// A path within one of QEMU's comma-separated options: commas are doubled.
fn escaped(path: &Path) -> OsString {
    let bytes = path.as_os_str().as_bytes();
    let double = |byte: &u8| vec![*byte; if *byte == b',' { 2 } else { 1 }];
    OsString::from_vec(bytes.iter().flat_map(double).collect())
}

/// Where the serial console is.
pub(super) fn console_socket(run: &Path, node: Node) -> PathBuf {
    run.join(format!("console{}", node.number()))
}

/// What it has said.
pub(super) fn console_log(state: &Path, node: Node) -> PathBuf {
    state.join(format!("console-{node}.log"))
}

/// Where the switch listens for it.
pub(super) fn network_socket(run: &Path, node: Node) -> PathBuf {
    run.join(format!("net{}", node.number()))
}

/// The agent that serves the testbed.
pub(super) fn agent_socket(run: &Path, node: Node) -> PathBuf {
    run.join(format!("agent{}", node.number()))
}

/// The agent that serves `testbed vm exec`.
pub(super) fn exec_socket(run: &Path, node: Node) -> PathBuf {
    run.join(format!("exec{}", node.number()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(acceleration: Acceleration, share: Option<&Path>) -> String {
        let machine = Machine {
            name: "lab",
            node: Node::new(2).unwrap(),
            acceleration,
            memory: 512 << 20,
            cpus: 2,
            kernel: Path::new("/k"),
            initramfs: Path::new("/i"),
            binaries: Path::new("/b,in"),
            share,
            run: Path::new("/r"),
            state: Path::new("/s"),
        };
        let words = machine.arguments();
        let words: Vec<_> = words.iter().map(|w| w.to_string_lossy()).collect();
        words.join(" ")
    }

    #[test]
    fn software_emulation_is_told_the_clock() {
        let khz = Some(2_600_000);
        let line = machine(Acceleration::Tcg { tsc_khz: khz }, None);
        for words in [
            "-name lab-node2",
            "-accel tcg,thread=multi -cpu max",
            "-m 512M",
            "tsc_early_khz=2600000",
            "VM_NODE=2 VM_ADDRESS=10.77.0.2",
            "addr.path=/r/net2",
            "mac=52:54:00:77:00:02",
            "logfile=/s/console-node2.log",
            "virtserialport,chardev=exec,name=exec",
            "readonly=on,multidevs=remap,path=/b,,in",
        ] {
            assert!(line.contains(words), "{words} not in {line}");
        }
        assert!(!line.contains("VM_SHARE") && !line.contains("mount_tag=share"));
    }

    #[test]
    fn acceleration_needs_no_help() {
        let line = machine(Acceleration::Kvm, Some(Path::new("/srv")));
        assert!(line.contains("-accel kvm -cpu host") && !line.contains("tsc_early"));
        assert!(
            line.contains("VM_SHARE=1") && line.contains("path=/srv"),
            "{line}"
        );
    }

    #[test]
    fn the_clocks_rate_is_the_models_or_the_hypervisors() {
        let metal = "model name\t: CPU E5 @ 2.60GHz\ncpu MHz\t\t: 1200.5\nflags\t\t: fpu vmx\n";
        assert_eq!(tsc_khz(metal), Some(2_600_000));
        assert!(has_virtualization(metal));
        let guest = "model name\t: CPU E5 @ 2.60GHz\ncpu MHz\t\t: 2596.122\nflags\t: hypervisor\n";
        assert_eq!(tsc_khz(guest), Some(2_596_122));
        assert!(!has_virtualization(guest));
        assert_eq!(
            tsc_khz("model name: AMD EPYC\ncpu MHz: 2450.000\n"),
            Some(2_450_000)
        );
        assert_eq!(tsc_khz("cpu MHz: nan\n"), None);
        assert_eq!(tsc_khz(""), None);
    }
}
