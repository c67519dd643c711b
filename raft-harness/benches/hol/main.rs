//! What does one group with large messages cost the others, and what do lanes and chunks save?
//!
//! Three nodes in this process, all groups led by the first. One group takes messages of one size as
//! fast as it can; a hundred others take a write of 256 bytes each half second. Measured are the
//! heartbeats' way from where they are queued to where they are taken in, the quiet groups' writes
//! through log and apply from when they were due, and elections; per layout of lanes, and once with
//! whole frames on one connection, as without any of this. A raw socket that says 200 bytes every
//! 20 ms runs beside each row: it shares the processors and the link, and no connection.
//!
//! Over loopback, and over a link of 1 Gbit/s that a `tbf` shapes, between network namespaces that
//! are made for it (as root, with `ip` and `tc`; skipped otherwise).
//!
//! Run: `cargo xtask bench hol`; see [`plan::Arguments`].

mod cluster;
mod delays;
mod link;
mod load;
mod plan;
mod probe;
mod report;

use std::sync::mpsc;
use std::time::Duration;

use anyhow::Result;

use self::cluster::Cluster;
use self::link::Link;
use self::plan::{Arguments, Row, Wire};
use self::report::Measured;

/// The longest a row may take beside what it measures, before the whole run is given up.
const ROW_LIMIT: Duration = Duration::from_secs(60);

fn main() -> Result<()> {
    let arguments = Arguments::parse(std::env::args().skip(1))?;
    let rows = arguments.rows();
    let mut measured = Vec::new();
    let mut skipped = None;
    for wire in [Wire::Loopback, Wire::Link] {
        let of_wire: Vec<&Row> = rows.iter().filter(|row| row.wire == wire).collect();
        if of_wire.is_empty() {
            continue;
        }
        let link = match wire {
            Wire::Loopback => Link::loopback(),
            Wire::Link => match Link::limited() {
                Ok(link) => link,
                Err(why) => {
                    eprintln!("SKIPPED the limited link: {why:#}");
                    skipped = Some(format!("{why:#}"));
                    continue;
                }
            },
        };
        for row in of_wire {
            let one = within(ROW_LIMIT + arguments.time, || measure(row, &link, &arguments))?;
            eprintln!("{}", one.line());
            measured.push(one);
        }
    }
    report::print(&measured, skipped.as_deref(), &arguments)
}

/// Does it, and ends the process if that takes too long. Namespaces are removed first.
fn within<T>(limit: Duration, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let (done, waits) = mpsc::channel::<()>();
    let watchdog = std::thread::spawn(move || {
        if waits.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout) {
            eprintln!("a row did not end within {limit:?}");
            link::remove_all();
            std::process::exit(1);
        }
    });
    let result = work();
    drop(done);
    let _ = watchdog.join();
    result
}

fn measure(row: &Row, link: &Link, arguments: &Arguments) -> Result<Measured> {
    let cluster = Cluster::start(row, link, &arguments.directory)?;
    let load = load::Load::start(&cluster, row);
    let probe = probe::Probe::start(link)?;
    std::thread::sleep(arguments.time / 8);
    let terms = cluster.terms();
    cluster.delays.reset();
    load.reset();
    probe.reset();
    std::thread::sleep(arguments.time);
    let control = cluster.delays.take();
    let (writes, failed, bytes) = load.take();
    let probe = probe.take();
    let elections = cluster.terms().saturating_sub(terms);
    let rate = bytes as f64 / arguments.time.as_secs_f64();
    load.stop();
    cluster.stop();
    Ok(Measured { row: row.clone(), control, writes, failed, rate, probe, elections })
}
