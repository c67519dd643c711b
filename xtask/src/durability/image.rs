//! A file system on a device with a volatile cache, in a file, whose power can be cut.
//!
//! Two file systems, one inside the other: the inner one, where data lie, is an image that is a
//! file of the outer one. The page cache of the outer one plays the cache of the device: what the
//! inner one writes, directly or not, stays there until the inner one asks for a flush, which the
//! loop device turns into a sync. The cut is the shutdown ioctl of ext4 (as its own tests use it)
//! on the outer, then on the inner one: whatever was not flushed is gone, journals included.
//!
//! It does not show that a real device keeps what it said was flushed.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::job::{Finished, Job};

/// The device, as large as it can get: it is sparse.
const OUTER_BYTES: u64 = 3 << 30;
/// The file system on it, likewise.
const INNER_BYTES: u64 = 2 << 30;
const LIMIT: Duration = Duration::from_secs(60);
/// A file system is busy for a moment after its users were killed.
const UNMOUNT_TRIES: u32 = 50;
const PAUSE: Duration = Duration::from_millis(20);
/// Where the file systems are mounted, next to the outer image. The inner one goes first when
/// they are unmounted.
const MOUNT_SUFFIXES: [&str; 2] = ["mounted", "mounted-device"];

/// Both file systems, mounted. Unmounted when dropped.
pub(super) struct Image {
    /// The file that holds everything.
    file: PathBuf,
    outer: PathBuf,
    inner: PathBuf,
}

impl Image {
    /// Makes and mounts a new one.
    pub(super) fn make(directory: &Path, name: &str) -> Result<Self> {
        let [inner, outer] =
            MOUNT_SUFFIXES.map(|suffix| directory.join(format!("{name}.{suffix}")));
        let image = Self { file: directory.join(format!("{name}.ext4")), outer, inner };
        fs::create_dir_all(&image.outer)?;
        fs::create_dir_all(&image.inner)?;
        make_file_system(&image.file, OUTER_BYTES)?;
        mount(&image.file, &image.outer)?;
        make_file_system(&image.device(), INNER_BYTES)?;
        File::open(image.device())?.sync_all()?;
        mount(&image.device(), &image.inner)?;
        Ok(image)
    }

    /// Where data lie.
    pub(super) fn path(&self) -> &Path {
        &self.inner
    }

    /// Where a file lies as bytes lie in the cache of the device.
    pub(super) fn device_cache(&self) -> &Path {
        &self.outer
    }

    /// Cuts the power: nothing becomes durable from here on.
    pub(super) fn cut_power(&self) -> Result<()> {
        [&self.outer, &self.inner].into_iter().try_for_each(|mounted| {
            shutdown(mounted).with_context(|| format!("cannot shut down {}", mounted.display()))
        })
    }

    /// What a reboot does: everything in memory is gone, journals are replayed. Nobody may have a
    /// file open.
    pub(super) fn power_up(&self) -> Result<()> {
        unmount(&self.inner)?;
        unmount(&self.outer)?;
        mount(&self.file, &self.outer)?;
        mount(&self.device(), &self.inner)
    }

    /// The file that plays the device.
    fn device(&self) -> PathBuf {
        self.outer.join("device.ext4")
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        // Also after a failure half-way, when only some of it is mounted.
        for mounted in [&self.inner, &self.outer] {
            let _ = unmount(mounted);
        }
        if fs::remove_dir(&self.inner).and_then(|()| fs::remove_dir(&self.outer)).is_ok() {
            let _ = fs::remove_file(&self.file);
        }
    }
}

fn make_file_system(file: &Path, bytes: u64) -> Result<()> {
    File::create(file)?.set_len(bytes)?;
    let mut mkfs = Command::new("mkfs.ext4");
    mkfs.args(["-q", "-F"]).arg(file);
    must(mkfs).context("mkfs.ext4").map(drop)
}

fn mount(file: &Path, at: &Path) -> Result<()> {
    let mut mount = Command::new("mount");
    mount.args(["-o", "loop"]).arg(file).arg(at);
    must(mount).context("mount").map(drop)
}

/// Why images cannot be used here, if so.
pub(super) fn obstacle(directory: &Path) -> Option<String> {
    let tried = Image::make(directory, "probe").and_then(|image| image.cut_power());
    tried.err().map(|error| {
        format!(
            "needs Linux, root, loop devices and apt install e2fsprogs mount ({})",
            one_line(&error)
        )
    })
}

/// Unmounts what an interrupted run has left mounted below `directory`.
pub(super) fn release_leftovers(directory: &Path) {
    for suffix in MOUNT_SUFFIXES {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            if entry.path().extension().is_some_and(|found| found == suffix) {
                // Mostly it is not mounted.
                let _ = umount(&entry.path());
            }
        }
    }
}

fn one_line(error: &anyhow::Error) -> String {
    format!("{error:#}").split_whitespace().collect::<Vec<_>>().join(" ")
}

fn unmount(mount_point: &Path) -> Result<()> {
    for _ in 1..UNMOUNT_TRIES {
        let finished = umount(mount_point)?;
        if finished.success() || finished.evidence().contains("not mounted") {
            return Ok(());
        }
        thread::sleep(PAUSE);
    }
    let finished = umount(mount_point)?;
    ensure!(finished.success(), "cannot unmount: {}", finished.evidence());
    Ok(())
}

fn umount(mount_point: &Path) -> Result<Finished> {
    let mut umount = Command::new("umount");
    umount.arg(mount_point);
    Job::new(umount).limit(LIMIT).merged()
}

fn must(command: Command) -> Result<Finished> {
    let finished = Job::new(command).limit(LIMIT).merged()?;
    ensure!(finished.success(), "{}", finished.evidence());
    Ok(finished)
}

#[cfg(target_os = "linux")]
fn shutdown(mount_point: &Path) -> io::Result<()> {
    use rustix::ioctl::{Opcode, Setter, ioctl, opcode};

    /// `EXT4_IOC_SHUTDOWN`, the same number as that of XFS and F2FS.
    const SHUTDOWN: Opcode = opcode::read::<u32>(b'X', 125);
    /// `EXT4_GOING_FLAGS_NOLOGFLUSH`: not even the journal is written.
    const NO_LOG_FLUSH: u32 = 2;

    let directory = File::open(mount_point)?;
    #[allow(unsafe_code, reason = "no crate offers this ioctl as a safe function")]
    // SAFETY: the ioctl reads one `u32` through the pointer `Setter` passes it and writes nothing;
    // the `u32` lives until the call has returned.
    let done = unsafe { ioctl(&directory, Setter::<SHUTDOWN, u32>::new(NO_LOG_FLUSH)) };
    Ok(done?)
}

#[cfg(not(target_os = "linux"))]
fn shutdown(_mount_point: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
