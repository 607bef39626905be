//! Streams of misses, per thread: ascending, descending or strided. How many
//! lines to fetch ahead, whether they will be stored to, and what is known of
//! the use of those that were fetched.
//!
//! A cache that holds part of what a program goes through sees gaps: lines that
//! are here, or that another thread works on, are not missed. A miss near the
//! end of a stream goes on with it if all lines between are here.

use crate::excache::LineNo;

const STREAMS: usize = 8;
/// Lines between two misses of one stream, at most.
const GAP: u64 = 16;
/// The same where the lines between are not here: another thread works on them.
const HOP: u64 = 64;
/// If the stream has fetched so many lines at once: random misses have not.
const HOPS: u32 = 8;

#[derive(Clone, Copy)]
struct Stream {
    /// The last line that was missed, fetched ahead or found here.
    last: u64,
    /// From a line to the next; 0: not known yet.
    step: i64,
    /// The distance of the last two misses.
    moved: i64,
    /// Lines to fetch ahead.
    depth: u32,
    /// The lines that were fetched ahead last lie between these, ...
    within: (u64, u64),
    /// ... so many.
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

/// How a miss goes on with a stream.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Move {
    /// The line that comes next, or all between are here.
    On(i64),
    /// It is close, no more; the distance may be the stride.
    Near,
    /// Well ahead.
    Hop,
}

impl Stream {
    /// That begins with a miss of `line`.
    fn at(line: u64, used: u64) -> Stream {
        Stream {
            last: line,
            step: 0,
            moved: 0,
            depth: 0,
            within: (0, 0),
            ahead: 0,
            open: 0,
            stored: 0,
            stores: false,
            trusted: 0,
            used,
        }
    }

    /// From its last line to `line`.
    fn distance(&self, line: u64) -> i64 {
        line.wrapping_sub(self.last).cast_signed()
    }

    /// Whether `line` may be its next; the nearest stream's it is.
    fn reaches(&self, line: u64) -> bool {
        let distance = self.distance(line);
        let forward = self.step == 0 || distance.signum() == self.step.signum();
        let most = match (self.depth >= HOPS, self.step) {
            (true, 1 | -1) => HOP,
            _ => GAP,
        };
        distance != 0 && forward && distance.unsigned_abs() <= most
    }

    fn by(&self, line: u64, here: impl Fn(LineNo) -> bool) -> Move {
        let distance = self.distance(line);
        let on = if self.step == 0 { 1 } else { self.step };
        if distance == on {
            return Move::On(on);
        }
        let sign = distance.signum();
        let plain = self.step == 0 || self.step == sign;
        let mut between = (1..distance.unsigned_abs().min(GAP + 1)).map(|n| {
            let n = n.cast_signed() * sign;
            LineNo(self.last.wrapping_add_signed(n))
        });
        if plain && distance.unsigned_abs() <= GAP && between.all(here) {
            return Move::On(sign);
        }
        if self.step == 0 && distance == self.moved {
            return Move::On(distance);
        }
        if self.depth >= HOPS {
            Move::Hop
        } else {
            Move::Near
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
    /// So many lines had better come with it, ...
    pub ahead: u32,
    /// ... at this distance from one to the next, ...
    pub step: i64,
    /// ... and all of them as by a store.
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

/// A few streams, the least recently moved replaced. A program that reads one
/// array and writes another keeps both.
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
            streams: [Stream::at(u64::MAX / 2, 0); STREAMS],
            clock: 0,
            most,
            known: Known::default(),
        }
    }

    /// A miss of `line`; `here`: whether a line is in the cache. The depth
    /// doubles with each miss that continues a stream; such a miss shows that
    /// the program went through the lines that were fetched last. It is halved
    /// where the stream hops.
    pub(super) fn miss(&mut self, line: LineNo, here: impl Fn(LineNo) -> bool) -> Advice {
        if self.most == 0 {
            return Advice::default();
        }
        self.clock += 1;
        let (clock, most) = (self.clock, self.most);
        let reached = self.streams.iter_mut().filter(|s| s.reaches(line.0));
        let Some(s) = reached.min_by_key(|s| s.distance(line.0).unsigned_abs()) else {
            if let Some(oldest) = self.streams.iter_mut().min_by_key(|s| s.used) {
                self.known.wasted += u64::from(oldest.open);
                *oldest = Stream::at(line.0, clock);
            }
            return Advice::default();
        };
        let (moved, by) = (s.distance(line.0), s.by(line.0, here));
        (s.moved, s.last, s.used) = (moved, line.0, clock);
        match by {
            Move::On(step) => {
                self.known.useful += u64::from(s.open);
                s.learn();
                // The first sign of anything but the next line is no proof.
                let known = s.step == step || (step == 1 && moved == 1) || step.abs() > 1;
                s.step = step;
                s.depth = if known {
                    (s.depth * 2).max(2).min(most)
                } else {
                    0
                };
            }
            Move::Hop => {
                s.learn();
                // It may lead nowhere.
                s.depth /= 2;
            }
            Move::Near => {
                self.known.wasted += u64::from(s.open);
                *s = Stream {
                    moved,
                    ..Stream::at(line.0, clock)
                };
            }
        }
        (s.ahead, s.open) = (0, 0);
        Advice {
            ahead: s.depth,
            step: s.step,
            stores: s.stores,
        }
    }

    /// Whether `line` may be the next of a stream.
    pub(super) fn expects(&self, line: LineNo) -> bool {
        self.streams.iter().any(|s| s.reaches(line.0))
    }

    /// After a miss that had advice: so many lines come with it; they, and what
    /// was here already, reach from `line` to `last`.
    pub(super) fn comes(&mut self, line: LineNo, last: LineNo, ahead: u32) {
        let clock = self.clock;
        if let Some(s) = self.streams.iter_mut().find(|s| s.used == clock) {
            s.within = if line < last {
                (line.0 + 1, last.0)
            } else {
                (last.0, line.0.saturating_sub(1))
            };
            (s.last, s.ahead, s.open) = (last.0, ahead, ahead);
        }
    }

    /// The first store to `line`, which was here: if it was fetched ahead, it
    /// was to some purpose.
    pub(super) fn stored(&mut self, line: LineNo) {
        let ahead = |s: &&mut Stream| {
            let on_its_way = s.step != 0 && s.distance(line.0) % s.step == 0;
            s.open > 0 && (s.within.0..=s.within.1).contains(&line.0) && on_its_way
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

    /// A miss of `line` where nothing is here and all comes that is advised:
    /// how many lines ahead.
    fn miss(s: &mut Streams, line: u64) -> u32 {
        miss_beside(s, line, |_| false).0
    }

    /// The same beside lines that are `here`: how many lines, to the last one.
    fn miss_beside(s: &mut Streams, line: u64, here: impl Fn(u64) -> bool) -> (u32, u64) {
        let advice = s.miss(LineNo(line), |n| here(n.0));
        let (mut last, mut got) = (line, 0);
        while got < advice.ahead {
            last = last.wrapping_add_signed(advice.step);
            got += u32::from(!here(last));
        }
        if advice.ahead > 0 {
            s.comes(LineNo(line), LineNo(last), got);
        }
        (got, last)
    }

    #[test]
    fn depth_doubles_along_a_stream_up_to_the_most() {
        let mut s = Streams::new(16);
        for (step, from) in [(1, 100_u64), (-1, 90_000)] {
            let (mut line, mut depths) = (from, Vec::new());
            for _ in 0..6 {
                let ahead = miss(&mut s, line);
                depths.push(ahead);
                line = line.wrapping_add_signed(step * i64::from(1 + ahead));
            }
            let slow = if step < 0 { 1 } else { 0 };
            assert_eq!(depths[slow..], [0, 2, 4, 8, 16, 16][..6 - slow], "{step}");
        }
    }

    #[test]
    fn random_misses_fetch_nothing_ahead() {
        let mut s = Streams::new(16);
        let line = |n: u64| n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 44;
        let ahead: u32 = (0..10_000).map(|n| miss(&mut s, line(n * n))).sum();
        assert!(ahead < 20, "{ahead} lines");
    }

    #[test]
    fn two_interleaved_streams_are_both_seen() {
        let mut s = Streams::new(4);
        let mut at = [10u64, 100_000];
        let mut depths = [0; 2];
        for _ in 0..4 {
            for (line, depth) in at.iter_mut().zip(&mut depths) {
                *depth = miss(&mut s, *line);
                *line += 1 + u64::from(*depth);
            }
        }
        assert_eq!(depths, [4, 4]);
    }

    #[test]
    fn a_stride_is_seen() {
        for stride in [3_i64, -5, 16] {
            let mut s = Streams::new(16);
            let mut line = 10_000_u64;
            let mut misses = 0;
            while line.abs_diff(10_000) < 100 * stride.unsigned_abs() {
                misses += 1;
                let (_, last) = miss_beside(&mut s, line, |_| false);
                assert!(last.abs_diff(10_000).is_multiple_of(stride.unsigned_abs()));
                line = last.wrapping_add_signed(stride);
            }
            assert!(misses < 13, "stride {stride}: {misses} misses");
        }
    }

    #[test]
    fn a_stream_goes_on_behind_lines_that_are_here() {
        // Two of three lines are here already.
        let here = |n: u64| !n.is_multiple_of(3);
        for up in [true, false] {
            let mut s = Streams::new(16);
            let (mut line, mut misses, mut lines) = (90_000_u64, 0, 0);
            while line.abs_diff(90_000) < 3000 {
                misses += 1;
                let (got, last) = miss_beside(&mut s, line, here);
                lines += 1 + got;
                let next = |n: u64| if up { n + 1 } else { n - 1 };
                line = next(last);
                while here(line) {
                    line = next(line);
                }
            }
            assert!(
                lines >= 1000 && misses < 70,
                "{misses} misses, {lines} lines"
            );
        }
    }

    #[test]
    fn what_did_not_come_is_missed_and_the_stream_goes_on() {
        let mut s = Streams::new(8);
        let _ = (miss(&mut s, 0), s.miss(LineNo(1), |_| false));
        s.comes(LineNo(1), LineNo(1), 0);
        assert_eq!(miss(&mut s, 2), 4);
        assert_eq!(s.take_known(), Known::default());
    }

    #[test]
    fn lines_are_useful_where_the_stream_goes_on_behind_them() {
        let mut s = Streams::new(16);
        let _ = [0, 1, 4, 9].map(|n| miss(&mut s, n));
        // 2 and 3, then 5 to 8; of 10 to 17 nothing is known yet.
        let known = |useful, wasted| Known { useful, wasted };
        assert_eq!(s.take_known(), known(6, 0));
        let _: Vec<u32> = (0..8).map(|n| miss(&mut s, 1000 * (n + 1))).collect();
        assert_eq!(s.take_known(), known(0, 8));
    }

    #[test]
    fn a_line_that_is_stored_to_is_counted_once() {
        let mut s = Streams::new(16);
        let _ = [0, 1].map(|n| miss(&mut s, n));
        s.stored(LineNo(2));
        s.stored(LineNo(1)); // missed, not fetched ahead
        s.stored(LineNo(4)); // not here
        assert_eq!(s.take_known().useful, 1);
        let _ = miss(&mut s, 4);
        assert_eq!(s.take_known().useful, 1, "the other of the two");
    }

    #[test]
    fn off_is_off() {
        let mut s = Streams::new(0);
        assert!((0..50).all(|n| miss(&mut s, n) == 0));
    }

    #[test]
    fn a_stream_hops_over_what_another_thread_works_on() {
        // Two threads take turns at pieces of 16 lines.
        let mut s = Streams::new(16);
        let (mut misses, mut lines) = (0, 0);
        for piece in (0..6400_u64).step_by(32) {
            let mut line = piece;
            while line < piece + 16 {
                let ahead = u64::from(s.miss(LineNo(line), |_| false).ahead);
                let got = ahead.min(piece + 15 - line);
                if ahead > 0 {
                    s.comes(LineNo(line), LineNo(line + got), got as u32);
                }
                (misses, lines) = (misses + 1, lines + 1 + got);
                line += 1 + got;
            }
        }
        assert_eq!(lines, 3200);
        assert!(misses <= 2 * 200 + 10, "{misses} misses for 200 pieces");
        // Not far, and not backwards.
        assert_eq!([6400 + 200, 6400 - 40].map(|n| miss(&mut s, n)), [0, 0]);
    }

    /// The run of lines that the next miss of a stream brings: whether as by a
    /// store. `stores`: the program stores to all that came clean.
    fn run(s: &mut Streams, line: &mut u64, stores: bool) -> bool {
        let advice = s.miss(LineNo(*line), |_| false);
        let last = *line + u64::from(advice.ahead);
        if advice.ahead > 0 {
            s.comes(LineNo(*line), LineNo(last), advice.ahead);
        }
        if stores && !advice.stores {
            (*line + 1..=last).for_each(|n| s.stored(LineNo(n)));
        }
        *line = last + 1;
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
