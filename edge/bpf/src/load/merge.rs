//! What an old table and a new one say about one connection, made one.
//!
//! While programs are swapped, packets of a connection are counted by either. `copied` is what the
//! new table was given before; the difference to what the old table says now is what happened
//! there since.

use watari_abi::{Connection, Direction, State, flags};

/// The new table's entry, given what the old table says now, what of it was copied earlier, and
/// what the new table says. None: it is right as it is.
pub(super) fn merge(
    old: &Connection,
    copied: Option<&Connection>,
    new: Option<&Connection>,
) -> Option<Connection> {
    let Some(new) = new else {
        // Copied, and gone since: it ended there.
        return (copied != Some(old)).then_some(*old);
    };
    if copied == Some(old) {
        return None;
    }
    // Made anew, since the new programs did not know it.
    let is_fresh = new.created > old.created;
    if is_fresh && has_ended(old, new.created) {
        return None;
    }
    let mut merged = *new;
    if is_fresh && (old.flags ^ new.flags) & flags::LOW_IS_ORIGINATOR != 0 {
        // The first packet that they saw was an answer.
        merged.directions.swap(0, 1);
        merged.closed = (new.closed & 1) << 1 | new.closed >> 1 & 1;
    }
    for at in 0..merged.directions.len() {
        let base = match copied {
            Some(copied) => copied.directions[at],
            None if is_fresh => Direction::default(),
            // Copied by somebody who was killed: what both counted is not to be told apart.
            None => smaller(&old.directions[at], &new.directions[at]),
        };
        add(&mut merged.directions[at], &old.directions[at], &base);
    }
    merged.closed |= old.closed;
    if is_fresh {
        merged.created = old.created;
        merged.flags = old.flags;
        merged.translation = old.translation;
    }
    let moved_on = copied.is_some_and(|copied| copied.state == new.state);
    if moved_on || is_fresh && !is_ending(new.state) {
        merged.state = old.state;
        merged.flags = old.flags;
        merged.expires = if is_ending(old.state) {
            old.expires
        } else {
            old.expires.max(new.expires)
        };
    }
    Some(merged)
}

fn is_ending(state: u8) -> bool {
    let ending = [State::Closing, State::TimeWait, State::Closed];
    ending.iter().any(|ending| *ending as u8 == state)
}

/// Its tuple may be another connection's at that time.
fn has_ended(connection: &Connection, time: u64) -> bool {
    let ended = [State::TimeWait, State::Closed];
    connection.expires <= time || ended.iter().any(|ended| *ended as u8 == connection.state)
}

fn smaller(one: &Direction, two: &Direction) -> Direction {
    Direction {
        packets: one.packets.min(two.packets),
        bytes: one.bytes.min(two.bytes),
        ..Direction::default()
    }
}

/// Adds what `old` counted beyond `base`.
fn add(to: &mut Direction, old: &Direction, base: &Direction) {
    to.packets = to
        .packets
        .wrapping_add(old.packets.wrapping_sub(base.packets));
    to.bytes = to.bytes.wrapping_add(old.bytes.wrapping_sub(base.bytes));
    to.last = to.last.max(old.last);
    to.tcp_flags |= old.tcp_flags;
    if old.first != 0 && (to.first == 0 || old.first < to.first) {
        to.first = old.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(state: State, created: u64, packets: [u64; 2]) -> Connection {
        let mut connection = Connection {
            created,
            expires: created + 1000,
            state: state as u8,
            flags: flags::LOW_IS_ORIGINATOR,
            ..Connection::default()
        };
        for (direction, packets) in connection.directions.iter_mut().zip(packets) {
            direction.packets = packets;
            direction.bytes = packets * 100;
            direction.first = created;
            direction.last = created + packets;
        }
        connection
    }

    fn packets(connection: &Connection) -> [u64; 2] {
        connection.directions.map(|direction| direction.packets)
    }

    #[test]
    fn what_was_not_copied_is_brought_over() {
        let old = connection(State::Established, 10, [3, 4]);
        assert_eq!(merge(&old, None, None), Some(old));
    }

    #[test]
    fn what_was_copied_and_has_not_changed_is_left_alone() {
        let old = connection(State::Established, 10, [3, 4]);
        let new = connection(State::Established, 10, [5, 6]);
        assert_eq!(merge(&old, Some(&old), Some(&new)), None);
        // The new programs ended it.
        assert_eq!(merge(&old, Some(&old), None), None);
    }

    #[test]
    fn every_packet_counts_once() {
        let copied = connection(State::Established, 10, [3, 4]);
        let old = connection(State::Established, 10, [5, 4]);
        let new = connection(State::Established, 10, [4, 7]);
        let merged = merge(&old, Some(&copied), Some(&new)).unwrap();
        assert_eq!(packets(&merged), [6, 7]);
        assert_eq!(merged.directions[1].last, new.directions[1].last);
    }

    #[test]
    fn an_end_seen_by_the_old_programs_is_an_end() {
        let copied = connection(State::Established, 10, [3, 4]);
        let mut old = connection(State::Closing, 10, [4, 4]);
        (old.closed, old.expires) = (1, 500);
        let new = connection(State::Established, 10, [3, 5]);
        let merged = merge(&old, Some(&copied), Some(&new)).unwrap();
        assert_eq!(
            (merged.state, merged.closed, merged.expires),
            (State::Closing as u8, 1, 500)
        );
    }

    #[test]
    fn an_end_seen_by_the_new_programs_stays_one() {
        let copied = connection(State::Established, 10, [3, 4]);
        let old = connection(State::Established, 10, [4, 4]);
        let new = connection(State::Closed, 10, [4, 4]);
        let merged = merge(&old, Some(&copied), Some(&new)).unwrap();
        assert_eq!(merged.state, State::Closed as u8);
    }

    #[test]
    fn one_picked_up_meanwhile_is_the_old_one() {
        let old = connection(State::Established, 10, [3, 4]);
        let mut new = connection(State::PickedUp, 50, [2, 0]);
        // Found by an answer.
        new.flags = flags::PICKED_UP | flags::VIA_STACK;
        let merged = merge(&old, None, Some(&new)).unwrap();
        assert_eq!(packets(&merged), [3, 6]);
        assert_eq!((merged.created, merged.flags), (10, old.flags));
        assert_eq!(merged.state, State::Established as u8);
    }

    #[test]
    fn a_tuple_used_again_is_another_connection() {
        let old = connection(State::TimeWait, 10, [3, 4]);
        let new = connection(State::New, 50, [1, 0]);
        assert_eq!(merge(&old, None, Some(&new)), None);
        let expired = connection(State::Established, 10, [3, 4]);
        let new = connection(State::New, 5000, [1, 0]);
        assert_eq!(merge(&expired, None, Some(&new)), None);
    }

    #[test]
    fn after_a_kill_nothing_counts_twice() {
        let old = connection(State::Established, 10, [3, 9]);
        let new = connection(State::Established, 10, [8, 4]);
        let merged = merge(&old, None, Some(&new)).unwrap();
        assert_eq!(packets(&merged), [8, 9]);
    }
}
