//! The root can't be left, whatever lies in it and whatever is claimed.
#![allow(clippy::unwrap_used, clippy::panic)] // a test fails by panicking

mod common;

use common::{Client, O_CREAT, O_DIRECTORY, O_EXCL, O_NOFOLLOW, O_PATH, O_RDWR, at, from};
use proptest::prelude::*;
use proto::Errno;
use proto::store::{FileHandle, Location, StoreReply, StoreRequest};
use scomponent::core::handle::Handle;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

/// A root with a secret beside it.
struct Beside {
    _dir: tempfile::TempDir,
    root: PathBuf,
    secret: PathBuf,
    client: Client,
}

fn beside() -> Beside {
    let dir = tempfile::tempdir().unwrap();
    let (root, secret) = (dir.path().join("root"), dir.path().join("secret"));
    std::fs::create_dir_all(root.join("d/e")).unwrap();
    std::fs::write(&secret, b"secret").unwrap();
    let client = Client::new(&root);
    Beside {
        _dir: dir,
        root,
        secret,
        client,
    }
}

#[test]
fn dots_stop_at_the_root() {
    let b = beside();
    let root = b.client.stat(at("/"), true).unwrap().id;
    let dir = b.client.open("d/e", O_DIRECTORY).unwrap();
    for path in [
        "..",
        "../..",
        "/..",
        "../../..",
        "d/../..",
        "../../../../..",
    ] {
        assert_eq!(b.client.stat(at(path), true).unwrap().id, root, "{path}");
    }
    for path in ["../..", "../../..", "../../../..", "/.."] {
        assert_eq!(
            b.client.stat(from(&dir, path), true).unwrap().id,
            root,
            "{path}"
        );
    }
    assert_eq!(b.client.open("../secret", 0), Err(Errno::ENOENT));
    assert_eq!(
        b.client.open_full(from(&dir, "../../../secret"), 0),
        Err(Errno::ENOENT)
    );
    b.client.mkdir("../inside").unwrap();
    assert!(b.root.join("inside").is_dir());
    let top = b.client.open("/", O_DIRECTORY).unwrap();
    let reply = b.client.ask(&StoreRequest::ReadDir {
        handle: top,
        cookie: 0,
        max_bytes: 4096,
    });
    let Ok(StoreReply::Entries { entries, end: true }) = reply else {
        panic!("{reply:?}")
    };
    let ino = |name: &[u8]| entries.iter().find(|e| e.name == name).unwrap().ino;
    assert_eq!(ino(b".."), ino(b"."), "nothing is told of what is above");
}

#[test]
fn links_mean_the_root_of_the_component() {
    let b = beside();
    std::os::unix::fs::symlink(&b.secret, b.root.join("absolute")).unwrap();
    std::os::unix::fs::symlink("../secret", b.root.join("relative")).unwrap();
    std::os::unix::fs::symlink("/d", b.root.join("d/inside")).unwrap();
    std::os::unix::fs::symlink("/made", b.root.join("dangling")).unwrap();
    for path in ["absolute", "relative"] {
        assert_eq!(b.client.open(path, 0), Err(Errno::ENOENT), "{path}");
        assert_eq!(
            b.client.stat(at(path), true).unwrap_err(),
            Errno::ENOENT,
            "{path}"
        );
        let chmod = StoreRequest::Chmod {
            at: at(path),
            mode: 0o777,
        };
        assert_eq!(b.client.done(&chmod), Err(Errno::ENOENT), "{path}");
        let link = StoreRequest::Link {
            from: at(path),
            to: at("stolen"),
            follow: true,
        };
        assert_eq!(b.client.done(&link), Err(Errno::ENOENT), "{path}");
        assert_eq!(b.client.open(path, O_NOFOLLOW), Err(Errno::ELOOP), "{path}");
    }
    let inside = b.client.stat(at("d/inside"), true).unwrap();
    assert_eq!(inside.id, b.client.stat(at("d"), true).unwrap().id);
    let dir = b.client.open("d", O_DIRECTORY).unwrap();
    assert_eq!(
        b.client
            .stat(from(&dir, "inside/inside/e"), true)
            .unwrap()
            .mode
            >> 12,
        4
    );
    b.client.open("dangling", O_CREAT | O_RDWR).unwrap();
    assert!(b.root.join("made").is_file());
    assert!(!PathBuf::from("/made").exists());
    let reply = b.client.ask(&StoreRequest::Readlink { at: at("absolute") });
    let target = b.secret.into_os_string().into_encoded_bytes();
    assert_eq!(
        reply,
        Ok(StoreReply::Data(target)),
        "a link's text is the program's business"
    );
}

#[test]
fn magic_links_lead_nowhere() {
    let client = Client::new(&PathBuf::from("/"));
    for path in [
        "/proc/self/root",
        "/proc/self/cwd",
        "/proc/self/exe",
        "/proc/self/fd/0",
    ] {
        assert_eq!(client.open(path, 0), Err(Errno::ELOOP), "{path}");
        let through = format!("{path}/etc");
        assert_eq!(
            client.stat(at(&through), true).unwrap_err(),
            Errno::ELOOP,
            "{path}"
        );
    }
    let dir = client.open("/proc/self", O_DIRECTORY);
    if let Ok(dir) = dir {
        assert!(client.stat(from(&dir, "root/etc"), true).is_err());
    }
}

#[test]
fn forged_handles_name_nothing_outside() {
    let b = beside();
    let secret = Client::new(b.root.parent().unwrap());
    let (stolen, ..) = secret.open_full(at("secret"), 0).unwrap();
    assert_eq!(
        b.client.read(&stolen),
        Err(Errno::ESTALE),
        "its path is the root's own"
    );
    let key = Handle::decode(&stolen).unwrap().key;
    for path in ["../secret", "../../secret", "d/../../secret", "absolute"] {
        std::os::unix::fs::symlink(&b.secret, b.root.join("absolute")).ok();
        let forged = Handle {
            key,
            path: path.as_bytes().to_vec(),
        }
        .encode();
        assert_eq!(b.client.read(&forged), Err(Errno::ESTALE), "{path}");
        assert_eq!(
            b.client.fstat(&forged).unwrap_err(),
            Errno::ESTALE,
            "{path}"
        );
        let beside = StoreRequest::Mkdir {
            at: from(&forged, "x"),
            mode: 0o755,
        };
        assert_eq!(b.client.done(&beside), Err(Errno::ESTALE), "{path}");
    }
}

/// A directory is swapped for a link to the outside as fast as it goes.
#[test]
fn a_race_of_renames_opens_nothing_outside() {
    let b = beside();
    let outside = b.root.parent().unwrap().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("f"), b"secret").unwrap();
    std::fs::create_dir(b.root.join("dir")).unwrap();
    std::fs::write(b.root.join("dir/f"), b"public").unwrap();
    std::os::unix::fs::symlink(&outside, b.root.join("link")).unwrap();
    let dir = b.client.open("dir", O_DIRECTORY).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let swap = rustix::fs::RenameFlags::EXCHANGE;
            let (dir, link) = (b.root.join("dir"), b.root.join("link"));
            let root = std::fs::File::open(&b.root).unwrap();
            while !stop.load(Ordering::Relaxed) {
                rustix::fs::renameat_with(&root, &dir, &root, &link, swap).unwrap();
            }
        });
        let mut seen = 0;
        for n in 0..4000 {
            let place = match n % 3 {
                0 => at("dir/f"),
                1 => at("dir/../dir/f"),
                _ => from(&dir, "../dir/f"),
            };
            if let Ok((handle, ..)) = b.client.open_full(place, 0) {
                if let Ok(data) = b.client.read(&handle) {
                    assert_eq!(data, b"public");
                    seen += 1;
                }
                b.client.close(&handle);
            }
            let made = StoreRequest::Mknod {
                at: at(&format!("dir/n{n}")),
                mode: 0o100_644,
            };
            let _ = b.client.done(&made);
        }
        stop.store(true, Ordering::Relaxed);
        assert!(seen > 0);
    });
    let names: Vec<_> = std::fs::read_dir(&outside).unwrap().collect();
    assert_eq!(names.len(), 1, "nothing was made outside");
}

fn anything() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..64),
        "[a-d./]{0,12}".prop_map(String::into_bytes),
    ]
}

fn location() -> impl Strategy<Value = Location> {
    let dir = proptest::option::of(anything().prop_map(FileHandle));
    (dir, anything()).prop_map(|(dir, path)| Location { dir, path })
}

fn request() -> impl Strategy<Value = StoreRequest> {
    use StoreRequest as Q;
    let handle = || anything().prop_map(FileHandle);
    prop_oneof![
        (location(), any::<u32>(), any::<u32>()).prop_map(|(at, flags, mode)| Q::Open {
            at,
            flags,
            mode
        }),
        (handle(), any::<u64>(), 0..9000_u32).prop_map(|(handle, offset, len)| Q::Read {
            handle,
            offset,
            len
        }),
        (handle(), any::<u64>(), anything()).prop_map(|(handle, offset, data)| Q::Write {
            handle,
            offset,
            data
        }),
        (handle(), any::<u64>()).prop_map(|(handle, len)| Q::Truncate { handle, len }),
        (handle(), any::<u64>(), any::<u32>()).prop_map(|(handle, cookie, max_bytes)| Q::ReadDir {
            handle,
            cookie,
            max_bytes
        }),
        (location(), location(), any::<u32>()).prop_map(|(from, to, flags)| Q::Rename {
            from,
            to,
            flags
        }),
        (location(), location(), any::<bool>()).prop_map(|(from, to, follow)| Q::Link {
            from,
            to,
            follow
        }),
        (anything(), location()).prop_map(|(target, at)| Q::Symlink { target, at }),
        (location(), any::<u32>()).prop_map(|(at, mode)| Q::Mkdir { at, mode }),
        (location(), any::<u32>()).prop_map(|(at, mode)| Q::Mknod { at, mode }),
        (location(), any::<bool>()).prop_map(|(at, dir)| Q::Unlink { at, dir }),
        (location(), any::<u32>(), any::<u32>()).prop_map(|(at, mode, flags)| Q::Access {
            at,
            mode,
            flags
        }),
        handle().prop_map(|handle| Q::PathOf { handle }),
        handle().prop_map(|handle| Q::Close { handle }),
        location().prop_map(|at| Q::Readlink { at }),
        location().prop_map(|at| Q::Statfs { at }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 64, failure_persistence: None, ..ProptestConfig::default()
    })]
    /// Whatever is asked, it is answered, and nothing beside the root changes.
    #[test]
    fn any_request_is_answered(requests in proptest::collection::vec(request(), 1..40)) {
        let b = beside();
        for request in &requests {
            let _ = b.client.ask(request);
        }
        prop_assert_eq!(std::fs::read(&b.secret).unwrap(), b"secret");
        let beside = std::fs::read_dir(b.root.parent().unwrap()).unwrap().count();
        prop_assert_eq!(beside, 2);
    }
}

#[test]
fn what_exists_is_not_made_again() {
    let b = beside();
    let (_, _, created) = b.client.open_full(at("f"), O_CREAT | O_RDWR).unwrap();
    assert!(created);
    let (_, _, created) = b.client.open_full(at("f"), O_CREAT | O_RDWR).unwrap();
    assert!(!created);
    assert_eq!(b.client.open("f", O_CREAT | O_EXCL), Err(Errno::EEXIST));
    let (_, attr, _) = b.client.open_full(at("d"), O_PATH).unwrap();
    assert_eq!(attr.mode >> 12, 4);
}
