//! Where running ahead pays: by the address of the instruction that missed. What
//! counts is the time from one miss to the next for each line that came, but for
//! making room and installing, which each line needs: with runs ahead and without
//! them, each as it was the last times that it was tried. Where a run was wrong about
//! what is missed next, what it brought counts for nothing, and all of its time.

/// Sets of two.
const SETS: usize = 128;
/// Lines that are looked for at a place that is new.
const FIRST_DEPTH: u16 = 2;
/// Misses at a place that is new before it is tried.
const FIRST_LOOK: u16 = 8;
/// Runs of a trial, and those of them that count: the first ones find nothing
/// decoded, nothing in the CPU's caches, and no depth.
const TRIAL: u16 = 8;
const COUNTED: u16 = 4;
/// Misses passed over before it is tried again: at first, and at most.
const SHORTEST_PAUSE: u16 = 16;
const LONGEST_PAUSE: u16 = 4096;
/// Runs, where they pay, before some misses without show what those take now.
const TERM: u16 = 512;
const CHECK: u16 = 4;
/// What a thread may spend on trials: one part in so many of what its misses could
/// save, and what so many misses could save at most.
const ALLOWED: i64 = 16;
const CREDIT: i64 = 64;
/// Averages are in ticks times this, of so many ticks at most.
const FRACTION: u64 = 256;
const LONGEST_TICKS: u64 = 1 << 40;

/// What is done at a place, for as many misses as are left of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// It is new: misses without.
    Look,
    Trial,
    /// It pays.
    Run,
    /// It paid: some misses without.
    Check,
    /// It does not pay.
    Pause,
}

#[derive(Clone, Copy)]
struct Site {
    rip: u64,
    /// Ticks, times [`FRACTION`], for each line without runs, and with them; 0: not
    /// known.
    alone: u64,
    with: u64,
    phase: Phase,
    left: u16,
    /// Misses of the next pause.
    pause: u16,
    /// Lines to bring at most.
    depth: u16,
}

impl Site {
    fn new(rip: u64, most: u16) -> Site {
        Site {
            rip,
            alone: 0,
            with: 0,
            phase: Phase::Look,
            left: FIRST_LOOK,
            pause: SHORTEST_PAUSE,
            depth: FIRST_DEPTH.min(most),
        }
    }

    /// So many lines took so long each. Who was interrupted, or slept, meanwhile has
    /// taken longer than that: what is far from what is known counts little.
    fn learn(&mut self, ran: bool, lines: u64, ticks: u64) {
        let ticks = ticks.clamp(1, LONGEST_TICKS) * FRACTION;
        if self.phase == Phase::Look {
            // The least of them: the first may be the one that slept.
            if self.alone == 0 || ticks < self.alone {
                self.alone = ticks;
            }
            return;
        }
        // By how many lines what is known weighs.
        let (known, weight) = match self.phase {
            _ if !ran => (&mut self.alone, 7),
            Phase::Run => (&mut self.with, 256),
            Phase::Trial if self.left < COUNTED => (&mut self.with, 48),
            _ => return,
        };
        *known = match *known {
            0 => ticks,
            was => (weight * was + lines * ticks.min(2 * was)) / (weight + lines),
        };
    }

    /// Whether to run ahead of the next miss; `may_try`: whether a trial may begin.
    fn next(&mut self, may_try: bool) -> bool {
        let pays = self.with > 0 && self.with <= self.alone;
        if self.phase == Phase::Run && self.with > 0 && !pays {
            self.stop();
        }
        if self.left == 0 {
            match self.phase {
                Phase::Look | Phase::Pause if !may_try => return false,
                Phase::Look | Phase::Pause => {
                    (self.phase, self.left, self.with) = (Phase::Trial, TRIAL, 0);
                }
                Phase::Trial | Phase::Check if !pays => self.stop(),
                Phase::Trial => (self.phase, self.left) = (Phase::Run, TERM),
                Phase::Check => {
                    (self.phase, self.left) = (Phase::Run, TERM);
                    self.pause = SHORTEST_PAUSE;
                }
                Phase::Run => (self.phase, self.left) = (Phase::Check, CHECK),
            }
        }
        self.left = self.left.saturating_sub(1);
        matches!(self.phase, Phase::Trial | Phase::Run)
    }

    /// Not for a while, each time for twice as long.
    fn stop(&mut self) {
        (self.phase, self.left) = (Phase::Pause, self.pause);
        self.pause = (2 * self.pause).min(LONGEST_PAUSE);
    }
}

/// A miss of which it is not known yet how long it was until the next one.
#[derive(Clone, Copy)]
struct Last {
    rip: u64,
    begun: u64,
    /// Ticks that went into making room and installing.
    bringing: u64,
    lines: u64,
    ran: bool,
    /// The line that was foretold to be missed next.
    next: Option<u64>,
}

/// How a run went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Outcome {
    /// Ticks that it took, beside bringing lines.
    pub took: u64,
    /// Lines that it brought.
    pub lines: u32,
    /// The line that it would have brought next.
    pub next: Option<u64>,
    /// The line that was missed went to make room: it will be missed again.
    pub in_vain: bool,
}

/// A table of sets of two; the first of them was used last.
pub(crate) struct Sites {
    sites: Vec<[Site; 2]>,
    most: u16,
    last: Option<Last>,
    /// What may still be spent on trials, and the most that this can be.
    credit: i64,
    most_credit: i64,
}

impl Sites {
    /// Bring `most` lines at most; 0: never run ahead.
    pub(super) fn new(most: u32) -> Sites {
        Sites {
            sites: Vec::new(),
            most: u16::try_from(most).unwrap_or(u16::MAX),
            last: None,
            credit: 0,
            most_credit: 0,
        }
    }

    fn site(&mut self, rip: u64) -> Option<&mut Site> {
        let set = self.sites.get_mut(set_of(rip))?;
        set.iter_mut().find(|site| site.rip == rip)
    }

    /// The same, made where there is none.
    fn site_or_new(&mut self, rip: u64) -> &mut Site {
        let most = self.most;
        if self.sites.is_empty() {
            // No code is there.
            let none = Site::new(u64::MAX, most);
            self.sites.resize(SETS, [none; 2]);
        }
        let set = &mut self.sites[set_of(rip)];
        if set[0].rip != rip {
            set.swap(0, 1);
            if set[0].rip != rip {
                set[0] = Site::new(rip, most);
            }
        }
        &mut set[0]
    }

    /// A line is missed at that time: it ends what the last miss took. Of one that
    /// streams did not bring, which: it tells whether the last run was right as well.
    fn settle(&mut self, now: u64, own: Option<u64>) {
        let (Some(last), most) = (self.last.take(), self.most) else {
            return;
        };
        let Some(site) = self.site(last.rip) else {
            return;
        };
        let took = now.saturating_sub(last.begun);
        let right = last.next.zip(own).map(|(next, line)| next == line);
        match right {
            // Twice as many lines the next time; or half as many.
            Some(true) => site.depth = (2 * site.depth).min(most),
            Some(false) => site.depth = (site.depth / 2).max(1),
            None => {}
        }
        if right == Some(false) {
            site.learn(last.ran, 1, took);
        } else {
            let each = took.saturating_sub(last.bringing) / last.lines;
            site.learn(last.ran, last.lines, each);
        }
    }

    /// `line` was missed by the instruction at `rip`, at that time, on its own; one
    /// that need not be missed `saves` so many ticks. How many lines to look for from
    /// there.
    pub(crate) fn missed(&mut self, rip: u64, line: u64, saves: u64, at: u64) -> u32 {
        if self.most == 0 {
            return 0;
        }
        self.settle(at, Some(line));
        let saves = saves.min(LONGEST_TICKS).cast_signed();
        self.most_credit = CREDIT * saves;
        self.credit = (self.credit + saves / ALLOWED).min(self.most_credit);
        let may_try = self.credit >= 0;
        let site = self.site_or_new(rip);
        let (runs, depth) = (site.next(may_try), site.depth);
        self.begin(rip, at, 1, runs);
        if runs { depth.into() } else { 0 }
    }

    /// So many lines came at once for a miss at `rip`, at that time, as streams
    /// expected them.
    pub(crate) fn streamed(&mut self, rip: u64, at: u64, lines: u64) {
        self.settle(at, None);
        self.begin(rip, at, lines, false);
    }

    fn begin(&mut self, rip: u64, begun: u64, lines: u64, ran: bool) {
        self.last = Some(Last {
            rip,
            begun,
            bringing: 0,
            lines,
            ran,
            next: None,
        });
    }

    /// So many ticks of the last miss went into making room and installing.
    pub(crate) fn brought(&mut self, ticks: u64) {
        if let Some(last) = &mut self.last {
            last.bringing += ticks;
        }
    }

    /// How the run that was begun at `rip` went.
    pub(crate) fn ran(&mut self, rip: u64, outcome: &Outcome) {
        if let Some(last) = &mut self.last {
            last.lines += u64::from(outcome.lines);
            last.next = outcome.next;
        }
        let Some(site) = self.site(rip) else { return };
        let on_trial = site.phase == Phase::Trial;
        if outcome.in_vain {
            site.stop();
            self.last = None;
        }
        if on_trial {
            // Who was interrupted has taken longer than that.
            let took = i64::try_from(outcome.took).unwrap_or(i64::MAX);
            self.credit = self.credit.saturating_sub(took.min(self.most_credit));
        }
    }
}

fn set_of(rip: u64) -> usize {
    (rip.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize % SETS
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAVES: u64 = 1000;
    /// Of a miss on its own, until the next one.
    const ALONE: u64 = 3000;

    /// A thread that does nothing but miss lines.
    struct Thread {
        sites: Sites,
        now: u64,
        line: u64,
    }

    impl Thread {
        fn new(most: u32) -> Thread {
            Thread {
                sites: Sites::new(most),
                now: 1,
                line: 0,
            }
        }

        /// A miss at `rip`: how many lines it is to look for.
        fn miss(&mut self, rip: u64) -> u32 {
            self.line += 1;
            let depth = self.sites.missed(rip, self.line, SAVES, self.now);
            self.now += ALONE;
            depth
        }

        /// What each line needs, however it comes.
        fn bring(&mut self, lines: u32) {
            let ticks = u64::from(lines) * 5000;
            self.now += ticks;
            self.sites.brought(ticks);
        }

        fn ran(&mut self, rip: u64, found: u32, took: u64) {
            let outcome = Outcome {
                took,
                lines: found,
                next: Some(self.line + 1),
                in_vain: false,
            };
            self.sites.ran(rip, &outcome);
            self.now += took;
        }

        /// So many misses at one place, where each run finds so many lines, to bring
        /// one of which takes `each`: how many of them ran.
        fn misses(&mut self, count: u64, found: u32, took: u64, each: u64) -> u64 {
            let mut runs = 0;
            for _ in 0..count {
                let depth = self.miss(1);
                if depth > 0 {
                    runs += 1;
                    let found = found.min(depth);
                    self.ran(1, found, took);
                    // The program's own work.
                    self.now += u64::from(found) * each;
                    self.bring(found);
                }
            }
            runs
        }
    }

    #[test]
    fn depth_doubles_while_the_next_line_is_foretold_and_halves_where_it_is_not() {
        let mut thread = Thread::new(16);
        let mut depths = Vec::new();
        while depths.len() < 5 {
            match thread.miss(1) {
                0 => {}
                depth => {
                    depths.push(depth);
                    thread.ran(1, depth, 10);
                }
            }
        }
        assert_eq!(depths, [2, 4, 8, 16, 16]);
        for wrong in [8, 4] {
            thread.line += 5;
            assert_eq!(thread.miss(1), wrong);
            thread.ran(1, wrong, 10);
        }
        // One that does not say keeps it.
        if let Some(last) = &mut thread.sites.last {
            last.next = None;
        }
        assert_eq!(thread.miss(1), 4);
    }

    #[test]
    fn what_pays_is_done_but_for_a_look_now_and_then() {
        let mut thread = Thread::new(16);
        let runs = thread.misses(10_000, 16, 1000, 1000);
        assert!((9800..9980).contains(&runs), "{runs}");
    }

    #[test]
    fn what_does_not_pay_is_tried_less_and_less_and_again_when_it_pays() {
        let mut thread = Thread::new(16);
        // It finds lines, and takes longer than they would on their own.
        let tried = thread.misses(10_000, 4, 9000, 2000);
        assert!((40..=100).contains(&tried), "{tried}");
        // Another place is not judged by it.
        let elsewhere = (0..10).filter(|_| thread.miss(2) > 0).count();
        assert_eq!(elsewhere, 2);
        thread.misses(5000, 8, 500, 1000);
        assert!(thread.misses(1000, 8, 500, 1000) > 980);
    }

    #[test]
    fn what_streams_bring_for_less_is_left_to_them() {
        let mut thread = Thread::new(16);
        let mut runs = 0;
        for _ in 0..2000 {
            // One line of seventeen is missed on its own.
            let depth = thread.miss(1);
            runs += u64::from(depth > 0);
            if depth > 0 {
                thread.ran(1, 2, 2 * ALONE);
            }
            thread.sites.streamed(1, thread.now, 16);
            thread.now += ALONE;
            thread.bring(16);
        }
        assert!(runs < 150, "{runs}");
    }

    #[test]
    fn lines_that_are_brought_in_vain_are_no_gain() {
        let mut thread = Thread::new(16);
        let mut runs = 0;
        for _ in 0..10_000 {
            let depth = thread.miss(1);
            if depth > 0 {
                runs += 1;
                // Another line is missed next, as soon as it would have been.
                thread.ran(1, depth, 100);
                thread.bring(depth);
                thread.line += 7;
            }
        }
        assert!(runs < 150, "{runs}");
    }

    #[test]
    fn two_places_of_one_set_do_not_drive_each_other_out() {
        let other = (2..).find(|rip| set_of(*rip) == set_of(1)).unwrap_or(1);
        let mut thread = Thread::new(16);
        let mut runs = 0;
        for n in 0..2000u64 {
            let rip = if n % 2 == 0 { 1 } else { other };
            let depth = thread.miss(rip);
            if depth > 0 {
                runs += 1;
                thread.ran(rip, depth, 100);
                thread.bring(depth);
            }
        }
        assert!(runs > 1900, "{runs}");
    }

    #[test]
    fn one_that_slept_at_first_does_not_make_everything_pay() {
        let mut thread = Thread::new(16);
        thread.miss(1);
        thread.now += 1 << 32;
        let tried = thread.misses(10_000, 4, 9000, 2000);
        assert!((40..=100).contains(&tried), "{tried}");
    }

    #[test]
    fn a_trial_that_was_interrupted_puts_off_others_for_a_while_only() {
        let mut thread = Thread::new(16);
        while thread.miss(1) == 0 {}
        thread.ran(1, 0, 1 << 50);
        for _ in 0..1100 {
            thread.miss(1);
        }
        assert!(thread.misses(100, 16, 100, 100) > 80);
    }

    /// Many places of which none pays: together they take a small part of what the
    /// misses do, however many there are.
    #[test]
    fn trials_are_bounded_whatever_the_number_of_places() {
        let mut thread = Thread::new(16);
        let mut spent = 0;
        for miss in 0..200_000u64 {
            let rip = miss % 200 * 7;
            if thread.miss(rip) > 0 {
                spent += 5000;
                thread.ran(rip, 0, 5000);
            }
        }
        assert!(spent <= 200_000 * SAVES / 16 + 50_000, "{spent}");
        assert!(spent >= 1_000_000, "{spent}");
    }

    #[test]
    fn a_run_that_drives_its_own_line_out_is_not_repeated_at_once() {
        let mut thread = Thread::new(16);
        thread.misses(100, 16, 100, 100);
        assert!(thread.miss(1) > 0);
        let in_vain = Outcome {
            took: 100,
            lines: 4,
            next: None,
            in_vain: true,
        };
        thread.sites.ran(1, &in_vain);
        assert_eq!((thread.miss(1), thread.miss(1)), (0, 0));
    }

    #[test]
    fn a_thread_that_sleeps_now_and_then_goes_on() {
        let mut thread = Thread::new(16);
        thread.misses(100, 16, 1000, 1000);
        let mut runs = 0;
        for _ in 0..100 {
            runs += thread.misses(20, 16, 1000, 1000);
            thread.now += 100_000_000;
        }
        assert!(runs > 1900, "{runs}");
    }

    #[test]
    fn without_prefetch_it_never_runs() {
        let mut thread = Thread::new(0);
        assert_eq!(thread.misses(1000, 4, 10, 10), 0);
    }
}
