//! A sparse array over the address space: found by number without a lock, made on
//! first use, never freed.

use std::sync::atomic::{AtomicPtr, Ordering};

/// See the module. What threads do with an item is the item's affair.
pub(crate) struct Sparse<T> {
    items: Box<[AtomicPtr<T>]>,
}

impl<T> Sparse<T> {
    /// With numbers below `len`, none of them made: 8 bytes of untouched address
    /// space for each.
    pub(crate) fn new(len: usize) -> Sparse<T> {
        // A zeroed allocation of this size is untouched memory, not a fill.
        let zeroed = vec![0usize; len].into_boxed_slice();
        let raw = Box::into_raw(zeroed) as *mut [AtomicPtr<T>];
        // SAFETY: AtomicPtr has usize's size and alignment, and 0 is null.
        let items = unsafe { Box::from_raw(raw) };
        Sparse { items }
    }

    fn place(&self, number: u64) -> Option<&AtomicPtr<T>> {
        self.items.get(usize::try_from(number).ok()?)
    }

    /// The item with this number, if it has been made.
    #[inline]
    pub(crate) fn get(&self, number: u64) -> Option<&T> {
        let at = self.place(number)?.load(Ordering::Acquire);
        // SAFETY: non-null entries are boxes that live as long as `self`.
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
        let all: Sparse<Mutex<u32>> = Sparse::new(1 << 20);
        assert!(all.get(7).is_none());
        assert!(all.get_or_make(1 << 20, Mutex::default).is_none());
        assert!(all.get(u64::MAX).is_none());
        std::thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| {
                    for number in (0..1 << 20).step_by(1 << 14) {
                        *all.get_or_make(number, Mutex::default)
                            .unwrap()
                            .lock()
                            .unwrap() += 1;
                    }
                });
            }
        });
        let count = |n| all.get(n).map(|item| *item.lock().unwrap());
        assert!((0..1 << 20).step_by(1 << 14).all(|n| count(n) == Some(4)));
        assert_eq!(count(1), None);
    }
}
