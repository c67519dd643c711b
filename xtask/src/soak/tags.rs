//! Hash tags, one per group: a key with the tag of a group in braces lies in that group.
//!
//! Source: Redis Cluster specification, "Key distribution model" and "Hash tags".

use std::ops::RangeInclusive;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

const SLOTS: u16 = 16_384;
/// Tags that are tried for each group on average, before it is given up.
const TRIES: u32 = 200;

/// A tag per group, in the order of the groups in a node's status.
pub(super) fn of_groups(status: &Value) -> Result<Vec<String>> {
    let groups = status["groups"].as_array().context("a status without groups")?;
    let ranges: Vec<RangeInclusive<u16>> = groups
        .iter()
        .map(|group| {
            let label = group["label"].as_str().unwrap_or_default();
            slots(label).with_context(|| format!("a label without slots: {label}"))
        })
        .collect::<Result<_>>()?;
    let mut tags = vec![None; ranges.len()];
    let tries = u32::try_from(ranges.len())? * TRIES;
    for tag in (0..tries).map(|n| format!("t{n}")) {
        let slot = slot(tag.as_bytes());
        if let Some(at) = ranges.iter().position(|range| range.contains(&slot)) {
            tags[at].get_or_insert(tag);
        }
    }
    ensure!(tags.iter().all(Option::is_some), "a group without a tag after {tries} tries");
    Ok(tags.into_iter().flatten().collect())
}

/// Reads `slots 0-54`.
fn slots(label: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = label.strip_prefix("slots ")?.split_once('-')?;
    Some(first.parse().ok()?..=last.parse().ok()?)
}

/// The slot of a tag: CRC16 (XMODEM) modulo the number of slots.
fn slot(tag: &[u8]) -> u16 {
    let crc = tag.iter().fold(0_u16, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
        })
    });
    crc % SLOTS
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{of_groups, slot};

    #[test]
    fn slots_are_those_of_redis_cluster() {
        // The check value of the specification, and what `CLUSTER KEYSLOT foo` answers.
        assert_eq!(slot(b"123456789"), 0x31C3);
        assert_eq!(slot(b"foo"), 12_182);
    }

    #[test]
    fn every_group_gets_a_tag_that_lies_in_it() {
        let groups: Vec<_> = (0..64_u32)
            .map(|n| json!({ "label": format!("slots {}-{}", n * 256, n * 256 + 255) }))
            .collect();
        let tags = of_groups(&json!({ "groups": groups })).unwrap();
        let groups: Vec<u16> = tags.iter().map(|tag| slot(tag.as_bytes()) / 256).collect();
        assert_eq!(groups, (0..64).collect::<Vec<_>>());
        assert!(of_groups(&json!({ "groups": [{ "label": "" }] })).is_err());
    }
}
