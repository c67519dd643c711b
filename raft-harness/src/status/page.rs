//! One page without scripts: leaderless and faulted groups first, then peers, then the rest, cut
//! at a bound so that ten thousand groups stay readable.

use std::fmt::{self, Write};

use super::view::{GroupView, StatusView};

/// Groups shown; the rest is in the JSON.
const GROUPS_MAX: usize = 200;

pub(super) fn render(status: &StatusView) -> String {
    let mut html = String::new();
    // Writing to a string cannot fail.
    let _ = write(&mut html, status);
    html
}

fn write(html: &mut String, status: &StatusView) -> fmt::Result {
    write!(
        html,
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta http-equiv=\"refresh\" content=\"2\"><title>raftd node {node}</title>\
         <style>body{{font:14px monospace;margin:2em}}td,th{{padding:0 1em 0 0;text-align:right}}\
         .bad{{font-weight:bold}}</style></head><body>\
         <h1>node {node} of {cluster}</h1>\
         <p>groups {groups}, led here {led}, incarnation {incarnation}, \
         loss window: {loss}</p>",
        node = status.node,
        cluster = escape(&status.cluster),
        groups = status.groups.len(),
        led = status.groups_led,
        incarnation = status.incarnation,
        loss = status.loss_window(),
    )?;
    write!(html, "<p class=\"bad\">leaderless {}", status.leaderless.len())?;
    write!(html, " &middot; faulted {}</p>", status.faulted.len())?;
    for reason in &status.unready {
        write!(html, "<p class=\"bad\">not ready: {}</p>", escape(reason))?;
    }
    write!(html, "<table><tr><th>peer<th>address<th>reached</tr>")?;
    for peer in &status.peers {
        let reached = match (peer.connected, &peer.refusal) {
            (true, _) => "yes".to_owned(),
            (false, None) => "no".to_owned(),
            (false, Some(refusal)) => format!("no: {}", escape(refusal)),
        };
        write!(html, "<tr><td>{}<td>{}<td>{reached}</tr>", peer.node, escape(&peer.address))?;
    }
    write!(
        html,
        "</table><table><tr><th>group<th>label<th>role<th>leader<th>term<th>commit<th>applied\
         <th>flush lag<th>apply lag<th>fault</tr>"
    )?;
    let mut groups: Vec<&GroupView> = status.groups.iter().collect();
    groups.sort_by_key(|group| (group.leader.is_some(), group.fault.is_none(), group.id));
    for group in groups.iter().take(GROUPS_MAX) {
        write!(
            html,
            "<tr><td>{}<td>{}<td>{:?}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}</tr>",
            group.id,
            escape(&group.label),
            group.role,
            group.leader.map_or_else(|| "none".to_owned(), |leader| leader.to_string()),
            group.term,
            group.commit_index,
            group.applied_index,
            group.flush_lag,
            group.apply_lag,
            escape(group.fault.as_deref().unwrap_or("-")),
        )?;
    }
    write!(html, "</table>")?;
    if let Some(more) = status.groups.len().checked_sub(GROUPS_MAX + 1) {
        write!(html, "<p>and {} more: <a href=\"/status.json\">all as JSON</a></p>", more + 1)?;
    }
    write!(
        html,
        "<p><a href=\"/status.json\">JSON</a> <a href=\"/metrics\">metrics</a></p></body></html>"
    )
}

/// Labels and names come from elsewhere.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
