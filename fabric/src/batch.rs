//! Long transfers, cut into what fits a frame each.

use crate::Segment;
use crate::frame::{MAX_SEGMENTS, MAX_TRANSFER};

/// A part of a transfer that fits a frame.
pub(crate) enum Batch<'a> {
    Whole(&'a [Segment]),
    Part(Vec<Segment>),
}

impl AsRef<[Segment]> for Batch<'_> {
    fn as_ref(&self) -> &[Segment] {
        match self {
            Batch::Whole(all) => all,
            Batch::Part(some) => some,
        }
    }
}

/// Cuts a transfer into what fits a frame each.
pub(crate) fn batches(segments: &[Segment]) -> Vec<Batch<'_>> {
    if segments.is_empty() {
        return Vec::new();
    }
    if segments.len() <= MAX_SEGMENTS && Segment::total(segments) <= MAX_TRANSFER {
        return vec![Batch::Whole(segments)];
    }
    let mut done = Vec::new();
    let (mut batch, mut room) = (Vec::new(), MAX_TRANSFER);
    for piece in segments.iter().flat_map(|s| s.pieces(MAX_TRANSFER as u32)) {
        if batch.len() == MAX_SEGMENTS || piece.len as usize > room {
            done.push(Batch::Part(std::mem::take(&mut batch)));
            room = MAX_TRANSFER;
        }
        room -= piece.len as usize;
        batch.push(piece);
    }
    done.push(Batch::Part(batch));
    done
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proto::addr::{RemoteAddr, RemoteKey};

    fn segment(local: u32, len: u32) -> Segment {
        let key = RemoteKey {
            region: 1,
            slot: 2,
            nonce: 3,
        };
        Segment {
            local,
            len,
            remote: RemoteAddr {
                key,
                offset: u64::from(local),
            },
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        #[test]
        fn batches_fit_and_cover(lens in proptest::collection::vec(0u32..3_000_000, 0..20), many in 0usize..1500) {
            let mut at = 0;
            let mut whole: Vec<Segment> = lens.iter().map(|len| {
                let s = segment(at, *len);
                at += len;
                s
            }).collect();
            whole.extend((0..many).map(|n| segment(at + n as u32, 1)));
            let cut = batches(&whole);
            let mut next = 0;
            for batch in &cut {
                let batch = batch.as_ref();
                prop_assert!(batch.len() <= MAX_SEGMENTS && Segment::total(batch) <= MAX_TRANSFER);
                for s in batch.iter().filter(|s| s.len > 0) {
                    prop_assert_eq!((s.local, s.remote.offset), (next, u64::from(next)));
                    next += s.len;
                }
            }
            prop_assert_eq!(next as usize, Segment::total(&whole));
        }
    }

    #[test]
    fn segments_outside_the_buffer_are_refused() {
        use crate::link::check_local;
        assert!(check_local(&[segment(0, 10)], 10).is_ok());
        assert!(check_local(&[segment(1, 10)], 10).is_err());
        assert!(check_local(&[segment(u32::MAX, u32::MAX)], 10).is_err());
    }
}
