//! Messages of the memory component: address spaces, committed memory and the
//! storage buffer cache. Pages themselves travel one-sided, under the leases
//! that these messages grant.

use crate::addr::{RemoteKey, UserAddr, UserRange};
use crate::gmm::NodeInfo;
use crate::store::{Attr, FileHandle, FileId, Timespec};
use crate::{Errno, Generation, NodeId, ProcessId, VRegionId};
use serde::{Deserialize, Serialize};

/// Protection of a mapping: the union of [`Prot::READ`], [`Prot::WRITE`],
/// [`Prot::EXEC`]; the values are those of `PROT_*`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Prot(pub u8);

impl Prot {
    /// No access.
    pub const NONE: Prot = Prot(0);
    /// `PROT_READ`.
    pub const READ: Prot = Prot(1);
    /// `PROT_WRITE`.
    pub const WRITE: Prot = Prot(2);
    /// `PROT_EXEC`.
    pub const EXEC: Prot = Prot(4);
    /// Read and write.
    pub const READ_WRITE: Prot = Prot(3);

    /// Whether all bits of `other` are in it.
    #[must_use]
    pub fn has(self, other: Prot) -> bool {
        self.0 & other.0 == other.0
    }
    /// Both.
    #[must_use]
    pub fn with(self, other: Prot) -> Prot {
        Prot(self.0 | other.0)
    }
}

/// How a mapping is asked for and kept: a union of the constants.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct MapFlags(pub u32);

impl MapFlags {
    /// `MAP_FIXED`: exactly there, what was there goes.
    pub const FIXED: MapFlags = MapFlags(1);
    /// `MAP_FIXED_NOREPLACE`: exactly there or `EEXIST`.
    pub const NOREPLACE: MapFlags = MapFlags(2);
    /// `MAP_SHARED`: writes reach the file (or, anonymous, other processes).
    pub const SHARED: MapFlags = MapFlags(4);
    /// `MAP_NORESERVE`: not counted against capacity until it is written.
    pub const NORESERVE: MapFlags = MapFlags(8);
    /// A stack: kept apart from its neighbours by a guard gap.
    pub const STACK: MapFlags = MapFlags(16);
    /// The heap that brk(2) moves.
    pub const HEAP: MapFlags = MapFlags(32);
    /// Below 2 GiB (`MAP_32BIT`).
    pub const LOW: MapFlags = MapFlags(64);

    /// Whether all bits of `other` are in it.
    #[must_use]
    pub fn has(self, other: MapFlags) -> bool {
        self.0 & other.0 == other.0
    }
    /// Both.
    #[must_use]
    pub fn with(self, other: MapFlags) -> MapFlags {
        MapFlags(self.0 | other.0)
    }
    /// Without the bits of `other`.
    #[must_use]
    pub fn without(self, other: MapFlags) -> MapFlags {
        MapFlags(self.0 & !other.0)
    }
}

/// A file as the memory component needs to know it: stateless, in every request.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct FileRef {
    /// Which file (names the cache's entry, together with `storage`).
    pub id: FileId,
    /// Who serves it.
    pub storage: NodeId,
    /// Its handle there.
    pub handle: FileHandle,
}

/// What a mapping shows before it is written.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Backing {
    /// Zeros.
    Anonymous,
    /// A file, from a page-aligned offset on.
    File {
        /// Which.
        file: FileRef,
        /// From where, a multiple of the page size.
        offset: u64,
    },
}

/// A change of an address space. The memory component at home decides; a
/// processor component keeps a replica by applying the same changes with the
/// addresses that were answered.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum SpaceOp {
    /// mmap(2).
    Map {
        /// Where, exactly or as a hint (0: anywhere).
        addr: UserAddr,
        /// Bytes, rounded up to pages.
        len: u64,
        /// Access.
        prot: Prot,
        /// How.
        flags: MapFlags,
        /// What.
        backing: Backing,
    },
    /// munmap(2).
    Unmap {
        /// What.
        range: UserRange,
    },
    /// mprotect(2).
    Protect {
        /// What.
        range: UserRange,
        /// To what.
        prot: Prot,
    },
    /// mremap(2). Contents are moved by the processor component.
    Remap {
        /// The old mapping.
        old: UserRange,
        /// Its new length, bytes.
        new_len: u64,
        /// `MREMAP_MAYMOVE`.
        may_move: bool,
        /// `MREMAP_FIXED`: there.
        to: Option<UserAddr>,
    },
    /// brk(2); 0 asks for the current break.
    Brk {
        /// The new break.
        addr: UserAddr,
    },
    /// The first break: where the heap starts, once, after the image is mapped.
    SetBrk {
        /// Page-aligned.
        addr: UserAddr,
    },
    /// madvise(2) with `MADV_DONTNEED` or `MADV_FREE`: contents are forgotten.
    Discard {
        /// What.
        range: UserRange,
    },
}

/// What came of a [`SpaceOp`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum SpaceDone {
    /// Map, Remap: where it is now.
    Mapped {
        /// The mapping.
        range: UserRange,
        /// vRegions of the range that were placed by this operation.
        placed: Vec<(VRegionId, NodeInfo)>,
    },
    /// Brk: the break now (unchanged where it could not move, as brk(2) has it).
    Brk {
        /// The break.
        addr: UserAddr,
        /// vRegions placed by this operation.
        placed: Vec<(VRegionId, NodeInfo)>,
    },
    /// The rest; Protect may place vRegions (memory becomes writable).
    Done {
        /// vRegions placed by this operation.
        placed: Vec<(VRegionId, NodeInfo)>,
    },
}

/// The right to read and write a committed extent one-sided.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Lease {
    /// For one-sided operations; offsets count from the extent's start.
    pub key: RemoteKey,
    /// The granting component's start: a lease of another one is void.
    pub generation: Generation,
    /// Whether writes are permitted.
    pub writable: bool,
}

/// The right to read (and write) a file's extent in the storage buffer cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FileLease {
    /// The lease; offsets count from the extent's start in the file.
    pub lease: Lease,
    /// Bytes of the extent that hold the file's data; after them come zeros up
    /// to the page's end, and nothing after that page.
    pub valid: u64,
    /// The file's size now.
    pub size: u64,
}

/// Requests to a memory component.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum MemRequest {
    /// Makes the sender's address space, empty. Identity: that process.
    CreateSpace,
    /// Ends an address space and frees its memory everywhere. Identity: that
    /// process, or a component (for a process that died). Unknown is no error.
    EndSpace {
        /// Whose.
        process: ProcessId,
    },
    /// Changes the sender's address space, in order; an operation that fails
    /// changes nothing and the ones after it are done all the same.
    /// Identity: the process.
    Space(Vec<SpaceOp>),
    /// Commits an extent of a vRegion placed here and leases it. Idempotent.
    /// Identity: the process.
    Commit {
        /// Extent number: address / [`crate::EXTENT_SIZE`].
        extent: u64,
    },
    /// Promises memory to a process for extents of a vRegion. All or nothing.
    /// Identity: a memory component.
    Reserve {
        /// Whose.
        process: ProcessId,
        /// Extent numbers, all of one vRegion.
        extents: Vec<u64>,
    },
    /// Takes promises back and frees what was committed under them.
    /// Identity: a memory component.
    Unreserve {
        /// Whose.
        process: ProcessId,
        /// Extent numbers.
        extents: Vec<u64>,
    },
    /// A client opened the file and saw these attributes at the storage
    /// component: cached data of another version is dropped unless dirty.
    FileOpen {
        /// Which.
        file: FileRef,
        /// As seen at storage.
        attr: Attr,
    },
    /// A client closed the file: its dirty data goes to storage before the
    /// answer.
    FileClose {
        /// Which.
        file: FileRef,
    },
    /// read(2): at most [`crate::wire::MAX_BULK`] bytes, short at end of file.
    FileRead {
        /// Which.
        file: FileRef,
        /// From where.
        offset: u64,
        /// How much.
        len: u32,
    },
    /// write(2): all of it or an error.
    FileWrite {
        /// Which.
        file: FileRef,
        /// Where; absent: at the end (`O_APPEND`).
        offset: Option<u64>,
        /// The bytes.
        #[serde(with = "serde_bytes")]
        data: Vec<u8>,
    },
    /// ftruncate(2).
    FileTruncate {
        /// Which.
        file: FileRef,
        /// New size.
        len: u64,
    },
    /// fsync(2): answered when storage has made it durable.
    FileSync {
        /// Which.
        file: FileRef,
        /// fdatasync(2).
        data_only: bool,
    },
    /// Size and times with what is still dirty here.
    FileStat {
        /// Which.
        file: FileRef,
    },
    /// Fills an extent from storage and leases it, with those after it that are
    /// there already.
    FileExtent {
        /// Which.
        file: FileRef,
        /// Offset in the file / [`crate::EXTENT_SIZE`].
        index: u64,
        /// Whether one-sided writes are wanted (shared writable mappings).
        writable: bool,
        /// Most extents after it; the component may grant fewer.
        more: u32,
    },
    /// Pages were written one-sided under a writable file lease.
    FileDirty {
        /// Which.
        file: FileRef,
        /// Page numbers in the file: first and count.
        pages: Vec<(u64, u32)>,
    },
    /// The component's own counters.
    Stats,
}

/// Answers of a memory component.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum MemReply {
    /// The rest.
    Done,
    /// To Space, one for each operation.
    Space(Vec<Result<SpaceDone, Errno>>),
    /// To Commit.
    Lease(Lease),
    /// To FileExtent: of that one, and of the next ones in order.
    FileLeases(Vec<FileLease>),
    /// To FileRead.
    Data(#[serde(with = "serde_bytes")] Vec<u8>),
    /// To FileWrite: where it went, and the file's size after it.
    Written {
        /// Offset of the first byte written.
        offset: u64,
        /// Size.
        size: u64,
    },
    /// To FileOpen, FileStat, FileTruncate, FileClose, FileSync.
    FileState {
        /// Bytes.
        size: u64,
        /// Last modification as known here.
        mtime: Timespec,
        /// Whether data waits to go to storage.
        dirty: bool,
    },
    /// To Stats.
    Stats(crate::stats::MemoryStats),
    /// errno.
    Failed(Errno),
}
