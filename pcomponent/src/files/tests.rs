//! The files of a process over a model of the components: storage holds what
//! was flushed, the cache holds the rest, as their messages promise.

use super::wire::Components;
use super::{RemoteFile, RemoteFiles};
use proptest::prelude::*;
use proto::mem::{FileRef, MemReply, MemRequest};
use proto::store::{
    Attr, FileHandle, FileId, Location, SetTime, StoreReply, StoreRequest, Timespec,
};
use proto::{Errno, NodeId};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

const O_RDWR: u32 = 2;
const O_CREAT: u32 = 0o100;
const O_TRUNC: u32 = 0o1000;

#[derive(Default)]
struct Stored {
    data: Vec<u8>,
    mtime: i64,
    opens: i64,
}

struct Cached {
    data: Vec<u8>,
    dirty: bool,
    /// The modification time at storage that the data belongs to.
    of: i64,
}

#[derive(Default)]
struct World {
    names: HashMap<Vec<u8>, u64>,
    stored: HashMap<u64, Stored>,
    cache: HashMap<u64, Cached>,
    clock: i64,
    counts: BTreeMap<&'static str, u64>,
    fail_close: Option<Errno>,
}

#[derive(Clone, Default)]
struct Model(Arc<Mutex<World>>);

fn handle(ino: u64) -> FileHandle {
    FileHandle(ino.to_le_bytes().to_vec())
}

fn ino(handle: &FileHandle) -> u64 {
    u64::from_le_bytes(handle.0[..].try_into().unwrap())
}

impl World {
    fn attr(&self, ino: u64) -> Attr {
        let stored = &self.stored[&ino];
        let time = Timespec {
            sec: stored.mtime,
            nsec: 0,
        };
        Attr {
            id: FileId { dev: 1, ino },
            mode: 0o100_644,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            size: stored.data.len() as u64,
            blksize: 4096,
            blocks: 0,
            atime: time,
            mtime: time,
            ctime: time,
            btime: time,
        }
    }

    fn locate(&self, at: &Location) -> Result<u64, Errno> {
        match &at.dir {
            Some(dir) if at.path.is_empty() => Ok(ino(dir)),
            _ => self.names.get(&at.path).copied().ok_or(Errno::ENOENT),
        }
    }

    fn cached(&mut self, ino: u64) -> &mut Cached {
        let stored = &self.stored[&ino];
        self.cache.entry(ino).or_insert_with(|| Cached {
            data: stored.data.clone(),
            dirty: false,
            of: stored.mtime,
        })
    }

    fn write_back(&mut self, ino: u64) {
        let Some(cached) = self.cache.get_mut(&ino).filter(|c| c.dirty) else {
            return;
        };
        self.clock += 1;
        let stored = self.stored.get_mut(&ino).unwrap();
        stored.data.clone_from(&cached.data);
        stored.mtime = self.clock;
        cached.dirty = false;
        cached.of = self.clock;
    }

    fn store(&mut self, request: &StoreRequest) -> Result<StoreReply, Errno> {
        Ok(match request {
            StoreRequest::Open { at, flags, .. } => {
                let found = self.locate(at);
                let created = found.is_err();
                if created && flags & O_CREAT == 0 {
                    return Err(Errno::ENOENT);
                }
                let ino = found.unwrap_or_else(|_| {
                    let ino = self.stored.len() as u64 + 1;
                    self.names.insert(at.path.clone(), ino);
                    self.stored.insert(ino, Stored::default());
                    ino
                });
                self.stored.get_mut(&ino).unwrap().opens += 1;
                assert_eq!(
                    flags & O_TRUNC,
                    0,
                    "the cache is to be cut, not only storage"
                );
                StoreReply::Opened {
                    handle: handle(ino),
                    attr: self.attr(ino),
                    created,
                }
            }
            StoreRequest::Close { handle } => {
                self.stored.get_mut(&ino(handle)).unwrap().opens -= 1;
                StoreReply::Done
            }
            StoreRequest::Stat { handle } => StoreReply::Attr(self.attr(ino(handle))),
            StoreRequest::StatPath { at, .. } => StoreReply::Attr(self.attr(self.locate(at)?)),
            StoreRequest::Utimens {
                at,
                mtime: SetTime::To(time),
                ..
            } => {
                let ino = self.locate(at)?;
                self.stored.get_mut(&ino).unwrap().mtime = time.sec;
                StoreReply::Done
            }
            StoreRequest::Fallocate {
                handle,
                offset,
                len,
                ..
            } => {
                let end = (offset + len) as usize;
                let data = &mut self.stored.get_mut(&ino(handle)).unwrap().data;
                data.resize(data.len().max(end), 0);
                self.clock += 1;
                self.stored.get_mut(&ino(handle)).unwrap().mtime = self.clock;
                StoreReply::Done
            }
            other => panic!("not in the model: {other:?}"),
        })
    }

    fn state(&mut self, ino: u64) -> MemReply {
        let mtime = Timespec {
            sec: self.stored[&ino].mtime,
            nsec: 0,
        };
        let cached = self.cached(ino);
        MemReply::FileState {
            size: cached.data.len() as u64,
            mtime,
            dirty: cached.dirty,
        }
    }

    fn mem(&mut self, file: &FileRef, request: &MemRequest) -> Result<MemReply, Errno> {
        let ino = file.id.ino;
        Ok(match request {
            MemRequest::FileOpen { attr, .. } => {
                if self
                    .cache
                    .get(&ino)
                    .is_some_and(|c| !c.dirty && c.of != attr.mtime.sec)
                {
                    self.cache.remove(&ino);
                }
                let cached = self.cached(ino);
                if !cached.dirty {
                    // What the opener saw is taken at its word.
                    cached.data.resize(attr.size as usize, 0);
                }
                self.state(ino)
            }
            MemRequest::FileClose { .. } => {
                if let Some(e) = self.fail_close.take() {
                    return Err(e);
                }
                self.write_back(ino);
                self.state(ino)
            }
            MemRequest::FileSync { .. } => {
                self.write_back(ino);
                self.state(ino)
            }
            MemRequest::FileStat { .. } => self.state(ino),
            MemRequest::FileRead { offset, len, .. } => {
                let data = &self.cached(ino).data;
                let start = (*offset as usize).min(data.len());
                let end = (start + *len as usize).min(data.len());
                MemReply::Data(data[start..end].to_vec())
            }
            MemRequest::FileWrite { offset, data, .. } => {
                let cached = self.cached(ino);
                let at = offset.map_or(cached.data.len(), |o| o as usize);
                let end = at + data.len();
                cached.data.resize(cached.data.len().max(end), 0);
                cached.data[at..end].copy_from_slice(data);
                cached.dirty = true;
                MemReply::Written {
                    offset: at as u64,
                    size: cached.data.len() as u64,
                }
            }
            MemRequest::FileTruncate { len, .. } => {
                let cached = self.cached(ino);
                cached.data.resize(*len as usize, 0);
                cached.dirty = true;
                self.state(ino)
            }
            other => panic!("not in the model: {other:?}"),
        })
    }
}

impl Components for Model {
    fn storage(&self, request: &StoreRequest) -> Result<StoreReply, Errno> {
        self.0.lock().unwrap().store(request)
    }
    fn memory(&self, file: &FileRef, request: &MemRequest) -> Result<MemReply, Errno> {
        let mut world = self.0.lock().unwrap();
        let kind = if matches!(request, MemRequest::FileRead { .. }) {
            "read"
        } else {
            "other"
        };
        *world.counts.entry(kind).or_default() += 1;
        world.mem(file, request)
    }
    fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.0.lock().unwrap().counts.clone()
    }
}

fn files() -> (RemoteFiles, Model) {
    let model = Model::default();
    (RemoteFiles::over(Box::new(model.clone()), NodeId(3)), model)
}

fn at(name: &str) -> Location {
    Location {
        dir: None,
        path: name.as_bytes().to_vec(),
    }
}

fn stored(model: &Model, name: &str) -> Vec<u8> {
    let world = model.0.lock().unwrap();
    world.stored[&world.names[name.as_bytes()]].data.clone()
}

#[derive(Clone, Debug)]
enum Step {
    Open {
        name: usize,
        slot: usize,
        cut: bool,
    },
    Close {
        slot: usize,
    },
    Read {
        slot: usize,
        offset: u64,
        len: usize,
    },
    Write {
        slot: usize,
        offset: u64,
        len: usize,
        byte: u8,
    },
    Append {
        slot: usize,
        len: usize,
        byte: u8,
    },
    Truncate {
        slot: usize,
        len: u64,
    },
    Fallocate {
        slot: usize,
        offset: u64,
        len: u64,
    },
    Sync {
        slot: usize,
    },
    Stat {
        slot: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let slot = 0usize..4;
    let offset = prop_oneof![Just(0u64), 0u64..20_000, 0u64..400_000];
    let len = prop_oneof![1usize..5000, 1usize..200_000];
    prop_oneof![
        2 => (0usize..2, slot.clone(), any::<bool>())
            .prop_map(|(name, slot, cut)| Step::Open { name, slot, cut: cut && name == 0 }),
        1 => slot.clone().prop_map(|slot| Step::Close { slot }),
        6 => (slot.clone(), offset.clone(), len.clone())
            .prop_map(|(slot, offset, len)| Step::Read { slot, offset, len }),
        4 => (slot.clone(), offset.clone(), len.clone(), any::<u8>())
            .prop_map(|(slot, offset, len, byte)| Step::Write { slot, offset, len, byte }),
        2 => (slot.clone(), len, any::<u8>())
            .prop_map(|(slot, len, byte)| Step::Append { slot, len, byte }),
        1 => (slot.clone(), 0u64..300_000).prop_map(|(slot, len)| Step::Truncate { slot, len }),
        1 => (slot.clone(), offset, 1u64..100_000)
            .prop_map(|(slot, offset, len)| Step::Fallocate { slot, offset, len }),
        1 => slot.clone().prop_map(|slot| Step::Sync { slot }),
        3 => slot.prop_map(|slot| Step::Stat { slot }),
    ]
}

const NAMES: [&str; 2] = ["a", "b"];

/// Two files, as a program would expect them to be.
struct Expected {
    contents: [Vec<u8>; 2],
    open: [Option<(usize, RemoteFile)>; 4],
}

impl Expected {
    fn with(&mut self, slot: usize, f: impl FnOnce(&mut Vec<u8>, &RemoteFile)) {
        if let Some((name, file)) = &self.open[slot] {
            f(&mut self.contents[*name], file);
        }
    }

    fn run(&mut self, files: &RemoteFiles, step: &Step) {
        match *step {
            Step::Open { name, slot, cut } => {
                let flags = O_RDWR | O_CREAT | if cut { O_TRUNC } else { 0 };
                let file = files.open(&at(NAMES[name]), flags, 0o644).unwrap();
                if cut {
                    self.contents[name].clear();
                }
                self.open[slot] = Some((name, file));
            }
            Step::Close { slot } => {
                if let Some((_, file)) = self.open[slot].take() {
                    files.flush(&file).unwrap();
                }
            }
            Step::Read { slot, offset, len } => self.with(slot, |content, file| {
                let mut dst = vec![0; len];
                let got = files.read_at(file, offset, &mut dst).unwrap();
                let start = (offset as usize).min(content.len());
                assert_eq!(
                    &dst[..got],
                    &content[start..(start + len).min(content.len())]
                );
            }),
            Step::Write {
                slot,
                offset,
                len,
                byte,
            } => self.with(slot, |content, file| {
                files.write_at(file, offset, &vec![byte; len]).unwrap();
                let end = offset as usize + len;
                content.resize(content.len().max(end), 0);
                content[offset as usize..end].fill(byte);
            }),
            Step::Append { slot, len, byte } => self.with(slot, |content, file| {
                let start = files.append(file, &vec![byte; len]).unwrap();
                assert_eq!(start, content.len() as u64);
                content.resize(content.len() + len, byte);
            }),
            Step::Truncate { slot, len } => self.with(slot, |content, file| {
                files.truncate(file, len).unwrap();
                content.resize(len as usize, 0);
            }),
            Step::Fallocate { slot, offset, len } => self.with(slot, |content, file| {
                files.fallocate(file, 0, offset, len).unwrap();
                content.resize(content.len().max((offset + len) as usize), 0);
            }),
            Step::Sync { slot } => self.with(slot, |_, file| files.sync(file, true).unwrap()),
            Step::Stat { slot } => self.with(slot, |content, file| {
                let size = content.len() as u64;
                assert_eq!(files.stat(file).unwrap().size, size);
                assert_eq!(files.size(file).unwrap(), size);
            }),
        }
        for (name, content) in NAMES.iter().zip(&self.contents) {
            if let Ok(attr) = files.stat_path(&at(name), true) {
                assert_eq!(attr.size, content.len() as u64, "stat of {name}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    /// However many descriptors, every look at a file shows all writes before
    /// it; and once all are closed storage has everything.
    #[test]
    fn a_process_sees_its_own_writes(steps in prop::collection::vec(step(), 1..40)) {
        let (files, model) = files();
        let mut expected = Expected { contents: Default::default(), open: Default::default() };
        for step in steps {
            expected.run(&files, &step);
        }
        for slot in 0..4 {
            expected.run(&files, &Step::Close { slot });
        }
        for (name, content) in NAMES.iter().zip(&expected.contents) {
            if files.stat_path(&at(name), true).is_ok() {
                prop_assert!(&stored(&model, name) == content, "storage lacks data of {}", name);
            }
        }
        let world = model.0.lock().unwrap();
        prop_assert!(world.stored.values().all(|s| s.opens == 0), "an open was never closed");
    }
}

#[test]
fn small_sequential_reads_are_few_messages() {
    let (files, model) = files();
    let file = files.open(&at("a"), O_RDWR | O_CREAT, 0o644).unwrap();
    files.write_at(&file, 0, &vec![5; 4 << 20]).unwrap();
    let mut dst = [0; 4096];
    for n in 0..1024 {
        assert_eq!(files.read_at(&file, n * 4096, &mut dst), Ok(4096));
    }
    assert!(model.counts()["read"] <= 8, "{:?}", model.counts());
}

#[test]
fn a_write_is_seen_by_a_reader_ahead_of_it() {
    let (files, _) = files();
    let reader = files.open(&at("a"), O_RDWR | O_CREAT, 0o644).unwrap();
    let writer = files.open(&at("a"), O_RDWR, 0).unwrap();
    files.write_at(&writer, 0, &[1; 64 << 10]).unwrap();
    let mut dst = [0; 4];
    files.read_at(&reader, 0, &mut dst).unwrap();
    files.write_at(&writer, 4, &[2; 4]).unwrap();
    files.read_at(&reader, 4, &mut dst).unwrap();
    assert_eq!(dst, [2; 4]);
}

#[test]
fn an_old_opener_does_not_undo_what_was_written_since() {
    let (files, _) = files();
    let early = files.open(&at("a"), O_RDWR | O_CREAT, 0o644).unwrap();
    let writer = files.open(&at("a"), O_RDWR, 0).unwrap();
    files.write_at(&writer, 0, b"data").unwrap();
    files.flush(&writer).unwrap();
    let mut dst = [0; 9];
    assert_eq!(files.read_at(&early, 0, &mut dst), Ok(4));
}

#[test]
fn growth_by_another_process_is_seen_at_the_end() {
    let (files, model) = files();
    let file = files.open(&at("a"), O_RDWR | O_CREAT, 0o644).unwrap();
    files.write_at(&file, 0, b"one").unwrap();
    let mut dst = [0; 16];
    assert_eq!(files.read_at(&file, 0, &mut dst), Ok(3));
    assert_eq!(files.read_at(&file, 3, &mut dst), Ok(0));
    model
        .0
        .lock()
        .unwrap()
        .cached(1)
        .data
        .extend_from_slice(b"two");
    assert_eq!(files.read_at(&file, 3, &mut dst), Ok(3));
    assert_eq!(&dst[..3], b"two");
}

#[test]
fn a_failed_write_back_is_told_once() {
    let (files, model) = files();
    let file = files.open(&at("a"), O_RDWR | O_CREAT, 0o644).unwrap();
    files.write_at(&file, 0, b"x").unwrap();
    model.0.lock().unwrap().fail_close = Some(Errno::ENOSPC);
    assert_eq!(files.flush(&file), Err(Errno::ENOSPC));
    assert_eq!(files.flush(&file), Ok(()));
}

#[test]
fn a_time_that_was_set_is_not_undone_by_write_back() {
    let (files, model) = files();
    let file = files.open(&at("a"), O_RDWR | O_CREAT, 0o644).unwrap();
    files.write_at(&file, 0, b"x").unwrap();
    let time = SetTime::To(Timespec {
        sec: 12345,
        nsec: 0,
    });
    let place = Location {
        dir: Some(file.handle()),
        path: Vec::new(),
    };
    files.utimens(&place, time, time, true).unwrap();
    files.flush(&file).unwrap();
    drop(file);
    assert_eq!(model.0.lock().unwrap().stored[&1].mtime, 12345);
}

#[test]
fn a_mapped_file_stays_open_at_storage() {
    let (files, model) = files();
    let file = files.open(&at("a"), O_RDWR | O_CREAT, 0o644).unwrap();
    files.file_ref(&file, false).unwrap();
    drop(file);
    assert_eq!(model.0.lock().unwrap().stored[&1].opens, 1);
}

#[test]
fn stores_through_a_mapping_are_read() {
    let (files, model) = files();
    let file = files.open(&at("a"), O_RDWR | O_CREAT, 0o644).unwrap();
    files.write_at(&file, 0, b"before").unwrap();
    files.file_ref(&file, true).unwrap();
    let mut dst = [0; 6];
    assert_eq!(files.read_at(&file, 0, &mut dst), Ok(6));
    model
        .0
        .lock()
        .unwrap()
        .cached(1)
        .data
        .copy_from_slice(b"after!");
    assert_eq!(files.read_at(&file, 0, &mut dst), Ok(6));
    assert_eq!(&dst, b"after!");
}

#[test]
fn stores_through_a_mapping_reach_storage_after_the_descriptor_is_closed() {
    let (files, model) = files();
    let file = files.open(&at("a"), O_RDWR | O_CREAT, 0o644).unwrap();
    files.write_at(&file, 0, b"before").unwrap();
    files.file_ref(&file, true).unwrap();
    drop(file);
    {
        // As the last pages of a mapping arrive when the process ends.
        let mut world = model.0.lock().unwrap();
        let cached = world.cached(1);
        cached.data.copy_from_slice(b"after!");
        cached.dirty = true;
    }
    files.flush_all().unwrap();
    assert_eq!(stored(&model, "a"), b"after!");
}
