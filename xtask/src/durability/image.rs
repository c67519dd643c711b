//! A file system of its own in a file, whose power can be cut.
//!
//! The shutdown ioctl of the file system (as the tests of ext4 and XFS use it) drops whatever is
//! not on the device, without flushing its journal: what a mount finds afterwards is what a
//! machine finds after a power cut. It does not show that the *device* keeps what a flush
//! promised; the loop device beneath keeps everything.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::job::{Finished, Job};

/// Sparse: it takes what is written to it.
const IMAGE_BYTES: u64 = 2 << 30;
const LIMIT: Duration = Duration::from_secs(60);
/// A file system is busy for a moment after its users were killed.
const UNMOUNT_TRIES: u32 = 50;
const PAUSE: Duration = Duration::from_millis(20);
/// Where images are mounted, next to them.
const MOUNT_SUFFIX: &str = "mounted";

/// A mounted image. Unmounted when dropped.
pub(super) struct Image {
    file: PathBuf,
    mount_point: PathBuf,
}

impl Image {
    /// Makes and mounts a new one.
    pub(super) fn make(directory: &Path, name: &str) -> Result<Self> {
        let file = directory.join(format!("{name}.ext4"));
        let mount_point = directory.join(format!("{name}.{MOUNT_SUFFIX}"));
        File::create(&file)?.set_len(IMAGE_BYTES)?;
        fs::create_dir_all(&mount_point)?;
        let mut mkfs = Command::new("mkfs.ext4");
        mkfs.args(["-q", "-F"]).arg(&file);
        must(mkfs).context("mkfs.ext4")?;
        let image = Self { file, mount_point };
        image.mount()?;
        Ok(image)
    }

    pub(super) fn path(&self) -> &Path {
        &self.mount_point
    }

    /// Cuts the power: nothing reaches the device from here on.
    pub(super) fn cut_power(&self) -> Result<()> {
        shutdown(&self.mount_point)
            .with_context(|| format!("cannot shut down {}", self.mount_point.display()))
    }

    /// What a reboot does: everything in memory is gone, the journal is replayed. Nobody may have
    /// a file open.
    pub(super) fn power_up(&self) -> Result<()> {
        unmount(&self.mount_point)?;
        self.mount()
    }

    fn mount(&self) -> Result<()> {
        let mut mount = Command::new("mount");
        mount.args(["-o", "loop"]).arg(&self.file).arg(&self.mount_point);
        must(mount).context("mount").map(drop)
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        if unmount(&self.mount_point).is_ok() {
            let _ = fs::remove_file(&self.file);
            let _ = fs::remove_dir(&self.mount_point);
        }
    }
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
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.path().extension().is_some_and(|suffix| suffix == MOUNT_SUFFIX) {
            // Mostly it is not mounted.
            let _ = umount(&entry.path());
        }
    }
}

fn one_line(error: &anyhow::Error) -> String {
    format!("{error:#}").split_whitespace().collect::<Vec<_>>().join(" ")
}

fn unmount(mount_point: &Path) -> Result<()> {
    for _ in 1..UNMOUNT_TRIES {
        if umount(mount_point)?.success() {
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
