//! Any bytes as an image: refused with words, or segments that lie inside the
//! file and the program's window.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pcomponent::image::elf;
use proto::addr::{USER_MAX, USER_MIN};

fuzz_target!(|data: &[u8]| {
    let head = &data[..data.len().min(elf::HEADER)];
    let Ok((at, len)) = elf::header_table(head) else { return };
    let table = usize::try_from(at).ok().and_then(|at| data.get(at..at.checked_add(len)?));
    if let Ok(image) = elf::parse(head, table.unwrap_or_default(), data.len() as u64) {
        for s in image.segments {
            assert!(s.addr >= USER_MIN && s.addr.0 + s.mem_len <= USER_MAX.0);
            assert!(s.offset + s.file_len <= data.len() as u64);
        }
    }
});
