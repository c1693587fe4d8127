//! Values of the Kubernetes libraries: addresses, quantities, versions, URLs, formats, authorization.

use compact_str::CompactString;
use std::borrow::Cow;
use std::net::IpAddr;
use std::rc::Rc;
use timonel_api::{Object, Quantity, Value};

use crate::error::EvalError;
use crate::library;
use crate::url::Url;

use crate::value::Val;

/// A value of a library.
#[derive(Clone, Debug)]
pub enum Extension<'a> {
    /// An address.
    Ip(IpAddr),
    /// A network: the address as it was written and the prefix's length.
    Cidr(IpAddr, u8),
    /// A quantity, exact.
    #[doc(hidden)]
    Quantity(Quantity),
    /// A semantic version.
    Semver(semver::Version),
    /// A URL.
    #[doc(hidden)]
    Url(Box<Url>),
    /// A named format.
    #[doc(hidden)]
    Format(&'static library::NamedFormat),
    /// Who may do what.
    Authorizer(AuthorizerVal<'a>),
    /// A path to check.
    PathCheck(AuthorizerVal<'a>, CompactString),
    /// A group, and perhaps a resource, to check.
    ResourceCheck(AuthorizerVal<'a>, ResourceCheck),
    /// What an authorizer said.
    Decision(Decision),
    /// An object made by an expression: `Object{...}`, `JSONPatch{...}`.
    Struct(CompactString, Vec<(CompactString, Val<'a>)>),
}

/// An authorizer as an expression holds it: for the request's user, or for a service account.
#[derive(Clone)]
pub struct AuthorizerVal<'a> {
    pub(crate) authorizer: Rc<dyn Authorizer + 'a>,
    /// Namespace and name of the service account to ask for instead of the user.
    pub(crate) service_account: Option<(CompactString, CompactString)>,
}

impl std::fmt::Debug for AuthorizerVal<'_> {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(to, "Authorizer({:?})", self.service_account)
    }
}

/// A check of a resource, as far as the expression has built it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResourceCheck {
    /// The resource's group.
    pub group: CompactString,
    /// The resource; empty until the expression says it.
    pub resource: CompactString,
    /// The subresource.
    pub subresource: CompactString,
    /// The namespace.
    pub namespace: CompactString,
    /// The object's name.
    pub name: CompactString,
    /// A field selector the request would be restricted by.
    pub field_selector: Option<CompactString>,
    /// A label selector the request would be restricted by.
    pub label_selector: Option<CompactString>,
}

/// What is asked of an authorizer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// A path outside the API's resources.
    Path(CompactString),
    /// A resource.
    Resource(ResourceCheck),
}

/// What an authorizer says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// Whether it is allowed.
    pub allowed: bool,
    /// Why.
    pub reason: String,
    /// What went wrong while deciding.
    pub error: Option<String>,
}

/// Answers the checks of expressions.
pub trait Authorizer {
    /// May the request's user, or this service account (namespace, name), do `verb`?
    fn check(&self, service_account: Option<(&str, &str)>, verb: &str, check: &Check) -> Decision;
}

impl<'a> Val<'a> {
    /// The variable `authorizer`.
    #[must_use]
    pub fn authorizer(authorizer: Rc<dyn Authorizer + 'a>) -> Self {
        Self::extension(Extension::Authorizer(AuthorizerVal { authorizer, service_account: None }))
    }

    /// The variable `authorizer.requestResource`: a check of the request's own resource.
    #[must_use]
    pub fn resource_check(authorizer: Rc<dyn Authorizer + 'a>, check: ResourceCheck) -> Self {
        Self::extension(Extension::ResourceCheck(AuthorizerVal { authorizer, service_account: None }, check))
    }
}

impl Extension<'_> {
    pub(crate) fn type_name(&self) -> &str {
        match self {
            Self::Ip(_) => library::IP,
            Self::Cidr(..) => library::CIDR,
            Self::Quantity(_) => library::QUANTITY,
            Self::Semver(_) => library::SEMVER,
            Self::Url(_) => library::URL,
            Self::Format(_) => library::FORMAT,
            Self::Authorizer(_) => library::AUTHORIZER,
            Self::PathCheck(..) => library::PATH_CHECK,
            Self::ResourceCheck(_, check) if check.resource.is_empty() => library::GROUP_CHECK,
            Self::ResourceCheck(..) => library::RESOURCE_CHECK,
            Self::Decision(_) => library::DECISION,
            Self::Struct(name, _) => name,
        }
    }

    pub(crate) fn equals(&self, other: &Extension<'_>) -> bool {
        match (self, other) {
            (Self::Ip(a), Extension::Ip(b)) => a == b,
            (Self::Cidr(a, x), Extension::Cidr(b, y)) => a == b && x == y,
            (Self::Quantity(a), Extension::Quantity(b)) => a == b,
            (Self::Semver(a), Extension::Semver(b)) => a.cmp_precedence(b).is_eq(),
            (Self::Url(a), Extension::Url(b)) => a.text() == b.text(),
            (Self::Format(a), Extension::Format(b)) => a.name == b.name,
            (Self::Decision(a), Extension::Decision(b)) => a == b,
            (Self::ResourceCheck(_, a), Extension::ResourceCheck(_, b)) => a == b,
            (Self::PathCheck(_, a), Extension::PathCheck(_, b)) => a == b,
            (Self::Struct(a, x), Extension::Struct(b, y)) => {
                let found = |(name, value): &(CompactString, Val<'_>)| {
                    y.iter().any(|(other, held)| other == name && value.equals(held))
                };
                a == b && x.len() == y.len() && x.iter().all(found)
            }
            _ => false,
        }
    }

    pub(crate) fn size(&self) -> Option<u64> {
        match self {
            Self::Ip(ip) | Self::Cidr(ip, _) => Some(if ip.is_ipv4() { 4 } else { 16 }),
            _ => None,
        }
    }

    pub(crate) fn to_value(&self) -> Result<Value, EvalError> {
        match self {
            Self::Struct(_, fields) => {
                let members = fields.iter().map(|(name, value)| Ok((name.clone(), value.to_value()?)));
                Ok(Value::Object(Object::from_members(members.collect::<Result<_, EvalError>>()?)))
            }
            Self::Quantity(quantity) => Ok(Value::from(quantity.to_string())),
            other => Err(EvalError::failed(format!("{} has no JSON form", other.type_name()))),
        }
    }

    /// The text of what can be turned into text.
    pub(crate) fn spell(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Ip(ip) => Some(Cow::Owned(ip.to_string())),
            Self::Cidr(ip, bits) => Some(Cow::Owned(format!("{ip}/{bits}"))),
            _ => None,
        }
    }
}
