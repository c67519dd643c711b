//! Operators: they add and remove replicas, change who votes, and clear away what was removed,
//! while everything else goes on. All of it is asked as a user asks it.
//!
//! An operator writes down who is to live where, and starts what is missing whenever a node comes
//! up. Replica ids come from one source and are never used again, whatever became of an attempt.
//!
//! Some operators destroy a group, all its replicas in whatever state they are, and begin it anew
//! under its old id and with the old names of its replicas, as soon as the places for it are free:
//! elsewhere the earlier life may still go on.
//!
//! Once the faults have ended, nothing is changed any more that nobody needs: what was left
//! behind is cleared away, so that the end of a run shows what its groups say of themselves.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use raft_core::{
    GroupId, GroupIncarnation, MemberChange, Membership, NodeId, Promise, ReadPath, ReplicaId,
    Standing,
};

use super::faults::Fault;
use super::incarnations::{group_of, incarnation_of, life_in, life_of};
use super::network::Place;
use super::process::LogState;
use super::swarm::{Swarm, replica_at_first};
use super::world::{Event, Phase, SLOW_END_US, Standing as NodeStanding, World};
use crate::engine::{EngineInput, Replica};
use crate::group_spec::{GroupSpec, Origin};
use crate::request::{Proposed, Removal, Reply, Request, RequestError, RequestKind, Ticket};
use crate::sim::marks::Mark;
use crate::sim::rng::{Rng, Streams};

/// Nothing is begun so long before the faults end: a change takes its time.
const CLEARING_US: u64 = 500_000;
/// After healing, old leaders get so long to learn that they are.
const GRACE_US: u64 = 3_000_000;
/// And this long after it everything is cleared away; where links are slow, this long after they are
/// no more, since what decides who goes has to cross them first.
const CLEARED_US: u64 = 10_000_000;
const CLEARED_AFTER_SLOW_US: u64 = 4_000_000;
/// The first replica ids hold what groups begin with.
const REPLICA_FIRST: u64 = 1_000;

/// What operators know.
pub(super) struct Operator {
    rng: Rng,
    /// Who is to live where.
    homes: BTreeMap<(GroupId, Place), GroupSpec>,
    /// The life of each group that has begun last.
    lives: BTreeMap<GroupId, GroupId>,
    /// The largest replica of each life of a group that has left a place, as far as is known.
    gone: BTreeMap<(GroupId, Place), ReplicaId>,
    /// Groups whose next life is to begin, and where.
    rebirths: BTreeMap<GroupId, Vec<Place>>,
    replica_next: u64,
    orders: Vec<Order>,
}

/// Something that was asked for and is not answered yet.
struct Order {
    group: GroupId,
    place: Place,
    life: u32,
    what: What,
    ticket: Ticket<Proposed>,
}

/// Which replicas of a group are meant.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Of {
    All,
    /// Those that believe to lead.
    Leaders,
}

/// What was asked for.
#[derive(Clone, Debug, Eq, PartialEq)]
enum What {
    Change(Vec<MemberChange>),
    /// This replica, of this life of its group, is to leave its node.
    Leave(GroupId, ReplicaId),
    Snapshot,
}

impl Operator {
    pub(super) fn new(streams: Streams, swarm: &Swarm) -> Self {
        let mut homes = BTreeMap::new();
        for spec in &swarm.groups {
            for (_, node) in &spec.replicas {
                if let Some(place) = swarm.nodes.iter().position(|other| other == node) {
                    homes.insert((spec.group, place), spec.clone());
                }
            }
        }
        let rng = streams.stream("operator", &[]);
        let lives = swarm.groups.iter().map(|spec| (spec.group, life_in(spec))).collect();
        Self {
            rng,
            homes,
            lives,
            gone: BTreeMap::new(),
            rebirths: BTreeMap::new(),
            replica_next: REPLICA_FIRST,
            orders: Vec::new(),
        }
    }

    /// The life of a group that has begun last.
    pub(super) fn life_of(&self, group: GroupId) -> GroupId {
        self.lives.get(&group).copied().unwrap_or(group)
    }

    /// The groups that are to live on a node.
    pub(super) fn homes_on(&self, place: Place) -> Vec<GroupSpec> {
        let here = self.homes.iter().filter(|((_, at), _)| *at == place);
        here.map(|(_, spec)| spec.clone()).collect()
    }

    /// Where replicas of a group are to live.
    pub(super) fn places_of(&self, group: GroupId) -> Vec<Place> {
        let of = self.homes.range((group, 0)..=(group, Place::MAX));
        of.map(|((_, place), _)| *place).collect()
    }

    /// These are gone from a node, each of a life of its group: it has said so, or come up with a
    /// log that does.
    pub(super) fn found_gone(&mut self, place: Place, node: NodeId, gone: &[(GroupId, ReplicaId)]) {
        for gone in gone {
            let newest = self.gone.entry((gone.0, place)).or_insert(gone.1);
            *newest = gone.1.max(*newest);
            let group = group_of(gone.0);
            let home = self.homes.get(&(group, place));
            let here = home.and_then(|spec| Some((life_in(spec), spec.replica_on(node)?)));
            if here.is_some_and(|here| here <= *gone) {
                self.homes.remove(&(group, place));
            }
        }
    }

    /// Whether a replica of a group's life can live at a place no more: it has left, or one that
    /// was named after it.
    fn is_gone(&self, life: GroupId, place: Place, replica: ReplicaId) -> bool {
        self.gone.get(&(life, place)).is_some_and(|newest| replica <= *newest)
    }

    /// What was never answered, for whoever sees to it that everything is.
    pub(super) fn open(&mut self) -> Vec<(Place, u32, Ticket<Proposed>)> {
        self.orders.drain(..).map(|order| (order.place, order.life, order.ticket)).collect()
    }

    pub(super) fn is_busy(&self, group: GroupId) -> bool {
        self.orders.iter().any(|order| order.group == group && order.what != What::Snapshot)
    }
}

impl World {
    pub(super) fn start_operator(&mut self) {
        let pause = self.swarm.operator_us;
        if pause > 0 {
            self.plan(2_000_000, Event::Operator);
        }
    }

    /// Operators look at what has come of their orders, and give another.
    pub(super) fn operate(&mut self) {
        self.hear_orders();
        self.go_on_with_rebirths();
        let faults_end = self.options.faults_s * 1_000_000;
        let pause = match self.phase {
            Phase::Faults => {
                if self.may_begin() {
                    self.change_something();
                }
                let pause = self.swarm.operator_us;
                pause / 2 + self.operator.rng.below(pause)
            }
            Phase::Healing => {
                if self.now > faults_end + GRACE_US {
                    self.clear_away();
                }
                200_000
            }
        };
        if self.has_work_at(self.now + pause) {
            self.plan_in(pause, Event::Operator);
        }
    }

    /// Whether operators look again at a time: until everything is cleared away. Whoever has
    /// destroyed a group begins it anew, however long its places take to come free.
    fn has_work_at(&self, at: u64) -> bool {
        let cleared = match self.swarm.pace {
            Some(_) => SLOW_END_US + CLEARED_AFTER_SLOW_US,
            None => CLEARED_US,
        };
        at < self.options.faults_s * 1_000_000 + cleared || !self.operator.rebirths.is_empty()
    }

    fn order(
        &mut self,
        place: Place,
        group: GroupId,
        what: What,
        input: impl FnOnce(Reply) -> EngineInput,
    ) {
        let life = self.nodes[place].life;
        let Some(process) = &self.nodes[place].process else { return };
        let kind = RequestKind::Read(ReadPath::Quorum, Bytes::new());
        let (request, ticket) = Request::new(group, kind);
        process.tell(group, input(request.reply));
        self.note(Some(place), || format!("operator, group {group}: {what:?}"));
        self.operator.orders.push(Order { group, place, life, what, ticket });
        // Whoever runs there finds it when it wakes up.
    }

    fn hear_orders(&mut self) {
        let cx = &mut Context::from_waker(Waker::noop());
        let mut ended = Vec::new();
        let mut orders = std::mem::take(&mut self.operator.orders);
        orders.retain_mut(|order| match Pin::new(&mut order.ticket).poll(cx) {
            Poll::Pending => true,
            Poll::Ready(answer) => {
                ended.push((order.group, order.place, order.what.clone(), answer));
                false
            }
        });
        self.operator.orders = orders;
        for (group, place, what, answer) in ended {
            self.note(Some(place), || format!("operator, group {group}: {what:?}: {answer:?}"));
            match what {
                What::Change(changes) => self.heard_of_change(group, &changes, answer.err()),
                What::Leave(life, replica) if answer.is_ok() => {
                    self.sightings.hit(Mark::ReplicaDeleted);
                    let node = self.swarm.nodes[place];
                    let home = self.operator.homes.get(&(group, place)).cloned();
                    self.operator.found_gone(place, node, &[(life, replica)]);
                    // The answer may be older than whoever has come since.
                    let of_gone = |spec: &GroupSpec| {
                        (life_in(spec), spec.replica_on(node)) == (life, Some(replica))
                    };
                    let home = home.filter(of_gone);
                    // And what left may have been who lived there before it.
                    let judge = self.judge_of(place);
                    let is_buried = judge.lock().account(place).is_buried(life, replica);
                    if let (Some(home), Some(process)) = (home, &self.nodes[place].process)
                        && is_buried
                        && self.operator.rng.chance(1, 4)
                    {
                        process.create_again(home);
                        self.sightings.hit(Mark::GoneReplicaAskedFor);
                    }
                    self.come_back(group, place);
                }
                What::Leave(..) | What::Snapshot => {}
            }
        }
    }

    fn heard_of_change(
        &mut self,
        group: GroupId,
        changes: &[MemberChange],
        error: Option<RequestError>,
    ) {
        let may_have = error.as_ref().is_none_or(RequestError::may_have_been_applied);
        for change in changes {
            match *change {
                MemberChange::AddLearner { replica, node } => {
                    let Some(place) = self.swarm.place_of(node) else { continue };
                    if may_have {
                        self.sightings.hit_if(error.is_none(), Mark::LearnerAdded);
                        self.settle_replica(group, replica, place);
                    } else if self.operator.homes.contains_key(&(group, place)) {
                        // It was started before it was asked for, and nobody will speak to it.
                        self.let_leave(group, place, Removal::OfAnyone);
                    }
                }
                MemberChange::Promote(_) => {
                    self.sightings.hit_if(error.is_none(), Mark::LearnerPromoted);
                    let replaced = changes.iter().any(|c| matches!(c, MemberChange::Remove(_)));
                    self.sightings.hit_if(error.is_none() && replaced, Mark::ReplicaReplaced);
                }
                MemberChange::Demote(_)
                | MemberChange::Remove(_)
                | MemberChange::Replace { .. } => {}
            }
        }
        let mark = match error {
            Some(RequestError::ChangePending) => Mark::ConfigRefusedPending,
            Some(RequestError::NotCaughtUp { .. }) => Mark::PromotionTooEarly,
            Some(_) | None => return,
        };
        self.sightings.hit(mark);
    }

    /// A joining replica is to live on a node, which starts it if it is up. One that was started
    /// before it was asked for may have left again before that is answered; it does not come back,
    /// and its group forgets it in the end.
    fn settle_replica(&mut self, group: GroupId, replica: ReplicaId, place: Place) {
        let life = self.operator.life_of(group);
        let is_taken = self.operator.homes.contains_key(&(group, place));
        if is_taken || self.operator.is_gone(life, place, replica) {
            return;
        }
        let (strategy, flush) = self.swarm.persistence_of(group);
        let spec = GroupSpec {
            incarnation: incarnation_of(life),
            strategy,
            flush,
            ..GroupSpec::joining(group, replica, self.swarm.nodes[place])
        };
        self.operator.homes.insert((group, place), spec.clone());
        self.judge.lock().settles(life, replica, place);
        if let Some(process) = &self.nodes[place].process {
            process.create(spec, None, None);
        }
    }

    fn let_leave(&mut self, group: GroupId, place: Place, removal: Removal) {
        let Some(spec) = self.operator.homes.get(&(group, place)) else { return };
        let Some(replica) = spec.replica_on(self.swarm.nodes[place]) else { return };
        let what = What::Leave(life_in(spec), replica);
        let leaves = |order: &Order| (order.place, &order.what) == (place, &what);
        if !self.operator.orders.iter().any(leaves) {
            let input = |reply| EngineInput::Remove(group, removal, reply);
            self.order(place, group, what, input);
        }
    }

    /// A place has just become free: often another replica of the group takes it at once.
    fn come_back(&mut self, group: GroupId, place: Place) {
        if !self.may_begin() || self.operator.rebirths.contains_key(&group) {
            return;
        }
        let node = self.swarm.nodes[place];
        if let Some((leader, membership)) = self.some_leader(group)
            && membership.members().iter().all(|member| member.node != node)
            && self.operator.rng.chance(1, 2)
        {
            self.operator.replica_next += 1;
            let replica = ReplicaId::new(self.operator.replica_next);
            self.settle_replica(group, replica, place);
            self.change(leader, group, vec![MemberChange::AddLearner { replica, node }]);
        }
    }

    /// Whether something new may be begun: the faults do not end just now.
    fn may_begin(&self) -> bool {
        self.now + CLEARING_US < self.options.faults_s * 1_000_000
    }

    /// A group is to be destroyed, and to begin anew at some places.
    fn begin_rebirth(&mut self, group: GroupId) {
        let Some(places) = self.places_for_rebirth() else { return };
        self.note(None, || format!("operator, group {group}: begins anew at {places:?}"));
        self.operator.rebirths.insert(group, places);
    }

    /// Some nodes that belong to the cluster: enough that one may be lost for good. No run loses more
    /// than one, so after that two are enough, and of three there are no more.
    fn places_for_rebirth(&mut self) -> Option<Vec<Place>> {
        let mut places: Vec<Place> =
            (0..self.nodes.len()).filter(|place| self.nodes[*place].is_member()).collect();
        self.operator.rng.shuffle(&mut places);
        let count = if self.operator.rng.chance(1, 4) { 5 } else { 3 };
        places.truncate(count);
        let is_lost = self.nodes.iter().any(|node| match node.standing {
            NodeStanding::Out | NodeStanding::Stranger => true,
            NodeStanding::Member | NodeStanding::Damaged => false,
        });
        let enough = if is_lost { 2 } else { 3 };
        (places.len() >= enough).then_some(places)
    }

    /// What is left of earlier lives goes, and next lives begin where their places are free.
    fn go_on_with_rebirths(&mut self) {
        let over: Vec<(GroupId, Place)> = self
            .operator
            .homes
            .iter()
            .filter(|((group, _), spec)| {
                self.operator.rebirths.contains_key(group)
                    || life_in(spec) < self.operator.life_of(*group)
            })
            .map(|(home, _)| *home)
            .collect();
        for (group, place) in over {
            // Where the next life does not wait for the place, the earlier one may go on beside it.
            let wanted = self.operator.rebirths.get(&group);
            let lingers = self.phase == Phase::Faults
                && wanted.is_none_or(|places| !places.contains(&place))
                && !self.operator.rng.chance(1, 16);
            if lingers {
                continue;
            }
            match self.nodes[place].standing {
                NodeStanding::Member => self.let_leave(group, place, Removal::OfAnyone),
                // It may still turn out that nothing was lost.
                NodeStanding::Damaged => {}
                NodeStanding::Out | NodeStanding::Stranger => {
                    self.operator.homes.remove(&(group, place));
                }
            }
        }
        for (group, mut places) in std::mem::take(&mut self.operator.rebirths) {
            let stand = places.iter().all(|place| self.nodes[*place].is_member());
            if places.is_empty() || !stand {
                places = self.places_for_rebirth().unwrap_or_default();
            }
            let is_free = |place: &Place| !self.operator.homes.contains_key(&(group, *place));
            if !places.is_empty() && places.iter().all(is_free) {
                self.found(group, &places);
            } else {
                self.operator.rebirths.insert(group, places);
            }
        }
    }

    /// The next life of a group begins.
    fn found(&mut self, group: GroupId, places: &[Place]) {
        let before = incarnation_of(self.operator.life_of(group));
        let incarnation = GroupIncarnation::new(before.get() + 1);
        let life = life_of(group, incarnation);
        let mut nodes: Vec<NodeId> = places.iter().map(|place| self.swarm.nodes[*place]).collect();
        nodes.sort_unstable();
        let replicas = nodes.into_iter().map(|node| (replica_at_first(node), node)).collect();
        let origin = Origin::Founding;
        let ((strategy, flush), label) = (self.swarm.persistence_of(group), Bytes::new());
        let spec = GroupSpec { group, incarnation, origin, replicas, strategy, flush, label };
        self.note(None, || format!("operator: {spec:?}"));
        self.sightings.hit(Mark::GroupReborn);
        self.operator.lives.insert(group, life);
        for place in places {
            self.operator.homes.insert((group, *place), spec.clone());
            let replica = replica_at_first(self.swarm.nodes[*place]);
            self.judge.lock().settles(life, replica, *place);
            if let Some(process) = &self.nodes[*place].process {
                process.create(spec.clone(), None, None);
            }
        }
    }

    /// One who believes to lead a group, and whom it believes to lead.
    fn some_leader(&mut self, group: GroupId) -> Option<(Place, Membership)> {
        let leads = |place: &Place| {
            self.nodes[*place].is_member() && self.core_of(group, *place).is_some_and(|c| c.0)
        };
        let places: Vec<Place> = (0..self.nodes.len()).filter(leads).collect();
        let place = self.operator.rng.pick(&places).copied()?;
        self.core_of(group, place).map(|(_, membership)| (place, membership))
    }

    /// Whether a node's replica of a group leads, and its membership.
    fn core_of(&self, group: GroupId, place: Place) -> Option<(bool, Membership)> {
        let process = self.nodes[place].process.as_ref()?;
        let life = self.operator.life_of(group);
        let of = |replica: &Replica<'_>| (replica.core().id(), replica.incarnation());
        let replica = process.replicas().find(|r| of(r) == (group, incarnation_of(life)))?;
        Some((replica.core().is_leader(), Membership::clone(replica.core().membership())))
    }

    /// Replicas of a group are asked for a snapshot.
    pub(super) fn order_snapshots(&mut self, group: usize, of: Of) -> bool {
        let Some(group) = self.swarm.groups.get(group).map(|spec| spec.group) else { return false };
        for place in self.operator.places_of(group) {
            let is_of = |leads: bool| leads || of == Of::All;
            if self.core_of(group, place).is_some_and(|(leads, _)| is_of(leads)) {
                let input = |reply| EngineInput::Snapshot(group, reply);
                self.order(place, group, What::Snapshot, input);
            }
        }
        true
    }

    /// Some leader of a group is asked to change its members, if operators do that at all.
    pub(super) fn order_change(&mut self, group: usize) -> bool {
        let Some(group) = self.swarm.groups.get(group).map(|spec| spec.group) else { return false };
        if self.swarm.operator_us == 0 {
            return false;
        }
        let Some((place, membership)) = self.some_leader(group) else { return false };
        let changes = self.draw_change(group, &membership);
        let changes_some = !changes.is_empty();
        if changes_some {
            self.change(place, group, changes);
        }
        changes_some
    }

    fn change_something(&mut self) {
        let Some(group) = self.operator.rng.pick(&self.swarm.groups).map(|spec| spec.group) else {
            return;
        };
        if self.operator.rebirths.contains_key(&group) {
            return;
        }
        if self.swarm.rebirths && self.operator.rng.chance(1, 6) {
            self.begin_rebirth(group);
            return;
        }
        self.clear_removed(group);
        if self.operator.rng.chance(1, 5) {
            let place = self.operator.rng.below(self.nodes.len() as u64) as Place;
            if self.core_of(group, place).is_some() {
                let input = |reply| EngineInput::Snapshot(group, reply);
                self.order(place, group, What::Snapshot, input);
            }
            return;
        }
        let Some((place, membership)) = self.some_leader(group) else { return };
        let changes = self.draw_change(group, &membership);
        if changes.is_empty() {
            return;
        }
        if let [MemberChange::AddLearner { replica, node }] = changes[..]
            && self.operator.rng.chance(1, 3)
            && let Some(home) = self.swarm.place_of(node)
        {
            self.settle_replica(group, replica, home);
        }
        self.change(place, group, changes);
    }

    fn change(&mut self, place: Place, group: GroupId, changes: Vec<MemberChange>) {
        let what = What::Change(changes.clone());
        let input = |reply| EngineInput::ChangeMembers(group, changes, reply);
        self.order(place, group, what, input);
    }

    fn draw_change(&mut self, group: GroupId, membership: &Membership) -> Vec<MemberChange> {
        let members = membership.members();
        let of = |standing: Standing| -> Vec<ReplicaId> {
            members.iter().filter(|m| m.standing == standing).map(|m| m.replica).collect()
        };
        let (voters, learners) = (of(Standing::Voter), of(Standing::Learner));
        let is_free = |place: &Place| {
            self.nodes[*place].is_member()
                && !self.operator.homes.contains_key(&(group, *place))
                && !members.iter().any(|member| member.node == self.swarm.nodes[*place])
        };
        let free: Vec<Place> = (0..self.nodes.len()).filter(is_free).collect();
        let may_shrink = self.may_shrink(voters.len());
        let voters_may_change = self.all_remember(group, membership);
        let rng = &mut self.operator.rng;
        let mut changes = Vec::new();
        match rng.below(6) {
            0 | 1 if !free.is_empty() => {
                let place = *rng.pick(&free).expect("some are free");
                self.operator.replica_next += 1;
                let replica = ReplicaId::new(self.operator.replica_next);
                let node = self.swarm.nodes[place];
                changes.push(MemberChange::AddLearner { replica, node });
            }
            0..=2 if !learners.is_empty() && voters_may_change => {
                changes.extend(rng.pick(&learners).copied().map(MemberChange::Promote));
                if rng.chance(1, 2) && voters.len() > 1 {
                    changes.extend(rng.pick(&voters).copied().map(MemberChange::Remove));
                }
            }
            3 if !learners.is_empty() => {
                changes.extend(rng.pick(&learners).copied().map(MemberChange::Remove));
            }
            4 if may_shrink && voters_may_change => {
                changes.extend(rng.pick(&voters).copied().map(MemberChange::Remove));
            }
            5 if may_shrink && voters_may_change => {
                changes.extend(rng.pick(&voters).copied().map(MemberChange::Demote));
            }
            _ => {}
        }
        changes
    }

    /// Whether a voter may go. Where a node may be lost for good, enough must remain to spare it.
    fn may_shrink(&self, voters: usize) -> bool {
        let is_for_good = |fault: &Fault| {
            matches!(
                fault,
                Fault::Wipe { .. }
                    | Fault::PutBack { .. }
                    | Fault::Flip { .. }
                    | Fault::FlipIdle { .. }
                    | Fault::Rot { .. }
                    | Fault::RotSnapshot { .. }
            )
        };
        let loses = self.faults.iter().any(|planned| is_for_good(&planned.fault));
        if loses { voters > 3 } else { voters > 1 }
    }

    /// Whether all members of a group that counts what is written remember all they have said. Who votes
    /// is changed only then: otherwise those who are left may be too few of those who do.
    fn all_remember(&self, group: GroupId, membership: &Membership) -> bool {
        let counted =
            self.swarm.groups.iter().any(|spec| spec.group == group && spec.counts_written());
        let remembers = |member: &raft_core::Member| {
            let node = self.swarm.place_of(member.node).map(|place| &self.nodes[place]);
            // A log that is about to fail has nobody who vouches for it.
            let node = node.filter(|node| !node.disk.is_to_fail());
            node.and_then(|node| node.process.as_ref()).is_some_and(|process| {
                let mut here = process.replicas();
                let is_it = |replica: &Replica<'_>| {
                    let core = replica.core();
                    (core.id(), core.replica()) == (group, member.replica)
                        && core.status().promise.promise == Promise::Kept
                };
                process.log.state != LogState::Failed && here.any(|replica| is_it(&replica))
            })
        };
        !counted || self.swarm.accepts_losses || membership.members().iter().all(remembers)
    }

    /// Replicas that know that they were removed leave their nodes.
    fn clear_removed(&mut self, group: GroupId) {
        for place in self.operator.places_of(group) {
            let process = self.nodes[place].process.as_ref();
            let removed = process.is_some_and(|process| {
                let mut here = process.replicas();
                here.any(|r| r.core().id() == group && r.core().status().removed)
            });
            if removed && self.nodes[place].is_member() {
                self.let_leave(group, place, Removal::OfFormerMember);
            }
        }
    }

    /// Whatever was left behind goes: replicas that are no members, members that have no replica.
    fn clear_away(&mut self) {
        let groups: Vec<GroupId> = self.swarm.groups.iter().map(|spec| spec.group).collect();
        for group in groups {
            if self.operator.rebirths.contains_key(&group) {
                continue;
            }
            let Some((leader, membership)) = self.settled_membership(group) else { continue };
            for place in self.operator.places_of(group) {
                let node = self.swarm.nodes[place];
                let home = self.operator.homes.get(&(group, place));
                let replica = home.and_then(|spec| spec.replica_on(node));
                let is_member = replica.is_some_and(|replica| membership.member(replica).is_some());
                if !is_member && self.nodes[place].is_member() {
                    self.let_leave(group, place, Removal::OfAnyone);
                }
            }
            let lacks_replica = |member: &&raft_core::Member| {
                let Some(place) = self.swarm.place_of(member.node) else { return true };
                let home = self.operator.homes.get(&(group, place));
                home.and_then(|spec| spec.replica_on(member.node)) != Some(member.replica)
            };
            let lost = membership.members().iter().find(lacks_replica).map(|m| m.replica);
            if let Some(lost) = lost
                && !self.operator.is_busy(group)
            {
                self.change(leader, group, vec![MemberChange::Remove(lost)]);
            }
        }
    }

    /// Who leads a group for certain, and the committed membership that stands.
    pub(super) fn settled_membership(&self, group: GroupId) -> Option<(Place, Membership)> {
        let incarnation = incarnation_of(self.operator.life_of(group));
        let of_life = |replica: &Replica<'_>| {
            (replica.core().id(), replica.incarnation()) == (group, incarnation)
        };
        let members = self.nodes.iter().enumerate().filter(|(_, node)| node.is_member());
        let replicas = members.filter_map(|(place, node)| {
            let mut here = node.process.as_ref()?.replicas();
            here.find(of_life).map(|replica| (place, replica))
        });
        let newest = replicas
            .filter(|(_, replica)| replica.core().is_leader())
            .max_by_key(|(_, replica)| replica.core().term());
        let (place, replica) = newest?;
        let core = replica.core();
        let stands =
            core.membership_index() <= core.commit_index() && !core.membership().is_joint();
        stands.then(|| (place, Membership::clone(core.membership())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::bytes::Options;

    #[test]
    fn a_replica_that_left_before_its_change_was_answered_is_not_settled_again() {
        let mut world = World::new(1, &Options::default());
        let group = world.swarm.groups[0].group;
        let life = world.operator.life_of(group);
        let (place, node) = (0, world.swarm.nodes[0]);
        world.operator.homes.remove(&(group, place));
        let [before, left, next] = [1001, 1002, 1003].map(ReplicaId::new);
        let settled = |world: &mut World, replica| {
            world.settle_replica(group, replica, place);
            let home = world.operator.homes.get(&(group, place));
            home.and_then(|spec| spec.replica_on(node)) == Some(replica)
        };
        assert!(settled(&mut world, left), "before its change is even asked for");
        world.operator.found_gone(place, node, &[(life, left)]);
        let change = |replica| MemberChange::AddLearner { replica, node };
        world.heard_of_change(group, &[change(left)], None);
        assert!(!world.operator.homes.contains_key(&(group, place)), "the node would refuse it");
        assert!(!settled(&mut world, before), "and this one as well");
        assert!(settled(&mut world, next));
    }

    #[test]
    fn a_group_that_was_destroyed_begins_anew_however_late_its_places_come_free() {
        let mut world = World::new(1, &Options::default());
        let group = world.swarm.groups[0].group;
        let first = world.operator.life_of(group);
        let nodes = world.nodes.len();
        let stand = |world: &mut World, standing: NodeStanding| {
            world.nodes.iter_mut().skip(2).for_each(|node| node.standing = standing);
        };
        world.operator.homes.retain(|(of, _), _| *of != group);
        world.operator.rebirths.insert(group, (0..nodes.min(3)).collect());
        world.phase = Phase::Healing;
        world.now = world.options.faults_s * 1_000_000 + 2 * SLOW_END_US;
        // Nobody knows yet what became of most of its nodes.
        stand(&mut world, NodeStanding::Damaged);
        world.operate();
        assert_eq!(world.operator.life_of(group), first);
        assert!(world.has_work_at(world.now), "it is owed");
        // Nothing was lost.
        stand(&mut world, NodeStanding::Member);
        world.operate();
        assert!(world.operator.life_of(group) > first, "it has begun anew");
        assert!(!world.has_work_at(world.now), "nothing is owed any more");
    }

    #[test]
    fn a_group_that_was_destroyed_begins_anew_without_the_node_that_was_lost_meanwhile() {
        let mut world = World::new(1, &Options::default());
        let group = world.swarm.groups[0].group;
        let first = world.operator.life_of(group);
        world.operator.homes.retain(|(of, _), _| *of != group);
        world.operator.rebirths.insert(group, vec![0, 1, 2]);
        world.phase = Phase::Healing;
        world.now = world.options.faults_s * 1_000_000 + 2 * SLOW_END_US;
        world.nodes.iter_mut().skip(2).for_each(|node| node.standing = NodeStanding::Out);
        world.operate();
        assert!(world.operator.life_of(group) > first, "two nodes are left");
    }
}
