//! Why admission (or any other check of this crate's policies) refuses a request.

use timonel_api::Value;

/// One cause in a `Status`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cause {
    /// Machine-readable type, such as `NamespaceTerminating` or `FieldValueInvalid`.
    pub kind: &'static str,
    /// For people.
    pub message: String,
    /// Path of the field, if any.
    pub field: String,
}

/// What a refusal is about, as a `Status` says it in its details.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// API group of the object.
    pub group: String,
    /// The resource in the plural (as upstream's errors of this kind say it), or the kind for `Invalid`.
    pub kind: String,
    /// Name of the object.
    pub name: String,
    /// Causes.
    pub causes: Vec<Cause>,
    /// When to try again.
    pub retry_after_seconds: Option<u32>,
}

/// A refusal with everything a Kubernetes `Status` says about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct AdmissionError {
    /// HTTP status code.
    pub code: u16,
    /// `Forbidden`, `NotFound`, `Invalid`, ...
    pub reason: &'static str,
    /// For people, and for clients that match on it.
    pub message: String,
    /// What it is about.
    pub details: Box<Details>,
    /// What is missing usually appears within a second: the server may look again before it answers.
    pub transient: bool,
}

impl AdmissionError {
    /// Any refusal, without details.
    #[must_use]
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: Box::default(), transient: false }
    }

    /// The same about an object; `kind` is its resource in the plural, or its kind for `Invalid`.
    #[must_use]
    pub fn about(mut self, group: &str, kind: &str, name: &str) -> Self {
        let details = &mut *self.details;
        (details.group, details.kind, details.name) = (group.to_owned(), kind.to_owned(), name.to_owned());
        self
    }

    /// 403 `pods "x" is forbidden: why` (without a name `pods is forbidden: why`).
    #[must_use]
    pub fn forbidden(group: &str, resource: &str, name: &str, why: &str) -> Self {
        let qualified = if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") };
        let message = match (resource.is_empty(), name.is_empty()) {
            (true, _) => format!("forbidden: {why}"),
            (false, true) => format!("{qualified} is forbidden: {why}"),
            (false, false) => format!("{qualified} {name:?} is forbidden: {why}"),
        };
        Self::new(403, "Forbidden", message).about(group, resource, name)
    }

    /// 404 `namespaces "x" not found`.
    #[must_use]
    pub fn not_found(group: &str, resource: &str, name: &str) -> Self {
        let qualified = if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") };
        Self::new(404, "NotFound", format!("{qualified} {name:?} not found")).about(group, resource, name)
    }

    /// 409 `Operation cannot be fulfilled on pods "x": why`.
    #[must_use]
    pub fn conflict(group: &str, resource: &str, name: &str, why: &str) -> Self {
        let qualified = if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") };
        let message = format!("Operation cannot be fulfilled on {qualified} {name:?}: {why}");
        Self::new(409, "Conflict", message).about(group, resource, name)
    }

    /// 400.
    #[must_use]
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// 500.
    #[must_use]
    pub fn internal(message: &str) -> Self {
        Self::new(500, "InternalError", format!("Internal error occurred: {message}"))
    }

    /// The same, but worth another look before the client hears of it.
    #[must_use]
    pub fn transient(mut self) -> Self {
        self.transient = true;
        self
    }

    /// The same with one more cause.
    #[must_use]
    pub fn with_cause(mut self, kind: &'static str, message: impl Into<String>, field: impl Into<String>) -> Self {
        self.details.causes.push(Cause { kind, message: message.into(), field: field.into() });
        self
    }

    /// As the `v1` `Status` that the client receives.
    #[must_use]
    pub fn to_status(&self) -> Value {
        let (details, mut status) = (&*self.details, Value::object());
        status.set_at(&["kind"], "Status");
        status.set_at(&["apiVersion"], "v1");
        status.set_at(&["metadata"], Value::object());
        status.set_at(&["status"], "Failure");
        status.set_at(&["message"], self.message.as_str());
        status.set_at(&["reason"], self.reason);
        status.set_at(&["code"], i64::from(self.code));
        for (field, text) in [("group", &details.group), ("kind", &details.kind), ("name", &details.name)] {
            if !text.is_empty() {
                status.set_at(&["details", field], text.as_str());
            }
        }
        if let Some(seconds) = details.retry_after_seconds {
            status.set_at(&["details", "retryAfterSeconds"], i64::from(seconds));
        }
        let causes: Vec<Value> = details.causes.iter().map(cause_value).collect();
        if !causes.is_empty() {
            status.set_at(&["details", "causes"], causes);
        }
        status
    }
}

impl From<AdmissionError> for timonel_api::Status {
    fn from(error: AdmissionError) -> Self {
        let details = *error.details;
        let causes = details.causes.into_iter().map(|cause| timonel_api::StatusCause {
            reason: cause.kind.into(),
            message: cause.message,
            field: cause.field,
        });
        Self {
            code: error.code,
            reason: error.reason.into(),
            message: error.message,
            details: Some(Box::new(timonel_api::StatusDetails {
                group: details.group.into(),
                kind: details.kind.into(),
                name: details.name.into(),
                uid: "".into(),
                causes: causes.collect(),
                retry_after_seconds: details.retry_after_seconds.unwrap_or(0),
            })),
            continue_token: None,
        }
    }
}

fn cause_value(cause: &Cause) -> Value {
    let mut value = Value::object();
    for (field, text) in [("reason", cause.kind), ("message", &cause.message), ("field", &cause.field)] {
        if !text.is_empty() {
            value.set_at(&[field], text);
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_upstreams() {
        for (error, message) in [
            (AdmissionError::forbidden("", "pods", "a", "no"), r#"pods "a" is forbidden: no"#),
            (AdmissionError::forbidden("apps", "deployments", "", "no"), "deployments.apps is forbidden: no"),
            (AdmissionError::not_found("", "namespaces", "x"), r#"namespaces "x" not found"#),
            (AdmissionError::conflict("", "pods", "a", "old"), r#"Operation cannot be fulfilled on pods "a": old"#),
        ] {
            assert_eq!(error.message, message);
        }
    }

    #[test]
    fn a_status_carries_details() {
        let error = AdmissionError::forbidden("", "pods", "a", "no").with_cause("NamespaceTerminating", "m", "f");
        let status = serde_json::Value::from(&error.to_status());
        assert_eq!(
            status,
            serde_json::json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": "Forbidden",
                "code": 403, "message": "pods \"a\" is forbidden: no",
                "details": {"name": "a", "kind": "pods",
                    "causes": [{"reason": "NamespaceTerminating", "message": "m", "field": "f"}]}
            })
        );
    }
}
