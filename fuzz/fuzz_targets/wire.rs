//! Any bytes as any message: refused or decoded, and what is decoded encodes
//! to something that decodes to the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proto::wire::{decode, encode};
use proto::{gmm, mem, process, store};
use serde::{Serialize, de::DeserializeOwned};

fn round<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(data: &[u8]) {
    if let Ok(value) = decode::<T>(data) {
        assert_eq!(decode::<T>(&encode(&value)).as_ref(), Ok(&value));
    }
}

fuzz_target!(|data: &[u8]| {
    round::<gmm::GmmRequest>(data);
    round::<gmm::GmmReply>(data);
    round::<mem::MemRequest>(data);
    round::<mem::MemReply>(data);
    round::<store::StoreRequest>(data);
    round::<store::StoreReply>(data);
    round::<process::ControlRequest>(data);
    round::<process::ControlReply>(data);
});
