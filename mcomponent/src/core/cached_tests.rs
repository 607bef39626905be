//! A cached file driven as threads would drive it, against its plain content.

use super::*;
use proptest::prelude::*;
use proto::store::FileId;

const E: u64 = EXTENT_SIZE;

/// Places where something can go wrong: edges of pages, of extents.
fn place() -> impl Strategy<Value = u64> {
    prop_oneof![
        0..20_u64,
        (PAGE_SIZE - 5..PAGE_SIZE + 5),
        (E - 9..E + 9),
        (E + PAGE_SIZE..E + PAGE_SIZE + 3),
        (2 * E - 3..2 * E + 3),
    ]
}

#[derive(Clone, Debug)]
enum Op {
    Write(u64, u64),
    Read(u64, u64),
    /// Ends the fill that is on its way, well or not.
    EndFill(bool),
    /// Begins to write a run back.
    Flush,
    /// Ends it: well, refused for now, refused for ever.
    EndFlush(u8),
    Cut(u64),
    Evict(u64),
    /// Somebody else writes to the file at storage.
    Outside(u64),
    Look,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (place(), 1..9_u64).prop_map(|(at, n)| Op::Write(at, n)),
        4 => (place(), 1..9_u64).prop_map(|(at, n)| Op::Read(at, n)),
        4 => prop_oneof![9 => Just(true), 1 => Just(false)].prop_map(Op::EndFill),
        3 => Just(Op::Flush),
        3 => prop_oneof![6 => Just(0_u8), 1 => Just(1)].prop_map(Op::EndFlush),
        1 => place().prop_map(Op::Cut),
        2 => (0..3_u64).prop_map(Op::Evict),
        1 => place().prop_map(Op::Outside),
        1 => Just(Op::Look),
    ]
}

/// Sparse bytes: zeros are not kept.
type Bytes = BTreeMap<u64, u8>;

#[derive(Default)]
struct World {
    stored: Bytes,
    stored_size: u64,
    clock: i64,
    frames: Bytes,
    filling: Option<(u64, Fill, Bytes)>,
    running: Option<(Run, Bytes)>,
    charged: u64,
    /// What a reader must see.
    content: Bytes,
}

fn part(bytes: &Bytes, range: Range<u64>) -> Bytes {
    bytes.range(range).map(|(k, v)| (*k, *v)).collect()
}

fn clear(bytes: &mut Bytes, range: Range<u64>) {
    bytes.retain(|at, _| !range.contains(at));
}

impl World {
    fn attr(&self) -> Attr {
        let time = Timespec {
            sec: self.clock,
            nsec: 0,
        };
        Attr {
            id: FileId { dev: 1, ino: 1 },
            mode: 0,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            size: self.stored_size,
            blksize: 0,
            blocks: 0,
            atime: time,
            mtime: time,
            ctime: time,
            btime: time,
        }
    }

    fn drop_frames(&mut self, dropped: &Dropped) {
        for n in &dropped.extents {
            clear(&mut self.frames, n * E..(n + 1) * E);
        }
        self.charged -= dropped.charge;
        if let Some((n, from)) = dropped.tail {
            clear(&mut self.frames, n * E + from..(n + 1) * E);
        }
    }

    /// Begins a fill if one is needed and none is on its way.
    fn need(&mut self, cached: &mut Cached, at: u64, end: u64) -> bool {
        for n in extents_of(at, end) {
            if cached.look(n, 0) == Presence::Absent && self.filling.is_none() {
                let fill = cached.begin_fill(n, 0);
                self.charged += fill.charge;
                // Storage answers now, the bytes are installed at the end.
                let bytes = part(&self.stored, fill.start..fill.start + fill.len);
                self.filling = Some((n, fill, bytes));
            }
        }
        cached.has_all(at, end)
    }

    fn end_fill(&mut self, cached: &mut Cached, well: bool) {
        let Some((n, fill, bytes)) = self.filling.take() else {
            return;
        };
        self.frames.extend(bytes);
        if !cached.end_fill(n, fill.ticket, well) {
            clear(&mut self.frames, n * E..(n + 1) * E);
            self.charged -= fill.charge;
        }
    }

    fn end_flush(&mut self, cached: &mut Cached, how: u8) {
        let Some((run, bytes)) = self.running.take() else {
            return;
        };
        if how == 0 {
            self.clock += 1;
            clear(&mut self.stored, run.start..run.start + run.len);
            self.stored.extend(bytes);
            self.stored_size = self.stored_size.max(run.start + run.len);
            cached.handle_stored(&self.attr());
        } else {
            cached.handle_refused(Errno::EIO, false);
        }
    }

    fn step(&mut self, cached: &mut Cached, op: &Op, value: u8) {
        match *op {
            Op::Write(at, len) => {
                let end = at + len;
                if !self.need(cached, at, end) {
                    return;
                }
                self.charged += cached.growth(at, end);
                for n in at..end {
                    self.frames.insert(n, value);
                    self.content.insert(n, value);
                }
                cached.handle_written(at, end, Timespec { sec: 1, nsec: 0 });
            }
            Op::Read(at, len) => {
                let end = (at + len).min(cached.size());
                if at < end && self.need(cached, at, end) {
                    assert_eq!(part(&self.frames, at..end), part(&self.content, at..end));
                }
            }
            Op::EndFill(well) => self.end_fill(cached, well),
            Op::Flush if self.running.is_none() => {
                if let Some(run) = cached.poll_write(1 << 20) {
                    assert!(run.len > 0, "a dirty page lies within the file");
                    let bytes = part(&self.frames, run.start..run.start + run.len);
                    self.running = Some((run, bytes));
                }
            }
            Op::Flush => {}
            Op::EndFlush(how) => self.end_flush(cached, how),
            Op::Cut(len) => {
                self.end_flush(cached, 1);
                self.clock += 1;
                clear(&mut self.stored, len..u64::MAX);
                clear(&mut self.content, len..u64::MAX);
                self.stored_size = len;
                let dropped = cached.handle_cut(len, &self.attr());
                self.drop_frames(&dropped);
            }
            Op::Evict(n) => {
                if let Some(charge) = cached.evict(n) {
                    self.drop_frames(&Dropped {
                        extents: vec![n],
                        charge,
                        tail: None,
                    });
                }
            }
            Op::Outside(at) => {
                // Only while nobody writes here: else the last write wins.
                if !cached.is_dirty() {
                    self.clock += 1;
                    self.stored.insert(at, value);
                    self.stored_size = self.stored_size.max(at + 1);
                    cached.handle_seen(&self.attr());
                    self.look(cached);
                }
            }
            Op::Look => {
                cached.handle_seen(&self.attr());
                self.look(cached);
            }
        }
    }

    /// What a request does before it uses the data.
    fn look(&mut self, cached: &mut Cached) {
        if cached.poll_stale() {
            let dropped = cached.handle_attr(&self.attr(), |_| false);
            self.drop_frames(&dropped);
            self.content = self.stored.clone();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 1500, failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn readers_see_what_was_written(ops in proptest::collection::vec(op(), 1..80)) {
        let mut world = World::default();
        let mut cached = Cached::new(&world.attr());
        for (n, op) in ops.iter().enumerate() {
            world.step(&mut cached, op, (n + 1) as u8);
            let held: u64 = cached.extents.values().map(|e| e.charged).sum();
            prop_assert_eq!(held, world.charged, "what is charged is taken");
            let most = cached.size();
            prop_assert!(world.content.keys().all(|at| *at < most));
            for (index, extent) in &cached.extents {
                if extent.filling.is_none() {
                    let past = most.clamp(index * E, (index + 1) * E)..(index + 1) * E;
                    prop_assert!(part(&world.frames, past).is_empty(), "zeros past the end");
                }
            }
        }
        // In the end everything reaches storage.
        world.end_fill(&mut cached, true);
        world.end_flush(&mut cached, 0);
        while cached.is_dirty() {
            world.step(&mut cached, &Op::Flush, 0);
            world.end_flush(&mut cached, 0);
        }
        prop_assert_eq!(&world.stored, &world.content);
        prop_assert_eq!(world.stored_size, cached.size());
    }
}

#[test]
fn reading_in_sequence_goes_ever_further_ahead() {
    let mut world = World {
        stored_size: 20 * E,
        ..World::default()
    };
    let mut cached = Cached::new(&world.attr());
    let asked: Vec<Range<u64>> = (0..6).map(|n| cached.poll_ahead(n..=n)).collect();
    assert_eq!(asked, [1..1, 2..3, 3..5, 4..8, 5..9, 6..10]);
    assert!(cached.poll_ahead(5..=5).is_empty(), "the same again");
    assert!(cached.poll_ahead(11..=11).is_empty(), "a jump");
    assert_eq!(cached.poll_ahead(12..=12), 13..14);
    assert_eq!(cached.poll_ahead(13..=15), 16..18, "several at once");
    assert_eq!(cached.poll_ahead(16..=16), 17..20);
    for again in [16..=16, 14..=15, 13..=13] {
        assert!(cached.poll_ahead(again).is_empty());
    }
    assert_eq!(
        cached.poll_ahead(16..=17),
        18..20,
        "overlapping, and further"
    );
    assert!(cached.poll_ahead(0..=0).is_empty(), "from the beginning");
    assert_eq!(cached.poll_ahead(1..=1), 2..3);
    let mut whole = Cached::new(&world.attr());
    assert_eq!(whole.poll_ahead(0..=9), 10..14, "read in sequence before");
    world.stored_size = E;
    assert!(Cached::new(&world.attr()).poll_ahead(0..=0).is_empty());
}

#[test]
fn what_is_ready_ends_at_a_hole_a_fill_or_the_end() {
    let world = World {
        stored_size: 5 * E + 1,
        ..World::default()
    };
    let mut cached = Cached::new(&world.attr());
    for n in [0, 1, 2, 4, 5] {
        let fill = cached.begin_fill(n, 0);
        assert!(n == 2 || cached.end_fill(n, fill.ticket, true));
    }
    assert_eq!(cached.ready_until(0, 15), 1, "2 is being filled");
    assert_eq!(cached.ready_until(0, 0), 0);
    assert_eq!(cached.ready_until(4, 15), 5);
    assert_eq!(cached.ready_until(2, u64::MAX - 2), 2, "3 is absent");
    assert_eq!(cached.ready_until(5, 15), 5, "the end of the file");
}

#[test]
fn an_error_is_told_once_and_the_data_kept() {
    let world = World::default();
    let mut cached = Cached::new(&world.attr());
    let fill = cached.begin_fill(0, 0);
    assert!(cached.end_fill(0, fill.ticket, true));
    cached.handle_written(0, 10, Timespec::default());
    assert_eq!(cached.poll_write(1 << 20), Some(Run { start: 0, len: 10 }));
    assert_eq!(cached.evict(0), None, "not while it is written");
    cached.handle_refused(Errno::EIO, false);
    assert_eq!(
        (cached.take_error(), cached.take_error()),
        (Some(Errno::EIO), None)
    );
    assert_eq!(cached.evict(0), None, "not while it is dirty");
    assert!(cached.poll_write(1 << 20).is_some());
    cached.handle_refused(Errno::ESTALE, true);
    assert!(!cached.is_dirty() && cached.poll_stale());
    assert_eq!(cached.take_error(), Some(Errno::ESTALE));
}

#[test]
fn one_sided_writes_count_only_under_a_lease_and_inside_the_file() {
    let world = World {
        stored_size: 3 * PAGE_SIZE + 1,
        ..World::default()
    };
    let mut cached = Cached::new(&world.attr());
    let now = Timespec::default();
    assert!(!cached.handle_dirty(0..2, now, |_| true), "it is not here");
    let fill = cached.begin_fill(0, 0);
    assert!(
        !cached.handle_dirty(0..2, now, |_| true),
        "it is on its way"
    );
    assert!(cached.end_fill(0, fill.ticket, true));
    assert!(!cached.handle_dirty(0..2, now, |_| false), "no lease");
    assert!(!cached.is_dirty());
    assert!(cached.handle_dirty(0..u64::MAX / PAGE_SIZE, now, |_| true));
    assert_eq!(
        cached.poll_write(1 << 30),
        Some(Run {
            start: 0,
            len: 3 * PAGE_SIZE + 1
        })
    );
}
