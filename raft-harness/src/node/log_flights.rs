//! The two threads of the log: one takes what the shards hand in and prepares it, the other waits for
//! the disk meanwhile.
//!
//! Whoever finds the disk free lets depart what is staged. While little is asked for at a time, that is
//! the first thread, and the flight is made right there: a handover would take longer than what it
//! saves. A larger one goes to the other thread, which makes one flight after the other as long as
//! something is staged when it comes back, and tells the first thread what has landed. Only when
//! nothing is staged it looks after that itself, so that nobody waits for a handover for nothing. A sync
//! and nothing else always goes to the other thread: the first one writes beside it.
//!
//! Invariants:
//! - one flight is in the air at a time, and nothing departs before it has ended;
//! - flights land in the order in which they departed, whoever lands them;
//! - the second thread may be missing: then everything happens in order.
//!
//! Bound: at most one flight is handed over, and at most one has ended that has not landed while
//! another is under way.

use std::collections::VecDeque;
use std::thread;
use std::time::Instant;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded, select};
use parking_lot::Mutex;
use raft_storage::{Ending, Landing, LogError};
use tracing::warn;

use super::log_pace::{Carried, Pacer};
use super::log_thread::{Departure, LogBatch, LogLinks, LogWork, Staged};
use crate::counters::Counters;
use crate::engine::Caller;

/// A flight of so many bytes is worth a handover: preparing as much again takes longer than that.
const HANDOVER_BYTES: u64 = 32 << 10;

/// What both threads work on.
struct Desk {
    work: LogWork,
    pacer: Pacer,
    /// What has ended and is not taken in, the oldest first.
    landings: VecDeque<Landing>,
    /// The other thread has a flight.
    is_flying: bool,
    /// Why it can have no further one.
    failure: Option<LogError>,
}

/// What the first thread holds of the second.
struct Wing {
    /// `None`: there is no second thread.
    flights: Option<Sender<Departure>>,
    /// It has something to tell, or has come to rest.
    news: Receiver<()>,
}

/// Serves the log until nobody hands in anything any more, and gives it back with all that was taken on
/// the disk. `None`: it failed, and `failed` was told.
pub(super) fn run(
    work: LogWork,
    batches: &Receiver<LogBatch>,
    links: &LogLinks,
    failed: impl FnOnce(&LogError),
) -> Option<LogWork> {
    let desk = Mutex::new(Desk {
        work,
        pacer: Pacer::new(links.pace),
        landings: VecDeque::new(),
        is_flying: false,
        failure: None,
    });
    let is_sound = thread::scope(|scope| {
        let (flights, departures) = bounded(1);
        let (tell, news) = bounded(1);
        let name = "raft-log-disk".to_owned();
        let desk = &desk;
        let second = thread::Builder::new()
            .name(name)
            .spawn_scoped(scope, move || fly(&departures, desk, &tell, links));
        if let Err(why) = &second {
            warn!(%why, "no second thread for the log: it prepares nothing while the disk is busy");
        }
        let wing = Wing { flights: second.is_ok().then_some(flights), news };
        let mut ends = false;
        loop {
            match turn(desk, &wing, batches, &mut ends, links) {
                Ok(Turn::Goes) => {}
                Ok(Turn::Ends) => return true,
                Err(failure) => {
                    // Before anybody hears of it, and not after a disk that may hang.
                    desk.lock().work.withdraw();
                    failed(&failure);
                    return false;
                }
            }
        }
    });
    is_sound.then(|| desk.into_inner().work)
}

/// Whether the log goes on.
enum Turn {
    Goes,
    Ends,
}

/// Takes and stages what there is and lets it depart if the disk is free; or waits: for work, for the
/// disk, or for room. `ends`: nobody hands in anything any more.
fn turn(
    desk: &Mutex<Desk>,
    wing: &Wing,
    batches: &Receiver<LogBatch>,
    ends: &mut bool,
    links: &LogLinks,
) -> Result<Turn, LogError> {
    let LogLinks { shards, counters, watch, clock, .. } = links;
    let mut held = desk.lock();
    held.work.set_time(clock.now());
    if held.has_news() {
        watch.during(Caller::Desk, *clock, || held.land(links))?;
    }
    // What is small goes between the pieces of what is large.
    if held.work.has_waiting()
        && let Ok(batch) = batches.try_recv()
    {
        held.work.take(batch, batches);
    }
    let staged = match held.work.has_waiting() {
        true => watch.during(Caller::Desk, *clock, || held.work.stage(shards))?,
        false => Staged::Ready,
    };
    held.work.acknowledge_written(shards);
    watch.note_room(*clock, held.work.is_full());
    let mut paced = None;
    if held.work.has_departing() && !held.is_flying {
        let wait = held.pacer.wait(clock.now().get());
        if wait.is_zero() || !held.work.is_paced() {
            return depart(desk, held, wing, links);
        }
        if held.work.has_staged() {
            drop(held);
            // What comes meanwhile makes the batch larger.
            thread::sleep(wait);
            Counters::add(&counters.log_paced, 1);
            let mut held = desk.lock();
            if let Ok(batch) = batches.try_recv() {
                held.work.take(batch, batches);
            }
            held.work.set_time(clock.now());
            watch.during(Caller::Desk, *clock, || held.work.stage(shards))?;
            held.work.acknowledge_written(shards);
            return depart(desk, held, wing, links);
        }
        // Others write meanwhile.
        paced = Some(wait);
    }
    let (is_flying, is_full) = (held.is_flying, staged == Staged::NoSegment);
    if is_full && !is_flying {
        return wait_for_room(desk, held, wing, batches, links);
    }
    let wait = paced.unwrap_or_else(|| held.work.wait());
    drop(held);
    if is_flying && *ends {
        // It tells when it has come to rest.
        return Ok(if wing.news.recv().is_ok() { Turn::Goes } else { Turn::Ends });
    }
    if is_flying {
        select! {
            recv(batches) -> batch => match batch {
                Ok(batch) => desk.lock().work.take(batch, batches),
                Err(_) => *ends = true,
            },
            recv(wing.news) -> news => if news.is_err() {
                // It has panicked, which whoever waits for both threads will see.
                return Ok(Turn::Ends);
            },
        }
        return Ok(Turn::Goes);
    }
    match batches.recv_timeout(wait) {
        Ok(batch) => desk.lock().work.take(batch, batches),
        Err(RecvTimeoutError::Timeout) => {
            Counters::add(&counters.log_paced, u64::from(paced.is_some()));
            let mut held = desk.lock();
            if held.work.sync_due().is_none() {
                let has_more = watch.during(Caller::Desk, *clock, || held.work.rest(counters))?;
                // A log that nobody uses would never show that it is well again.
                if !has_more && watch.convalescent(clock.now()).is_some() {
                    watch.syncing(Caller::Desk, *clock, || held.work.probe())?;
                }
            }
        }
        Err(RecvTimeoutError::Disconnected) => return Ok(Turn::Ends),
    }
    Ok(Turn::Goes)
}

/// Lets what is staged depart: with the other thread, or at once and here.
fn depart(
    desk: &Mutex<Desk>,
    mut held: parking_lot::MutexGuard<'_, Desk>,
    wing: &Wing,
    links: &LogLinks,
) -> Result<Turn, LogError> {
    // A log without a disk to wait for does everything now.
    let departs = || held.work.depart(Ending::AtOnce);
    let departure = links.watch.during(Caller::Desk, links.clock, departs)?;
    let Some(departure) = departure else { return Ok(Turn::Goes) };
    let is_worth_it =
        departure.flight.is_sync() || departure.bytes >= HANDOVER_BYTES || held.work.has_waiting();
    if let Some(flights) = &wing.flights
        && is_worth_it
        && !departure.flight.is_over()
    {
        held.is_flying = true;
        drop(held);
        // A thread that is gone has panicked, which whoever waits for both will see.
        return Ok(if flights.send(departure).is_ok() { Turn::Goes } else { Turn::Ends });
    }
    drop(held);
    let ended = make(Caller::Desk, departure, links);
    let mut held = desk.lock();
    held.ended(ended);
    links.watch.during(Caller::Desk, links.clock, || held.land(links))?;
    Ok(Turn::Goes)
}

/// Nothing can be staged and nothing is in the air: tries again after a while. Votes come through.
fn wait_for_room(
    desk: &Mutex<Desk>,
    mut held: parking_lot::MutexGuard<'_, Desk>,
    wing: &Wing,
    batches: &Receiver<LogBatch>,
    links: &LogLinks,
) -> Result<Turn, LogError> {
    let until = Instant::now() + held.work.pause();
    drop(held);
    loop {
        match batches.recv_deadline(until) {
            Ok(batch) => {
                let mut held = desk.lock();
                held.work.take(batch, batches);
                let stage = || held.work.stage_votes();
                if links.watch.during(Caller::Desk, links.clock, stage)? == Staged::Partly {
                    let without = Wing { flights: None, news: wing.news.clone() };
                    depart(desk, held, &without, links)?;
                }
            }
            Err(RecvTimeoutError::Timeout) => return Ok(Turn::Goes),
            Err(RecvTimeoutError::Disconnected) => return Ok(Turn::Ends),
        }
    }
}

/// A flight that has ended.
struct Ended {
    landing: Landing,
    began: u64,
    ended: u64,
    syncs: bool,
    entries: u64,
    bytes: u64,
}

/// Makes a flight.
fn make(caller: Caller, departure: Departure, links: &LogLinks) -> Ended {
    let Departure { flight, syncs, entries, bytes } = departure;
    let began = links.clock.now().get();
    let landing = match syncs {
        true => links.watch.syncing(caller, links.clock, || flight.land()),
        false => links.watch.during(caller, links.clock, || flight.land()),
    };
    Ended { landing, began, ended: links.clock.now().get(), syncs, entries, bytes }
}

impl Desk {
    fn ended(&mut self, ended: Ended) {
        let Ended { landing, began, ended, syncs, entries, bytes } = ended;
        if syncs {
            self.pacer.synced(began, ended, Carried { entries, bytes });
        } else if bytes >= HANDOVER_BYTES {
            self.pacer.wrote_piece(ended);
        }
        self.landings.push_back(landing);
    }

    /// Whether there is something to land, or a failure to tell of.
    fn has_news(&self) -> bool {
        !self.landings.is_empty() || self.failure.is_some()
    }

    /// Takes in and acknowledges what has ended, and does some housekeeping after it.
    fn land(&mut self, links: &LogLinks) -> Result<(), LogError> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        while let Some(landing) = self.landings.pop_front() {
            self.work.land(landing, &links.counters)?;
        }
        self.work.acknowledge(&links.shards);
        links.watch.note_room(links.clock, self.work.is_full());
        self.work.tend(&links.counters)
    }
}

/// The second thread: makes flights as they come.
fn fly(departures: &Receiver<Departure>, desk: &Mutex<Desk>, tell: &Sender<()>, links: &LogLinks) {
    while let Ok(first) = departures.recv() {
        let mut next = Some(first);
        while let Some(departure) = next {
            let ended = make(Caller::Disk, departure, links);
            next = next_flight(ended, desk, tell, links);
            // One that is not taken yet says as much.
            let _ = tell.try_send(());
        }
    }
}

/// After a flight: the next one, if something is staged. Otherwise what has landed is looked after here.
fn next_flight(
    ended: Ended,
    desk: &Mutex<Desk>,
    tell: &Sender<()>,
    links: &LogLinks,
) -> Option<Departure> {
    let is_safe = ended.landing.is_safe();
    let mut held = desk.lock();
    held.ended(ended);
    if is_safe && held.work.has_departing() {
        let wait = held.pacer.wait(links.clock.now().get());
        if !wait.is_zero() && held.work.is_paced() {
            drop(held);
            // The other thread acknowledges what has landed, and stages what comes.
            let _ = tell.try_send(());
            thread::sleep(wait);
            Counters::add(&links.counters.log_paced, 1);
            held = desk.lock();
        }
        let departs = || held.work.depart(Ending::AtOnce);
        match links.watch.during(Caller::Disk, links.clock, departs) {
            Ok(Some(next)) => return Some(next),
            Ok(None) => {}
            Err(failure) => held.failure = Some(failure),
        }
    } else if is_safe
        && let Err(failure) = links.watch.during(Caller::Disk, links.clock, || held.land(links))
    {
        held.failure = Some(failure);
    }
    held.is_flying = false;
    None
}
