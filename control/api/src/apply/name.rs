//! The manager's name of a request.

use crate::{FieldErrors, Path};

/// Bytes of a manager's name, at most.
pub const MAX_MANAGER_NAME: usize = 128;

fn is_printable(c: char) -> bool {
    !(c.is_control()
        || matches!(c, '\u{a0}' | '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202f}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e000}'..='\u{f8ff}' | '\u{fff0}'..='\u{fffb}'))
}

/// The name for a client that gives none: what its `User-Agent` has before the first slash.
#[must_use]
pub fn manager_from_user_agent(user_agent: &str) -> String {
    let mut name = String::new();
    for c in user_agent.split('/').next().unwrap_or_default().chars().filter(|c| is_printable(*c)) {
        if name.len() + c.len_utf8() > MAX_MANAGER_NAME {
            break;
        }
        name.push(c);
    }
    name
}

/// Judges a name that a client gives.
#[must_use]
pub fn validate_manager_name(name: &str) -> FieldErrors {
    let mut errors = FieldErrors::new();
    let path = Path::new("fieldManager");
    if name.len() > MAX_MANAGER_NAME {
        errors.too_long(&path, MAX_MANAGER_NAME);
    }
    for (at, c) in name.char_indices().filter(|(_, c)| !is_printable(*c)) {
        let why = format!("invalid character U+{:04X} (at position {at})", u32::from(c));
        errors.invalid(&path, name, &why);
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_what_stands_before_the_slash() {
        assert_eq!(manager_from_user_agent("kubectl/v1.36.2 (linux/amd64)"), "kubectl");
        assert_eq!(manager_from_user_agent("a\tb c/1"), "ab c");
        assert_eq!(manager_from_user_agent(""), "");
        assert_eq!(manager_from_user_agent(&"é".repeat(100)).len(), 128);
        assert!(validate_manager_name("kubectl-client-side-apply").is_empty());
        assert!(!validate_manager_name("a\n").is_empty() && !validate_manager_name(&"x".repeat(129)).is_empty());
    }
}
