//! Making a data directory and opening the log in it.

use std::collections::BTreeMap;
#[cfg(unix)]
use std::path::Path;
use std::sync::Arc;

use raft_core::{GroupId, GroupIncarnation, Incarnation, NodeId, Promise, Tombstone};

use crate::append::cursor::Cursor;
use crate::append::spares::{Preparation, Spares};
use crate::append::tails::Tails;
use crate::append::write::{GroupWrite, Large};
use crate::append::writer::{LogWriter, WriterParts};
use crate::disk::Disk;
#[cfg(unix)]
use crate::disk::file_disk::FileDisk;
use crate::error::{InitError, OpenError};
use crate::format::frame::FRAME_HEADER_BYTES;
use crate::format::identity::{self, Identity, Life, LifeFile, StoreId};
use crate::format::record::RECORD_HEADER_BYTES;
use crate::format::segment::{BLOCK_BYTES, file_name};
use crate::read::index::Shared;
use crate::read::location::SEGMENT_BYTES_MAX;
use crate::read::reader::LogReader;
use crate::reclaim::tender::Tender;
use crate::recover::recovery::{OnDamage, RecoveredGroup, RecoveryReport, doubt_no_more, recover};

/// Settings of a log. They may differ from one open to the next.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LogOptions {
    /// The length of a segment: a multiple of 4096 from 16 KiB to 64 MiB. Default 64 MiB, which
    /// at full speed is one change of segment every few hundred milliseconds. An entry that does
    /// not fit gets a segment of its own, as long as it needs.
    pub segment_bytes: u64,
    /// The largest frame, so the largest single write, unless one entry is larger. A batch beyond
    /// it becomes several frames. Limited to what fits into a segment. Default 4 MiB: beyond
    /// that a larger write gains no throughput and only delays the sync behind it.
    pub frame_bytes_max: u64,
    /// Which entries are better written in pieces. Default: those of 256 KiB and more, in pieces of
    /// 1 MiB; a piece is limited to what fits into a frame.
    pub large: Large,
    /// Who prepares segments and makes checkpoints. Default: helper threads.
    pub preparation: Preparation,
    /// A checkpoint is made after so many bytes of log, and no earlier than when eight times as much
    /// was written as the last one took. An open reads what follows the newest checkpoint, and space
    /// comes back two checkpoints after nothing is alive in it. At least a segment. Default: 128 MiB.
    pub checkpoint_bytes: u64,
    /// What an open does where durable bytes are lost. Default: it refuses.
    pub on_damage: OnDamage,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            segment_bytes: SEGMENT_BYTES_MAX,
            frame_bytes_max: 4 << 20,
            large: Large { entry_bytes_min: 256 << 10, piece_bytes_max: 1 << 20 },
            preparation: Preparation::Background,
            checkpoint_bytes: 2 * SEGMENT_BYTES_MAX,
            on_damage: OnDamage::Refuse,
        }
    }
}

/// How a data directory is made.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct InitOptions {
    /// The id of the store. Default: a random one from the operating system. A simulator gives
    /// its own, so that a seed repeats.
    pub store: Option<StoreId>,
}

/// Whom the caller believes the directory belongs to; `None` asks for nothing.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Expected {
    /// The name of the cluster.
    pub cluster: Option<String>,
    /// The node.
    pub node: Option<NodeId>,
}

/// An open log and everything that was found in it.
pub struct Opened<D: Disk> {
    /// Who the directory belongs to.
    pub identity: Identity,
    /// The life of the node that begins now: one more than the last, durable already.
    pub incarnation: Incarnation,
    /// All groups that were created and not destroyed.
    pub groups: BTreeMap<GroupId, RecoveredGroup>,
    /// What is remembered of replicas that were destroyed, the newest of each group, with the life
    /// of the group it belonged to.
    pub tombstones: BTreeMap<GroupId, (GroupIncarnation, Tombstone)>,
    /// Continues the log. There is only one.
    pub writer: LogWriter<D>,
    /// Reads the log. Clone it at will.
    pub reader: LogReader,
    /// What recovery found and did.
    pub report: RecoveryReport,
}

/// Makes the data directory of a node: `dir` must be empty or missing.
///
/// Everything is durable on return. Repeating an `init` that was interrupted is fine.
///
/// # Errors
/// [`InitError::AlreadyInitialised`] and [`InitError::NotEmpty`] leave the directory as it was.
#[cfg(unix)]
pub fn init(
    dir: &Path,
    cluster: &str,
    node: NodeId,
    options: &InitOptions,
) -> Result<Identity, InitError> {
    let io = |source| InitError::Io { dir: dir.display().to_string(), source };
    init_on(&FileDisk::create(dir).map_err(io)?, cluster, node, options)
}

/// [`init`] on any disk.
///
/// # Errors
/// As [`init`].
pub fn init_on<D: Disk>(
    disk: &D,
    cluster: &str,
    node: NodeId,
    options: &InitOptions,
) -> Result<Identity, InitError> {
    let io = |source| InitError::Io { dir: disk.describe(), source };
    let _lock =
        disk.try_lock().map_err(io)?.ok_or_else(|| InitError::Locked { dir: disk.describe() })?;
    let store = match options.store {
        Some(store) => store,
        None => StoreId::random()?,
    };
    let identity = Identity { cluster: cluster.to_owned(), node, store };
    identity::write_new(disk, &identity)?;
    Ok(identity)
}

/// The way into a log.
pub struct Log;

impl Log {
    /// Opens the log of the data directory `dir`, which [`init`] has made.
    ///
    /// On return the directory is locked, the new incarnation is durable, a torn tail is cut, and the
    /// log can be continued. A full disk is no obstacle where blocks are overwritten in place: of a log that is
    /// sound nothing that an open writes needs room. Where it does (file systems that copy on write, or to go
    /// on behind damage) a disk without it refuses the open; it never waits.
    /// Cost: reads the newest checkpoint, and once what was written since; a few descriptors, however
    /// long the log is.
    ///
    /// # Errors
    /// [`OpenError::NotInitialised`], [`OpenError::ForeignCluster`] and
    /// [`OpenError::ForeignNode`] are for the operator; [`OpenError::Corrupt`] means that durable
    /// bytes were lost, and nothing was changed.
    #[cfg(unix)]
    pub fn open(
        dir: &Path,
        expected: &Expected,
        options: &LogOptions,
    ) -> Result<Opened<FileDisk>, OpenError> {
        let name = dir.display().to_string();
        match FileDisk::open(dir) {
            Ok(disk) => Self::open_on(disk, expected, options),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Err(OpenError::NotInitialised { dir: name })
            }
            Err(source) => Err(OpenError::Io { dir: name, source }),
        }
    }

    /// [`Log::open`] on any disk.
    ///
    /// # Errors
    /// As [`Log::open`].
    pub fn open_on<D: Disk>(
        disk: D,
        expected: &Expected,
        options: &LogOptions,
    ) -> Result<Opened<D>, OpenError> {
        let dir = || disk.describe();
        let io = |source| OpenError::Io { dir: disk.describe(), source };
        let segment_bytes = options.segment_bytes;
        let allowed = (SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&segment_bytes)
            && segment_bytes.is_multiple_of(BLOCK_BYTES);
        if !allowed {
            return Err(OpenError::SegmentBytes { segment_bytes });
        }
        // Asked before the lock, because taking that leaves a file behind.
        if identity::read(&disk)?.is_none() {
            return Err(OpenError::NotInitialised { dir: dir() });
        }
        let lock = disk.try_lock().map_err(io)?.ok_or_else(|| OpenError::Locked { dir: dir() })?;
        let (identity, life) =
            identity::read(&disk)?.ok_or_else(|| OpenError::NotInitialised { dir: dir() })?;
        check_expected(&dir(), &identity, expected)?;

        let recovered =
            recover(&disk, &identity, life, segment_bytes, options.on_damage, options.preparation)?;
        let incarnation = life.next().ok_or_else(|| OpenError::IdentityDamaged {
            dir: dir(),
            name: identity::INCARNATION_NAME,
        })?;
        // The new life begins before the log is touched: whatever bears its number was written
        // after everybody could know it.
        let durable = recovered.report.end_lsn;
        let life = LifeFile::open(&disk).map_err(io)?;
        life.store(Life { incarnation, durable }).map_err(io)?;

        let preparation = options.preparation;
        // What is written from one checkpoint to the next, and two to begin with.
        let kept_max = (options.checkpoint_bytes / segment_bytes) as usize + 2;
        let spares = Spares::new(
            disk.clone(),
            segment_bytes,
            recovered.next_slot,
            recovered.spares.into(),
            preparation,
            (recovered.cursor.map_or(0, |cursor| cursor.room()), kept_max),
        )
        .map_err(io)?;
        let begins = recovered.cursor.is_none();
        let cursor =
            Cursor { incarnation: incarnation.get(), ..recovered.cursor.unwrap_or_default() };
        let file = match recovered.cursor {
            Some(cursor) => Some(disk.open(&file_name(cursor.slot)).map_err(io)?),
            None => None,
        };
        let tails = Tails::from_index(&recovered.index);
        let shared = Arc::new(Shared::new(recovered.index, recovered.files, cursor.synced));
        let tender = Tender::new(
            disk.clone(),
            Arc::clone(&shared),
            identity.store,
            (segment_bytes, options.checkpoint_bytes),
            (recovered.kept, incarnation.get(), recovered.report.creations_lost),
            preparation,
        )
        .map_err(io)?;
        let frame_bytes_max =
            options.frame_bytes_max.clamp(BLOCK_BYTES, segment_bytes - BLOCK_BYTES);
        debug_assert!(frame_bytes_max > FRAME_HEADER_BYTES as u64);
        let store = identity.store;
        let mut writer = LogWriter::new(WriterParts {
            spares,
            shared,
            file,
            cursor,
            tails,
            frame_bytes_max,
            large: Large {
                piece_bytes_max: options
                    .large
                    .piece_bytes_max
                    .clamp(1, frame_bytes_max - PIECE_COST),
                ..options.large
            },
            kept_bytes: (segment_bytes / KEPT_SHARE).min(KEPT_BYTES_MAX) / BLOCK_BYTES
                * BLOCK_BYTES,
            store,
            life,
            lock,
            tender,
        });
        if !recovered.report.damage.is_empty() {
            let lost = recovered.groups.here.iter();
            let lost = lost.filter(|(_, group)| group.promise.promise != Promise::Kept);
            let promises: Vec<_> = lost
                .map(|(group, recovered)| GroupWrite {
                    promise: Some(recovered.promise),
                    ..GroupWrite::new(*group)
                })
                .collect();
            writer.go_on_behind_damage(&promises).map_err(io)?;
        }
        if options.on_damage == OnDamage::Repair {
            doubt_no_more(&disk).map_err(io)?;
        }
        if begins {
            // Without room for it there is nothing to be read either: the log begins with the
            // first append that finds some.
            writer.begin().map_err(io)?;
        }
        Ok(Opened {
            identity,
            incarnation,
            groups: recovered.groups.here,
            tombstones: recovered.groups.tombstones,
            reader: writer.reader(),
            report: recovered.report,
            writer,
        })
    }
}

fn check_expected(dir: &str, identity: &Identity, expected: &Expected) -> Result<(), OpenError> {
    if let Some(cluster) = &expected.cluster
        && *cluster != identity.cluster
    {
        return Err(OpenError::ForeignCluster {
            dir: dir.to_owned(),
            expected: cluster.clone(),
            found: identity.cluster.clone(),
        });
    }
    if let Some(node) = expected.node
        && node != identity.node
    {
        let (expected, found) = (node, identity.node);
        return Err(OpenError::ForeignNode { dir: dir.to_owned(), expected, found });
    }
    Ok(())
}

/// What a log without room for another segment keeps for operations without entries: this part of
/// a segment, in whole blocks, and no more than 64 batches of them need.
const KEPT_SHARE: u64 = 8;
const KEPT_BYTES_MAX: u64 = 256 << 10;
const SEGMENT_BYTES_MIN: u64 = 16 << 10;
/// What a piece of a large entry takes beside its bytes, in a frame of its own.
const PIECE_COST: u64 = (FRAME_HEADER_BYTES + RECORD_HEADER_BYTES + 8) as u64;
