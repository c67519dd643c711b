//! The known name a mistyped one most likely meant.

/// The nearest of `names` by edit distance, unless even that one is far off: a suggestion that
/// resembles nothing would only mislead.
pub(super) fn nearest<'a>(
    wrong: &str,
    names: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    names
        .into_iter()
        .map(|name| (distance(wrong, name), name))
        .min()
        .filter(|(distance, name)| *distance <= name.len().max(wrong.len()).div_ceil(3))
        .map(|(_, name)| name)
}

/// Levenshtein's distance over characters.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, in_a) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, in_b) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(in_a != *in_b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_the_name_and_a_stranger_finds_none() {
        let names = ["heartbeat_interval_ms", "election_timeout_min_ms", "count"];
        assert_eq!(nearest("hartbeat_interval_ms", names), Some("heartbeat_interval_ms"));
        assert_eq!(nearest("cuont", names), Some("count"));
        assert_eq!(nearest("compression", names), None);
    }
}
