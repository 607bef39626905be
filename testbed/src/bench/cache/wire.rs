//! The wire's part of a miss over tcp, beside what TCP itself takes.

use super::compare::middle;
use super::figures::{Name, Row, Run};
use crate::bench::bare::{self, How};
use crate::bench::other::Other;
use crate::sweep::figures::Spread;
use crate::table::nanoseconds;
use anyhow::{Context, Result};
use fabric::ClusterKey;
use serde::Serialize;
use std::path::Path;
use std::time::Duration;

/// For each way of waiting, in each round.
const TIME: Duration = Duration::from_millis(300);

/// What answers bare.
pub(super) struct Bare(Other);

/// Mean nanoseconds of a bare ping-pong in a round.
#[derive(Serialize, Clone, Copy, Debug)]
pub(super) struct Pings {
    pub(super) round: u32,
    pub(super) blocking_ns: f64,
    pub(super) polling_ns: f64,
}

impl Bare {
    /// `place` is a directory for the key that its starting takes.
    pub(super) fn start(place: &Path) -> Result<Bare> {
        let key = place.join("key");
        ClusterKey::generate()?.save(&key).context("a key")?;
        Ok(Bare(Other::start("tcp:127.0.0.1:0", &key)?))
    }

    pub(super) fn measure(&self, round: u32) -> Result<Pings> {
        let mean = |how| {
            let times = bare::ask(self.0.port, how, TIME)?;
            anyhow::Ok(times.mean.as_nanos() as f64)
        };
        Ok(Pings {
            round,
            blocking_ns: mean(How::Blocking)?,
            polling_ns: mean(How::Polling)?,
        })
    }
}

/// For people; nothing where nothing was measured.
pub(super) fn text(runs: &[Run], pings: &[Pings]) -> String {
    let median = |of: fn(&Pings) -> f64| {
        let all: Vec<f64> = pings.iter().map(of).collect();
        Spread::of(&all).map(|spread| spread.median)
    };
    let blocking = median(|ping| ping.blocking_ns);
    let (Some(blocking), Some(polling)) = (blocking, median(|ping| ping.polling_ns)) else {
        return String::new();
    };
    let mut out = format!(
        "\n64 B answered by 4 KiB over bare TCP between two processes take {} where both poll, {} \
         where\nboth block.",
        nanoseconds(polling as u64),
        nanoseconds(blocking as u64)
    );
    let parts = middle(runs, Name::Testbed);
    let parts: Vec<String> = parts
        .into_iter()
        .filter_map(|row| part(row, polling))
        .collect();
    if !parts.is_empty() {
        out += &format!(
            " WIRE over the former, for each page fetched:\n{}.",
            parts.join(", ")
        );
    }
    out + "\n"
}

/// The wire's part of a page over a ping-pong; nothing where none came.
fn part(row: &Row, ping: f64) -> Option<String> {
    let (a, m) = (&row.access, row.misses.as_ref()?);
    let pages = m.bytes_fetched / proto::PAGE_SIZE;
    (pages > 0).then(|| {
        // Means are of all but those that only waited for another thread's.
        let joined = m.causes.get("joined").copied().unwrap_or(0);
        let wire = m.miss_split_ns.wire * (m.misses - joined) as f64;
        format!("{} {} {:.2}", a.pattern, a.mix, wire / pages as f64 / ping)
    })
}

#[cfg(test)]
mod tests {
    use super::super::figures::tests::said;
    use super::*;
    use serde_json::json;

    #[test]
    fn the_wire_is_compared_by_pages() {
        let ping = |round, blocking_ns, polling_ns| Pings {
            round,
            blocking_ns,
            polling_ns,
        };
        let pings = [ping(1, 9000.0, 400.0), ping(2, 11_000.0, 600.0)];
        let run = |fetched: u64| {
            let mut said = said();
            said["phases"][0]["after"]["bytes"]["fetched"] = json!(fetched);
            [Run::of(Name::Testbed, 1, &said).unwrap()]
        };
        // 20 misses and a page between the readings, 600 ns of wire each.
        let alone = text(&run(4096 * 21), &pings);
        assert!(
            alone.contains("take 500 ns where") && alone.contains("10.0 us"),
            "{alone}"
        );
        assert!(alone.contains("random read 1.20."), "{alone}");
        let ahead = text(&run(4096 * 41), &pings);
        assert!(ahead.contains("random read 0.60."), "{ahead}");
        let none = text(&run(0), &pings);
        assert!(!none.contains("WIRE"), "{none}");
        assert_eq!(text(&run(0), &[]), "");
    }
}
