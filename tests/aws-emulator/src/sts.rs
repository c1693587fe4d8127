//! Security Token Service: who one is, and sessions of roles.

use crate::call::{Call, Handler, Outcome};
use crate::error::{AwsError, refuse, refuse_with};
use crate::iam::{Context, NewSession, Policy, TrustedBy};
use crate::xml::{group, text};
use jiff::SignedDuration;

pub(crate) const HANDLERS: [(&str, Handler); 3] = [
    ("GetCallerIdentity", get_caller_identity),
    ("AssumeRole", assume_role),
    ("AssumeRoleWithWebIdentity", assume_role_with_web_identity),
];

/// A session lives an hour when nothing else is said.
const DEFAULT_SECONDS: i64 = 3600;

fn get_caller_identity(call: &mut Call<'_>) -> Outcome {
    let caller = call.caller.ok_or_else(|| refuse_with(403, "AccessDenied", "no caller"))?;
    Ok(vec![text("Arn", &caller.arn), text("UserId", &caller.user_id), text("Account", call.config.account.clone())])
}

fn assume_role(call: &mut Call<'_>) -> Outcome {
    let arn = call.must("RoleArn")?.to_owned();
    let caller = call.caller.ok_or_else(|| denied("anonymous", "sts:AssumeRole", &arn))?.clone();
    let mut context = caller.context.clone();
    if let Some(external) = call.form.text("ExternalId") {
        context.insert("sts:externalid".to_owned(), vec![external.to_owned()]);
    }
    context.insert("sts:rolesessionname".to_owned(), vec![call.must("RoleSessionName")?.to_owned()]);
    let by = TrustedBy::Principal(caller.arn.clone());
    let trusted = call.iam.role(&arn).is_some_and(|role| call.iam.trusts(role, "sts:AssumeRole", &by, &context));
    let allowed = caller.verdict("sts:AssumeRole", &arn, &context) == crate::iam::Verdict::Allowed;
    if !trusted || !allowed {
        return Err(denied(&caller.arn, "sts:AssumeRole", &arn));
    }
    begin(call, &arn, Context::new())
}

fn assume_role_with_web_identity(call: &mut Call<'_>) -> Outcome {
    let arn = call.must("RoleArn")?.to_owned();
    let action = "sts:AssumeRoleWithWebIdentity";
    let token = crate::webid::verify(&call.iam.issuers, call.must("WebIdentityToken")?, call.now)?;
    let issuer = token.issuer.trim_start_matches("https://").to_owned();
    let mut context = Context::new();
    context.insert(format!("{issuer}:sub").to_lowercase(), vec![token.subject.clone()]);
    context.insert(format!("{issuer}:aud").to_lowercase(), vec![token.audience.clone()]);
    let by = TrustedBy::Federated(format!("arn:aws:iam::{}:oidc-provider/{issuer}", call.config.account));
    if !call.iam.role(&arn).is_some_and(|role| call.iam.trusts(role, action, &by, &context)) {
        return Err(refuse_with(403, "AccessDenied", format!("Not authorized to perform {action}")));
    }
    let mut answer = begin(call, &arn, context)?;
    answer.push(text("SubjectFromWebIdentityToken", token.subject));
    answer.push(text("Audience", token.audience));
    answer.push(text("Provider", token.issuer));
    Ok(answer)
}

fn begin(call: &mut Call<'_>, arn: &str, context: Context) -> Outcome {
    let seconds = call.form.number("DurationSeconds").unwrap_or(DEFAULT_SECONDS);
    let most = call.iam.role(arn).map_or(SignedDuration::ZERO, |role| role.max_session);
    let lives = SignedDuration::from_secs(seconds);
    if lives > most {
        let message = "The requested DurationSeconds exceeds the MaxSessionDuration set for this role.";
        return Err(refuse("ValidationError", message));
    }
    let narrowed = match call.form.text("Policy").map(serde_json::from_str::<serde_json::Value>) {
        None => None,
        Some(Ok(document)) => Some(Policy::parse(&document).map_err(|error| malformed(&error.to_string()))?),
        Some(Err(error)) => return Err(malformed(&error.to_string())),
    };
    let name = call.must("RoleSessionName")?.to_owned();
    let new = NewSession { role: arn, name: &name, lives, narrowed, context };
    let keys = call.iam.begin(new, call.now).ok_or_else(|| denied("", "sts:AssumeRole", arn))?;
    Ok(vec![
        group("AssumedRoleUser", vec![text("Arn", keys.arn), text("AssumedRoleId", keys.user_id)]),
        group(
            "Credentials",
            vec![
                text("AccessKeyId", keys.access_key),
                text("SecretAccessKey", keys.secret),
                text("SessionToken", keys.token),
                text("Expiration", crate::ec2::moment(keys.ends)),
            ],
        ),
    ])
}

fn malformed(why: &str) -> AwsError {
    refuse("MalformedPolicyDocument", why)
}

fn denied(who: &str, action: &str, on: &str) -> AwsError {
    refuse_with(403, "AccessDenied", format!("User: {who} is not authorized to perform: {action} on resource: {on}"))
}
