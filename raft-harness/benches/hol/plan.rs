//! Which rows there are.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use raft_transport::LaneLayout;

/// What the command line asks for.
///
/// `--quick`: two sizes and short rows, under three minutes. `--seconds N`: of each row (default 5;
/// quick 3). `--only loopback|link`. `--size BYTES`: only that one. `--directory DIR`: where logs on
/// disk are. `--markdown`: the table as a document has it. `--svg FILE`: draw the curves.
#[derive(Debug)]
pub(crate) struct Arguments {
    pub(crate) quick: bool,
    pub(crate) time: Duration,
    only: Option<Wire>,
    size: Option<usize>,
    pub(crate) directory: PathBuf,
    pub(crate) markdown: bool,
    pub(crate) svg: Option<PathBuf>,
}

/// What carries the bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Wire {
    Loopback,
    /// 1 Gbit/s out of each node.
    Link,
}

/// How a node uses its connections.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Lanes {
    /// One connection, whole frames.
    Whole,
    /// With this layout, in chunks.
    Layout(LaneLayout),
    /// The default layout, and no large messages: the quiet groups alone.
    Alone,
}

#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) wire: Wire,
    pub(crate) lanes: Lanes,
    pub(crate) on_disk: bool,
    /// Of the large messages, in bytes.
    pub(crate) size: usize,
}

const SIZES: [usize; 5] = [1 << 10, 64 << 10, 1 << 20, 8 << 20, 64 << 20];
const SIZES_QUICK: [usize; 2] = [64 << 10, 8 << 20];
/// The one that is measured with the log on disk as well.
const SIZE_ON_DISK: usize = 8 << 20;

impl Arguments {
    pub(crate) fn parse(arguments: impl Iterator<Item = String>) -> Result<Self> {
        let mut parsed = Self {
            quick: false,
            time: Duration::from_secs(5),
            only: None,
            size: None,
            directory: std::env::temp_dir(),
            markdown: false,
            svg: None,
        };
        let mut rest = arguments;
        while let Some(argument) = rest.next() {
            let mut value = || rest.next().with_context(|| format!("`{argument}` needs a value"));
            match argument.as_str() {
                // Said by cargo.
                "--bench" => {}
                "--quick" => {
                    parsed.quick = true;
                    parsed.time = Duration::from_secs(3);
                }
                "--seconds" => parsed.time = Duration::from_secs(value()?.parse()?),
                "--only" => {
                    parsed.only = Some(match value()?.as_str() {
                        "loopback" => Wire::Loopback,
                        "link" => Wire::Link,
                        other => bail!("`--only {other}`: loopback or link"),
                    });
                }
                "--size" => parsed.size = Some(value()?.parse()?),
                "--directory" => parsed.directory = value()?.into(),
                "--markdown" => parsed.markdown = true,
                "--svg" => parsed.svg = Some(value()?.into()),
                _ => bail!("unknown option `{argument}`"),
            }
        }
        Ok(parsed)
    }

    pub(crate) fn rows(&self) -> Vec<Row> {
        let sizes: &[usize] = if self.quick { &SIZES_QUICK } else { &SIZES };
        let of_size = |size: &usize| self.size.is_none_or(|only| only == *size);
        let mut rows = Vec::new();
        let wires = [Wire::Loopback, Wire::Link].into_iter();
        for wire in wires.filter(|wire| self.only.is_none_or(|only| only == *wire)) {
            rows.push(Row { wire, lanes: Lanes::Alone, on_disk: false, size: 0 });
            for size in sizes.iter().copied().filter(of_size) {
                for lanes in Lanes::ALL {
                    rows.push(Row { wire, lanes, on_disk: false, size });
                }
            }
            if self.quick || !of_size(&SIZE_ON_DISK) {
                continue;
            }
            rows.push(Row { wire, lanes: Lanes::Alone, on_disk: true, size: 0 });
            for lanes in Lanes::ALL {
                rows.push(Row { wire, lanes, on_disk: true, size: SIZE_ON_DISK });
            }
        }
        rows
    }
}

impl Lanes {
    /// Those that carry large messages, the plainest first.
    pub(crate) const ALL: [Self; 4] = [
        Self::Whole,
        Self::Layout(LaneLayout::Single),
        Self::Layout(LaneLayout::ControlBulk),
        Self::Layout(LaneLayout::ControlDataBulk),
    ];

    pub(crate) fn layout(self) -> LaneLayout {
        match self {
            Self::Whole => LaneLayout::Single,
            Self::Layout(layout) => layout,
            Self::Alone => LaneLayout::ControlDataBulk,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Whole => "single, whole frames",
            Self::Layout(layout) => layout.name(),
            Self::Alone => "quiet groups alone",
        }
    }
}

impl Wire {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Loopback => "loopback",
            Self::Link => "1 Gbit/s",
        }
    }
}
