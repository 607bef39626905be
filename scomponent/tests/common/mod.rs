//! What the tests of the store share.
#![allow(dead_code, unreachable_pub)]

use proto::store::{Attr, FileHandle, Location, StoreReply, StoreRequest};
use proto::{Errno, Identity, ProcessId};
use scomponent::fs::{Store, Wait};
use std::path::Path;

pub const O_WRONLY: u32 = 0o1;
pub const O_RDWR: u32 = 0o2;
pub const O_CREAT: u32 = 0o100;
pub const O_EXCL: u32 = 0o200;
pub const O_TRUNC: u32 = 0o1000;
pub const O_APPEND: u32 = 0o2000;
pub const O_DIRECTORY: u32 = 0o200_000;
pub const O_NOFOLLOW: u32 = 0o400_000;
pub const O_PATH: u32 = 0o10_000_000;

pub const ME: Identity = Identity::Process(ProcessId(1));

pub fn at(path: &str) -> Location {
    Location {
        dir: None,
        path: path.as_bytes().to_vec(),
    }
}

pub fn from(dir: &FileHandle, path: &str) -> Location {
    Location {
        dir: Some(dir.clone()),
        path: path.as_bytes().to_vec(),
    }
}

/// A store and short forms of its requests.
pub struct Client(pub Store);

impl Client {
    pub fn new(root: &Path) -> Client {
        Client(Store::new(root, 64).unwrap())
    }
    pub fn ask(&self, request: &StoreRequest) -> Result<StoreReply, Errno> {
        match self.0.execute(ME, request, Wait::Yes) {
            StoreReply::Failed(e) => Err(e),
            reply => Ok(reply),
        }
    }
    pub fn open_full(&self, at: Location, flags: u32) -> Result<(FileHandle, Attr, bool), Errno> {
        match self.ask(&StoreRequest::Open {
            at,
            flags,
            mode: 0o644,
        })? {
            StoreReply::Opened {
                handle,
                attr,
                created,
            } => Ok((handle, attr, created)),
            other => panic!("{other:?}"),
        }
    }
    pub fn open(&self, path: &str, flags: u32) -> Result<FileHandle, Errno> {
        self.open_full(at(path), flags).map(|(handle, ..)| handle)
    }
    pub fn close(&self, handle: &FileHandle) {
        self.ask(&StoreRequest::Close {
            handle: handle.clone(),
        })
        .unwrap();
    }
    pub fn read(&self, handle: &FileHandle) -> Result<Vec<u8>, Errno> {
        let handle = handle.clone();
        match self.ask(&StoreRequest::Read {
            handle,
            offset: 0,
            len: 1 << 20,
        })? {
            StoreReply::Data(data) => Ok(data),
            other => panic!("{other:?}"),
        }
    }
    pub fn write(&self, handle: &FileHandle, offset: u64, data: &[u8]) -> Result<Attr, Errno> {
        let (handle, data) = (handle.clone(), data.to_vec());
        match self.ask(&StoreRequest::Write {
            handle,
            offset,
            data,
        })? {
            StoreReply::Written(attr) => Ok(attr),
            other => panic!("{other:?}"),
        }
    }
    pub fn stat(&self, at: Location, follow: bool) -> Result<Attr, Errno> {
        match self.ask(&StoreRequest::StatPath { at, follow })? {
            StoreReply::Attr(attr) => Ok(attr),
            other => panic!("{other:?}"),
        }
    }
    pub fn fstat(&self, handle: &FileHandle) -> Result<Attr, Errno> {
        match self.ask(&StoreRequest::Stat {
            handle: handle.clone(),
        })? {
            StoreReply::Attr(attr) => Ok(attr),
            other => panic!("{other:?}"),
        }
    }
    pub fn path_of(&self, handle: &FileHandle) -> Result<String, Errno> {
        match self.ask(&StoreRequest::PathOf {
            handle: handle.clone(),
        })? {
            StoreReply::Data(data) => Ok(String::from_utf8(data).unwrap()),
            other => panic!("{other:?}"),
        }
    }
    pub fn done(&self, request: &StoreRequest) -> Result<(), Errno> {
        match self.ask(request)? {
            StoreReply::Done => Ok(()),
            other => panic!("{other:?}"),
        }
    }
    pub fn mkdir(&self, path: &str) -> Result<(), Errno> {
        self.done(&StoreRequest::Mkdir {
            at: at(path),
            mode: 0o755,
        })
    }
    pub fn unlink(&self, path: &str) -> Result<(), Errno> {
        self.done(&StoreRequest::Unlink {
            at: at(path),
            dir: false,
        })
    }
    pub fn rename(&self, from: &str, to: &str) -> Result<(), Errno> {
        self.done(&StoreRequest::Rename {
            from: at(from),
            to: at(to),
            flags: 0,
        })
    }
    pub fn symlink(&self, target: &str, path: &str) -> Result<(), Errno> {
        let target = target.as_bytes().to_vec();
        self.done(&StoreRequest::Symlink {
            target,
            at: at(path),
        })
    }
    /// All names of a directory, `max_bytes` at a time.
    pub fn list(&self, handle: &FileHandle, max_bytes: u32) -> Result<Vec<String>, Errno> {
        let (mut names, mut cookie) = (Vec::new(), 0);
        loop {
            let handle = handle.clone();
            let reply = self.ask(&StoreRequest::ReadDir {
                handle,
                cookie,
                max_bytes,
            })?;
            let StoreReply::Entries { entries, end } = reply else {
                panic!("{reply:?}")
            };
            if let Some(last) = entries.last() {
                cookie = last.cookie;
            }
            names.extend(
                entries
                    .into_iter()
                    .map(|e| String::from_utf8(e.name).unwrap()),
            );
            if end {
                return Ok(names);
            }
        }
    }
}
