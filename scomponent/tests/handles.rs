//! Handles: over restarts, renames and removals.
#![allow(clippy::unwrap_used, clippy::panic)] // a test fails by panicking

mod common;

use common::{Client, ME, O_CREAT, O_DIRECTORY, O_RDWR, O_WRONLY, at, from};
use proto::store::{FileHandle, StoreReply, StoreRequest};
use proto::{Errno, Identity, ProcessId};
use scomponent::fs::Wait;
use std::fs;
use std::path::Path;

fn with(client: &Client, path: &str, data: &[u8]) -> FileHandle {
    let handle = client.open(path, O_CREAT | O_RDWR).unwrap();
    client.write(&handle, 0, data).unwrap();
    handle
}

fn open_files() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn a_handle_survives_a_restart_and_follows_no_other_file() {
    let dir = tempfile::tempdir().unwrap();
    let client = Client::new(dir.path());
    client.mkdir("d").unwrap();
    let f = with(&client, "d/f", b"one");
    let g = with(&client, "d/g", b"two");
    let d = client.open("d", O_DIRECTORY).unwrap();
    drop(client);

    let client = Client::new(dir.path());
    assert_eq!(client.read(&f).unwrap(), b"one");
    assert_eq!(client.write(&f, 3, b"!").unwrap().size, 4);
    assert_eq!(client.stat(from(&d, "g"), true).unwrap().size, 3);
    drop(client);

    let client = Client::new(dir.path());
    fs::rename(dir.path().join("d/g"), dir.path().join("d/f")).unwrap();
    assert_eq!(
        client.read(&f),
        Err(Errno::ESTALE),
        "another file is there now"
    );
    assert_eq!(client.read(&g), Err(Errno::ESTALE), "and none here");
    fs::remove_file(dir.path().join("d/f")).unwrap();
    fs::write(dir.path().join("d/f"), b"new").unwrap();
    assert_eq!(
        client.read(&f),
        Err(Errno::ESTALE),
        "even if the inode's number came back"
    );
}

#[test]
fn a_renamed_file_and_directory_stay_within_reach() {
    let dir = tempfile::tempdir().unwrap();
    let client = Client::new(dir.path());
    client.mkdir("d").unwrap();
    client.mkdir("e").unwrap();
    let f = with(&client, "d/f", b"f");
    let d = client.open("d", O_DIRECTORY).unwrap();
    client.rename("d", "e/d").unwrap();
    client.0.sweep();
    client.0.sweep();
    client.0.sweep();
    assert_eq!(client.read(&f).unwrap(), b"f");
    assert_eq!(client.path_of(&f).unwrap(), "/e/d/f");
    assert_eq!(client.path_of(&d).unwrap(), "/e/d");
    assert_eq!(client.stat(from(&d, "f"), true).unwrap().size, 1);
    assert_eq!(
        client.stat(from(&d, "../../e"), true).unwrap().mode >> 12,
        4
    );
    client.rename("e/d/f", "f").unwrap();
    assert_eq!(client.path_of(&f).unwrap(), "/f");
    client.write(&f, 0, b"F").unwrap();
    assert_eq!(fs::read(dir.path().join("f")).unwrap(), b"F");
}

#[test]
fn an_unlinked_file_lives_until_its_last_close() {
    let dir = tempfile::tempdir().unwrap();
    let client = Client::new(dir.path());
    let first = with(&client, "f", b"data");
    let second = client.open("f", 0).unwrap();
    assert_eq!(first, second);
    client.unlink("f").unwrap();
    for _ in 0..3 {
        client.0.sweep();
    }
    client.write(&first, 4, b"+").unwrap();
    assert_eq!(client.read(&second).unwrap(), b"data+");
    assert_eq!(client.fstat(&first).unwrap().nlink, 0);
    assert_eq!(client.path_of(&first), Err(Errno::ENOENT));
    client.close(&first);
    assert_eq!(client.read(&second).unwrap(), b"data+");
    client.close(&second);
    assert_eq!(client.read(&second), Err(Errno::ESTALE));
}

#[test]
fn a_file_that_is_replaced_lives_on_for_who_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let client = Client::new(dir.path());
    let old = with(&client, "f", b"old");
    let new = with(&client, "g", b"new");
    client.rename("g", "f").unwrap();
    assert_eq!(client.read(&old).unwrap(), b"old");
    assert_eq!(client.read(&new).unwrap(), b"new");
    let now = client.open("f", 0).unwrap();
    assert_eq!(client.read(&now).unwrap(), b"new");
    client.close(&old);
    assert_eq!(client.read(&old), Err(Errno::ESTALE));
}

#[test]
fn a_removed_directory_that_is_open_is_empty_and_takes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let client = Client::new(dir.path());
    client.mkdir("d").unwrap();
    let d = client.open("d", O_DIRECTORY).unwrap();
    client
        .done(&StoreRequest::Unlink {
            at: at("d"),
            dir: true,
        })
        .unwrap();
    assert_eq!(client.fstat(&d).unwrap().mode >> 12, 4);
    assert_eq!(client.stat(from(&d, "f"), true).unwrap_err(), Errno::ENOENT);
    assert_eq!(
        client.open_full(from(&d, "f"), O_CREAT).unwrap_err(),
        Errno::ENOENT
    );
    assert_eq!(client.path_of(&d), Err(Errno::ENOENT));
}

#[test]
fn files_of_a_client_that_went_are_closed_but_not_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let client = Client::new(dir.path());
    let f = with(&client, "f", b"data");
    client.unlink("f").unwrap();
    client.0.handle_gone(ME);
    client.0.sweep();
    client.0.handle_connected(ME);
    for _ in 0..3 {
        client.0.sweep();
    }
    assert_eq!(client.read(&f).unwrap(), b"data", "it came back");
    client.0.handle_gone(ME);
    client.0.sweep();
    client.0.sweep();
    assert_eq!(client.read(&f), Err(Errno::ESTALE));
}

#[test]
fn closing_what_another_opened_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let client = Client::new(dir.path());
    let f = with(&client, "f", b"data");
    client.unlink("f").unwrap();
    let other = Identity::Process(ProcessId(2));
    let close = StoreRequest::Close { handle: f.clone() };
    assert_eq!(client.0.execute(other, &close, Wait::Yes), StoreReply::Done);
    assert_eq!(client.read(&f).unwrap(), b"data");
}

#[test]
fn open_descriptors_are_bounded_and_freed() {
    let dir = tempfile::tempdir().unwrap();
    let client = Client::new(dir.path());
    let before = open_files();
    let handles: Vec<_> = (0..500)
        .map(|n| with(&client, &format!("f{n}"), b"x"))
        .collect();
    // Other tests run beside this one; the bound of the cache is 64.
    assert!(open_files() < before + 250, "{} open", open_files());
    for handle in &handles {
        assert_eq!(client.read(handle).unwrap(), b"x");
        client.close(handle);
    }
    client.unlink("f0").unwrap();
    assert_eq!(client.read(&handles[0]), Err(Errno::ESTALE));
}

#[test]
fn special_files_are_named_and_not_opened() {
    let dir = tempfile::tempdir().unwrap();
    let client = Client::new(dir.path());
    client
        .done(&StoreRequest::Mknod {
            at: at("fifo"),
            mode: 0o010_644,
        })
        .unwrap();
    for flags in [0, O_WRONLY, O_RDWR, O_CREAT | O_WRONLY] {
        let (handle, attr, created) = client.open_full(at("fifo"), flags).unwrap();
        assert_eq!((attr.mode >> 12, created), (1, false));
        assert_eq!(client.read(&handle), Err(Errno::EINVAL));
        assert_eq!(client.write(&handle, 0, b"x").unwrap_err(), Errno::EINVAL);
        assert_eq!(client.fstat(&handle).unwrap().id, attr.id);
    }
    let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
    assert_eq!(client.open("socket", 0), Err(Errno::ENXIO));
    let whole = Client::new(Path::new("/"));
    let (null, attr, _) = whole.open_full(at("/dev/null"), O_RDWR).unwrap();
    assert_eq!(attr.mode >> 12, 2);
    assert_eq!(whole.read(&null), Err(Errno::EINVAL));
}

#[test]
fn directories_are_read_in_pieces_from_any_cookie() {
    let dir = tempfile::tempdir().unwrap();
    let client = Client::new(dir.path());
    let mut expected = vec![".".to_owned(), "..".to_owned()];
    for n in 0..300 {
        let name = format!("file-{n}");
        fs::write(dir.path().join(&name), b"").unwrap();
        expected.push(name);
    }
    expected.sort();
    let handle = client.open("/", O_DIRECTORY).unwrap();
    for max_bytes in [1, 100, 4096, u32::MAX] {
        let mut names = client.list(&handle, max_bytes).unwrap();
        names.sort();
        assert_eq!(names, expected, "{max_bytes} bytes at a time");
    }
    // Entries that stay are seen once, whatever is removed on the way.
    let (mut cookie, mut seen) = (0, Vec::new());
    loop {
        let handle = handle.clone();
        let reply = client.ask(&StoreRequest::ReadDir {
            handle,
            cookie,
            max_bytes: 400,
        });
        let Ok(StoreReply::Entries { entries, end }) = reply else {
            panic!("{reply:?}")
        };
        for entry in &entries {
            let name = String::from_utf8(entry.name.clone()).unwrap();
            if name.starts_with("file") {
                client.unlink(&name).unwrap();
                seen.push(name);
            }
            cookie = entry.cookie;
        }
        if end {
            break;
        }
    }
    assert_eq!(seen.len(), 300);
}

#[test]
fn reads_that_would_wait_are_refused_or_whole() {
    let dir = tempfile::tempdir().unwrap();
    let client = Client::new(dir.path());
    let data: Vec<u8> = (0..200_000_u32).map(|n| n as u8).collect();
    let f = with(&client, "f", &data);
    let mut buffer = vec![0; data.len() + 10];
    match client.0.read_into(&f, 0, &mut buffer, Wait::No) {
        Ok(n) => assert_eq!(buffer[..n], data),
        Err(e) => assert_eq!(e, Errno::EAGAIN),
    }
    let n = client
        .0
        .read_into(&f, 100_000, &mut buffer, Wait::Yes)
        .unwrap();
    assert_eq!(buffer[..n], data[100_000..]);
}

#[test]
fn a_synced_file_takes_its_new_directories_along() {
    let dir = tempfile::tempdir().unwrap();
    let client = Client::new(dir.path());
    client.mkdir("a").unwrap();
    client.mkdir("a/b").unwrap();
    let f = with(&client, "a/b/f", b"x");
    for data_only in [false, true] {
        client
            .done(&StoreRequest::Fsync {
                handle: f.clone(),
                data_only,
            })
            .unwrap();
    }
    client.rename("a", "c").unwrap();
    let g = with(&client, "c/b/g", b"x");
    client.rename("c", "d").unwrap();
    client
        .done(&StoreRequest::Fsync {
            handle: g,
            data_only: false,
        })
        .unwrap();
    let d = client.open("d", O_DIRECTORY).unwrap();
    client
        .done(&StoreRequest::Fsync {
            handle: d,
            data_only: false,
        })
        .unwrap();
    let unlinked = with(&client, "u", b"x");
    client.unlink("u").unwrap();
    client
        .done(&StoreRequest::Fsync {
            handle: unlinked,
            data_only: false,
        })
        .unwrap();
}
