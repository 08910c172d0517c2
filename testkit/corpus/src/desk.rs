//! The cases on the desk.

use watari_datapath::desk::{Desk, Lru, Shared};
use watari_datapath::{Route, Table};

use crate::scene::{Case, Entry};
use crate::world::World;

/// A desk with these tables.
pub fn desk(world: &World, now: u64) -> Desk {
    let mut desk = Desk {
        now,
        config: world.config,
        ..Desk::default()
    };
    if world.established_full {
        desk.established = Lru::keeping(0);
    }
    desk.endpoints.extend(world.endpoints.iter().copied());
    desk.links.extend(world.links.iter().copied());
    for (key, remote) in &world.remotes {
        desk.remotes.insert(*key, *remote);
    }
    for (table, key, connection) in &world.connections {
        let there = match table {
            Table::Established => &mut desk.established,
            Table::Transient => &mut desk.transient,
        };
        there.insert(*key, Shared::new(*connection));
    }
    for (port, time) in &world.stack_ports {
        desk.stack_ports.insert(*port, *time);
    }
    let routes = world.routes.clone();
    desk.routes = Box::new(move |query| {
        routes
            .iter()
            .find(|(next_hop, _)| *next_hop == query.next_hop)
            .map_or(Route::None, |(_, answer)| *answer)
    });
    desk
}

/// Runs a case. The error says what was otherwise.
pub fn run(case: &Case, now: u64) -> Result<Desk, String> {
    let mut desk = desk(&case.world, now);
    for (number, shot) in case.shots.iter().enumerate() {
        let output = desk.run(shot.hook, shot.input.clone());
        let differs = |what: &str, got: &dyn std::fmt::Debug, want: &dyn std::fmt::Debug| {
            format!(
                "{}, packet {number}: {what}\n   got {got:02x?}\n  want {want:02x?}\n steps {:?}",
                case.name, output.steps
            )
        };
        if output.verdict != shot.verdict {
            return Err(differs("verdict", &output.verdict, &shot.verdict));
        }
        if output.bytes != shot.bytes {
            return Err(differs("bytes", &output.bytes, &shot.bytes));
        }
        for (key, want) in &shot.entries {
            let got = desk
                .connection(key)
                .map(|(table, connection)| Entry::of(table, &connection));
            if got != *want {
                return Err(differs("connection", &got, want));
            }
        }
    }
    Ok(desk)
}
