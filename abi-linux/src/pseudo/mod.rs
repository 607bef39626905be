//! `/proc`, `/sys` and `/dev`: what is there tells about the disaggregated
//! machine and the process, never about the host of a component. A path that
//! is not known here does not exist.
//!
//! Content is made when a file is opened and stays as it was until it is
//! closed.

mod device;
mod format;
mod own;
mod system;

pub use device::Device;

use crate::consts::*;
use crate::fds::Object;
use crate::hostcall::HostCall;
use crate::kernel::Kernel;
use crate::layout::{Layout, RawTimespec};
use crate::path::{Target, is_pseudo, join, target};
use proto::Errno;
use proto::store::{Attr, FileId, StatFs, Timespec};

/// A directory's entries: name and `DT_*`.
pub type Names = Vec<(Vec<u8>, u8)>;

/// What stands at a pseudo path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Node {
    /// A directory, without `.` and `..`.
    Dir(Names),
    /// A file to read.
    Text(Vec<u8>),
    /// A symbolic link.
    Link(Vec<u8>),
    /// A link to what a descriptor refers to.
    Descriptor(i32),
    /// A device.
    Device(Device),
    /// The controlling terminal.
    Terminal,
}

/// Where a pseudo path leads in the end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Found {
    /// There.
    Node(Node),
    /// To what this descriptor refers to.
    Descriptor(i32),
    /// Out, to the path that [`find`] returns beside this.
    Outside,
}

/// Most symbolic links in one path (path_resolution(7)).
const MOST_LINKS: usize = 40;

/// Follows a clean absolute path below `/proc`, `/sys` or `/dev`, its last
/// link only if `follow`. Returns what is there and its path without links.
///
/// # Errors
/// `ENOENT`, `ENOTDIR`, `ELOOP`.
pub fn find<K: Kernel>(k: &K, path: &[u8], follow: bool) -> Result<(Found, Vec<u8>), Errno> {
    let mut walk = Walk {
        at: Vec::new(),
        todo: parts(path),
        links: 0,
    };
    while let Some(part) = walk.todo.pop() {
        match &*part {
            b"." => continue,
            b".." => {
                walk.at.pop();
                continue;
            }
            _ => walk.at.push(part),
        }
        if !is_pseudo(&walk.path()) {
            return Ok((Found::Outside, walk.whole_path()));
        }
        let node = node(k, &walk.at)?;
        let last = walk.todo.is_empty();
        match node {
            Node::Link(to) if !last || follow => walk.follow(&to)?,
            Node::Descriptor(fd) if last && follow => {
                return Ok((Found::Descriptor(fd), walk.path()));
            }
            Node::Descriptor(fd) if !last => walk.follow(&descriptor_target(k, fd)?)?,
            node if last => return Ok((Found::Node(node), walk.path())),
            Node::Dir(_) => {}
            _ => return Err(Errno::ENOTDIR),
        }
    }
    let path = walk.path();
    if !is_pseudo(&path) {
        return Ok((Found::Outside, path));
    }
    Ok((Found::Node(node(k, &walk.at)?), path))
}

/// A path as the storage component names it, whose own `/proc/PID` is meant
/// to be the process's.
#[must_use]
pub fn from_storage(path: &[u8]) -> Vec<u8> {
    let Some(rest) = path.strip_prefix(b"/proc/") else {
        return path.to_vec();
    };
    let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
    if digits == 0 {
        return path.to_vec();
    }
    [b"/proc/self", &rest[digits..]].concat()
}

struct Walk {
    at: Vec<Vec<u8>>,
    todo: Vec<Vec<u8>>,
    links: usize,
}

impl Walk {
    fn path(&self) -> Vec<u8> {
        self.at
            .iter()
            .fold(Vec::new(), |p, part| [&p[..], b"/", part].concat())
    }
    fn whole_path(&self) -> Vec<u8> {
        self.todo
            .iter()
            .rev()
            .fold(self.path(), |p, part| join(&p, part))
    }
    fn follow(&mut self, to: &[u8]) -> Result<(), Errno> {
        self.links += 1;
        if self.links > MOST_LINKS {
            return Err(Errno::ELOOP);
        }
        if to.starts_with(b"/") {
            self.at.clear();
        } else {
            self.at.pop();
        }
        self.todo.extend(parts(to));
        Ok(())
    }
}

/// The parts of a path, last first.
fn parts(path: &[u8]) -> Vec<Vec<u8>> {
    path.rsplit(|b| *b == b'/')
        .filter(|p| !p.is_empty())
        .map(<[u8]>::to_vec)
        .collect()
}

/// What readlink(2) tells of `/proc/self/fd/N`.
///
/// # Errors
/// `ENOENT` where it is closed.
pub fn descriptor_target<K: Kernel>(k: &K, fd: i32) -> Result<Vec<u8>, Errno> {
    match target(k, fd).map_err(|_| Errno::ENOENT)? {
        Target::Ours(file) => Ok(file.path.clone()),
        Target::Host(fd) => own::host_target(k, fd),
    }
}

fn node<K: Kernel>(k: &K, path: &[Vec<u8>]) -> Result<Node, Errno> {
    let parts: Vec<&[u8]> = path.iter().map(Vec::as_slice).collect();
    match parts.as_slice() {
        [b"proc", rest @ ..] => system::proc(k, rest),
        [b"sys", rest @ ..] => system::sys(k, rest),
        [b"dev", rest @ ..] => dev(k, rest),
        _ => Err(Errno::ENOENT),
    }
}

fn dev<K: Kernel>(k: &K, rest: &[&[u8]]) -> Result<Node, Errno> {
    const DEVICES: [(&[u8], Device); 5] = [
        (b"null", Device::Null),
        (b"zero", Device::Zero),
        (b"full", Device::Full),
        (b"random", Device::Random),
        (b"urandom", Device::Random),
    ];
    const LINKS: [(&[u8], &[u8]); 4] = [
        (b"fd", b"/proc/self/fd"),
        (b"stdin", b"/proc/self/fd/0"),
        (b"stdout", b"/proc/self/fd/1"),
        (b"stderr", b"/proc/self/fd/2"),
    ];
    let Some((name, rest)) = rest.split_first() else {
        let mut names: Names = DEVICES.iter().map(|(n, _)| (n.to_vec(), DT_CHR)).collect();
        names.extend(LINKS.iter().map(|(n, _)| (n.to_vec(), DT_LNK)));
        names.extend([(b"tty".to_vec(), DT_CHR), (b"shm".to_vec(), DT_DIR)]);
        return Ok(Node::Dir(names));
    };
    let leaf = |node| {
        if rest.is_empty() {
            Ok(node)
        } else {
            Err(Errno::ENOTDIR)
        }
    };
    if *name == b"tty" {
        return leaf(Node::Terminal);
    }
    if let Some((_, device)) = DEVICES.iter().find(|(n, _)| n == name) {
        return leaf(Node::Device(*device));
    }
    let link = LINKS.iter().find(|(n, _)| n == name).ok_or(Errno::ENOENT)?;
    let _ = k;
    leaf(Node::Link(link.1.to_vec()))
}

impl Node {
    /// Whether it is a directory.
    #[must_use]
    pub fn is_dir(&self) -> bool {
        matches!(self, Node::Dir(_))
    }
    /// Whether it is a file that can only be read.
    #[must_use]
    pub fn is_text(&self) -> bool {
        matches!(self, Node::Text(_))
    }
    /// Whether it is `/dev/tty`.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        matches!(self, Node::Terminal)
    }

    fn mode(&self) -> u32 {
        match self {
            Node::Dir(_) => S_IFDIR | 0o555,
            Node::Text(_) => S_IFREG | 0o444,
            Node::Link(_) | Node::Descriptor(_) => S_IFLNK | 0o777,
            Node::Device(_) | Node::Terminal => S_IFCHR | 0o666,
        }
    }

    /// What stat(2) tells of it at `path`.
    pub fn attr<K: Kernel>(&self, k: &K, path: &[u8]) -> Attr {
        let now = now(k);
        let root = path.split(|b| *b == b'/').nth(1).unwrap_or_default();
        let dev = match root {
            b"proc" => 0x15,
            b"sys" => 0x16,
            _ => 0x17,
        };
        let owner = |call| k.host(HostCall::Simple(call)).map_or(0, |id| id as u32);
        let (uid, gid) = match (root, self) {
            (b"proc", _) => (
                owner(crate::hostcall::Simple::Geteuid),
                owner(crate::hostcall::Simple::Getegid),
            ),
            _ => (0, 0),
        };
        Attr {
            id: FileId {
                dev,
                ino: inode(path),
            },
            mode: self.mode(),
            nlink: if self.is_dir() { 2 } else { 1 },
            uid,
            gid,
            rdev: match self {
                Node::Device(device) => device.number(),
                Node::Terminal => crate::layout::make_dev(5, 0),
                _ => 0,
            },
            // procfs files say 0, sysfs files a page.
            size: if root == b"sys" && self.is_text() {
                4096
            } else {
                0
            },
            blksize: 4096,
            blocks: 0,
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
        }
    }

    /// What a description of it refers to.
    ///
    /// # Errors
    /// `ELOOP`: a link, and not with `O_PATH`; `ENXIO`: no such terminal.
    pub fn into_object<K: Kernel>(
        self,
        k: &K,
        path: &[u8],
        flags: u32,
    ) -> Result<Object<K::File>, Errno> {
        let attr = self.attr(k, path);
        Ok(match self {
            Node::Dir(mut entries) => {
                let dots = [(b".".to_vec(), DT_DIR), (b"..".to_vec(), DT_DIR)];
                entries.splice(0..0, dots);
                Object::PseudoDir { entries, attr }
            }
            Node::Text(content) => Object::Text { content, attr },
            Node::Device(device) => Object::Device(device),
            Node::Link(content) if flags & O_PATH != 0 => Object::Text { content, attr },
            Node::Terminal if flags & O_PATH != 0 => Object::Text {
                content: Vec::new(),
                attr,
            },
            Node::Link(_) | Node::Descriptor(_) => return Err(Errno::ELOOP),
            Node::Terminal => return Err(Errno::ENXIO),
        })
    }
}

/// What fstat(2) tells of a device of ours.
pub fn device_attr<K: Kernel>(k: &K, device: Device, path: &[u8]) -> Attr {
    Node::Device(device).attr(k, path)
}

/// statfs(2) of a pseudo path.
#[must_use]
pub fn statfs(path: &[u8]) -> StatFs {
    let kind = match path.split(|b| *b == b'/').nth(1) {
        Some(b"proc") => 0x9fa0,
        Some(b"sys") => 0x6265_6572,
        _ => 0x0102_1994,
    };
    StatFs {
        kind,
        bsize: 4096,
        blocks: 0,
        bfree: 0,
        bavail: 0,
        files: 0,
        ffree: 0,
        namelen: 255,
        frsize: 4096,
    }
}

fn now<K: Kernel>(k: &K) -> Timespec {
    const CLOCK_REALTIME: i32 = 0;
    let mut raw = [0; 16];
    let _ = k.host(HostCall::ClockGettime {
        clock: CLOCK_REALTIME,
        dst: &mut raw,
    });
    RawTimespec::decode(&raw).into()
}

/// A number that a path keeps (FNV-1a).
pub(crate) fn inode(path: &[u8]) -> u64 {
    path.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    })
}
