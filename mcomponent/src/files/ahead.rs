//! Reading ahead, on a thread of its own: the reader does not wait for what it
//! has not asked for.

use super::{File, Files};
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock, Weak};

/// Wishes that may wait; more are forgotten.
const QUEUE: usize = 32;

type Wish = (Arc<File>, Range<u64>);

/// The thread, started when it is first needed.
#[derive(Default)]
pub(super) struct Ahead {
    wishes: OnceLock<Option<SyncSender<Wish>>>,
}

impl Ahead {
    /// Has extents filled, if there is time for it.
    pub(super) fn ask(&self, files: &Weak<Files>, file: &Arc<File>, extents: Range<u64>) {
        if extents.is_empty() {
            return;
        }
        let wishes = self.wishes.get_or_init(|| start(files.clone()));
        if let Some(wishes) = wishes {
            let _ = wishes.try_send((file.clone(), extents));
        }
    }
}

fn start(files: Weak<Files>) -> Option<SyncSender<Wish>> {
    let (sender, receiver) = sync_channel(QUEUE);
    let thread = std::thread::Builder::new().name("read-ahead".into());
    match thread.spawn(move || serve(&files, &receiver)) {
        Ok(_) => Some(sender),
        Err(e) => {
            tracing::warn!("no thread to read ahead: {e}");
            None
        }
    }
}

fn serve(files: &Weak<Files>, wishes: &Receiver<Wish>) {
    while let Ok((file, extents)) = wishes.recv() {
        let Some(files) = files.upgrade() else { return };
        for index in extents {
            match files.fill(&file, index) {
                Ok(new) => {
                    files
                        .counters
                        .ahead
                        .fetch_add(u64::from(new), Ordering::Relaxed);
                }
                Err(_) => break, // Whoever needs it will be told.
            }
        }
    }
}
