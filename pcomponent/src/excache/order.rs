//! The ways of a set in the order in which their lines came: two lists, linked
//! through the ways. A way is in one of them or in none.

/// One of the two lists.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum List {
    /// Of the lines that stay.
    Staying,
    /// Of those that pass through.
    Passing,
}

/// What is noted of a way.
#[derive(Clone, Copy)]
struct Mark {
    /// The way that came after; itself where it is in no list.
    next: u32,
    /// The way that came before.
    prev: u32,
    /// When it came.
    stamp: u32,
    list: List,
}

const _: () = assert!(size_of::<Mark>() == 16);

/// See the module.
pub(super) struct Order {
    /// Behind the ways each list has a mark where its two ends meet.
    marks: Box<[Mark]>,
    len: [usize; 2],
    clock: u32,
}

impl Order {
    /// Of `ways` ways, none of them in a list.
    pub(super) fn new(ways: usize) -> Order {
        let alone = |n| Mark {
            next: n,
            prev: n,
            stamp: 0,
            list: List::Staying,
        };
        Order {
            marks: (0..ways as u32 + 2).map(alone).collect(),
            len: [0; 2],
            clock: 0,
        }
    }

    pub(super) fn ways(&self) -> usize {
        self.marks.len() - 2
    }

    fn end(&self, list: List) -> usize {
        self.ways() + list as usize
    }

    /// Ways in a list.
    pub(super) fn len(&self, list: List) -> usize {
        self.len[list as usize]
    }

    /// How many came since the one in `way`.
    pub(super) fn age(&self, way: usize) -> usize {
        // The counter may wrap.
        self.clock.wrapping_sub(self.marks[way].stamp) as usize
    }

    /// A way that is in no list becomes a list's youngest.
    pub(super) fn push(&mut self, list: List, way: usize) {
        let end = self.end(list);
        let prev = self.marks[end].prev;
        self.clock = self.clock.wrapping_add(1);
        self.marks[way] = Mark {
            next: end as u32,
            prev,
            stamp: self.clock,
            list,
        };
        self.marks[prev as usize].next = way as u32;
        self.marks[end].prev = way as u32;
        self.len[list as usize] += 1;
    }

    /// Takes a way out of the list that it is in, if it is in one.
    pub(super) fn remove(&mut self, way: usize) {
        let Mark {
            next, prev, list, ..
        } = self.marks[way];
        if next as usize == way {
            return;
        }
        self.marks[prev as usize].next = next;
        self.marks[next as usize].prev = prev;
        self.marks[way].next = way as u32;
        self.marks[way].prev = way as u32;
        self.len[list as usize] -= 1;
    }

    /// The ways of a list, the oldest first.
    pub(super) fn oldest_first(&self, list: List) -> impl Iterator<Item = usize> + '_ {
        self.walk(self.end(list), |mark| mark.next)
    }

    /// The ways of a list, the youngest first.
    pub(super) fn youngest_first(&self, list: List) -> impl Iterator<Item = usize> + '_ {
        self.walk(self.end(list), |mark| mark.prev)
    }

    fn walk(&self, end: usize, step: fn(&Mark) -> u32) -> impl Iterator<Item = usize> + '_ {
        let step = move |at: usize| Some(step(&self.marks[at]) as usize).filter(|&at| at != end);
        std::iter::successors(step(end), move |&at| step(at))
    }
}

#[cfg(test)]
mod tests {
    use super::List::{Passing, Staying};
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    proptest! {
        /// Against two queues.
        #[test]
        fn lists_are_queues(steps in prop::collection::vec((0usize..12, 0u8..4), 0..400)) {
            let mut order = Order::new(12);
            let mut model = [VecDeque::new(), VecDeque::new()];
            for (way, what) in steps {
                let held = [Staying, Passing]
                    .into_iter()
                    .find(|l| model[*l as usize].contains(&way));
                match (held, what) {
                    (None, 0..3) => {
                        let list = if what == 0 { Staying } else { Passing };
                        order.push(list, way);
                        prop_assert_eq!(order.age(way), 0);
                        model[list as usize].push_back(way);
                    }
                    (None, _) => order.remove(way),
                    (Some(held), _) => {
                        order.remove(way);
                        model[held as usize].retain(|w| *w != way);
                    }
                }
                for list in [Staying, Passing] {
                    let expected = &model[list as usize];
                    prop_assert_eq!(order.len(list), expected.len());
                    prop_assert!(order.oldest_first(list).eq(expected.iter().copied()));
                    prop_assert!(order.youngest_first(list).eq(expected.iter().rev().copied()));
                }
            }
        }
    }
}
