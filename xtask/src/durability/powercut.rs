//! Check `powercut`: a power cut loses nothing acknowledged.
//!
//! Nodes keep their data on an ext4 image, clients write unique keys, and in the middle the file
//! system is shut down below the nodes: what was not on the device is gone. Two variants: the
//! whole site at the same instant (all nodes on one image), and one node after the other while
//! its peers go on. The control: a file overwritten in place without a sync, just before the
//! cut, must be as it was, and a synced one must not; else the cut was none.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::cluster::Cluster;
use super::image::{Image, obstacle};
use super::load::{Findings, Load, Writes, read_back};
use super::{Outcome, Setting};

const NODES: usize = 3;
const GROUPS: u32 = 16;
const CLIENTS: usize = 16;
/// Cuts that one data directory lives through; then a new one begins, as logs only grow.
const LIVES: u32 = 5;
/// From the start of the nodes to the first acknowledgement.
const START_LIMIT: Duration = Duration::from_secs(60);
/// Load before the cut: this, and up to as much again.
const LOAD: Duration = Duration::from_millis(700);
/// Nodes run on after the cut, so that one that lies has the time to.
const AFTERMATH: Duration = Duration::from_millis(50);
/// The survivors go on for so long while one node is gone.
const ALONE: Duration = Duration::from_millis(500);
/// Between two looks at something that takes a moment.
const PAUSE: Duration = Duration::from_millis(10);
const CONTROL_BYTES: usize = 1 << 20;

pub(super) fn run(setting: &Setting) -> Result<Vec<Outcome>> {
    if let Some(obstacle) = obstacle(&setting.directory) {
        return Ok(vec![Outcome::skipped("everything", obstacle)]);
    }
    let site = Plan { name: "whole site", images: 1, rounds: setting.rounds };
    let single =
        Plan { name: "one node, peers go on", images: NODES, rounds: setting.rounds.div_ceil(4) };
    Ok([site, single].into_iter().map(|plan| plan.carry_out(setting)).collect())
}

/// One variant.
struct Plan {
    name: &'static str,
    /// One for all nodes, or one for each.
    images: usize,
    rounds: u32,
}

/// What all rounds of a plan brought.
#[derive(Default)]
struct Total {
    findings: Findings,
    /// Cuts that the controls prove to have been some.
    controls: u32,
    /// Nodes that noticed the cut and ended by themselves before they were killed.
    noticed: usize,
}

impl Plan {
    fn carry_out(&self, setting: &Setting) -> Outcome {
        let mut total = Total::default();
        let carried_out = (0..self.rounds)
            .step_by(LIVES as usize)
            .try_for_each(|first| self.live(setting, first, &mut total));
        let Total { findings, controls, noticed } = total;
        let Findings { acked, unknown, unknown_present, lost, named } = findings;
        let what = format!("{} cuts, {}", self.rounds, self.name);
        let note = format!(
            "{acked} acknowledged, lost {lost}; {unknown} unknown, {unknown_present} of them \
             happened; {controls} controls gone; {noticed} nodes stopped by themselves"
        );
        match carried_out {
            Err(error) => Outcome::failed(what, note, format!("{error:#}")),
            Ok(()) if lost > 0 => Outcome::failed(what, note, named.join("\n")),
            Ok(()) => Outcome::passed(what, note),
        }
    }

    /// The rounds from `first` on that one cluster lives through.
    fn live(&self, setting: &Setting, first: u32, total: &mut Total) -> Result<()> {
        let mut site = Site::prepare(setting, self)?;
        for round in first..self.rounds.min(first + LIVES) {
            site.round(round, total).with_context(|| {
                format!("{}, round {} of {}", self.name, round + 1, self.rounds)
            })?;
        }
        // Once more, since later lives of the log must not lose what earlier ones kept.
        let again = read_back(&site.cluster.proxies(), &site.written)?;
        total.findings.lost += again.lost;
        total.findings.named.extend(again.named);
        Ok(())
    }
}

/// A cluster on images, and what was written to it. Fields are dropped in this order.
struct Site {
    cluster: Cluster,
    controls: Vec<Control>,
    images: Vec<Image>,
    written: Vec<Writes>,
}

impl Site {
    fn prepare(setting: &Setting, plan: &Plan) -> Result<Self> {
        let directory = &setting.directory;
        let images: Vec<Image> = (1..=plan.images)
            .map(|number| Image::make(directory, &format!("image-{number}")))
            .collect::<Result<_>>()?;
        let data: Vec<PathBuf> = (0..NODES)
            .map(|node| images[node % images.len()].path().join(format!("node-{}", node + 1)))
            .collect();
        let controls = images
            .iter()
            .map(|image| Control::make(image.path()))
            .collect::<io::Result<_>>()
            .context("cannot write the controls")?;
        let mut cluster = Cluster::prepare(&setting.raftd, directory, &data, GROUPS)?;
        cluster.start_all()?;
        Ok(Self { cluster, controls, images, written: Vec::new() })
    }

    fn round(&mut self, round: u32, total: &mut Total) -> Result<()> {
        let proxies = self.cluster.proxies();
        let cut = round as usize % self.images.len();
        let victims = if self.images.len() == 1 { 0..NODES } else { cut..cut + 1 };
        let load = Load::start(&proxies, CLIENTS, &format!("r{round}"));
        self.wait_for_acks(&load, 0)?;
        thread::sleep(LOAD + LOAD * (round * 7 % 10) / 10);

        self.controls[cut].overwrite(round).context("cannot write the controls")?;
        self.images[cut].cut_power()?;
        let at_the_cut = load.acked();
        thread::sleep(AFTERMATH);
        let ended = self.cluster.ended();
        if let Some((_, last_words)) = ended.iter().find(|(node, _)| !victims.contains(node)) {
            bail!("the power of another node was cut, but {last_words}");
        }
        victims.clone().for_each(|node| self.cluster.kill(node));
        if victims.len() < NODES {
            thread::sleep(ALONE);
        }
        let meanwhile = load.acked() - at_the_cut;
        self.images[cut].power_up()?;
        self.controls[cut].check(round)?;
        victims.into_iter().try_for_each(|node| self.cluster.start(node))?;
        self.wait_for_acks(&load, load.acked())?;

        let writes = load.stop();
        let findings = read_back(&proxies, &writes)?;
        println!(
            "round {}: cut after {at_the_cut} acknowledgements, {meanwhile} until the power was \
             back, {} nodes stopped by themselves; {} acknowledged, {} unknown, lost {}",
            round + 1,
            ended.len(),
            findings.acked,
            findings.unknown,
            findings.lost
        );
        self.written.extend(writes);
        total.controls += 1;
        total.noticed += ended.len();
        total.findings.add(findings);
        Ok(())
    }

    /// Waits until more than `before` writes are acknowledged.
    fn wait_for_acks(&mut self, load: &Load, before: u64) -> Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        while load.acked() <= before {
            if let Some((_, last_words)) = self.cluster.ended().into_iter().next() {
                bail!("{last_words}");
            }
            ensure!(Instant::now() < deadline, "no acknowledgement in {START_LIMIT:?}");
            thread::sleep(PAUSE);
        }
        Ok(())
    }
}

/// Two files beside the logs that show whether a cut was one.
struct Control {
    /// Durable zeros, overwritten in place without a sync, as a log would be that forgot it.
    unsynced: PathBuf,
    /// Written and synced.
    synced: PathBuf,
}

impl Control {
    fn make(directory: &Path) -> io::Result<Self> {
        let unsynced = directory.join("control-unsynced");
        let mut file = File::create(&unsynced)?;
        file.write_all(&vec![0; CONTROL_BYTES])?;
        file.sync_all()?;
        Ok(Self { unsynced, synced: directory.join("control-synced") })
    }

    fn overwrite(&self, round: u32) -> io::Result<()> {
        let mut synced = File::create(&self.synced)?;
        synced.write_all(&round.to_le_bytes())?;
        synced.sync_all()?;
        let unsynced = File::options().write(true).open(&self.unsynced)?;
        unsynced.write_all_at(&vec![1; CONTROL_BYTES], 0)
    }

    /// After the power is back.
    fn check(&self, round: u32) -> Result<()> {
        let synced = fs::read(&self.synced).context("the synced control is gone")?;
        ensure!(synced == round.to_le_bytes(), "the synced control has lost its content");
        let unsynced = fs::read(&self.unsynced).context("the durable control is gone")?;
        let kept = unsynced.iter().filter(|byte| **byte != 0).count();
        ensure!(kept == 0, "no power cut: {kept} bytes without a sync are still there");
        Ok(())
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::Control;

    #[test]
    fn without_a_cut_the_control_says_so() {
        let directory = std::env::temp_dir().join(format!("control-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let control = Control::make(&directory).unwrap();
        control.overwrite(7).unwrap();
        let error = control.check(7).unwrap_err().to_string();
        assert!(error.contains("no power cut"), "{error}");
        assert!(control.check(8).unwrap_err().to_string().contains("lost its content"));
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
