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

/// How a run went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Outcome {
    /// Lines that it brought.
    pub found: u32,
    /// The one that it would have brought next.
    pub next: Option<u64>,
    /// What it took beside bringing them, and what one that is brought saves: in
    /// ticks.
    pub took: u64,
    pub saves: u64,
}

/// A direct-mapped table.
pub(crate) struct Sites {
    sites: Vec<Site>,
    most: u16,
    /// The line that is missed next, if the last run was right, and where that
    /// began.
    expected: Option<(u64, u64)>,
}

impl Sites {
    /// Bring `most` lines at most; 0: never run ahead.
    pub(super) fn new(most: u32) -> Sites {
        Sites {
            sites: Vec::new(),
            most: u16::try_from(most).unwrap_or(u16::MAX),
            expected: None,
        }
    }

    fn site(&mut self, rip: u64) -> &mut Site {
        if self.sites.is_empty() {
            self.sites.resize(ENTRIES, Site::default());
        }
        let depth = FIRST_DEPTH.min(self.most);
        let site = &mut self.sites[(rip ^ (rip >> 8)) as usize % ENTRIES];
        if site.rip != rip {
            *site = Site {
                rip,
                depth,
                trial: TRIAL,
                ..Site::default()
            };
        }
        site
    }

    /// `line` was missed by the instruction at `rip`: how many lines to look for
    /// from there. It tells whether the last run was right as well.
    pub(crate) fn missed(&mut self, rip: u64, line: u64) -> u32 {
        if self.most == 0 {
            return 0;
        }
        let most = self.most;
        if let Some((expected, from)) = self.expected.take() {
            let site = self.site(from);
            site.depth = if expected == line {
                (2 * site.depth).min(most)
            } else {
                (site.depth / 2).max(1)
            };
        }
        let site = self.site(rip);
        if site.left > 0 {
            site.left -= 1;
            return 0;
        }
        site.depth.into()
    }

    /// How the run that was begun at `rip` went. Where they do not pay, the next
    /// ones are put off, each time for twice as long.
    pub(crate) fn ran(&mut self, rip: u64, outcome: &Outcome) {
        self.expected = outcome.next.map(|line| (line, rip));
        let saved = u64::from(outcome.found) * outcome.saves;
        let net = i64::try_from(saved).unwrap_or(i64::MAX / 2)
            - i64::try_from(outcome.took).unwrap_or(i64::MAX / 2);
        let site = self.site(rip);
        site.balance = site.balance / 2 + net / 2;
        site.trial = site.trial.saturating_sub(1);
        if site.trial > 0 {
            return;
        }
        if site.balance >= 0 {
            site.pause = 0;
            return;
        }
        site.pause = (2 * site.pause).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
        (site.left, site.trial, site.balance) = (site.pause, TRIAL, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(found: u32, next: Option<u64>, took: u64) -> Outcome {
        Outcome {
            found,
            next,
            took,
            saves: 100,
        }
    }

    #[test]
    fn depth_doubles_while_the_next_line_is_foretold_and_halves_where_it_is_not() {
        let mut sites = Sites::new(16);
        let mut depths = vec![sites.missed(1, 0)];
        for line in 1..5 {
            sites.ran(1, &outcome(2, Some(line), 10));
            depths.push(sites.missed(1, line));
        }
        assert_eq!(depths, [2, 4, 8, 16, 16]);
        for wrong in [8, 4, 2, 1, 1] {
            sites.ran(1, &outcome(2, Some(7), 10));
            assert_eq!(sites.missed(1, 8), wrong);
        }
        // One that does not say keeps it.
        sites.ran(1, &outcome(1, None, 10));
        assert_eq!(sites.missed(1, 9), 1);
    }

    #[test]
    fn what_does_not_pay_is_tried_less_and_less_and_again_when_it_pays() {
        let mut sites = Sites::new(16);
        let mut runs = 0;
        for miss in 0..10_000 {
            if sites.missed(1, miss) > 0 {
                runs += 1;
                sites.ran(1, &outcome(0, None, 200));
            }
        }
        assert!((48..=72).contains(&runs), "{runs}");
        // Another place is not judged by it.
        assert_eq!(sites.missed(2, 0), 2);
        let mut late = 0;
        for miss in 0..6000 {
            if sites.missed(1, miss) > 0 {
                sites.ran(1, &outcome(4, None, 200));
                late += u32::from(miss >= 5000);
            }
        }
        assert_eq!(late, 1000);
    }

    #[test]
    fn without_prefetch_it_never_runs() {
        let mut sites = Sites::new(0);
        assert_eq!(sites.missed(1, 1), 0);
    }
}
