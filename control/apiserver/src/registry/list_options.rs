//! The parameters of lists and watches and what upstream says about their combinations. Pure.

use crate::http::Query;
use timonel_api::{FieldErrors, Path, Status};

/// How `resourceVersion` is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Freshness {
    /// As new as any acknowledged write.
    Newest,
    /// Whatever is at hand.
    Any,
    /// At least this revision.
    NotOlderThan(u64),
    /// Exactly this revision.
    Exact(u64),
}

/// `ListOptions` of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ListOptions {
    pub(crate) watch: bool,
    pub(crate) allow_bookmarks: bool,
    pub(crate) send_initial_events: Option<bool>,
    pub(crate) resource_version: String,
    pub(crate) version_match: String,
    pub(crate) limit: usize,
    pub(crate) continuation: String,
    pub(crate) timeout_seconds: Option<u64>,
}

const NOT_OLDER_THAN: &str = "NotOlderThan";
const EXACT: &str = "Exact";

impl ListOptions {
    pub(crate) fn parse(query: &Query<'_>, watch: bool) -> Result<Self, Status> {
        let options = Self {
            watch,
            allow_bookmarks: query.flag("allowWatchBookmarks"),
            send_initial_events: query.find("sendInitialEvents").map(|_| query.flag("sendInitialEvents")),
            resource_version: query.get("resourceVersion").to_owned(),
            version_match: query.get("resourceVersionMatch").to_owned(),
            limit: usize::try_from(number(query, "limit")?.unwrap_or(0)).unwrap_or(0),
            continuation: query.get("continue").to_owned(),
            timeout_seconds: number(query, "timeoutSeconds")?.and_then(|seconds| u64::try_from(seconds).ok()),
        };
        let errors = if watch { options.check_watch() } else { options.check_list() };
        if errors.is_empty() { Ok(options) } else { Err(Status::invalid("meta.k8s.io", "ListOptions", "", &errors)) }
    }

    fn check_list(&self) -> FieldErrors {
        let mut errors = FieldErrors::new();
        let path = Path::new("resourceVersionMatch");
        if !self.version_match.is_empty() {
            if self.resource_version.is_empty() {
                errors.forbidden(&path, "resourceVersionMatch is forbidden unless resourceVersion is provided");
            }
            if !self.continuation.is_empty() {
                errors.forbidden(&path, "resourceVersionMatch is forbidden when continue is provided");
            }
            if !matches!(self.version_match.as_str(), EXACT | NOT_OLDER_THAN) {
                errors.not_supported(&path, self.version_match.as_str(), &[EXACT, NOT_OLDER_THAN, ""]);
            }
            if self.version_match == EXACT && self.resource_version == "0" {
                errors.forbidden(&path, "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"");
            }
        }
        if self.send_initial_events.is_some() {
            errors.forbidden(&Path::new("sendInitialEvents"), "sendInitialEvents is forbidden for list");
        }
        errors
    }

    fn check_watch(&self) -> FieldErrors {
        let mut errors = FieldErrors::new();
        let path = Path::new("resourceVersionMatch");
        if self.send_initial_events.is_some() && self.version_match != NOT_OLDER_THAN {
            errors.forbidden(
                &path,
                format!("sendInitialEvents requires setting resourceVersionMatch to {NOT_OLDER_THAN}"),
            );
        }
        if !self.version_match.is_empty() {
            if self.send_initial_events.is_none() {
                errors.forbidden(
                    &path,
                    "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
                );
            }
            if self.version_match != NOT_OLDER_THAN {
                errors.not_supported(&path, self.version_match.as_str(), &[NOT_OLDER_THAN]);
            }
            if !self.continuation.is_empty() {
                errors.forbidden(&path, "resourceVersionMatch is forbidden when continue is provided");
            }
        }
        errors
    }

    /// What `resourceVersion` and its match ask for.
    pub(crate) fn freshness(&self) -> Result<Freshness, Status> {
        Ok(match (parse_version(&self.resource_version)?, self.version_match.as_str()) {
            (None, _) => Freshness::Newest,
            (Some(0), _) => Freshness::Any,
            (Some(revision), EXACT) => Freshness::Exact(revision),
            (Some(revision), "") if self.limit > 0 && !self.watch => Freshness::Exact(revision),
            (Some(revision), _) => Freshness::NotOlderThan(revision),
        })
    }
}

/// A resource version as a number; `None` when empty.
pub(crate) fn parse_version(text: &str) -> Result<Option<u64>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| {
        let why = format!("strconv.ParseUint: parsing {text:?}: invalid syntax");
        Status::bad_request(format!("resourceVersion: Invalid value: {text:?}: {why}"))
    })
}

fn number(query: &Query<'_>, name: &str) -> Result<Option<i64>, Status> {
    match query.get(name) {
        "" => Ok(None),
        text => text
            .parse()
            .map(Some)
            .map_err(|_| Status::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn combinations_mean_what_upstream_says() {
        use Freshness::{Any, Exact, Newest, NotOlderThan};
        for (watch, query, expected) in [
            (false, "", Ok(Newest)),
            (false, "resourceVersion=0", Ok(Any)),
            (false, "resourceVersion=5", Ok(NotOlderThan(5))),
            (false, "resourceVersion=5&limit=3", Ok(Exact(5))),
            (false, "resourceVersion=5&limit=3&resourceVersionMatch=NotOlderThan", Ok(NotOlderThan(5))),
            (false, "resourceVersion=5&resourceVersionMatch=Exact", Ok(Exact(5))),
            (false, "resourceVersionMatch=Exact", Err(422)),
            (false, "resourceVersion=0&resourceVersionMatch=Exact", Err(422)),
            (false, "resourceVersion=1&resourceVersionMatch=Newer", Err(422)),
            (false, "sendInitialEvents=true", Err(422)),
            (false, "resourceVersion=x", Err(400)),
            (false, "limit=x", Err(400)),
            (true, "sendInitialEvents=true", Err(422)),
            (true, "sendInitialEvents=true&resourceVersionMatch=NotOlderThan", Ok(Newest)),
            (true, "resourceVersionMatch=NotOlderThan", Err(422)),
            (true, "resourceVersion=9", Ok(NotOlderThan(9))),
        ] {
            let found = ListOptions::parse(&Query::parse(query), watch).and_then(|options| options.freshness());
            assert_eq!(found.map_err(|status| status.code), expected, "{query}");
        }
    }
}
