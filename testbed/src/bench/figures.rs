//! What `testbed bench fabric` shows.

use super::Times;
use super::measure::DEPTH;
use crate::ending::Ending;
use crate::out::show;
use crate::table::text;
use anyhow::Result;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// One line of figures.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Figures {
    /// Of a testbed: whose link, `p0 to m0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) link: Option<String>,
    backend: String,
    operation: String,
    bytes: usize,
    iterations: usize,
    t_min_us: f64,
    t_typical_us: f64,
    t_avg_us: f64,
    t_99_us: f64,
    t_max_us: f64,
    /// Of operations under way together; perftest's own come without.
    pub(super) mib_per_second: Option<f64>,
    pub(super) operations_per_second: Option<f64>,
}

impl Figures {
    pub(super) fn new(backend: &str, operation: &str, bytes: usize, times: &Times) -> Figures {
        let us = |time: Duration| time.as_secs_f64() * 1e6;
        Figures {
            link: None,
            backend: backend.to_owned(),
            operation: operation.to_owned(),
            bytes,
            iterations: times.count,
            t_min_us: us(times.min),
            t_typical_us: us(times.median),
            t_avg_us: us(times.mean),
            t_99_us: us(times.p99),
            t_max_us: us(times.max),
            mib_per_second: None,
            operations_per_second: None,
        }
    }

    fn cells(&self) -> Vec<String> {
        let time = |us: f64| format!("{us:.2}");
        let maybe = |value: Option<f64>, places: usize| {
            value.map_or("-".to_owned(), |value| format!("{value:.places$}"))
        };
        vec![
            self.backend.clone(),
            self.operation.clone(),
            self.bytes.to_string(),
            self.iterations.to_string(),
            time(self.t_min_us),
            time(self.t_typical_us),
            time(self.t_avg_us),
            time(self.t_99_us),
            time(self.t_max_us),
            maybe(self.mib_per_second, 1),
            maybe(self.operations_per_second.map(|rate| rate / 1e6), 6),
        ]
    }
}

const HEADING: [&str; 11] = [
    "backend",
    "operation",
    "#bytes",
    "#iterations",
    "t_min[usec]",
    "t_typical[usec]",
    "t_avg[usec]",
    "99% percentile[usec]",
    "t_max[usec]",
    "BW average[MB/sec]",
    "MsgRate[Mpps]",
];

/// What was measured, shown as it comes.
pub(super) struct Table {
    json: bool,
    headed: bool,
    all: Vec<Figures>,
}

impl Table {
    pub(super) fn new(json: bool) -> Table {
        Table {
            json,
            headed: false,
            all: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, figures: Figures) -> Result<()> {
        if !self.json {
            let cells = figures.cells();
            let wide = |cell: String, heading: &str| format!("{cell:>w$}", w = heading.len());
            let row: Vec<String> = cells
                .into_iter()
                .zip(HEADING)
                .enumerate()
                .map(|(n, (cell, heading))| match n {
                    0 | 1 => format!("{cell:11}"),
                    _ => wide(cell, heading),
                })
                .collect();
            if !self.headed {
                self.headed = true;
                let heading: Vec<String> = HEADING
                    .into_iter()
                    .enumerate()
                    .map(|(n, name)| {
                        if n < 2 {
                            format!("{name:11}")
                        } else {
                            name.to_owned()
                        }
                    })
                    .collect();
                show(&text(&[heading]))?;
            }
            show(&text(&[row]))?;
        }
        self.all.push(figures);
        Ok(())
    }

    pub(super) fn gap(&self) -> Result<()> {
        if self.json { Ok(()) } else { Ok(show("\n")?) }
    }

    /// What follows is another link's.
    pub(super) fn title(&mut self, title: &str) -> Result<()> {
        if self.json {
            return Ok(());
        }
        self.headed = false;
        let gap = if self.all.is_empty() { "" } else { "\n" };
        Ok(show(&format!("{gap}{title}\n"))?)
    }

    pub(super) fn end(self) -> Result<Ending> {
        if self.json {
            show(&(serde_json::to_string_pretty(&self.all)? + "\n"))?;
        } else {
            show(&format!(
                "\nTimes are of one operation after the other, until it is complete: of rpc, the \
                 answer of\nthe same size. BW and MsgRate are of {DEPTH} under way together; MB \
                 are 2^20 bytes, as perftest has\nthem. ib_write_lat and ib_send_lat print half a \
                 ping-pong, ib_read_lat a whole read.\nbare is \
                 64 bytes answered by 4 KiB over a TCP socket, without the fabric.\n"
            ))?;
        }
        Ok(Ending::Exit(0))
    }
}
