//! The buffer cache over a storage component made of memory, which can be
//! slow, refuse and be away.
#![allow(clippy::unwrap_used)]

mod common;

use common::{World, file, filler};
use mcomponent::core::ledger::Ledger;
use mcomponent::files::Files;
use proto::mem::{FileRef, MemReply};
use proto::{EXTENT_SIZE, Errno, Generation, Identity, ProcessId};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

const MIB: u64 = 1 << 20;
const BULK: usize = 1 << 20;

fn cache(capacity: u64, world: &Arc<World>) -> (Arc<Files>, Arc<Ledger>) {
    let ledger = Arc::new(Ledger::new(capacity));
    let memory = fabric::Memory::new().unwrap();
    (Files::new(memory, ledger.clone(), world.clone()), ledger)
}

fn read_all(files: &Files, file: &FileRef) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        let data = files.read(file, all.len() as u64, BULK as u32).unwrap();
        if data.is_empty() {
            return all;
        }
        all.extend(data);
    }
}

#[test]
fn what_was_written_is_read_and_reaches_storage() {
    let world = World::with_file(1, &filler(3 * BULK + 17));
    let (files, _) = cache(64 * MIB, &world);
    let it = file(1);
    assert_eq!(
        files.write(&it, Some(5), b"hello").unwrap(),
        (5, 3 * MIB + 17)
    );
    assert_eq!(
        files.write(&it, None, b"tail").unwrap(),
        (3 * MIB + 17, 3 * MIB + 21)
    );
    let mut expected = filler(3 * BULK + 17);
    expected[5..10].copy_from_slice(b"hello");
    expected.extend(b"tail");
    assert_eq!(read_all(&files, &it), expected);
    assert_ne!(world.content(1), expected, "not before it is closed");
    files.close(&it).unwrap();
    assert_eq!(world.content(1), expected);
}

#[test]
fn a_file_larger_than_the_component_passes_through_it() {
    let (world, expected) = (World::with_file(1, b""), filler(40 * BULK));
    let (files, ledger) = cache(16 * MIB, &world);
    for chunk in expected.chunks(BULK) {
        files.write(&file(1), None, chunk).unwrap();
        assert!(ledger.sums().files <= 16 * MIB);
    }
    assert_eq!(read_all(&files, &file(1)), expected);
    files.close(&file(1)).unwrap();
    assert_eq!(world.content(1), expected);
}

#[test]
fn an_error_is_told_once_and_nothing_is_lost() {
    let world = World::with_file(1, b"old");
    let (files, _) = cache(64 * MIB, &world);
    files.write(&file(1), Some(0), b"new").unwrap();
    world.refuse_writes(Some(Errno::ENOSPC));
    files.flush_all();
    assert_eq!(files.sync(&file(1), true), Err(Errno::ENOSPC));
    assert_eq!(world.content(1), b"old");
    world.refuse_writes(None);
    files.flush_all();
    assert_eq!(world.content(1), b"new");
    assert!(files.close(&file(1)).is_ok());
}

#[test]
fn one_extent_is_fetched_once_for_all_who_want_it() {
    let world = World::with_file(1, &filler(2 * BULK));
    let (files, _) = cache(64 * MIB, &world);
    world.delay(Duration::from_millis(30));
    std::thread::scope(|scope| {
        for n in 0..8_u64 {
            let files = &files;
            scope.spawn(move || {
                assert_eq!(files.read(&file(1), n * 1000, 100).unwrap().len(), 100);
            });
        }
    });
    assert_eq!(world.reads.load(Ordering::SeqCst), 2, "two halves, once");
}

#[test]
fn storage_that_is_away_is_an_error() {
    let world = World::with_file(1, b"data");
    let (files, _) = cache(64 * MIB, &world);
    world.go_away(true);
    assert_eq!(files.read(&file(1), 0, 4), Err(Errno::EIO));
    world.go_away(false);
    assert_eq!(files.read(&file(1), 0, 4).unwrap(), b"data");
}

#[test]
fn one_file_is_not_passed_off_as_another() {
    let world = World::with_file(1, b"mine");
    world.add(2, b"theirs");
    let (files, _) = cache(64 * MIB, &world);
    let forged = FileRef {
        handle: file(1).handle,
        ..file(2)
    };
    assert_eq!(files.read(&forged, 0, 4), Err(Errno::ESTALE));
    assert_eq!(files.write(&forged, Some(0), b"evil"), Err(Errno::ESTALE));
    assert_eq!(files.read(&file(2), 0, 6).unwrap(), b"theirs");
    assert_eq!(
        files.write(&forged, Some(0), b"evil").map(|w| w.1),
        Ok(6),
        "it is file 2"
    );
    files.flush_all();
    assert_eq!(
        (world.content(1), world.content(2)),
        (b"mine".to_vec(), b"evilrs".to_vec())
    );
}

#[test]
fn changes_at_storage_are_seen_after_the_next_open() {
    let world = World::with_file(1, b"before");
    let (files, _) = cache(64 * MIB, &world);
    assert_eq!(files.read(&file(1), 0, 99).unwrap(), b"before");
    world.add(1, b"afterwards");
    assert_eq!(files.read(&file(1), 0, 99).unwrap(), b"before");
    files.open(&file(1), &world.attr(1));
    assert_eq!(files.read(&file(1), 0, 99).unwrap(), b"afterwards");
    files.write(&file(1), Some(0), b"A").unwrap();
    let mut lie = world.attr(1);
    lie.size = 1 << 40;
    files.open(&file(1), &lie);
    assert_eq!(
        files.read(&file(1), 0, 99).unwrap(),
        b"Afterwards",
        "dirty data stays"
    );
}

#[test]
fn truncation_cuts_and_what_comes_back_is_zeros() {
    let world = World::with_file(1, &filler(3 * BULK));
    let (files, ledger) = cache(64 * MIB, &world);
    read_all(&files, &file(1));
    files.write(&file(1), Some(3 * MIB), b"dirty").unwrap();
    let state = files.truncate(&file(1), 100).unwrap();
    assert!(
        matches!(
            state,
            MemReply::FileState {
                size: 100,
                dirty: false,
                ..
            }
        ),
        "{state:?}"
    );
    files.truncate(&file(1), 200).unwrap();
    let mut expected = filler(3 * BULK)[..100].to_vec();
    expected.resize(200, 0);
    assert_eq!(read_all(&files, &file(1)), expected);
    assert!(ledger.sums().files <= 2 * MIB, "the rest was given back");
    assert_eq!(
        files.truncate(&file(1), u64::MAX).unwrap_err(),
        Errno::EFBIG
    );
}

#[test]
fn leases_come_with_those_of_extents_that_are_here() {
    let len = 5 * EXTENT_SIZE + 100;
    let world = World::with_file(1, &filler(len as usize));
    let (files, _) = cache(64 * MIB, &world);
    let who = (Identity::Process(ProcessId(1)), Generation(1));
    let lease = |index, more, writable| files.lease(&file(1), index, more, writable, who);
    read_all(&files, &file(1));
    let all = lease(0, 15, false).unwrap();
    let valid: Vec<u64> = all.iter().map(|lease| lease.valid).collect();
    assert_eq!(valid[..5], [EXTENT_SIZE; 5]);
    assert_eq!((valid[5], valid.len()), (100, 6));
    assert_eq!(lease(2, 1, false).unwrap(), all[2..4], "the same again");
    assert_eq!(lease(2, u32::MAX, false).unwrap(), all[2..]);
    let one = lease(1, 15, true).unwrap();
    assert_eq!(one.len(), 1, "writes are announced one by one");
}

#[test]
fn one_sided_writes_are_announced_by_who_holds_the_lease() {
    let world = World::with_file(1, b"data");
    let (files, _) = cache(64 * MIB, &world);
    let (a, b) = (
        Identity::Process(ProcessId(1)),
        Identity::Process(ProcessId(2)),
    );
    let lease = |who, writable| {
        let leases = files.lease(&file(1), 0, 15, writable, (who, Generation(1)))?;
        assert_eq!(leases.len(), 1);
        Ok::<_, Errno>(leases[0])
    };
    let first = lease(a, true).unwrap();
    assert_eq!((first.valid, first.size), (4, 4));
    assert_eq!(lease(a, true).unwrap(), first, "the same lease again");
    lease(b, false).unwrap();
    assert_eq!(files.dirty(&file(1), &[(0, 1)], b), Err(Errno::ESTALE));
    assert_eq!(files.dirty(&file(1), &[(0, u32::MAX)], a), Ok(()));
    assert!(files.dirty(&file(2), &[(0, 1)], a).is_err());
    files.close(&file(1)).unwrap();
    assert_eq!(world.content(1), b"data", "not longer than it is");
    files.forget(a);
    assert_eq!(files.dirty(&file(1), &[(0, 1)], a), Err(Errno::ESTALE));
    let past = files.lease(&file(1), 1, 0, false, (a, Generation(1)));
    assert_eq!(past, Err(Errno::ENXIO));
}
