//! What every operation on a resource needs to know about its request.

use super::view::View;
use crate::{
    ApiServer,
    admission::{self, AdmissionError, AdmissionRequest, Operation, PairedWrite},
    audit::Trail,
    authn::User,
    authz::{Answers, Asking, Attributes},
    body::{Body, ReadError},
    http::{Accept, Media, Query, RequestInfo},
};
use ::http::HeaderMap;
use bytes::Bytes;
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
};
use timonel_api::{
    Decoded, FieldErrors, FieldValidation, Limits, Path, Status, TypeId, Value, decode_json, decode_proto, decode_yaml,
};

/// Bytes of a request's body, as upstream bounds them.
pub(crate) const MAX_BODY: usize = 3 << 20;

/// One request about a resource.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    pub(crate) server: &'a ApiServer,
    pub(crate) view: Arc<View>,
    pub(crate) info: &'a RequestInfo<'a>,
    pub(crate) query: &'a Query<'a>,
    pub(crate) raw_query: &'a str,
    pub(crate) method: &'a ::http::Method,
    pub(crate) headers: &'a HeaderMap,
    /// What the connection left with the request: the upgrade that a stream takes.
    pub(crate) extensions: Mutex<::http::Extensions>,
    pub(crate) user: &'a User,
    pub(crate) now: jiff::Timestamp,
    pub(crate) accept: Accept,
    pub(crate) warnings: Mutex<Vec<String>>,
    /// What the request leaves in the audit log, where the policy wants that.
    pub(crate) trail: Option<&'a Trail>,
    /// What authorizers outside said to its questions.
    pub(crate) answers: Answers,
}

/// What admission left behind for the commit.
#[derive(Debug, Default)]
pub(crate) struct Admitted {
    pub(crate) paired: Vec<PairedWrite>,
}

impl Call<'_> {
    /// The namespace of the request; empty for what belongs to the cluster.
    pub(crate) fn namespace(&self) -> &str {
        if self.view.resource.namespaced { &self.info.namespace } else { "" }
    }

    pub(crate) fn warn(&self, text: impl Into<String>) {
        let mut warnings = self.warnings.lock();
        let text = text.into();
        if !warnings.contains(&text) {
            warnings.push(text);
        }
    }

    /// An object of the view as the store holds it.
    pub(crate) async fn encode(&self, object: &Value) -> Result<Bytes, Status> {
        match &self.view.custom {
            Some(custom) => custom.encode(object).await,
            None => Ok(crate::cache::encode(object, &self.view.columns)),
        }
    }

    /// Adds an annotation to the request's audit event; the first of a name stays.
    pub(crate) fn annotate(&self, key: &str, value: &str) {
        if let Some(trail) = self.trail {
            trail.annotate(key, value);
        }
    }

    /// What type checks find in a validating policy, into its status.
    pub(crate) fn write_type_checks(&self, object: &mut Value) {
        if self.server.type_checks.load(Ordering::Relaxed) {
            admission::write_type_checks(&self.server.resources.load(), self.view.kind(), object);
        }
    }

    /// Whether nothing is to be stored.
    pub(crate) fn dry_run(&self) -> Result<bool, Status> {
        let mut asked = false;
        for value in self.query.all("dryRun").filter(|value| !value.is_empty()) {
            if value != "All" {
                let mut errors = FieldErrors::new();
                let asked: Vec<Value> = self.query.all("dryRun").map(Value::from).collect();
                errors.not_supported(&Path::new("dryRun"), Value::List(asked), &["All"]);
                return Err(Status::invalid("meta.k8s.io", self.options_kind(), "", &errors));
            }
            asked = true;
        }
        Ok(asked)
    }

    pub(super) fn options_kind(&self) -> &'static str {
        match &*self.info.verb {
            "create" => "CreateOptions",
            "update" => "UpdateOptions",
            "patch" => "PatchOptions",
            _ => "DeleteOptions",
        }
    }

    /// Whether the user may also create what a change of it would have to create.
    pub(super) async fn authorize_create(&self) -> Result<(), Status> {
        let attributes = Attributes { verb: "create", ..self.info.attributes() };
        self.server.permit(self.user, &attributes, None).await
    }

    /// The cluster's objects, and what authorizers outside said so far.
    pub(crate) fn lookup(&self) -> Asking<'_> {
        Asking { objects: self.server.lookup.as_ref(), answers: &self.answers }
    }

    /// What a judgement comes to once nothing that it asked of authorizers outside is open: it is made again for every
    /// answer, and what it told before is forgotten.
    pub(crate) async fn settled<T>(&self, mut judge: impl FnMut() -> T) -> T {
        let warnings = self.warnings.lock().len();
        let annotations = self.trail.map(Trail::annotations);
        let undo = || {
            self.warnings.lock().truncate(warnings);
            if let (Some(trail), Some(annotations)) = (self.trail, &annotations) {
                trail.set_annotations(annotations.clone());
            }
        };
        self.server.settled(&self.answers, |_| judge(), undo).await
    }

    /// What to do about fields that do not belong.
    pub(crate) fn field_validation(&self) -> Result<FieldValidation, Status> {
        let text = self.query.get("fieldValidation");
        FieldValidation::parse(text).ok_or_else(|| {
            let mut errors = FieldErrors::new();
            errors.not_supported(&Path::new("fieldValidation"), text, &["", "Ignore", "Strict", "Warn"]);
            Status::invalid("meta.k8s.io", self.options_kind(), "", &errors)
        })
    }

    /// Decodes a body of the given type; what does not belong becomes warnings or a refusal.
    pub(crate) fn decode(&self, ty: TypeId, kind: &str, media: Media, bytes: &[u8]) -> Result<Value, Status> {
        let schema = self.view.scheme.schema();
        let limits = Limits::default();
        let decoded = match media {
            Media::Json => decode_json(schema, ty, bytes, &limits),
            Media::Yaml => decode_yaml(schema, ty, bytes, &limits),
            Media::Protobuf => {
                decode_proto(schema, ty, bytes, &limits).map(|value| Decoded { value, findings: Vec::new() })
            }
        };
        let version = &self.view.resource.version;
        let refuse = |error: timonel_api::DecodeError| {
            Status::bad_request(format!("{kind} in version {version:?} cannot be handled as a {kind}: {error}"))
        };
        let (value, warnings) =
            decoded.and_then(|decoded| decoded.checked(self.field_validation().unwrap_or_default())).map_err(refuse)?;
        warnings.into_iter().for_each(|warning| self.warn(warning));
        if let Some(trail) = self.trail {
            trail.request_object(&value);
        }
        Ok(value)
    }

    /// Decodes an object of the view's kind and checks that it says so.
    pub(crate) fn decode_object(&self, media: Media, bytes: &[u8]) -> Result<Value, Status> {
        self.field_validation()?;
        let resource = &self.view.resource;
        let mut value = self.decode(resource.body, &resource.kind, media, bytes)?;
        check_kind(&value, &resource.api_version(), &resource.kind)?;
        self.view.stamp(&mut value);
        Ok(value)
    }

    /// Runs the mutating half of admission: built-in rules, policies, webhooks.
    pub(crate) async fn mutate(
        &self,
        operation: Operation,
        object: &mut Value,
        old: Option<&Value>,
    ) -> Result<(), Status> {
        let dry_run = self.dry_run()?;
        let built_in = |object: &mut Value| {
            let run = |server: &ApiServer, request: &mut AdmissionRequest<'_>| {
                server.admission.mutate(request, server.lookup.as_ref())
            };
            self.admit(operation, object, old, dry_run, run).map(drop)
        };
        built_in(object)?;
        admission::mutate_by_others(self, operation, object, old, built_in).await
    }

    /// Runs the validating half; what is to be written beside comes back.
    pub(crate) async fn validate(
        &self,
        operation: Operation,
        object: &mut Value,
        old: Option<&Value>,
    ) -> Result<Admitted, Status> {
        let dry_run = self.dry_run()?;
        let judge = || {
            let lookup = self.lookup();
            self.admit(operation, object, old, dry_run, |server, request| server.admission.validate(request, &lookup))
        };
        let mut admitted = self.settled(judge).await?;
        admission::judge_by_others(self, operation, object, old).await?;
        let last = self.admit(operation, object, old, dry_run, |server, request| {
            server.admission.validate_after_webhooks(request, server.lookup.as_ref())
        })?;
        admitted.paired.extend(last.paired);
        Ok(admitted)
    }

    /// Name and namespace of what a write is about, as admission is told them.
    pub(crate) fn place<'p>(&'p self, old: Option<&'p Value>) -> (&'p str, &'p str) {
        let (found, within) = match old {
            Some(old) => (old.str_at(&["metadata", "name"]), old.str_at(&["metadata", "namespace"])),
            None => ("", ""),
        };
        let named = if self.info.is_named { &*self.info.name } else { found };
        let namespace = match self.view.plural() {
            "namespaces" if self.view.group().is_empty() => named,
            _ if self.namespace().is_empty() => within,
            _ => self.namespace(),
        };
        (named, namespace)
    }

    fn admit(
        &self,
        operation: Operation,
        object: &mut Value,
        old: Option<&Value>,
        dry_run: bool,
        run: impl FnOnce(&ApiServer, &mut AdmissionRequest<'_>) -> Result<(), AdmissionError>,
    ) -> Result<Admitted, Status> {
        let kind = object.str_at(&["kind"]).to_owned();
        let kind = if kind.is_empty() { self.view.resource.kind.to_string() } else { kind };
        let (named, namespace) = self.place(old);
        let options = Value::object();
        let mut request = AdmissionRequest {
            operation,
            group: &self.view.storage.group,
            version: &self.view.storage.version,
            resource: &self.view.storage.plural,
            subresource: &self.info.subresource,
            kind: &kind,
            namespace,
            name: named,
            user: self.user,
            old,
            object,
            options: &options,
            dry_run,
            now: self.now,
            entropy: &self.server.entropy,
            warnings: Vec::new(),
            audit: BTreeMap::new(),
            paired: Vec::new(),
        };
        let judged = run(self.server, &mut request).map_err(admission_status);
        request.audit.iter().for_each(|(key, value)| self.annotate(key, value));
        let (warnings, paired) = (std::mem::take(&mut request.warnings), std::mem::take(&mut request.paired));
        judged?;
        warnings.into_iter().for_each(|warning| self.warn(warning));
        Ok(Admitted { paired })
    }
}

/// An object must not claim to be something else than its path says.
pub(crate) fn check_kind(value: &Value, api_version: &str, kind: &str) -> Result<(), Status> {
    let (found_version, found_kind) = (value.str_at(&["apiVersion"]), value.str_at(&["kind"]));
    if !found_kind.is_empty() && found_kind != kind {
        let found = found_version.rsplit('/').next().unwrap_or("");
        return Err(Status::bad_request(format!(
            "{found_kind} in version {found:?} cannot be handled as a {kind}: no kind {found_kind:?} is registered for this path"
        )));
    }
    if !found_version.is_empty() && found_version != api_version {
        return Err(Status::bad_request(format!(
            "the API version in the data ({found_version}) does not match the expected API version ({api_version})"
        )));
    }
    Ok(())
}

/// Admission's refusal as a client receives it.
pub(crate) fn admission_status(error: AdmissionError) -> Status {
    Status::from(error)
}

/// Reads a request's body within its bound.
pub(crate) async fn read_body(body: Body) -> Result<Bytes, Status> {
    crate::body::read(body, MAX_BODY).await.map_err(|error| match error {
        ReadError::TooLarge(limit) => Status::request_entity_too_large(&format!("limit is {limit}")),
        ReadError::Broken(why) => Status::bad_request(format!("reading the body: {why}")),
    })
}
