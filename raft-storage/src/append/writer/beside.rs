//! A sync that flies alone, and what is written beside it.
//!
//! A sync covers what was written when it began, whatever is written meanwhile. So the log may go on
//! through the page cache beside one: who counts what is written does not wait for the disk of others.
//!
//! Invariants:
//! - a frame that is written beside a sync promises what was durable before it: whether the sync ends well
//!   is not known yet;
//! - a sync makes durable what lies below the place where it began, and nothing behind that;
//! - beside a sync no segment begins: its header says that all before it is durable, and of two syncs of
//!   a file under way at once only one may be told that a write has failed.

use super::{Airborne, Effect, Hand, LogWriter};
use crate::append::flight::{Flight, Step, Until};
use crate::append::write::{AppendInfo, GroupWrite};
use crate::disk::Disk;
use crate::error::LogError;
use crate::store::Ending;

impl<D: Disk> LogWriter<D> {
    /// [`append`](Self::append) through the page cache: for what counts once it is written and will
    /// not be synced at once. A write that goes to the device waits for it.
    ///
    /// The only call that may write while flights of [`depart_sync`](Self::depart_sync) are in the air; what
    /// it writes then lies behind what they make durable.
    ///
    /// # Errors
    /// As [`append`](Self::append). [`LogError::UnderWay`] as well if another flight is in the air,
    /// or a segment would have to begin beside a sync: it can once that has landed.
    pub fn append_cached(&mut self, writes: &[GroupWrite]) -> Result<AppendInfo, LogError> {
        let hand = self.begin_cached()?;
        self.writes = Until::Cached;
        let appended = self.append_begun(writes, None, hand);
        self.writes = Until::Written;
        appended
    }

    /// Lets a sync depart: when it has landed, everything is durable that is written now, and nothing that
    /// [`append_cached`](Self::append_cached) writes meanwhile. Where something was staged, or departed
    /// before and is no such sync, this is [`depart`](Self::depart) with [`Ending::Sync`].
    ///
    /// # Errors
    /// [`LogError::Poisoned`], which is final.
    pub fn depart_sync(&mut self) -> Result<Flight, LogError> {
        self.check_poison()?;
        let begin = self.cursor.end();
        let is_clear = self.open.is_none() && self.steps.is_empty() && self.effects.is_empty();
        let file = self.file.clone().filter(|_| {
            is_clear && begin > self.cursor.synced && self.air.iter().all(Airborne::is_sync)
        });
        let Some(file) = file else { return self.depart(Ending::Sync) };
        let flight = Airborne {
            number: self.next_flight,
            effects: vec![Effect::Durable(begin)],
            covers: Some(begin),
        };
        self.steps.push_back(Step::Sync { file });
        Ok(self.take_off(flight).beside())
    }

    /// A call that writes through the page cache begins. Beside a sync that is under way what was staged
    /// goes first as well, unless a segment begins with it.
    fn begin_cached(&mut self) -> Result<Hand, LogError> {
        if self.air.is_empty() {
            self.begin_here()?;
            return Ok(Hand::Here);
        }
        self.check_poison()?;
        if !self.may_write_beside() {
            return Err(LogError::UnderWay { flights: self.air.len() });
        }
        if self.open.is_some() || !self.steps.is_empty() {
            self.finish_here()?;
        }
        Ok(Hand::Beside)
    }

    /// Whether nothing but syncs is in the air, and what is staged may be written beside them.
    pub(super) fn may_write_beside(&self) -> bool {
        self.air.iter().all(Airborne::is_sync)
            && self.steps.iter().all(|step| matches!(step, Step::Frame { .. }))
    }
}
