//! The programs that run here, to be asked for their counters.

use crate::watch::MOST_ANSWER;
use proto::stats::ProgramCounters;
use proto::{ProcessId, wire};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long the programs may take to answer, together.
const DEADLINE: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Default)]
pub(crate) struct Programs {
    running: Mutex<BTreeMap<ProcessId, Arc<Program>>>,
    /// Held by who asks: answers are for one at a time.
    asking: Mutex<Asked>,
    started: AtomicU64,
    asked: AtomicU64,
}

/// The last answer, and when it was asked for.
#[derive(Default)]
struct Asked {
    at: Option<Instant>,
    answer: Vec<ProgramCounters>,
}

struct Program {
    name: String,
    pid: i32,
    /// The other end is [`crate::watch`]'s.
    questions: OwnedFd,
}

impl Programs {
    /// One was started.
    pub(super) fn add(&self, process: ProcessId, name: String, pid: i32, questions: OwnedFd) {
        let program = Program {
            name,
            pid,
            questions,
        };
        self.running().insert(process, Arc::new(program));
        self.started.fetch_add(1, Ordering::Relaxed);
    }

    /// It has ended.
    pub(super) fn remove(&self, process: ProcessId) {
        self.running().remove(&process);
    }

    /// How many were started, and how many run.
    pub(super) fn count(&self) -> (u64, u64) {
        let running = self.running().len() as u64;
        (self.started.load(Ordering::Relaxed), running)
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<ProcessId, Arc<Program>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The counters of all that answer in time. Those that are stopped don't;
    /// what they say when they go on is told from an answer by its number.
    /// Who had to wait for another's question takes the answer to the next one,
    /// whoever asked it: so nobody waits for more than two.
    pub(super) fn counters(&self) -> Vec<ProgramCounters> {
        let wanted = Instant::now();
        let mut asked = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        if asked.at.is_none_or(|at| at < wanted) {
            asked.at = Some(Instant::now());
            asked.answer = self.ask();
        }
        asked.answer.clone()
    }

    fn ask(&self) -> Vec<ProgramCounters> {
        // Programs that start or end meanwhile need not wait.
        let running = self.running().clone();
        let number = self.asked.fetch_add(1, Ordering::Relaxed).to_le_bytes();
        let until = Instant::now() + DEADLINE;
        let asked: Vec<_> = running
            .iter()
            .filter(|(_, program)| {
                let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
                send(&program.questions, &number, flags).is_ok()
            })
            .collect();
        let heard = asked.into_iter().filter_map(|(process, program)| {
            let counters = program.hear(number, until)?;
            Some(ProgramCounters {
                process: *process,
                program: program.name.clone(),
                pid: program.pid,
                ..counters
            })
        });
        heard.collect()
    }
}

impl Program {
    fn hear(&self, number: [u8; 8], until: Instant) -> Option<ProgramCounters> {
        let mut bytes = vec![0; MOST_ANSWER];
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let limit = Timespec {
                tv_sec: i64::try_from(left.as_secs()).ok()?,
                tv_nsec: left.subsec_nanos().into(),
            };
            let mut ready = [PollFd::new(&self.questions, PollFlags::IN)];
            match poll(&mut ready, Some(&limit)) {
                Ok(0) => return None,
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(_) => return None,
            }
            let (len, _) = match recv(&self.questions, &mut bytes[..], RecvFlags::DONTWAIT) {
                Err(rustix::io::Errno::AGAIN) => continue,
                other => other.ok()?,
            };
            let (head, body) = bytes.get(..len)?.split_at_checked(8)?;
            if head == number {
                return wire::decode(body).ok();
            }
            if left.is_zero() {
                return None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    fn pair() -> (OwnedFd, OwnedFd) {
        let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
        socketpair(family, kind, SocketFlags::CLOEXEC, None).unwrap()
    }

    fn say(to: &OwnedFd, number: u64, misses: u64) {
        let counters = ProgramCounters {
            syscalls: misses,
            ..ProgramCounters::default()
        };
        let body = wire::encode(&counters);
        let answer = [&number.to_le_bytes()[..], &body].concat();
        send(to, &answer, SendFlags::empty()).unwrap();
    }

    #[test]
    fn late_answers_are_not_taken_for_others_and_silence_ends() {
        let (programs, (ours, theirs)) = (Programs::default(), pair());
        let (silent, _kept) = pair();
        programs.add(ProcessId(7), "busy".to_owned(), 70, ours);
        programs.add(ProcessId(8), "stopped".to_owned(), 80, silent);
        programs.asked.store(5, Ordering::Relaxed);
        say(&theirs, 4, 1);
        say(&theirs, 5, 2);
        let heard = programs.counters();
        let [one] = &heard[..] else {
            panic!("{heard:?}")
        };
        let said = (one.process, &*one.program, one.pid, one.syscalls);
        assert_eq!(said, (ProcessId(7), "busy", 70, 2));
        assert_eq!(programs.count(), (2, 2));
    }

    #[test]
    fn one_that_hung_up_or_speaks_nonsense_is_left_out() {
        let (programs, (ours, theirs)) = (Programs::default(), pair());
        let (gone, _) = pair();
        programs.add(ProcessId(1), "odd".to_owned(), 1, ours);
        programs.add(ProcessId(2), "gone".to_owned(), 2, gone);
        let nonsense = [&0u64.to_le_bytes()[..], &[0xff; 30]].concat();
        send(&theirs, &nonsense, SendFlags::empty()).unwrap();
        assert!(programs.counters().is_empty());
        programs.remove(ProcessId(2));
        assert_eq!(programs.count(), (2, 1));
    }
}
