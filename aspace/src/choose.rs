//! Where a mapping goes when the program leaves that open.

use crate::space::AddressSpace;
use crate::vma::Vma;
use proto::Errno;
use proto::addr::{PAGE_SIZE, USER_MAX, USER_MIN, UserAddr, UserRange};
use proto::mem::MapFlags;

/// Mappings are placed below this address, downwards; above it is room for
/// the main stack.
pub const TOP: UserAddr = UserAddr(USER_MAX.0 - (1 << 30));

/// One past the highest address of a `MAP_32BIT` mapping.
const LOW_TOP: UserAddr = UserAddr(1 << 31);

/// Bytes kept free below a stack (Linux's `stack_guard_gap`, 256 pages).
pub const GUARD_GAP: u64 = 256 * PAGE_SIZE;

/// The lowest address that `vma` keeps others from.
fn reach(vma: &Vma) -> u64 {
    let gap = if vma.flags.has(MapFlags::STACK) {
        GUARD_GAP
    } else {
        0
    };
    vma.range.start().0.saturating_sub(gap)
}

impl AddressSpace {
    /// A free range of `len` bytes (rounded up to pages): at `hint`, rounded
    /// up to a page, where that is free, else as high below [`TOP`] as it
    /// fits (`LOW`: below 2 GiB). Guard gaps of stacks stay free.
    ///
    /// `avoid` may refuse a candidate by naming an address: the search goes on
    /// with ranges that end there or lower. Naming none below the candidate's
    /// end gives up.
    ///
    /// # Errors
    /// `EINVAL` for a length of 0, `ENOMEM` where it fits nowhere.
    pub fn choose(
        &self,
        len: u64,
        hint: UserAddr,
        flags: MapFlags,
        avoid: &dyn Fn(UserRange) -> Option<UserAddr>,
    ) -> Result<UserRange, Errno> {
        let len = round_up(len)?;
        let hinted = self.at_hint(len, hint, flags);
        if let Some(range) = hinted.filter(|range| avoid(*range).is_none()) {
            return Ok(range);
        }
        let top = if flags.has(MapFlags::LOW) {
            LOW_TOP
        } else {
            TOP
        };
        self.downwards(len, top, flags, avoid).ok_or(Errno::ENOMEM)
    }

    fn at_hint(&self, len: u64, hint: UserAddr, flags: MapFlags) -> Option<UserRange> {
        if hint.0 == 0 {
            return None;
        }
        let range = UserRange::new(hint.align_up(PAGE_SIZE)?, len)?;
        let low = flags.has(MapFlags::LOW);
        let fits = !low || range.end() <= LOW_TOP;
        (fits && self.is_clear(range, flags)).then_some(range)
    }

    /// Whether `range` is free, and the guard gaps of the stack above it and
    /// of itself.
    pub(crate) fn is_clear(&self, range: UserRange, flags: MapFlags) -> bool {
        let below = match flags.has(MapFlags::STACK) {
            true => UserAddr(range.start().0.saturating_sub(GUARD_GAP).max(USER_MIN.0)),
            false => range.start(),
        };
        let wide = UserRange::between(below, range.end()).unwrap_or(range);
        let above = self
            .vmas
            .range(range.end()..)
            .next()
            .map(|(_, vma)| reach(vma));
        self.is_free(wide) && above.is_none_or(|floor| range.end().0 <= floor)
    }

    fn downwards(
        &self,
        len: u64,
        top: UserAddr,
        flags: MapFlags,
        avoid: &dyn Fn(UserRange) -> Option<UserAddr>,
    ) -> Option<UserRange> {
        let gap = if flags.has(MapFlags::STACK) {
            GUARD_GAP
        } else {
            0
        };
        let mut below = self.vmas.range(..top).rev().map(|(_, vma)| vma).peekable();
        let mut limit = top.0;
        let mut above = self
            .vmas
            .range(top..)
            .next()
            .map_or(u64::MAX, |(_, vma)| reach(vma));
        loop {
            let floor = below.peek().map_or(USER_MIN.0, |vma| vma.range.end().0);
            let start = limit.min(above).checked_sub(len);
            let fits = start.filter(|s| s.checked_sub(gap).is_some_and(|low| low >= floor));
            match fits {
                Some(start) => {
                    let range = UserRange::new(UserAddr(start), len)?;
                    let Some(next) = avoid(range) else {
                        return Some(range);
                    };
                    if next >= range.end() {
                        return None;
                    }
                    limit = next.align_down(PAGE_SIZE).0;
                }
                None => above = reach(below.next()?),
            }
        }
    }
}

/// `len` in whole pages.
pub(crate) fn round_up(len: u64) -> Result<u64, Errno> {
    match UserAddr(len).align_up(PAGE_SIZE) {
        _ if len == 0 => Err(Errno::EINVAL),
        Some(len) if len.0 <= USER_MAX.0 => Ok(len.0),
        _ => Err(Errno::ENOMEM),
    }
}
