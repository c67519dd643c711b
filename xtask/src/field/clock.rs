//! Check `clock`: the wall clock of one node jumps a year ahead and back; keys still expire.
//!
//! The jump is made by a small library that is loaded into that one node, and reads how far off the
//! wall clock is from a file. The monotonic clock is left alone, as it is by whoever sets a clock.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::scene::{ask, data, outcome, until, wait_writes};
use crate::checks::{Outcome, Setting};
use crate::job::{Job, available};
use crate::nodes::cluster::{Cluster, Layout};
use crate::nodes::resp::Reply;

const GROUPS: u32 = 6;
const KEYS: u32 = 24;
const SERVE_LIMIT: Duration = Duration::from_secs(60);
const BUILD_LIMIT: Duration = Duration::from_secs(60);
const YEAR_SECONDS: i64 = 365 * 24 * 60 * 60;
const TTL_SECONDS: u32 = 2;
/// A log whose time has jumped ahead goes on at half rate until the clocks have caught up; some
/// more for elections and a busy machine.
const EXPIRY_LIMIT: Duration = Duration::from_secs(10);

const SHIM: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *time) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, time);
    if (result == 0 && clock == CLOCK_REALTIME) {
        const char *path = getenv("FIELD_CLOCK");
        char text[32] = {0};
        int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
        if (file >= 0) {
            if (read(file, text, sizeof text - 1) > 0) time->tv_sec += atoll(text);
            close(file);
        }
    }
    return result;
}
"#;

pub(super) fn run(setting: &Setting) -> Result<Vec<Outcome>> {
    if !available("cc", &["--version"]) {
        return Ok(vec![Outcome::skipped("clocks that jump", "apt-get install gcc")]);
    }
    let shim = setting.directory.join("clock.so");
    let source = setting.directory.join("clock.c");
    fs::write(&source, SHIM)?;
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&shim).arg(&source).arg("-ldl");
    let built = Job::new(cc).limit(BUILD_LIMIT).merged()?;
    ensure!(built.success(), "{}", built.evidence());
    Ok([("a year ahead and back", YEAR_SECONDS), ("a year behind and back", -YEAR_SECONDS)]
        .into_iter()
        .enumerate()
        .map(|(number, (what, off))| {
            outcome(what, || jump(setting, &format!("{number}"), &shim, off))
        })
        .collect())
}

fn jump(setting: &Setting, name: &str, shim: &Path, off: i64) -> Result<String> {
    let directory = setting.directory.join(name);
    fs::create_dir_all(&directory)?;
    let data: Vec<_> = data(setting, 3).iter().map(|data| data.join(name)).collect();
    let layout = Layout::new(&setting.raftd, &directory, &data, GROUPS);
    let clock = directory.join("offset");
    fs::write(&clock, "0")?;
    let mut cluster = Cluster::prepare(&layout)?;
    for index in 0..3 {
        start(&mut cluster, index, shim, &clock)?;
    }
    for index in 0..3 {
        wait_writes(&mut cluster, index, SERVE_LIMIT)?;
    }
    let before = expiry(&cluster, "before")?;
    fs::write(&clock, off.to_string())?;
    // Writes go on while the clock is wrong, so that every log hears of it.
    let wrong = Instant::now();
    let mut n = 0;
    while wrong.elapsed() < Duration::from_secs(2) {
        n += 1;
        let key = format!("{{{}}}w{n}", n % KEYS);
        ask(cluster.ports(1).proxy, &[b"SET", key.as_bytes(), b"1", b"EX", b"100"])?;
        thread::sleep(Duration::from_millis(5));
    }
    let during = expiry(&cluster, "during")?;
    fs::write(&clock, "0")?;
    let after = expiry(&cluster, "after")?;
    cluster.kill_all();
    for index in 0..3 {
        start(&mut cluster, index, shim, &clock)?;
    }
    for index in 0..3 {
        wait_writes(&mut cluster, index, SERVE_LIMIT)?;
    }
    let again = expiry(&cluster, "again")?;
    Ok(format!(
        "a TTL of {TTL_SECONDS} s took {before:.1} s before, {during:.1} during, {after:.1} after, \
         {again:.1} after a restart"
    ))
}

/// The first node, and only it, has the clock that jumps; it leads some of the groups.
fn start(cluster: &mut Cluster, index: usize, shim: &Path, clock: &Path) -> Result<()> {
    cluster.start_as(index, &[], |command| {
        if index == 0 {
            command.env("LD_PRELOAD", shim).env("FIELD_CLOCK", clock);
        }
        Ok(())
    })
}

/// Sets keys with a TTL in every group; how long until the last is gone, which is not too early.
fn expiry(cluster: &Cluster, name: &str) -> Result<f64> {
    let proxy = cluster.ports(1).proxy;
    let keys: Vec<String> = (0..KEYS).map(|key| format!("{{{key}}}{name}")).collect();
    let ttl = TTL_SECONDS.to_string();
    for key in &keys {
        until("a key is not taken", SERVE_LIMIT, || {
            let reply = ask(proxy, &[b"SET", key.as_bytes(), b"v", b"EX", ttl.as_bytes()])?;
            Ok((reply == Reply::Ok).then_some(()))
        })?;
    }
    let begun = Instant::now();
    let there = |key: &String| -> Result<bool> {
        until("a key cannot be read", SERVE_LIMIT, || {
            Ok(match ask(proxy, &[b"GET", key.as_bytes()])? {
                Reply::Null => Some(false),
                Reply::Bulk(_) => Some(true),
                Reply::Ok | Reply::Other(_) => None,
            })
        })
    };
    thread::sleep(Duration::from_secs(1));
    for key in &keys {
        ensure!(there(key)?, "{key} is gone after {:?}", begun.elapsed());
    }
    for key in &keys {
        until(&format!("{key} does not expire ({name})"), EXPIRY_LIMIT, || {
            Ok((!there(key)?).then_some(()))
        })?;
    }
    Ok(begun.elapsed().as_secs_f64())
}
