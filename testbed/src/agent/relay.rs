//! Streams over a channel. A *source* reads a descriptor and sends what it
//! reads, never more than the other end has given credit for; a *sink* writes
//! what came to a descriptor and gives credit for what it wrote. So a reader
//! that stalls stalls its own stream alone, and nothing is kept beyond
//! [`WINDOW`] bytes.

use super::message::{CHUNK, Message, Sender, Stream, WINDOW};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// What poll(2) guarantees to be writable without blocking (pipe(7)).
const PIPE_BUF: usize = 4096;

/// Something that has happened, once and for all; can be polled.
pub(crate) struct Event(OwnedFd);

impl Event {
    pub(crate) fn new() -> rustix::io::Result<Event> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        eventfd(0, flags).map(Event)
    }

    pub(crate) fn set(&self) {
        // It can't fail: the counter is far from its end.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }
}

impl AsFd for Event {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until `fd` has become ready or `stop` has happened: whether the
/// former.
fn ready(fd: BorrowedFd<'_>, flags: PollFlags, stop: &Event) -> bool {
    loop {
        let mut waits = [
            PollFd::from_borrowed_fd(fd, flags),
            PollFd::from_borrowed_fd(stop.as_fd(), PollFlags::IN),
        ];
        match poll(&mut waits, None) {
            Ok(_) if !waits[0].revents().is_empty() => return true,
            Ok(_) if !waits[1].revents().is_empty() => return false,
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

/// Reads a descriptor on a thread of its own.
pub(crate) struct Source {
    handle: SourceHandle,
    thread: JoinHandle<()>,
}

struct Credit {
    state: Mutex<(usize, bool)>,
    changed: Condvar,
}

impl Credit {
    /// How much may be sent; `None` once nobody wants it.
    fn wait(&self) -> Option<usize> {
        let state = lock(&self.state);
        let state = self
            .changed
            .wait_while(state, |(credit, shut)| *credit == 0 && !*shut);
        let (credit, shut) = *state.unwrap_or_else(PoisonError::into_inner);
        (!shut).then_some(credit)
    }
}

impl Source {
    /// Sends what `fd` gives as `stream` of the program `id`, then its end.
    pub(crate) fn start(
        sender: Sender,
        id: u32,
        stream: Stream,
        fd: OwnedFd,
    ) -> std::io::Result<Source> {
        let credit = Arc::new(Credit {
            state: Mutex::new((WINDOW, false)),
            changed: Condvar::new(),
        });
        let finish = Arc::new(Event::new()?);
        let (theirs, finished) = (credit.clone(), finish.clone());
        let thread = std::thread::Builder::new()
            .name("source".to_owned())
            .spawn(move || {
                source(&sender, id, stream, fd, &theirs, &finished);
            })?;
        let handle = SourceHandle { credit, finish };
        Ok(Source { handle, thread })
    }

    /// Sends what is there already, and no more.
    pub(crate) fn drain(self) {
        self.handle.finish.set();
        let _ = self.thread.join();
    }

    /// To reach it while another thread waits for it.
    pub(crate) fn handle(&self) -> SourceHandle {
        self.handle.clone()
    }
}

/// Reaches a [`Source`] that somebody else waits for.
#[derive(Clone)]
pub(crate) struct SourceHandle {
    credit: Arc<Credit>,
    finish: Arc<Event>,
}

impl SourceHandle {
    /// The other end takes so many bytes more.
    pub(crate) fn credit(&self, bytes: u32) {
        let mut state = lock(&self.credit.state);
        state.0 = state.0.saturating_add(bytes as usize).min(WINDOW);
        self.credit.changed.notify_all();
    }

    /// Stops it: nobody wants more.
    pub(crate) fn shut(&self) {
        lock(&self.credit.state).1 = true;
        self.credit.changed.notify_all();
        self.finish.set();
    }
}

fn source(sender: &Sender, id: u32, stream: Stream, fd: OwnedFd, credit: &Credit, finish: &Event) {
    let mut buffer = vec![0; CHUNK];
    while let Some(allowed) = credit.wait() {
        if !ready(fd.as_fd(), PollFlags::IN, finish) {
            break;
        }
        let most = allowed.min(CHUNK);
        let count = match rustix::io::read(&fd, &mut buffer[..most]) {
            Ok(0) => break,
            Ok(count) => count,
            Err(Errno::INTR | Errno::AGAIN) => continue,
            Err(_) => break,
        };
        lock(&credit.state).0 -= count;
        let bytes = buffer[..count].to_vec();
        if sender.send(&Message::Data { id, stream, bytes }).is_err() {
            return;
        }
    }
    // The writer learns at once that nobody reads.
    drop(fd);
    let bytes = Vec::new();
    let _ = sender.send(&Message::Data { id, stream, bytes });
}

/// Writes to a descriptor on a thread of its own.
pub(crate) struct Sink {
    queue: Arc<Queue>,
    stop: Arc<Event>,
    thread: JoinHandle<()>,
}

struct Queue {
    state: Mutex<Queued>,
    changed: Condvar,
}

#[derive(Default)]
struct Queued {
    chunks: VecDeque<Vec<u8>>,
    bytes: usize,
    ended: bool,
}

impl Sink {
    pub(crate) fn start(
        sender: Sender,
        id: u32,
        stream: Stream,
        fd: OwnedFd,
    ) -> std::io::Result<Sink> {
        let queue = Arc::new(Queue {
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let stop = Arc::new(Event::new()?);
        let (theirs, stopped) = (queue.clone(), stop.clone());
        let thread = std::thread::Builder::new()
            .name("sink".to_owned())
            .spawn(move || {
                if !sink(&sender, id, stream, &fd, &theirs, &stopped) {
                    let _ = sender.send(&Message::Shut { id, stream });
                }
            })?;
        Ok(Sink {
            queue,
            stop,
            thread,
        })
    }

    /// Takes bytes, or the end. False if the peer sent more than it may.
    pub(crate) fn push(&self, bytes: Vec<u8>) -> bool {
        let mut queued = lock(&self.queue.state);
        if bytes.is_empty() {
            queued.ended = true;
        } else {
            queued.bytes += bytes.len();
            queued.chunks.push_back(bytes);
        }
        self.queue.changed.notify_all();
        queued.bytes <= WINDOW
    }

    /// Writes no more.
    pub(crate) fn stop(&self) {
        lock(&self.queue.state).ended = true;
        self.queue.changed.notify_all();
        self.stop.set();
    }

    /// Waits until all is written, or the reader has gone.
    pub(crate) fn finish(self) {
        lock(&self.queue.state).ended = true;
        self.queue.changed.notify_all();
        let _ = self.thread.join();
    }
}

impl Queue {
    fn next(&self) -> Option<Vec<u8>> {
        let state = lock(&self.state);
        let waited = self
            .changed
            .wait_while(state, |queued| queued.chunks.is_empty() && !queued.ended);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        state.chunks.pop_front()
    }
}

/// False if the descriptor takes no more.
fn sink(
    sender: &Sender,
    id: u32,
    stream: Stream,
    fd: &OwnedFd,
    queue: &Queue,
    stop: &Event,
) -> bool {
    while let Some(chunk) = queue.next() {
        if !write_all(fd, &chunk, stop) {
            return false;
        }
        lock(&queue.state).bytes -= chunk.len();
        let bytes = u32::try_from(chunk.len()).unwrap_or(u32::MAX);
        if sender.send(&Message::Credit { id, stream, bytes }).is_err() {
            return true;
        }
    }
    true
}

fn write_all(fd: &OwnedFd, mut rest: &[u8], stop: &Event) -> bool {
    while !rest.is_empty() {
        if !ready(fd.as_fd(), PollFlags::OUT, stop) {
            return false;
        }
        match rustix::io::write(fd, &rest[..rest.len().min(PIPE_BUF)]) {
            Ok(count) => rest = &rest[count..],
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(_) => return false,
        }
    }
    true
}
