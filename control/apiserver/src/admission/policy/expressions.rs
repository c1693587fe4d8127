//! What expressions of admission see: the variables with their types, and their values for one write.

use crate::{
    admission::{Lookup, webhook::Subject},
    authn::{AUTHENTICATED_GROUP, User},
    authz::{Attributes, Authorizer as _},
    registry::{Call, View},
};
use std::{
    borrow::Cow,
    cell::RefCell,
    collections::BTreeMap,
    rc::{Rc, Weak},
    sync::{Arc, LazyLock},
};
use timonel_api::{Key, Status, Value};
use timonel_cel::{
    Authorizer, Bindings, Budget, Check, Decision, Environment, EvalError, Fields, ObjectType, Program, ResourceCheck,
    Type, Val,
};

fn object(name: &str, fields: &[(&str, Type)]) -> Type {
    Type::Object(ObjectType::new(name, fields.iter().map(|(name, ty)| (Key::from(*name), ty.clone()))))
}

/// The type of the variable `request`.
static REQUEST: LazyLock<Type> = LazyLock::new(|| {
    let text = || Type::String;
    let kind = object("kubernetes.GroupVersionKind", &[("group", text()), ("version", text()), ("kind", text())]);
    let resource =
        object("kubernetes.GroupVersionResource", &[("group", text()), ("version", text()), ("resource", text())]);
    let user = object(
        "kubernetes.UserInfo",
        &[
            ("username", text()),
            ("uid", text()),
            ("groups", Type::list(text())),
            ("extra", Type::map(text(), Type::list(text()))),
        ],
    );
    object(
        "kubernetes.AdmissionRequest",
        &[
            ("kind", kind.clone()),
            ("resource", resource.clone()),
            ("subResource", text()),
            ("requestKind", kind),
            ("requestResource", resource),
            ("requestSubResource", text()),
            ("name", text()),
            ("namespace", text()),
            ("operation", text()),
            ("userInfo", user),
            ("dryRun", Type::Bool),
            ("options", Type::Dyn),
        ],
    )
});

/// The type of the variable `namespaceObject`.
static NAMESPACE: LazyLock<Type> = LazyLock::new(|| {
    let labels = || Type::map(Type::String, Type::String);
    let metadata = object(
        "kubernetes.NamespaceMetadata",
        &[
            ("name", Type::String),
            ("generateName", Type::String),
            ("namespace", Type::String),
            ("labels", labels()),
            ("annotations", labels()),
            ("UID", Type::String),
            ("creationTimestamp", Type::Timestamp),
            ("deletionGracePeriodSeconds", Type::Int),
            ("deletionTimestamp", Type::Timestamp),
            ("generation", Type::Int),
            ("resourceVersion", Type::String),
            ("finalizers", Type::list(Type::String)),
        ],
    );
    let spec = object("kubernetes.NamespaceSpec", &[("finalizers", Type::list(Type::String))]);
    let status = object("kubernetes.NamespaceStatus", &[("phase", Type::String)]);
    object("kubernetes.Namespace", &[("metadata", metadata), ("spec", spec), ("status", status)])
});

/// The variables of admission's expressions.
pub(crate) fn environment(params: bool, authorizer: bool) -> Environment {
    environment_for(&Type::Dyn, params.then_some(&Type::Dyn), authorizer)
}

/// The same with known types of the object and the parameters, for type checks.
pub(crate) fn environment_for(object: &Type, params: Option<&Type>, authorizer: bool) -> Environment {
    let mut environment = Environment::new()
        .variable("object", object.clone())
        .variable("oldObject", object.clone())
        .variable("request", REQUEST.clone())
        .variable("namespaceObject", NAMESPACE.clone());
    if let Some(params) = params {
        environment = environment.variable("params", params.clone());
    }
    if authorizer {
        environment = environment
            .variable("authorizer", Type::authorizer())
            .variable("authorizer.requestResource", Type::resource_check());
    }
    environment
}

/// The values of one write in one version.
pub(crate) struct Inputs<'a> {
    object: Cow<'a, Value>,
    old: Cow<'a, Value>,
    request: Value,
    namespace: Value,
    asks: Asks<'a>,
    resource: ResourceCheck,
}

impl<'a> Inputs<'a> {
    pub(crate) fn new(subject: &Subject<'a>, view: &View) -> Result<Self, Status> {
        let shown = |object: Option<&'a Value>| match object {
            Some(object) if !object.is_null() => subject.in_version(view, object),
            _ => Ok(Cow::Owned(Value::Null)),
        };
        let call = subject.call;
        let lookup: &dyn Lookup = call.server.lookup.as_ref();
        let namespace = match subject.namespace {
            "" => None,
            _ if subject.is_namespace_object() => None,
            name => lookup.get("", "namespaces", "", name),
        };
        Ok(Self {
            object: shown(subject.object)?,
            old: shown(subject.old)?,
            request: described(subject.request("", view)),
            namespace: namespace.map_or(Value::Null, |namespace| shown_namespace(&namespace)),
            asks: Asks { call },
            resource: ResourceCheck {
                group: view.resource.group.clone(),
                resource: view.resource.plural.clone(),
                subresource: subject.subresource.into(),
                namespace: subject.namespace.into(),
                name: subject.name.into(),
                ..ResourceCheck::default()
            },
        })
    }

    /// The variables' values; `params` where the expression has them.
    pub(crate) fn bindings<'v>(&'v self, params: Option<&'v Value>) -> Result<Bindings<'v>, EvalError>
    where
        'a: 'v,
    {
        let asks: Rc<dyn Authorizer + 'v> = Rc::new(self.asks);
        let mut bindings = Bindings::new()
            .with("object", Val::of(&self.object))
            .with("oldObject", Val::of(&self.old))
            .with("request", Val::typed(&self.request, &REQUEST)?)
            .with("namespaceObject", Val::typed(&self.namespace, &NAMESPACE)?)
            .with("authorizer", Val::authorizer(asks.clone()))
            .with("authorizer.requestResource", Val::resource_check(asks, self.resource.clone()));
        if let Some(params) = params {
            bindings.set("params", Val::of(params));
        }
        Ok(bindings)
    }
}

/// Every text that the type has is there, as Go's struct has it.
fn described(mut request: Value) -> Value {
    request.remove_at(&["uid"]);
    for field in ["subResource", "requestSubResource", "name", "namespace"] {
        if request.get(field).is_none() {
            request.set_at(&[field], "");
        }
    }
    request
}

fn shown_namespace(namespace: &Value) -> Value {
    let mut shown = Value::object();
    for part in ["metadata", "spec", "status"] {
        if let Some(value) = namespace.get(part) {
            shown.set_at(&[part], value.clone());
        }
    }
    if let Some(uid) = namespace.at(&["metadata", "uid"]) {
        shown.set_at(&["metadata", "UID"], uid.clone());
    }
    shown
}

/// Expressions' questions to the cluster's authorizer.
#[derive(Clone, Copy)]
struct Asks<'a> {
    call: &'a Call<'a>,
}

impl Authorizer for Asks<'_> {
    fn check(&self, service_account: Option<(&str, &str)>, verb: &str, check: &Check) -> Decision {
        let account = service_account
            .map(|(namespace, name)| User::service_account(namespace, name, "").with_group(AUTHENTICATED_GROUP));
        let user = account.as_ref().unwrap_or(self.call.user);
        let attributes = match check {
            Check::Path(path) => Attributes::path(verb, path),
            Check::Resource(check) => Attributes {
                subresource: &check.subresource,
                version: "*",
                label_selector: check.label_selector.as_deref().unwrap_or_default(),
                field_selector: check.field_selector.as_deref().unwrap_or_default(),
                ..Attributes::resource(verb, &check.group, &check.resource, &check.namespace, &check.name)
            },
        };
        let decision = self.call.server.authorizer.authorize(user, &attributes, &self.call.lookup());
        Decision { allowed: decision.is_allowed(), reason: decision.reason().to_owned(), error: None }
    }
}

/// A policy's variables: each is evaluated when an expression first names it, and kept.
pub(crate) struct Variables<'a> {
    programs: &'a [(Key, Result<Program, String>)],
    bindings: Bindings<'a>,
    own: Weak<Self>,
    known: RefCell<BTreeMap<Key, Result<Val<'a>, EvalError>>>,
    budget: RefCell<Budget>,
}

impl<'a> Variables<'a> {
    /// The bindings with the variable `variables`.
    pub(crate) fn bind(bindings: Bindings<'a>, programs: &'a [(Key, Result<Program, String>)]) -> Bindings<'a> {
        if programs.is_empty() {
            return bindings;
        }
        let variables = Rc::new_cyclic(|own| Self {
            programs,
            bindings: bindings.clone(),
            own: own.clone(),
            known: RefCell::default(),
            budget: RefCell::new(Budget::default()),
        });
        bindings.with("variables", Val::computed(variables))
    }

    fn compute(&self, name: &str, program: &'a Result<Program, String>) -> Result<Val<'a>, EvalError> {
        let program = program
            .as_ref()
            .map_err(|why| EvalError::failed(format!("composited variable {name:?} fails to compile: {why}")))?;
        let own = self.own.upgrade().ok_or_else(|| EvalError::failed("variables are gone"))?;
        let bindings = self.bindings.clone().with("variables", Val::computed(own));
        // Taken out while it runs: a variable may name others.
        let mut budget = *self.budget.borrow();
        let outcome = program.evaluate(&bindings, &mut budget);
        *self.budget.borrow_mut() = budget;
        outcome.map_err(|error| match error {
            EvalError::CostLimit => error,
            other => EvalError::failed(format!("composited variable {name:?} fails to evaluate: {other}")),
        })
    }
}

impl<'a> Fields<'a> for Variables<'a> {
    fn get(&self, name: &str) -> Option<Result<Val<'a>, EvalError>> {
        if let Some(known) = self.known.borrow().get(name) {
            return Some(known.clone());
        }
        let (key, program) = self.programs.iter().find(|(held, _)| held == name)?;
        let outcome = self.compute(name, program);
        self.known.borrow_mut().insert(key.clone(), outcome.clone());
        Some(outcome)
    }

    fn len(&self) -> usize {
        self.programs.len()
    }
}

/// Adds the variable `variables` with the types found so far.
pub(crate) fn with_variables(environment: &Environment, types: &[(Key, Type)]) -> Environment {
    if types.is_empty() {
        return environment.clone();
    }
    let ty = Type::Object(ObjectType::new("kubernetes.variables", types.iter().cloned()));
    environment.clone().variable("variables", ty)
}

/// Environments are made once.
pub(crate) static CONDITIONS: LazyLock<Arc<Environment>> = LazyLock::new(|| Arc::new(environment(false, true)));
