//! Sequential streams of misses, per thread: how many lines to fetch ahead.

use crate::excache::LineNo;

const STREAMS: usize = 8;

#[derive(Clone, Copy)]
struct Stream {
    /// The line whose miss would continue the stream.
    next: u64,
    /// Lines fetched ahead last time.
    depth: u32,
    /// When it last moved.
    used: u64,
}

/// A few ascending streams, the least recently moved replaced. A program that
/// reads one array and writes another keeps both.
pub(super) struct Streams {
    streams: [Stream; STREAMS],
    clock: u64,
    most: u32,
}

impl Streams {
    /// Fetches at most `most` lines ahead; 0 turns prefetch off.
    pub(super) fn new(most: u32) -> Streams {
        let idle = Stream {
            next: u64::MAX,
            depth: 0,
            used: 0,
        };
        Streams {
            streams: [idle; STREAMS],
            clock: 0,
            most,
        }
    }

    /// A miss of `line`: how many of the lines after it to fetch with it. The
    /// depth doubles with each miss that continues a stream.
    pub(super) fn miss(&mut self, line: LineNo) -> u32 {
        self.clock += 1;
        let (clock, most) = (self.clock, self.most);
        if let Some(s) = self.streams.iter_mut().find(|s| s.next == line.0) {
            s.depth = (s.depth * 2).max(2).min(most);
            s.next = line.0 + 1 + u64::from(s.depth);
            s.used = clock;
            return s.depth;
        }
        if let Some(oldest) = self.streams.iter_mut().min_by_key(|s| s.used) {
            *oldest = Stream {
                next: line.0 + 1,
                depth: 0,
                used: clock,
            };
        }
        0
    }

    /// Fewer lines than advised were fetched after `line`: `got`.
    pub(super) fn fell_short(&mut self, line: LineNo, advised: u32, got: u32) {
        let expected = line.0 + 1 + u64::from(advised);
        if let Some(s) = self.streams.iter_mut().find(|s| s.next == expected) {
            s.next = line.0 + 1 + u64::from(got);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_doubles_along_a_stream_up_to_the_most() {
        let mut s = Streams::new(16);
        let (mut line, mut depths) = (100, Vec::new());
        for _ in 0..6 {
            let ahead = s.miss(LineNo(line));
            depths.push(ahead);
            line += 1 + u64::from(ahead);
        }
        assert_eq!(depths, [0, 2, 4, 8, 16, 16]);
    }

    #[test]
    fn random_misses_fetch_nothing_ahead() {
        let mut s = Streams::new(16);
        assert!((0..1000u64).all(|n| s.miss(LineNo(n * 7919 % 100_003)) == 0));
    }

    #[test]
    fn two_interleaved_streams_are_both_seen() {
        let mut s = Streams::new(4);
        let mut at = [10u64, 100_000];
        let mut depths = [0; 2];
        for _ in 0..4 {
            for (line, depth) in at.iter_mut().zip(&mut depths) {
                *depth = s.miss(LineNo(*line));
                *line += 1 + u64::from(*depth);
            }
        }
        assert_eq!(depths, [4, 4]);
    }

    #[test]
    fn a_stream_goes_on_where_it_fell_short() {
        let mut s = Streams::new(8);
        let _ = (s.miss(LineNo(0)), s.miss(LineNo(1)));
        s.fell_short(LineNo(1), 2, 0);
        assert_eq!(s.miss(LineNo(2)), 4);
    }

    #[test]
    fn off_is_off() {
        let mut s = Streams::new(0);
        assert!((0..50).all(|n| s.miss(LineNo(n)) == 0));
    }
}
