//! Requests to the API server as the executor needs them: typed by kind where a cache exists, bare otherwise.
//! It never retries and never decides.

use super::{
    action::{Propagation, Target},
    kinds::{Key, Kind, Object, Resource},
    view::PodUsage,
};
use kube::{Client, core::Status};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use timonel_api::Quantity;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestError {
    /// The server refused it.
    #[error("{}", .0.message)]
    Refused(Box<Status>),
    /// It did not reach the server, or no answer came back.
    #[error("request failed: {0}")]
    Transport(#[source] kube::Error),
    /// The request could not be built.
    #[error("request cannot be built: {0}")]
    Build(#[source] http::Error),
    /// The object or the answer is not what it should be.
    #[error("JSON does not fit: {0}")]
    Json(#[from] serde_json::Error),
    /// The signer refused.
    #[error("{0}")]
    Signer(String),
}

impl RequestError {
    pub(crate) fn code(&self) -> u16 {
        match self {
            Self::Refused(status) => status.code,
            _ => 0,
        }
    }

    /// The namespace is being deleted, so nothing can be created in it and nobody needs to hear of it.
    pub(crate) fn namespace_is_terminating(&self) -> bool {
        let Self::Refused(status) = self else { return false };
        let causes = status.details.as_ref().map(|details| details.causes.as_slice()).unwrap_or_default();
        causes.iter().any(|cause| cause.reason == "NamespaceTerminating")
    }
}

impl From<kube::Error> for RequestError {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::Refused(status),
            other => Self::Transport(other),
        }
    }
}

/// What a deletion left.
#[derive(Debug)]
pub(crate) enum Deleted {
    /// Nothing.
    Gone,
    /// An object that waits for its grace or its finalizers.
    Waiting(String),
}

fn request(
    method: http::Method,
    path: String,
    content: &str,
    body: Vec<u8>,
) -> Result<http::Request<Vec<u8>>, RequestError> {
    let builder = http::Request::builder().method(method).uri(path);
    builder.header(http::header::CONTENT_TYPE, content).body(body).map_err(RequestError::Build)
}

const JSON: &str = "application/json";
const MERGE: &str = "application/merge-patch+json";
const APPLY: &str = "application/apply-patch+yaml";
/// Objects asked for in one page of a list.
const PAGE: usize = 500;

/// Creates an object; returns what the server stored.
pub(crate) async fn create(client: &Client, object: &Object) -> Result<Object, RequestError> {
    let kind = object.kind();
    let path = kind.resource().path(&Key::of(object.meta()).namespace, "");
    let text = client.request_text(request(http::Method::POST, path, JSON, object.to_json()?)?).await?;
    Ok(Object::parse(kind, &text)?)
}

/// Replaces an object or a subresource of it; returns what the server stored.
pub(crate) async fn replace(client: &Client, object: &Object, subresource: &str) -> Result<Object, RequestError> {
    let (kind, key) = (object.kind(), Key::of(object.meta()));
    let mut path = kind.resource().path(&key.namespace, &key.name);
    if !subresource.is_empty() {
        path = format!("{path}/{subresource}");
    }
    let text = client.request_text(request(http::Method::PUT, path, JSON, object.to_json()?)?).await?;
    Ok(Object::parse(kind, &text)?)
}

/// Merges a patch, with the target's fence inside it; returns the JSON of what the server stored.
pub(crate) async fn merge(
    client: &Client,
    target: &Target,
    subresource: &str,
    patch: &Value,
) -> Result<String, RequestError> {
    let mut patch = patch.clone();
    patch["metadata"]["uid"] = json!(target.uid);
    if !target.resource_version.is_empty() {
        patch["metadata"]["resourceVersion"] = json!(target.resource_version);
    }
    let mut path = target.resource.path(&target.key.namespace, &target.key.name);
    if !subresource.is_empty() {
        path = format!("{path}/{subresource}");
    }
    Ok(client.request_text(request(http::Method::PATCH, path, MERGE, serde_json::to_vec(&patch)?)?).await?)
}

/// What the pods of a namespace that match a selector use, from the metrics API.
pub(crate) async fn usage(
    client: &Client,
    namespace: &str,
    selector: &str,
) -> Result<BTreeMap<String, PodUsage>, RequestError> {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
    let encode = |byte: u8| if plain(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    let selector: String = selector.bytes().map(encode).collect();
    let path = format!("/apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods?labelSelector={selector}");
    let text = client.request_text(request(http::Method::GET, path, JSON, Vec::new())?).await?;
    Ok(read_usage(&serde_json::from_str(&text)?))
}

fn read_usage(list: &Value) -> BTreeMap<String, PodUsage> {
    let mut out = BTreeMap::new();
    for pod in list["items"].as_array().into_iter().flatten() {
        let mut usage = PodUsage::default();
        for container in pod["containers"].as_array().into_iter().flatten() {
            let name = container["name"].as_str().unwrap_or_default();
            for (resource, amount) in container["usage"].as_object().into_iter().flatten() {
                if let Some(amount) = amount.as_str().and_then(|text| text.parse::<Quantity>().ok()) {
                    usage.add(name, resource, amount.milli_value());
                }
            }
        }
        out.insert(pod["metadata"]["name"].as_str().unwrap_or_default().to_owned(), usage);
    }
    out
}

/// Deletes the target.
pub(crate) async fn delete(
    client: &Client,
    target: &Target,
    propagation: Option<Propagation>,
    grace_seconds: Option<u32>,
) -> Result<Deleted, RequestError> {
    let mut options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": target.uid}});
    if !target.resource_version.is_empty() {
        options["preconditions"]["resourceVersion"] = json!(target.resource_version);
    }
    if let Some(propagation) = propagation {
        options["propagationPolicy"] = json!(propagation.as_str());
    }
    if let Some(seconds) = grace_seconds {
        options["gracePeriodSeconds"] = json!(seconds);
    }
    let path = target.resource.path(&target.key.namespace, &target.key.name);
    let text = client.request_text(request(http::Method::DELETE, path, JSON, serde_json::to_vec(&options)?)?).await?;
    let answer: Value = serde_json::from_str(&text)?;
    let meta = &answer["metadata"];
    let waits = meta["deletionTimestamp"].is_string()
        && (meta["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) > 0
            || meta["finalizers"].as_array().is_some_and(|finalizers| !finalizers.is_empty()));
    Ok(if waits { Deleted::Waiting(text) } else { Deleted::Gone })
}

/// Deletes a whole collection in a namespace.
pub(crate) async fn delete_all(client: &Client, resource: &Resource, namespace: &str) -> Result<(), RequestError> {
    let options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"});
    let path = resource.path(namespace, "");
    client.request_text(request(http::Method::DELETE, path, JSON, serde_json::to_vec(&options)?)?).await?;
    Ok(())
}

/// The uid of the object at `key`, if there is one.
pub(crate) async fn uid(client: &Client, resource: &Resource, key: &Key) -> Result<Option<String>, RequestError> {
    let path = resource.path(&key.namespace, &key.name);
    let accept = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
    let builder = http::Request::get(path).header(http::header::ACCEPT, accept);
    let result = client.request_text(builder.body(Vec::new()).map_err(RequestError::Build)?).await;
    match result.map_err(RequestError::from) {
        Ok(text) => {
            let object: Value = serde_json::from_str(&text)?;
            Ok(object["metadata"]["uid"].as_str().map(str::to_owned))
        }
        Err(error) if error.code() == 404 => Ok(None),
        Err(error) => Err(error),
    }
}

/// What the ConfigMap `name` says under `key`, if it is there.
pub(crate) async fn data(
    client: &Client,
    namespace: &str,
    name: &str,
    key: &str,
) -> Result<Option<String>, RequestError> {
    let path = format!("/api/v1/namespaces/{namespace}/configmaps/{name}");
    let request = http::Request::get(path).body(Vec::new()).map_err(RequestError::Build)?;
    match client.request_text(request).await.map_err(RequestError::from) {
        Ok(text) => {
            let map: Value = serde_json::from_str(&text)?;
            Ok(map["data"][key].as_str().map(str::to_owned))
        }
        Err(error) if error.code() == 404 => Ok(None),
        Err(error) => Err(error),
    }
}

/// The metadata of a resource's objects in a namespace, one page of them, and whether there are more.
pub(crate) async fn page(
    client: &Client,
    resource: &Resource,
    namespace: &str,
) -> Result<(Vec<Value>, usize), RequestError> {
    let mut list = metadata(client, resource, namespace, "").await?;
    let beyond = list["metadata"]["remainingItemCount"].as_u64().unwrap_or(0);
    Ok((items(&mut list), usize::try_from(beyond).unwrap_or(usize::MAX)))
}

/// One page of a list of objects' metadata; `token` says where the page before ended.
pub(crate) async fn metadata(
    client: &Client,
    resource: &Resource,
    namespace: &str,
    token: &str,
) -> Result<Value, RequestError> {
    let path = format!("{}?limit={PAGE}&continue={token}", resource.path(namespace, ""));
    let accept = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";
    let builder = http::Request::get(path).header(http::header::ACCEPT, accept);
    let text = client.request_text(builder.body(Vec::new()).map_err(RequestError::Build)?).await?;
    Ok(serde_json::from_str(&text)?)
}

/// Takes the items out of a list.
pub(crate) fn items(list: &mut Value) -> Vec<Value> {
    match list["items"].take() {
        Value::Array(items) => items,
        _ => Vec::new(),
    }
}

/// Applies a configuration that names no field, as that manager: the object is stored anew, if it would be stored
/// otherwise than it is.
pub(crate) async fn touch(
    client: &Client,
    resource: &Resource,
    meta: &Value,
    manager: &str,
) -> Result<(), RequestError> {
    let text = |field: &str| meta[field].as_str().unwrap_or_default();
    let path = format!("{}?fieldManager={manager}", resource.path(text("namespace"), text("name")));
    let fence = json!({"uid": meta["uid"], "resourceVersion": meta["resourceVersion"]});
    let body = json!({"apiVersion": &*resource.api_version, "kind": &*resource.kind, "metadata": fence});
    client.request_text(request(http::Method::PATCH, path, APPLY, serde_json::to_vec(&body)?)?).await?;
    Ok(())
}

/// Whether the authorizer allows what `spec` (of a subject access review) describes.
pub(crate) async fn allowed(client: &Client, spec: &Value) -> Result<bool, RequestError> {
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec});
    let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews".to_owned();
    let text = client.request_text(request(http::Method::POST, path, JSON, serde_json::to_vec(&review)?)?).await?;
    let answer: Value = serde_json::from_str(&text)?;
    Ok(answer["status"]["allowed"] == true && answer["status"]["denied"] != true)
}

/// Reads what a typed kind's JSON says, if the resource is one of the typed kinds.
pub(crate) fn typed(resource: &Resource, json: &str) -> Option<Object> {
    let kind = Kind::find(&resource.api_version, &resource.kind)?;
    Object::parse(kind, json).ok()
}
