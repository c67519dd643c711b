//! Which group holds a key: Redis Cluster's hash slots, cut into one range per group.
//!
//! A slot is the CRC16 (XMODEM) of the key, or of the part of it in `{braces}`, modulo 16,384.
//! Group ids run from 1 to the number of groups, in slot order.
//!
//! Source: Redis Cluster specification, "Key distribution model" and "Hash tags".

use core::ops::RangeInclusive;

use bytes::Bytes;
use raft_core::GroupId;

/// The number of hash slots, as Redis Cluster has it.
pub const SLOT_COUNT: u16 = 16_384;

/// The hash slot of a key, `0..16384`.
pub fn key_slot(key: &[u8]) -> u16 {
    crc16(hash_tag(key)) % SLOT_COUNT
}

/// The division of all slots into one range per group, as even as it gets.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SlotMap {
    /// `1..=SLOT_COUNT`.
    groups: u16,
}

/// There are no such slots.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SlotMapError {
    /// A group without a slot would never hold a key.
    #[error("{groups} groups asked for, but from 1 to 16384 groups can share the hash slots")]
    GroupCount {
        /// What was asked for.
        groups: u32,
    },
}

impl SlotMap {
    /// Divides the slots over so many groups.
    ///
    /// # Errors
    /// [`SlotMapError::GroupCount`] unless `groups` is from 1 to 16,384.
    pub fn new(groups: u32) -> Result<Self, SlotMapError> {
        match u16::try_from(groups) {
            Ok(groups @ 1..=SLOT_COUNT) => Ok(Self { groups }),
            Ok(_) | Err(_) => Err(SlotMapError::GroupCount { groups }),
        }
    }

    /// How many groups there are; their ids are `1..=group_count()`.
    pub fn group_count(self) -> u32 {
        u32::from(self.groups)
    }

    /// All groups, in the order of their slots.
    pub fn groups(self) -> impl Iterator<Item = GroupId> {
        (1..=self.group_count()).map(GroupId::new)
    }

    /// The group that holds a slot (taken modulo 16,384).
    pub fn group_of(self, slot: u16) -> GroupId {
        let slot = u32::from(slot % SLOT_COUNT);
        let index = ((slot + 1) * self.group_count() - 1) / u32::from(SLOT_COUNT);
        GroupId::new(index + 1)
    }

    /// The slots of a group, or `None` for an id that is not of this map.
    pub fn range_of(self, group: GroupId) -> Option<RangeInclusive<u16>> {
        let index = group.get().checked_sub(1).filter(|&index| index < self.group_count())?;
        let start = index * u32::from(SLOT_COUNT) / self.group_count();
        let end = (index + 1) * u32::from(SLOT_COUNT) / self.group_count();
        // Both are at most 16,384, and no range is empty because groups <= slots.
        Some(start as u16..=(end - 1) as u16)
    }

    /// The label under which a group's specification carries its slots: `slots 0-5460`.
    pub fn label_of(self, group: GroupId) -> Option<Bytes> {
        let range = self.range_of(group)?;
        Some(Bytes::from(format!("slots {}-{}", range.start(), range.end())))
    }
}

/// Reads back what [`SlotMap::label_of`] wrote, for displays.
pub fn parse_label(label: &[u8]) -> Option<RangeInclusive<u16>> {
    let text = core::str::from_utf8(label).ok()?.strip_prefix("slots ")?;
    let (start, end) = text.split_once('-')?;
    let (start, end) = (start.parse().ok()?, end.parse().ok()?);
    (start <= end && end < SLOT_COUNT).then_some(start..=end)
}

/// The part of the key that is hashed: between the first `{` and the next `}`, if not empty.
fn hash_tag(key: &[u8]) -> &[u8] {
    let Some(open) = key.iter().position(|&byte| byte == b'{') else {
        return key;
    };
    let inside = &key[open + 1..];
    match inside.iter().position(|&byte| byte == b'}') {
        None | Some(0) => key,
        Some(close) => &inside[..close],
    }
}

fn crc16(bytes: &[u8]) -> u16 {
    bytes
        .iter()
        .fold(0, |crc, &byte| (crc << 8) ^ CRC16_TABLE[usize::from((crc >> 8) as u8 ^ byte)])
}

const CRC16_TABLE: [u16; 256] = {
    let mut table = [0u16; 256];
    let mut index = 0;
    while index < 256 {
        let mut crc = (index as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 != 0 { (crc << 1) ^ 0x1021 } else { crc << 1 };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_redis_cluster() {
        // The check value of the specification, and slots every cluster user has seen.
        assert_eq!(crc16(b"123456789"), 0x31c3);
        let table: &[(&[u8], u16)] =
            &[(b"123456789", 12_739), (b"foo", 12_182), (b"bar", 5_061), (b"hello", 866), (b"", 0)];
        for &(key, slot) in table {
            assert_eq!(key_slot(key), slot, "{key:?}");
        }
    }

    #[test]
    fn only_a_nonempty_tag_in_the_first_braces_is_hashed() {
        assert_eq!(key_slot(b"{user1000}.following"), key_slot(b"user1000"));
        assert_eq!(key_slot(b"x{user1000}y{other}"), key_slot(b"user1000"));
        assert_eq!(key_slot(b"foo{{bar}}zap"), key_slot(b"{bar"));
        assert_eq!(key_slot(b"foo{}{bar}"), crc16(b"foo{}{bar}") % SLOT_COUNT);
        assert_eq!(key_slot(b"foo{bar"), crc16(b"foo{bar") % SLOT_COUNT);
    }

    #[test]
    fn every_slot_belongs_to_the_group_whose_range_holds_it() {
        for groups in [1, 2, 3, 7, 64, 1000, 1024, 10_000, 16_383, 16_384] {
            let map = SlotMap::new(groups).expect("a legal number of groups");
            let mut next = 0u32;
            for group in map.groups() {
                let range = map.range_of(group).expect("a group of the map");
                assert_eq!(u32::from(*range.start()), next);
                for slot in range.clone() {
                    assert_eq!(map.group_of(slot), group);
                }
                next = u32::from(*range.end()) + 1;
                let even = u32::from(SLOT_COUNT) / groups;
                assert!((even..=even + 1).contains(&(range.len() as u32)));
                let label = map.label_of(group).expect("a group of the map");
                assert_eq!(parse_label(&label), Some(range));
            }
            assert_eq!(next, u32::from(SLOT_COUNT));
            assert_eq!(map.range_of(GroupId::new(0)), None);
            assert_eq!(map.range_of(GroupId::new(groups + 1)), None);
        }
    }

    #[test]
    fn a_number_of_groups_without_slots_is_refused() {
        for groups in [0, 16_385, u32::MAX] {
            assert_eq!(SlotMap::new(groups), Err(SlotMapError::GroupCount { groups }));
        }
    }
}
