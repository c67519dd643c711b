//! Check `powercut`: a power cut loses nothing acknowledged.
//!
//! Nodes keep their data on an ext4 image, clients write unique keys, and in the middle the file
//! system is shut down below the nodes: what was not on the device is gone. Three scenes: the
//! whole site at the same instant (all nodes on one image); one node while its peers go on; two
//! nodes, which must then do without the third, whose copy could hide what they forgot. The
//! controls, one in the file system and one in the cache of its device: a file overwritten in
//! place without a sync, just before the cut, must be as it was, and a synced one must not; else
//! the cut was none.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::cluster::{Cluster, Layout};
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
/// The survivors go on for so long while one node is gone: enough to elect other leaders.
const ALONE: Duration = Duration::from_millis(1500);
/// Between two looks at something that takes a moment.
const PAUSE: Duration = Duration::from_millis(10);
const CONTROL_BYTES: usize = 1 << 20;

pub(super) fn run(setting: &Setting) -> Result<Vec<Outcome>> {
    if let Some(obstacle) = obstacle(&setting.directory) {
        return Ok(vec![Outcome::skipped("everything", obstacle)]);
    }
    let few = setting.rounds.div_ceil(4);
    let plans = [(Scene::Site, setting.rounds), (Scene::One, few), (Scene::Two, few)];
    Ok(plans.map(|(scene, rounds)| Plan { scene, rounds }.carry_out(setting)).into())
}

/// Whose power is cut.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Scene {
    /// All nodes', at one instant.
    Site,
    /// One node's; its peers go on.
    One,
    /// Two nodes'; the third is killed and stays away until everything is read back from the two.
    Two,
}

impl Scene {
    fn name(self) -> &'static str {
        match self {
            Self::Site => "whole site",
            Self::One => "one node, its peers go on",
            Self::Two => "two nodes, the third stays away",
        }
    }

    fn images(self) -> usize {
        match self {
            Self::Site => 1,
            Self::One | Self::Two => NODES,
        }
    }

    /// The images whose power is cut in a round.
    fn cut(self, round: u32) -> Vec<usize> {
        let first = round as usize % NODES;
        match self {
            Self::Site => vec![0],
            Self::One => vec![first],
            Self::Two => vec![first, (first + 1) % NODES],
        }
    }

    /// The nodes on them.
    fn victims(self, round: u32) -> Vec<usize> {
        match self {
            Self::Site => (0..NODES).collect(),
            Self::One | Self::Two => self.cut(round),
        }
    }
}

/// One scene, several times.
struct Plan {
    scene: Scene,
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
        let what = format!("{} cuts, {}", self.rounds, self.scene.name());
        let note = format!(
            "{acked} acknowledged, lost {lost}; {unknown} unknown, {unknown_present} of them \
             happened; control gone in {controls} cuts; {noticed} nodes stopped by themselves"
        );
        match carried_out {
            Err(error) => Outcome::failed(what, note, format!("{error:#}")),
            Ok(()) if lost > 0 => Outcome::failed(what, note, named.join("\n")),
            Ok(()) => Outcome::passed(what, note),
        }
    }

    /// The rounds from `first` on that one cluster lives through.
    fn live(&self, setting: &Setting, first: u32, total: &mut Total) -> Result<()> {
        let lost_before = total.findings.lost;
        let mut site = Site::prepare(setting, self.scene)?;
        for round in first..self.rounds.min(first + LIVES) {
            site.round(round, total).with_context(|| {
                format!("{}, round {} of {}", self.scene.name(), round + 1, self.rounds)
            })?;
        }
        // Once more, since later lives of the log must not lose what earlier ones kept.
        let again = read_back(&site.cluster.proxies(), &site.written)?;
        let newly = again.lost.saturating_sub(total.findings.lost - lost_before);
        total.findings.lost += newly;
        if newly > 0 {
            total.findings.named.extend(again.named);
        }
        Ok(())
    }
}

/// A cluster on images, and what was written to it. Fields are dropped in this order.
struct Site {
    scene: Scene,
    cluster: Cluster,
    /// Of each image.
    controls: Vec<[Control; 2]>,
    images: Vec<Image>,
    written: Vec<Writes>,
}

impl Site {
    fn prepare(setting: &Setting, scene: Scene) -> Result<Self> {
        let directory = &setting.directory;
        let images: Vec<Image> = (1..=scene.images())
            .map(|number| Image::make(directory, &format!("image-{number}")))
            .collect::<Result<_>>()?;
        let data: Vec<PathBuf> = (0..NODES)
            .map(|node| images[node % images.len()].path().join(format!("node-{}", node + 1)))
            .collect();
        let controls = images
            .iter()
            .map(|image| Ok([Control::make(image.path())?, Control::make(image.device_cache())?]))
            .collect::<io::Result<_>>()
            .context("cannot write the controls")?;
        let mut cluster = Cluster::prepare(&Layout::new(&setting.raftd, directory, &data, GROUPS))?;
        cluster.start_all()?;
        Ok(Self { scene, cluster, controls, images, written: Vec::new() })
    }

    fn round(&mut self, round: u32, total: &mut Total) -> Result<()> {
        let proxies = self.cluster.proxies();
        let (cut, victims) = (self.scene.cut(round), self.scene.victims(round));
        let load = Load::start(&proxies, CLIENTS, &format!("r{round}"));
        self.wait_for_acks(&load, 0)?;
        thread::sleep(LOAD + LOAD * (round * 7 % 10) / 10);

        for image in &cut {
            for control in &self.controls[*image] {
                control.overwrite(round).context("cannot write the controls")?;
            }
        }
        cut.iter().try_for_each(|image| self.images[*image].cut_power())?;
        let at_the_cut = load.acked();
        thread::sleep(AFTERMATH);
        let ended = self.cluster.ended();
        if let Some((_, last_words)) = ended.iter().find(|(node, _)| !victims.contains(node)) {
            bail!("the power of another node was cut, but {last_words}");
        }
        match self.scene {
            Scene::Site | Scene::Two => self.cluster.kill_all(),
            Scene::One => {
                victims.iter().for_each(|node| self.cluster.kill(*node));
                thread::sleep(ALONE);
            }
        }
        let meanwhile = load.acked() - at_the_cut;
        for image in cut {
            self.images[image].power_up()?;
            self.controls[image].iter().try_for_each(|control| control.check(round))?;
        }
        victims.into_iter().try_for_each(|node| self.cluster.start(node))?;
        self.wait_for_acks(&load, load.acked())?;

        let writes = load.stop();
        let findings = read_back(&proxies, &writes)?;
        // Whoever stayed away comes back for the next round.
        self.cluster.start_all()?;
        println!(
            "round {}: cut after {at_the_cut} acknowledgements, {meanwhile} until the power was \
             back, nodes that stopped by themselves: {}; {} acknowledged, {} unknown, lost {}",
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
        let mut unsynced = File::options().write(true).open(&self.unsynced)?;
        unsynced.write_all(&vec![1; CONTROL_BYTES])
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

#[cfg(test)]
mod tests {
    use super::{Control, NODES, Scene};

    #[test]
    fn every_node_loses_its_power_in_turn() {
        for scene in [Scene::One, Scene::Two] {
            let mut cuts = [0; NODES];
            (0..3).flat_map(|round| scene.victims(round)).for_each(|node| cuts[node] += 1);
            let each = scene.victims(0).len();
            assert_eq!(cuts, [each; NODES], "{scene:?}");
        }
        assert_eq!(Scene::Site.victims(5), [0, 1, 2]);
        assert_eq!(Scene::Site.cut(5), [0]);
    }

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
