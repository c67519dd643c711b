//! What was measured, as a table, as curves, and against what was aimed at.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, Result};
use raft_transport::LaneLayout;

use super::delays::Samples;
use super::plan::{Arguments, Lanes, Row, Wire};

#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) row: Row,
    /// Heartbeats from the first node, from queued to taken in.
    pub(crate) control: Samples,
    /// Of the quiet groups, from due to applied and answered.
    pub(crate) writes: Samples,
    pub(crate) failed: u64,
    /// Of large messages, in bytes per second.
    pub(crate) rate: f64,
    pub(crate) probe: Samples,
    /// Terms that began.
    pub(crate) elections: u64,
}

const HEADER: [&str; 9] = [
    "wire",
    "log",
    "size",
    "lanes",
    "MB/s",
    "control p50 / p99 / p99.9, ms",
    "write p50 / p99 / p99.9, ms",
    "probe p50 / p99 / p99.9, ms",
    "elections",
];

const DEFAULT: Lanes = Lanes::Layout(LaneLayout::ControlDataBulk);

impl Measured {
    fn cells(&self) -> [String; 9] {
        let row = &self.row;
        let size = match row.size {
            0 => "-".to_owned(),
            bytes if bytes >= 1 << 20 => format!("{} MiB", bytes >> 20),
            bytes => format!("{} KiB", bytes >> 10),
        };
        let failed = match self.failed {
            0 => String::new(),
            failed => format!(", {failed} failed"),
        };
        [
            row.wire.name().to_owned(),
            if row.on_disk { "disk" } else { "memory" }.to_owned(),
            size,
            row.lanes.name().to_owned(),
            format!("{:.0}", self.rate / 1e6),
            spread(&self.control),
            format!("{}{failed}", spread(&self.writes)),
            spread(&self.probe),
            self.elections.to_string(),
        ]
    }

    pub(crate) fn line(&self) -> String {
        let counts = (self.control.count(), self.writes.count(), self.probe.count());
        format!("{}  (samples: {counts:?})", self.cells().join(" | "))
    }
}

fn spread(samples: &Samples) -> String {
    [500, 990, 999].map(|permille| in_ms(samples.permille(permille))).join(" / ")
}

fn in_ms(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1e3;
    if ms < 10.0 { format!("{ms:.2}") } else { format!("{ms:.0}") }
}

/// Prints the table and what became of the targets, and draws the curves if that was asked for.
pub(crate) fn print(
    measured: &[Measured],
    skipped: Option<&str>,
    arguments: &Arguments,
) -> Result<()> {
    let separator = if arguments.markdown { "| " } else { "" };
    let line = |cells: &[String]| {
        println!("{separator}{}{}", cells.join(" | "), if arguments.markdown { " |" } else { "" })
    };
    line(&HEADER.map(str::to_owned));
    if arguments.markdown {
        println!("|{}", " --- |".repeat(HEADER.len()));
    }
    for one in measured {
        line(&one.cells());
    }
    if let Some(why) = skipped {
        println!("\n1 Gbit/s: SKIPPED, {why}");
    }
    println!();
    for finding in findings(measured) {
        println!("- {finding}");
    }
    if let Some(path) = &arguments.svg {
        std::fs::write(path, curves(measured)).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

fn findings(measured: &[Measured]) -> Vec<String> {
    let mut found = Vec::new();
    let of = |wire: Wire, on_disk: bool, lanes: Lanes, size: usize| {
        let is_it = move |one: &&Measured| {
            let row = &one.row;
            (row.wire, row.on_disk, row.lanes, row.size) == (wire, on_disk, lanes, size)
        };
        measured.iter().find(is_it)
    };
    let p99 = |samples: &Samples| samples.permille(990).as_secs_f64() * 1e3;
    for (wire, factor) in [(Wire::Loopback, 3.0), (Wire::Link, 20.0)] {
        let name = wire.name();
        let Some(ours) = of(wire, false, DEFAULT, 8 << 20) else { continue };
        if let Some(whole) = of(wire, false, Lanes::Whole, 8 << 20) {
            let ratio = p99(&whole.control) / p99(&ours.control);
            found.push(format!(
                "{name}, 8 MiB: control p99 {ratio:.1} times better than on one connection with whole \
                 frames (aim: {factor:.0})"
            ));
        }
        let ratio = p99(&ours.control) / p99(&ours.probe);
        found.push(format!("{name}, 8 MiB: control p99 {ratio:.1} times the probe's (aim: 3)"));
        for on_disk in [false, true] {
            if let (Some(ours), Some(alone)) =
                (of(wire, on_disk, DEFAULT, 8 << 20), of(wire, on_disk, Lanes::Alone, 0))
            {
                let ratio = p99(&ours.writes) / p99(&alone.writes);
                let (log, aim) = if on_disk { ("disk", "") } else { ("memory", " (aim: 3)") };
                found.push(format!(
                    "{name}, 8 MiB, log in {log}: quiet writes' p99 {ratio:.1} times what it is alone{aim}"
                ));
            }
        }
    }
    let elections = |is_whole: bool| {
        let of_kind = measured.iter().filter(|one| (one.row.lanes == Lanes::Whole) == is_whole);
        of_kind.map(|one| one.elections).sum::<u64>()
    };
    found.push(format!(
        "elections: {} on one connection with whole frames, {} in all other rows (aim: 0)",
        elections(true),
        elections(false)
    ));
    found
}

const COLOURS: [&str; 4] = ["#b2182b", "#ef8a62", "#67a9cf", "#2166ac"];
const PANEL: (f64, f64) = (360.0, 240.0);
/// Decades of milliseconds that a panel shows: from 0.1 ms on.
const DECADES: f64 = 5.0;

/// Four panels: control and writes, over either wire, by size; both axes in powers.
fn curves(measured: &[Measured]) -> String {
    let mut svg = String::from(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"900\" height=\"700\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"900\" height=\"700\" fill=\"white\"/>\n",
    );
    let mut sizes: Vec<usize> =
        measured.iter().map(|one| one.row.size).filter(|size| *size > 0).collect();
    sizes.sort_unstable();
    sizes.dedup();
    for (column, wire) in [Wire::Loopback, Wire::Link].into_iter().enumerate() {
        for (line, what) in ["control one-way, p99", "quiet write, p99"].into_iter().enumerate() {
            let (left, top) = (70.0 + column as f64 * 430.0, 40.0 + line as f64 * 310.0);
            let _ = writeln!(
                svg,
                "<text x=\"{left}\" y=\"{}\" font-weight=\"bold\">{what}, {}</text>",
                top - 10.0,
                wire.name()
            );
            axes(&mut svg, (left, top), &sizes);
            for (lanes, colour) in Lanes::ALL.into_iter().zip(COLOURS) {
                let mut points = String::new();
                for (at, size) in sizes.iter().enumerate() {
                    let is_it = |one: &&Measured| {
                        let row = &one.row;
                        (row.wire, row.on_disk, row.lanes, row.size) == (wire, false, lanes, *size)
                    };
                    let Some(one) = measured.iter().find(is_it) else { continue };
                    let samples = if line == 0 { &one.control } else { &one.writes };
                    let (x, y) = (across(at, sizes.len()), height(samples.permille(990)));
                    let _ = write!(points, "{:.1},{:.1} ", left + x, top + y);
                }
                let _ = writeln!(
                    svg,
                    "<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>"
                );
            }
        }
    }
    for (at, (lanes, colour)) in Lanes::ALL.into_iter().zip(COLOURS).enumerate() {
        let x = 70.0 + at as f64 * 200.0;
        let _ = writeln!(
            svg,
            "<rect x=\"{x}\" y=\"662\" width=\"20\" height=\"4\" fill=\"{colour}\"/>\
             <text x=\"{}\" y=\"668\">{}</text>",
            x + 26.0,
            lanes.name()
        );
    }
    svg.push_str("</svg>\n");
    svg
}

fn axes(svg: &mut String, (left, top): (f64, f64), sizes: &[usize]) {
    let (width, tall) = PANEL;
    let _ = writeln!(
        svg,
        "<rect x=\"{left}\" y=\"{top}\" width=\"{width}\" height=\"{tall}\" fill=\"none\" stroke=\"#999\"/>"
    );
    for decade in 0..=DECADES as i32 {
        let y = top + tall * (1.0 - f64::from(decade) / DECADES);
        let ms = 10_f64.powi(decade - 1);
        let _ = writeln!(
            svg,
            "<line x1=\"{left}\" x2=\"{}\" y1=\"{y}\" y2=\"{y}\" stroke=\"#ddd\"/>\
             <text x=\"{}\" y=\"{}\" text-anchor=\"end\">{ms} ms</text>",
            left + width,
            left - 6.0,
            y + 4.0
        );
    }
    for (at, size) in sizes.iter().enumerate() {
        let name = if *size >= 1 << 20 {
            format!("{} MiB", size >> 20)
        } else {
            format!("{} KiB", size >> 10)
        };
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{name}</text>",
            left + across(at, sizes.len()),
            top + tall + 16.0
        );
    }
}

fn across(at: usize, count: usize) -> f64 {
    PANEL.0 * (at as f64 + 0.5) / count as f64
}

fn height(time: Duration) -> f64 {
    let decades = (time.as_secs_f64() * 1e4).max(1.0).log10();
    PANEL.1 * (1.0 - (decades / DECADES).min(1.0))
}
