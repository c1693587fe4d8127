//! Sets of completion indexes in the form that a job's status carries: `0,2-4`. Pure.

use std::collections::BTreeSet;

/// Reads a set; what does not parse or lies at or beyond `end` is left out.
pub(super) fn parse(text: &str, end: i32) -> BTreeSet<i32> {
    let mut indexes = BTreeSet::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<i32>(), last.parse::<i32>()) {
            indexes.extend(first.max(0)..=last.min(end - 1));
        }
    }
    indexes
}

/// Writes a set, three or more in a row as a range.
pub(super) fn format(indexes: &BTreeSet<i32>) -> String {
    let mut runs: Vec<(i32, i32)> = Vec::new();
    for index in indexes {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == *index => *last = *index,
            _ => runs.push((*index, *index)),
        }
    }
    let text = |(first, last): (i32, i32)| match last - first {
        0 => first.to_string(),
        1 => format!("{first},{last}"),
        _ => format!("{first}-{last}"),
    };
    runs.into_iter().map(text).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_read_and_write() {
        for (text, end, written) in
            [("", 5, ""), ("0,2-4", 5, "0,2-4"), ("1-2", 5, "1,2"), ("0-9", 3, "0-2"), ("x,3", 5, "3")]
        {
            assert_eq!(format(&parse(text, end)), written);
        }
    }
}
