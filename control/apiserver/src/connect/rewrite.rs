//! Links of proxied pages lead back through the proxy. Pure.

use http::{HeaderMap, HeaderValue, header};

/// Attributes whose values are links.
const LINKS: [&str; 4] = ["href", "src", "action", "data"];

/// A link of the proxied server as the client must ask for it; `None` when it leads elsewhere.
fn through(link: &str, prefix: &str, host: &str) -> Option<String> {
    let own = ["http://", "https://"].iter().find_map(|scheme| link.strip_prefix(scheme)?.strip_prefix(host));
    let path = own.unwrap_or(link);
    let rooted = (path.starts_with('/') && !path.starts_with("//")) || (own.is_some() && path.is_empty());
    (rooted && !path.starts_with(prefix)).then(|| format!("{prefix}{path}"))
}

/// Rewrites `Location`.
pub(super) fn location(headers: &mut HeaderMap, prefix: &str, host: &str) {
    let link = headers.get(header::LOCATION).and_then(|value| value.to_str().ok());
    let link = link.and_then(|link| through(link, prefix, host));
    if let Some(value) = link.and_then(|link| HeaderValue::from_str(&link).ok()) {
        headers.insert(header::LOCATION, value);
    }
}

/// Rewrites the links of a page.
pub(super) fn page(text: &str, prefix: &str, host: &str) -> String {
    let mut out = String::with_capacity(text.len() + 256);
    let mut rest = text;
    while let Some((before, quote, after)) = next_link(rest) {
        out.push_str(before);
        let Some(end) = after.find(quote) else {
            rest = after;
            continue;
        };
        let link = &after[..end];
        match through(link, prefix, host) {
            Some(link) => out.push_str(&link),
            None => out.push_str(link),
        }
        rest = &after[end..];
    }
    out.push_str(rest);
    out
}

/// What comes before the next link (its opening quote included), the quote, and the rest.
fn next_link(text: &str) -> Option<(&str, char, &str)> {
    let mut from = 0;
    while let Some(at) = text[from..].find("=\"").into_iter().chain(text[from..].find("='")).min() {
        let at = from + at;
        let name = text[..at].rsplit(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or("");
        let quoted = at + 2;
        if LINKS.iter().any(|link| name.eq_ignore_ascii_case(link)) {
            let quote = if text.as_bytes()[at + 1] == b'"' { '"' } else { '\'' };
            return Some((&text[..quoted], quote, &text[quoted..]));
        }
        from = quoted;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_lead_back_through_the_proxy() {
        for (text, expected) in [
            ("<a href=\"/x\">t</a>", "<a href=\"/p/x\">t</a>"),
            ("<img src='/x'><a class=\"/y\">", "<img src='/p/x'><a class=\"/y\">"),
            ("<a href=\"http://h:1/x\">", "<a href=\"/p/x\">"),
            (
                "<a href=\"http://other/x\"><a href=\"//cdn/x\"><a href=\"x\">",
                "<a href=\"http://other/x\"><a href=\"//cdn/x\"><a href=\"x\">",
            ),
            ("<a href=\"/p/x\">", "<a href=\"/p/x\">"),
            ("<a href=\"broken", "<a href=\"broken"),
        ] {
            assert_eq!(page(text, "/p", "h:1"), expected);
        }
        let mut headers = HeaderMap::new();
        headers.insert(header::LOCATION, HeaderValue::from_static("/next"));
        location(&mut headers, "/p", "h:1");
        assert_eq!(headers[header::LOCATION], "/p/next");
    }
}
