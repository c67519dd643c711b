//! Which part of the log, and which term and vote, are on disk.
//!
//! Operations complete in the order they were issued, so one number acknowledges all before it,
//! however late or repeated the acknowledgement. What is durable is computed from the operations
//! themselves and clipped by truncations still in flight; so an acknowledgement can never vouch
//! for an entry that a later operation is replacing.
//!
//! Invariant: `durable <= written <= last index of the log`, and both fall only at a truncation.

use alloc::collections::VecDeque;

use crate::id::{LogIndex, Micros, PersistSeq};

/// What one operation does to the log's end, in this order: it may begin anew, be cut, and be
/// appended to.
#[derive(Clone, Copy, Debug)]
struct Op {
    seq: PersistSeq,
    issued: Micros,
    /// Where the log begins anew; [`NEVER`](Self::NEVER) if it goes on.
    begins: LogIndex,
    /// Of the log before the operation, what is up to here stays or is in a snapshot too.
    stays: LogIndex,
    /// Of the log as it then is, what is up to here stays.
    kept: LogIndex,
    /// The last entry appended; zero if none is.
    appended: LogIndex,
}

impl Op {
    const NEVER: LogIndex = LogIndex::new(u64::MAX);

    fn advance(&self, mark: LogIndex) -> LogIndex {
        let begun = if self.begins == Self::NEVER { mark } else { self.begins };
        begun.min(self.kept).max(self.appended)
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Durability {
    issued: PersistSeq,
    written_seq: PersistSeq,
    durable_seq: PersistSeq,
    written: LogIndex,
    durable: LogIndex,
    /// The operation that carries the current term and vote.
    hard_state_seq: PersistSeq,
    in_flight: VecDeque<Op>,
    /// The newest operation when spare room was last looked for.
    idle_since: PersistSeq,
    now: Micros,
}

impl Durability {
    /// Everything recovered from disk is durable.
    pub(crate) fn recovered(last: LogIndex) -> Self {
        Self { written: last, durable: last, ..Self::default() }
    }

    /// Gives back the room for operations, if nothing is in flight and nothing was issued since
    /// this was last asked. `true`: so it is.
    pub(crate) fn release_spare(&mut self) -> bool {
        let is_idle = self.in_flight.is_empty() && self.idle_since == self.issued;
        self.idle_since = self.issued;
        if is_idle {
            self.in_flight = VecDeque::new();
        }
        is_idle
    }

    pub(crate) fn durable(&self) -> LogIndex {
        self.durable
    }

    pub(crate) fn written(&self) -> LogIndex {
        self.written
    }

    pub(crate) fn issued(&self) -> PersistSeq {
        self.issued
    }

    /// What a message that rests on term and vote must wait for, if anything.
    pub(crate) fn hard_state_gate(&self) -> Option<PersistSeq> {
        (self.hard_state_seq > self.durable_seq).then_some(self.hard_state_seq)
    }

    /// Opens an operation, or continues `open` if the driver has not taken it yet.
    fn op(&mut self, open: Option<PersistSeq>) -> &mut Op {
        let continues = open == Some(self.issued) && self.in_flight.back().is_some();
        if !continues {
            self.issued = PersistSeq::new(self.issued.get() + 1);
            self.in_flight.push_back(Op {
                seq: self.issued,
                issued: self.now,
                begins: Op::NEVER,
                stays: Op::NEVER,
                kept: Op::NEVER,
                appended: LogIndex::ZERO,
            });
        }
        self.in_flight.back_mut().expect("an operation was just found or pushed")
    }

    /// The time for operations opened from now on.
    pub(crate) fn set_time(&mut self, now: Micros) {
        self.now = now;
    }

    /// Since when the oldest operation under way waits for the disk.
    pub(crate) fn waits_since(&self) -> Option<Micros> {
        self.in_flight.front().map(|op| op.issued)
    }

    /// An operation that only has to be remembered.
    pub(crate) fn record(&mut self, open: Option<PersistSeq>) -> PersistSeq {
        self.op(open).seq
    }

    /// The log begins anew after `base`, which a durable snapshot covers. Until that is on disk
    /// the old log is, up to `kept`: what was committed, and is in the snapshot too.
    pub(crate) fn reset(
        &mut self,
        open: Option<PersistSeq>,
        base: LogIndex,
        kept: LogIndex,
    ) -> PersistSeq {
        let op = self.op(open);
        op.begins = base;
        op.stays = op.stays.min(kept);
        op.kept = Op::NEVER;
        op.appended = LogIndex::ZERO;
        let seq = op.seq;
        self.durable = self.durable.min(kept);
        self.written = self.written.min(kept);
        seq
    }

    pub(crate) fn hard_state(&mut self, open: Option<PersistSeq>) -> PersistSeq {
        let seq = self.op(open).seq;
        self.hard_state_seq = seq;
        seq
    }

    pub(crate) fn truncate(&mut self, open: Option<PersistSeq>, from: LogIndex) -> PersistSeq {
        let op = self.op(open);
        op.kept = op.kept.min(from.prev());
        op.stays = op.stays.min(from.prev());
        op.appended = op.appended.min(from.prev());
        let seq = op.seq;
        // From now on nothing at or after `from` may be vouched for.
        self.durable = self.durable.min(from.prev());
        self.written = self.written.min(from.prev());
        seq
    }

    pub(crate) fn append(&mut self, open: Option<PersistSeq>, last: LogIndex) -> PersistSeq {
        let op = self.op(open);
        op.appended = last;
        op.seq
    }

    /// Takes an acknowledgement from the page cache. `false`: no such operation was issued.
    pub(crate) fn on_written(&mut self, seq: PersistSeq) -> bool {
        if seq > self.issued {
            return false;
        }
        if seq > self.written_seq {
            let (ops, after) = (&self.in_flight, self.written_seq);
            let mut mark = self.written;
            for op in ops.iter().filter(|op| op.seq > after && op.seq <= seq) {
                mark = op.advance(mark);
            }
            self.written = mark.min(self.stays_after(seq));
            self.written_seq = seq;
        }
        true
    }

    /// Takes an acknowledgement from the disk. `false`: no such operation was issued.
    pub(crate) fn on_persisted(&mut self, seq: PersistSeq) -> bool {
        if seq > self.issued {
            return false;
        }
        if crate::planted!(PersistAckWithoutClip) {
            return self.on_written(seq) && self.on_persisted_unclipped(seq);
        }
        // What is durable is written, too. Both marks move in one pass, nearly always over the
        // only operation in flight.
        let (mut durable, mut written) = (self.durable, self.written);
        while let Some(op) = self.in_flight.front().filter(|op| op.seq <= seq) {
            durable = op.advance(durable);
            if op.seq > self.written_seq {
                written = op.advance(written);
            }
            self.in_flight.pop_front();
        }
        let stays = self.stays_after(seq);
        self.durable = durable.min(stays);
        self.durable_seq = self.durable_seq.max(seq);
        if seq > self.written_seq {
            self.written = written.min(stays);
            self.written_seq = seq;
        }
        true
    }

    /// The planted bug: entries that a later operation replaces count all the same.
    fn on_persisted_unclipped(&mut self, seq: PersistSeq) -> bool {
        while let Some(op) = self.in_flight.front().filter(|op| op.seq <= seq) {
            self.durable = self.durable.max(op.appended);
            self.in_flight.pop_front();
        }
        self.durable_seq = self.durable_seq.max(seq);
        true
    }

    /// What a later operation removes is not vouched for by an earlier one: up to here all stays.
    fn stays_after(&self, seq: PersistSeq) -> LogIndex {
        if self.in_flight.is_empty() {
            return Op::NEVER;
        }
        let later = self.in_flight.iter().filter(|op| op.seq > seq);
        later.fold(Op::NEVER, |stays, op| stays.min(op.stays))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(i: u64) -> LogIndex {
        LogIndex::new(i)
    }

    #[test]
    fn an_acknowledgement_does_not_vouch_for_entries_being_replaced() {
        let mut d = Durability::default();
        let first = d.append(None, index(5));
        d.truncate(None, index(3));
        let second = d.append(Some(d.issued()), index(4));
        assert!(d.on_persisted(first));
        assert_eq!(d.durable(), index(2), "3..=5 are being overwritten");
        assert!(d.on_persisted(second));
        assert_eq!(d.durable(), index(4));
    }

    #[test]
    fn late_and_repeated_acknowledgements_change_nothing() {
        let mut d = Durability::default();
        let first = d.append(None, index(1));
        let second = d.append(None, index(2));
        assert!(d.on_persisted(second));
        assert!(d.on_persisted(first));
        assert!(d.on_written(first));
        assert_eq!((d.durable(), d.written()), (index(2), index(2)));
        assert!(!d.on_persisted(PersistSeq::new(second.get() + 1)));
    }

    #[test]
    fn an_untaken_operation_merges_and_a_taken_one_does_not() {
        let mut d = Durability::default();
        let first = d.append(None, index(1));
        assert_eq!(d.append(Some(first), index(2)), first);
        assert_ne!(d.append(None, index(3)), first);
    }

    #[test]
    fn an_installed_snapshot_vouches_for_itself_only_when_durable() {
        let mut d = Durability::default();
        let first = d.append(None, index(8));
        let reset = d.reset(None, index(20), index(6));
        assert!(d.on_persisted(first));
        assert_eq!(d.durable(), index(6), "7 and 8 are going, 1..=6 are in the snapshot too");
        assert!(d.on_persisted(reset));
        assert_eq!(d.durable(), index(20));
    }

    #[test]
    fn written_runs_ahead_of_durable() {
        let mut d = Durability::default();
        let seq = d.append(None, index(7));
        assert!(d.on_written(seq));
        assert_eq!((d.durable(), d.written()), (index(0), index(7)));
    }

    /// Random operations against a plain model that replays every acknowledged operation.
    #[test]
    fn marks_agree_with_replaying_the_operations() {
        for seed in 0..2_000u64 {
            let mut rng = crate::rng::Rng::new(seed);
            let mut d = Durability::default();
            let mut last = 0u64;
            // For each operation: (log length it leaves, lowest index it touched).
            let mut ops: alloc::vec::Vec<(u64, u64)> = alloc::vec::Vec::new();
            let mut acked = 0usize;
            for _ in 0..40 {
                if rng.below(3) < 2 {
                    let cut = rng.below(4) == 0 && last > 0;
                    let low = if cut { 1 + rng.below(last) } else { last + 1 };
                    let mut open = None;
                    if cut {
                        open = Some(d.truncate(None, index(low)));
                    }
                    last = low - 1 + 1 + rng.below(3);
                    d.append(open, index(last));
                    ops.push((last, low));
                } else if acked < ops.len() {
                    acked += 1 + rng.below((ops.len() - acked) as u64) as usize;
                    assert!(d.on_persisted(PersistSeq::new(acked as u64)));
                }
                let mut want = 0;
                if acked > 0 {
                    want = ops[acked - 1].0;
                }
                for (_, low) in &ops[acked..] {
                    want = want.min(low - 1);
                }
                assert_eq!(d.durable().get(), want, "seed {seed} ops {ops:?} acked {acked}");
            }
        }
    }
}
