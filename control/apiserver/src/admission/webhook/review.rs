//! `AdmissionReview`: what a webhook is sent and what its answer means. Pure.

use base64::Engine;
use timonel_api::{Limits, Status, StatusCause, StatusDetails, Value, decode_json_untyped, encode_json};

/// A webhook's answer.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Answer {
    pub(super) allowed: bool,
    pub(super) result: Value,
    /// Operations on the object; `Null` for none.
    pub(super) patch: Value,
    pub(super) warnings: Vec<String>,
    pub(super) annotations: Vec<(String, String)>,
}

/// The review as JSON; `request` has everything but the objects.
pub(super) fn encode(version: &str, mut request: Value, object: Option<&Value>, old: Option<&Value>) -> Vec<u8> {
    for (field, object) in [("object", object), ("oldObject", old)] {
        request.set_at(&[field], object.cloned().unwrap_or_default());
    }
    let mut review = Value::object();
    review.set_at(&["kind"], "AdmissionReview");
    review.set_at(&["apiVersion"], format!("admission.k8s.io/{version}"));
    review.set_at(&["request"], request);
    encode_json(&review)
}

/// Reads an answer, in upstream's words when it is none.
pub(super) fn decode(version: &str, bytes: &[u8], uid: &str, mutating: bool) -> Result<Answer, String> {
    let review = decode_json_untyped(bytes, &Limits::default()).map_err(|error| error.to_string())?;
    let Some(response) = review.get("response").filter(|response| !response.is_null()) else {
        return Err("webhook response was absent".to_owned());
    };
    if version == "v1" {
        check_identity(&review, response, uid)?;
    }
    let patch = response.str_at(&["patch"]);
    let kind = response.get("patchType").filter(|kind| !kind.is_null()).and_then(Value::as_str);
    if version == "v1" {
        check_patch(patch, kind, mutating)?;
    }
    let operations = if mutating { decode_patch(patch, kind)? } else { Value::Null };
    let annotations = response.get("auditAnnotations").and_then(Value::as_object);
    let annotations = annotations.into_iter().flat_map(timonel_api::Object::iter);
    Ok(Answer {
        allowed: response.bool_at(&["allowed"]) == Some(true),
        result: response.get("status").or_else(|| response.get("result")).cloned().unwrap_or_default(),
        patch: operations,
        warnings: response.list_at(&["warnings"]).iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        annotations: annotations
            .filter_map(|(key, value)| Some((key.to_string(), value.as_str()?.to_owned())))
            .collect(),
    })
}

fn check_identity(review: &Value, response: &Value, uid: &str) -> Result<(), String> {
    let found = response.str_at(&["uid"]);
    if found != uid {
        return Err(format!("expected response.uid={uid:?}, got {found:?}"));
    }
    let (api_version, kind) = (review.str_at(&["apiVersion"]), review.str_at(&["kind"]));
    if (api_version, kind) != ("admission.k8s.io/v1", "AdmissionReview") {
        let wanted = "admission.k8s.io/v1, Kind=AdmissionReview";
        return Err(format!("expected webhook response of {wanted}, got {api_version}, Kind={kind}"));
    }
    Ok(())
}

fn check_patch(patch: &str, kind: Option<&str>, mutating: bool) -> Result<(), String> {
    let fault = match (mutating, patch.is_empty(), kind) {
        (true, false, None) => "webhook returned response.patch but not response.patchType",
        (true, true, Some(_)) => "webhook returned response.patchType but not response.patch",
        (true, false, Some("")) => "webhook returned invalid response.patchType of \"\"",
        (false, false, _) => "validating webhook may not return response.patch",
        (false, true, Some(_)) => "validating webhook may not return response.patchType",
        _ => return Ok(()),
    };
    Err(fault.to_owned())
}

fn decode_patch(patch: &str, kind: Option<&str>) -> Result<Value, String> {
    if patch.is_empty() {
        return Ok(Value::Null);
    }
    if let Some(other) = kind.filter(|kind| *kind != "JSONPatch") {
        return Err(format!("unsupported patch type {other:?}"));
    }
    let bytes = base64::engine::general_purpose::STANDARD.decode(patch);
    let bytes = bytes.map_err(|error| format!("received undecodable patch in webhook response: {error}"))?;
    let operations = decode_json_untyped(&bytes, &Limits::default());
    operations.map_err(|error| format!("received undecodable patch in webhook response: {error}"))
}

/// A refusal as the client receives it.
pub(super) fn refusal(webhook: &str, result: &Value) -> Status {
    let denied = format!("admission webhook {webhook:?} denied the request");
    let (message, reason) = (result.str_at(&["message"]), result.str_at(&["reason"]));
    let code =
        result.int_at(&["code"]).and_then(|code| u16::try_from(code).ok()).filter(|code| (400..600).contains(code));
    let message = match (message, reason) {
        ("", "") => format!("{denied} without explanation"),
        ("", reason) => format!("{denied}: {reason}"),
        (message, _) => format!("{denied}: {message}"),
    };
    let details = result.get("details").filter(|details| !details.is_null()).map(|details| {
        let text = |field: &str| details.str_at(&[field]);
        let causes = details.list_at(&["causes"]).iter().map(|cause| StatusCause {
            reason: cause.str_at(&["reason"]).into(),
            message: cause.str_at(&["message"]).to_owned(),
            field: cause.str_at(&["field"]).to_owned(),
        });
        Box::new(StatusDetails {
            group: text("group").into(),
            kind: text("kind").into(),
            name: text("name").into(),
            uid: text("uid").into(),
            causes: causes.collect(),
            retry_after_seconds: details
                .int_at(&["retryAfterSeconds"])
                .and_then(|seconds| u32::try_from(seconds).ok())
                .unwrap_or(0),
        })
    });
    Status { code: code.unwrap_or(400), reason: reason.into(), message, details, continue_token: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[allow(clippy::needless_pass_by_value, reason = "calls read better with a value")]
    fn answer(response: serde_json::Value, mutating: bool) -> Result<Answer, String> {
        let review = json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": response});
        decode("v1", review.to_string().as_bytes(), "u", mutating)
    }

    #[test]
    fn answers_are_checked_as_upstream_checks_them() {
        for (response, mutating, fault) in [
            (json!(null), true, "webhook response was absent"),
            (json!({"uid": "x"}), true, "expected response.uid=\"u\", got \"x\""),
            (json!({"uid": "u", "patch": "W10="}), true, "webhook returned response.patch but not response.patchType"),
            (
                json!({"uid": "u", "patchType": "JSONPatch"}),
                true,
                "webhook returned response.patchType but not response.patch",
            ),
            (json!({"uid": "u", "patch": "W10="}), false, "validating webhook may not return response.patch"),
            (json!({"uid": "u", "patch": "W10=", "patchType": "X"}), true, "unsupported patch type \"X\""),
        ] {
            assert_eq!(answer(response.clone(), mutating), Err(fault.to_owned()), "{response}");
        }
        let good = json!({"uid": "u", "allowed": true, "patchType": "JSONPatch", "patch": "W10=", "warnings": ["w"],
            "auditAnnotations": {"k": "v"}});
        let good = answer(good, true).expect("an answer");
        assert!(good.allowed && good.patch == Value::List(Vec::new()));
        assert_eq!(
            (good.warnings.as_slice(), good.annotations.as_slice()),
            (&["w".to_owned()][..], &[("k".to_owned(), "v".to_owned())][..])
        );
    }

    #[test]
    fn refusals_explain_themselves() {
        for (result, code, message) in [
            (json!(null), 400, "admission webhook \"w\" denied the request without explanation"),
            (json!({"code": 200, "reason": "No"}), 400, "admission webhook \"w\" denied the request: No"),
            (json!({"code": 403, "message": "m", "reason": "r"}), 403, "admission webhook \"w\" denied the request: m"),
        ] {
            let status = refusal("w", &result.clone().into());
            assert_eq!((status.code, status.message.as_str()), (code, message), "{result}");
        }
    }
}
