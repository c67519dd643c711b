//! A space-time diagram of a trace: one column per node, time downwards, messages as arrows.
//!
//! In text, an arrow is drawn in the row in which its message arrives, from the column of its
//! sender; the sending has the same name (`m7`). As SVG, arrows are slanted lines from row to row.
//! Rows are events, not equal times: a diagram is read for its order.

use std::collections::BTreeMap;
use std::fmt::Write;

use raft_core::NodeId;

use super::trace::{Event, EventKind, MessageId};

/// How wide a node's column is in text.
const COLUMN: usize = 26;
/// How wide the time's column is.
const TIME: usize = 14;

/// The diagram as text. Events must be in the order in which they happened.
pub fn text(events: &[&Event]) -> String {
    let columns = columns(events);
    let senders = senders(events);
    let mut out = format!("{:>width$}", "us", width = TIME - 2);
    for node in columns.keys() {
        let _ = write!(out, "  {:<width$}", format!("{node:?}"), width = COLUMN - 2);
    }
    finish_row(&mut out);
    for event in events {
        let own = columns[&event.node];
        let from = arrives(event)
            .then(|| senders.get(&event.link?))
            .flatten()
            .map(|(_, node)| columns[node])
            .filter(|from| *from != own);
        let mut row = blank_row(columns.len());
        put(&mut row, 0, &format!("{:>width$}", event.at.get(), width = TIME - 2));
        draw_arrow(&mut row, own, from, event);
        row[lifeline(own)] = symbol(event.kind);
        out.extend(row);
        finish_row(&mut out);
    }
    out
}

/// The diagram as an SVG document. Events must be in the order in which they happened.
pub fn svg(events: &[&Event]) -> String {
    const ROW: usize = 22;
    const WIDTH: usize = 240;
    const LEFT: usize = 90;
    const TOP: usize = 40;
    let columns = columns(events);
    let senders = senders(events);
    let x = |node: &NodeId| LEFT + columns[node] * WIDTH + 20;
    let y = |row: usize| TOP + (row + 1) * ROW;
    let (width, height) = (LEFT + columns.len() * WIDTH + 20, TOP + (events.len() + 2) * ROW);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         font-family=\"monospace\" font-size=\"11\">\n\
         <defs><marker id=\"tip\" viewBox=\"0 0 8 8\" refX=\"8\" refY=\"4\" markerWidth=\"7\" \
         markerHeight=\"7\" orient=\"auto\"><path d=\"M0 0L8 4L0 8z\" fill=\"#36c\"/></marker></defs>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    for node in columns.keys() {
        let x = x(node);
        let _ = writeln!(
            out,
            "<text x=\"{x}\" y=\"{}\" font-weight=\"bold\" text-anchor=\"middle\">{node:?}</text>\
             <line x1=\"{x}\" y1=\"{TOP}\" x2=\"{x}\" y2=\"{height}\" stroke=\"#bbb\"/>",
            TOP - 10
        );
    }
    for (row, event) in events.iter().enumerate() {
        if !arrives(event) {
            continue;
        }
        let Some((from_row, from)) = event.link.and_then(|link| senders.get(&link)) else {
            continue;
        };
        let lost = event.kind == EventKind::Drop;
        let _ = writeln!(
            out,
            "<line x1=\"{}\" y1=\"{}\" x2=\"{}\" y2=\"{}\" stroke=\"#36c\"{}/>",
            x(from),
            y(*from_row),
            x(&event.node),
            y(row),
            if lost { " stroke-dasharray=\"4 3\"" } else { " marker-end=\"url(#tip)\"" }
        );
    }
    for (row, event) in events.iter().enumerate() {
        let (x, y) = (x(&event.node), y(row));
        let fill = match event.kind {
            EventKind::Violation => "#c00",
            EventKind::Fault | EventKind::Process | EventKind::Drop => "#e80",
            EventKind::Role | EventKind::Commit | EventKind::Operator => "#080",
            EventKind::Send
            | EventKind::Receive
            | EventKind::Deadline
            | EventKind::Disk
            | EventKind::Client => "#333",
        };
        let _ = writeln!(
            out,
            "<text x=\"4\" y=\"{}\" fill=\"#777\">{}</text>\
             <circle cx=\"{x}\" cy=\"{y}\" r=\"3\" fill=\"{fill}\"/>\
             <text x=\"{}\" y=\"{}\" fill=\"{fill}\">{}</text>",
            y + 4,
            event.at.get(),
            x + 7,
            y - 3,
            escaped(&label(event))
        );
    }
    out.push_str("</svg>\n");
    out
}

fn columns(events: &[&Event]) -> BTreeMap<NodeId, usize> {
    let mut columns: BTreeMap<NodeId, usize> = events.iter().map(|e| (e.node, 0)).collect();
    for (at, column) in columns.values_mut().enumerate() {
        *column = at;
    }
    columns
}

/// The row and the node in which each message was sent.
fn senders(events: &[&Event]) -> BTreeMap<MessageId, (usize, NodeId)> {
    events
        .iter()
        .enumerate()
        .filter(|(_, event)| event.kind == EventKind::Send)
        .filter_map(|(row, event)| Some((event.link?, (row, event.node))))
        .collect()
}

const fn arrives(event: &Event) -> bool {
    match event.kind {
        EventKind::Receive | EventKind::Drop => true,
        EventKind::Send
        | EventKind::Deadline
        | EventKind::Disk
        | EventKind::Role
        | EventKind::Commit
        | EventKind::Client
        | EventKind::Process
        | EventKind::Fault
        | EventKind::Operator
        | EventKind::Violation => false,
    }
}

const fn symbol(kind: EventKind) -> char {
    match kind {
        EventKind::Send | EventKind::Receive => 'o',
        EventKind::Drop => 'x',
        EventKind::Deadline => '@',
        EventKind::Disk => '=',
        EventKind::Role => '#',
        EventKind::Commit => '$',
        EventKind::Client => '?',
        EventKind::Process | EventKind::Fault | EventKind::Operator => '%',
        EventKind::Violation => '!',
    }
}

fn label(event: &Event) -> String {
    let mut label = String::new();
    if let Some(link) = event.link {
        let _ = write!(label, "m{} ", link.0);
    }
    if let Some(group) = event.group {
        let _ = write!(label, "{group:?} ");
    }
    label.push_str(&event.text);
    label
}

const fn lifeline(column: usize) -> usize {
    TIME + column * COLUMN
}

fn blank_row(columns: usize) -> Vec<char> {
    let mut row = vec![' '; TIME + columns * COLUMN];
    for column in 0..columns {
        row[lifeline(column)] = '|';
    }
    row
}

/// The arrow to `own`, if there is one, and the event's label. From the left, the label follows
/// the tip; from the right it lies on the arrow.
fn draw_arrow(row: &mut [char], own: usize, from: Option<usize>, event: &Event) {
    let label: Vec<char> = label(event).chars().collect();
    let here = lifeline(own);
    let room = match from {
        Some(from) if from > own => {
            let there = lifeline(from);
            for cell in &mut row[here + 1..there] {
                *cell = if *cell == '|' { '+' } else { '-' };
            }
            row[here + 1] = '<';
            COLUMN - 4
        }
        Some(from) => {
            let there = lifeline(from);
            for cell in &mut row[there + 1..here] {
                *cell = if *cell == '|' { '+' } else { '-' };
            }
            row[here - 1] = '>';
            COLUMN - 3
        }
        None => COLUMN - 3,
    };
    let shown: String = if label.len() > room {
        label[..room - 1].iter().chain(&['~']).collect()
    } else {
        label.iter().collect()
    };
    put(row, here + 2, &shown);
}

fn put(row: &mut [char], at: usize, text: &str) {
    for (cell, letter) in row[at..].iter_mut().zip(text.chars()) {
        *cell = letter;
    }
}

fn finish_row(out: &mut String) {
    out.truncate(out.trim_end().len());
    out.push('\n');
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use raft_core::{GroupId, Micros};

    use super::super::trace::{Happened, Trace};
    use super::*;

    fn example() -> Trace {
        let mut trace = Trace::keeping(10);
        let mut at = 0;
        let mut event = |node: u64, kind, link: Option<u64>, text: &str| {
            at += 1500;
            let happened = Happened {
                at: Micros::new(at),
                node: NodeId::new(node),
                group: (kind != EventKind::Fault).then(|| GroupId::new(7)),
                kind,
                link: link.map(MessageId),
                digest: 0,
            };
            trace.event(happened, || text.to_owned());
        };
        event(1, EventKind::Role, None, "candidate of t2");
        event(1, EventKind::Send, Some(1), "Vote t2 to n3");
        event(1, EventKind::Send, Some(2), "Vote t2 to n2");
        event(2, EventKind::Drop, Some(2), "link is cut");
        event(3, EventKind::Receive, Some(1), "Vote t2");
        event(3, EventKind::Send, Some(3), "granted");
        event(1, EventKind::Receive, Some(3), "granted, at last, after all of this <waiting>");
        event(2, EventKind::Fault, None, "cut ends");
        event(2, EventKind::Receive, Some(99), "sent long ago");
        trace
    }

    #[test]
    fn text_shows_arrows_both_ways_and_cuts_what_is_too_long() {
        let trace = example();
        let expected = "\x20         us  n1                        n2                        n3
        1500  # g7 candidate of t2      |                         |
        3000  o m1 g7 Vote t2 to n3     |                         |
        4500  o m2 g7 Vote t2 to n2     |                         |
        6000  |------------------------>x m2 g7 link is cut       |
        7500  |-------------------------+------------------------>o m1 g7 Vote t2
        9000  |                         |                         o m3 g7 granted
       10500  o<m3 g7 granted, at las~--+-------------------------|
       12000  |                         % cut ends                |
       13500  |                         o m99 g7 sent long ago    |
";
        let drawn = text(&trace.last());
        assert_eq!(drawn, expected, "\n{drawn}");
    }

    #[test]
    fn svg_draws_a_line_for_each_message_with_both_ends() {
        let drawn = svg(&example().last());
        assert_eq!(drawn.matches("marker-end").count(), 2);
        assert_eq!(drawn.matches("stroke-dasharray").count(), 1);
        assert_eq!(drawn.matches("<circle").count(), 9);
        assert!(drawn.contains("&lt;waiting&gt;"));
        assert!(drawn.starts_with("<svg") && drawn.ends_with("</svg>\n"));
        // The first vote: from the second row of n1's column to the fifth of n3's.
        assert!(drawn.contains("<line x1=\"110\" y1=\"84\" x2=\"590\" y2=\"150\" stroke=\"#36c\""));
    }

    #[test]
    fn an_empty_trace_is_an_empty_diagram() {
        assert_eq!(text(&[]), "          us\n");
        assert!(svg(&[]).ends_with("</svg>\n"));
    }
}
