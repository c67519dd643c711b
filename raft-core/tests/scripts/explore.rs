//! Scripts written by chance, to find the claims nobody thought of.
//!
//! A seed becomes a list of commands. Whatever they do, no replica may go mute, no invariant may
//! break, and once the trouble is over one leader takes a write that everybody gets. When that
//! fails the commands are printed: they are a script already.
//!
//! `RAFT_SCRIPT_SEEDS=10000` explores more seeds, `RAFT_SCRIPT_SEED=17` only that one.

use raft_core::Promise;

use crate::cluster::Key;
use crate::vocabulary::Stage;

/// `SplitMix64`.
struct Rng(u64);

impl Rng {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    fn pick<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.below(choices.len() as u64) as usize]
    }
}

/// A script in the making.
struct Explorer {
    rng: Rng,
    stage: Stage,
    /// The commands so far that made sense, and what they told.
    script: Vec<String>,
    proposals: u64,
    newest: u64,
    /// A crash may take what was acknowledged: replicas come back with lost promises.
    forgets: bool,
    /// What was durable may be gone after a crash.
    damages: bool,
    /// Clocks differ by as much as leases allow for.
    drifts: bool,
    /// How often each of [`EVENTS`] was told.
    seen: [u64; EVENTS.len()],
}

/// What exploration must meet often, or it explores nothing.
const EVENTS: [&str; 14] = [
    "-> leader@",
    " cuts ",
    " starts over from snapshot",
    " wants snapshot",
    " no more",
    " forgets its log",
    " and ",
    "-> kept",
    " falls asleep",
    " wakes up",
    ": transferred",
    "read: ready",
    "superseded",
    "change: committed",
];

impl Drop for Explorer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.script.join("\n"));
        }
    }
}

impl Explorer {
    fn new(seed: u64) -> Self {
        let mut rng = Rng(seed);
        let voters = 1 + rng.below(5).max(1);
        let forgets = rng.below(5) == 0;
        let mut cluster = format!("cluster nodes={voters} leader=1");
        for (setting, chance) in [
            ("lease-drift=1%", 2),
            ("quiesce=1s", 3),
            ("inflight=2", 2),
            ("append-bytes=250", 2),
            ("promotion-lag=3", 2),
            ("reads=2", 4),
            ("uncommitted-bytes=500", 3),
            ("disk-stall=500ms", 3),
        ] {
            if rng.below(chance) == 0 {
                cluster = format!("{cluster} {setting}");
            }
        }
        if forgets {
            cluster.push_str(" acknowledge=written");
        }
        let (stage, script) = (Stage::default(), Vec::new());
        let drifts = cluster.contains("lease-drift");
        let damages = !forgets && rng.below(4) == 0;
        let (proposals, newest, seen) = (0, voters, [0; EVENTS.len()]);
        let mut explorer =
            Self { rng, stage, script, proposals, newest, forgets, damages, drifts, seen };
        explorer.play(&cluster);
        explorer
    }

    /// Plays a command; one that makes no sense at this moment is left out.
    fn play(&mut self, command: &str) {
        self.script.push(command.to_string());
        match self.stage.play(command) {
            Ok(told) => {
                for (event, seen) in EVENTS.iter().zip(&mut self.seen) {
                    *seen += told.iter().filter(|line| line.contains(event)).count() as u64;
                }
                let mute = told.iter().find(|line| line.contains(" is mute: "));
                assert_eq!(mute, None, "nothing impossible happened");
            }
            Err(why) if why.contains("without end") => panic!("{why}"),
            Err(_) => {
                self.script.pop();
            }
        }
    }

    fn node(&mut self) -> u64 {
        1 + self.rng.below(self.newest)
    }

    fn link(&mut self) -> String {
        let (from, to) = (self.node(), self.node());
        match self.rng.below(4) {
            0 => format!("{from}->*"),
            1 => format!("*->{to}"),
            _ => format!("{from}->{to}"),
        }
    }

    /// The leader, more often than not: most words are for leaders.
    fn likely_leader(&mut self) -> u64 {
        let leader = self.leader().filter(|_| self.rng.below(8) > 0);
        match leader {
            Some((_, node)) => node.get(),
            None => self.node(),
        }
    }

    fn leader(&self) -> Option<Key> {
        let replicas = self.stage.cluster.replicas.iter();
        let leads = replicas.filter_map(|(key, replica)| {
            let group = &replica.live.as_ref()?.group;
            group.is_leader().then(|| (group.term(), *key))
        });
        leads.max().map(|(_, key)| key)
    }

    fn command(&mut self) -> String {
        let leader = self.likely_leader();
        let node = self.node();
        match self.rng.below(45) {
            0..6 => {
                self.proposals += 1;
                let bytes = 40 + self.rng.below(400);
                format!("propose {leader} c{} bytes={bytes}", self.proposals)
            }
            6..8 => {
                let path = self.rng.pick(&["quorum", "lease", "follower"]);
                let at = if path == "follower" { node } else { leader };
                format!("read {at} {path}")
            }
            8 => match self.rng.below(2) {
                0 => format!("transfer {leader}"),
                _ => format!("transfer {leader} to {node}"),
            },
            9..11 => self.change(leader),
            11..13 => self.snapshot(leader),
            13 => self.receive(),
            14..19 => String::from("stabilize"),
            19..22 => format!("wait {}ms", 1 + self.rng.below(700)),
            22..24 => format!("tick {}ms", 1 + self.rng.below(300)),
            24 => format!("isolate {}", if self.rng.below(2) == 0 { leader } else { node }),
            25 => format!("cut {}", self.link()),
            26..28 => String::from("heal"),
            28 => format!("hold {}", self.link()),
            29..31 => format!("release {}", self.link()),
            31 => format!("deliver {}", self.link()),
            32 => format!("{} {}", self.rng.pick(&["drop", "duplicate"]), self.link()),
            33 => format!("{} {}", self.rng.pick(&["hold-lane", "pull"]), self.link()),
            34 => format!("release-lane {}", self.link()),
            35 => format!("hold-disk {node}"),
            36 => format!("persist {node} 1"),
            37 => format!("{} {node}", self.rng.pick(&["release-disk", "persist", "write"])),
            38 => format!("{} {node}", self.rng.pick(&["disk-full", "disk-ample", "disk-ample"])),
            39 => self.crash_or_restart(node),
            40 => self.crash_or_restart(leader),
            41 => format!("unreachable {node} at {}", self.node()),
            42 => format!("{} {node}", self.rng.pick(&["campaign", "wake"])),
            43 if self.drifts => {
                format!("clock {node} {}", self.rng.pick(&["99%", "100%", "101%"]))
            }
            _ => self.join(),
        }
    }

    fn change(&mut self, leader: u64) -> String {
        let mut change = format!("change {leader}");
        for _ in 0..1 + self.rng.below(3) {
            let what = self.rng.pick(&["promote", "promote", "demote", "remove"]);
            change = format!("{change} {what}={}", self.node());
        }
        change
    }

    /// A snapshot, and what it allows to be forgotten.
    fn snapshot(&mut self, leader: u64) -> String {
        let of = if self.rng.below(3) == 0 { self.node() } else { leader };
        self.play(&format!("snapshot {of}"));
        format!("compact {of} to {}", self.rng.below(self.proposals + 20))
    }

    /// Whoever wants a snapshot gets it, or does not.
    fn receive(&mut self) -> String {
        let wants =
            self.stage.cluster.replicas.iter().find(|(_, replica)| {
                replica.live.as_ref().is_some_and(|live| live.fetching.is_some())
            });
        let node = wants.map(|(key, _)| key.1.get());
        let failed = self.rng.pick(&["", "", " failed"]);
        node.map_or_else(|| String::from("stabilize"), |node| format!("receive {node}{failed}"))
    }

    fn crash_or_restart(&mut self, node: u64) -> String {
        let up = |(key, replica): (&Key, &crate::replica::Replica)| {
            key.1.get() == node && replica.live.is_some()
        };
        if self.stage.cluster.replicas.iter().any(up) {
            format!("crash {node}")
        } else {
            self.restart(node)
        }
    }

    /// Where disks do not lie, a log is damaged now and then.
    fn restart(&mut self, node: u64) -> String {
        if self.forgets {
            format!("restart {node} lost")
        } else if self.damages && self.rng.below(3) == 0 {
            format!("restart {node} damaged keeping={}", self.rng.below(10))
        } else {
            format!("restart {node}")
        }
    }

    /// A newcomer starts and is asked for.
    fn join(&mut self) -> String {
        if self.newest == 8 {
            return String::from("stabilize");
        }
        self.newest += 1;
        self.play(&format!("start {}", self.newest));
        format!("change {} add-learner={}", self.likely_leader(), self.newest)
    }

    /// Ends all trouble. Without that, now and then, trouble adds up until nothing moves.
    fn make_peace(&mut self) {
        self.play("heal");
        self.play("release *->*");
        self.play("release-lane *->*");
        for node in 1..=self.newest {
            self.play(&format!("release-disk {node}"));
            self.play(&format!("disk-ample {node}"));
            let key = self.stage.cluster.replicas.keys().find(|key| key.1.get() == node).copied();
            let down = |key| self.stage.cluster.replicas[&key].live.is_none();
            if key.is_some_and(down) {
                let restart = self.restart(node);
                self.play(&restart);
            }
        }
    }

    /// Checks that the group works once the trouble is over.
    fn expect_peace(&mut self) {
        self.make_peace();
        self.live_on();
        if (self.forgets || self.damages) && self.leader().is_none() {
            self.expect_that_too_many_forgot();
            return;
        }
        let leader = self.leader().expect("a leader in peace");
        self.play(&format!("propose {} peace", leader.1));
        self.live_on();
        self.expect_agreement();
    }

    fn live_on(&mut self) {
        for _ in 0..12 {
            self.play("wait 1s");
            for node in 1..=self.newest {
                self.play(&format!("receive {node}"));
            }
        }
        // What became of it, in case that somebody has to read this.
        let told = self.stage.play("status").unwrap_or_default();
        self.script.extend(told.iter().map(|line| format!("# {line}")));
    }

    /// Without a leader there must be a half in which no majority remembers.
    fn expect_that_too_many_forgot(&self) {
        let live = self.stage.cluster.replicas.values().filter_map(|it| it.live.as_ref());
        let lost = live.filter(|live| live.group.status().promise.promise != Promise::Kept);
        assert!(lost.count() > 0, "nobody leads, though all remember");
    }

    fn expect_agreement(&self) {
        let leader = self.leader().expect("a leader after peace");
        let replicas = &self.stage.cluster.replicas;
        let led = replicas[&leader].live.as_ref().expect("the leader is up");
        assert!(led.state.iter().any(|(_, name)| name == "peace"), "a write in peace is applied");
        let membership = led.group.membership();
        assert!(!membership.is_joint(), "a joint membership is left");
        for member in membership.members() {
            let live = replicas[&(leader.0, member.replica)].live.as_ref().expect("all are up");
            assert_eq!(live.state, led.state, "the state of {}", member.replica);
            assert_eq!(live.group.leader(), Some(leader.1), "followed by {}", member.replica);
        }
    }
}

fn number(variable: &str) -> Option<u64> {
    Some(std::env::var(variable).ok()?.parse().expect("a seed variable holds a number"))
}

#[test]
fn scripts_written_by_chance_break_nothing_and_end_in_peace() {
    let seeds = match number("RAFT_SCRIPT_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("RAFT_SCRIPT_SEEDS").unwrap_or(300),
    };
    let many = seeds.end - seeds.start >= 100;
    let mut all = [0; EVENTS.len()];
    for seed in seeds {
        let mut explorer = Explorer::new(seed);
        explorer.script.insert(0, format!("# seed {seed}"));
        for at in 0..150 {
            let command = explorer.command();
            explorer.play(&command);
            if at % 25 == 24 && explorer.rng.below(4) > 0 {
                explorer.make_peace();
                explorer.play("wait 700ms");
            }
        }
        explorer.expect_peace();
        all.iter_mut().zip(explorer.seen).for_each(|(all, seen)| *all += seen);
    }
    for (event, seen) in EVENTS.iter().zip(all) {
        println!("{seen:>7} {event}");
        assert!(!many || seen >= 10, "the exploration was too mild: {seen} times {event:?}");
    }
}
