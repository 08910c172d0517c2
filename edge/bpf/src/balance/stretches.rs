use std::collections::BTreeSet;

/// A stretch of slots: `1 << order` of them, from a multiple of that on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Stretch {
    pub base: u32,
    pub order: u8,
}

impl Stretch {
    /// How many slots it has.
    pub fn room(self) -> u32 {
        1 << self.order
    }

    /// The order that has room for so many slots.
    pub fn order_for(count: u32) -> u8 {
        // At most 31: more than that no array has.
        let room = count.max(1).checked_next_power_of_two();
        room.map_or(31, |room| u8::try_from(room.trailing_zeros()).unwrap_or(31))
    }
}

/// Which stretches of the array of slots are free: buddies. A stretch is taken from the smallest
/// free one that has room, of those the first, so that what is in use stays close together; one
/// that is given back becomes one with its other half when that is free too.
///
/// A set uses at least a quarter of its stretch (see [`super::sets`]). A stretch of `n` slots is
/// refused only when every aligned `n` slots of the array have some in use.
#[derive(Debug, Clone)]
pub(super) struct Stretches {
    /// Bases of free stretches, by order.
    free: Vec<BTreeSet<u32>>,
    slots: u32,
    used: u32,
}

impl Stretches {
    /// All of an array of so many slots is free, but the first one.
    pub fn new(slots: u32) -> Self {
        let mut all = Self {
            free: vec![BTreeSet::new(); 32],
            slots,
            used: 0,
        };
        // Number zero stands for none in other tables, and for what nobody wrote in this one.
        all.free_range(1, slots);
        all
    }

    /// All of an array but these, which overlap nowhere.
    pub fn except(slots: u32, mut taken: Vec<Stretch>) -> Self {
        taken.sort_unstable();
        let mut all = Self {
            free: vec![BTreeSet::new(); 32],
            slots,
            used: 0,
        };
        let mut at = 1;
        for stretch in taken {
            all.free_range(at, stretch.base);
            at = stretch.base + stretch.room();
            all.used += stretch.room();
        }
        all.free_range(at, slots);
        all
    }

    /// Frees `from..to`, as the largest aligned stretches that it is made of.
    fn free_range(&mut self, mut from: u32, to: u32) {
        while from < to {
            let aligned = from.trailing_zeros().min(31);
            let fits = (to - from).ilog2();
            let order = aligned.min(fits);
            self.free[order as usize].insert(from);
            from += 1 << order;
        }
    }

    /// Takes a stretch.
    pub fn take(&mut self, order: u8) -> Option<Stretch> {
        let found = (order as usize..self.free.len()).find(|at| !self.free[*at].is_empty())?;
        let base = self.free[found].pop_first()?;
        for half in (order as usize..found).rev() {
            self.free[half].insert(base + (1 << half));
        }
        self.used += 1 << order;
        Some(Stretch { base, order })
    }

    /// Gives a stretch back.
    pub fn give(&mut self, stretch: Stretch) {
        let Stretch {
            mut base,
            mut order,
        } = stretch;
        self.used -= stretch.room();
        while (order as usize) + 1 < self.free.len()
            && self.free[order as usize].remove(&(base ^ 1 << order))
        {
            base &= !(1 << order);
            order += 1;
        }
        self.free[order as usize].insert(base);
    }

    /// Slots that are in use, and those that there are.
    pub fn usage(&self) -> (u32, u32) {
        (self.used, self.slots)
    }

    /// The largest stretch that is free.
    #[cfg(test)]
    pub fn largest(&self) -> u32 {
        let order = self.free.iter().rposition(|free| !free.is_empty());
        order.map_or(0, |order| 1 << order)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn halves_become_one_again() {
        let mut all = Stretches::new(1024);
        let taken: Vec<_> = (0..64).map(|_| all.take(3).unwrap()).collect();
        assert_eq!(taken[0], Stretch { base: 8, order: 3 });
        assert_eq!(all.usage(), (512, 1024));
        assert_eq!(all.take(10), None, "the first slot is nobody's");
        for stretch in taken {
            all.give(stretch);
        }
        assert_eq!(all.largest(), 512);
        assert_eq!(all.usage().0, 0);
    }

    proptest! {
        #[test]
        fn stretches_never_overlap_and_nothing_is_lost(
            steps in prop::collection::vec((any::<bool>(), 0_u8..7, any::<prop::sample::Index>()), 1..200),
            slots in 100_u32..3000,
        ) {
            let mut all = Stretches::new(slots);
            let mut taken: Vec<Stretch> = Vec::new();
            for (take, order, index) in steps {
                if take {
                    taken.extend(all.take(order));
                } else if !taken.is_empty() {
                    all.give(taken.swap_remove(index.index(taken.len())));
                }
                let mut sorted = taken.clone();
                sorted.sort_unstable();
                for pair in sorted.windows(2) {
                    prop_assert!(pair[0].base + pair[0].room() <= pair[1].base);
                }
                for stretch in &sorted {
                    prop_assert!(stretch.base > 0 && stretch.base + stretch.room() <= slots);
                    prop_assert_eq!(stretch.base % stretch.room(), 0);
                }
                // What is rebuilt from what is in use has the same room.
                let again = Stretches::except(slots, taken.clone());
                prop_assert_eq!(again.usage(), all.usage());
                prop_assert!(again.largest() >= all.largest());
            }
            for stretch in taken {
                all.give(stretch);
            }
            let largest = Stretches::new(slots).largest();
            prop_assert_eq!(all.largest(), largest);
        }
    }
}
