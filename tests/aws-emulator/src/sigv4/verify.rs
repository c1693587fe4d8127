//! The check of a signature, in headers or in the query string.

use super::{Request, Scope, canonical::canonical, sha256_hex, signature};
use crate::error::{AwsError, refuse, refuse_with};
use crate::form::pairs;
use crate::table::Service;
use jiff::{Timestamp, civil::DateTime, tz::TimeZone};

/// How far the clock of a caller may be off.
const SKEW_SECONDS: i64 = 5 * 60;
/// The longest that a presigned request may live.
const MAX_PRESIGNED_SECONDS: i64 = 7 * 24 * 3600;

/// What is known of an access key.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    pub(crate) secret: String,
    /// The token that must come with it, and when it ends.
    pub(crate) session: Option<(String, Timestamp)>,
}

/// Who signed, and for what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Signed {
    pub(crate) access_key: String,
    pub(crate) region: String,
}

/// The parts of a signature as the request has them.
struct Claim {
    access_key: String,
    scope: Scope,
    headers: Vec<String>,
    signature: String,
    moment: String,
    token: Option<String>,
    /// Seconds that a presigned request lives.
    lives: Option<i64>,
}

/// Checks the signature of `request` to `service`.
pub(crate) fn verify(
    request: &Request,
    service: Service,
    key: impl Fn(&str) -> Option<Key>,
    now: Timestamp,
) -> Result<Signed, AwsError> {
    let claim = claim(request, service)?;
    let when = moment(&claim.moment).ok_or_else(|| incomplete(service, "Date must be in ISO-8601 'basic format'."))?;
    let key = key(&claim.access_key).ok_or_else(|| unknown_key(service))?;
    check_time(&claim, when, service, now)?;
    check_scope(&claim, service)?;
    if !claim.headers.iter().any(|name| name == "host") {
        return Err(incomplete(service, "'Host' must be a 'SignedHeader' in the AWS Authorization."));
    }
    if request.header("x-amz-content-sha256").is_some_and(|hash| hash != sha256_hex(&request.body)) {
        return Err(mismatch(service, "The provided 'x-amz-content-sha256' header does not match what was computed."));
    }
    let canonical = canonical(request, &claim.headers, claim.lives.map(|_| "X-Amz-Signature"))
        .ok_or_else(|| incomplete(service, "A signed header is not in the request."))?;
    let want = signature(&key.secret, &claim.scope, &claim.moment, &canonical);
    if aws_lc_rs::constant_time::verify_slices_are_equal(want.as_bytes(), claim.signature.as_bytes()).is_err() {
        let message = "The request signature we calculated does not match the signature you provided. Check your AWS \
                       Secret Access Key and signing method.";
        return Err(mismatch(service, message));
    }
    match (&key.session, &claim.token) {
        (None, None) => {}
        (Some((token, ends)), Some(claimed)) if token == claimed => {
            if now >= *ends {
                return Err(expired(service));
            }
        }
        _ => return Err(unknown_key(service)),
    }
    Ok(Signed { access_key: claim.access_key, region: claim.scope.region })
}

fn claim(request: &Request, service: Service) -> Result<Claim, AwsError> {
    if let Some(value) = request.header("authorization") {
        return claim_of_header(request, value, service);
    }
    let query = pairs(&request.query)?;
    let get = |name: &str| query.iter().find(|(it, _)| it == name).map(|(_, value)| value.clone());
    let Some(signature) = get("X-Amz-Signature") else {
        return Err(refuse_with(403, "MissingAuthenticationToken", "Request is missing Authentication Token"));
    };
    let parts = || {
        let (access_key, scope) = split_credential(&get("X-Amz-Credential")?)?;
        (get("X-Amz-Algorithm")? == "AWS4-HMAC-SHA256").then_some(())?;
        Some(Claim {
            access_key,
            scope,
            headers: get("X-Amz-SignedHeaders")?.split(';').map(str::to_owned).collect(),
            signature,
            moment: get("X-Amz-Date")?,
            token: get("X-Amz-Security-Token"),
            lives: Some(get("X-Amz-Expires")?.parse().ok()?),
        })
    };
    parts().ok_or_else(|| incomplete(service, "AWS query-string parameters must include X-Amz-Algorithm, X-Amz-Credential, X-Amz-Signature, X-Amz-SignedHeaders, X-Amz-Date and X-Amz-Expires."))
}

fn claim_of_header(request: &Request, value: &str, service: Service) -> Result<Claim, AwsError> {
    let wrong = || incomplete(service, "Authorization header requires 'Credential', 'Signature' and 'SignedHeaders'.");
    let rest = value.strip_prefix("AWS4-HMAC-SHA256 ").ok_or_else(wrong)?;
    let field = |name: &str| {
        rest.split(',').find_map(|part| part.trim().strip_prefix(name)?.strip_prefix('=')).ok_or_else(wrong)
    };
    let (access_key, scope) = split_credential(field("Credential")?).ok_or_else(wrong)?;
    let moment = request.header("x-amz-date").ok_or_else(|| {
        incomplete(service, "Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header.")
    })?;
    Ok(Claim {
        access_key,
        scope,
        headers: field("SignedHeaders")?.split(';').map(str::to_owned).collect(),
        signature: field("Signature")?.to_owned(),
        moment: moment.to_owned(),
        token: request.header("x-amz-security-token").map(str::to_owned),
        lives: None,
    })
}

fn split_credential(text: &str) -> Option<(String, Scope)> {
    let (key, scope) = text.split_once('/')?;
    Some((key.to_owned(), Scope::parse(scope)?))
}

fn moment(text: &str) -> Option<Timestamp> {
    let civil = DateTime::strptime("%Y%m%dT%H%M%SZ", text).ok()?;
    Some(civil.to_zoned(TimeZone::UTC).ok()?.timestamp())
}

fn check_time(claim: &Claim, when: Timestamp, service: Service, now: Timestamp) -> Result<(), AwsError> {
    let age = now.as_second() - when.as_second();
    let late = match claim.lives {
        Some(lives) if !(1..=MAX_PRESIGNED_SECONDS).contains(&lives) => {
            return Err(incomplete(service, "X-Amz-Expires must be between 1 and 604800 seconds"));
        }
        Some(lives) => age > lives,
        None => age > SKEW_SECONDS,
    };
    if !late && age >= -SKEW_SECONDS {
        return Ok(());
    }
    Err(match service {
        Service::Ec2 => refuse("RequestExpired", "Request has expired."),
        _ => {
            let which = if late { "expired" } else { "not yet current" };
            refuse_with(403, "SignatureDoesNotMatch", format!("Signature {which}: {} is not near {now}", claim.moment))
        }
    })
}

fn check_scope(claim: &Claim, service: Service) -> Result<(), AwsError> {
    if claim.scope.service != service.word() {
        return Err(mismatch(
            service,
            &format!("Credential should be scoped to correct service: '{}'.", service.word()),
        ));
    }
    if !claim.moment.starts_with(&claim.scope.date) {
        return Err(mismatch(
            service,
            "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP",
        ));
    }
    Ok(())
}

fn unknown_key(service: Service) -> AwsError {
    match service {
        Service::Ec2 => failure(),
        _ => refuse_with(403, "InvalidClientTokenId", "The security token included in the request is invalid."),
    }
}

fn mismatch(service: Service, message: &str) -> AwsError {
    if service == Service::Ec2 { failure() } else { refuse_with(403, "SignatureDoesNotMatch", message) }
}

fn failure() -> AwsError {
    refuse_with(401, "AuthFailure", "AWS was not able to validate the provided access credentials")
}

fn expired(service: Service) -> AwsError {
    match service {
        Service::Ec2 => refuse("RequestExpired", "Request has expired."),
        _ => refuse_with(403, "ExpiredToken", "The security token included in the request is expired"),
    }
}

fn incomplete(service: Service, message: &str) -> AwsError {
    if service == Service::Ec2 { failure() } else { refuse("IncompleteSignature", message) }
}

#[cfg(test)]
mod tests {
    use super::super::{Credentials, presign, sign};
    use super::*;

    fn now() -> Timestamp {
        "2026-11-21T12:00:00Z".parse().unwrap()
    }

    fn key(session: Option<(&str, i64)>) -> impl Fn(&str) -> Option<Key> {
        let session = session.map(|(token, left)| (token.to_owned(), now() + jiff::SignedDuration::from_secs(left)));
        move |id| (id == "AKIA").then(|| Key { secret: "secret".into(), session: session.clone() })
    }

    fn request() -> Request {
        Request {
            method: "POST".into(),
            path: "/".into(),
            headers: vec![("host".into(), "localhost:1".into())],
            body: b"Action=A".to_vec(),
            ..Request::default()
        }
    }

    fn credentials(token: Option<&str>) -> Credentials {
        let session_token = token.map(str::to_owned);
        Credentials { access_key: "AKIA".into(), secret_key: "secret".into(), session_token }
    }

    #[test]
    fn what_is_signed_is_accepted_and_what_is_changed_is_not() {
        type Change = fn(&mut Request);
        let cases: [(&str, Change, &str); 7] = [
            ("untouched", |_| {}, ""),
            ("body", |it| it.body.push(b'x'), "SignatureDoesNotMatch"),
            ("path", |it| it.path = "/x".into(), "SignatureDoesNotMatch"),
            ("query", |it| it.query = "a=b".into(), "SignatureDoesNotMatch"),
            ("host", |it| it.headers[0].1 = "other".into(), "SignatureDoesNotMatch"),
            ("header gone", |it| it.headers.retain(|(name, _)| name != "host"), "IncompleteSignature"),
            ("no signature", |it| it.headers.retain(|(name, _)| name != "authorization"), "MissingAuthenticationToken"),
        ];
        for (name, change, want) in cases {
            let mut request = request();
            sign(&mut request, &credentials(None), "eu-central-1", "sts", now());
            change(&mut request);
            let got = verify(&request, Service::Sts, key(None), now());
            assert_eq!(got.as_ref().err().map_or("", |error| &error.code), want, "{name}");
            assert!(got.map_or(true, |signed| signed.region == "eu-central-1"));
        }
    }

    #[test]
    fn time_service_and_token_count() {
        for (service, ahead, token, known, want) in [
            (Service::Ec2, 0, None, None, ""),
            (Service::Ec2, 301, None, None, "RequestExpired"),
            (Service::Ec2, -301, None, None, "RequestExpired"),
            (Service::Sts, -301, None, None, "SignatureDoesNotMatch"),
            (Service::Ec2, 0, Some("t"), Some(("t", 1)), ""),
            (Service::Ec2, 0, Some("t"), Some(("t", 0)), "RequestExpired"),
            (Service::Sts, 0, Some("t"), Some(("t", 0)), "ExpiredToken"),
            (Service::Ec2, 0, Some("x"), Some(("t", 1)), "AuthFailure"),
            (Service::Ec2, 0, None, Some(("t", 1)), "AuthFailure"),
            (Service::Sts, 0, Some("t"), None, "InvalidClientTokenId"),
        ] {
            let mut request = request();
            sign(&mut request, &credentials(token), "r", service.word(), now());
            let got = verify(&request, service, key(known), now() + jiff::SignedDuration::from_secs(ahead));
            assert_eq!(
                got.err().map_or(String::new(), |it| it.code.into_owned()),
                want,
                "{service:?} {ahead} {token:?}"
            );
        }
        let mut other = request();
        sign(&mut other, &credentials(None), "r", "ec2", now());
        assert_eq!(verify(&other, Service::Sts, key(None), now()).unwrap_err().code, "SignatureDoesNotMatch");
    }

    #[test]
    fn presigned_requests_live_as_long_as_they_say() {
        for (seconds, later, good) in [(60, 0, true), (60, 60, true), (60, 61, false), (0, 0, false)] {
            let mut request = Request { method: "GET".into(), query: "Action=A".into(), body: Vec::new(), ..request() };
            request.headers.push(("x-k8s-aws-id".into(), "cluster".into()));
            presign(&mut request, &credentials(Some("t+/=")), "r", "sts", seconds, now());
            let later = now() + jiff::SignedDuration::from_secs(later);
            let got = verify(&request, Service::Sts, key(Some(("t+/=", 900))), later);
            assert_eq!(got.is_ok(), good, "{seconds} {got:?}");
            request.headers.last_mut().unwrap().1 = "another".into();
            assert!(verify(&request, Service::Sts, key(Some(("t+/=", 900))), now()).is_err());
        }
    }
}
