//! The mappings that lines lie in.

use aspace::{AddressSpace, Vma};
use proto::addr::UserRange;

/// Looks mappings up for lines in their order: most lie in that of the one
/// before.
pub(super) struct Mappings<'a> {
    space: &'a AddressSpace,
    last: Option<&'a Vma>,
}

impl<'a> Mappings<'a> {
    pub(super) fn of(space: &'a AddressSpace) -> Mappings<'a> {
        Mappings { space, last: None }
    }

    /// The mapped parts of `range`, lowest first, each with its mapping.
    pub(super) fn parts(
        &mut self,
        range: UserRange,
    ) -> impl Iterator<Item = (&'a Vma, UserRange)> + use<'a> {
        let known = self.last.filter(|vma| vma.range.contains_range(range));
        let space = self.space;
        let mut found = known.is_none().then(|| space.overlapping(range));
        let first = known.or_else(|| found.as_mut()?.next());
        self.last = first;
        let all = first.into_iter().chain(found.into_iter().flatten());
        all.filter_map(move |vma| Some((vma, vma.range.intersect(range)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aspace::VmaBacking;
    use proto::addr::{PAGE_SIZE, UserAddr};
    use proto::mem::{MapFlags, Prot};

    #[test]
    fn parts_are_those_of_the_address_space() {
        let mut space = AddressSpace::new();
        let at = |page: u64| UserAddr(0x10_0000 + page * PAGE_SIZE);
        let protections = [Prot::READ, Prot::READ_WRITE, Prot::READ];
        for ((from, pages), prot) in [(0, 3), (3, 2), (8, 4)].into_iter().zip(protections) {
            let (len, flags) = (pages * PAGE_SIZE, MapFlags::FIXED);
            let mapped = space.map(at(from), len, prot, flags, VmaBacking::Anonymous);
            assert!(mapped.is_ok());
        }
        let mut mappings = Mappings::of(&space);
        let first = [0, 1, 2, 4, 6, 7, 10, 14, 2];
        for (from, pages) in first.into_iter().flat_map(|n| [(n, 1), (n, 2), (n, 5)]) {
            let range = UserRange::new(at(from), pages * PAGE_SIZE).unwrap();
            let parts: Vec<_> = mappings
                .parts(range)
                .map(|(vma, part)| (vma.range, part))
                .collect();
            let all = space.overlapping(range);
            let expected: Vec<_> = all
                .map(|vma| (vma.range, vma.range.intersect(range).unwrap()))
                .collect();
            assert_eq!(parts, expected, "{range}");
        }
    }
}
