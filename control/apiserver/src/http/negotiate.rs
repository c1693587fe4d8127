//! Media types: what the client wants back and what it sends. Pure.

use super::query::Query;
use ::http::HeaderMap;
use timonel_api::{Status, Value};

/// A serialization.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Media {
    Json,
    Yaml,
    Protobuf,
}

pub(crate) const JSON: &str = "application/json";
pub(crate) const YAML: &str = "application/yaml";
pub(crate) const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

impl Media {
    /// The content type of a watch.
    pub(crate) const fn stream_type(self) -> &'static str {
        match self {
            Self::Json | Self::Yaml => JSON,
            Self::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
        }
    }

    fn parse(kind: &str, subtype: &str) -> Option<Self> {
        match (kind, subtype) {
            ("application", "json" | "*") | ("*", "*") => Some(Self::Json),
            ("application", "yaml") => Some(Self::Yaml),
            ("application", "vnd.kubernetes.protobuf") => Some(Self::Protobuf),
            _ => None,
        }
    }
}

/// What of the objects the client wants to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Shape {
    /// All of them.
    Whole,
    /// Rows and columns.
    Table,
    /// `metadata` only.
    Partial,
}

/// The answer that the client asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Accept {
    pub(crate) media: Media,
    pub(crate) shape: Shape,
    /// Whether tables and metadata are wanted as `meta.k8s.io/v1beta1`, which has the same fields as `v1`.
    pub(crate) beta: bool,
    pub(crate) pretty: bool,
}

impl Accept {
    /// Brings a table, metadata or a list of metadata into the version that is wanted.
    pub(crate) fn versioned(&self, mut object: Value) -> Value {
        if self.beta && self.shape != Shape::Whole {
            object.set_at(&["apiVersion"], META_BETA);
            if let Some(Value::List(items)) = object.make_object().get_mut("items") {
                items.iter_mut().for_each(|item| item.set_at(&["apiVersion"], META_BETA));
            }
        }
        object
    }
}

impl Default for Accept {
    fn default() -> Self {
        Self { media: Media::Json, shape: Shape::Whole, beta: false, pretty: false }
    }
}

/// One range of an `Accept` header.
#[derive(Clone, Debug)]
pub(crate) struct MediaRange<'a> {
    pub(crate) kind: &'a str,
    pub(crate) subtype: &'a str,
    quality: f32,
    parameters: Vec<(&'a str, &'a str)>,
}

/// The older version of tables and metadata.
const META_BETA: &str = "meta.k8s.io/v1beta1";
/// Ranges of an `Accept` header looked at.
const MAX_RANGES: usize = 32;

impl<'a> MediaRange<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        let (kind, subtype) = parts.next()?.split_once('/')?;
        let mut range = Self { kind, subtype, quality: 1.0, parameters: Vec::new() };
        for (name, value) in parts.filter_map(|part| part.split_once('=')) {
            if name == "q" {
                range.quality = value.parse().unwrap_or(1.0);
            } else {
                range.parameters.push((name, value.trim_matches('"')));
            }
        }
        Some(range)
    }

    pub(crate) fn parameter(&self, name: &str) -> &'a str {
        self.parameters.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value)
    }

    pub(crate) fn media(&self) -> Option<Media> {
        Media::parse(self.kind, self.subtype)
    }
}

/// The ranges of an `Accept` header, the most wanted first.
pub(crate) fn accept_ranges(headers: &HeaderMap) -> Vec<MediaRange<'_>> {
    let header = headers.get(::http::header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("");
    let mut ranges: Vec<_> =
        header.split(',').take(MAX_RANGES).filter_map(|text| MediaRange::parse(text.trim())).collect();
    ranges.sort_by(|a, b| b.quality.total_cmp(&a.quality));
    ranges
}

/// Upstream's choice among the ranges: the first whose serialization and shape are both known. Objects of custom
/// kinds have no protobuf form.
pub(crate) fn accept(headers: &HeaderMap, query: &Query<'_>, custom: bool) -> Result<Accept, Status> {
    let pretty = pretty(headers, query);
    let ranges = accept_ranges(headers);
    if ranges.is_empty() {
        return Ok(Accept { pretty, ..Accept::default() });
    }
    ranges
        .iter()
        .find_map(|range| {
            let media = range.media()?;
            let beta = range.parameter("v") == "v1beta1";
            let known = matches!(range.parameter("g"), "" | "meta.k8s.io")
                && (beta || matches!(range.parameter("v"), "" | "v1"));
            let shape = match range.parameter("as") {
                "" => Shape::Whole,
                "Table" if known => Shape::Table,
                "PartialObjectMetadata" | "PartialObjectMetadataList" if known => Shape::Partial,
                _ => return None,
            };
            let exists = !(custom && media == Media::Protobuf && shape == Shape::Whole);
            exists.then_some(Accept { media, shape, beta, pretty })
        })
        .ok_or_else(|| if custom { Status::not_acceptable(&[JSON, YAML]) } else { not_acceptable() })
}

/// 406 with what there is.
pub(crate) fn not_acceptable() -> Status {
    Status::not_acceptable(&[JSON, YAML, PROTOBUF])
}

/// Whether to indent: on request, or for what people look at.
fn pretty(headers: &HeaderMap, query: &Query<'_>) -> bool {
    if query.find("pretty").is_some() {
        return query.flag("pretty");
    }
    let agent = headers.get(::http::header::USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or("");
    ["curl", "Wget", "Mozilla/5.0"].iter().any(|browser| agent.starts_with(browser))
}

/// The serialization of a request's body; JSON when the client does not say.
pub(crate) fn content(headers: &HeaderMap) -> Result<Media, Status> {
    let Some(header) = headers.get(::http::header::CONTENT_TYPE) else { return Ok(Media::Json) };
    let text = header.to_str().unwrap_or("");
    let essence = text.split(';').next().unwrap_or("").trim();
    match essence {
        "" | JSON => Ok(Media::Json),
        YAML => Ok(Media::Yaml),
        PROTOBUF => Ok(Media::Protobuf),
        _ => Err(Status::unsupported_media_type(&[JSON, YAML, PROTOBUF])),
    }
}

/// Whether the client takes gzip.
pub(crate) fn takes_gzip(headers: &HeaderMap) -> bool {
    let header = headers.get(::http::header::ACCEPT_ENCODING).and_then(|value| value.to_str().ok()).unwrap_or("");
    header.split(',').any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        parts.next() == Some("gzip") && parts.all(|part| part != "q=0")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        headers
    }

    #[test]
    fn the_first_known_range_wins() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
        for (header, expected) in [
            ("", Some((Media::Json, Shape::Whole))),
            ("*/*", Some((Media::Json, Shape::Whole))),
            ("application/vnd.kubernetes.protobuf, */*", Some((Media::Protobuf, Shape::Whole))),
            ("application/json;q=0.5, application/yaml", Some((Media::Yaml, Shape::Whole))),
            (table, Some((Media::Json, Shape::Table))),
            ("application/json;as=Table;v=v1beta1;g=meta.k8s.io", Some((Media::Json, Shape::Table))),
            ("application/json;as=Table;v=v9;g=meta.k8s.io,application/json", Some((Media::Json, Shape::Whole))),
            (
                "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
                Some((Media::Protobuf, Shape::Partial)),
            ),
            ("text/html", None),
            ("application/json;as=Nothing;v=v1;g=meta.k8s.io", None),
        ] {
            let found = accept(&headers("accept", header), &Query::default(), false);
            assert_eq!(found.map(|accept| (accept.media, accept.shape)).ok(), expected, "{header}");
        }
    }

    #[test]
    fn people_get_indentation() {
        for (agent, query, expected) in [
            ("curl/8", "", true),
            ("kubectl", "", false),
            ("kubectl", "pretty=true", true),
            ("curl/8", "pretty=0", false),
        ] {
            assert_eq!(pretty(&headers("user-agent", agent), &Query::parse(query)), expected);
        }
    }

    #[test]
    fn bodies_name_their_type() {
        assert_eq!(content(&HeaderMap::new()), Ok(Media::Json));
        assert_eq!(content(&headers("content-type", "application/json; charset=utf-8")), Ok(Media::Json));
        assert_eq!(content(&headers("content-type", "application/yaml")), Ok(Media::Yaml));
        assert_eq!(content(&headers("content-type", "text/plain")).unwrap_err().code, 415);
    }

    #[test]
    fn gzip_is_given_to_who_asks() {
        assert!(takes_gzip(&headers("accept-encoding", "deflate, gzip")));
        assert!(!takes_gzip(&headers("accept-encoding", "gzip;q=0")));
        assert!(!takes_gzip(&HeaderMap::new()));
    }

    #[test]
    fn the_older_version_is_said_where_it_was_asked_for() {
        let list = || {
            let mut list = Value::object();
            list.set_at(&["apiVersion"], "meta.k8s.io/v1");
            list.set_at(&["items"], vec![list.clone()]);
            list
        };
        for (beta, expected) in [(false, "meta.k8s.io/v1"), (true, "meta.k8s.io/v1beta1")] {
            let shown = Accept { shape: Shape::Partial, beta, ..Accept::default() }.versioned(list());
            assert_eq!(shown.str_at(&["apiVersion"]), expected);
            assert_eq!(shown.list_at(&["items"])[0].str_at(&["apiVersion"]), expected);
        }
    }
}
