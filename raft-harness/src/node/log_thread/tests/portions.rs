//! Where what waits is divided.

use raft_core::{GroupIncarnation, HardState, ReplicaId, Tombstone};

use super::*;

/// Notes what it is given together: the number of each group, with what ends or begins there.
struct Portions {
    log: MemoryLog,
    given: Arc<Mutex<Vec<Vec<String>>>>,
}

impl LogStore for Portions {
    fn append(&mut self, writes: &[GroupWrite]) -> Result<AppendInfo, LogError> {
        let told = writes.iter().map(|write| {
            let what = match (&write.destroy, &write.create) {
                (Some(_), _) => " ends",
                (None, Some(_)) => " begins",
                (None, None) => "",
            };
            format!("{}{what}", write.group.get())
        });
        self.given.lock().push(told.collect());
        self.log.append(writes)
    }

    fn sync(&mut self) -> Result<SyncInfo, LogError> {
        self.log.sync()
    }

    fn idle(&mut self) -> Result<(), LogError> {
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<(), LogError> {
        Ok(())
    }

    fn is_poisoned(&self) -> bool {
        false
    }

    fn reader(&self) -> LogReader {
        self.log.reader()
    }
}

/// The replica of a group ends, and another begins in its place.
fn replaced(id: u32) -> [GroupWrite; 2] {
    let mut end = GroupWrite::new(group(id));
    let hard_state = HardState::default();
    end.destroy = Some(Tombstone { group: group(id), replica: ReplicaId::new(1), hard_state });
    let mut begin = create(id);
    begin.create.as_mut().expect("it begins").incarnation = GroupIncarnation::new(1);
    [end, begin]
}

#[test]
fn a_replicas_end_and_its_successors_beginning_are_handed_over_together() {
    // However much is before them: the portion may end at either, and between the two.
    let mut ends_before = 0;
    for before in 0..4_000 {
        let given = Arc::default();
        let store = Portions { log: MemoryLog::new(), given: Arc::clone(&given) };
        let shards: Vec<Arc<Inbox<ShardInput>>> = vec![Arc::default()];
        let mut work = work(store);
        let (_send, receive) = unbounded();
        work.take(batch(vec![create(1), create(2)]), &receive);
        stage(&mut work, &shards);
        fly(&mut work, &shards);
        given.lock().clear();
        let mut filler = entries(2, 1, 10);
        filler.entries[9].payload = vec![7; before].into();
        let writes = [filler].into_iter().chain(replaced(1)).chain([vote(2)]);
        work.take(batch(writes.collect()), &receive);
        while work.has_waiting() {
            stage(&mut work, &shards);
            fly(&mut work, &shards);
        }
        let given = given.lock().clone();
        let both = ["1 ends", "1 begins"].map(str::to_owned);
        assert!(
            given.iter().any(|portion| portion.windows(2).any(|pair| pair == both)),
            "{given:?}"
        );
        ends_before += usize::from(given.iter().any(|portion| portion[0] == "1 ends"));
    }
    assert!(ends_before > 0, "no portion ended there");
}

#[test]
fn a_successor_goes_with_the_end_before_it_though_it_alone_fills_a_portion() {
    let given = Arc::default();
    let store = Portions { log: MemoryLog::new(), given: Arc::clone(&given) };
    let shards: Vec<Arc<Inbox<ShardInput>>> = vec![Arc::default()];
    let mut work = work(store);
    let (_send, receive) = unbounded();
    work.take(batch(vec![create(1)]), &receive);
    stage(&mut work, &shards);
    fly(&mut work, &shards);
    let [end, mut begin] = replaced(1);
    begin.create.as_mut().expect("it begins").spec = vec![7; 20_000].into();
    work.take(batch(vec![end, begin, vote(1)]), &receive);
    while work.has_waiting() {
        stage(&mut work, &shards);
        fly(&mut work, &shards);
    }
    assert_eq!(given.lock()[1], ["1 ends", "1 begins"]);
}
