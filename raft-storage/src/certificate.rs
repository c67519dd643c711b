//! What survives a process and not its machine: a word in memory that the page cache was told of
//! everything up to a place, and is still the same page cache.
//!
//! After a process was killed the log holds whatever was written to it, synced or not; after a
//! power cut it need not. A log alone cannot tell the two apart. So whoever acknowledges what is
//! only written notes, before each acknowledgement, how far the log was written, in a file on a
//! file system that exists only in memory (`tmpfs`). If that file is there at the next start, of
//! the same boot of the machine and the same directory, and the log, read around the page cache,
//! reaches as far as it says, nothing that was acknowledged is missing.
//!
//! It is *void* if it is missing, cannot be read, is of another boot, directory or life, or names a
//! place beyond the log's end: a container whose tmpfs went with it, a tmpfs that was full or
//! mounted anew, a directory that was restored, a write that never reached the disk because
//! the kernel failed to write it back after the process was gone.
//!
//! Not detectable: a machine that is suspended and restored with memory and disk of different
//! moments. Where that happens, a group that counts what is written is the wrong choice.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use raft_core::Incarnation;

use crate::format::checksum::crc32c;
use crate::format::field::{put, u32_at, u64_at, u128_at};
use crate::format::identity::StoreId;
use crate::format::lsn::Lsn;

/// The certificate of one life of one directory. Dropping it leaves it where it is.
#[derive(Debug)]
pub struct BootCertificate {
    file: File,
    path: PathBuf,
    word: BootWord,
}

/// What a certificate says, wherever it is kept.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct BootWord {
    /// Which boot of the machine.
    pub boot: u128,
    /// Of which directory.
    pub store: StoreId,
    /// In which life of the node.
    pub incarnation: Incarnation,
    /// Everything below was written.
    pub written: Lsn,
}

/// Why no certificate can be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// The system does not say which boot this is.
    #[error("which boot of the machine this is cannot be told")]
    NoBoot(#[source] io::Error),
    /// The directory outlives the machine's memory, or may.
    #[error("{} is not on a tmpfs", dir.display())]
    NotInMemory {
        /// Which.
        dir: PathBuf,
    },
    /// It cannot be written.
    #[error("a certificate cannot be kept in {}", dir.display())]
    Io {
        /// Where.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl BootCertificate {
    /// Makes the certificate of a life that begins, in the place of whatever was there. Until the
    /// first [`vouch`](Self::vouch) it says that nothing was written.
    ///
    /// # Errors
    /// [`CertificateError`]; then there is none, and nothing may be acknowledged that is not on
    /// disk.
    pub fn begin(
        dir: &Path,
        store: StoreId,
        incarnation: Incarnation,
    ) -> Result<Self, CertificateError> {
        let path = path(dir, store);
        let io = |source| CertificateError::Io { dir: dir.to_owned(), source };
        let boot = boot_id().map_err(CertificateError::NoBoot)?;
        let word = BootWord { boot, store, incarnation, written: Lsn::ZERO };
        if !is_in_memory(dir).map_err(io)? {
            return Err(CertificateError::NotInMemory { dir: dir.to_owned() });
        }
        match write_anew(&path, &word) {
            Ok(file) => Ok(Self { file, path, word }),
            Err(source) => {
                // One of an earlier life must not be taken for ours.
                let _ = fs::remove_file(&path);
                Err(io(source))
            }
        }
    }

    /// Everything below `written` is in the page cache. To be called before anybody is told so.
    ///
    /// # Errors
    /// Whatever the file system says; then nobody may be told, and it should be
    /// [withdrawn](Self::withdraw).
    pub fn vouch(&mut self, written: Lsn) -> io::Result<()> {
        self.word.written = self.word.written.max(written);
        self.file.write_all_at(&self.word.encode(), 0)?;
        // Some remove the files of a user who logs out, /dev/shm included: the word would be given to a
        // file that nobody finds any more.
        if self.file.metadata()?.nlink() == 0 {
            self.file = write_anew(&self.path, &self.word)?;
        }
        Ok(())
    }

    /// Takes it back: what was written may not be what a reader will find, or need not be looked
    /// for.
    pub fn withdraw(self) {
        // If it cannot be removed it can perhaps be spoilt.
        let _ = self.file.write_all_at(&[0; WORD_BYTES], 0);
        let _ = fs::remove_file(&self.path);
    }

    /// Whether a log that ends at `end`, whose newest frame is of the life `newest` and whose last
    /// life was `last`, holds everything that was ever acknowledged as written.
    ///
    /// A life after the certificate's own that wrote no frame has acknowledged nothing: it was
    /// killed before it came so far.
    pub fn covers(
        dir: &Path,
        store: StoreId,
        (newest, last): (Incarnation, Incarnation),
        end: Lsn,
    ) -> bool {
        let Ok(boot) = boot_id() else { return false };
        // Read from where it may not lie, it proves nothing.
        if !is_in_memory(dir).unwrap_or(false) {
            return false;
        }
        let bytes = fs::read(path(dir, store)).ok();
        let word = bytes.and_then(|bytes| BootWord::decode(&bytes));
        word.is_some_and(|word| word.covers((boot, store), (newest, last), end))
    }
}

impl BootWord {
    /// Whether it speaks for this boot of the machine and this directory, for the life that wrote last
    /// (of those from the one with the newest frame to the last one), and for no more than a log
    /// that ends at `end` has.
    pub fn covers(
        &self,
        (boot, store): (u128, StoreId),
        (newest, last): (Incarnation, Incarnation),
        end: Lsn,
    ) -> bool {
        let same_boot = self.boot == boot || raft_core::planted!(BootNotCompared);
        same_boot
            && self.store == store
            && (newest..=last).contains(&self.incarnation)
            && self.written <= end
    }

    fn encode(&self) -> [u8; WORD_BYTES] {
        let mut bytes = [0; WORD_BYTES];
        put(&mut bytes, 0, &MAGIC.to_le_bytes());
        put(&mut bytes, 8, &self.boot.to_le_bytes());
        put(&mut bytes, 24, &self.store.get().to_le_bytes());
        put(&mut bytes, 40, &self.incarnation.get().to_le_bytes());
        put(&mut bytes, 48, &self.written.get().to_le_bytes());
        let sum = crc32c(&bytes[..SUM_AT]);
        put(&mut bytes, SUM_AT, &sum.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; WORD_BYTES] = bytes.try_into().ok()?;
        let sound = u64_at(bytes, 0) == MAGIC && u32_at(bytes, SUM_AT) == crc32c(&bytes[..SUM_AT]);
        sound.then(|| Self {
            boot: u128_at(bytes, 8),
            store: StoreId::new(u128_at(bytes, 24)),
            incarnation: Incarnation::new(u64_at(bytes, 40)),
            written: Lsn::new(u64_at(bytes, 48)),
        })
    }
}

/// What is overwritten from then on needs no room.
fn write_anew(path: &Path, word: &BootWord) -> io::Result<File> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
    file.write_all_at(&word.encode(), 0)?;
    Ok(file)
}

/// Two nodes of one machine differ in their stores.
fn path(dir: &Path, store: StoreId) -> PathBuf {
    dir.join(format!("raft-{store}.boot"))
}

fn boot_id() -> io::Result<u128> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    u128::from_str_radix(&digits, 16).map_err(io::Error::other)
}

#[cfg(target_os = "linux")]
fn is_in_memory(dir: &Path) -> io::Result<bool> {
    const TMPFS_MAGIC: u64 = 0x0102_1994;
    let found = rustix::fs::statfs(dir)?;
    Ok(found.f_type as u64 == TMPFS_MAGIC)
}

#[cfg(not(target_os = "linux"))]
fn is_in_memory(_: &Path) -> io::Result<bool> {
    Ok(false)
}

const MAGIC: u64 = u64::from_le_bytes(*b"raftboot");
const WORD_BYTES: usize = 60;
const SUM_AT: usize = 56;

#[cfg(test)]
mod tests {
    use super::*;

    const STORE: StoreId = StoreId::new(7);

    fn life(number: u64) -> Incarnation {
        Incarnation::new(number)
    }

    fn word() -> BootWord {
        BootWord { boot: 3, store: STORE, incarnation: life(5), written: Lsn::new(8192) }
    }

    #[test]
    fn it_is_void_of_another_boot_directory_or_life_and_beyond_the_end_of_the_log() {
        let (here, lives, end) = ((3, STORE), (life(5), life(5)), Lsn::new(8192));
        let covers = |here, lives, end| word().covers(here, lives, end);
        assert!(covers(here, lives, end));
        assert!(covers(here, lives, Lsn::new(12288)));
        assert!(!covers((4, STORE), lives, end), "the machine was started anew");
        assert!(!covers((3, StoreId::new(8)), lives, end));
        assert!(!covers(here, lives, Lsn::new(4096)), "the kernel failed to write it back");
        assert!(!covers(here, (life(4), life(4)), end), "the directory was put back");
        assert!(!covers(here, (life(6), life(6)), end), "a life came after it, and wrote");
        assert!(covers(here, (life(5), life(6)), end), "it was killed before it wrote");
    }

    #[test]
    fn what_is_torn_or_foreign_says_nothing() {
        let bytes = word().encode();
        assert_eq!(BootWord::decode(&bytes), Some(word()));
        assert_eq!(BootWord::decode(&bytes[..59]), None);
        assert_eq!(BootWord::decode(&[0; WORD_BYTES]), None);
        for at in 0..WORD_BYTES {
            let mut torn = bytes;
            torn[at] ^= 4;
            assert_eq!(BootWord::decode(&torn), None, "byte {at}");
        }
    }

    /// Where tests run there is one, as everywhere on Linux; elsewhere there is nothing to test.
    fn in_memory() -> Option<tempfile::TempDir> {
        let dir = tempfile::tempdir_in("/dev/shm").ok()?;
        is_in_memory(dir.path()).ok()?.then_some(dir)
    }

    #[test]
    fn it_lasts_as_long_as_its_tmpfs_and_until_it_is_withdrawn() {
        let Some(dir) = in_memory() else { return };
        let (lives, end) = ((life(5), life(5)), Lsn::new(8192));
        let covers = |lives, end| BootCertificate::covers(dir.path(), STORE, lives, end);
        assert!(!covers(lives, end), "there is none");
        let mut ours = BootCertificate::begin(dir.path(), STORE, life(5)).unwrap();
        ours.vouch(end).unwrap();
        // Another node of this machine minds its own.
        let other = BootCertificate::begin(dir.path(), StoreId::new(8), life(1)).unwrap();
        other.withdraw();
        drop(ours);
        assert!(covers(lives, end), "the process is gone, the page cache is not");
        assert!(!covers(lives, Lsn::new(4096)));
        // The next life begins with a word of its own.
        let next = BootCertificate::begin(dir.path(), STORE, life(6)).unwrap();
        assert!(!covers((life(5), life(5)), end));
        next.withdraw();
        assert!(!covers((life(6), life(6)), end));
        let mut lost = BootCertificate::begin(dir.path(), STORE, life(7)).unwrap();
        lost.vouch(end).unwrap();
        std::fs::remove_dir_all(dir.path()).unwrap();
        assert!(!covers((life(7), life(7)), end), "the tmpfs went with its container");
    }

    #[test]
    fn a_word_whose_file_was_removed_is_given_anew_with_the_next() {
        let Some(dir) = in_memory() else { return };
        let (lives, end) = ((life(5), life(5)), Lsn::new(8192));
        let covers = |end| BootCertificate::covers(dir.path(), STORE, lives, end);
        let mut ours = BootCertificate::begin(dir.path(), STORE, life(5)).unwrap();
        ours.vouch(Lsn::new(4096)).unwrap();
        std::fs::remove_file(path(dir.path(), STORE)).unwrap();
        assert!(!covers(end));
        ours.vouch(end).unwrap();
        assert!(covers(end));
        assert!(!covers(Lsn::new(4096)), "it says what was written last");
        ours.vouch(Lsn::new(12288)).unwrap();
        assert!(!covers(end), "and goes on being the file that is found");
        std::fs::remove_dir_all(dir.path()).unwrap();
        assert!(ours.vouch(end).is_err(), "nobody may be told");
    }

    #[test]
    fn a_directory_that_outlives_the_machine_is_refused() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        if is_in_memory(dir.path()).unwrap() {
            return;
        }
        let refused = BootCertificate::begin(dir.path(), STORE, life(1));
        assert!(matches!(refused, Err(CertificateError::NotInMemory { .. })));
        std::fs::write(path(dir.path(), STORE), word().encode()).unwrap();
        assert!(!BootCertificate::covers(dir.path(), STORE, (life(5), life(5)), Lsn::new(8192)));
    }
}
