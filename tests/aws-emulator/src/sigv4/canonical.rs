//! The one form of a request that both sides sign.

use super::{Request, sha256_hex};
use crate::form::encode;

/// The canonical text of `request` with the headers `signed` (sorted, in lower case); `None` when one is not there.
pub(super) fn canonical(request: &Request, signed: &[String], without: Option<&str>) -> Option<String> {
    let mut headers = String::new();
    for name in signed {
        let values: Vec<String> =
            request.headers.iter().filter(|(header, _)| header == name).map(|(_, value)| squeeze(value)).collect();
        if values.is_empty() {
            return None;
        }
        headers.push_str(&format!("{name}:{}\n", values.join(",")));
    }
    let query = canonical_query(&request.query, without);
    let (path, payload) = (canonical_path(&request.path), sha256_hex(&request.body));
    Some(format!("{}\n{path}\n{query}\n{headers}\n{}\n{payload}", request.method, signed.join(";")))
}

/// Runs of spaces become one, none at the ends.
fn squeeze(value: &str) -> String {
    value.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

/// Every step of the path percent-coded once more, as all services but S3 have it.
fn canonical_path(path: &str) -> String {
    if path.is_empty() {
        return "/".to_owned();
    }
    path.split('/').map(encode).collect::<Vec<_>>().join("/")
}

/// Parameters sorted by name, then value, without the signature itself.
fn canonical_query(query: &str, without: Option<&str>) -> String {
    let mut pairs: Vec<(&str, &str)> = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .filter(|(name, _)| Some(*name) != without)
        .collect();
    pairs.sort_unstable();
    pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_spaces_do_not_matter() {
        let request = Request {
            method: "GET".into(),
            path: String::new(),
            query: "b=2&a=1&X-Amz-Signature=s&c".into(),
            headers: vec![("host".into(), " a   b ".into()), ("other".into(), "x".into())],
            body: Vec::new(),
        };
        let text = canonical(&request, &["host".to_owned()], Some("X-Amz-Signature")).unwrap();
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(text, format!("GET\n/\na=1&b=2&c=\nhost:a b\n\nhost\n{empty}"));
        assert_eq!(canonical(&request, &["missing".to_owned()], None), None);
    }
}
