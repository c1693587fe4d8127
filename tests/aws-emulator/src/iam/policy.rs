//! Policy documents: their reading, strict, and their verdict over a request.

use super::{condition::Condition, condition::substitute, pattern::matches};
use serde_json::Value;
use std::collections::BTreeMap;

/// What is known of a request, by key in lower case.
pub(crate) type Context = BTreeMap<String, Vec<String>>;

/// A policy that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed policy document: {0}")]
pub struct PolicyError(String);

/// A policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Policy {
    statements: Vec<Statement>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Statement {
    allow: bool,
    actions: Words,
    resources: Words,
    /// Kind (`AWS`, `Federated`, `Service`) and who; only trust has them.
    principals: Vec<(String, String)>,
    conditions: Vec<Condition>,
}

/// Patterns, or all but those.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Words {
    patterns: Vec<String>,
    but: bool,
}

/// What policies say to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Allowed,
    /// No statement speaks of it.
    Unsaid,
    /// A statement forbids it.
    Denied,
}

impl Policy {
    /// Reads a document; anything that is not understood is an error.
    pub(crate) fn parse(document: &Value) -> Result<Self, PolicyError> {
        let wrong = |what: &str| PolicyError(what.to_owned());
        let object = document.as_object().ok_or_else(|| wrong("not an object"))?;
        if let Some(key) = object.keys().find(|key| !["Version", "Id", "Statement"].contains(&key.as_str())) {
            return Err(wrong(&format!("unknown element {key}")));
        }
        if object.get("Version").is_some_and(|version| version != "2012-10-17") {
            return Err(wrong("Version is not 2012-10-17"));
        }
        let statements = match object.get("Statement") {
            Some(Value::Array(all)) => all.iter().map(Statement::parse).collect::<Result<_, _>>()?,
            Some(one @ Value::Object(_)) => vec![Statement::parse(one)?],
            _ => return Err(wrong("no Statement")),
        };
        Ok(Self { statements })
    }

    /// What it says to `action` on `resource`. `principals` are the caller's names, for trust policies.
    pub(crate) fn verdict(
        &self,
        action: &str,
        resource: &str,
        context: &Context,
        principals: Option<&[(&str, String)]>,
    ) -> Verdict {
        let mut verdict = Verdict::Unsaid;
        for statement in self.statements.iter().filter(|it| it.speaks_of(action, resource, context, principals)) {
            if !statement.allow {
                return Verdict::Denied;
            }
            verdict = Verdict::Allowed;
        }
        verdict
    }
}

impl Statement {
    fn parse(value: &Value) -> Result<Self, PolicyError> {
        const KNOWN: [&str; 8] =
            ["Sid", "Effect", "Action", "NotAction", "Resource", "NotResource", "Principal", "Condition"];
        let wrong = |what: String| PolicyError(what);
        let object = value.as_object().ok_or_else(|| wrong("a statement is not an object".into()))?;
        if let Some(key) = object.keys().find(|key| !KNOWN.contains(&key.as_str())) {
            return Err(wrong(format!("unknown element {key}")));
        }
        let allow = match object.get("Effect").and_then(Value::as_str) {
            Some("Allow") => true,
            Some("Deny") => false,
            _ => return Err(wrong("Effect is neither Allow nor Deny".into())),
        };
        let words = |name: &str| -> Result<Option<Words>, PolicyError> {
            let not = format!("Not{name}");
            let (value, but) = match (object.get(name), object.get(&not)) {
                (Some(value), None) => (value, false),
                (None, Some(value)) => (value, true),
                (None, None) => return Ok(None),
                _ => return Err(PolicyError(format!("{name} and {not}"))),
            };
            Ok(Some(Words { patterns: texts(value)?, but }))
        };
        let actions = words("Action")?.ok_or_else(|| wrong("no Action".into()))?;
        let principals = object.get("Principal").map(principals).transpose()?.unwrap_or_default();
        let any = Words { patterns: vec!["*".to_owned()], but: false };
        let resources = match words("Resource")? {
            Some(words) => words,
            None if !principals.is_empty() => any,
            None => return Err(wrong("no Resource".into())),
        };
        let conditions = object.get("Condition").map(conditions).transpose()?.unwrap_or_default();
        Ok(Self { allow, actions, resources, principals, conditions })
    }

    fn speaks_of(&self, action: &str, resource: &str, context: &Context, callers: Option<&[(&str, String)]>) -> bool {
        let action = action.to_lowercase();
        let named = |callers: &[(&str, String)]| {
            self.principals.iter().any(|(kind, who)| {
                who == "*" || callers.iter().any(|(caller_kind, caller)| kind == caller_kind && who == caller)
            })
        };
        self.actions.hold(|pattern| matches(&pattern.to_lowercase(), &action))
            && self.resources.hold(|pattern| matches(&substitute(pattern, context), resource))
            && callers.is_none_or(named)
            && self.conditions.iter().all(|condition| condition.holds(context))
    }
}

impl Words {
    fn hold(&self, fits: impl Fn(&str) -> bool) -> bool {
        self.patterns.iter().any(|pattern| fits(pattern)) != self.but
    }
}

fn texts(value: &Value) -> Result<Vec<String>, PolicyError> {
    let text = |value: &Value| match value {
        Value::String(text) => Ok(text.clone()),
        Value::Bool(flag) => Ok(flag.to_string()),
        Value::Number(number) => Ok(number.to_string()),
        _ => Err(PolicyError("a value is not text".to_owned())),
    };
    match value {
        Value::Array(all) => all.iter().map(text).collect(),
        one => Ok(vec![text(one)?]),
    }
}

fn principals(value: &Value) -> Result<Vec<(String, String)>, PolicyError> {
    match value {
        Value::String(text) if text == "*" => Ok(vec![("AWS".to_owned(), "*".to_owned())]),
        Value::Object(kinds) => {
            let mut all = Vec::new();
            for (kind, who) in kinds {
                all.extend(texts(who)?.into_iter().map(|who| (kind.clone(), who)));
            }
            Ok(all)
        }
        _ => Err(PolicyError("Principal".to_owned())),
    }
}

fn conditions(value: &Value) -> Result<Vec<Condition>, PolicyError> {
    let wrong = || PolicyError("Condition".to_owned());
    let mut all = Vec::new();
    for (operator, keys) in value.as_object().ok_or_else(wrong)? {
        for (key, values) in keys.as_object().ok_or_else(wrong)? {
            let condition = Condition::parse(operator, key, texts(values)?);
            all.push(condition.ok_or_else(|| PolicyError(format!("unknown operator {operator}")))?);
        }
    }
    Ok(all)
}

/// What several policies say together: one denial is enough, one permission too.
pub(crate) fn decide<'a>(
    policies: impl IntoIterator<Item = &'a Policy>,
    action: &str,
    resource: &str,
    context: &Context,
) -> Verdict {
    let mut verdict = Verdict::Unsaid;
    for policy in policies {
        match policy.verdict(action, resource, context, None) {
            Verdict::Denied => return Verdict::Denied,
            Verdict::Allowed => verdict = Verdict::Allowed,
            Verdict::Unsaid => {}
        }
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn policy(statement: &Value) -> Policy {
        Policy::parse(&json!({"Version": "2012-10-17", "Statement": statement})).unwrap()
    }

    #[test]
    fn verdicts() {
        let mixed = policy(&json!([
            {"Effect": "Allow", "Action": ["ec2:Describe*", "ec2:TerminateInstances"], "Resource": "*"},
            {"Effect": "Deny", "Action": "ec2:*", "Resource": "arn:aws:ec2:r:1:instance/i-2"},
            {"Effect": "Allow", "Action": "ec2:CreateVolume", "Resource": "arn:aws:ec2:*:*:volume/*",
             "Condition": {"StringEquals": {"aws:RequestTag/owner": "timonel"}}},
            {"Effect": "Allow", "NotAction": ["ec2:*", "iam:*"], "Resource": "*"},
        ]));
        let owner = Context::from([("aws:requesttag/owner".to_owned(), vec!["timonel".to_owned()])]);
        for (action, resource, context, want) in [
            ("ec2:DescribeTags", "*", Context::new(), Verdict::Allowed),
            ("EC2:describetags", "*", Context::new(), Verdict::Allowed),
            ("ec2:TerminateInstances", "arn:aws:ec2:r:1:instance/i-1", Context::new(), Verdict::Allowed),
            ("ec2:TerminateInstances", "arn:aws:ec2:r:1:instance/i-2", Context::new(), Verdict::Denied),
            ("ec2:RunInstances", "*", Context::new(), Verdict::Unsaid),
            ("ec2:CreateVolume", "arn:aws:ec2:r:1:volume/*", Context::new(), Verdict::Unsaid),
            ("ec2:CreateVolume", "arn:aws:ec2:r:1:volume/*", owner, Verdict::Allowed),
            ("sqs:ReceiveMessage", "arn:aws:sqs:r:1:q", Context::new(), Verdict::Allowed),
            ("iam:PassRole", "*", Context::new(), Verdict::Unsaid),
        ] {
            assert_eq!(decide([&mixed], action, resource, &context), want, "{action} {resource}");
        }
    }

    #[test]
    fn trust_names_principals() {
        let trust = policy(&json!({"Effect": "Allow", "Action": "sts:AssumeRole",
                                  "Principal": {"AWS": "arn:aws:iam::1:root", "Service": ["ec2.amazonaws.com"]}}));
        for (kind, who, want) in [
            ("AWS", "arn:aws:iam::1:root", Verdict::Allowed),
            ("AWS", "arn:aws:iam::2:root", Verdict::Unsaid),
            ("Service", "ec2.amazonaws.com", Verdict::Allowed),
            ("Federated", "ec2.amazonaws.com", Verdict::Unsaid),
        ] {
            let who = [(kind, who.to_owned())];
            assert_eq!(trust.verdict("sts:AssumeRole", "*", &Context::new(), Some(&who)), want, "{who:?}");
        }
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for document in [
            json!([]),
            json!({"Statement": {"Effect": "Perhaps", "Action": "*", "Resource": "*"}}),
            json!({"Statement": {"Effect": "Allow", "Resource": "*"}}),
            json!({"Statement": {"Effect": "Allow", "Action": "*"}}),
            json!({"Statement": {"Effect": "Allow", "Action": "*", "Resource": "*", "Colour": 1}}),
            json!({"Statement": {"Effect": "Allow", "Action": "*", "Resource": "*", "Condition": {"Rhymes": {"a": "b"}}}}),
            json!({"Version": "2008-10-17", "Statement": []}),
        ] {
            assert!(Policy::parse(&document).is_err(), "{document}");
        }
    }
}
