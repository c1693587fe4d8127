//! Continue tokens: where the next page of a list starts, and at which revision. Pure; the token is opaque to
//! clients but in upstream's form.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use timonel_api::Status;

const FORMAT: &str = "meta.k8s.io/v1";
/// The revision that stands for "whatever is there now": the rest of a list whose snapshot is gone.
const INCONSISTENT: i64 = -1;

/// Where a list goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Continuation {
    /// The snapshot; `None` when the client accepted to go on without.
    pub(crate) revision: Option<u64>,
    /// The first key, relative to the listed range.
    pub(crate) start: String,
}

#[derive(Serialize, Deserialize)]
struct Token {
    v: String,
    #[serde(default, skip_serializing_if = "is_zero")]
    rv: i64,
    start: String,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the shape serde calls")]
fn is_zero(number: &i64) -> bool {
    *number == 0
}

impl Continuation {
    /// Reads what a client sends back.
    pub(crate) fn parse(text: &str) -> Result<Self, Status> {
        let invalid = |why: &str| Status::bad_request(format!("continue key is not valid: {why}"));
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|error| invalid(&error.to_string()))?;
        let token: Token = serde_json::from_slice(&bytes).map_err(|error| invalid(&error.to_string()))?;
        if token.v != FORMAT {
            return Err(invalid(&format!("server does not recognize this encoded version {:?}", token.v)));
        }
        if token.rv == 0 {
            return Err(invalid("incorrect encoded start resourceVersion (version meta.k8s.io/v1)"));
        }
        if token.start.is_empty() {
            return Err(invalid("encoded start key empty (version meta.k8s.io/v1)"));
        }
        if token.start.split('/').any(|segment| matches!(segment, "." | "..")) {
            return Err(invalid(&token.start));
        }
        Ok(Self { revision: u64::try_from(token.rv).ok(), start: token.start })
    }

    /// As text for `metadata.continue`.
    pub(crate) fn encode(&self) -> String {
        let rv = self.revision.map_or(INCONSISTENT, |revision| i64::try_from(revision).unwrap_or(i64::MAX));
        let token = Token { v: FORMAT.to_owned(), rv, start: self.start.clone() };
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).unwrap_or_default())
    }
}

/// 410: the snapshot of a paged list is gone; the token that goes on without it is in the answer.
pub(crate) fn expired(start: &str) -> Status {
    let mut status = Status::expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list \
         without the continue parameter, or use the continue token in this response to retrieve the remainder of \
         the results. Continuing with the provided token results in an inconsistent list - objects that were \
         created, modified, or deleted between the time the first chunk was returned and now may show up in the list.",
    );
    status.continue_token = Some(Continuation { revision: None, start: start.to_owned() }.encode().into());
    status
}

/// 410: the revision asked for is gone.
pub(crate) fn too_old() -> Status {
    Status::expired("The resourceVersion for the provided list is too old.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back() {
        for revision in [Some(7), None] {
            let one = Continuation { revision, start: "default/a\0".to_owned() };
            assert_eq!(Continuation::parse(&one.encode()).unwrap(), one);
        }
        let token = expired("x").continue_token.unwrap();
        assert_eq!(Continuation::parse(&token).unwrap().revision, None);
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["!", "e30", &URL_SAFE_NO_PAD.encode(r#"{"v":"meta.k8s.io/v1","rv":5,"start":"../x"}"#)] {
            assert_eq!(Continuation::parse(text).unwrap_err().code, 400, "{text}");
        }
    }
}
