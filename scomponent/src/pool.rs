//! A few threads for what may wait for a disk, behind a bounded queue.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Something to do.
pub type Job = Box<dyn FnOnce() + Send>;

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

    /// Queues a job.
    ///
    /// # Errors
    /// The queue is full: the job comes back.
    pub fn submit(&self, job: Job) -> Result<(), Job> {
        let mut queue = self.shared.queue();
        if queue.jobs.len() >= self.shared.limit {
            return Err(job);
        }
        queue.jobs.push_back(job);
        drop(queue);
        self.shared.wake.notify_one();
        Ok(())
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
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(job)).is_err() {
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
        let (started, starts) = mpsc::channel();
        let (release, gate) = mpsc::channel::<()>();
        let gate = Arc::new(Mutex::new(gate));
        let job = || -> Job {
            let (started, gate) = (started.clone(), gate.clone());
            Box::new(move || {
                started.send(()).unwrap();
                let _ = gate.lock().unwrap().recv();
            })
        };
        for _ in 0..2 {
            assert!(pool.submit(job()).is_ok());
            starts.recv().unwrap();
        }
        assert!(pool.submit(job()).is_ok(), "one may wait");
        assert!(pool.submit(job()).is_err(), "a second may not");
        for _ in 0..3 {
            release.send(()).unwrap();
        }
        starts.recv().unwrap();
        drop(pool);
    }

    #[test]
    fn a_panic_does_not_end_the_thread() {
        let pool = Pool::new(1, 4).unwrap();
        let (done, ended) = mpsc::channel();
        assert!(pool.submit(Box::new(|| panic!("on purpose"))).is_ok());
        assert!(pool.submit(Box::new(move || done.send(7).unwrap())).is_ok());
        assert_eq!(ended.recv(), Ok(7));
    }

    #[test]
    fn what_is_queued_is_done_before_the_end() {
        let (done, ended) = mpsc::channel();
        let pool = Pool::new(1, 64).unwrap();
        for n in 0..50 {
            let done = done.clone();
            assert!(pool.submit(Box::new(move || done.send(n).unwrap())).is_ok());
        }
        drop(pool);
        assert_eq!(
            ended.try_iter().collect::<Vec<_>>(),
            (0..50).collect::<Vec<_>>()
        );
    }
}
