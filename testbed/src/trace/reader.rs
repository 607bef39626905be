//! A trace, record by record.

use anyhow::{Context, Result, bail, ensure};
use proto::trace::{Event, HEADER, Header, RECORD, Record};
use std::io::Read;

/// Reads a trace; nothing that a file may hold makes it panic.
pub(super) struct Reader<R> {
    input: R,
    pub(super) header: Header,
    read: u64,
    lost: u64,
    ended: bool,
}

impl<R: Read> Reader<R> {
    /// Begins with the header.
    pub(super) fn new(mut input: R) -> Result<Reader<R>> {
        let mut bytes = [0; HEADER];
        let count = fill(&mut input, &mut bytes)?;
        ensure!(
            count == HEADER,
            "it has {count} bytes, fewer than the header's {HEADER}"
        );
        Ok(Reader {
            input,
            header: Header::decode(&bytes)?,
            read: 0,
            lost: 0,
            ended: false,
        })
    }

    /// The next miss, eviction or note of lost records; `None` at the end,
    /// also where the file ends inside a record.
    pub(super) fn next(&mut self) -> Result<Option<Record>> {
        let mut bytes = [0; RECORD];
        let count = fill(&mut self.input, &mut bytes)?;
        if self.ended {
            ensure!(count == 0, "something follows its last record");
            return Ok(None);
        }
        if count < RECORD {
            return Ok(None);
        }
        let record = Record::decode(&bytes).with_context(|| format!("record {}", self.read))?;
        match record.event {
            Event::End { records, .. } if records != self.read => {
                bail!("its end speaks of {records} records, it has {}", self.read)
            }
            Event::End { lost, .. } => {
                self.lost = lost;
                self.ended = true;
                return self.next();
            }
            Event::Lost { records } => self.lost = self.lost.saturating_add(records),
            Event::Miss { .. } | Event::Eviction { .. } => {}
        }
        self.read += 1;
        Ok(Some(record))
    }

    /// What is not in it, after [`Reader::next`] gave `None`.
    pub(super) fn missing(&self) -> Option<String> {
        let lost = self.lost;
        match (self.ended, lost) {
            (true, 0) => None,
            (true, _) => Some(format!("{lost} records were lost when it was made")),
            (false, _) => Some(format!(
                "it has no end: the program was killed or the disk was full, so its last records \
                 are missing; {lost} are known to have been lost before"
            )),
        }
    }
}

/// Reads until `bytes` are full or the input ends: how many.
fn fill(input: &mut impl Read, bytes: &mut [u8]) -> Result<usize> {
    let mut done = 0;
    while done < bytes.len() {
        match input.read(&mut bytes[done..]) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(why) if why.kind() == std::io::ErrorKind::Interrupted => {}
            // Not as an I/O error, which callers take for one of their output.
            Err(why) => bail!("reading: {why}"),
        }
    }
    Ok(done)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;
    use proto::trace::{Access, Cause, to_bytes};

    /// A miss of thread 7.
    pub(crate) fn miss(time_ns: u64, address: u64, cause: Cause) -> Record {
        let event = Event::Miss {
            cause,
            access: Access::Read,
            lines: 1,
        };
        Record {
            time_ns,
            duration_ns: 1500,
            thread: 7,
            address,
            event,
        }
    }

    pub(crate) fn end(records: u64, lost: u64) -> Record {
        Record {
            time_ns: 0,
            duration_ns: 0,
            thread: 0,
            address: 0,
            event: Event::End { records, lost },
        }
    }

    /// A trace of these.
    pub(crate) fn bytes(records: &[Record]) -> Vec<u8> {
        let header = Header {
            pid: 42,
            line_bytes: 4096,
            lines: 100,
            start_monotonic_ns: 1,
            start_unix_ns: 2,
        };
        let records = records.iter().flat_map(|r| to_bytes(&r.words()));
        header.encode().into_iter().chain(records).collect()
    }

    fn all(bytes: &[u8]) -> Result<(Vec<Record>, Option<String>)> {
        let mut reader = Reader::new(bytes)?;
        let mut records = Vec::new();
        while let Some(record) = reader.next()? {
            records.push(record);
        }
        Ok((records, reader.missing()))
    }

    #[test]
    fn a_whole_trace_misses_nothing() {
        let misses = [miss(1, 4096, Cause::Remote), miss(2, 8192, Cause::File)];
        let (read, missing) = all(&bytes(&[misses[0], misses[1], end(2, 0)])).unwrap();
        assert_eq!((&read[..], missing), (&misses[..], None));
        let (_, missing) = all(&bytes(&[misses[0], end(1, 9)])).unwrap();
        assert!(missing.unwrap().contains("9 records"));
    }

    #[test]
    fn a_cut_trace_is_read_as_far_as_it_goes() {
        let misses = [miss(1, 4096, Cause::Remote), miss(2, 8192, Cause::File)];
        let whole = bytes(&[misses[0], misses[1], end(2, 0)]);
        for cut in 0..whole.len() {
            let read = all(&whole[..cut]);
            if cut < HEADER {
                assert!(read.is_err(), "{cut}");
                continue;
            }
            let (records, missing) = read.unwrap();
            assert_eq!(records, misses[..((cut - HEADER) / RECORD).min(2)]);
            assert!(missing.unwrap().contains("no end"));
        }
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        let one = miss(1, 2, Cause::Joined);
        let wrong = all(&bytes(&[one, end(2, 0)])).unwrap_err();
        assert!(format!("{wrong:#}").contains("2 records"));
        let more = all(&bytes(&[end(0, 0), one])).unwrap_err();
        assert!(format!("{more:#}").contains("follows"));
        let mut garbage = bytes(&[one]);
        garbage[HEADER + 28] = 99;
        let kind = all(&garbage).unwrap_err();
        assert!(format!("{kind:#}").contains("kind 99"), "{kind:#}");
    }

    proptest! {
        #[test]
        fn any_bytes_behind_a_header_are_records_or_an_error(tail: Vec<u8>) {
            let _ = all(&[bytes(&[]), tail].concat());
        }

        #[test]
        fn any_bytes_are_no_trace(junk: Vec<u8>) {
            prop_assert!(all(&junk).is_err());
        }
    }
}
