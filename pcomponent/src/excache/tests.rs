//! The directory against a simple model, and its promises one by one.

use super::*;
use proptest::prelude::*;
use proto::process::Policy;
use std::collections::{HashMap, VecDeque};

fn cache(sets: u32, ways: u32, policy: Policy) -> ExCache {
    ExCache::new(
        Shape {
            line_shift: 12,
            sets,
            ways,
        },
        policy,
    )
    .unwrap()
}

fn fetch(cache: &ExCache, line: u64) -> Begin {
    let begin = cache.begin_fetch(LineNo(line));
    if let Begin::Fetch(slot) = begin {
        cache.finish_fetch(slot, false);
    }
    begin
}

#[test]
fn shapes_are_bounds() {
    let s = Shape::new(1 << 20, 4096, 64).unwrap();
    assert_eq!((s.sets, s.ways, s.lines()), (4, 64, 256));
    let odd = Shape::new(100 * 4096, 4096, 64).unwrap();
    assert!(odd.lines() <= 100);
    assert_eq!(Shape::new(40 * 4096, 4096, 64).unwrap().lines(), 40);
    assert!(matches!(
        Shape::new(1 << 20, 5000, 64),
        Err(ShapeError::Line(5000))
    ));
    assert!(matches!(
        Shape::new(1 << 20, 4096, 4),
        Err(ShapeError::Ways)
    ));
    assert!(matches!(
        Shape::new(0, 4096, 64),
        Err(ShapeError::Size { lines: 0, .. })
    ));
}

#[test]
fn a_line_being_fetched_is_busy_for_others() {
    let c = cache(1, 8, Policy::Fifo);
    let Begin::Fetch(slot) = c.begin_fetch(LineNo(7)) else {
        panic!("absent line")
    };
    assert_eq!(c.begin_fetch(LineNo(7)), Begin::Busy { evicting: false });
    assert!(!c.wait(LineNo(7), Duration::from_millis(1)));
    c.finish_fetch(slot, true);
    assert_eq!(c.begin_fetch(LineNo(7)), Begin::Resident { dirty: true });
}

#[test]
fn dirty_only_under_the_lock_and_only_while_resident() {
    let c = cache(1, 8, Policy::Fifo);
    fetch(&c, 1);
    assert_eq!(c.make_dirty(LineNo(1), || Err("no")), Err("no"));
    assert_eq!(c.begin_fetch(LineNo(1)), Begin::Resident { dirty: false });
    assert_eq!(c.make_dirty(LineNo(1), || Ok::<_, ()>(())), Ok(true));
    let victim = c.take(LineNo(1)).unwrap();
    assert!(victim.dirty);
    assert_eq!(c.make_dirty(LineNo(1), || Ok::<_, ()>(())), Ok(false));
    assert_eq!(c.begin_fetch(LineNo(1)), Begin::Busy { evicting: true });
    c.finish_evict(victim.slot);
    assert!(matches!(c.begin_fetch(LineNo(1)), Begin::Fetch(_)));
}

#[test]
fn a_batch_takes_one_line_of_each_full_set() {
    let c = cache(16, 8, Policy::Fifo);
    for line in 0..128 {
        assert!(matches!(fetch(&c, line), Begin::Fetch(_)));
    }
    assert_eq!(fetch(&c, 128), Begin::Full);
    let mut victims = Vec::new();
    c.pick_victims(LineNo(128), &anywhere(16), &mut victims);
    let mut lines: Vec<u64> = victims.iter().map(|v| v.line.0).collect();
    lines.sort_unstable();
    assert_eq!(lines, (0..16).collect::<Vec<_>>());
    victims.iter().for_each(|v| c.finish_evict(v.slot));
    assert_eq!(c.occupancy(), (112, 128));
    assert!(matches!(fetch(&c, 128), Begin::Fetch(_)));
}

/// Low sets give as many as they are short of, round and round; a line on its way
/// in is no room.
#[test]
fn a_batch_goes_round_the_low_sets() {
    // Low with fewer than nine free.
    let c = cache(16, 1024, Policy::Fifo);
    assert_eq!(c.shape().batch(), 64);
    (0..16 * 1024).for_each(|line| {
        fetch(&c, line);
    });
    let lines = |first: u64, most| {
        let mut victims = Vec::new();
        c.pick_victims(LineNo(first), &anywhere(most), &mut victims);
        victims.iter().for_each(|v| c.finish_evict(v.slot));
        let mut lines: Vec<_> = victims.iter().map(|v| v.line.0).collect();
        lines.sort_unstable();
        lines
    };
    assert_eq!(lines(0, 64), (0..64).collect::<Vec<_>>());
    assert_eq!(lines(0, 64), (64..128).collect::<Vec<_>>());
    // Eight are free in each: one is wanted, then none but of the set itself.
    assert_eq!(lines(0, 64), (128..144).collect::<Vec<_>>());
    assert_eq!(lines(3, 64), [147]);
    // Lines on their way into set 5 take its room.
    for n in 0..9 {
        let begun = c.begin_fetch(LineNo(100_005 + 16 * n));
        assert!(matches!(begun, Begin::Fetch(_)));
    }
    let own: Vec<_> = (9..18).map(|n| 5 + 16 * n).collect();
    assert_eq!(lines(5, 64), own);
}

fn anywhere(most: usize) -> Batch<'static> {
    Batch {
        most,
        dirty: Dirty::Anywhere,
    }
}

fn fetch_dirty(c: &ExCache, line: u64) {
    let Begin::Fetch(slot) = c.begin_fetch(LineNo(line)) else {
        panic!("line {line}");
    };
    c.finish_fetch(slot, true);
}

fn numbers(victims: &[Victim]) -> Vec<u64> {
    victims.iter().map(|v| v.line.0).collect()
}

#[test]
fn dirty_victims_lie_in_one_neighbourhood() {
    let c = cache(64, 16, Policy::Fifo);
    (0..64).for_each(|line| fetch_dirty(&c, line));
    for line in 64..1024 {
        assert!(matches!(fetch(&c, line), Begin::Fetch(_)));
    }
    assert_eq!(c.occupancy().0, 1024);
    let around = |line: LineNo| (LineNo(line.0 / 32 * 32), LineNo(line.0 / 32 * 32 + 32));
    let near = Batch {
        most: 40,
        dirty: Dirty::Near(&around),
    };
    // All sets' oldest lines are dirty: those of the first one's neighbourhood.
    let mut victims = Vec::new();
    c.pick_victims(LineNo(1024 + 40), &near, &mut victims);
    let expected: Vec<_> = (40..64).chain((32..40).rev()).collect();
    assert_eq!(numbers(&victims), expected);
    assert!(victims.iter().all(|v| v.dirty));
    victims.drain(..).for_each(|v| c.finish_evict(v.slot));
    assert_eq!(c.occupancy().0, 1024 - 32);
    c.pick_victims(LineNo(1024), &near, &mut victims);
    assert_eq!(numbers(&victims), (0..32).collect::<Vec<_>>());
    victims.drain(..).for_each(|v| c.finish_evict(v.slot));
    // The oldest are clean now: wherever they are.
    for line in 1024..1088 {
        assert!(matches!(fetch(&c, line), Begin::Fetch(_)));
    }
    c.pick_victims(LineNo(0), &near, &mut victims);
    assert_eq!(numbers(&victims), (64..104).collect::<Vec<_>>());
    assert!(victims.iter().all(|v| !v.dirty));
}

#[test]
fn young_neighbours_stay() {
    let c = cache(4, 16, Policy::Fifo);
    // In each set: fourteen lines, then two of another place.
    for line in (1000..1056).chain(0..8) {
        fetch_dirty(&c, line);
    }
    let all = |_: LineNo| (LineNo(0), LineNo(2000));
    let near = Batch {
        most: 64,
        dirty: Dirty::Near(&all),
    };
    let mut victims = Vec::new();
    c.pick_victims(LineNo(1), &near, &mut victims);
    assert!(victims.len() > 8, "{victims:?}");
    assert!(victims.iter().all(|v| v.line.0 >= 1000), "{victims:?}");
}

#[test]
fn reuse_spares_what_came_back() {
    let c = cache(1, 8, Policy::Reuse);
    let evict_one = || {
        let mut victims = Vec::new();
        c.pick_victims(LineNo(0), &anywhere(1), &mut victims);
        victims.iter().for_each(|v| c.finish_evict(v.slot));
        victims.first().map(|v| v.line.0)
    };
    (0..8).for_each(|line| {
        fetch(&c, line);
    });
    assert_eq!(evict_one(), Some(0));
    fetch(&c, 0); // came back: spared once
    for expected in 1..8 {
        assert_eq!(evict_one(), Some(expected));
        fetch(&c, 100 + expected);
    }
    assert_eq!(c.spared(), 0);
    assert_eq!(evict_one(), Some(101), "line 0 was oldest but is spared");
    assert_eq!(c.spared(), 1);
}

#[test]
fn ranges_are_taken_either_way() {
    for far in [300u64, 1 << 30] {
        let c = cache(4, 8, Policy::Random);
        (0..32).for_each(|line| {
            fetch(&c, line * 3 % 32);
        });
        let mut victims = Vec::new();
        c.take_range(LineNo(10), LineNo(far), &mut victims);
        assert_eq!(victims.len(), 22);
        assert_eq!((0..32).filter(|n| c.holds(LineNo(*n))).count(), 10);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// FIFO against a queue per set: same residents, same victims, never more
    /// lines than the shape has.
    #[test]
    fn fifo_is_a_queue(lines in prop::collection::vec(0u64..200, 1..600)) {
        let c = cache(4, 8, Policy::Fifo);
        let mut model: HashMap<u64, VecDeque<u64>> = HashMap::new();
        for line in lines {
            let queue = model.entry(line % 4).or_default();
            match c.begin_fetch(LineNo(line)) {
                Begin::Resident { .. } => prop_assert!(queue.contains(&line)),
                Begin::Fetch(slot) => {
                    prop_assert!(!queue.contains(&line) && queue.len() < 8);
                    queue.push_back(line);
                    c.finish_fetch(slot, line % 2 == 0);
                }
                Begin::Full => {
                    prop_assert!(queue.len() == 8);
                    let mut victims = Vec::new();
                    c.pick_victims(LineNo(line), &anywhere(1), &mut victims);
                    prop_assert_eq!(victims.len(), 1);
                    prop_assert_eq!(queue.pop_front(), Some(victims[0].line.0));
                    prop_assert_eq!(victims[0].dirty, victims[0].line.0 % 2 == 0);
                    c.finish_evict(victims[0].slot);
                }
                Begin::Busy { .. } => prop_assert!(false, "nobody else is here"),
            }
            prop_assert!(c.occupancy().0 <= c.shape().lines());
        }
        let held: usize = model.values().map(VecDeque::len).sum();
        prop_assert_eq!(c.occupancy().0, held as u64);
    }
}

/// What a line is, as the directory should know it.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Is {
    Fetching(Slot),
    Resident(bool),
    Evicting(Victim),
}

/// The directory of 3 sets of 8 and what it should hold.
struct Checked {
    cache: ExCache,
    lines: HashMap<u64, Is>,
}

impl Checked {
    fn in_set(&self, line: u64) -> impl Iterator<Item = Is> + '_ {
        let same = move |(n, _): &(&u64, &Is)| **n % 3 == line % 3;
        self.lines.iter().filter(same).map(|(_, is)| *is)
    }

    fn begin(&mut self, line: u64) {
        let full = self.in_set(line).count() == 8;
        let begun = self.cache.begin_fetch(LineNo(line));
        match (self.lines.get(&line), begun) {
            (None, Begin::Fetch(slot)) if !full => {
                self.lines.insert(line, Is::Fetching(slot));
            }
            (None, begun) => assert!(full && begun == Begin::Full, "{line}: {begun:?}"),
            (Some(Is::Fetching(_)), begun) => assert_eq!(begun, Begin::Busy { evicting: false }),
            (Some(&Is::Resident(dirty)), begun) => assert_eq!(begun, Begin::Resident { dirty }),
            (Some(Is::Evicting(_)), begun) => assert_eq!(begun, Begin::Busy { evicting: true }),
        }
    }

    /// Ends what `line` is busy with, one way or the other.
    fn end(&mut self, line: u64, well: bool, dirty: bool) {
        let now = match self.lines.get(&line) {
            Some(&Is::Fetching(slot)) if well => {
                self.cache.finish_fetch(slot, dirty);
                Some(Is::Resident(dirty))
            }
            Some(&Is::Fetching(slot)) => {
                self.cache.abandon(slot);
                None
            }
            Some(&Is::Evicting(victim)) => {
                self.cache.finish_evict(victim.slot);
                None
            }
            other => other.copied(),
        };
        self.lines.remove(&line);
        self.lines.extend(now.map(|now| (line, now)));
    }

    fn took(&mut self, victim: Victim) {
        let before = self.lines.insert(victim.line.0, Is::Evicting(victim));
        assert_eq!(before, Some(Is::Resident(victim.dirty)));
    }

    fn take(&mut self, line: u64) {
        let taken = self.cache.take(LineNo(line));
        let resident = matches!(self.lines.get(&line), Some(Is::Resident(_)));
        assert_eq!(taken.is_some(), resident);
        taken.into_iter().for_each(|victim| self.took(victim));
    }

    fn pick(&mut self, line: u64, most: usize, near: bool) {
        let around = |line: LineNo| (LineNo(line.0 / 16 * 16), LineNo(line.0 / 16 * 16 + 16));
        let dirty = if near {
            Dirty::Near(&around)
        } else {
            Dirty::Anywhere
        };
        let could = self.in_set(line).any(|is| matches!(is, Is::Resident(_)));
        let mut victims = Vec::new();
        let batch = Batch { most, dirty };
        self.cache.pick_victims(LineNo(line), &batch, &mut victims);
        assert!(victims.len() <= most && (!could || !victims.is_empty()));
        victims.into_iter().for_each(|victim| self.took(victim));
    }

    fn check(&self) {
        assert_eq!(self.cache.occupancy().0, self.lines.len() as u64);
        for line in 0..48 {
            let expected = match self.lines.get(&line) {
                Some(&Is::Resident(dirty)) => Some(dirty),
                _ => None,
            };
            assert_eq!(self.cache.look(LineNo(line)), expected, "line {line}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    /// Every state and every way out of it, by all policies.
    #[test]
    fn states_are_as_drawn(
        policy in prop::sample::select(vec![
            Policy::Fifo, Policy::Random, Policy::Reuse, Policy::Adaptive,
        ]),
        steps in prop::collection::vec((0u8..8, 0u64..48, any::<bool>(), any::<bool>()), 0..500),
    ) {
        let mut checked = Checked { cache: cache(3, 8, policy), lines: HashMap::new() };
        for (what, line, a, b) in steps {
            match what {
                0..4 => checked.begin(line),
                4..6 => checked.end(line, a, b),
                6 => checked.take(line),
                _ => checked.pick(line, 1 + line as usize % 12, a),
            }
            checked.check();
        }
        // Whatever is left goes in its turn.
        for set in 0..3 {
            (0..8).for_each(|_| checked.pick(set, 1, false));
        }
        let stays = checked.lines.values().any(|is| matches!(is, Is::Resident(_)));
        prop_assert!(!stays);
        checked.check();
    }
}

/// Many threads read, write and evict the same few lines. Each line has a
/// value at "home" and one in the "frame"; whoever owns the busy line moves
/// it. A lost update would show as a sum that is too small.
#[test]
fn no_update_is_lost_with_many_threads() {
    use std::sync::atomic::AtomicU64;
    const LINES: usize = 24;
    const ROUNDS: u64 = 3000;
    let c = cache(1, 8, Policy::Fifo);
    let home: Vec<AtomicU64> = (0..LINES).map(|_| AtomicU64::new(0)).collect();
    let frame: Vec<AtomicU64> = (0..LINES).map(|_| AtomicU64::new(u64::MAX)).collect();
    let evict = |victims: &[Victim]| {
        for v in victims {
            let n = v.line.0 as usize;
            let value = frame[n].swap(u64::MAX, Ordering::SeqCst);
            if v.dirty {
                home[n].store(value, Ordering::SeqCst);
            } else {
                assert_eq!(home[n].load(Ordering::SeqCst), value);
            }
            c.finish_evict(v.slot);
        }
    };
    let add_one = |line: usize| loop {
        match c.begin_fetch(LineNo(line as u64)) {
            Begin::Fetch(slot) => {
                frame[line].store(home[line].load(Ordering::SeqCst), Ordering::SeqCst);
                c.finish_fetch(slot, false);
            }
            Begin::Resident { .. } => {
                // The program's store: only while resident, as the MMU has it.
                let stored = c.make_dirty(LineNo(line as u64), || Ok::<_, ()>(()));
                let Some(victim) = c.take(LineNo(line as u64)) else {
                    continue;
                };
                assert!(stored.is_ok());
                frame[line].fetch_add(1, Ordering::SeqCst);
                evict(&[Victim {
                    dirty: true,
                    ..victim
                }]);
                return;
            }
            Begin::Busy { .. } => assert!(c.wait(LineNo(line as u64), Duration::from_secs(10))),
            Begin::Full => {
                let mut victims = Vec::new();
                c.pick_victims(LineNo(line as u64), &anywhere(4), &mut victims);
                evict(&victims);
                if victims.is_empty() {
                    assert!(c.wait_room(LineNo(line as u64), Duration::from_secs(10)));
                }
            }
        }
    };
    std::thread::scope(|s| {
        for t in 0..4u64 {
            let add_one = &add_one;
            s.spawn(move || {
                let mut x = t + 1;
                for _ in 0..ROUNDS {
                    x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    add_one((x >> 33) as usize % LINES);
                }
            });
        }
    });
    let mut victims = Vec::new();
    c.take_range(LineNo(0), LineNo(LINES as u64), &mut victims);
    evict(&victims);
    let sum: u64 = home.iter().map(|h| h.load(Ordering::SeqCst)).sum();
    assert_eq!(sum, 4 * ROUNDS);
}

/// Touches a line as a program does: whether it was a miss.
fn touch(c: &ExCache, line: u64) -> bool {
    loop {
        match fetch(c, line) {
            Begin::Fetch(_) => return true,
            Begin::Full => {
                let mut victims = Vec::new();
                c.pick_victims(LineNo(line), &anywhere(16), &mut victims);
                victims.iter().for_each(|v| c.finish_evict(v.slot));
            }
            _ => return false,
        }
    }
}

/// Misses of one round through `lines`.
fn round(c: &ExCache, lines: std::ops::Range<u64>) -> u64 {
    lines.map(|line| u64::from(touch(c, line))).sum()
}

#[test]
fn adaptive_keeps_most_of_a_loop_that_does_not_fit() {
    let misses = |policy| {
        let c = cache(15, 64, policy);
        (0..10).for_each(|_| {
            round(&c, 0..1000);
        });
        (0..100).map(|_| round(&c, 0..1000)).sum::<u64>() / 100
    };
    assert_eq!(misses(Policy::Fifo), 1000);
    // 960 lines fit; some 5 ways of each set let the others pass.
    let adaptive = misses(Policy::Adaptive);
    assert!((40..150).contains(&adaptive), "{adaptive} misses a round");
}

#[test]
fn what_passes_through_is_one_stretch() {
    let c = cache(15, 64, Policy::Adaptive);
    (0..500).for_each(|_| {
        round(&c, 0..1000);
    });
    let missed: Vec<bool> = (0..1000).map(|line| touch(&c, line)).collect();
    let starts = missed.windows(2).filter(|w| !w[0] && w[1]).count();
    let misses = missed.iter().filter(|m| **m).count();
    assert!(
        starts * 4 < misses,
        "{misses} misses in {starts} stretches: nothing to fetch ahead"
    );
}

#[test]
fn adaptive_lets_go_of_a_loop_that_is_over() {
    let c = cache(15, 64, Policy::Adaptive);
    (0..200).for_each(|_| {
        round(&c, 0..1000);
    });
    // What comes next fits, once the old lines have been found useless.
    let misses: Vec<u64> = (0..60).map(|_| round(&c, 10_000..10_800)).collect();
    assert_eq!(misses.last(), Some(&0), "{misses:?}");
}

#[test]
fn adaptive_is_fifo_where_nothing_comes_back() {
    let (a, b) = (cache(4, 8, Policy::Adaptive), cache(4, 8, Policy::Fifo));
    // The newest line of the stream, one of long ago, one of just now.
    for n in 0..5000u64 {
        for line in [n, n.saturating_sub(200), n.saturating_sub(20)] {
            assert_eq!(touch(&a, line), touch(&b, line), "line {line} at {n}");
        }
    }
}
