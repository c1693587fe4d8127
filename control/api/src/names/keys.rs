//! Keys of labels, annotations, config maps, environment variables, ports, and values of labels.

use super::dns::dns_subdomain;
use super::{max_bytes, max_characters, pattern, range_message};

/// What all annotations of an object may weigh, keys and values.
pub const MAX_ANNOTATION_BYTES: usize = 256 * 1024;

const NAME_MAX: usize = 63;
const PORT_NAME_MAX: usize = 15;
const CONFIG_KEY_MAX: usize = 253;
const PORT_MAX: i64 = 65_535;

const KEY: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const KEY_RULE: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
                        alphanumeric character";
const KEY_EXAMPLES: &[&str] = &["MyName", "my.name", "123-abc"];
const VALUE: &str = "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?";
const VALUE_RULE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', \
                          and must start and end with an alphanumeric character";

fn is_key_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    matches!((bytes.first(), bytes.last()),
        (Some(first), Some(last)) if first.is_ascii_alphanumeric() && last.is_ascii_alphanumeric())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

/// A key of labels or annotations, or a finalizer: an optional DNS prefix, a slash, a name.
#[must_use]
pub fn qualified_name(text: &str) -> Vec<String> {
    let mut broken = Vec::new();
    let mut parts = text.split('/');
    let (first, second, third) = (parts.next().unwrap_or(""), parts.next(), parts.next());
    if third.is_some() {
        return vec![format!(
            "a valid label key {} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')",
            pattern(KEY_RULE, KEY, KEY_EXAMPLES)
        )];
    }
    let name = match second {
        None => first,
        Some(name) => {
            if first.is_empty() {
                broken.push("prefix part must be non-empty".to_owned());
            } else {
                broken.extend(dns_subdomain(first).into_iter().map(|rule| {
                    format!("prefix part {}", rule.replace("no more than 253 characters", "no more than 253 bytes"))
                }));
            }
            name
        }
    };
    if name.is_empty() {
        broken.push("name part must be non-empty".to_owned());
    } else if name.len() > NAME_MAX {
        broken.push(format!("name part {}", max_bytes(NAME_MAX)));
    }
    if !is_key_name(name) {
        broken.push(format!("name part {}", pattern(KEY_RULE, KEY, KEY_EXAMPLES)));
    }
    broken
}

/// A value of a label.
#[must_use]
pub fn label_value(text: &str) -> Vec<String> {
    let mut broken = Vec::new();
    if text.len() > NAME_MAX {
        broken.push(max_bytes(NAME_MAX));
    }
    if !text.is_empty() && !is_key_name(text) {
        broken.push(pattern(VALUE_RULE, VALUE, &["MyValue", "my_value", "12345"]));
    }
    broken
}

fn no_parent_folder(text: &str, broken: &mut Vec<String>) {
    match text {
        "." => broken.push("must not be '.'".to_owned()),
        ".." => broken.push("must not be '..'".to_owned()),
        _ if text.starts_with("..") => broken.push("must not start with '..'".to_owned()),
        _ => {}
    }
}

/// A key of a ConfigMap or Secret: also a file name.
#[must_use]
pub fn config_key(text: &str) -> Vec<String> {
    let mut broken = Vec::new();
    if text.len() > CONFIG_KEY_MAX {
        broken.push(max_characters(CONFIG_KEY_MAX));
    }
    let fits = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if text.is_empty() || !text.as_bytes().iter().all(fits) {
        broken.push(pattern(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            "[-._a-zA-Z0-9]+",
            &["key.name", "KEY_NAME", "key-name"],
        ));
    }
    no_parent_folder(text, &mut broken);
    broken
}

/// An environment variable by the strict rule.
#[must_use]
pub fn env_var_name(text: &str) -> Vec<String> {
    let mut broken = Vec::new();
    let fits = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let bytes = text.as_bytes();
    if !bytes.first().is_some_and(|first| fits(first) && !first.is_ascii_digit()) || !bytes.iter().all(fits) {
        broken.push(pattern(
            "a valid environment variable name must consist of alphabetic characters, digits, '_', '-', or '.', and \
             must not start with a digit",
            "[-._a-zA-Z][-._a-zA-Z0-9]*",
            &["my.env-name", "MY_ENV.NAME", "MyEnvName1"],
        ));
    }
    no_parent_folder(text, &mut broken);
    broken
}

/// An environment variable by the relaxed rule, which is the one in force.
#[must_use]
pub fn env_var_name_relaxed(text: &str) -> Vec<String> {
    if text.is_empty() {
        return vec!["environment variable name must be non-empty".to_owned()];
    }
    if text.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b'=') {
        return Vec::new();
    }
    vec!["a valid environment variable name must consist only of printable ASCII characters other than '='".to_owned()]
}

/// A C identifier.
#[must_use]
pub fn c_identifier(text: &str) -> Vec<String> {
    let fits = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    let bytes = text.as_bytes();
    if bytes.first().is_some_and(|first| !first.is_ascii_digit()) && bytes.iter().all(fits) {
        return Vec::new();
    }
    vec![pattern(
        "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric \
         characters or '_'",
        "[A-Za-z_][A-Za-z0-9_]*",
        &["my_name", "MY_NAME", "MyName"],
    )]
}

/// The name of an HTTP header.
#[must_use]
pub fn http_header_name(text: &str) -> Vec<String> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        return Vec::new();
    }
    let rule = "a valid HTTP header must consist of alphanumeric characters or '-'";
    vec![pattern(rule, "[-A-Za-z0-9]+", &["X-Header-Name"])]
}

/// The IANA service name of a port.
#[must_use]
pub fn port_name(text: &str) -> Vec<String> {
    let mut broken = Vec::new();
    if text.len() > PORT_NAME_MAX {
        broken.push(max_characters(PORT_NAME_MAX));
    }
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if text.is_empty() || !text.bytes().all(fits) {
        broken.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !text.bytes().any(|byte| byte.is_ascii_lowercase()) {
        broken.push("must contain at least one letter (a-z)".to_owned());
    }
    if text.contains("--") {
        broken.push("must not contain consecutive hyphens".to_owned());
    }
    if text.starts_with('-') || text.ends_with('-') {
        broken.push("must not begin or end with a hyphen".to_owned());
    }
    broken
}

/// The number of a port.
#[must_use]
pub fn port_number(port: i64) -> Vec<String> {
    if (1..=PORT_MAX).contains(&port) { Vec::new() } else { vec![range_message(1, PORT_MAX)] }
}

/// A number followed by a percent sign.
#[must_use]
pub fn percent(text: &str) -> Vec<String> {
    if text.strip_suffix('%').is_some_and(|n| !n.is_empty() && n.bytes().all(|byte| byte.is_ascii_digit())) {
        return Vec::new();
    }
    let rule = "a valid percent string must be a numeric string followed by an ending '%'";
    vec![pattern(rule, "[0-9]+%", &["1%", "93%"])]
}

/// A name that must fit in one segment of a URL, as names of roles; `prefix` when more will follow.
#[must_use]
pub fn path_segment(text: &str, prefix: bool) -> Vec<String> {
    let mut broken = Vec::new();
    if !prefix && matches!(text, "." | "..") {
        return vec![format!("may not be '{text}'")];
    }
    for illegal in ["/", "%"] {
        if text.contains(illegal) {
            broken.push(format!("may not contain '{illegal}'"));
        }
    }
    broken
}

#[cfg(test)]
mod tests {
    use super::*;

    type Check = fn(&str) -> Vec<String>;

    #[test]
    fn good_texts_pass() {
        let table: &[(Check, &[&str])] = &[
            (qualified_name, &["a", "A_b.c-1", "example.com/Name", "kubernetes.io/os"]),
            (label_value, &["", "a", "A_b.c-1"]),
            (config_key, &["a.b", ".hidden", "_", "a..b"]),
            (env_var_name, &["A", "_a.b-c"]),
            (env_var_name_relaxed, &["A", "1 2", "a-b:c"]),
            (c_identifier, &["_a1"]),
            (http_header_name, &["X-A"]),
            (port_name, &["http", "a-1"]),
            (percent, &["10%"]),
        ];
        for (check, texts) in table {
            for text in *texts {
                assert_eq!(check(text), Vec::<String>::new(), "{text}");
            }
        }
    }

    #[test]
    fn bad_texts_fail_with_known_words() {
        let long = "a".repeat(64);
        let table: &[(Check, &str, &str)] = &[
            (qualified_name, "/a", "prefix part must be non-empty"),
            (
                qualified_name,
                "",
                "name part must be non-empty; name part must consist of alphanumeric characters, '-', '_' or '.', and \
                 must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex \
                 used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
            ),
            (qualified_name, &long, "name part must be no more than 63 bytes"),
            (label_value, &long, "must be no more than 63 bytes"),
            (
                label_value,
                "a b",
                "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must \
                 start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used \
                 for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
            ),
            (config_key, "..a", "must not start with '..'"),
            (config_key, ".", "must not be '.'"),
            (port_name, "1", "must contain at least one letter (a-z)"),
            (port_name, "a--b", "must not contain consecutive hyphens"),
            (port_name, "-a", "must not begin or end with a hyphen"),
            (env_var_name_relaxed, "", "environment variable name must be non-empty"),
        ];
        for (check, text, message) in table {
            assert_eq!(check(text).join("; "), *message, "{text}");
        }
        assert_eq!(port_number(0), ["must be between 1 and 65535, inclusive"]);
        assert_eq!(path_segment("..", false), ["may not be '..'"]);
        assert_eq!(path_segment("a/b%", true), ["may not contain '/'", "may not contain '%'"]);
    }
}
