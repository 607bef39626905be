use super::*;
use proto::trace::{HEADER, RECORD, Record};
use std::io::Read;

/// The records of a trace, its header checked.
fn records(bytes: &[u8]) -> Vec<Record> {
    let header = Header::decode(bytes[..HEADER].try_into().unwrap()).unwrap();
    assert_eq!((header.line_bytes, header.lines), (4096, 7));
    assert!(header.start_monotonic_ns > 0 && header.start_unix_ns > 0);
    assert_eq!((bytes.len() - HEADER) % RECORD, 0);
    let chunks = bytes[HEADER..].chunks_exact(RECORD);
    chunks
        .map(|chunk| Record::decode(chunk.try_into().unwrap()).unwrap())
        .collect()
}

#[test]
fn what_threads_trace_is_written_and_accounted_for() {
    let mut file = tempfile();
    let tracer = Tracer::start(file.try_clone().unwrap().into(), 4096, 7).unwrap();
    std::thread::scope(|scope| {
        for n in 0..3 {
            let lane = tracer.lane();
            scope.spawn(move || {
                lane.adopt();
                for at in 0..1000 {
                    lane.miss(at * 4096 + n, (Cause::Remote, Access::Read), 1, 10);
                }
                lane.eviction(n, (2, 3), 20);
            });
        }
    });
    let account = tracer.finish();
    assert_eq!(
        (account.records, account.lost, account.error),
        (3003, 0, None)
    );
    let mut bytes = Vec::new();
    std::io::Seek::rewind(&mut file).unwrap();
    file.read_to_end(&mut bytes).unwrap();
    let all = records(&bytes);
    assert_eq!(all.len(), 3004);
    let end = Event::End {
        records: 3003,
        lost: 0,
    };
    assert_eq!(all.last().unwrap().event, end);
    let threads: std::collections::BTreeSet<u32> = all[..3003].iter().map(|r| r.thread).collect();
    assert_eq!(threads.len(), 3);
    for thread in threads {
        let theirs: Vec<&Record> = all.iter().filter(|r| r.thread == thread).collect();
        assert_eq!(theirs.len(), 1001);
        assert!(
            theirs[..1000]
                .iter()
                .zip(0..)
                .all(|(r, n)| r.address / 4096 == n)
        );
        let eviction = Event::Eviction { clean: 2, dirty: 3 };
        assert_eq!(theirs[1000].event, eviction);
    }
}

#[test]
fn a_full_disk_ends_the_trace_alone() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let tracer = Tracer::start(full.into(), 4096, 7).unwrap();
    let lane = tracer.lane();
    (0..10).for_each(|at| lane.miss(at, (Cause::File, Access::Execute), 1, 10));
    let account = tracer.finish();
    assert_eq!((account.records, account.lost), (0, 10));
    assert!(account.error.unwrap().contains("space"), "names the cause");
}

#[test]
fn a_reader_that_stalls_costs_records_which_are_counted_where_they_are_missing() {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let tracer = Tracer::start(writer.into(), 4096, 7).unwrap();
    let lane = tracer.lane();
    // Far more than the ring and the pipe take together.
    let all = 200_000;
    (0..all).for_each(|at| lane.miss(at, (Cause::Remote, Access::Write), 1, 10));
    let reading = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).map(|_| bytes)
    });
    let account = tracer.finish();
    let all_read = records(&reading.join().unwrap().unwrap());
    assert!(account.lost > 0 && account.error.is_none(), "{account:?}");
    let (mut misses, mut lost) = (0, 0);
    for record in &all_read {
        match record.event {
            Event::Lost { records } => lost += records,
            Event::Miss { .. } => misses += 1,
            _ => {}
        }
    }
    assert_eq!((lost, misses + lost), (account.lost, all));
    assert_eq!(all_read.len() as u64, account.records + 1);
}

fn tempfile() -> File {
    use rustix::fs::{MemfdFlags, memfd_create};
    memfd_create("trace", MemfdFlags::CLOEXEC).unwrap().into()
}
