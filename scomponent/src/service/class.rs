//! Which requests may be carried out where.

use proto::store::StoreRequest;

/// How long a request may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Class {
    /// About the component itself.
    Own,
    /// Changes nothing: can be tried without waiting.
    Look,
    /// Changes names or attributes: quick unless the disk is busy.
    Change,
    /// Moves data or waits for the disk.
    Heavy,
}

/// `O_CREAT | O_TRUNC`.
const MAKES: u32 = 0o1100;

pub(super) fn of(request: &StoreRequest) -> Class {
    use StoreRequest as Q;
    match request {
        Q::Stats => Class::Own,
        Q::Open { flags, .. } if flags & MAKES == 0 => Class::Look,
        Q::StatPath { .. }
        | Q::Stat { .. }
        | Q::Read { .. }
        | Q::Stage { .. }
        | Q::Readlink { .. }
        | Q::Access { .. }
        | Q::Statfs { .. }
        | Q::PathOf { .. } => Class::Look,
        // The last close of an unlinked file frees its blocks.
        Q::Open { .. }
        | Q::Close { .. }
        | Q::Mkdir { .. }
        | Q::Mknod { .. }
        | Q::Unlink { .. }
        | Q::Rename { .. }
        | Q::Link { .. }
        | Q::Symlink { .. }
        | Q::Chmod { .. }
        | Q::Chown { .. }
        | Q::Utimens { .. } => Class::Change,
        Q::Write { .. }
        | Q::Truncate { .. }
        | Q::Fallocate { .. }
        | Q::Fsync { .. }
        | Q::ReadDir { .. } => Class::Heavy,
    }
}
