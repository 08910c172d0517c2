//! The way of a packet as a drawing: on the left who sends it, on the right who gets it, what lies
//! between them below.

use crate::model::{Decided, End, Hop, Journey, Kind, Party, Stack};
use crate::picture::canvas::{Canvas, clip};
use crate::picture::{COLUMNS, fold, verdict};

/// Columns of a lane: half of the sheet, less the frames of nodes and what is between them.
const LANE: usize = 46;
/// Where a lane begins on the left, and on the right.
const LEFT: usize = 1;
const RIGHT: usize = COLUMNS - 1 - LANE;
/// The way in a lane is drawn in this column of it.
const SPINE: usize = 6;
/// Columns for what is said beside it.
const BESIDE: usize = LANE - SPINE - 3;

/// One side of the drawing, from top to bottom.
struct Lane {
    /// The node around it; none for somebody outside.
    node: Option<String>,
    /// Who is at its top: name and address.
    party: Vec<String>,
    /// What is below, from top to bottom.
    rows: Vec<Row>,
    /// The packet comes as far as the party.
    whole: bool,
}

enum Row {
    /// An interface, or the stack.
    Place(String),
    /// What is said beside the way.
    Beside(String),
    /// The way ends.
    End(String),
}

fn party(of: &Party) -> Vec<String> {
    let name = match (of.kind, &of.name) {
        (Kind::Pod, Some(name)) => name.clone(),
        (Kind::Pod, None) => "pod".to_owned(),
        (Kind::Node, _) => "the node itself".to_owned(),
        (Kind::Outside, _) => "outside".to_owned(),
    };
    vec![name, of.address.to_string()]
}

/// What a hop adds to a lane, in the order of the packet's way.
fn rows(number: usize, hop: &Hop) -> Vec<Row> {
    let mut rows = Vec::new();
    if let Some(hook) = &hop.hook {
        rows.push(Row::Place(hop.interface.clone()));
        rows.push(Row::Beside(if hop.attached {
            format!("{number} {hook}: {}", verdict(&hop.verdict, true))
        } else {
            format!("{number} no {hook}")
        }));
    }
    if let Some(stack) = &hop.stack {
        rows.push(Row::Place("the stack".to_owned()));
        rows.extend(stack_rows(number, hop.hook.is_none(), stack));
    }
    rows
}

fn stack_rows(number: usize, is_first: bool, stack: &Stack) -> Vec<Row> {
    let number = if is_first {
        format!("{number} ")
    } else {
        String::new()
    };
    let said = match stack {
        Stack::Local => vec![format!("{number}for the node itself")],
        Stack::Group => vec![format!("{number}for many")],
        Stack::Refused { why } => return vec![Row::End(format!("{number}{why}"))],
        Stack::Out {
            interface,
            via,
            masqueraded,
            changed,
            ..
        } => {
            let via = via.map(|via| format!(" via {via}")).unwrap_or_default();
            let back = changed.unmasqueraded;
            let back = back.map(|pod| format!("translated back to {pod}"));
            let mapped = changed.host_port.map(|pod| format!("host port of {pod}"));
            let routes = format!("routes: {interface}{via}");
            let outside = masqueraded.map(|outside| format!("masqueraded as {outside}"));
            let as_node = changed.from_host_port;
            let as_node = as_node.map(|node| format!("translated back to {node}"));
            let before = back.into_iter().chain(mapped);
            let after = outside.into_iter().chain(as_node);
            let mut said: Vec<String> = before.chain([routes]).chain(after).collect();
            if let Some(first) = said.first_mut() {
                first.insert_str(0, &number);
            }
            said
        }
    };
    said.into_iter().map(Row::Beside).collect()
}

/// The interface by which a packet leaves a node after that hop, if it does.
fn leaves_by(hop: &Hop) -> Option<String> {
    match (&hop.verdict, &hop.stack) {
        (Decided::Forward { interface, .. }, _) | (_, Some(Stack::Out { interface, .. })) => {
            Some(interface.clone())
        }
        _ => None,
    }
}

/// A hop with its number.
type Numbered<'a> = (usize, &'a Hop);

/// The lanes of a journey; one if the packet does not come as far as the other.
fn lanes(journey: &Journey, from: &Party, to: &Party) -> (Lane, Option<Lane>) {
    let first_node = journey.hops.first().map(|hop| hop.node.clone());
    let last_node = journey.hops.last().map(|hop| hop.node.clone());
    let is_outside = from.kind == Kind::Outside;
    let is_right = |(_, hop): &Numbered<'_>| {
        let is_elsewhere = Some(&hop.node) != first_node.as_ref();
        is_outside || is_elsewhere || hop.hook.as_deref() == Some("to_pod")
    };
    let numbered = (1..).zip(&journey.hops);
    let (rights, lefts): (Vec<Numbered<'_>>, Vec<_>) = numbered.partition(is_right);
    let mut left = left_rows(journey, &lefts);
    // Only the last node's are drawn; those between are named.
    let at_last = rights
        .iter()
        .filter(|(_, hop)| Some(&hop.node) == last_node.as_ref());
    let mut right: Vec<Row> = at_last
        .flat_map(|(number, hop)| rows(*number, hop))
        .collect();
    let last = journey.hops.last();
    if let Some(Decided::Deliver { interface, .. }) = last.map(|hop| &hop.verdict) {
        right.push(Row::Place(interface.clone()));
    }
    let ending = if rights.is_empty() {
        &mut left
    } else {
        &mut right
    };
    let is_told = matches!(ending.last(), Some(Row::End(_)));
    match &journey.end {
        End::Dropped { reason, .. } => ending.push(Row::End(format!("dropped: {reason}"))),
        End::NoWay { why, .. } if !is_told => ending.push(Row::End(why.clone())),
        _ => {}
    }
    let whole = journey.end.is_well();
    let left = Lane {
        node: first_node.filter(|_| !is_outside),
        party: party(from),
        rows: left,
        whole: true,
    };
    if !whole && rights.is_empty() {
        return (left, None);
    }
    // The packet comes up in it.
    right.reverse();
    pair(&mut right);
    let right = Lane {
        node: last_node.filter(|_| !matches!(journey.end, End::Left { .. })),
        party: party(to),
        rows: right,
        whole,
    };
    (left, Some(right))
}

/// What a pod sends to itself.
fn inside(node: &str, from: &Party) -> Lane {
    Lane {
        node: Some(node.to_owned()),
        party: party(from),
        rows: vec![Row::Beside("its own loopback".to_owned())],
        whole: true,
    }
}

fn left_rows(journey: &Journey, hops: &[Numbered<'_>]) -> Vec<Row> {
    let mut all = Vec::new();
    for (number, hop) in hops {
        all.extend(rows(*number, hop));
        let next = journey.hops.get(*number);
        let stays = next.is_some_and(|next| next.node == hop.node);
        if !stays && let Some(interface) = leaves_by(hop) {
            all.push(Row::Place(interface));
        }
    }
    all
}

/// In a lane that goes up, what is said of a place stands below it again.
fn pair(rows: &mut Vec<Row>) {
    let mut sorted: Vec<Row> = Vec::with_capacity(rows.len());
    let mut beside: Vec<Row> = Vec::new();
    for row in rows.drain(..) {
        match row {
            Row::Place(_) => {
                sorted.push(row);
                beside.reverse();
                sorted.append(&mut beside);
            }
            Row::Beside(_) => beside.push(row),
            Row::End(_) => sorted.push(row),
        }
    }
    sorted.append(&mut beside);
    *rows = sorted;
}

impl Lane {
    /// Draws it from the row on. Gives the row after its last.
    fn draw(&self, canvas: &mut Canvas, column: usize, row: usize, up: bool) -> usize {
        let widest = self.party.iter().map(|line| line.chars().count()).max();
        let width = (widest.unwrap_or_default() + 4).min(LANE - 2);
        let height = self.party.len() + 2;
        canvas.frame((column + 1, row), (width, height), "");
        for (line, text) in (row + 1..).zip(&self.party) {
            canvas.put(column + 3, line, &clip(text, width - 4));
        }
        let spine = column + SPINE;
        let foot = match (up, self.whole) {
            (false, _) => "┬",
            (true, true) => "▲",
            (true, false) => "─",
        };
        canvas.put(spine, row + height - 1, foot);
        let mut at = row + height;
        // In a lane that goes up and ends, the way is below its end.
        let mut on_way = !up || self.whole;
        for line in &self.rows {
            let way = if on_way { "│" } else { " " };
            match line {
                Row::Place(name) => {
                    canvas.put(spine, at, way);
                    at += 1;
                    canvas.put(column + 3, at, &clip(name, LANE - 4));
                }
                Row::Beside(text) => {
                    for line in fold(text, BESIDE) {
                        canvas.put(spine, at, way);
                        canvas.put(spine + 2, at, &clip(&line, BESIDE));
                        at += 1;
                    }
                    continue;
                }
                Row::End(text) => {
                    canvas.put(spine, at, "╳");
                    on_way = up;
                    for (row, line) in (at..).zip(fold(text, BESIDE)) {
                        if on_way && row > at {
                            canvas.put(spine, row, "│");
                        }
                        canvas.put(spine + 2, row, &clip(&line, BESIDE));
                        at = row;
                    }
                }
            }
            at += 1;
        }
        at
    }
}

/// Draws a journey.
pub fn draw(journey: &Journey, from: &Party, to: &Party) -> String {
    let (left, right) = match &journey.end {
        End::Loopback { node, .. } => (inside(node, from), None),
        _ => lanes(journey, from, to),
    };
    let mut canvas = Canvas::new(COLUMNS);
    let top = 1;
    let left_end = left.draw(&mut canvas, LEFT, top, false);
    let Some(right) = right else {
        frame(&mut canvas, left.node.as_deref(), 0, LANE + 2, left_end + 1);
        return canvas.text();
    };
    let right_end = right.draw(&mut canvas, RIGHT, top, true);
    let end = left_end.max(right_end);
    let (down, up) = (LEFT + SPINE, RIGHT + SPINE);
    for row in left_end..end {
        canvas.put(down, row, "│");
    }
    for row in right_end..end {
        canvas.put(up, row, "│");
    }
    if left.node.is_some() && left.node == right.node {
        turn(&mut canvas, end, (down, up), "");
        frame(&mut canvas, left.node.as_deref(), 0, COLUMNS, end + 2);
        return canvas.text();
    }
    frame(&mut canvas, left.node.as_deref(), 0, LANE + 2, end + 1);
    frame(
        &mut canvas,
        right.node.as_deref(),
        RIGHT - 1,
        LANE + 2,
        end + 1,
    );
    canvas.put(down, end, if left.node.is_some() { "┼" } else { "│" });
    canvas.put(up, end, if right.node.is_some() { "┼" } else { "│" });
    turn(&mut canvas, end + 1, (down, up), &between(journey));
    canvas.text()
}

fn frame(canvas: &mut Canvas, node: Option<&str>, column: usize, width: usize, height: usize) {
    if let Some(node) = node {
        canvas.frame((column, 0), (width, height), node);
    }
}

/// From the way down to the way up.
fn turn(canvas: &mut Canvas, row: usize, (down, up): (usize, usize), label: &str) {
    let inner = up - down - 1;
    let label = clip(label, inner.saturating_sub(4));
    canvas.put(down, row, &format!("└{}┘", "─".repeat(inner)));
    if !label.is_empty() {
        let label = format!(" {label} ");
        let at = down + 1 + (inner - label.chars().count()) / 2;
        canvas.put(at, row, &label);
    }
}

/// What is said of the network between two nodes: to which neighbour the packet goes, and the nodes
/// in between that are not drawn.
fn between(journey: &Journey) -> String {
    let hops = &journey.hops;
    let mut label = match &journey.end {
        End::Left { next_hop, .. } => format!("to {next_hop}"),
        _ => hops.iter().find_map(neighbour).unwrap_or_default(),
    };
    let ends = [hops.first(), hops.last()].map(|hop| hop.map(|hop| &hop.node));
    let mut others: Vec<&str> = Vec::new();
    for hop in hops {
        if !ends.contains(&Some(&hop.node)) && !others.contains(&hop.node.as_str()) {
            others.push(&hop.node);
        }
    }
    if !others.is_empty() {
        label = format!("{label}, by {}", others.join(", "));
    }
    if label.is_empty() {
        "the network".to_owned()
    } else {
        label
    }
}

/// To whom a hop sends a packet out of its node.
fn neighbour(hop: &Hop) -> Option<String> {
    let next_hop = match (&hop.verdict, &hop.stack) {
        (Decided::Forward { next_hop, .. }, _) => *next_hop,
        (_, Some(Stack::Out { via, .. })) => via.unwrap_or(hop.went.destination),
        _ => return None,
    };
    let mac = hop.went.destination_mac;
    let mac = mac.map(|mac| format!(" ({mac})")).unwrap_or_default();
    Some(format!("to {next_hop}{mac}"))
}
