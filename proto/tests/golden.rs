//! The wire format does not change by accident: golden bytes, and round trips
//! of arbitrary values and of arbitrary bytes.

use proptest::prelude::*;
use proto::addr::{RemoteAddr, RemoteKey, UserAddr, UserRange};
use proto::gmm::{GmmReply, GmmRequest, Load, Refusal};
use proto::mem::*;
use proto::process::*;
use proto::store::*;
use proto::wire::{PROTOCOL_VERSION, decode, encode};
use proto::*;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn golden<T>(value: &T, expected: &str)
where
    T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let bytes = encode(value);
    assert_eq!(
        hex(&bytes),
        expected,
        "{value:?}: a change needs a new PROTOCOL_VERSION"
    );
    assert_eq!(decode::<T>(&bytes).as_ref(), Ok(value));
    assert!(
        decode::<T>(&[&bytes[..], &[0]].concat()).is_err(),
        "bytes left over"
    );
    for cut in 0..bytes.len() {
        assert!(decode::<T>(&bytes[..cut]).is_err(), "truncated at {cut}");
    }
}

#[test]
fn the_version_these_bytes_belong_to() {
    assert_eq!(PROTOCOL_VERSION, 1);
}

#[test]
fn memory_messages() {
    let range = UserRange::new(UserAddr(0x10_0000), 0x2000).unwrap();
    golden(&MemRequest::CreateSpace, "00");
    golden(
        &MemRequest::Space(vec![
            SpaceOp::Map {
                addr: UserAddr(0),
                len: 4096,
                prot: Prot::READ_WRITE,
                flags: MapFlags::FIXED,
                backing: Backing::Anonymous,
            },
            SpaceOp::Unmap { range },
        ]),
        "0202000080200301000180804080 40".replace(' ', "").as_str(),
    );
    golden(&MemRequest::Commit { extent: 300 }, "03ac02");
    let key = RemoteKey {
        region: 1,
        slot: 2,
        nonce: 3,
    };
    let lease = Lease {
        key,
        generation: Generation(4),
        writable: true,
    };
    golden(&MemReply::Lease(lease), "020102030401");
    golden(&MemReply::Failed(Errno::ENOMEM), "0818");
}

#[test]
fn storage_messages() {
    let at = Location {
        dir: None,
        path: b"/etc".to_vec(),
    };
    golden(
        &StoreRequest::Open {
            at,
            flags: 0x241,
            mode: 0o644,
        },
        "0000042f657463c104a403",
    );
    let handle = FileHandle(vec![1, 2]);
    golden(
        &StoreRequest::Read {
            handle,
            offset: 4096,
            len: 512,
        },
        "04020102802080 04".replace(' ', "").as_str(),
    );
    golden(&StoreReply::Failed(Errno::ENOENT), "0804");
    let handle = FileHandle(vec![1, 2]);
    golden(
        &StoreRequest::Stage {
            handle,
            offset: 4096,
            len: 512,
            slot: 3,
        },
        "180201028020800403",
    );
    let key = RemoteKey {
        region: 1,
        slot: 2,
        nonce: 3,
    };
    let at = RemoteAddr { key, offset: 0 };
    golden(&StoreReply::Staged { at, len: 512 }, "09010203008004");
}

#[test]
fn manager_and_control_messages() {
    golden(
        &GmmRequest::Heartbeat {
            node: NodeId(1),
            generation: Generation(2),
            load: Load::default(),
        },
        "0101020000000000",
    );
    golden(&GmmReply::Refused(Refusal::OutOfMemory), "0601");
    golden(&ControlRequest::Signal(2), "0104");
    golden(&ControlRequest::Counters, "02");
    golden(&ControlReply::Counters(Vec::new()), "0300");
    golden(
        &ControlReply::Ended {
            end: End::Exit(3),
            stats: None,
            message: None,
        },
        "0200060000",
    );
}

#[test]
fn ranges_on_the_wire_are_checked() {
    for (start, len) in [
        (0x10_0001u64, 4096u64),
        (0x10_0000, 0),
        (0, 4096),
        (u64::MAX, 4096),
    ] {
        let bytes = encode(&(start, len));
        assert!(decode::<UserRange>(&bytes).is_err(), "{start:#x}+{len}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_refused_or_decoded(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(m) = decode::<MemRequest>(&bytes) {
            prop_assert_eq!(decode::<MemRequest>(&encode(&m)), Ok(m));
        }
        if let Ok(m) = decode::<StoreRequest>(&bytes) {
            prop_assert_eq!(decode::<StoreRequest>(&encode(&m)), Ok(m));
        }
        if let Ok(m) = decode::<GmmRequest>(&bytes) {
            prop_assert_eq!(decode::<GmmRequest>(&encode(&m)), Ok(m));
        }
        if let Ok(m) = decode::<ControlRequest>(&bytes) {
            prop_assert_eq!(decode::<ControlRequest>(&encode(&m)), Ok(m));
        }
    }

    #[test]
    fn writes_round_trip(data in prop::collection::vec(any::<u8>(), 0..5000), offset: Option<u64>) {
        let file = FileRef {
            id: FileId { dev: 1, ino: 2 },
            storage: NodeId(3),
            handle: FileHandle(vec![9; 20]),
        };
        let m = MemRequest::FileWrite { file, offset, data };
        prop_assert_eq!(decode::<MemRequest>(&encode(&m)), Ok(m));
    }

    #[test]
    fn ranges_are_what_they_say(start in 0u64..1 << 47, len in 0u64..1 << 32) {
        if let Some(r) = UserRange::new(UserAddr(start), len) {
            prop_assert!(r.len() >= len && r.len() < len + 4096 && r.contains(r.start()));
            prop_assert!(!r.contains(r.end()));
            prop_assert_eq!(decode::<UserRange>(&encode(&r)), Ok(r));
        }
    }
}
