//! Paths and queries of requests, decoded.

/// The parts of a path between slashes, decoded.
pub(crate) fn segments(path: &str) -> Vec<String> {
    path.split('/').filter(|part| !part.is_empty()).map(|part| decode(part, false)).collect()
}

fn decode(text: &str, plus: bool) -> String {
    let mut out = Vec::with_capacity(text.len());
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).and_then(|pair| std::str::from_utf8(pair).ok());
        let byte = hex.filter(|_| bytes[at] == b'%').and_then(|pair| u8::from_str_radix(pair, 16).ok());
        match (byte, bytes[at]) {
            (Some(byte), _) => {
                out.push(byte);
                at += 2;
            }
            (None, b'+') if plus => out.push(b' '),
            (None, other) => out.push(other),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Pairs of a query, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Query(pub(crate) Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(raw: &str) -> Self {
        let pairs = raw.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(key, true), decode(value, true))
        });
        Self(pairs.collect())
    }

    pub(crate) fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(known, _)| known == key).map(|(_, value)| value.as_str())
    }

    /// Whether any of the names is set to yes.
    pub(crate) fn yes(&self, keys: &[&str]) -> bool {
        self.0.iter().any(|(key, value)| keys.contains(&key.as_str()) && matches!(value.as_str(), "1" | "true"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_and_paths_are_decoded() {
        let query = Query::parse("command=sh&command=-c&command=echo+a%20b%2B&tty=1&input=true&empty&bad=%zz");
        assert_eq!(query.all("command").collect::<Vec<_>>(), ["sh", "-c", "echo a b+"]);
        assert!(query.yes(&["tty"]) && query.yes(&["stdin", "input"]) && !query.yes(&["error", "empty"]));
        assert_eq!(query.all("bad").next(), Some("%zz"));
        assert_eq!(segments("/exec/ns/my%2Fpod//c/"), ["exec", "ns", "my/pod", "c"]);
    }
}
