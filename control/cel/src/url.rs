//! URLs as Go reads them: nothing is normalised away, so that a port or a path comes back as written.

use std::collections::BTreeMap;

use crate::error::EvalError;

/// A URL's parts, as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    text: String,
    scheme: String,
    host: String,
    path: String,
    query: String,
}

impl Url {
    /// An absolute URL, or a path that starts with a slash.
    pub(crate) fn parse(text: &str) -> Result<Self, EvalError> {
        let fault = |why: &str| {
            EvalError::failed(format!("URL parse error during conversion from string: parse {text:?}: {why}"))
        };
        if text.is_empty() {
            return Err(fault("empty url"));
        }
        if text.bytes().any(|byte| byte < b' ' || byte == 0x7f) {
            return Err(fault("net/url: invalid control character in URL"));
        }
        let whole = text.split_once('#').map_or(text, |(whole, _)| whole);
        let (scheme, rest) = split_scheme(whole).map_err(&fault)?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        if !rest.starts_with('/') {
            return Err(fault("invalid URI for request"));
        }
        let (host, path) = match rest.strip_prefix("//").filter(|_| !scheme.is_empty()) {
            Some(rest) => rest.split_at(rest.find('/').unwrap_or(rest.len())),
            None => ("", rest),
        };
        let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
        if let Some(why) = host_fault(host) {
            return Err(fault(&why));
        }
        if unescape(path, false).is_none() {
            return Err(fault("invalid URL escape"));
        }
        Ok(Self {
            text: text.to_owned(),
            scheme: scheme.to_ascii_lowercase(),
            host: host.to_owned(),
            path: path.to_owned(),
            query: query.to_owned(),
        })
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    pub(crate) fn scheme(&self) -> &str {
        &self.scheme
    }

    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    fn split_host(&self) -> (&str, &str) {
        let after_bracket = self.host.find(']').map_or(0, |at| at + 1);
        match self.host[after_bracket..].rfind(':') {
            Some(at) => (&self.host[..after_bracket + at], &self.host[after_bracket + at + 1..]),
            None => (&self.host, ""),
        }
    }

    pub(crate) fn hostname(&self) -> &str {
        let name = self.split_host().0;
        name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name)
    }

    pub(crate) fn port(&self) -> &str {
        self.split_host().1
    }

    pub(crate) fn escaped_path(&self) -> String {
        let mut escaped = String::with_capacity(self.path.len());
        for byte in self.path.bytes() {
            if byte.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@!'()*%[]".contains(&byte) {
                escaped.push(char::from(byte));
            } else {
                escaped.push_str(&format!("%{byte:02X}"));
            }
        }
        escaped
    }

    pub(crate) fn query(&self) -> BTreeMap<String, Vec<String>> {
        let mut members: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for part in self.query.split('&').filter(|part| !part.is_empty() && !part.contains(';')) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            if let (Some(name), Some(value)) = (unescape(name, true), unescape(value, true)) {
                members.entry(name).or_default().push(value);
            }
        }
        members
    }
}

fn split_scheme(text: &str) -> Result<(&str, &str), &'static str> {
    for (at, c) in text.char_indices() {
        match c {
            'a'..='z' | 'A'..='Z' => {}
            '0'..='9' | '+' | '-' | '.' if at > 0 => {}
            ':' if at == 0 => return Err("missing protocol scheme"),
            ':' => return Ok((&text[..at], &text[at + 1..])),
            _ => break,
        }
    }
    Ok(("", text))
}

fn host_fault(host: &str) -> Option<String> {
    let (name, port) = match (host.starts_with('['), host.find(']')) {
        (true, Some(end)) => host.split_at(end + 1),
        (true, None) => return Some("missing ']' in host".to_owned()),
        (false, _) => host.find(':').map_or((host, ""), |at| host.split_at(at)),
    };
    let digits = port.strip_prefix(':').is_some_and(|digits| digits.bytes().all(|c| c.is_ascii_digit()));
    if !port.is_empty() && !digits {
        return Some(format!("invalid port {port:?} after host"));
    }
    let bad =
        name.chars().find(|c| c.is_ascii() && !(c.is_ascii_alphanumeric() || "-_.~!$&'()*+,;=:[]<>\"%".contains(*c)));
    bad.map(|c| format!("invalid character {:?} in host name", c.to_string()))
}

fn unescape(text: &str, plus: bool) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => {
                let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
                let (high, low) = (digit(rest.next())?, digit(rest.next())?);
                bytes.push(u8::try_from(high * 16 + low).ok()?);
            }
            b'+' if plus => bytes.push(b' '),
            byte => bytes.push(byte),
        }
    }
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_come_back_as_written() {
        let url = Url::parse("https://user@example.com:443/a b/%2F?k=v&k=w+x&z#f").expect("a URL");
        assert_eq!(
            (url.scheme(), url.host(), url.hostname(), url.port()),
            ("https", "example.com:443", "example.com", "443")
        );
        assert_eq!(url.escaped_path(), "/a%20b/%2F");
        assert_eq!(url.query()["k"], ["v", "w x"]);
        let url = Url::parse("https://[::1]:80/").expect("a URL");
        assert_eq!((url.host(), url.hostname(), url.port()), ("[::1]:80", "::1", "80"));
        assert_eq!(Url::parse("/path").expect("a path").host(), "");
    }

    #[test]
    fn what_is_no_url_is_refused() {
        for text in ["", "a", "mailto:a@b", ":foo", "https://a:b/", "https://[::1/", "/a%zz", "http://a b/"] {
            assert!(Url::parse(text).is_err(), "{text}");
        }
    }
}
