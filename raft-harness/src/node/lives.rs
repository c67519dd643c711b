//! The lives of this data directory: each start draws bits, and tells its peers the bits of the
//! starts before. A copy of the directory, or one put back to an earlier state, tells other bits
//! for a number its peers have seen, however often it is started afterwards.
//!
//! The file holds its text twice and is overwritten in place, so a start on a full disk can note
//! its life; a crash or damage leaves one of the two.

use std::fmt::Write;
use std::io;

use raft_core::Incarnation;
use raft_storage::{Disk, read_twins, write_twins};
use raft_transport::{PAST_LIVES_MAX, first_bits};

use super::checked_text::{self, invalid};

const FILE: &str = "lives";

/// Notes a life that begins, durably and before any peer can hear of it; returns the first bits of
/// the lives before, the newest first. One that was never noted was never told to anybody, and
/// stands there as zero.
pub(crate) fn begin_life<D: Disk>(
    disk: &D,
    incarnation: Incarnation,
    life: u128,
) -> io::Result<Vec<u32>> {
    let mut lives = match read_twins(disk, FILE)? {
        None => Vec::new(),
        Some(copies) => {
            let path = checked_text::path(disk, FILE);
            let copies = copies.into_iter().map(|copy| parse(&path, copy));
            let newest = |lives: &Vec<(u64, u32)>| lives.last().map(|(number, _)| *number);
            let (sound, damaged): (Vec<_>, Vec<_>) = copies.partition(Result::is_ok);
            let damage = || damaged.into_iter().find_map(Result::err);
            let sound = sound.into_iter().flatten().max_by_key(newest);
            sound
                .ok_or_else(|| damage().unwrap_or_else(|| invalid(&path, "its length is wrong")))?
        }
    };
    let now = incarnation.get();
    lives.retain(|(number, _)| *number < now);
    let first = lives.first().map_or(now, |(number, _)| *number);
    let bits_of = |number| lives.iter().find(|(n, _)| *n == number).map_or(0, |(_, bits)| *bits);
    let past: Vec<u32> = (first..now).rev().take(PAST_LIVES_MAX).map(bits_of).collect();
    lives.push((now, first_bits(life)));
    let mut text = String::new();
    for (number, bits) in &lives[lives.len().saturating_sub(PAST_LIVES_MAX + 1)..] {
        let _ = writeln!(text, "{number} {bits:08x}");
    }
    write_twins(disk, FILE, checked_text::seal(text).as_bytes())?;
    Ok(past)
}

/// The lives that a copy of the file notes, the oldest first.
fn parse(path: &str, bytes: Vec<u8>) -> io::Result<Vec<(u64, u32)>> {
    let text = checked_text::unseal(path, bytes)?;
    let parsed = text.lines().map(|line| {
        let noted = line.split_once(' ').and_then(|(number, bits)| {
            Some((number.parse::<u64>().ok()?, u32::from_str_radix(bits, 16).ok()?))
        });
        noted.ok_or_else(|| invalid(path, &format!("cannot read {line:?}")))
    });
    parsed.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft_storage::MemDisk;

    #[test]
    fn each_life_tells_those_before_it_and_a_number_that_was_never_told_is_none() -> io::Result<()>
    {
        let disk = MemDisk::new();
        let begin = |number: u64| begin_life(&disk, Incarnation::new(number), number.into());
        assert_eq!(begin(1)?, Vec::<u32>::new());
        assert_eq!(begin(2)?, [1]);
        assert_eq!(begin(5)?, [0, 0, 2, 1]);
        for number in 6..100 {
            begin(number)?;
        }
        let past = begin(100)?;
        assert_eq!((past.len(), past[0], past[31]), (PAST_LIVES_MAX, 99, 68));
        Ok(())
    }

    #[test]
    fn a_life_is_noted_on_a_full_disk_and_whenever_the_power_goes() -> io::Result<()> {
        use raft_storage::{CrashPolicy, Fault};
        let disk = MemDisk::new();
        begin_life(&disk, Incarnation::new(1), 1)?;
        disk.limit_bytes(Some(disk.bytes()));
        assert_eq!(begin_life(&disk, Incarnation::new(2), 2)?, [1]);
        for operation in 0..4 {
            for seed in 0..20 {
                let cut = disk.crash(CrashPolicy::KeepAll);
                cut.fail_at(operation, Fault::PowerCut);
                assert!(begin_life(&cut, Incarnation::new(3), 3).is_err());
                let again = cut.crash(CrashPolicy::RandomSectors { seed });
                let past = begin_life(&again, Incarnation::new(4), 4)?;
                assert!(past == [3, 2, 1] || past == [0, 2, 1], "{operation} {seed}: {past:?}");
            }
        }
        Ok(())
    }

    #[test]
    fn a_damaged_file_is_an_error_that_names_it() -> io::Result<()> {
        let disk = MemDisk::new();
        begin_life(&disk, Incarnation::new(1), 7)?;
        let mut bytes = raft_storage::read_file(&disk, FILE, 1 << 20)?.expect("it was written");
        bytes[3] ^= 1;
        disk.overwrite(FILE, &bytes);
        assert_eq!(begin_life(&disk, Incarnation::new(2), 8)?, [7], "the other copy says so");
        let mut bytes = raft_storage::read_file(&disk, FILE, 1 << 20)?.expect("it was written");
        bytes[3] ^= 1;
        bytes[4096] ^= 1;
        disk.overwrite(FILE, &bytes);
        let error = begin_life(&disk, Incarnation::new(3), 9).unwrap_err();
        let path = checked_text::path(&disk, FILE);
        assert!(error.to_string().starts_with(&format!("{path}: ")), "{error}");
        Ok(())
    }
}
