//! Where running ahead pays: by the address of the instruction that missed.

const ENTRIES: usize = 256;
/// Lines that are looked for at a place that is new.
const FIRST_DEPTH: u16 = 2;
/// Runs before they are judged: the first ones find nothing decoded, nothing in
/// the CPU's caches, and no depth.
const TRIAL: u16 = 6;
/// Misses passed over before it is tried again: at first, and at most.
const SHORTEST_PAUSE: u16 = 16;
const LONGEST_PAUSE: u16 = 4096;
/// What a thread may lose by trials: one part in so many of what its misses could
/// save, and what so many misses could save at most.
const ALLOWED: i64 = 16;
const CREDIT: i64 = 64;

#[derive(Clone, Copy, Default)]
struct Site {
    rip: u64,
    /// What the last runs saved less what they took, the latest counting most.
    balance: i64,
    /// Lines to bring at most.
    depth: u16,
    /// Runs that are not judged yet.
    trial: u16,
    /// Misses to pass over, of how many.
    left: u16,
    pause: u16,
}

/// What was foretold.
#[derive(Clone, Copy)]
struct Expected {
    line: u64,
    /// Where the run began, and what it saved if it was right.
    rip: u64,
    saved: i64,
}

/// How a run went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Outcome {
    /// Ticks that it took, beside bringing lines.
    pub took: u64,
    /// Ticks that it saved, if the program needs what it brought.
    pub saved: u64,
    /// The line that it would have brought next.
    pub next: Option<u64>,
    /// The line that was missed went to make room: it will be missed again.
    pub in_vain: bool,
}

/// A direct-mapped table.
pub(crate) struct Sites {
    sites: Vec<Site>,
    most: u16,
    expected: Option<Expected>,
    /// What may still be lost.
    credit: i64,
}

impl Sites {
    /// Bring `most` lines at most; 0: never run ahead.
    pub(super) fn new(most: u32) -> Sites {
        Sites {
            sites: Vec::new(),
            most: u16::try_from(most).unwrap_or(u16::MAX),
            expected: None,
            credit: 0,
        }
    }

    fn site(&mut self, rip: u64) -> &mut Site {
        if self.sites.is_empty() {
            self.sites.resize(ENTRIES, Site::default());
        }
        &mut self.sites[(rip ^ (rip >> 8)) as usize % ENTRIES]
    }

    /// `line` was missed by the instruction at `rip`; one that need not be missed
    /// `saves` so many ticks. How many lines to look for from there. It tells
    /// whether the last run was right as well.
    pub(crate) fn missed(&mut self, rip: u64, line: u64, saves: u64) -> u32 {
        if self.most == 0 {
            return 0;
        }
        let most = self.most;
        if let Some(expected) = self.expected.take() {
            self.learn(expected, line);
        }
        let saves = i64::try_from(saves).unwrap_or(i64::MAX / CREDIT);
        self.credit = (self.credit + saves / ALLOWED).min(CREDIT * saves);
        let credit = self.credit;
        let site = self.site(rip);
        if site.rip != rip {
            *site = Site {
                rip,
                depth: FIRST_DEPTH.min(most),
                trial: TRIAL,
                ..Site::default()
            };
        }
        if site.left > 0 {
            site.left -= 1;
            return 0;
        }
        if site.trial > 0 && credit < 0 {
            return 0;
        }
        site.depth.into()
    }

    /// Right: twice as many lines the next time. Wrong: half as many, and what it
    /// brought was perhaps brought in vain, which costs twice what it would have
    /// saved.
    fn learn(&mut self, expected: Expected, line: u64) {
        let most = self.most;
        let site = self.site(expected.rip);
        if site.rip != expected.rip {
            return;
        }
        if expected.line == line {
            site.depth = (2 * site.depth).min(most);
        } else {
            site.depth = (site.depth / 2).max(1);
            site.balance -= 2 * expected.saved;
            self.credit -= 2 * expected.saved;
        }
    }

    /// How the run that was begun at `rip` went. Where they do not pay, the next
    /// ones are put off, each time for twice as long.
    pub(crate) fn ran(&mut self, rip: u64, outcome: &Outcome) {
        let ticks = |n: u64| i64::try_from(n).unwrap_or(i64::MAX / 4);
        let (took, saved) = (ticks(outcome.took), ticks(outcome.saved));
        let saved = if outcome.in_vain { 0 } else { saved };
        self.expected = outcome.next.map(|line| Expected { line, rip, saved });
        // Who is interrupted meanwhile takes long once: that alone is no judgement.
        let net = if saved > 0 {
            (saved - took).max(-saved)
        } else {
            -took
        };
        self.credit += net;
        let site = self.site(rip);
        let before = site.balance;
        site.balance = before / 2 + net / 2;
        site.trial = site.trial.saturating_sub(1);
        if !outcome.in_vain {
            if site.trial > 0 {
                return;
            }
            if site.balance >= 0 {
                site.pause = 0;
            }
            if site.balance >= 0 || before >= 0 {
                return;
            }
        }
        site.pause = (2 * site.pause).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
        (site.left, site.trial, site.balance) = (site.pause, TRIAL, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAVES: u64 = 1000;

    fn outcome(found: u64, next: Option<u64>, took: u64) -> Outcome {
        Outcome {
            took,
            saved: found * SAVES,
            next,
            in_vain: false,
        }
    }

    /// Runs of `outcome` for so many misses at one place: how many there were.
    fn runs(sites: &mut Sites, misses: u64, outcome: &Outcome) -> u64 {
        let mut runs = 0;
        for miss in 0..misses {
            if sites.missed(1, miss, SAVES) > 0 {
                runs += 1;
                sites.ran(1, outcome);
            }
        }
        runs
    }

    #[test]
    fn depth_doubles_while_the_next_line_is_foretold_and_halves_where_it_is_not() {
        let mut sites = Sites::new(16);
        let mut depths = vec![sites.missed(1, 0, SAVES)];
        for line in 1..5 {
            sites.ran(1, &outcome(2, Some(line), 10));
            depths.push(sites.missed(1, line, SAVES));
        }
        assert_eq!(depths, [2, 4, 8, 16, 16]);
        for wrong in [8, 4, 2, 1, 1] {
            sites.ran(1, &outcome(0, Some(7), 0));
            assert_eq!(sites.missed(1, 8, SAVES), wrong);
        }
        // One that does not say keeps it.
        sites.ran(1, &outcome(1, None, 10));
        assert_eq!(sites.missed(1, 9, SAVES), 1);
    }

    #[test]
    fn what_does_not_pay_is_tried_less_and_less_and_again_when_it_pays() {
        let mut sites = Sites::new(16);
        let tried = runs(&mut sites, 10_000, &outcome(0, None, 2000));
        assert!((30..=72).contains(&tried), "{tried}");
        // Another place is not judged by it.
        assert_eq!(sites.missed(2, 0, SAVES), 2);
        let pays = outcome(4, None, 2000);
        runs(&mut sites, 5000, &pays);
        assert_eq!(runs(&mut sites, 1000, &pays), 1000);
    }

    /// Many places of which none pays: together they take a small part of what the
    /// misses do, however many there are.
    #[test]
    fn trials_are_bounded_whatever_the_number_of_places() {
        let mut sites = Sites::new(16);
        let mut lost = 0;
        for miss in 0..100_000u64 {
            let rip = miss % 5000 * 7;
            if sites.missed(rip, miss, SAVES) > 0 {
                lost += 5000;
                sites.ran(rip, &outcome(0, None, 5000));
            }
        }
        assert!(lost <= 100_000 * SAVES / 16 + 10_000, "{lost}");
        assert!(lost >= 100_000 * SAVES / 32, "{lost}");
    }

    #[test]
    fn what_is_wrong_as_often_as_right_ends() {
        let mut sites = Sites::new(16);
        let mut runs = 0;
        for miss in 0..10_000u64 {
            if sites.missed(1, miss, SAVES) > 0 {
                runs += 1;
                let right = runs % 2 == 0;
                let next = Some(if right { miss + 1 } else { u64::MAX });
                sites.ran(1, &outcome(1, next, 100));
            }
        }
        assert!(runs < 2000, "{runs}");
    }

    #[test]
    fn a_run_that_drives_its_own_line_out_is_not_repeated_at_once() {
        let mut sites = Sites::new(16);
        let pays = outcome(4, None, 100);
        assert_eq!(runs(&mut sites, 100, &pays), 100);
        let in_vain = Outcome {
            in_vain: true,
            ..pays
        };
        sites.ran(1, &in_vain);
        assert_eq!(sites.missed(1, 0, SAVES), 0);
        assert_eq!(sites.missed(1, 0, SAVES), 0);
    }

    #[test]
    fn one_run_that_took_long_is_forgiven() {
        let mut sites = Sites::new(16);
        let pays = outcome(4, None, 1000);
        assert_eq!(runs(&mut sites, 100, &pays), 100);
        sites.ran(1, &outcome(4, None, 10_000_000));
        assert_eq!(runs(&mut sites, 100, &pays), 100);
        sites.ran(1, &outcome(4, None, 10_000_000));
        sites.ran(1, &outcome(4, None, 10_000_000));
        assert_eq!(sites.missed(1, 0, SAVES), 0);
    }

    #[test]
    fn without_prefetch_it_never_runs() {
        let mut sites = Sites::new(0);
        assert_eq!(sites.missed(1, 1, SAVES), 0);
    }
}
