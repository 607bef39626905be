//! How a component is chosen among several that would do.

use proto::NodeId;
use std::fmt;
use std::str::FromStr;

/// A named policy.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Policy {
    /// One after the other.
    #[default]
    RoundRobin,
    /// The one with the most unreserved bytes.
    MostFree,
    /// The one that is least busy for its size: the smallest reserved share,
    /// then the fewest processes.
    LeastLoaded,
}

const NAMES: [(&str, Policy); 3] = [
    ("round-robin", Policy::RoundRobin),
    ("most-free", Policy::MostFree),
    ("least-loaded", Policy::LeastLoaded),
];

/// Not the name of a policy.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0:?} is no placement policy: give round-robin, most-free or least-loaded")]
pub struct UnknownPolicy(String);

impl FromStr for Policy {
    type Err = UnknownPolicy;
    fn from_str(text: &str) -> Result<Policy, UnknownPolicy> {
        let known = NAMES.iter().find(|(name, _)| *name == text);
        known
            .map(|(_, policy)| *policy)
            .ok_or_else(|| UnknownPolicy(text.to_owned()))
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            NAMES
                .iter()
                .find(|(_, policy)| policy == self)
                .map_or("", |(name, _)| name),
        )
    }
}

/// What is known of a component that would do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// Which.
    pub node: NodeId,
    /// Bytes it offers; 0 where that means nothing.
    pub capacity: u64,
    /// Bytes promised, by it and by gmm since it last said so.
    pub reserved: u64,
    /// Processes that it runs or serves.
    pub processes: u64,
}

impl Candidate {
    fn free(&self) -> u64 {
        self.capacity.saturating_sub(self.reserved)
    }

    /// Reserved share of the capacity, in 2^-32 parts.
    fn share(&self) -> u128 {
        (u128::from(self.reserved) << 32) / u128::from(self.capacity.max(1))
    }
}

impl Policy {
    /// The component for something that needs `bytes`. Where none is known to
    /// have that much it may still have it by now: what gmm knows is a
    /// heartbeat old, and the component itself has the last word.
    ///
    /// `candidates` are in ascending order of node; `last` was chosen last.
    #[must_use]
    pub fn choose(
        self,
        candidates: &[Candidate],
        bytes: u64,
        last: Option<NodeId>,
    ) -> Option<NodeId> {
        let roomy: Vec<_> = candidates
            .iter()
            .filter(|c| c.free() >= bytes)
            .copied()
            .collect();
        let pool = if roomy.is_empty() {
            candidates
        } else {
            &roomy[..]
        };
        let chosen = match self {
            Policy::RoundRobin => {
                let next = pool.iter().find(|c| last.is_none_or(|last| c.node > last));
                next.or(pool.first())
            }
            // Ties go to the fewest processes, then to the lowest number.
            Policy::MostFree => pool
                .iter()
                .min_by_key(|c| (u64::MAX - c.free(), c.processes, c.node)),
            Policy::LeastLoaded => pool.iter().min_by_key(|c| (c.share(), c.processes, c.node)),
        };
        chosen.map(|c| c.node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn candidate(node: u64, capacity: u64, reserved: u64, processes: u64) -> Candidate {
        Candidate {
            node: NodeId(node),
            capacity,
            reserved,
            processes,
        }
    }

    #[test]
    fn names_round_trip() {
        for (name, policy) in NAMES {
            assert_eq!(name.parse(), Ok(policy));
            assert_eq!(policy.to_string(), name);
        }
        let error = "random".parse::<Policy>().unwrap_err().to_string();
        assert!(
            error.contains("\"random\"") && error.contains("most-free"),
            "{error}"
        );
    }

    #[test]
    fn round_robin_goes_round_and_skips_the_full() {
        let all = [
            candidate(1, 10, 0, 0),
            candidate(2, 10, 10, 0),
            candidate(3, 10, 0, 0),
        ];
        let choose = |last: Option<u64>| {
            Policy::RoundRobin
                .choose(&all, 1, last.map(NodeId))
                .map(|n| n.0)
        };
        assert_eq!(choose(None), Some(1));
        assert_eq!(choose(Some(1)), Some(3));
        assert_eq!(choose(Some(3)), Some(1));
        assert_eq!(choose(Some(9)), Some(1));
    }

    #[test]
    fn the_others_weigh() {
        let all = [
            candidate(1, 100, 50, 1),
            candidate(2, 40, 4, 9),
            candidate(3, 100, 50, 0),
        ];
        assert_eq!(Policy::MostFree.choose(&all, 1, None), Some(NodeId(3)));
        assert_eq!(Policy::LeastLoaded.choose(&all, 1, None), Some(NodeId(2)));
        let processors = [candidate(1, 0, 0, 2), candidate(2, 0, 0, 1)];
        assert_eq!(
            Policy::MostFree.choose(&processors, 0, None),
            Some(NodeId(2))
        );
        assert_eq!(
            Policy::LeastLoaded.choose(&processors, 0, None),
            Some(NodeId(2))
        );
    }

    proptest! {
        #[test]
        fn somebody_is_chosen_and_with_room_if_anybody_has_it(
            all in proptest::collection::vec((0..100_u64, 0..100_u64, 0..5_u64), 0..6),
            bytes in 0..100_u64,
            last in proptest::option::of(0..7_u64),
        ) {
            let all: Vec<_> = all.iter().enumerate()
                .map(|(n, (c, r, p))| candidate(n as u64, *c, *r, *p)).collect();
            for (_, policy) in NAMES {
                let chosen = policy.choose(&all, bytes, last.map(NodeId));
                prop_assert_eq!(chosen.is_some(), !all.is_empty());
                if let Some(chosen) = chosen && all.iter().any(|c| c.free() >= bytes) {
                    prop_assert!(all[chosen.0 as usize].free() >= bytes);
                }
            }
        }
    }
}
