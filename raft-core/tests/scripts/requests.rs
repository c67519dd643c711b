//! Words that ask one replica for something: proposals, reads, hand-overs, changes, snapshots.

use raft_core::{Input, LogTime, MemberChange, NodeId, ReadPath, ReplicaId};

use crate::replica::Proposal;
use crate::script::{Args, number, numbers};
use crate::vocabulary::Stage;

impl Stage {
    pub(crate) fn propose(&mut self, args: &mut Args<'_>) -> Result<(), String> {
        let key = self.key(args)?;
        let cost = args.value("bytes").map(number).transpose()?.unwrap_or(100);
        let first = args.word("what to propose")?;
        let mut name = Some(first);
        while let Some(command) = name {
            let token = self.cluster.token(key, command.to_string());
            let time = LogTime::new(self.cluster.now / 1_000);
            let proposal = Proposal { name: command.to_string(), cost };
            self.cluster.propose(key, Input::Propose { token, bytes: cost, time }, &proposal)?;
            name = args.any_word();
        }
        Ok(())
    }

    /// `read 1 quorum`, `read 1 lease`, `read 2 follower`, with `as=a` if there are several.
    pub(crate) fn read(&mut self, args: &mut Args<'_>) -> Result<(), String> {
        let key = self.key(args)?;
        let path = match args.word("quorum, lease or follower")? {
            "quorum" => ReadPath::Quorum,
            "lease" => ReadPath::Lease,
            "follower" => ReadPath::Follower,
            other => return Err(format!("nobody reads by {other}")),
        };
        let name =
            args.value("as").map_or_else(|| String::from("read"), |name| format!("read {name}"));
        let token = self.cluster.token(key, name);
        self.cluster.input(key, Input::Read { token, path })
    }

    /// `transfer 1 to 2`, or to whom it likes.
    pub(crate) fn transfer(&mut self, args: &mut Args<'_>) -> Result<(), String> {
        let key = self.key(args)?;
        let to = if args.says("to") { Some(args.node()?) } else { None };
        let name = to.map_or_else(|| String::from("transfer"), |to| format!("transfer to n{to}"));
        let token = self.cluster.token(key, name);
        self.cluster.input(key, Input::Transfer { token, to })
    }

    /// `change 1 add-learner=4`, `change 1 promote=4 remove=1`
    pub(crate) fn change(&mut self, args: &mut Args<'_>) -> Result<(), String> {
        let key = self.key(args)?;
        let mut changes = Vec::new();
        while let Some((what, who)) = args.any_pair() {
            for id in numbers::<u64>(who)? {
                let replica = ReplicaId::new(id);
                changes.push(match what {
                    "add-learner" => MemberChange::AddLearner { replica, node: NodeId::new(id) },
                    "promote" => MemberChange::Promote(replica),
                    "demote" => MemberChange::Demote(replica),
                    "remove" => MemberChange::Remove(replica),
                    _ => return Err(format!("nobody knows how to {what}")),
                });
            }
        }
        let token = self.cluster.token(key, String::from("change"));
        self.cluster.input(key, Input::ChangeMembership { token, changes })
    }

    /// `snapshot 1`, `snapshot 1 at 5`
    pub(crate) fn snapshot(&mut self, args: &mut Args<'_>) -> Result<(), String> {
        let key = self.key(args)?;
        let at = if args.says("at") { Some(args.index()?) } else { None };
        let taken = self.cluster.replica(key)?.take_snapshot(at)?;
        self.cluster.input(key, taken)
    }

    /// `receive 4`: the bytes of the snapshot it wants are there; `receive 4 failed`.
    pub(crate) fn receive(&mut self, args: &mut Args<'_>) -> Result<(), String> {
        let key = self.key(args)?;
        let live = self.cluster.replica(key)?.live.as_mut().ok_or("it is down")?;
        if args.says("failed") {
            let (_, meta) = live.fetching.take().ok_or("it wants no snapshot")?;
            return self.cluster.input(key, Input::SnapshotFailed { index: meta.index });
        }
        let (from, _) = live.fetching.as_ref().ok_or("it wants no snapshot")?;
        let (from, holder) = (*from, (key.0, *from));
        if self.cluster.network.is_cut((from, key.1)) {
            return Err(String::from("the link is cut"));
        }
        let snapshots = self.cluster.replica(holder)?.disk.image.snapshots.clone();
        let received = self.cluster.replica(key)?.receive(&snapshots)?;
        self.cluster.input(key, received)
    }
}
