//! The memory of a machine, as far as it outlives a process: the word that vouches for what is written
//! and not on disk.
//!
//! A word stays where it was left, over kills and over lost power as well, as if it lay on some disk:
//! what makes it void then is that it names another boot of the machine.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use raft_core::Incarnation;
use raft_storage::{BootWord, Lsn, StoreId};

use crate::node::sim::{Voucher, Vouching};

/// What one machine remembers. Clones share it.
#[derive(Clone, Default)]
pub(super) struct Memory(Arc<Mutex<Remembered>>);

#[derive(Default)]
struct Remembered {
    boot: u128,
    word: Option<BootWord>,
}

impl Memory {
    /// The machine has lost power.
    pub(super) fn power_cut(&self) {
        self.0.lock().boot += 1;
    }

    /// Whether a word speaks for a log, of these lives, up to there.
    pub(super) fn covers(
        &self,
        store: StoreId,
        lives: (Incarnation, Incarnation),
        end: Lsn,
    ) -> bool {
        let remembered = self.0.lock();
        let here = (remembered.boot, store);
        remembered.word.is_some_and(|word| word.covers(here, lives, end))
    }

    /// A life begins, which may want to leave a word.
    pub(super) fn vouching(&self, store: StoreId, incarnation: Incarnation) -> Vouching {
        let memory = self.clone();
        Vouching::Later(Box::new(move || {
            let mut remembered = memory.0.lock();
            let boot = remembered.boot;
            remembered.word = Some(BootWord { boot, store, incarnation, written: Lsn::ZERO });
            drop(remembered);
            Ok(Box::new(Kept(memory)) as Box<dyn Voucher>)
        }))
    }
}

/// The word of the life that runs.
struct Kept(Memory);

impl Voucher for Kept {
    fn vouch(&mut self, written: Lsn) -> io::Result<()> {
        if let Some(word) = &mut self.0.0.lock().word {
            word.written = word.written.max(written);
        }
        Ok(())
    }

    fn withdraw(self: Box<Self>) {
        self.0.0.lock().word = None;
    }
}
