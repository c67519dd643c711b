//! The course of a run as one small picture.

use std::fmt::Write as _;

use super::readings::Sample;

const WIDTH: f64 = 720.0;
const PANEL: f64 = 110.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 26.0;
/// Between two panels, with the name of the lower one.
const GAP: f64 = 34.0;
/// More points than this are thinned out: nobody could tell them apart.
const POINTS_MAX: usize = 180;
const COLOURS: [&str; 3] = ["#1b6ca8", "#c8553d", "#588157"];

type Value = fn(&Sample, usize) -> f64;

/// One panel: its title, its lines by name, and how to read a value off.
struct Panel {
    title: &'static str,
    lines: &'static [&'static str],
    value: Value,
}

const NODES: &[&str] = &["node 1", "node 2", "node 3"];

const PANELS: [Panel; 4] = [
    Panel {
        title: "log on disk, MiB",
        lines: NODES,
        value: |sample, node| mebibytes(sample.nodes[node].log_bytes),
    },
    Panel {
        title: "resident memory, MiB",
        lines: NODES,
        value: |sample, node| mebibytes(sample.nodes[node].memory_bytes),
    },
    Panel {
        title: "open descriptors",
        lines: NODES,
        value: |sample, node| sample.nodes[node].descriptors as f64,
    },
    Panel {
        title: "writes, ms (shown up to 50)",
        lines: &["p50", "p99", "a raw sync beside"],
        value: |sample, line| {
            let time = [sample.p50, sample.p99, sample.raw_sync][line];
            (time.as_secs_f64() * 1e3).min(50.0)
        },
    },
];

/// Draws all samples of three nodes.
pub(super) fn draw(title: &str, samples: &[Sample]) -> String {
    let samples: Vec<&Sample> =
        samples.iter().step_by(samples.len().div_ceil(POINTS_MAX).max(1)).collect();
    let end = samples.last().map_or(1.0, |sample| sample.at.as_secs_f64()).max(1.0);
    let height = TOP + PANELS.len() as f64 * (PANEL + GAP) + 10.0;
    let mut svg = String::new();
    // Writing to a string cannot fail.
    let _ = write!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"{LEFT}\" y=\"16\" font-size=\"13\">{title}</text>\n"
    );
    for (number, panel) in PANELS.iter().enumerate() {
        let top = TOP + GAP / 2.0 + number as f64 * (PANEL + GAP);
        let values = |line: usize| samples.iter().map(move |sample| (panel.value)(sample, line));
        let highest = (0..panel.lines.len()).flat_map(values).fold(1.0_f64, f64::max);
        let x = |at: f64| LEFT + at / end * (WIDTH - LEFT - RIGHT);
        let y = |value: f64| top + PANEL - value / highest * PANEL;
        let (bottom, width) = (top + PANEL, WIDTH - LEFT - RIGHT);
        let _ = write!(
            svg,
            "<text x=\"{LEFT}\" y=\"{:.0}\">{}</text>\n\
             <rect x=\"{LEFT}\" y=\"{top}\" width=\"{width}\" height=\"{PANEL}\" fill=\"none\" \
             stroke=\"#bbb\"/>\n\
             <text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">{highest:.0}</text>\n\
             <text x=\"{:.0}\" y=\"{bottom}\" text-anchor=\"end\">0</text>\n",
            top - 4.0,
            panel.title,
            LEFT - 4.0,
            top + 9.0,
            LEFT - 4.0
        );
        for (line, name) in panel.lines.iter().enumerate() {
            let colour = COLOURS[line];
            let points: Vec<String> = samples
                .iter()
                .zip(values(line))
                .map(|(sample, value)| format!("{:.0},{:.0}", x(sample.at.as_secs_f64()), y(value)))
                .collect();
            let _ = write!(
                svg,
                "<text x=\"{}\" y=\"{:.0}\" fill=\"{colour}\">{name}</text>\n\
                 <polyline fill=\"none\" stroke=\"{colour}\" points=\"{}\"/>\n",
                LEFT + 260.0 + 110.0 * line as f64,
                top - 4.0,
                points.join(" ")
            );
        }
    }
    let _ = write!(
        svg,
        "<text x=\"{}\" y=\"{:.0}\" text-anchor=\"end\">{:.0} minutes</text>\n</svg>\n",
        WIDTH - RIGHT,
        height - 4.0,
        end / 60.0
    );
    svg
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{POINTS_MAX, draw};
    use crate::soak::readings::{NodeReading, Sample};

    #[test]
    fn a_picture_stays_small_however_long_the_run_was() {
        let sample = |n: u64| Sample {
            at: Duration::from_secs(10 * n),
            nodes: vec![NodeReading { log_bytes: n << 20, ..NodeReading::default() }; 3],
            p50: Duration::from_millis(2),
            p99: Duration::from_millis(9),
            per_second: 1.0,
            raw_sync: Duration::ZERO,
        };
        let samples: Vec<Sample> = (0..5000).map(sample).collect();
        let svg = draw("a soak", &samples);
        assert!(svg.len() < 40_000, "{} bytes", svg.len());
        assert!(svg.matches("<polyline").count() == 12 && svg.ends_with("</svg>\n"));
        let points = svg.split("points=\"").nth(1).unwrap().split('"').next().unwrap();
        assert!(points.split(' ').count() <= POINTS_MAX);
        assert!(draw("none", &[]).ends_with("</svg>\n"));
    }
}
