//! Sequential streams of misses, per thread: how many lines to fetch ahead,
//! whether they will be stored to, and what is known of the use of those that
//! were fetched.

use crate::excache::LineNo;

const STREAMS: usize = 8;
/// A miss so many lines or fewer behind where a stream would go on, and that no
/// other stream waits for, is the stream's: it leaves out what another thread
/// works on, or what is here already.
const HOP: u64 = 64;
/// If the stream has fetched so many lines at once: random misses have not.
const HOPS: u32 = 8;

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
    /// How many of them were stored to after they had come clean.
    stored: u32,
    /// Whether the lines that come next are better installed as by a store,
    /// and how many runs were in a row.
    stores: bool,
    trusted: u32,
    /// When it last moved.
    used: u64,
}

impl Stream {
    /// That starts behind a miss of `line`.
    fn behind(line: u64, used: u64) -> Stream {
        Stream {
            next: line.saturating_add(1),
            depth: 0,
            first: 0,
            ahead: 0,
            open: 0,
            stored: 0,
            stores: false,
            trusted: 0,
            used,
        }
    }

    /// What the last run shows of the next: lines that came clean and were
    /// stored to, half of them or more. Runs that come as by a store show
    /// nothing; one in sixteen comes clean to see whether it still holds.
    fn learn(&mut self) {
        if self.stores {
            self.trusted += 1;
            self.stores = !self.trusted.is_multiple_of(16);
        } else if self.ahead > 0 {
            self.stores = 2 * self.stored >= self.ahead;
        }
        self.stored = 0;
    }
}

/// What to do about a miss.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Advice {
    /// So many lines after it had better come with it.
    pub ahead: u32,
    /// And all of them as by a store.
    pub stores: bool,
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
        Streams {
            streams: [Stream::behind(u64::MAX, 0); STREAMS],
            clock: 0,
            most,
            known: Known::default(),
        }
    }

    /// A miss of `line`. The depth doubles with each miss that continues a
    /// stream; such a miss shows that the program went through the lines that
    /// were fetched last. It is halved where the stream hops.
    pub(super) fn miss(&mut self, line: LineNo) -> Advice {
        self.clock += 1;
        let (clock, most) = (self.clock, self.most);
        let next = |s: &Stream| s.next == line.0;
        let hops = |s: &Stream| s.depth >= HOPS && (1..=HOP).contains(&line.0.wrapping_sub(s.next));
        let found = self.streams.iter().position(next);
        let hopped = || self.streams.iter().position(hops);
        if let Some(at) = found.or_else(hopped) {
            let s = &mut self.streams[at];
            let depth = if found.is_some() {
                self.known.useful += u64::from(s.open);
                (s.depth * 2).max(2).min(most)
            } else {
                // It may lead nowhere.
                s.depth / 2
            };
            s.learn();
            s.depth = depth;
            (s.first, s.ahead, s.open) = (line.0 + 1, s.depth, s.depth);
            s.next = line.0 + 1 + u64::from(s.depth);
            s.used = clock;
            return Advice {
                ahead: s.depth,
                stores: s.stores,
            };
        }
        if let Some(oldest) = self.streams.iter_mut().min_by_key(|s| s.used) {
            self.known.wasted += u64::from(oldest.open);
            *oldest = Stream::behind(line.0, clock);
        }
        Advice::default()
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
            s.stored += 1;
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
            let ahead = s.miss(LineNo(line)).ahead;
            depths.push(ahead);
            line += 1 + u64::from(ahead);
        }
        assert_eq!(depths, [0, 2, 4, 8, 16, 16]);
    }

    #[test]
    fn random_misses_fetch_nothing_ahead() {
        let mut s = Streams::new(16);
        assert!((0..1000u64).all(|n| s.miss(LineNo(n * 7919 % 100_003)).ahead == 0));
    }

    #[test]
    fn two_interleaved_streams_are_both_seen() {
        let mut s = Streams::new(4);
        let mut at = [10u64, 100_000];
        let mut depths = [0; 2];
        for _ in 0..4 {
            for (line, depth) in at.iter_mut().zip(&mut depths) {
                *depth = s.miss(LineNo(*line)).ahead;
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
        assert_eq!(s.miss(LineNo(2)).ahead, 4);
    }

    #[test]
    fn a_stream_goes_on_behind_lines_that_are_present() {
        let mut s = Streams::new(8);
        let _ = (s.miss(LineNo(0)), s.miss(LineNo(1)));
        // 2 came, 3 to 5 are here.
        s.fell_short(LineNo(1), 1, 3);
        s.stored(LineNo(4));
        assert_eq!(s.take_known().useful, 0, "not fetched ahead");
        assert_eq!(s.miss(LineNo(6)).ahead, 4);
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
        let _: Vec<Advice> = (0..8).map(|n| s.miss(LineNo(1000 * (n + 1)))).collect();
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
        assert!((0..50).all(|n| s.miss(LineNo(n)).ahead == 0));
    }

    #[test]
    fn a_stream_hops_over_what_another_thread_works_on() {
        // Two threads take turns at pieces of 16 lines.
        let mut s = Streams::new(16);
        let (mut misses, mut lines) = (0, 0);
        for piece in (0..6400).step_by(32) {
            let mut line = piece;
            while line < piece + 16 {
                let ahead = u64::from(s.miss(LineNo(line)).ahead);
                let here = ahead.min(piece + 15 - line);
                if here < ahead {
                    s.fell_short(LineNo(line), here as u32, 0);
                }
                (misses, lines) = (misses + 1, lines + 1 + here);
                line += 1 + here;
            }
        }
        assert_eq!(lines, 3200);
        assert!(misses <= 2 * 200 + 8, "{misses} misses for 200 pieces");
        // Not far, not backwards, and not what never was a stream.
        let last = 6399 - 16;
        assert!(
            [last + 200, last - 40]
                .iter()
                .all(|n| s.miss(LineNo(*n)).ahead == 0)
        );
        let mut s = Streams::new(16);
        assert!((0..50).all(|n| s.miss(LineNo(3 * n)).ahead == 0));
    }

    /// The run of lines that the next miss of a stream brings: whether as by a
    /// store. `stores`: the program stores to all that came clean.
    fn run(s: &mut Streams, line: &mut u64, stores: bool) -> bool {
        let advice = s.miss(LineNo(*line));
        if stores && !advice.stores {
            (1..=u64::from(advice.ahead)).for_each(|n| s.stored(LineNo(*line + n)));
        }
        *line += 1 + u64::from(advice.ahead);
        advice.stores
    }

    #[test]
    fn stores_are_expected_of_a_stream_that_stores() {
        let mut s = Streams::new(16);
        let mut line = 0;
        let runs: Vec<bool> = (0..36).map(|_| run(&mut s, &mut line, true)).collect();
        let clean = |n: &usize| !runs[*n];
        let clean: Vec<usize> = (0..runs.len()).filter(clean).collect();
        assert_eq!(clean, [0, 1, 18, 35], "the first two, and one in seventeen");
        // It stops to store: seen by the next run that comes clean.
        let runs: Vec<bool> = (0..40).map(|_| run(&mut s, &mut line, false)).collect();
        assert!(runs[18..].iter().all(|stores| !stores));
    }

    #[test]
    fn stores_are_not_expected_of_a_stream_that_loads() {
        let mut s = Streams::new(16);
        let mut line = 0;
        assert!((0..40).all(|_| !run(&mut s, &mut line, false)));
        // Few of the lines.
        for _ in 0..40 {
            assert!(!run(&mut s, &mut line, false));
            s.stored(LineNo(line - 1));
        }
    }
}
