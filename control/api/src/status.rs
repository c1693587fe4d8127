//! `v1.Status`: how the API server says no (and, after a deletion, yes), with the reasons, codes and texts that
//! clients of Kubernetes match on.
//!
//! Never chooses a content type and never writes HTTP.

use std::fmt;

use compact_str::CompactString;

use crate::fieldpath::{FieldErrors, quote};
use crate::{Object, Value};

/// One reason among several, in `details.causes`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StatusCause {
    /// Machine readable, as `FieldValueInvalid`.
    pub reason: CompactString,
    /// For people.
    pub message: String,
    /// The path of the field.
    pub field: String,
}

/// What the status is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StatusDetails {
    /// The API group.
    pub group: CompactString,
    /// The resource (or, for `Invalid`, the kind).
    pub kind: CompactString,
    /// The object's name.
    pub name: CompactString,
    /// The object's UID.
    pub uid: CompactString,
    /// Reasons one by one.
    pub causes: Vec<StatusCause>,
    /// When to ask again; 0 says nothing.
    pub retry_after_seconds: u32,
}

/// The body of every answer that carries no object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The HTTP code; 0 for a success whose code the caller chooses.
    pub code: u16,
    /// Machine readable, as `NotFound`.
    pub reason: CompactString,
    /// For people.
    pub message: String,
    /// What it is about.
    pub details: Option<Box<StatusDetails>>,
    /// `metadata.continue`: where an expired list may go on, inconsistently.
    pub continue_token: Option<Box<str>>,
}

/// Where the message of a conflict comes from when a resource version is stale.
const MODIFIED: &str = "the object has been modified; please apply your changes to the latest version and try again";

/// `resource.group`, or the resource alone for the core group; likewise for kinds.
#[must_use]
pub fn qualified(group: &str, resource: &str) -> String {
    if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") }
}

impl Status {
    fn failure(code: u16, reason: &'static str, message: String) -> Self {
        Self { code, reason: CompactString::const_new(reason), message, details: None, continue_token: None }
    }

    fn about(mut self, group: &str, kind: &str, name: &str) -> Self {
        let details = self.details.get_or_insert_default();
        details.group = group.into();
        details.kind = kind.into();
        details.name = name.into();
        self
    }

    /// Adds when to ask again.
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.details.get_or_insert_default().retry_after_seconds = seconds;
        self
    }

    /// Adds a cause.
    #[must_use]
    pub fn with_cause(mut self, reason: &str, message: impl Into<String>, field: impl Into<String>) -> Self {
        self.details.get_or_insert_default().causes.push(StatusCause {
            reason: reason.into(),
            message: message.into(),
            field: field.into(),
        });
        self
    }

    /// A deletion that is done.
    #[must_use]
    pub fn success(group: &str, resource: &str, name: &str, uid: &str) -> Self {
        let mut status = Self::failure(0, "", String::new()).about(group, resource, name);
        status.details.get_or_insert_default().uid = uid.into();
        status
    }

    /// 404 for an object.
    #[must_use]
    pub fn not_found(group: &str, resource: &str, name: &str) -> Self {
        let message = format!("{} {} not found", qualified(group, resource), quote(name));
        Self::failure(404, "NotFound", message).about(group, resource, name)
    }

    /// 404 for a path that no resource serves.
    #[must_use]
    pub fn no_such_resource() -> Self {
        let mut status = Self::failure(404, "NotFound", "the server could not find the requested resource".into());
        status.details = Some(Box::default());
        status
    }

    /// 409: the name is taken.
    #[must_use]
    pub fn already_exists(group: &str, resource: &str, name: &str) -> Self {
        let message = format!("{} {} already exists", qualified(group, resource), quote(name));
        Self::failure(409, "AlreadyExists", message).about(group, resource, name)
    }

    /// 409: no free name was found below `generateName`.
    #[must_use]
    pub fn generate_name_conflict(group: &str, resource: &str, name: &str, retry_seconds: u32) -> Self {
        let message = format!(
            "{} {} already exists, the server was not able to generate a unique name for the object",
            qualified(group, resource),
            quote(name)
        );
        Self::failure(409, "AlreadyExists", message).about(group, resource, name).retry_after(retry_seconds)
    }

    /// 401.
    #[must_use]
    pub fn unauthorized(why: &str) -> Self {
        let message = if why.is_empty() { "not authorized" } else { why };
        Self::failure(401, "Unauthorized", message.to_owned())
    }

    /// 403; an empty `resource` speaks of the request itself.
    #[must_use]
    pub fn forbidden(group: &str, resource: &str, name: &str, why: &str) -> Self {
        let message = match (resource, name) {
            ("", _) => format!("forbidden: {why}"),
            (_, "") => format!("{} is forbidden: {why}", qualified(group, resource)),
            _ => format!("{} {} is forbidden: {why}", qualified(group, resource), quote(name)),
        };
        Self::failure(403, "Forbidden", message).about(group, resource, name)
    }

    /// 409 for any reason.
    #[must_use]
    pub fn conflict(group: &str, resource: &str, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} {}: {why}", qualified(group, resource), quote(name));
        Self::failure(409, "Conflict", message).about(group, resource, name)
    }

    /// 409: the resource version is stale.
    #[must_use]
    pub fn modified(group: &str, resource: &str, name: &str) -> Self {
        Self::conflict(group, resource, name, MODIFIED)
    }

    /// 409: server-side apply met fields of other managers.
    #[must_use]
    pub fn apply_conflict(causes: Vec<StatusCause>, message: String) -> Self {
        let mut status = Self::failure(409, "Conflict", message);
        status.details.get_or_insert_default().causes = causes;
        status
    }

    /// 410: gone for good.
    #[must_use]
    pub fn gone(message: impl Into<String>) -> Self {
        Self::failure(410, "Gone", message.into())
    }

    /// 410: the resource version or continue token is too old.
    #[must_use]
    pub fn expired(message: impl Into<String>) -> Self {
        Self::failure(410, "Expired", message.into())
    }

    /// 422 with a cause per broken rule.
    #[must_use]
    pub fn invalid(group: &str, kind: &str, name: &str, errors: &FieldErrors) -> Self {
        let mut message = format!("{} {} is invalid", qualified(group, kind), quote(name));
        if !errors.is_empty() {
            message.push_str(": ");
            message.push_str(&errors.message());
        }
        let mut status = Self::failure(422, "Invalid", message).about(group, kind, name);
        status.details.get_or_insert_default().causes = errors
            .iter()
            .map(|error| StatusCause {
                reason: CompactString::const_new(error.kind.cause()),
                message: error.body(),
                field: error.field.clone(),
            })
            .collect();
        status
    }

    /// 400.
    #[must_use]
    pub fn bad_request(why: impl Into<String>) -> Self {
        Self::failure(400, "BadRequest", why.into())
    }

    /// 429 with a time to wait.
    #[must_use]
    pub fn too_many_requests(message: impl Into<String>, retry_seconds: u32) -> Self {
        Self::failure(429, "TooManyRequests", message.into()).retry_after(retry_seconds)
    }

    /// 503.
    #[must_use]
    pub fn service_unavailable(why: impl Into<String>) -> Self {
        Self::failure(503, "ServiceUnavailable", why.into())
    }

    /// 405: the resource does not know the verb.
    #[must_use]
    pub fn method_not_supported(group: &str, resource: &str, action: &str) -> Self {
        let message = format!("{action} is not supported on resources of kind {}", quote(&qualified(group, resource)));
        Self::failure(405, "MethodNotAllowed", message).about(group, resource, "")
    }

    /// 405 for a path without a resource.
    #[must_use]
    pub fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        Self::failure(405, "MethodNotAllowed", message.into())
    }

    /// 406: none of the accepted content types can be made; `offered` lists those that can.
    #[must_use]
    pub fn not_acceptable(offered: &[&str]) -> Self {
        let message = format!("only the following media types are accepted: {}", offered.join(", "));
        Self::failure(406, "NotAcceptable", message)
    }

    /// 415: the body's content type is not understood; `accepted` lists those that are.
    #[must_use]
    pub fn unsupported_media_type(accepted: &[&str]) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            accepted.join(", ")
        );
        Self::failure(415, "UnsupportedMediaType", message)
    }

    /// 500: the operation could not be completed in time.
    #[must_use]
    pub fn server_timeout(group: &str, resource: &str, operation: &str, retry_seconds: u32) -> Self {
        let message = format!(
            "The {operation} operation against {} could not be completed at this time, please try again.",
            qualified(group, resource)
        );
        Self::failure(500, "ServerTimeout", message).about(group, resource, operation).retry_after(retry_seconds)
    }

    /// 504.
    #[must_use]
    pub fn timeout(message: &str, retry_seconds: u32) -> Self {
        Self::failure(504, "Timeout", format!("Timeout: {message}")).retry_after(retry_seconds)
    }

    /// 500.
    #[must_use]
    pub fn internal(why: impl fmt::Display) -> Self {
        let why = why.to_string();
        Self::failure(500, "InternalError", format!("Internal error occurred: {why}")).with_cause("", why, "")
    }

    /// 413.
    #[must_use]
    pub fn request_entity_too_large(message: &str) -> Self {
        Self::failure(413, "RequestEntityTooLarge", format!("Request entity too large: {message}"))
    }

    /// Whether this says that an operation failed.
    #[must_use]
    pub const fn is_failure(&self) -> bool {
        self.code >= 400
    }

    /// The object on the wire.
    #[must_use]
    pub fn to_value(&self) -> Value {
        let mut object = Object::with_capacity(8);
        object.insert("kind", "Status");
        object.insert("apiVersion", "v1");
        let mut metadata = Object::new();
        if let Some(token) = &self.continue_token {
            metadata.insert("continue", &**token);
        }
        object.insert("metadata", metadata);
        object.insert("status", if self.is_failure() { "Failure" } else { "Success" });
        insert_text(&mut object, "message", &self.message);
        insert_text(&mut object, "reason", &self.reason);
        if let Some(details) = &self.details {
            object.insert("details", details.to_value());
        }
        if self.code != 0 {
            object.insert("code", i64::from(self.code));
        }
        object.into()
    }
}

impl StatusDetails {
    fn to_value(&self) -> Value {
        let mut object = Object::new();
        insert_text(&mut object, "group", &self.group);
        insert_text(&mut object, "kind", &self.kind);
        insert_text(&mut object, "name", &self.name);
        insert_text(&mut object, "uid", &self.uid);
        if !self.causes.is_empty() {
            object.insert("causes", self.causes.iter().map(StatusCause::to_value).collect::<Vec<_>>());
        }
        if self.retry_after_seconds != 0 {
            object.insert("retryAfterSeconds", i64::from(self.retry_after_seconds));
        }
        object.into()
    }
}

impl StatusCause {
    fn to_value(&self) -> Value {
        let mut object = Object::with_capacity(3);
        insert_text(&mut object, "reason", &self.reason);
        insert_text(&mut object, "message", &self.message);
        insert_text(&mut object, "field", &self.field);
        object.into()
    }
}

fn insert_text(object: &mut Object, name: &'static str, text: &str) {
    if !text.is_empty() {
        object.insert(name, text);
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Status {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fieldpath::Path;

    #[test]
    fn texts_are_those_clients_match_on() {
        let table = [
            (Status::not_found("", "pods", "x"), 404, "pods \"x\" not found"),
            (Status::not_found("apps", "deployments", "x"), 404, "deployments.apps \"x\" not found"),
            (Status::already_exists("", "pods", "x"), 409, "pods \"x\" already exists"),
            (
                Status::modified("", "pods", "x"),
                409,
                "Operation cannot be fulfilled on pods \"x\": the object has been modified; please apply your \
                 changes to the latest version and try again",
            ),
            (Status::forbidden("", "pods", "", "because"), 403, "pods is forbidden: because"),
            (Status::forbidden("", "pods", "x", "because"), 403, "pods \"x\" is forbidden: because"),
            (Status::forbidden("", "", "", "because"), 403, "forbidden: because"),
            (
                Status::method_not_supported("", "bindings", "list"),
                405,
                "list is not supported on resources of kind \"bindings\"",
            ),
            (Status::timeout("slow", 1), 504, "Timeout: slow"),
            (Status::internal("oops"), 500, "Internal error occurred: oops"),
            (Status::request_entity_too_large("limit is 3"), 413, "Request entity too large: limit is 3"),
            (Status::unauthorized(""), 401, "not authorized"),
        ];
        for (status, code, message) in table {
            assert_eq!((status.code, status.message.as_str()), (code, message));
        }
    }

    #[test]
    fn invalid_lists_causes() {
        let mut errors = FieldErrors::new();
        errors.required(&Path::new("spec.containers"), "");
        errors.invalid(&Path::new("metadata.name"), "X", "bad");
        let status = Status::invalid("", "Pod", "X", &errors);
        assert_eq!(
            status.message,
            "Pod \"X\" is invalid: [spec.containers: Required value, metadata.name: Invalid value: \"X\": bad]"
        );
        let json = serde_json::to_value(status.to_value()).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": "Invalid",
                "message": status.message, "code": 422,
                "details": {"name": "X", "kind": "Pod", "causes": [
                    {"reason": "FieldValueRequired", "message": "Required value", "field": "spec.containers"},
                    {"reason": "FieldValueInvalid", "message": "Invalid value: \"X\": bad", "field": "metadata.name"},
                ]},
            })
        );
    }

    #[test]
    fn a_success_has_neither_code_nor_reason() {
        let json = serde_json::to_value(Status::success("apps", "deployments", "x", "u").to_value()).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
                "details": {"group": "apps", "kind": "deployments", "name": "x", "uid": "u"},
            })
        );
    }

    #[test]
    fn a_status_is_small_enough_to_return_as_an_error() {
        assert!(size_of::<Status>() <= 96, "{}", size_of::<Status>());
    }
}
