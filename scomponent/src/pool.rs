//! A few threads for what may wait for a disk, behind a bounded queue.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Something to do, told whether its turn came.
pub type Job = Box<dyn FnOnce(Turn) + Send>;

/// Why a job is called.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Turn {
    /// A thread of the pool has time for it.
    Run,
    /// The queue is full: it is to say no, at once.
    Refused,
}

/// The threads. Dropping it finishes what is queued and ends them.
pub struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
    limit: usize,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    closed: bool,
}

impl Pool {
    /// `threads` threads, and at most `limit` jobs that wait for one.
    ///
    /// # Errors
    /// No thread could be started.
    pub fn new(threads: usize, limit: usize) -> std::io::Result<Pool> {
        let queue = Mutex::new(Queue::default());
        let shared = Arc::new(Shared {
            queue,
            wake: Condvar::new(),
            limit: limit.max(1),
        });
        let mut pool = Pool {
            shared,
            threads: Vec::new(),
        };
        for n in 0..threads.max(1) {
            let shared = pool.shared.clone();
            let name = format!("storage-{n}");
            let thread = std::thread::Builder::new()
                .name(name)
                .spawn(move || work(&shared))?;
            pool.threads.push(thread);
        }
        Ok(pool)
    }

    /// Queues a job; where the queue is full it is refused on the spot.
    pub fn submit(&self, job: Job) {
        let mut queue = self.shared.queue();
        if queue.jobs.len() >= self.shared.limit {
            drop(queue);
            return job(Turn::Refused);
        }
        queue.jobs.push_back(job);
        drop(queue);
        self.shared.wake.notify_one();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.queue().closed = true;
        self.shared.wake.notify_all();
        for thread in self.threads.drain(..) {
            // A job that panicked has reported itself.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> Option<Job> {
        let waiting = |queue: &mut Queue| queue.jobs.is_empty() && !queue.closed;
        let awake = self.wake.wait_while(self.queue(), waiting);
        awake
            .unwrap_or_else(PoisonError::into_inner)
            .jobs
            .pop_front()
    }
}

/// A panic costs its job's answer (the caller's connection breaks), not the
/// thread.
fn work(shared: &Shared) {
    while let Some(job) = shared.next() {
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| job(Turn::Run))).is_err() {
            tracing::error!("a request panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn jobs_run_side_by_side_and_the_queue_is_bounded() {
        let pool = Pool::new(2, 1).unwrap();
        let (turn, turns) = mpsc::channel();
        let (release, gate) = mpsc::channel::<()>();
        let gate = Arc::new(Mutex::new(gate));
        let submit = || {
            let (turn, gate) = (turn.clone(), gate.clone());
            pool.submit(Box::new(move |why| {
                turn.send(why).unwrap();
                if why == Turn::Run {
                    let _ = gate.lock().unwrap().recv();
                }
            }));
        };
        for _ in 0..2 {
            submit();
            assert_eq!(turns.recv(), Ok(Turn::Run));
        }
        submit();
        submit();
        assert_eq!(
            turns.recv(),
            Ok(Turn::Refused),
            "one may wait, a second may not"
        );
        for _ in 0..3 {
            release.send(()).unwrap();
        }
        assert_eq!(turns.recv(), Ok(Turn::Run));
    }

    #[test]
    fn a_panic_does_not_end_the_thread() {
        let pool = Pool::new(1, 4).unwrap();
        let (done, ended) = mpsc::channel();
        pool.submit(Box::new(|_| panic!("on purpose")));
        pool.submit(Box::new(move |_| done.send(7).unwrap()));
        assert_eq!(ended.recv(), Ok(7));
    }

    #[test]
    fn what_is_queued_is_done_before_the_end() {
        let (done, ended) = mpsc::channel();
        let pool = Pool::new(1, 64).unwrap();
        for n in 0..50 {
            let done = done.clone();
            pool.submit(Box::new(move |_| done.send(n).unwrap()));
        }
        drop(pool);
        assert_eq!(
            ended.try_iter().collect::<Vec<_>>(),
            (0..50).collect::<Vec<_>>()
        );
    }
}
