//! The six registers of a system call, as the types they are meant to be.

use proto::UserAddr;

/// The arguments of a system call. What a program puts there is an
/// allegation; the accessors truncate as the kernel's prototypes do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Args(pub [u64; 6]);

impl Args {
    /// The whole register.
    #[must_use]
    pub fn raw(self, n: usize) -> u64 {
        self.0.get(n).copied().unwrap_or(0)
    }
    /// A pointer.
    #[must_use]
    pub fn addr(self, n: usize) -> UserAddr {
        UserAddr(self.raw(n))
    }
    /// A pointer that may be null.
    #[must_use]
    pub fn opt_addr(self, n: usize) -> Option<UserAddr> {
        Some(self.addr(n)).filter(|a| a.0 != 0)
    }
    /// An `int`, descriptors among them.
    #[must_use]
    pub fn int(self, n: usize) -> i32 {
        self.uint(n).cast_signed()
    }
    /// An `unsigned int`.
    #[must_use]
    #[allow(clippy::cast_possible_truncation)]
    pub fn uint(self, n: usize) -> u32 {
        self.raw(n) as u32
    }
    /// A `long`.
    #[must_use]
    pub fn long(self, n: usize) -> i64 {
        self.raw(n).cast_signed()
    }
    /// A `size_t`.
    #[must_use]
    pub fn len(self, n: usize) -> usize {
        usize::try_from(self.raw(n)).unwrap_or(usize::MAX)
    }
}
