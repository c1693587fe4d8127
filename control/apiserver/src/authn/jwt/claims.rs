//! Claims to a user, as a mapping says. Pure.

use super::mapping::{Mapping, Rule, USER};
use crate::authn::{CREDENTIAL_ID, User, user_info};
use timonel_api::Value;
use timonel_cel::{Bindings, Budget, Val};

impl Mapping {
    /// The user whom claims stand for.
    ///
    /// # Errors
    /// When a claim is missing or has the wrong form, or a rule does not hold.
    pub(super) fn user(&self, claims: &Value) -> Result<User, String> {
        let mut user = User { name: self.username(claims)?, ..User::default() };
        if let Some(rule) = &self.groups {
            user.groups = groups(rule, claims)?;
        }
        if let Some(rule) = &self.uid {
            user.uid = match rule {
                Rule::Claim { name, .. } => {
                    text(claims, name).map_err(|why| format!("oidc: parse uid claim {name:?}: {why}"))?
                }
                Rule::Expression { .. } => only_text(rule, claims, "uid")?,
            };
        }
        if let Some(id) = claims.get("jti").and_then(Value::as_str).filter(|id| !id.is_empty()) {
            user.extra.insert(CREDENTIAL_ID.to_owned(), vec![format!("JTI={id}")]);
        }
        for (key, rule) in &self.extra {
            let values = evaluate(rule, "claims", Val::of(claims)).and_then(|value| texts(&value));
            let values = values.map_err(|why| format!("oidc: error evaluating extra claim expression: {why}"))?;
            if !values.is_empty() {
                user.extra.insert(key.clone(), values);
            }
        }
        self.check_required(claims)?;
        hold(&self.claim_rules, "claims", &Val::of(claims))
            .map_err(|why| format!("oidc: error evaluating claim validation expression: {why}"))?;
        let mut shown = Value::from(user_info(&user));
        for (name, empty) in [("uid", Value::from("")), ("groups", Value::List(vec![])), ("extra", Value::object())] {
            if shown.get(name).is_none() {
                shown.set_at(&[name], empty);
            }
        }
        let judged = Val::typed(&shown, &USER).map_err(|error| error.to_string());
        judged
            .and_then(|val| hold(&self.user_rules, "user", &val))
            .map_err(|why| format!("oidc: error evaluating user info validation rule: {why}"))?;
        Ok(user)
    }

    fn username(&self, claims: &Value) -> Result<String, String> {
        match &self.username {
            Some(rule @ Rule::Expression { .. }) => {
                let name = only_text(rule, claims, "username")?;
                if name.is_empty() {
                    return Err("oidc: empty username via CEL expression is not allowed".to_owned());
                }
                Ok(name)
            }
            Some(Rule::Claim { name, prefix }) => {
                let found = text(claims, name).map_err(|why| format!("oidc: parse username claims {name:?}: {why}"))?;
                if name == "email" {
                    match claims.get("email_verified").map(Value::as_bool) {
                        None | Some(Some(true)) => {}
                        Some(Some(false)) => return Err("oidc: email not verified".to_owned()),
                        Some(None) => return Err("oidc: parse 'email_verified' claim: not a boolean".to_owned()),
                    }
                }
                Ok(format!("{prefix}{found}"))
            }
            None => Err("oidc: no username mapping".to_owned()),
        }
    }

    fn check_required(&self, claims: &Value) -> Result<(), String> {
        for (claim, wanted) in &self.required {
            if claims.get(claim).is_none() {
                return Err(format!("oidc: required claim {claim} not present in ID token"));
            }
            let found = text(claims, claim).map_err(|why| format!("oidc: parse claim {claim}: {why}"))?;
            if found != *wanted {
                return Err(format!(
                    "oidc: required claim {claim} value does not match. Got = {found}, want = {wanted}"
                ));
            }
        }
        Ok(())
    }
}

fn text(claims: &Value, name: &str) -> Result<String, String> {
    let found = claims.get(name).ok_or("claim not present")?;
    found.as_str().map(str::to_owned).ok_or_else(|| "not a string".to_owned())
}

fn groups(rule: &Rule, claims: &Value) -> Result<Vec<String>, String> {
    match rule {
        Rule::Claim { name, prefix } => {
            let Some(found) = claims.get(name) else { return Ok(Vec::new()) };
            let wrong = || format!("oidc: parse groups claim {name:?}: neither a string nor a list of strings");
            let all = match found {
                Value::String(one) => vec![one.as_str()],
                Value::List(many) => many.iter().map(Value::as_str).collect::<Option<_>>().ok_or_else(wrong)?,
                Value::Null => Vec::new(),
                _ => return Err(wrong()),
            };
            Ok(all.into_iter().map(|group| format!("{prefix}{group}")).collect())
        }
        Rule::Expression { .. } => evaluate(rule, "claims", Val::of(claims))
            .and_then(|value| texts(&value))
            .map_err(|why| format!("oidc: error evaluating group claim expression: {why}")),
    }
}

fn only_text(rule: &Rule, claims: &Value, what: &str) -> Result<String, String> {
    let value = evaluate(rule, "claims", Val::of(claims));
    let found = value.and_then(|value| {
        value.as_str().map(str::to_owned).ok_or_else(|| format!("{what} claim expression must return a string"))
    });
    found.map_err(|why| format!("oidc: error evaluating {what} claim expression: {why}"))
}

/// Text or a list of it; what is empty is not there.
fn texts(value: &Value) -> Result<Vec<String>, String> {
    let wrong = || "expression must return a string or a list of strings".to_owned();
    let all = match value {
        Value::Null => Vec::new(),
        Value::String(one) => vec![one.as_str()],
        Value::List(many) => many.iter().map(Value::as_str).collect::<Option<_>>().ok_or_else(wrong)?,
        _ => return Err(wrong()),
    };
    Ok(all.into_iter().filter(|text| !text.is_empty()).map(str::to_owned).collect())
}

fn evaluate<'a>(rule: &Rule, name: &'static str, val: Val<'a>) -> Result<Value, String> {
    let Rule::Expression { program, .. } = rule else { return Ok(Value::Null) };
    let bindings = Bindings::new().with(name, val);
    let found = program.evaluate(&bindings, &mut Budget::default());
    found
        .and_then(|val| val.to_value())
        .map_err(|error| format!("expression '{}' resulted in error: {error}", program.source()))
}

fn hold(rules: &[Rule], name: &'static str, val: &Val<'_>) -> Result<(), String> {
    for rule in rules {
        let Rule::Expression { program, message } = rule else { continue };
        if evaluate(rule, name, val.clone())?.as_bool() != Some(true) {
            return Err(format!("validation expression '{}' failed: {message}", program.source()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::authn::{User, jwt::Configuration};
    use serde_json::{Value as Json, json};

    fn user(mapping: &str, claims: &Json) -> Result<User, String> {
        let text = format!(
            "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\njwt:\n\
             - issuer: {{url: 'https://i', audiences: [a]}}\n{mapping}"
        );
        let configuration = Configuration::parse(&text, &[]).unwrap();
        configuration.issuers[0].mapping.user(&claims.clone().into())
    }

    #[test]
    fn claims_become_a_user() {
        let claims = json!({"sub": "alice", "groups": ["dev", "ops"], "role": "boss", "email": "a@x", "id": "7",
            "email_verified": true, "jti": "J", "team": {"name": "t"}, "n": 3});
        let named = |name: &str, groups: &[&str]| User {
            extra: [("authentication.kubernetes.io/credential-id".to_owned(), vec!["JTI=J".to_owned()])].into(),
            ..User::new(name, groups)
        };
        for (mapping, expected) in [
            ("  claimMappings: {username: {claim: sub, prefix: 'i:'}}", Ok(named("i:alice", &[]))),
            (
                "  claimMappings: {username: {claim: email, prefix: ''}, groups: {claim: groups, prefix: 'g:'}, uid: {claim: id}}",
                Ok(User { uid: "7".into(), ..named("a@x", &["g:dev", "g:ops"]) }),
            ),
            (
                "  claimMappings: {username: {expression: \"'x-' + claims.team.name\"}, groups: {claim: role, prefix: ''}}",
                Ok(named("x-t", &["boss"])),
            ),
            (
                "  claimMappings: {username: {expression: claims.sub}, groups: {expression: \"claims.groups.filter(g, g != 'ops')\"}, uid: {expression: claims.id}}",
                Ok(User { uid: "7".into(), ..named("alice", &["dev"]) }),
            ),
            (
                "  claimMappings: {username: {claim: none, prefix: ''}}",
                Err("oidc: parse username claims \"none\": claim not present"),
            ),
            ("  claimMappings: {username: {claim: 'n', prefix: ''}}", Err("not a string")),
            (
                "  claimMappings: {username: {expression: claims.n}}",
                Err("username claim expression must return a string"),
            ),
            ("  claimMappings: {username: {expression: claims.none}}", Err("no such key: none")),
            ("  claimMappings: {username: {expression: '\"\"'}}", Err("empty username via CEL")),
            (
                "  claimMappings: {username: {claim: sub, prefix: ''}, groups: {claim: 'n', prefix: ''}}",
                Err("oidc: parse groups claim \"n\""),
            ),
            (
                "  claimMappings: {username: {claim: sub, prefix: ''}}\n  claimValidationRules: [{claim: role, requiredValue: slave}]",
                Err("oidc: required claim role value does not match. Got = boss, want = slave"),
            ),
            (
                "  claimMappings: {username: {claim: sub, prefix: ''}}\n  claimValidationRules: [{expression: claims.n > 3, message: too small}]",
                Err("validation expression 'claims.n > 3' failed: too small"),
            ),
            (
                "  claimMappings: {username: {claim: sub, prefix: 'system:'}}\n  userValidationRules: [{expression: \"!user.username.startsWith('system:')\", message: reserved}]",
                Err("failed: reserved"),
            ),
            (
                "  claimMappings: {username: {claim: sub, prefix: ''}}\n  userValidationRules: [{expression: \"user.groups.all(g, g != 'x') && user.uid == ''\"}]",
                Ok(named("alice", &[])),
            ),
        ] {
            match (user(mapping, &claims), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{mapping}"),
                (Err(found), Err(words)) => assert!(found.contains(words), "{found} is not {words}"),
                (found, _) => panic!("{mapping}: {found:?}"),
            }
        }
        let extra = "  claimMappings: {username: {claim: sub, prefix: ''}, extra: [{key: x.io/team, valueExpression: claims.team.name}, {key: x.io/none, valueExpression: '\"\"'}]}";
        let found = user(extra, &json!({"sub": "a", "team": {"name": "t"}})).unwrap();
        assert_eq!(found.extra, [("x.io/team".to_owned(), vec!["t".to_owned()])].into());
        let unverified = "  claimMappings: {username: {claim: email, prefix: ''}}";
        assert_eq!(
            user(unverified, &json!({"email": "a@x", "email_verified": false})).unwrap_err(),
            "oidc: email not verified"
        );
    }
}
