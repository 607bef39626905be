//! The embedded store: what the managers must still know after kill -9.
//!
//! One redb database. Records are postcard inside tables keyed by their
//! numbers; the table `meta` carries the format's version and the next
//! numbers. A change is on disk when [`Store::commit`] returns.

use crate::core::records::{Change, NodeRecord, ProcessRecord, Snapshot};
use proto::{NodeId, ProcessId, VRegionId};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use serde::de::DeserializeOwned;
use std::path::Path;

/// Version of what the tables hold.
const FORMAT: u64 = 1;

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const NODES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("nodes");
const PROCESSES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("processes");
const VREGIONS: TableDefinition<'_, (u64, u32), u64> = TableDefinition::new("vregions");

/// The store refused, or holds what it should not.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file can't be opened.
    #[error("cannot open it: {0}")]
    Open(#[from] redb::DatabaseError),
    /// The file system refused.
    #[error("{0}")]
    File(std::io::Error),
    /// Reading or writing failed.
    #[error("{0}")]
    Io(#[from] redb::Error),
    /// Written by another version.
    #[error("it has format {found}, this gmm reads format {FORMAT}: start with another --state")]
    Format {
        /// The version found.
        found: u64,
    },
    /// A record can't be read.
    #[error("the record of {what} is damaged: start with another --state")]
    Damaged {
        /// Which.
        what: String,
    },
}

impl StoreError {
    fn file(error: std::io::Error) -> StoreError {
        StoreError::File(error)
    }
}

/// An empty file, whatever a crash left there.
fn fresh(path: &Path) -> Result<std::fs::File, StoreError> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::OpenOptions::new();
    options
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600);
    options.open(path).map_err(StoreError::file)
}

fn sync_parent(path: &Path) -> std::io::Result<()> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
    std::fs::File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

/// Turns the store's many error types into one.
macro_rules! io {
    ($result:expr) => {
        $result.map_err(redb::Error::from)
    };
}

/// The open store.
#[derive(Debug)]
pub struct Store {
    database: Database,
}

impl Store {
    /// Opens the file, or makes it, readable by its owner alone. It is made
    /// under another name and renamed once it is whole, so that a crash in
    /// between leaves nothing that can't be opened.
    ///
    /// # Errors
    /// [`StoreError`]: another gmm has it open, it is of another version or
    /// not a store at all, or the file system refuses.
    pub fn open(path: &Path) -> Result<Store, StoreError> {
        if !path.try_exists().map_err(StoreError::file)? {
            let mut unfinished = path.as_os_str().to_owned();
            unfinished.push(".new");
            let unfinished = Path::new(&unfinished);
            drop(Store::prepare(
                Database::builder().create_file(fresh(unfinished)?)?,
            )?);
            std::fs::rename(unfinished, path).map_err(StoreError::file)?;
            sync_parent(path).map_err(StoreError::file)?;
        }
        Store::prepare(Database::builder().open(path)?)
    }

    /// A store that ends with the process.
    ///
    /// # Errors
    /// [`StoreError`], for want of memory.
    pub fn in_memory() -> Result<Store, StoreError> {
        Store::with_backend(redb::backends::InMemoryBackend::new())
    }

    /// A store on any backend.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn with_backend(backend: impl redb::StorageBackend) -> Result<Store, StoreError> {
        Store::prepare(Database::builder().create_with_backend(backend)?)
    }

    fn prepare(database: Database) -> Result<Store, StoreError> {
        let found = Store::format(&database)?;
        match found {
            Some(FORMAT) => return Ok(Store { database }),
            Some(found) => return Err(StoreError::Format { found }),
            None => {}
        }
        let write = io!(database.begin_write())?;
        {
            io!(io!(write.open_table(META))?.insert("format", FORMAT))?;
            io!(write.open_table(NODES))?;
            io!(write.open_table(PROCESSES))?;
            io!(write.open_table(VREGIONS))?;
        }
        io!(write.commit())?;
        Ok(Store { database })
    }

    /// The version, if anything was ever stored.
    fn format(database: &Database) -> Result<Option<u64>, StoreError> {
        let read = io!(database.begin_read())?;
        let meta = match read.open_table(META) {
            Ok(meta) => meta,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
            Err(e) => return Err(redb::Error::from(e).into()),
        };
        Ok(io!(meta.get("format"))?.map(|version| version.value()))
    }

    /// Everything that is kept.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn load(&self) -> Result<Snapshot, StoreError> {
        let read = io!(self.database.begin_read())?;
        let meta = io!(read.open_table(META))?;
        let number = |name| Ok::<_, StoreError>(io!(meta.get(name))?.map_or(0, |n| n.value()));
        let mut kept = Snapshot {
            next_node: number("next_node")?,
            next_process: number("next_process")?,
            ..Snapshot::default()
        };
        for row in io!(io!(read.open_table(NODES))?.iter())? {
            let (id, bytes) = io!(row)?;
            kept.nodes
                .push(decode::<NodeRecord>(&NodeId(id.value()), bytes.value())?);
        }
        for row in io!(io!(read.open_table(PROCESSES))?.iter())? {
            let (id, bytes) = io!(row)?;
            kept.processes.push(decode::<ProcessRecord>(
                &ProcessId(id.value()),
                bytes.value(),
            )?);
        }
        for row in io!(io!(read.open_table(VREGIONS))?.iter())? {
            let (key, node) = io!(row)?;
            let (process, vregion) = key.value();
            let place = (ProcessId(process), VRegionId(vregion), NodeId(node.value()));
            kept.vregions.push(place);
        }
        Ok(kept)
    }

    /// Makes changes durable, all or none.
    ///
    /// # Errors
    /// [`StoreError`]: none of them was made.
    pub fn commit(&self, changes: &[Change]) -> Result<(), StoreError> {
        if changes.is_empty() {
            return Ok(());
        }
        let write = io!(self.database.begin_write())?;
        for change in changes {
            put(&write, change)?;
        }
        io!(write.commit())?;
        Ok(())
    }
}

fn put(write: &WriteTransaction, change: &Change) -> Result<(), StoreError> {
    match change {
        Change::Next { node, process } => {
            let mut meta = io!(write.open_table(META))?;
            io!(meta.insert("next_node", node))?;
            io!(meta.insert("next_process", process))?;
        }
        Change::Node(node) => {
            let bytes = proto::wire::encode(node);
            io!(io!(write.open_table(NODES))?.insert(node.id.0, &bytes[..]))?;
        }
        Change::Process(process) => {
            let bytes = proto::wire::encode(process);
            io!(io!(write.open_table(PROCESSES))?.insert(process.id.0, &bytes[..]))?;
        }
        Change::EndProcess(process) => {
            io!(io!(write.open_table(PROCESSES))?.remove(process.0))?;
            let mut vregions = io!(write.open_table(VREGIONS))?;
            let all = (process.0, 0)..=(process.0, u32::MAX);
            io!(vregions.retain_in(all, |_, _| false))?;
        }
        Change::VRegion(process, vregion, node) => {
            let mut vregions = io!(write.open_table(VREGIONS))?;
            io!(vregions.insert((process.0, vregion.0), node.0))?;
        }
        Change::LoseVRegion(process, vregion) => {
            io!(io!(write.open_table(VREGIONS))?.remove((process.0, vregion.0)))?;
        }
    }
    Ok(())
}

fn decode<T: DeserializeOwned>(
    what: &dyn std::fmt::Display,
    bytes: &[u8],
) -> Result<T, StoreError> {
    proto::wire::decode(bytes).map_err(|_| StoreError::Damaged {
        what: what.to_string(),
    })
}
