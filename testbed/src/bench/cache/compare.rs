//! Several rounds, and the testbed beside what it is compared with.

use super::figures::{Name, Row, Run};
use crate::sweep::figures::Spread;
use serde::Serialize;

/// One measurement on the testbed and elsewhere.
#[derive(Serialize, PartialEq, Debug)]
pub(super) struct Compared {
    pub(super) pattern: String,
    pub(super) mix: String,
    pub(super) threads: u16,
    /// What the testbed is compared with.
    pub(super) with: Name,
    /// Nanoseconds an access: of the rounds' means.
    pub(super) testbed_ns: Spread,
    pub(super) other_ns: Spread,
    /// The other's median over the testbed's.
    pub(super) ratio: f64,
}

/// The measurement with this index in all rounds.
fn rows(runs: &[Run], name: Name, index: usize) -> Vec<&Row> {
    let of = runs.iter().filter(|run| run.name == name);
    of.filter_map(|run| run.rows.get(index)).collect()
}

/// Nanoseconds an access in all rounds.
pub(super) fn spread(runs: &[Run], name: Name, index: usize) -> Option<Spread> {
    let rows = rows(runs, name, index);
    let means: Vec<f64> = rows.iter().map(|row| row.access.mean_ns).collect();
    Spread::of(&means)
}

/// The median of `name` over that of the testbed.
pub(super) fn ratio(runs: &[Run], name: Name, index: usize) -> Option<f64> {
    let of = |name| Some(spread(runs, name, index)?.median);
    Some(of(name)? / of(Name::Testbed)?)
}

/// The testbed's measurements beside those of `with`; none where that was
/// not run.
pub(super) fn compared(runs: &[Run], with: Name) -> Vec<Compared> {
    let Some(first) = runs.iter().find(|run| run.name == Name::Testbed) else {
        return Vec::new();
    };
    let one = |(index, row): (usize, &Row)| {
        Some(Compared {
            pattern: row.access.pattern.clone(),
            mix: row.access.mix.clone(),
            threads: row.access.threads,
            with,
            testbed_ns: spread(runs, Name::Testbed, index)?,
            other_ns: spread(runs, with, index)?,
            ratio: ratio(runs, with, index)?,
        })
    };
    first.rows.iter().enumerate().filter_map(one).collect()
}

/// For each measurement, the round in the middle by its mean; of an even
/// number, the lower of the two.
pub(super) fn middle(runs: &[Run], name: Name) -> Vec<&Row> {
    let most = runs.iter().filter(|run| run.name == name);
    let count = most.map(|run| run.rows.len()).max().unwrap_or(0);
    let of = |index| {
        let mut rows = rows(runs, name, index);
        rows.sort_by(|a, b| a.access.mean_ns.total_cmp(&b.access.mean_ns));
        rows.get(rows.len().saturating_sub(1) / 2).copied()
    };
    (0..count).filter_map(of).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::figures::tests::said;
    use super::*;
    use serde_json::json;

    /// Rounds with these means.
    pub(crate) fn rounds(of: &[(Name, &[f64])]) -> Vec<Run> {
        let run = |name, round: usize, mean: f64| {
            let mut said = said();
            said["phases"][0]["mean_ns"] = json!(mean);
            if name != Name::Testbed {
                said["phases"][0]["after"] = json!(null);
            }
            Run::of(name, round as u32 + 1, &said).unwrap()
        };
        of.iter()
            .flat_map(|(name, means)| means.iter().enumerate().map(|(n, m)| run(*name, n, *m)))
            .collect()
    }

    #[test]
    fn medians_are_compared() {
        let runs = rounds(&[
            (Name::Testbed, &[100.0, 900.0, 110.0]),
            (Name::Swap, &[300.0, 330.0, 390.0]),
        ]);
        let all = compared(&runs, Name::Swap);
        assert_eq!(all.len(), 1);
        let spread = |median, min, max| Spread { median, min, max };
        assert_eq!(all[0].testbed_ns, spread(110.0, 100.0, 900.0));
        assert_eq!(all[0].other_ns, spread(330.0, 300.0, 390.0));
        assert!((all[0].ratio - 3.0).abs() < 1e-9, "{}", all[0].ratio);
        assert!(compared(&runs, Name::Native).is_empty());
        let middle = middle(&runs, Name::Testbed);
        assert!((middle[0].access.mean_ns - 110.0).abs() < 1e-9);
    }

    #[test]
    fn a_baseline_that_lacks_rounds_is_compared_with_what_it_has() {
        let runs = rounds(&[(Name::Testbed, &[100.0, 200.0]), (Name::Swap, &[450.0])]);
        let all = compared(&runs, Name::Swap);
        assert!((all[0].ratio - 3.0).abs() < 1e-9, "{}", all[0].ratio);
        let lower = middle(&runs, Name::Testbed);
        assert!((lower[0].access.mean_ns - 100.0).abs() < 1e-9);
    }
}
