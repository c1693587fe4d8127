//! Conversion of custom resources by a webhook: objects of one version become those of another.
//!
//! Whole batches go in one review, as upstream sends lists. What comes back may differ in everything but the
//! object's identity; of the metadata only labels and annotations are taken over.

use crate::{
    ApiServer,
    webhook::{CallError, WebhookTarget},
};
use serde_json::{Value as Json, json};
use std::{
    sync::{Arc, Weak},
    time::Duration,
};
use timonel_api::{Limits, Object, Status, Value, decode_json_untyped, definition::Conversion};

/// Time for one review.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Versions of reviews that this server speaks, alike but for their name.
const REVIEWS: [&str; 2] = ["v1", "v1beta1"];

/// A definition's conversion webhook.
#[derive(Debug)]
pub(super) struct Converter {
    server: Weak<ApiServer>,
    target: Result<WebhookTarget, String>,
    review: &'static str,
}

impl Converter {
    /// Of a definition; `None` when nothing but the version's name changes.
    pub(super) fn of(conversion: &Conversion, server: &Arc<ApiServer>) -> Option<Arc<Self>> {
        let Conversion::Webhook { client, reviews } = conversion else { return None };
        let known = reviews.iter().find_map(|name| REVIEWS.into_iter().find(|known| name == known));
        Some(Arc::new(Self {
            server: Arc::downgrade(server),
            target: WebhookTarget::parse(client).map_err(|error| error.to_string()),
            review: known.unwrap_or(REVIEWS[0]),
        }))
    }

    /// Converts objects, all of one kind and version, to another version.
    pub(super) async fn convert(&self, objects: Vec<Value>, to: &str) -> Result<Vec<Value>, Status> {
        let Some(first) = objects.first() else { return Ok(objects) };
        let from = described(first);
        let failed = |why: String| Status::internal(format!("conversion webhook for {from} failed: {why}"));
        let server = self.server.upgrade().ok_or_else(|| Status::service_unavailable("the server is shutting down"))?;
        let target = self.target.as_ref().map_err(|error| failed(error.clone()))?;
        let uid = server.entropy.uuid();
        let body = request(self.review, &uid, to, &objects);
        let answer = server.webhooks.post(target, body.into(), TIMEOUT).await;
        let answer = answer.map_err(|error: CallError| failed(error.to_string()))?;
        let converted = read(&answer, &uid).map_err(failed)?;
        if converted.len() != objects.len() {
            let counts = format!("returned {} objects, expected {}", converted.len(), objects.len());
            return Err(Status::internal(format!("conversion webhook for {from} {counts}")));
        }
        let pairs = objects.into_iter().zip(converted).enumerate();
        let accept = |(at, (old, new))| {
            accepted(&old, new, to).map_err(|why| {
                let what = format!("returned invalid converted object at index {at}: {why}");
                Status::internal(format!("conversion webhook for {from} {what}"))
            })
        };
        pairs.map(accept).collect()
    }
}

fn described(object: &Value) -> String {
    timonel_api::Gvk::of(object.str_at(&["apiVersion"]), object.str_at(&["kind"])).to_string()
}

fn request(review: &str, uid: &str, to: &str, objects: &[Value]) -> Vec<u8> {
    let objects: Vec<Json> = objects.iter().map(Json::from).collect();
    json!({
        "kind": "ConversionReview",
        "apiVersion": format!("apiextensions.k8s.io/{review}"),
        "request": {"uid": uid, "desiredAPIVersion": to, "objects": objects},
    })
    .to_string()
    .into_bytes()
}

/// The objects of an answer; pure.
fn read(answer: &[u8], uid: &str) -> Result<Vec<Value>, String> {
    let mut review = decode_json_untyped(answer, &Limits::default()).map_err(|error| error.to_string())?;
    let response = review.at(&["response"]).filter(|response| !response.is_null());
    let response = response.ok_or("no response provided")?;
    let found = response.str_at(&["uid"]);
    if found != uid {
        return Err(format!("expected response.uid={uid:?}, got {found:?}"));
    }
    if response.str_at(&["result", "status"]) != "Success" {
        return Err(match response.str_at(&["result", "message"]) {
            "" => format!("response.result.status was {:?}, not \"Success\"", response.str_at(&["result", "status"])),
            message => message.to_owned(),
        });
    }
    match review.remove_at(&["response", "convertedObjects"]) {
        Some(Value::List(objects)) => Ok(objects),
        _ => Ok(Vec::new()),
    }
}

/// A converted object, with what a webhook may not change put back; pure.
fn accepted(old: &Value, mut new: Value, to: &str) -> Result<Value, String> {
    if new.str_at(&["apiVersion"]) != to {
        return Err(format!(
            "invalid groupVersion (in field apiVersion) {:?}, expected {to:?}",
            new.str_at(&["apiVersion"])
        ));
    }
    let same = |path: &[&str]| old.str_at(path) == new.str_at(path);
    if !same(&["kind"]) {
        return Err(format!("must have the same kind: {} != {}", new.str_at(&["kind"]), old.str_at(&["kind"])));
    }
    for field in ["name", "namespace", "uid"] {
        let (now, before) = (new.str_at(&["metadata", field]), old.str_at(&["metadata", field]));
        if now != before {
            return Err(format!("must have the same {field}: {now} != {before}"));
        }
    }
    let mut metadata = match old.get("metadata") {
        Some(Value::Object(metadata)) => metadata.clone(),
        _ => Object::new(),
    };
    for field in ["labels", "annotations"] {
        match new.at(&["metadata", field]).filter(|value| !value.is_null()) {
            Some(value) => {
                let texts = value.as_object().is_some_and(|map| map.iter().all(|(_, text)| text.as_str().is_some()));
                if !texts {
                    return Err(format!("invalid metadata of type map: {field}"));
                }
                metadata.insert(field, value.clone());
            }
            None => drop(metadata.remove(field)),
        }
    }
    new.set_at(&["metadata"], metadata);
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_labels_and_annotations_of_the_metadata_change() {
        let old = json!({"apiVersion": "a.b/v1", "kind": "K", "metadata": {"name": "n", "uid": "u", "labels": {"x": "y"},
            "resourceVersion": "5"}, "spec": {"a": 1}});
        let new = |change: Json| {
            let mut new = json!({"apiVersion": "a.b/v2", "kind": "K", "metadata": {"name": "n", "uid": "u",
                "annotations": {"p": "q"}, "finalizers": ["f"]}, "spec": {"b": 1}});
            for (name, value) in change.as_object().unwrap() {
                new[name] = value.clone();
            }
            accepted(&old.clone().into(), new.into(), "a.b/v2").map(|value| Json::from(&value))
        };
        assert_eq!(
            new(json!({})).unwrap(),
            json!({"apiVersion": "a.b/v2", "kind": "K", "metadata": {"name": "n", "uid": "u", "annotations": {"p": "q"},
                "resourceVersion": "5"}, "spec": {"b": 1}})
        );
        for (change, why) in [
            (json!({"apiVersion": "a.b/v3"}), "invalid groupVersion"),
            (json!({"kind": "L"}), "must have the same kind"),
            (json!({"metadata": {"name": "m", "uid": "u"}}), "must have the same name: m != n"),
            (json!({"metadata": {"name": "n", "uid": "u", "labels": {"a": 1}}}), "invalid metadata"),
        ] {
            let error = new(change.clone()).unwrap_err();
            assert!(error.contains(why), "{change}: {error}");
        }
    }

    #[test]
    fn answers_must_fit_their_requests() {
        let answer = |response: Json| read(json!({ "response": response }).to_string().as_bytes(), "u");
        let good = json!({"uid": "u", "result": {"status": "Success"}, "convertedObjects": [{"a": 1}]});
        assert_eq!(answer(good).unwrap().len(), 1);
        for (response, why) in [
            (json!(null), "no response provided"),
            (json!({"uid": "v"}), "expected response.uid"),
            (json!({"uid": "u", "result": {"status": "Failed", "message": "no way"}}), "no way"),
        ] {
            assert!(answer(response).unwrap_err().contains(why));
        }
        assert!(read(b"{", "u").is_err());
        let sent: Json = serde_json::from_slice(&request("v1", "u", "a.b/v2", &[json!({"a": 1}).into()])).unwrap();
        assert_eq!(sent["request"]["desiredAPIVersion"], "a.b/v2");
    }
}
