//! Log time against clocks that are wrong, silent or far away.

use proptest::prelude::*;
use raft_core::{Member, MemberChange, NodeId, Standing};

use super::*;

const SILENT: Duration = Duration::from_millis(2000);
/// Some morning in 2026.
const NOW: u64 = 1_790_000_000_000;
const YEAR: u64 = 365 * 24 * 3600 * 1000;

fn ms(time: u64) -> Micros {
    Micros::ZERO.after(Duration::from_millis(time))
}

fn r(id: u64) -> ReplicaId {
    ReplicaId::new(id)
}

fn voters(count: u64) -> Membership {
    Membership::of_voters((1..=count).map(r)).unwrap()
}

/// Replica `n` lives on the node at place `n`.
fn place(replica: ReplicaId) -> Option<usize> {
    usize::try_from(replica.get()).ok()
}

/// What replica 1 hears at `at`: its own clock first, then those of the others that speak.
fn clocks(at: u64, walls: &[Option<u64>]) -> WallClocks {
    let mut clocks = WallClocks::new(SILENT);
    clocks.set(ms(at), LogTime::new(walls[0].expect("its own")));
    for (index, wall) in walls.iter().enumerate().skip(1) {
        if let Some(wall) = wall {
            let told = Told { wall: LogTime::new(*wall), heard: ms(at) };
            clocks.hear(index + 1, told);
        }
    }
    clocks
}

fn vouched(walls: &[Option<u64>]) -> (u64, bool) {
    let membership = voters(walls.len() as u64);
    let Vouched { time, by_all } = clocks(0, walls).vouched(&membership, r(1), place);
    (time.get(), by_all)
}

#[test]
fn of_three_clocks_the_middle_one_counts() {
    for wrong in [0, 1, NOW - YEAR, NOW + YEAR, u64::MAX] {
        for at in 0..3 {
            let mut walls = [Some(NOW); 3];
            walls[at] = Some(wrong);
            assert_eq!(vouched(&walls), (NOW, true), "{walls:?}");
        }
    }
    assert_eq!(vouched(&[Some(10), Some(30), Some(20)]), (20, true));
    assert_eq!(vouched(&[Some(10)]), (10, true), "a single voter has only its own");
}

#[test]
fn who_is_silent_has_reached_nothing() {
    assert_eq!(vouched(&[Some(NOW), Some(NOW - 5), None]), (NOW - 5, false));
    assert_eq!(vouched(&[Some(NOW), None, None]), (0, false));
    let mut heard = clocks(100, &[Some(NOW), Some(NOW), Some(NOW)]);
    let of_three = voters(3);
    for (later, expected) in [(0, NOW), (1500, NOW + 1500), (2000, NOW + 2000), (2001, 0)] {
        heard.set(ms(100 + later), LogTime::new(NOW + later));
        assert_eq!(heard.vouched(&of_three, r(1), place).time.get(), expected, "{later}");
    }
}

#[test]
fn an_older_word_does_not_replace_a_newer_one() {
    let mut heard = clocks(100, &[Some(NOW), Some(NOW)]);
    heard.hear(2, Told { wall: LogTime::new(7), heard: ms(99) });
    assert_eq!(heard.vouched(&voters(2), r(1), place).time.get(), NOW);
}

#[test]
fn both_halves_are_asked_and_learners_are_not() {
    let node = NodeId::new;
    let learners = [4, 5].map(|id| MemberChange::AddLearner { replica: r(id), node: node(id) });
    let with_learners = voters(3).change(&learners).unwrap();
    let ahead = NOW + YEAR;
    let walls = [Some(NOW), Some(NOW), Some(NOW), Some(ahead), Some(ahead)];
    let heard = clocks(0, &walls);
    assert_eq!(heard.vouched(&with_learners, r(1), place).time.get(), NOW);

    // Two of the new voters are ahead, one of the old ones is: the old half holds back.
    let changes = [
        MemberChange::Promote(r(4)),
        MemberChange::Promote(r(5)),
        MemberChange::Remove(r(2)),
        MemberChange::Remove(r(3)),
    ];
    let joint = with_learners.change(&changes).unwrap();
    assert!(joint.is_joint());
    assert_eq!(heard.vouched(&joint, r(1), place).time.get(), NOW);
    // And the other way round.
    let walls = [Some(NOW), Some(ahead), Some(ahead), Some(NOW), Some(NOW)];
    assert_eq!(clocks(0, &walls).vouched(&joint, r(1), place).time.get(), NOW);
    // Silence of a voter of either half is noticed, that of a learner is not.
    let silent = |at: usize| {
        let mut walls = [Some(NOW); 5];
        walls[at] = None;
        clocks(0, &walls)
    };
    for at in 1..5 {
        assert!(!silent(at).vouched(&joint, r(1), place).by_all);
        assert_eq!(silent(at).vouched(&with_learners, r(1), place).by_all, at > 2);
    }
}

#[test]
fn a_leader_without_a_vote_has_no_say() {
    let members = [(1, Standing::Learner), (2, Standing::Voter)];
    let members =
        members.map(|(id, standing)| Member { replica: r(id), node: NodeId::new(id), standing });
    let membership = Membership::new(members).unwrap();
    let heard = clocks(0, &[Some(NOW + YEAR), Some(NOW)]);
    assert_eq!(
        heard.vouched(&membership, r(1), place),
        Vouched { time: LogTime::new(NOW), by_all: true }
    );
}

const fn by(time: u64, by_all: bool) -> Vouched {
    Vouched { time: LogTime::new(time), by_all }
}

#[test]
fn behind_the_vouched_time_it_jumps_and_ahead_of_it_it_goes_on() {
    let log = LogClock::starting(LogTime::new(1000), ms(0));
    let at = |now, vouched| log.stamp(ms(now), vouched).time().get();
    assert_eq!(at(10, by(5000, true)), 5000);
    assert_eq!(at(10, by(0, true)), 1005, "half pace while all speak");
    assert_eq!(at(10, by(0, false)), 1010, "full pace while one is silent");
    assert_eq!(at(0, by(0, true)), 1000);
}

#[test]
fn stamps_given_many_times_a_millisecond_lose_nothing() {
    for (by_all, expected) in [(true, 1050), (false, 1100)] {
        let mut log = LogClock::starting(LogTime::new(1000), ms(0));
        for step in 1..=1000 {
            let now = Micros::ZERO.after(Duration::from_micros(100 * step));
            let stamp = log.stamp(now, by(0, by_all));
            log.stamped(stamp);
            log.follow(stamp.time(), now);
        }
        assert_eq!(log.last.time.get(), expected);
    }
}

#[test]
fn what_the_electors_say_holds_for_the_time_in_office() {
    let mut log = LogClock::starting(LogTime::new(1000), ms(0));
    log.take_office(ms(50), by(NOW, true));
    assert_eq!(log.stamp(ms(60), by(0, false)).time().get(), NOW + 10);
    log.leave_office();
    assert_eq!(log.stamp(ms(60), by(0, false)).time().get(), 1060, "the log never heard of it");
}

#[test]
fn no_word_overflows_or_stops_time() {
    // A majority tells the end of all time.
    let walls = [Some(NOW), Some(u64::MAX), Some(u64::MAX)];
    let (time, _) = vouched(&walls);
    assert!(time < LOG_TIME_MAX.get() / 2);
    let log = LogClock::starting(LogTime::new(time), ms(0));
    assert_eq!(log.stamp(ms(1000), by(time, true)).time().get(), time + 500);
    // A log at its end stays there.
    for last in [LOG_TIME_MAX, LogTime::new(LOG_TIME_MAX.get() - 1)] {
        let log = LogClock::starting(last, ms(0));
        assert_eq!(log.stamp(ms(u64::MAX / 1000), by(time, false)).time(), LOG_TIME_MAX);
    }
}

/// A cluster of clocks and one log. Real time passes; clocks are set; leaders come and go, hear
/// some of the voters, and stamp.
struct Cluster {
    now: u64,
    /// By how much each wall clock is off.
    off: Vec<i64>,
    logs: Vec<LogClock>,
    heard: Vec<WallClocks>,
}

impl Cluster {
    fn new(off: Vec<i64>, last: u64) -> Self {
        let count = off.len();
        let logs = vec![LogClock::starting(LogTime::new(last), ms(0)); count];
        let heard = (0..count).map(|_| WallClocks::new(SILENT)).collect();
        Self { now: 0, off, logs, heard }
    }

    fn wall(&self, node: usize) -> u64 {
        (NOW + self.now).saturating_add_signed(self.off[node])
    }

    fn hear(&mut self, at: usize, from: usize) {
        let told = Told { wall: LogTime::new(self.wall(from)), heard: ms(self.now) };
        self.heard[at].hear(from + 1, told);
    }

    fn vouched(&mut self, at: usize) -> Vouched {
        let (now, wall) = (ms(self.now), LogTime::new(self.wall(at)));
        self.heard[at].set(now, wall);
        self.heard[at].vouched(&voters(self.off.len() as u64), r(at as u64 + 1), place)
    }

    /// A leader stamps an entry, and everybody hears of it.
    fn stamp(&mut self, leader: usize) -> u64 {
        let vouched = self.vouched(leader);
        let stamp = self.logs[leader].stamp(ms(self.now), vouched);
        self.logs[leader].stamped(stamp);
        self.logs.iter_mut().for_each(|log| log.follow(stamp.time(), ms(self.now)));
        stamp.time().get()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Pass(u64),
    /// The clock of a wrong node is set.
    Set(usize, i64),
    /// Another node leads, elected by a majority from this one on.
    Lead(usize),
    /// The leader hears a node.
    Hear(usize),
    Stamp,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let year = YEAR as i64;
    let step = prop_oneof![
        3 => (0u64..900).prop_map(Step::Pass),
        1 => (0usize..5, prop_oneof![Just(0), -year..year, -100i64..100])
            .prop_map(|(node, off)| Step::Set(node, off)),
        1 => (0usize..5).prop_map(Step::Lead),
        3 => (0usize..5).prop_map(Step::Hear),
        3 => Just(Step::Stamp),
    ];
    proptest::collection::vec(step, 1..120)
}

proptest! {
    /// With a minority of wrong clocks no stamp leads the right ones, a log that is ahead does not
    /// run further ahead, and half of the time that passes is told at the least.
    #[test]
    fn a_minority_of_wrong_clocks_moves_no_log_forward(
        count in 1usize..=5,
        ahead in prop_oneof![Just(0), 0..YEAR],
        steps in steps(),
    ) {
        let wrong = (count - 1) / 2;
        let mut cluster = Cluster::new(vec![0; count], NOW + ahead);
        let mut leader = 0;
        let (mut last, mut last_at) = (NOW + ahead, 0);
        for step in steps {
            match step {
                Step::Pass(time) => cluster.now += time,
                Step::Set(node, off) if node < wrong => cluster.off[node] = off,
                Step::Set(..) => {}
                Step::Lead(node) => {
                    cluster.logs[leader].leave_office();
                    leader = node % count;
                    for voter in (0..=count / 2).map(|more| (leader + more) % count) {
                        cluster.hear(leader, voter);
                    }
                    let (now, vouched) = (ms(cluster.now), cluster.vouched(leader));
                    cluster.logs[leader].take_office(now, vouched);
                }
                Step::Hear(node) => cluster.hear(leader, node % count),
                Step::Stamp => {
                    let stamp = cluster.stamp(leader);
                    let passed = cluster.now - last_at;
                    prop_assert!(stamp >= last + passed / 2, "time passes: {last} {stamp} {passed}");
                    let right = NOW + cluster.now;
                    // What was left of a millisecond or two may be told now.
                    prop_assert!(stamp <= right.max(last + passed + 2), "{stamp} leads {right}");
                    (last, last_at) = (stamp, cluster.now);
                }
            }
        }
    }

    /// A log that starts ahead comes back to the right time once half as much again has passed,
    /// if all speak, and a deadline in it ends after twice its length.
    #[test]
    fn a_log_that_is_ahead_heals(count in 1usize..=5, ahead in 1u64..100_000) {
        let mut cluster = Cluster::new(vec![0; count], NOW + ahead);
        let ttl = 1000;
        let deadline = NOW + ahead + ttl;
        let mut ended = None;
        while cluster.now <= 2 * ahead + 2 * ttl {
            for node in 0..count {
                cluster.hear(0, node);
            }
            let stamp = cluster.stamp(0);
            if stamp >= deadline {
                ended.get_or_insert(cluster.now);
            }
            cluster.now += 100;
        }
        let ended = ended.expect("it ends");
        prop_assert!((ttl..=2 * ttl + 100).contains(&ended), "{ended}");
        prop_assert_eq!(cluster.stamp(0), NOW + cluster.now);
    }
}
