//! The same calls, made straight on the host in one directory and through the
//! store in another, give the same results, the same errors and the same tree.
#![allow(clippy::unwrap_used, clippy::panic)] // a test fails by panicking

mod common;

use common::{Client, ME, from};
use proptest::prelude::*;
use proto::Errno;
use proto::store::{FileHandle, Location, StoreReply, StoreRequest};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{self as host, AtFlags, FileType, Mode, OFlags, RenameFlags};
use scomponent::fs::Wait;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Deep enough that no generated path climbs out of the directory.
const BASE: &str = "w1/w2/w3/w4/w5/w6/w7/w8";

#[derive(Clone, Debug)]
enum Op {
    Open(String, u32, u32),
    Mkdir(String, u32),
    Mknod(String, u32),
    Unlink(String, bool),
    Rename(String, String, u32),
    Link(String, String, bool),
    Symlink(String, String),
    Readlink(String),
    Stat(String, bool),
    Access(String, u32),
    Chmod(String, u32),
    Truncate(String, u64),
    Write(String, u64, u8, usize),
    Read(String, u64, u32),
    List(String),
}

fn path() -> impl Strategy<Value = String> {
    let name = prop_oneof![
        8 => prop_oneof![Just("a"), Just("b"), Just("c")],
        1 => Just("."),
        1 => Just(""),
    ];
    let names = proptest::collection::vec(name, 1..4).prop_map(|names| names.join("/"));
    let names = prop_oneof![9 => names.clone(), 1 => names.prop_map(|p| format!("../w8/{p}"))];
    let long = Just("x".repeat(256));
    prop_oneof![
        30 => names.prop_map(|p| p.trim_start_matches('/').to_owned()),
        1 => long,
        1 => Just("..".to_owned()),
        1 => Just("a/..".to_owned()),
    ]
    // An empty path means the handle itself here, and nothing to the host.
    .prop_map(|p| if p.is_empty() { "a".to_owned() } else { p })
}

fn target() -> impl Strategy<Value = String> {
    const TARGETS: [&str; 8] = ["a", "b", "c", "a/b", "../w8/a", "b/", ".", "nothing"];
    proptest::sample::select(&TARGETS[..]).prop_map(str::to_owned)
}

fn open_flags() -> impl Strategy<Value = u32> {
    let access = prop_oneof![
        Just(0_u32),
        Just(common::O_WRONLY),
        Just(common::O_RDWR),
        Just(3)
    ];
    let extra = [
        common::O_CREAT,
        common::O_EXCL,
        common::O_TRUNC,
        common::O_APPEND,
        common::O_DIRECTORY,
        common::O_NOFOLLOW,
    ];
    let extra = proptest::sample::subsequence(extra.to_vec(), 0..4);
    let creat = prop_oneof![Just(0), Just(common::O_CREAT)];
    let path = prop_oneof![9 => Just(0), 1 => Just(common::O_PATH)];
    (access, extra, creat, path).prop_map(|(a, e, c, p)| a | c | p | e.iter().sum::<u32>())
}

fn op() -> impl Strategy<Value = Op> {
    let mode = || prop_oneof![Just(0o644_u32), Just(0o755), Just(0o600), Just(0o1777)];
    let kind = prop_oneof![
        Just(0o010_644_u32), // FIFO
        Just(0o100_644),
        Just(0o644),
        Just(0o040_755),
    ];
    prop_oneof![
        4 => (path(), open_flags(), mode()).prop_map(|(p, f, m)| Op::Open(p, f, m)),
        3 => (path(), mode()).prop_map(|(p, m)| Op::Mkdir(p, m)),
        1 => (path(), kind).prop_map(|(p, m)| Op::Mknod(p, m)),
        2 => (path(), any::<bool>()).prop_map(|(p, d)| Op::Unlink(p, d)),
        3 => (path(), path(), 0..4_u32).prop_map(|(p, q, f)| Op::Rename(p, q, f)),
        2 => (path(), path(), any::<bool>()).prop_map(|(p, q, f)| Op::Link(p, q, f)),
        2 => (target(), path()).prop_map(|(t, p)| Op::Symlink(t, p)),
        1 => path().prop_map(Op::Readlink),
        2 => (path(), any::<bool>()).prop_map(|(p, f)| Op::Stat(p, f)),
        1 => (path(), 0..9_u32).prop_map(|(p, m)| Op::Access(p, m)),
        1 => (path(), mode()).prop_map(|(p, m)| Op::Chmod(p, m)),
        1 => (path(), 0..9000_u64).prop_map(|(p, n)| Op::Truncate(p, n)),
        2 => (path(), 0..9000_u64, any::<u8>(), 0..5000_usize)
            .prop_map(|(p, o, b, n)| Op::Write(p, o, b, n)),
        2 => (path(), 0..9000_u64, 0..5000_u32).prop_map(|(p, o, n)| Op::Read(p, o, n)),
        1 => path().prop_map(Op::List),
    ]
}

/// What a caller can tell of the outcome, whatever the inode numbers.
#[derive(PartialEq, Debug)]
enum Outcome {
    Nothing,
    Attr { mode: u32, nlink: u64, size: u64 },
    Data(Vec<u8>),
    Names(Vec<String>),
}

type Answer = Result<Outcome, Errno>;

fn e(e: rustix::io::Errno) -> Errno {
    Errno(e.raw_os_error())
}

/// Sizes of directories differ between file systems' moods.
fn visible(mode: u32, nlink: u64, size: u64) -> Outcome {
    let is_dir = FileType::from_raw_mode(mode) == FileType::Directory;
    Outcome::Attr {
        mode,
        nlink,
        size: if is_dir { 0 } else { size },
    }
}

/// The host, as a program without the store would use it.
struct Host(OwnedFd);

impl Host {
    fn apply(&self, op: &Op) -> Answer {
        self.plain(op).map_err(e)
    }

    fn open(&self, path: &str, flags: OFlags, mode: u32) -> rustix::io::Result<OwnedFd> {
        let flags = flags | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        host::openat(&self.0, path, flags, Mode::from_bits_retain(mode))
    }

    fn plain(&self, op: &Op) -> rustix::io::Result<Outcome> {
        let dir = self.0.as_fd();
        match op {
            Op::Open(p, f, m) => {
                let fd = self.open(p, OFlags::from_bits_retain(*f), *m)?;
                return Self::attr(&fd);
            }
            Op::Mkdir(p, m) => host::mkdirat(dir, p, Mode::from_bits_retain(*m))?,
            Op::Mknod(p, m) => {
                let kind = match FileType::from_raw_mode(*m) {
                    FileType::Unknown => FileType::RegularFile,
                    FileType::Directory => return Err(rustix::io::Errno::INVAL),
                    kind => kind,
                };
                host::mknodat(dir, p, kind, Mode::from_bits_retain(m & 0o7777), 0)?;
            }
            Op::Unlink(p, d) => {
                let flags = if *d {
                    AtFlags::REMOVEDIR
                } else {
                    AtFlags::empty()
                };
                host::unlinkat(dir, p, flags)?;
            }
            Op::Rename(p, q, f) => {
                host::renameat_with(dir, p, dir, q, RenameFlags::from_bits_retain(*f))?;
            }
            Op::Link(p, q, f) => {
                let flags = if *f {
                    AtFlags::SYMLINK_FOLLOW
                } else {
                    AtFlags::empty()
                };
                host::linkat(dir, p, dir, q, flags)?;
            }
            Op::Symlink(t, p) => host::symlinkat(t, dir, p)?,
            Op::Readlink(p) => {
                return Ok(Outcome::Data(
                    host::readlinkat(dir, p, Vec::new())?.into_bytes(),
                ));
            }
            Op::Stat(p, follow) => {
                let flags = if *follow {
                    AtFlags::empty()
                } else {
                    AtFlags::SYMLINK_NOFOLLOW
                };
                let s = host::statat(dir, p, flags)?;
                return Ok(visible(s.st_mode, s.st_nlink, s.st_size.cast_unsigned()));
            }
            Op::Access(p, m) => {
                let mode = host::Access::from_bits_retain(*m);
                host::accessat(dir, p, mode, AtFlags::empty())?;
            }
            Op::Chmod(p, m) => {
                host::chmodat(dir, p, Mode::from_bits_retain(*m), AtFlags::empty())?;
            }
            Op::Truncate(p, n) => host::ftruncate(self.open(p, OFlags::WRONLY, 0)?, *n)?,
            Op::Write(p, o, b, n) => {
                let fd = self.open(p, OFlags::WRONLY, 0)?;
                rustix::io::pwrite(&fd, &vec![*b; *n], *o)?;
                return Self::attr(&fd);
            }
            Op::Read(p, o, n) => {
                let fd = self.open(p, OFlags::RDONLY, 0)?;
                let mut data = vec![0; *n as usize];
                let n = rustix::io::pread(&fd, &mut data[..], *o)?;
                data.truncate(n);
                return Ok(Outcome::Data(data));
            }
            Op::List(p) => {
                let fd = self.open(p, OFlags::RDONLY | OFlags::DIRECTORY, 0)?;
                let (mut names, mut buffer) = (Vec::new(), Vec::with_capacity(8192));
                let mut entries = host::RawDir::new(fd, buffer.spare_capacity_mut());
                while let Some(entry) = entries.next() {
                    names.push(entry?.file_name().to_string_lossy().into_owned());
                }
                return Ok(Outcome::Names(sorted(names)));
            }
        }
        Ok(Outcome::Nothing)
    }

    fn attr(fd: &OwnedFd) -> rustix::io::Result<Outcome> {
        let s = host::fstat(fd)?;
        Ok(visible(s.st_mode, s.st_nlink, s.st_size.cast_unsigned()))
    }
}

fn sorted(mut names: Vec<String>) -> Vec<String> {
    names.sort();
    names
}

/// The store, asked as pcomponent asks it.
struct Through {
    client: Client,
    base: FileHandle,
}

impl Through {
    fn at(&self, path: &str) -> Location {
        from(&self.base, path)
    }

    fn with<T>(
        &self,
        path: &str,
        flags: u32,
        then: impl FnOnce(&FileHandle) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let (handle, attr, _) = self.client.open_full(self.at(path), flags)?;
        let special = !matches!(
            FileType::from_raw_mode(attr.mode),
            FileType::RegularFile | FileType::Directory
        );
        let result = if special {
            Err(Errno::EXDEV)
        } else {
            then(&handle)
        };
        self.client.close(&handle);
        result
    }

    fn apply(&self, op: &Op) -> Answer {
        use StoreRequest as Q;
        let request = match op.clone() {
            Op::Open(p, flags, mode) => Q::Open {
                at: self.at(&p),
                flags,
                mode,
            },
            Op::Mkdir(p, mode) => Q::Mkdir {
                at: self.at(&p),
                mode,
            },
            Op::Mknod(p, mode) => Q::Mknod {
                at: self.at(&p),
                mode,
            },
            Op::Unlink(p, dir) => Q::Unlink {
                at: self.at(&p),
                dir,
            },
            Op::Rename(p, q, flags) => Q::Rename {
                from: self.at(&p),
                to: self.at(&q),
                flags,
            },
            Op::Link(p, q, follow) => Q::Link {
                from: self.at(&p),
                to: self.at(&q),
                follow,
            },
            Op::Symlink(t, p) => Q::Symlink {
                target: t.into_bytes(),
                at: self.at(&p),
            },
            Op::Readlink(p) => Q::Readlink { at: self.at(&p) },
            Op::Stat(p, follow) => Q::StatPath {
                at: self.at(&p),
                follow,
            },
            Op::Access(p, mode) => Q::Access {
                at: self.at(&p),
                mode,
                flags: 0,
            },
            Op::Chmod(p, mode) => Q::Chmod {
                at: self.at(&p),
                mode,
            },
            Op::Truncate(p, len) => {
                return self.with(&p, common::O_WRONLY, |handle| {
                    let handle = handle.clone();
                    self.client
                        .done(&Q::Truncate { handle, len })
                        .map(|()| Outcome::Nothing)
                });
            }
            Op::Write(p, o, b, n) => {
                return self.with(&p, common::O_WRONLY, |handle| {
                    let attr = self.client.write(handle, o, &vec![b; n])?;
                    Ok(visible(attr.mode, attr.nlink, attr.size))
                });
            }
            Op::Read(p, offset, len) => {
                return self.with(&p, 0, |handle| {
                    let handle = handle.clone();
                    match self.client.ask(&Q::Read {
                        handle,
                        offset,
                        len,
                    })? {
                        StoreReply::Data(data) => Ok(Outcome::Data(data)),
                        other => panic!("{other:?}"),
                    }
                });
            }
            Op::List(p) => {
                return self.with(&p, common::O_DIRECTORY, |handle| {
                    Ok(Outcome::Names(sorted(self.client.list(handle, 40)?)))
                });
            }
        };
        match self.client.ask(&request)? {
            StoreReply::Opened { handle, attr, .. } => {
                self.client.close(&handle);
                Ok(visible(attr.mode, attr.nlink, attr.size))
            }
            StoreReply::Attr(attr) => Ok(visible(attr.mode, attr.nlink, attr.size)),
            StoreReply::Data(data) => Ok(Outcome::Data(data)),
            StoreReply::Done => Ok(Outcome::Nothing),
            other => panic!("{other:?}"),
        }
    }
}

/// Every path below, with mode, links, and contents or target.
fn tree(root: &Path) -> Vec<(String, u32, u64, Vec<u8>)> {
    let mut all = Vec::new();
    let mut left = vec![root.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let meta = std::fs::symlink_metadata(&path).unwrap();
            let contents = if meta.is_dir() {
                left.push(path.clone());
                Vec::new()
            } else if meta.is_symlink() {
                std::fs::read_link(&path)
                    .unwrap()
                    .into_os_string()
                    .into_encoded_bytes()
            } else if meta.is_file() {
                std::fs::read(&path).unwrap()
            } else {
                Vec::new()
            };
            let name = path
                .strip_prefix(root)
                .unwrap()
                .to_string_lossy()
                .into_owned();
            all.push((name, meta.mode(), meta.nlink(), contents));
        }
    }
    all.sort();
    all
}

fn run(ops: &[Op]) -> Result<(), TestCaseError> {
    rustix::process::umask(Mode::empty());
    let dir = tempfile::tempdir().unwrap();
    let (plain, served) = (dir.path().join("plain"), dir.path().join("served"));
    for side in [&plain, &served] {
        std::fs::create_dir_all(side.join(BASE)).unwrap();
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let host = Host(host::open(plain.join(BASE), flags, Mode::empty()).unwrap());
    let client = Client::new(&served);
    let base = client.open(BASE, common::O_DIRECTORY).unwrap();
    let through = Through { client, base };
    for op in ops {
        // What is special is not read through the store: see the other tests.
        let (expected, got) = (host.apply(op), through.apply(op));
        if got == Err(Errno::EXDEV) && !matches!(op, Op::Rename(..) | Op::Link(..)) {
            continue;
        }
        // Opening a FIFO for writing alone fails on the host for want of a
        // reader; the store opens no FIFO.
        if expected == Err(Errno::ENXIO) {
            continue;
        }
        prop_assert_eq!(got, expected, "{:?}", op);
        // `..` of a removed directory leads somewhere on the host only.
        if host::fstat(&host.0).unwrap().st_nlink == 0 {
            break;
        }
    }
    prop_assert_eq!(tree(&served), tree(&plain));
    let _ = (ME, Wait::Yes);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 192, failure_persistence: None, ..ProptestConfig::default()
    })]
    #[test]
    fn the_store_is_the_host(ops in proptest::collection::vec(op(), 1..60)) {
        run(&ops)?;
    }
}
