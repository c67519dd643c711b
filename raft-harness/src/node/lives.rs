//! The lives of this data directory: each start draws bits, and tells its peers the bits of the
//! starts before. A copy of the directory, or one put back to an earlier state, tells other bits
//! for a number its peers have seen, however often it is started afterwards.

use std::fmt::Write;
use std::io;

use raft_core::Incarnation;
use raft_storage::Disk;
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
    let text = checked_text::read(disk, FILE)?.unwrap_or_default();
    let mut lives = Vec::new();
    for line in text.lines() {
        let noted = line.split_once(' ').and_then(|(number, bits)| {
            Some((number.parse::<u64>().ok()?, u32::from_str_radix(bits, 16).ok()?))
        });
        lives.push(noted.ok_or_else(|| invalid(FILE, &format!("cannot read {line:?}")))?);
    }
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
    checked_text::write(disk, FILE, text)?;
    Ok(past)
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
    fn a_damaged_file_is_an_error_that_names_it() -> io::Result<()> {
        let disk = MemDisk::new();
        begin_life(&disk, Incarnation::new(1), 7)?;
        let mut bytes = raft_storage::read_file(&disk, FILE, 1 << 20)?.expect("it was written");
        bytes[3] ^= 1;
        disk.overwrite(FILE, &bytes);
        let error = begin_life(&disk, Incarnation::new(2), 8).unwrap_err();
        assert!(error.to_string().starts_with("lives: "), "{error}");
        Ok(())
    }
}
