//! What a trace says on the whole.

use super::reader::Reader;
use crate::table::{bytes, nanoseconds, number, text};
use anyhow::Result;
use proto::trace::{Event, Header, Record};
use serde::Serialize;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Read;

/// Bytes of a region: an extent.
const REGION: u64 = proto::EXTENT_SIZE;
/// Slices of the time from the first miss to the last.
const SLICES: u64 = 20;

/// See the module.
#[derive(Serialize, Debug)]
pub(super) struct Summary {
    line_bytes: u64,
    cache_lines: u64,
    misses: u64,
    evictions: Evictions,
    lost: u64,
    causes: BTreeMap<&'static str, Times>,
    threads: BTreeMap<u32, Times>,
    between_misses: Times,
    top_lines: Vec<Place>,
    top_regions: Vec<Place>,
    slices: Vec<Slice>,
}

#[derive(Serialize, Default, Debug)]
struct Evictions {
    batches: u64,
    clean: u64,
    dirty: u64,
    duration_ns: u64,
}

/// Nanoseconds.
#[derive(Serialize, Default, PartialEq, Debug)]
struct Times {
    count: usize,
    mean: u64,
    p50: u64,
    p90: u64,
    p99: u64,
    max: u64,
}

/// A line or a region by its first address, and its misses.
#[derive(Serialize, PartialEq, Debug)]
struct Place {
    address: String,
    misses: u64,
}

/// A slice of time.
#[derive(Serialize, Default, PartialEq, Debug)]
struct Slice {
    from_ns: u64,
    misses: u64,
    /// Different lines that were missed in it.
    lines: usize,
    /// Different lines that had been missed by its end.
    lines_so_far: usize,
}

impl Times {
    fn of(mut all: Vec<u64>) -> Times {
        all.sort_unstable();
        // The nearest rank, as everywhere.
        let rank = |per_mille: usize| (all.len() * per_mille).div_ceil(1000).max(1);
        let at = |per_mille: usize| all.get(rank(per_mille) - 1).copied();
        let sum: u128 = all.iter().map(|n| u128::from(*n)).sum();
        Times {
            count: all.len(),
            mean: u64::try_from(sum / all.len().max(1) as u128).unwrap_or(u64::MAX),
            p50: at(500).unwrap_or(0),
            p90: at(900).unwrap_or(0),
            p99: at(990).unwrap_or(0),
            max: all.last().copied().unwrap_or(0),
        }
    }

    fn cells(&self) -> Vec<String> {
        let times = [self.mean, self.p50, self.p90, self.p99, self.max];
        std::iter::once(number(self.count as u64))
            .chain(times.map(nanoseconds))
            .collect()
    }
}

impl Summary {
    /// Reads all of it; keeps four words of each miss.
    pub(super) fn of<R: Read>(reader: &mut Reader<R>, top: usize) -> Result<Summary> {
        let Header {
            line_bytes, lines, ..
        } = reader.header;
        let mut evictions = Evictions::default();
        let mut lost = 0u64;
        let mut misses: Vec<(u64, u64)> = Vec::new();
        let mut causes: BTreeMap<&'static str, Vec<u64>> = BTreeMap::new();
        let mut threads: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
        while let Some(record) = reader.next()? {
            let Record { duration_ns, .. } = record;
            match record.event {
                Event::Miss { cause, .. } => {
                    misses.push((record.time_ns, record.address & !(line_bytes - 1)));
                    causes.entry(cause.name()).or_default().push(duration_ns);
                    threads.entry(record.thread).or_default().push(duration_ns);
                }
                Event::Eviction { clean, dirty } => {
                    evictions.batches += 1;
                    evictions.clean += u64::from(clean);
                    evictions.dirty += u64::from(dirty);
                    evictions.duration_ns = evictions.duration_ns.saturating_add(duration_ns);
                }
                Event::Lost { records } => lost = lost.saturating_add(records),
                Event::End { .. } => {}
            }
        }
        misses.sort_unstable();
        let gaps = misses.windows(2).map(|two| two[1].0 - two[0].0);
        Ok(Summary {
            line_bytes,
            cache_lines: lines,
            misses: misses.len() as u64,
            evictions,
            lost,
            causes: times(causes),
            threads: times(threads),
            between_misses: Times::of(gaps.collect()),
            top_lines: most(&misses, line_bytes, top),
            top_regions: most(&misses, line_bytes.max(REGION), top),
            slices: slices(&misses),
        })
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let heading = |first: &str| {
            let times = ["misses", "mean", "50%", "90%", "99%", "longest"];
            std::iter::once(first)
                .chain(times)
                .map(str::to_owned)
                .collect()
        };
        let row = |name: String, times: &Times| [vec![name], times.cells()].concat();
        let causes = self.causes.iter().map(|(name, t)| row((*name).into(), t));
        let threads = self
            .threads
            .iter()
            .map(|(name, t)| row(name.to_string(), t));
        let causes: Vec<Vec<String>> = std::iter::once(heading("cause")).chain(causes).collect();
        let threads: Vec<Vec<String>> = std::iter::once(heading("thread")).chain(threads).collect();
        let gaps = &self.between_misses;
        format!(
            "{} misses, {} lines evicted ({} dirty) in {} batches of {} together; cache {} lines \
             of {}\n\n{}\n{}\nbetween misses: mean {}, 50% {}, 99% {}, longest {}\n\n{}\n{}\n{}",
            number(self.misses),
            number(self.evictions.clean + self.evictions.dirty),
            number(self.evictions.dirty),
            number(self.evictions.batches),
            nanoseconds(self.evictions.duration_ns),
            number(self.cache_lines),
            bytes(self.line_bytes),
            text(&causes),
            text(&threads),
            nanoseconds(gaps.mean),
            nanoseconds(gaps.p50),
            nanoseconds(gaps.p99),
            nanoseconds(gaps.max),
            self.places("line", &self.top_lines),
            self.places(&format!("region of {}", bytes(REGION)), &self.top_regions),
            self.working_set()
        )
    }

    fn places(&self, what: &str, places: &[Place]) -> String {
        let heading = [what, "misses", "share"].map(str::to_owned).to_vec();
        let row = |place: &Place| {
            let share = place.misses as f64 * 100.0 / self.misses.max(1) as f64;
            vec![
                place.address.clone(),
                number(place.misses),
                format!("{share:.2}%"),
            ]
        };
        let rows = std::iter::once(heading).chain(places.iter().map(row));
        text(&rows.collect::<Vec<_>>())
    }

    fn working_set(&self) -> String {
        let heading = ["from", "misses", "lines missed", "bytes", "lines so far"];
        let row = |slice: &Slice| {
            vec![
                nanoseconds(slice.from_ns),
                number(slice.misses),
                number(slice.lines as u64),
                bytes((slice.lines as u64).saturating_mul(self.line_bytes)),
                number(slice.lines_so_far as u64),
            ]
        };
        let heading = heading.map(str::to_owned).to_vec();
        let rows = std::iter::once(heading).chain(self.slices.iter().map(row));
        text(&rows.collect::<Vec<_>>())
    }
}

fn times<K: Ord>(all: BTreeMap<K, Vec<u64>>) -> BTreeMap<K, Times> {
    all.into_iter()
        .map(|(key, all)| (key, Times::of(all)))
        .collect()
}

/// The places of `size` bytes with most misses.
fn most(misses: &[(u64, u64)], size: u64, top: usize) -> Vec<Place> {
    let mut counts: HashMap<u64, u64> = HashMap::new();
    for (_, address) in misses {
        *counts.entry(address & !(size - 1)).or_default() += 1;
    }
    let mut counts: Vec<(u64, u64)> = counts.into_iter().collect();
    counts.sort_unstable_by_key(|&(address, count)| (std::cmp::Reverse(count), address));
    let place = |(address, misses)| Place {
        address: format!("{address:#x}"),
        misses,
    };
    counts.into_iter().take(top).map(place).collect()
}

/// The working set over time; `misses` are in order.
fn slices(misses: &[(u64, u64)]) -> Vec<Slice> {
    let (Some(first), Some(last)) = (misses.first(), misses.last()) else {
        return Vec::new();
    };
    let width = ((last.0 - first.0) / SLICES).saturating_add(1);
    let mut slices: Vec<Slice> = Vec::new();
    let (mut here, mut ever) = (HashSet::new(), HashSet::new());
    for (time, address) in misses {
        let number = (time - first.0) / width;
        while slices.len() as u64 <= number {
            let from_ns = first.0 + width * slices.len() as u64;
            here.clear();
            slices.push(Slice {
                from_ns,
                lines_so_far: ever.len(),
                ..Slice::default()
            });
        }
        here.insert(*address);
        ever.insert(*address);
        if let Some(slice) = slices.last_mut() {
            slice.misses += 1;
            (slice.lines, slice.lines_so_far) = (here.len(), ever.len());
        }
    }
    slices
}

#[cfg(test)]
mod tests {
    use super::super::reader::tests::{bytes, end, miss};
    use super::*;
    use proptest::prelude::*;
    use proto::trace::Cause;

    fn summary(records: &[Record]) -> Summary {
        let all = bytes(&[records, &[end(records.len() as u64, 0)]].concat());
        Summary::of(&mut Reader::new(&all[..]).unwrap(), 2).unwrap()
    }

    #[test]
    fn of_known_misses() {
        // Out of order, as threads write them.
        let mut records: Vec<Record> = (0..40)
            .map(|n| miss(n * 100, 0x1000 * (n % 4) + 8, Cause::Remote))
            .collect();
        records.reverse();
        records.push(miss(4000, 0x1_0000_0000, Cause::ZeroFill));
        let summary = summary(&records);
        assert_eq!(summary.misses, 41);
        let place = |address: &str, misses| Place {
            address: address.into(),
            misses,
        };
        assert_eq!(summary.top_lines, [place("0x0", 10), place("0x1000", 10)]);
        assert_eq!(
            summary.top_regions,
            [place("0x0", 40), place("0x100000000", 1)]
        );
        let gaps = &summary.between_misses;
        assert_eq!((gaps.count, gaps.mean, gaps.max), (40, 100, 100));
        assert_eq!(
            (
                summary.causes["remote"].count,
                summary.causes["zero_fill"].p50
            ),
            (40, 1500)
        );
        assert_eq!(summary.slices.len(), 20);
        assert_eq!(summary.slices.iter().map(|s| s.misses).sum::<u64>(), 41);
        assert_eq!(summary.slices.last().unwrap().lines_so_far, 5);
        assert!(summary.text().contains("41 misses"), "{}", summary.text());
    }

    #[test]
    fn of_nothing() {
        let text = summary(&[]).text();
        assert!(text.starts_with("0 misses"), "{text}");
    }

    proptest! {
        #[test]
        fn of_whatever_times_and_addresses(all: Vec<(u64, u64)>) {
            let records: Vec<Record> = all
                .iter()
                .map(|&(time, address)| miss(time, address, Cause::File))
                .collect();
            let summary = summary(&records);
            prop_assert_eq!(summary.misses, all.len() as u64);
            prop_assert!(summary.slices.len() <= SLICES as usize + 1);
            let counted: u64 = summary.slices.iter().map(|s| s.misses).sum();
            prop_assert_eq!(counted, all.len() as u64);
            summary.text();
        }
    }
}
