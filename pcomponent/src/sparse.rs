//! A sparse array over the address space: found by number without a lock, made on
//! first use, never freed.

use host::mapping;
use host::sys::Errno;
use std::sync::atomic::{AtomicPtr, Ordering};

/// See the module. What threads do with an item is the item's affair.
pub(crate) struct Sparse<T: 'static> {
    items: &'static [AtomicPtr<T>],
}

impl<T: Send + Sync + 'static> Sparse<T> {
    /// With numbers below `len`, none of them made: 8 bytes of untouched address
    /// space for each, never given back.
    ///
    /// # Errors
    /// `ENOMEM`: not so much address space.
    pub(crate) fn new(len: usize) -> Result<Sparse<T>, Errno> {
        let at = mapping::map_anywhere(len * size_of::<AtomicPtr<T>>())?;
        // SAFETY: a mapping of that size, aligned to pages, ours and never
        // unmapped; its zeros are null pointers.
        let items = unsafe { std::slice::from_raw_parts(at.cast(), len) };
        Ok(Sparse { items })
    }

    fn place(&self, number: u64) -> Option<&AtomicPtr<T>> {
        self.items.get(usize::try_from(number).ok()?)
    }

    /// The item with this number, if it has been made.
    #[inline]
    pub(crate) fn get(&self, number: u64) -> Option<&T> {
        let at = self.place(number)?.load(Ordering::Acquire);
        // SAFETY: non-null entries are leaked boxes, never freed.
        (!at.is_null()).then(|| unsafe { &*at })
    }

    /// The item with this number, made if need be. `None` past the end.
    #[inline]
    pub(crate) fn get_or_make(&self, number: u64, make: impl FnOnce() -> T) -> Option<&T> {
        match self.get(number) {
            Some(item) => Some(item),
            None => self.make(number, make()),
        }
    }

    #[cold]
    fn make(&self, number: u64, item: T) -> Option<&T> {
        let place = self.place(number)?;
        let new = Box::into_raw(Box::new(item));
        let won = place.compare_exchange(
            std::ptr::null_mut(),
            new,
            Ordering::AcqRel,
            Ordering::Acquire,
        );
        if won.is_err() {
            // SAFETY: the box is ours: nobody has seen it.
            drop(unsafe { Box::from_raw(new) });
        }
        self.get(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn what_is_made_once_stays() {
        let all: Sparse<Mutex<u32>> = Sparse::new(1 << 20).unwrap();
        assert!(all.get(7).is_none());
        assert!(all.get_or_make(1 << 20, Mutex::default).is_none());
        assert!(all.get(u64::MAX).is_none());
        std::thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| {
                    for number in (0..1 << 20).step_by(1 << 14) {
                        let item = all.get_or_make(number, Mutex::default);
                        *item.unwrap().lock().unwrap() += 1;
                    }
                });
            }
        });
        let count = |n| all.get(n).map(|item| *item.lock().unwrap());
        assert!((0..1 << 20).step_by(1 << 14).all(|n| count(n) == Some(4)));
        assert_eq!(count(1), None);
    }
}
