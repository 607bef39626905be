//! Files as the program sees them: metadata from the storage component, data
//! through the buffer cache at a memory component; and the host objects beside
//! them (pipes, sockets, terminals).
//!
//! Consistency is close-to-open, as NFS has it: open(2) checks the cached
//! version against storage, close(2) returns when storage has what this
//! process wrote. Within the process every read sees every finished write.
//! Writes are not gathered here: what write(2) returned for is at the memory
//! component, and survives the process.

mod ahead;
mod file;
mod host;
mod hostcalls;
mod inner;
mod ops;
mod remote;
mod state;
mod window;
mod wire;

#[cfg(test)]
mod tests;

#[allow(unreachable_pub)]
pub use file::RemoteFile;
pub(crate) use remote::RemoteFiles;
