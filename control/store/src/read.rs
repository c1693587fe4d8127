//! What a reader may see: checks of revisions, and one page of a range over an engine's index.

use crate::{
    evaluate::Load,
    index::Index,
    types::{Event, RangeRequest, RangeResult, Revision, StoreError},
};

/// Most keys of one answer to a range.
pub const MAX_RANGE_ITEMS: usize = 10_000;

/// The revision to read at.
pub(crate) fn check_revision(
    asked: Option<Revision>,
    oldest: Revision,
    newest: Revision,
) -> Result<Revision, StoreError> {
    match asked {
        None => Ok(newest),
        Some(asked) if asked < oldest => Err(StoreError::Compacted { oldest }),
        Some(asked) if asked > newest => Err(StoreError::Future { newest }),
        Some(asked) => Ok(asked),
    }
}

pub(crate) fn check_compaction(revision: Revision, oldest: Revision, newest: Revision) -> Result<(), StoreError> {
    if revision <= oldest {
        return Err(StoreError::Compacted { oldest });
    }
    if revision > newest { Err(StoreError::Future { newest }) } else { Ok(()) }
}

/// At most how many keys to list.
pub(crate) fn page(limit: usize) -> usize {
    if limit == 0 { MAX_RANGE_ITEMS } else { limit.min(MAX_RANGE_ITEMS) }
}

/// One page of a range as of `at`.
pub(crate) fn range<V>(
    index: &Index<V>,
    load: &impl Load<V>,
    request: &RangeRequest,
    at: Revision,
    newest: Revision,
) -> Result<RangeResult, StoreError> {
    let page = page(request.limit);
    let mut keys = index.range(&request.range, at);
    let mut items = Vec::new();
    for (key, version) in keys.by_ref().take(page) {
        items.push(version.key_value(key.clone(), load.load(version)?));
    }
    let beyond = keys.count();
    Ok(RangeResult { count: (items.len() + beyond) as u64, more: beyond > 0, items, revision: newest })
}

/// An event as history tells it: without what compaction took.
pub(crate) fn past_event(mut event: Event, oldest: Revision) -> Event {
    if event.current.mod_revision <= oldest {
        event.previous = None;
    }
    event
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_is_readable_between_oldest_and_newest() {
        let seen: Vec<_> = [None, Some(2), Some(3), Some(5), Some(6)]
            .map(|asked| check_revision(asked, 3, 5).map_err(|error| error.to_string()))
            .into();
        assert_eq!(
            seen,
            [
                Ok(5),
                Err("required revision has been compacted (oldest: 3)".into()),
                Ok(3),
                Ok(5),
                Err("required revision is a future revision (newest: 5)".into()),
            ]
        );
    }
}
