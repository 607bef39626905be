//! Every record, for other programs. In the order of the file: each thread's
//! in order, the threads' in turns of some milliseconds.

use super::reader::Reader;
use anyhow::Result;
use proto::trace::{Event, Record};
use serde_json::{Value, json};
use std::io::{Read, Write};

/// Comma-separated values, with a heading.
pub(super) fn csv<R: Read>(reader: &mut Reader<R>, to: &mut dyn Write) -> Result<()> {
    writeln!(
        to,
        "time_ns,duration_ns,thread,event,cause,access,address,lines,clean,dirty,lost"
    )?;
    while let Some(record) = reader.next()? {
        let Record {
            time_ns,
            duration_ns,
            thread,
            address,
            ..
        } = record;
        write!(to, "{time_ns},{duration_ns},{thread},")?;
        match record.event {
            Event::Miss {
                cause,
                access,
                lines,
            } => {
                let (cause, access) = (cause.name(), access.name());
                writeln!(to, "miss,{cause},{access},{address:#x},{lines},,,")?;
            }
            Event::Eviction { clean, dirty } => {
                writeln!(to, "eviction,,,{address:#x},,{clean},{dirty},")?;
            }
            Event::Lost { records } => writeln!(to, "lost,,,,,,,{records}")?,
            Event::End { .. } => {}
        }
    }
    Ok(())
}

/// What a record says of its event.
fn details(record: &Record) -> (&'static str, Value) {
    let address = format!("{:#x}", record.address);
    match record.event {
        Event::Miss {
            cause,
            access,
            lines,
        } => (
            cause.name(),
            json!({ "address": address, "access": access.name(), "lines": lines }),
        ),
        Event::Eviction { clean, dirty } => (
            "eviction",
            json!({ "address": address, "clean": clean, "dirty": dirty }),
        ),
        Event::Lost { records } | Event::End { records, .. } => {
            ("lost", json!({ "records": records }))
        }
    }
}

/// A JSON object a line.
pub(super) fn json<R: Read>(reader: &mut Reader<R>, to: &mut dyn Write) -> Result<()> {
    while let Some(record) = reader.next()? {
        let (name, mut all) = details(&record);
        let event = match record.event {
            Event::Miss { .. } => {
                all["cause"] = json!(name);
                "miss"
            }
            _ => name,
        };
        all["event"] = json!(event);
        all["time_ns"] = json!(record.time_ns);
        all["duration_ns"] = json!(record.duration_ns);
        all["thread"] = json!(record.thread);
        writeln!(to, "{all}")?;
    }
    Ok(())
}

/// The Trace Event Format of Chrome, which Perfetto reads.
pub(super) fn chrome<R: Read>(reader: &mut Reader<R>, to: &mut dyn Write) -> Result<()> {
    let header = reader.header;
    let pid = header.pid;
    let other = json!({
        "line_bytes": header.line_bytes,
        "cache_lines": header.lines,
        "start_monotonic_ns": header.start_monotonic_ns,
        "start_unix_ns": header.start_unix_ns,
    });
    let name = json!({
        "name": "process_name", "ph": "M", "pid": pid, "args": { "name": "program" },
    });
    write!(
        to,
        "{{\"displayTimeUnit\":\"ns\",\"otherData\":{other},\"traceEvents\":[\n{name}"
    )?;
    while let Some(record) = reader.next()? {
        let (name, args) = details(&record);
        let category = match record.event {
            Event::Miss { .. } => "miss",
            Event::Eviction { .. } => "eviction",
            Event::Lost { .. } | Event::End { .. } => "lost",
        };
        // Microseconds, exactly: a double would lose nanoseconds.
        let us = |ns: u64| format!("{}.{:03}", ns / 1000, ns % 1000);
        write!(
            to,
            ",\n{{\"name\":\"{name}\",\"cat\":\"{category}\",\"ph\":\"X\",\"ts\":{},\"dur\":{},\
             \"pid\":{pid},\"tid\":{},\"args\":{args}}}",
            us(record.time_ns),
            us(record.duration_ns),
            record.thread
        )?;
    }
    Ok(writeln!(to, "\n]}}")?)
}

#[cfg(test)]
mod tests {
    use super::super::reader::tests::{bytes, end, miss};
    use super::*;
    use proto::trace::Cause;
    use std::io::Cursor;

    type Input = Reader<Cursor<Vec<u8>>>;

    fn exported(form: fn(&mut Input, &mut dyn Write) -> Result<()>) -> String {
        let eviction = Record {
            event: Event::Eviction { clean: 2, dirty: 3 },
            ..miss(9_000, 0x3000, Cause::File)
        };
        let lost = Record {
            event: Event::Lost { records: 5 },
            ..miss(10, 0, Cause::File)
        };
        let all = [
            miss(1_234_567, 0x1000, Cause::Remote),
            eviction,
            lost,
            end(3, 5),
        ];
        let bytes = Cursor::new(bytes(&all));
        let mut out = Vec::new();
        form(&mut Reader::new(bytes).unwrap(), &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn as_csv() {
        let text = exported(csv);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[1..],
            [
                "1234567,1500,7,miss,remote,read,0x1000,1,,,",
                "9000,1500,7,eviction,,,0x3000,,2,3,",
                "10,1500,7,lost,,,,,,,5",
            ]
        );
        let columns = |line: &&str| line.split(',').count();
        assert!(lines.iter().all(|line| columns(line) == 11), "{text}");
    }

    #[test]
    fn as_json() {
        let text = exported(json);
        let all: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(all.len(), 3);
        assert_eq!(
            (&all[0]["event"], &all[0]["cause"]),
            (&json!("miss"), &json!("remote"))
        );
        assert_eq!(
            (&all[1]["dirty"], &all[2]["records"]),
            (&json!(3), &json!(5))
        );
    }

    #[test]
    fn as_chrome() {
        let all: Value = serde_json::from_str(&exported(chrome)).unwrap();
        let events = all["traceEvents"].as_array().unwrap();
        assert_eq!(events.len(), 4);
        assert_eq!(events[1]["ts"], json!(1234.567));
        assert_eq!(
            (&events[1]["dur"], &events[1]["pid"]),
            (&json!(1.5), &json!(42))
        );
        assert_eq!(events[2]["args"]["dirty"], json!(3));
    }
}
