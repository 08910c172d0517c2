//! A trace as people read it: a drawing, then what happened at each place.

mod canvas;
mod drawing;

use std::fmt::Write as _;

use crate::model::{Decided, End, Hop, Journey, Kind, Party, Stack, Trace};
use crate::packet::{Packet, Protocol};

/// Nothing is wider.
const COLUMNS: usize = 100;
/// Columns of what stands before the text of a step.
const INDENT: usize = 21;

/// Draws a trace and tells it.
pub fn picture(trace: &Trace) -> String {
    let heading = heading(&trace.from, &trace.to, &trace.way.packet);
    let mut text = format!("{}\n\n", fold(&heading, COLUMNS).join("\n"));
    journey(&mut text, &trace.way, &trace.from, &trace.to);
    if let Some(reply) = &trace.reply {
        let answer = format!("The answer: {}", reply.packet);
        let _ = write!(text, "\n{}\n\n", fold(&answer, COLUMNS).join("\n"));
        journey(&mut text, reply, &trace.to, &trace.from);
    }
    text
}

fn heading(from: &Party, to: &Party, packet: &Packet) -> String {
    let what = if packet.protocol == Protocol::Icmp {
        "icmp echo".to_owned()
    } else {
        let (own, port) = (packet.source_port, packet.destination_port);
        format!("{} port {port}, from port {own}", packet.protocol.name())
    };
    format!("{} to {}: {what}", named(from), named(to))
}

fn named(party: &Party) -> String {
    let on = |words: &str| {
        let node = party.node.as_ref();
        node.map(|node| format!("{words}{node}"))
            .unwrap_or_default()
    };
    match party.kind {
        Kind::Pod => {
            let name = party.name.as_deref().unwrap_or("a pod");
            format!("{name} ({}{})", party.address, on(" on "))
        }
        Kind::Node => format!("{} ({})", on("node "), party.address),
        Kind::Outside => party.address.to_string(),
    }
}

fn journey(text: &mut String, journey: &Journey, from: &Party, to: &Party) {
    text.push_str(&drawing::draw(journey, from, to));
    text.push('\n');
    for (number, hop) in (1..).zip(&journey.hops) {
        text.push('\n');
        tell(text, number, hop);
    }
    let end = fold(&end(&journey.end), COLUMNS).join("\n");
    let _ = writeln!(text, "\n{end}");
}

fn tell(text: &mut String, number: usize, hop: &Hop) {
    let place = match &hop.hook {
        Some(hook) => format!("{} ({}), {hook}", hop.interface, hop.ifindex),
        None => "the node itself sends it".to_owned(),
    };
    let _ = writeln!(text, "{number}  {}, {place}", hop.node);
    line(text, "packet", &hop.came.to_string());
    line(text, "", &fields(&hop.came));
    for step in &hop.steps {
        // The packet was told.
        if step.table == "packet" {
            continue;
        }
        let held = match &step.held {
            Some(held) => format!(": {held}"),
            None if is_table(&step.table) => ": nothing".to_owned(),
            None => String::new(),
        };
        line(text, &step.table, &format!("{}{held}", step.key));
        line(text, "", &format!("→ {}", step.decided));
    }
    for note in &hop.notes {
        line(text, "note", note);
    }
    if hop.attached {
        line(text, "verdict", &verdict(&hop.verdict, false));
    }
    if let Some(stack) = &hop.stack {
        line(text, "the stack", &stacked(stack));
    }
    let changes = changes(&hop.came, &hop.went);
    if !changes.is_empty() {
        line(text, "rewritten", &changes);
    }
}

/// Whether a step without a finding means that a table held nothing.
fn is_table(name: &str) -> bool {
    watari_abi::maps::ALL.contains(&name) || name == "kernel's routes"
}

fn fields(packet: &Packet) -> String {
    let mut words = vec![format!("ttl {}", packet.ttl)];
    if let Some((source, destination)) = packet.source_mac.zip(packet.destination_mac) {
        words.push(format!("{source} → {destination}"));
    }
    words.push(format!("{} bytes", packet.length()));
    words.join(", ")
}

fn changes(came: &Packet, went: &Packet) -> String {
    let mut words = Vec::new();
    if came.ttl != went.ttl {
        words.push(format!("ttl {} → {}", came.ttl, went.ttl));
    }
    let macs = |packet: &Packet| (packet.source_mac, packet.destination_mac);
    if macs(came) != macs(went) {
        let mac = |mac: Option<watari_model::MacAddr>| {
            mac.map_or_else(|| "(not known yet)".to_owned(), |mac| mac.to_string())
        };
        let (from, to) = macs(went);
        words.push(format!("MACs {} → {}", mac(from), mac(to)));
    }
    let ends = |packet: &Packet| {
        let ports = (packet.source_port, packet.destination_port);
        (packet.source, packet.destination, ports)
    };
    if ends(came) != ends(went) {
        words.push(went.to_string());
    }
    words.join("; ")
}

/// A verdict in words.
fn verdict(decided: &Decided, short: bool) -> String {
    match decided {
        Decided::Deliver { .. } if short => "deliver".to_owned(),
        Decided::Deliver {
            interface,
            ifindex,
            pod,
        } => {
            let pod = pod.as_deref().unwrap_or("the pod");
            format!("deliver: straight into {pod} behind {interface} ({ifindex})")
        }
        Decided::Forward { .. } if short => "forward".to_owned(),
        Decided::Forward {
            interface,
            ifindex,
            next_hop,
        } => format!("forward: straight out of {interface} ({ifindex}) to {next_hop}"),
        Decided::Pass if short => "pass".to_owned(),
        Decided::Pass => "pass: on into the pod".to_owned(),
        Decided::Drop { .. } if short => "drop".to_owned(),
        Decided::Drop { reason } => format!("drop: {reason}"),
        Decided::Stack if short => "stack".to_owned(),
        Decided::Stack => "stack: the node's stack has it".to_owned(),
    }
}

fn stacked(stack: &Stack) -> String {
    match stack {
        Stack::Local => "it is for the node itself".to_owned(),
        Stack::Group => "it is for many".to_owned(),
        Stack::Refused { why } => why.clone(),
        Stack::Out {
            interface,
            ifindex,
            via,
            masqueraded,
            changed,
        } => {
            let mut words = String::new();
            if let Some(pod) = changed.host_port {
                let _ = write!(words, "that port of the node leads to {pod}; ");
            }
            if let Some(pod) = changed.unmasqueraded {
                let _ = write!(
                    words,
                    "the answer to what it masqueraded, so it is for {pod}; "
                );
            }
            let _ = write!(words, "its routes lead out of {interface} ({ifindex})");
            match via {
                Some(via) => {
                    let _ = write!(words, " via {via}");
                }
                None => words.push_str(", where the destination is"),
            }
            if let Some(outside) = masqueraded {
                let _ = write!(
                    words,
                    "; masqueraded as {outside}, from a port that is drawn at random"
                );
            }
            if let Some(node) = changed.from_host_port {
                let _ = write!(words, "; it answers for the host port {node}");
            }
            words
        }
    }
}

fn end(end: &End) -> String {
    match end {
        End::Delivered { node, pod } => {
            let pod = pod.as_deref().unwrap_or("the pod");
            format!("Delivered to {pod} on {node}.")
        }
        End::Loopback { node, pod } => {
            let pod = pod.as_deref().unwrap_or("the pod");
            format!("Stays inside {pod} on {node}: its own loopback has it, no program sees it.")
        }
        End::Node { node } => format!("Delivered to node {node} itself."),
        End::Left {
            node,
            interface,
            next_hop,
        } => format!("Left {node} by {interface} to {next_hop}: what follows cannot be asked."),
        End::Dropped { node, reason } => {
            format!("Dropped on {node}: {reason}. `watari drops` counts these.")
        }
        End::NoWay { node, why } => format!("Gets no further than {node}: {why}."),
    }
}

/// A line with a name before it, folded at the last column.
fn line(text: &mut String, name: &str, words: &str) {
    let mut name = name;
    for line in fold(words, COLUMNS - INDENT) {
        let _ = writeln!(text, "     {name:<width$}{line}", width = INDENT - 5);
        name = "";
    }
}

/// Lines of at most so many columns, as far as words allow.
fn fold(words: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in words.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}
