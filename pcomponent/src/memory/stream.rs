//! Sequential streams of misses, per thread: how many lines to fetch ahead,
//! and what is known of the use of those that were.

use crate::excache::LineNo;

const STREAMS: usize = 8;

#[derive(Clone, Copy)]
struct Stream {
    /// The line whose miss would continue the stream.
    next: u64,
    /// Lines fetched ahead last time.
    depth: u32,
    /// The lines that were fetched ahead last: the first, and how many.
    first: u64,
    ahead: u32,
    /// How many of these are not known to have been touched.
    open: u32,
    /// When it last moved.
    used: u64,
}

/// What came to be known of lines that were fetched ahead.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Known {
    /// The program touched them.
    pub useful: u64,
    /// Their stream was given up, and nothing shows that they were touched.
    pub wasted: u64,
}

/// A few ascending streams, the least recently moved replaced. A program that
/// reads one array and writes another keeps both.
pub(super) struct Streams {
    streams: [Stream; STREAMS],
    clock: u64,
    most: u32,
    known: Known,
}

impl Streams {
    /// Fetches at most `most` lines ahead; 0 turns prefetch off.
    pub(super) fn new(most: u32) -> Streams {
        let idle = Stream {
            next: u64::MAX,
            depth: 0,
            first: 0,
            ahead: 0,
            open: 0,
            used: 0,
        };
        Streams {
            streams: [idle; STREAMS],
            clock: 0,
            most,
            known: Known::default(),
        }
    }

    /// A miss of `line`: how many of the lines after it to fetch with it. The
    /// depth doubles with each miss that continues a stream; such a miss shows
    /// that the program went through the lines that were fetched last.
    pub(super) fn miss(&mut self, line: LineNo) -> u32 {
        self.clock += 1;
        let (clock, most) = (self.clock, self.most);
        if let Some(s) = self.streams.iter_mut().find(|s| s.next == line.0) {
            self.known.useful += u64::from(s.open);
            s.depth = (s.depth * 2).max(2).min(most);
            (s.first, s.ahead, s.open) = (line.0 + 1, s.depth, s.depth);
            s.next = line.0 + 1 + u64::from(s.depth);
            s.used = clock;
            return s.depth;
        }
        if let Some(oldest) = self.streams.iter_mut().min_by_key(|s| s.used) {
            self.known.wasted += u64::from(oldest.open);
            *oldest = Stream {
                next: line.0 + 1,
                depth: 0,
                first: 0,
                ahead: 0,
                open: 0,
                used: clock,
            };
        }
        0
    }

    /// Fewer lines than advised were fetched after `line`, which was the last
    /// to be missed: `got`. The `here` lines after them were present.
    pub(super) fn fell_short(&mut self, line: LineNo, got: u32, here: u32) {
        let clock = self.clock;
        if let Some(s) = self.streams.iter_mut().find(|s| s.used == clock) {
            s.next = line.0 + 1 + u64::from(got) + u64::from(here);
            (s.ahead, s.open) = (got, got);
        }
    }

    /// The first store to `line`, which was here: if it was fetched ahead, it
    /// was to some purpose.
    pub(super) fn stored(&mut self, line: LineNo) {
        let ahead = |s: &&mut Stream| {
            s.open > 0 && (s.first..s.first + u64::from(s.ahead)).contains(&line.0)
        };
        if let Some(s) = self.streams.iter_mut().find(ahead) {
            s.open -= 1;
            self.known.useful += 1;
        }
    }

    /// What came to be known since the last call.
    pub(super) fn take_known(&mut self) -> Known {
        std::mem::take(&mut self.known)
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
        s.fell_short(LineNo(1), 0, 0);
        assert_eq!(s.miss(LineNo(2)), 4);
    }

    #[test]
    fn a_stream_goes_on_behind_lines_that_are_present() {
        let mut s = Streams::new(8);
        let _ = (s.miss(LineNo(0)), s.miss(LineNo(1)));
        // 2 came, 3 to 5 are here.
        s.fell_short(LineNo(1), 1, 3);
        s.stored(LineNo(4));
        assert_eq!(s.take_known().useful, 0, "not fetched ahead");
        assert_eq!(s.miss(LineNo(6)), 4);
        assert_eq!(s.take_known().useful, 1);
    }

    #[test]
    fn lines_are_useful_where_the_stream_goes_on_behind_them() {
        let mut s = Streams::new(16);
        let _ = [0, 1, 4, 9].map(|n| s.miss(LineNo(n)));
        // 2 and 3, then 5 to 8; of 10 to 17 nothing is known yet.
        assert_eq!(
            s.take_known(),
            Known {
                useful: 6,
                wasted: 0
            }
        );
        let _: Vec<u32> = (0..8).map(|n| s.miss(LineNo(1000 * (n + 1)))).collect();
        assert_eq!(
            s.take_known(),
            Known {
                useful: 0,
                wasted: 8
            }
        );
    }

    #[test]
    fn a_line_that_is_stored_to_is_counted_once() {
        let mut s = Streams::new(16);
        let _ = [0, 1].map(|n| s.miss(LineNo(n)));
        s.stored(LineNo(2));
        s.stored(LineNo(1)); // missed, not fetched ahead
        s.stored(LineNo(4)); // not here
        assert_eq!(s.take_known().useful, 1);
        let _ = s.miss(LineNo(4));
        assert_eq!(s.take_known().useful, 1, "the other of the two");
    }

    #[test]
    fn what_was_not_fetched_is_neither_useful_nor_wasted() {
        let mut s = Streams::new(8);
        let _ = (s.miss(LineNo(0)), s.miss(LineNo(1)));
        s.fell_short(LineNo(1), 0, 0);
        let _ = s.miss(LineNo(2));
        assert_eq!(s.take_known(), Known::default());
    }

    #[test]
    fn a_stream_that_runs_into_another_falls_short_itself() {
        let mut s = Streams::new(8);
        // The last one would be continued by a miss of 10, as 9 would.
        let _ = [9, 6, 7].map(|n| s.miss(LineNo(n)));
        s.fell_short(LineNo(7), 1, 0);
        let _ = s.miss(LineNo(10));
        assert_eq!(s.take_known(), Known::default());
        let _ = s.miss(LineNo(9));
        assert_eq!(s.take_known().useful, 1);
    }

    #[test]
    fn off_is_off() {
        let mut s = Streams::new(0);
        assert!((0..50).all(|n| s.miss(LineNo(n)) == 0));
    }
}
