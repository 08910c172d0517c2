//! How a set becomes another one by the fewest writes.

use std::collections::HashMap;
use std::sync::Arc;

use watari_tables::{Balancer, FrontendKind};

use super::shadow::Role;
use super::stretches::Stretch;
use super::words::Members;

/// Slots that every set may keep, however few it uses.
const SMALL: u32 = 8;

/// A number with how many slots it is to have.
pub(super) type Share = (u32, u8);

/// What becomes of a set's slots.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Edited {
    /// The numbers in the slots afterwards.
    pub slots: Vec<u32>,
    /// Which of them are another one than before.
    pub writes: Vec<(u32, u32)>,
    /// False if there is nothing to do.
    pub changed: bool,
    /// There are fewer slots than before.
    pub shrinks: bool,
    /// Somebody comes.
    pub adds: bool,
}

fn index(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

/// From what is in the slots to what is wanted: who comes gets the slot of one who goes; of what is left,
/// the last slot's number goes where nobody is any more.
pub(super) fn edit(slots: &[u32], wanted: &[Share]) -> Edited {
    let mut missing: HashMap<u32, u32> = HashMap::with_capacity(wanted.len());
    for (number, share) in wanted {
        *missing.entry(*number).or_default() += u32::from(*share);
    }
    let mut holes = Vec::new();
    for (at, number) in slots.iter().enumerate() {
        match missing.get_mut(number) {
            Some(left) if *left > 0 => *left -= 1,
            _ => holes.push(at),
        }
    }
    let mut edited = Edited {
        slots: slots.to_vec(),
        ..Edited::default()
    };
    let mut holes = holes.into_iter();
    for (number, _) in wanted {
        let Some(left) = missing.get_mut(number) else {
            continue;
        };
        for _ in 0..std::mem::take(left) {
            let at = holes.next().unwrap_or(edited.slots.len());
            if at == edited.slots.len() {
                edited.slots.push(*number);
            } else {
                edited.slots[at] = *number;
            }
            edited.writes.push((index(at), *number));
            edited.adds = true;
        }
    }
    edited.shrinks = holes.len() > 0;
    for hole in holes.rev() {
        let last = edited.slots.pop();
        if let (Some(place), Some(last)) = (edited.slots.get_mut(hole), last) {
            *place = last;
            edited.writes.push((index(hole), last));
        }
    }
    edited.changed = edited.shrinks || !edited.writes.is_empty();
    // What was moved, and cut off then.
    let count = index(edited.slots.len());
    edited.writes.retain(|(at, _)| *at < count);
    edited
}

/// Which stretch a set of so many slots is to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    /// That which it has.
    Stays,
    /// None.
    Nothing,
    /// Another one, of this order.
    Moves(u8),
}

/// A set moves when it does not fit, or uses less than a quarter of what it has.
pub(super) fn fit(stretch: Option<Stretch>, count: usize) -> Fit {
    let count = index(count);
    match stretch.map(Stretch::room) {
        None if count == 0 => Fit::Stays,
        _ if count == 0 => Fit::Nothing,
        Some(room) if room >= count && (room <= SMALL || room / 4 <= count) => Fit::Stays,
        _ => Fit::Moves(Stretch::order_for(count)),
    }
}

/// Roles that have the same members, and so one set.
#[derive(Debug, Clone)]
pub(super) struct Class {
    pub members: Members,
    pub roles: Vec<Role>,
}

/// A balancer's sets. Whom no frontend asks for is as the others.
pub(super) fn classes(balancer: &Balancer) -> Vec<Class> {
    let mut kinds = balancer.frontends.values();
    let cluster = kinds.any(|kind| *kind == FrontendKind::ClusterIp);
    let mut kinds = balancer.frontends.values();
    let others = kinds.any(|kind| *kind != FrontendKind::ClusterIp);
    let mut classes: Vec<Class> = Vec::with_capacity(1);
    for role in Role::ALL {
        let members = match role {
            Role::Inside if cluster => &balancer.inside.members,
            Role::Inside => &balancer.inside_external.members,
            _ if !others => &balancer.inside.members,
            Role::InsideExternal => &balancer.inside_external.members,
            Role::Outside => &balancer.outside.members,
        };
        let same =
            |class: &&mut Class| Arc::ptr_eq(&class.members, members) || class.members == *members;
        match classes.iter_mut().find(same) {
            Some(class) => class.roles.push(role),
            None => classes.push(Class {
                members: members.clone(),
                roles: vec![role],
            }),
        }
    }
    classes
}

/// When a set is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    /// Before frontends are.
    Early,
    /// After them.
    Late,
}

/// For each class the set that it goes on with, if any, and when that is written.
///
/// Whoever is to leave a set leaves it before it becomes another one; whoever is to come, comes after.
/// Where both would have to be, none goes on with it; nor where somebody leaves and others come into it or
/// nobody stays, since a program that asked just before still looks into it for who left. Where nobody leaves or comes, a set grows before
/// frontends are written, and shrinks after them.
pub(super) fn assign(
    classes: &[Class],
    now: [u32; 3],
    edit: impl Fn(usize, u32) -> Edited,
) -> Vec<Option<(u32, When)>> {
    let mut assigned: Vec<Option<(u32, When)>> = vec![None; classes.len()];
    let mut claimed = Vec::new();
    for exactly in [true, false] {
        for (at, class) in classes.iter().enumerate() {
            if assigned[at].is_some() {
                continue;
            }
            let candidates = class.roles.iter().map(|role| now[*role as usize]);
            let found = candidates
                .filter(|set| *set != 0 && !claimed.contains(set))
                .find_map(|set| {
                    let edited = edit(at, set);
                    if exactly && edited.changed {
                        return None;
                    }
                    let when = when(class, now, set, &edited)?;
                    Some((set, when))
                });
            if let Some((set, _)) = found {
                claimed.push(set);
                assigned[at] = found;
            }
        }
    }
    assigned
}

fn when(class: &Class, now: [u32; 3], set: u32, edited: &Edited) -> Option<When> {
    let has = |role: &Role| class.roles.contains(role);
    let leaves = Role::ALL
        .iter()
        .any(|role| now[*role as usize] == set && !has(role));
    // Be it from nobody: who had none is given none that are on their way out.
    let comes = class.roles.iter().any(|role| now[*role as usize] != set);
    match (leaves, comes) {
        _ if !edited.changed => Some(When::Early),
        (true, true) => None,
        (true, false) if edited.adds || edited.slots.is_empty() => None,
        (true, false) => Some(When::Late),
        (false, false) if edited.shrinks => Some(When::Late),
        (false, _) => Some(When::Early),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sorted(mut numbers: Vec<u32>) -> Vec<u32> {
        numbers.sort_unstable();
        numbers
    }

    #[test]
    fn a_replacement_is_one_write() {
        let edited = edit(&[1, 2, 3], &[(1, 1), (3, 1), (4, 1)]);
        assert_eq!((edited.slots, edited.writes), (vec![1, 4, 3], vec![(1, 4)]));
        let edited = edit(&[1, 2, 3], &[(2, 1), (3, 1)]);
        assert_eq!((edited.slots, edited.writes), (vec![3, 2], vec![(0, 3)]));
        let last = edit(&[1, 2], &[(1, 1)]);
        assert_eq!(
            (last.slots, last.writes, last.changed),
            (vec![1], vec![], true)
        );
        assert!(!edit(&[2, 1], &[(1, 1), (2, 1)]).changed);
    }

    #[test]
    fn a_set_keeps_its_stretch_while_it_fits() {
        let stretch = |order| Some(Stretch { base: 64, order });
        assert_eq!(fit(None, 10), Fit::Moves(4));
        assert_eq!(fit(stretch(4), 16), Fit::Stays);
        assert_eq!(fit(stretch(4), 17), Fit::Moves(5));
        assert_eq!(fit(stretch(5), 8), Fit::Stays);
        assert_eq!(fit(stretch(5), 7), Fit::Moves(3));
        assert_eq!(fit(stretch(3), 1), Fit::Stays);
        assert_eq!(fit(stretch(3), 0), Fit::Nothing);
        assert_eq!(fit(None, 0), Fit::Stays);
    }

    proptest! {
        #[test]
        fn an_edit_gives_what_is_wanted(
            slots in prop::collection::vec(1_u32..20, 0..30),
            wanted in prop::collection::btree_map(1_u32..20, 1_u8..4, 0..15),
        ) {
            let wanted: Vec<Share> = wanted.into_iter().collect();
            let edited = edit(&slots, &wanted);
            let expected = wanted.iter().flat_map(|(n, share)| vec![*n; usize::from(*share)]);
            prop_assert_eq!(sorted(edited.slots.clone()), sorted(expected.collect()));
            let mut written = slots.clone();
            written.resize(edited.slots.len(), 0);
            for (at, number) in &edited.writes {
                written[*at as usize] = *number;
            }
            prop_assert_eq!(&written, &edited.slots);
            prop_assert_eq!(edited.changed, sorted(slots) != sorted(edited.slots));
        }
    }
}
