//! Questions to the authorizer, built step by step.

use super::{Entry, Outcome, mismatch, text};
use crate::error::EvalError;
use crate::extension::{AuthorizerVal, Check, Decision, Extension, ResourceCheck};
use crate::value::Val;
use timonel_api::names;

pub(super) const TABLE: &[Entry] = &[
    ("path", &["Authorizer.(string): PathCheck"], path),
    ("group", &["Authorizer.(string): GroupCheck"], |args| {
        let check = ResourceCheck { group: text(&args[1])?.into(), ..ResourceCheck::default() };
        Ok(Val::extension(Extension::ResourceCheck(authorizer(&args[0])?.clone(), check)))
    }),
    ("serviceAccount", &["Authorizer.(string, string): Authorizer"], service_account),
    ("resource", &["GroupCheck.(string): ResourceCheck"], |args| {
        if text(&args[1])?.trim().is_empty() {
            return Err(EvalError::failed("resource must not be empty"));
        }
        refine(args, |check, to| check.resource = to.into())
    }),
    ("subresource", &["ResourceCheck.(string): ResourceCheck"], |args| {
        refine(args, |check, to| check.subresource = to.into())
    }),
    ("namespace", &["ResourceCheck.(string): ResourceCheck"], |args| {
        refine(args, |check, to| check.namespace = to.into())
    }),
    ("name", &["ResourceCheck.(string): ResourceCheck"], |args| refine(args, |check, to| check.name = to.into())),
    ("fieldSelector", &["ResourceCheck.(string): ResourceCheck"], |args| {
        refine(args, |check, to| check.field_selector = Some(to.into()))
    }),
    ("labelSelector", &["ResourceCheck.(string): ResourceCheck"], |args| {
        refine(args, |check, to| check.label_selector = Some(to.into()))
    }),
    ("check", &["PathCheck.(string): Decision", "ResourceCheck.(string): Decision"], check),
    ("allowed", &["Decision.(): bool"], |args| decision(args, |held| Val::Bool(held.allowed))),
    ("reason", &["Decision.(): string"], |args| decision(args, |held| Val::string(held.reason.as_str()))),
    ("errored", &["Decision.(): bool"], |args| decision(args, |held| Val::Bool(held.error.is_some()))),
    ("error", &["Decision.(): string"], |args| {
        decision(args, |held| Val::string(held.error.as_deref().unwrap_or_default()))
    }),
];

fn authorizer<'v, 'a>(val: &'v Val<'a>) -> Result<&'v AuthorizerVal<'a>, EvalError> {
    match val {
        Val::Extension(held) => match &**held {
            Extension::Authorizer(authorizer) => Ok(authorizer),
            _ => Err(EvalError::no_such_overload()),
        },
        _ => Err(EvalError::no_such_overload()),
    }
}

fn path<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    let path = text(&args[1])?;
    if path.trim().is_empty() {
        return Err(EvalError::failed("path must not be empty"));
    }
    Ok(Val::extension(Extension::PathCheck(authorizer(&args[0])?.clone(), path.into())))
}

fn service_account<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    let (namespace, name) = (text(&args[1])?, text(&args[2])?);
    if !names::dns_subdomain(name).is_empty() {
        return Err(EvalError::failed("Invalid service account name"));
    }
    if !names::dns_label(namespace).is_empty() {
        return Err(EvalError::failed("Invalid service account namespace"));
    }
    let mut held = authorizer(&args[0])?.clone();
    held.service_account = Some((namespace.into(), name.into()));
    Ok(Val::extension(Extension::Authorizer(held)))
}

fn refine<'a>(args: &[Val<'a>], change: fn(&mut ResourceCheck, &str)) -> Outcome<'a> {
    let Val::Extension(held) = &args[0] else { return mismatch() };
    let Extension::ResourceCheck(authorizer, check) = &**held else { return mismatch() };
    let mut check = check.clone();
    change(&mut check, text(&args[1])?);
    Ok(Val::extension(Extension::ResourceCheck(authorizer.clone(), check)))
}

fn check<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    let verb = text(&args[1])?;
    let Val::Extension(held) = &args[0] else { return mismatch() };
    let (authorizer, check) = match &**held {
        Extension::PathCheck(authorizer, path) => (authorizer, Check::Path(path.clone())),
        Extension::ResourceCheck(authorizer, check) => (authorizer, Check::Resource(check.clone())),
        _ => return mismatch(),
    };
    let account = authorizer.service_account.as_ref().map(|(namespace, name)| (namespace.as_str(), name.as_str()));
    Ok(Val::extension(Extension::Decision(authorizer.authorizer.check(account, verb, &check))))
}

fn decision<'a>(args: &[Val<'a>], of: impl FnOnce(&Decision) -> Val<'a>) -> Outcome<'a> {
    match &args[0] {
        Val::Extension(held) => match &**held {
            Extension::Decision(decision) => Ok(of(decision)),
            _ => mismatch(),
        },
        _ => mismatch(),
    }
}
