//! Errors as one line.

use std::error::Error;

/// An error with its causes on one line. A cause that only repeats what has been said is left out.
#[must_use]
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !line.contains(&text) {
            line = format!("{line}: {text}");
        }
        next = cause.source();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Layer {
        text: &'static str,
        source: Option<Box<Layer>>,
    }

    #[test]
    fn causes_follow_once_each() {
        let layer = |text, source: Option<Layer>| Layer { text, source: source.map(Box::new) };
        let error = layer("writing", Some(layer("store", Some(layer("disk full", None)))));
        assert_eq!(chain(&error), "writing: store: disk full");
        let repeated = layer("store: disk full", Some(layer("disk full", None)));
        assert_eq!(chain(&repeated), "store: disk full");
    }
}
