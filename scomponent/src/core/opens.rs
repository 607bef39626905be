//! Who has which file open. Soft state: a restart forgets it, and then only
//! files that have no name any more are lost, as the protocol says.

use crate::core::handle::FileKey;
use crate::core::path::is_beneath;
use proto::{Errno, Identity};
use std::collections::HashMap;

/// Most opens remembered in all.
pub const MAX_OPENS: u64 = 1 << 20;

#[derive(Default)]
struct Client {
    files: HashMap<FileKey, u64>,
    /// Sweeps seen since its last connection closed.
    gone: Option<u32>,
}

struct Total {
    count: u64,
    path: Vec<u8>,
}

/// Counts of opens per client and per file.
#[derive(Default)]
pub struct Opens {
    clients: HashMap<Identity, Client>,
    files: HashMap<FileKey, Total>,
    count: u64,
}

impl Opens {
    /// Whether one more open can be remembered.
    ///
    /// # Errors
    /// `ENFILE` where it can't.
    pub fn admit(&self) -> Result<(), Errno> {
        if self.count < MAX_OPENS {
            Ok(())
        } else {
            Err(Errno::ENFILE)
        }
    }

    /// `client` opened a file that is at `path`.
    pub fn handle_open(&mut self, client: Identity, key: FileKey, path: &[u8]) {
        *self
            .clients
            .entry(client)
            .or_default()
            .files
            .entry(key)
            .or_default() += 1;
        let total = self.files.entry(key).or_insert_with(|| Total {
            count: 0,
            path: Vec::new(),
        });
        total.count += 1;
        total.path = path.to_vec();
        self.count += 1;
    }

    /// `client` closed it. True where nobody has it open any more; closing
    /// what the client has not opened changes nothing.
    pub fn handle_close(&mut self, client: Identity, key: FileKey) -> bool {
        let Some(files) = self.clients.get_mut(&client).map(|c| &mut c.files) else {
            return false;
        };
        let Some(count) = files.get_mut(&key) else {
            return false;
        };
        *count -= 1;
        if *count == 0 {
            files.remove(&key);
        }
        self.release(key, 1)
    }

    /// `client` connected: it is not gone.
    pub fn handle_connected(&mut self, client: Identity) {
        if let Some(client) = self.clients.get_mut(&client) {
            client.gone = None;
        }
    }

    /// Its last connection closed.
    pub fn handle_gone(&mut self, client: Identity) {
        if let Some(client) = self.clients.get_mut(&client) {
            client.gone = Some(0);
        }
    }

    /// Closes the files of clients that were gone for a whole interval
    /// between sweeps: a connection that broke may come back. Returns the
    /// files that nobody has open any more.
    #[must_use]
    pub fn sweep(&mut self) -> Vec<FileKey> {
        let mut expired = Vec::new();
        for (identity, client) in &mut self.clients {
            if let Some(sweeps) = &mut client.gone {
                *sweeps += 1;
                if *sweeps > 1 {
                    expired.push(*identity);
                }
            }
        }
        self.clients
            .retain(|_, client| !client.files.is_empty() || client.gone.is_some());
        expired
            .into_iter()
            .flat_map(|client| self.forget(client))
            .collect()
    }

    /// Whether anybody has it open.
    #[must_use]
    pub fn is_open(&self, key: FileKey) -> bool {
        self.files.contains_key(&key)
    }

    /// The open files that were opened at `dir` or beneath it, and where.
    #[must_use]
    pub fn beneath(&self, dir: &[u8]) -> Vec<(FileKey, Vec<u8>)> {
        let inside = self
            .files
            .iter()
            .filter(|(_, total)| is_beneath(dir, &total.path));
        inside
            .map(|(key, total)| (*key, total.path.clone()))
            .collect()
    }

    fn forget(&mut self, client: Identity) -> Vec<FileKey> {
        let files = self
            .clients
            .remove(&client)
            .map(|c| c.files)
            .unwrap_or_default();
        files
            .into_iter()
            .filter(|(key, n)| self.release(*key, *n))
            .map(|(key, _)| key)
            .collect()
    }

    fn release(&mut self, key: FileKey, n: u64) -> bool {
        self.count = self.count.saturating_sub(n);
        let Some(total) = self.files.get_mut(&key) else {
            return false;
        };
        total.count = total.count.saturating_sub(n);
        let last = total.count == 0;
        if last {
            self.files.remove(&key);
        }
        last
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::ProcessId;
    use proto::store::FileId;

    const A: Identity = Identity::Process(ProcessId(1));
    const B: Identity = Identity::Process(ProcessId(2));

    fn key(ino: u64) -> FileKey {
        FileKey {
            id: FileId { dev: 1, ino },
            born: (0, 0),
        }
    }

    #[test]
    fn the_last_close_counts_and_only_of_who_opened() {
        let mut opens = Opens::default();
        opens.handle_open(A, key(1), b"f");
        opens.handle_open(A, key(1), b"f");
        opens.handle_open(B, key(1), b"f");
        assert!(!opens.handle_close(A, key(1)));
        assert!(!opens.handle_close(A, key(1)));
        assert!(!opens.handle_close(A, key(1)), "not open by A any more");
        assert!(opens.is_open(key(1)));
        assert!(opens.handle_close(B, key(1)));
        assert!(!opens.is_open(key(1)));
        assert!(!opens.handle_close(B, key(1)));
    }

    #[test]
    fn a_client_that_comes_back_in_time_keeps_its_files() {
        let mut opens = Opens::default();
        opens.handle_open(A, key(1), b"f");
        opens.handle_gone(A);
        assert!(opens.sweep().is_empty());
        opens.handle_connected(A);
        assert!(opens.sweep().is_empty());
        assert!(opens.is_open(key(1)));
        opens.handle_gone(A);
        assert!(opens.sweep().is_empty());
        assert_eq!(opens.sweep(), [key(1)]);
        assert_eq!(opens.count, 0);
        assert!(opens.clients.is_empty());
    }

    #[test]
    fn open_files_beneath_a_directory() {
        let mut opens = Opens::default();
        opens.handle_open(A, key(1), b"d/f");
        opens.handle_open(A, key(2), b"dd");
        assert_eq!(opens.beneath(b"d"), [(key(1), b"d/f".to_vec())]);
        assert_eq!(opens.beneath(b"").len(), 2);
    }

    #[test]
    fn opens_are_bounded() {
        let mut opens = Opens {
            count: MAX_OPENS,
            ..Opens::default()
        };
        assert_eq!(opens.admit(), Err(Errno::ENFILE));
        opens.count -= 1;
        assert_eq!(opens.admit(), Ok(()));
    }
}
