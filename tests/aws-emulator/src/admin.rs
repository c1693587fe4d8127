//! The admin API: what scripts and tests ask of a running emulator beside AWS's own calls. JSON in, JSON out.

use crate::account::Account;
use crate::config::{RoleConfig, UserConfig};
use crate::faults::Rule;
use crate::health::Finding;
use crate::http::{Hangup, Taken, plain};
use bytes::Bytes;
use http::{Response, StatusCode, header};
use http_body_util::Full;
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;
use timonel_runtime::Clock;

/// The most entries of one answer.
const MAX_PAGE: usize = 10_000;

/// The emulator's time: a clock that scripts may put forward.
#[derive(Clone, Debug)]
pub(crate) struct Time {
    pub(crate) clock: Clock,
    pub(crate) offset: Arc<Mutex<SignedDuration>>,
}

impl Time {
    pub(crate) fn now(&self) -> Timestamp {
        let now = self.clock.now();
        now.saturating_add(*self.offset.lock()).unwrap_or(now)
    }
}

/// What can be asked. `POST /NAME` with the body as JSON.
#[derive(Debug, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case", deny_unknown_fields)]
enum Ask {
    /// Puts the emulator's time forward.
    Advance { milliseconds: u32 },
    /// Puts a fault in force.
    Fault { rule: Rule },
    /// Takes a fault back; all of them without a name.
    Heal { name: Option<String> },
    /// Adds or replaces a user.
    User { user: UserConfig },
    /// Adds or replaces a role.
    Role { role: RoleConfig },
    /// Adds or replaces an instance profile.
    Profile { name: String, role: String },
    /// Forgets an access key.
    Revoke { access_key: String },
    /// How many more instances of a type fit into a zone; `null` for no bound.
    Capacity {
        region: String,
        kind: String,
        zone: String,
        #[serde(default)]
        spot: bool,
        left: Option<u32>,
    },
    /// Closes or opens a zone for new instances.
    Zone { region: String, zone: String, open: bool },
    /// A spot instance gets its notice.
    Interrupt { region: String, instance: String, notice_ms: Option<u64> },
    /// A spot instance is recommended to be replaced.
    Rebalance { region: String, instance: String },
    /// The provider plans something for an instance.
    Schedule { region: String, instance: String, code: String, in_ms: u64 },
    /// An instance's checks fail or pass.
    Impair { region: String, instance: String, own: bool, system: bool },
    /// An instance ends without having been asked.
    Kill { region: String, instance: String },
    /// How a target (instance or address, or those with `:port`) answers checks; `null` for well.
    Health { region: String, target: String, finding: Option<Finding> },
    /// A volume's attachment does not let go until it is forced.
    Stick { region: String, volume: String, instance: String },
    /// Adds an image.
    Image { region: String, name: String, architecture: String },
    /// Adds a certificate.
    Certificate { arn: String, domain: String },
    /// How far reads may lag.
    Lag { milliseconds: u64 },
    /// Whether calls are limited in rate.
    Throttle { on: bool },
    /// Changes quotas: names and numbers.
    Quotas { set: serde_json::Map<String, Value> },
    /// Changes timings: names and milliseconds.
    Timings { set: serde_json::Map<String, Value> },
}

/// Answers one request.
pub(crate) async fn serve(
    account: Arc<Mutex<Account>>,
    time: Time,
    taken: Taken,
) -> Result<Response<Full<Bytes>>, Hangup> {
    let request = &taken.request;
    let query = crate::form::pairs(&request.query).unwrap_or_default();
    let number = |name: &str, otherwise: u64| {
        query.iter().find(|(it, _)| it == name).and_then(|(_, value)| value.parse().ok()).unwrap_or(otherwise)
    };
    let (after, limit) = (number("after", 0), usize::try_from(number("limit", 1_000)).unwrap_or(0).min(MAX_PAGE));
    let region = query.iter().find(|(it, _)| it == "region").map(|(_, value)| value.as_str());
    let account = &mut *account.lock();
    Ok(match (request.method.as_str(), request.path.as_str()) {
        ("GET", "/calls") => {
            json_answer(StatusCode::OK, &json!({"calls": account.ledger.after(after, limit).collect::<Vec<_>>()}))
        }
        ("GET", "/counts") => json_answer(StatusCode::OK, &counts(account)),
        ("GET", "/faults") => {
            json_answer(StatusCode::OK, &json!({"faults": account.faults.rules().collect::<Vec<_>>()}))
        }
        ("GET", "/time") => json_answer(StatusCode::OK, &json!({"now": time.now().to_string()})),
        ("GET", "/events") => match region.and_then(|name| account.regions.get(name)) {
            Some(region) => {
                let events: Vec<_> = region.events.after(after, limit).collect();
                json_answer(StatusCode::OK, &json!({"events": events}))
            }
            None => plain(StatusCode::NOT_FOUND, "no such region"),
        },
        ("GET", "/health") => plain(StatusCode::OK, "ok"),
        ("GET", "/identity-certificate") => {
            plain(StatusCode::OK, account.metadata.signer.as_ref().map_or("", |signer| signer.certificate()))
        }
        (_, path) if path.starts_with("/metadata/") => metadata(account, &time, request),
        ("POST", path) => post(account, &time, path, &request.body),
        _ => plain(StatusCode::NOT_FOUND, "no such path"),
    })
}

/// `/metadata/REGION/INSTANCE/latest/..` is the metadata service of an instance.
fn metadata(account: &mut Account, time: &Time, request: &crate::sigv4::Request) -> Response<Full<Bytes>> {
    let parts: Vec<&str> = request.path.splitn(5, '/').collect();
    let [_, _, region, instance, rest] = parts[..] else { return plain(StatusCode::NOT_FOUND, "no such path") };
    let request = crate::sigv4::Request { path: format!("/{rest}"), ..request.clone() };
    crate::http::answer_metadata(account, time, region, instance, &request)
}

fn counts(account: &Account) -> Value {
    let one = |((action, outcome), count): (&(String, String), &u64)| json!({"action": action, "outcome": outcome, "count": count});
    json!({"calls": account.ledger.count(), "counts": account.ledger.counts().iter().map(one).collect::<Vec<_>>()})
}

fn json_answer(status: StatusCode, value: &Value) -> Response<Full<Bytes>> {
    let mut response = plain(status, value.to_string());
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

fn post(account: &mut Account, time: &Time, path: &str, body: &[u8]) -> Response<Full<Bytes>> {
    let mut asked: Value = match serde_json::from_slice(if body.is_empty() { b"{}" } else { body }) {
        Ok(asked) => asked,
        Err(error) => return plain(StatusCode::BAD_REQUEST, error.to_string()),
    };
    if let Some(asked) = asked.as_object_mut() {
        asked.insert("ask".to_owned(), Value::from(path.trim_start_matches('/')));
    }
    let ask: Ask = match serde_json::from_value(asked) {
        Ok(ask) => ask,
        Err(error) => return plain(StatusCode::BAD_REQUEST, error.to_string()),
    };
    match act(account, time, ask) {
        Ok(value) => json_answer(StatusCode::OK, &value),
        Err(why) => plain(StatusCode::BAD_REQUEST, why),
    }
}

fn act(account: &mut Account, time: &Time, ask: Ask) -> Result<Value, String> {
    let done = json!({});
    let truth = |good: bool, why: &str| if good { Ok(json!({})) } else { Err(why.to_owned()) };
    match ask {
        Ask::Advance { milliseconds } => {
            *time.offset.lock() += SignedDuration::from_millis(i64::from(milliseconds));
            account.advance(time.now());
        }
        Ask::Fault { rule } => return truth(account.faults.arm(rule, time.now()), "too many faults"),
        Ask::Heal { name: Some(name) } => return truth(account.faults.disarm(&name), "no such fault"),
        Ask::Heal { name: None } => account.faults.clear(),
        Ask::User { user } => account.iam.put_user(&user).map_err(|error| error.to_string())?,
        Ask::Role { role } => account.iam.put_role(&role).map_err(|error| error.to_string())?,
        Ask::Profile { name, role } => drop(account.iam.profiles.insert(name, role)),
        Ask::Revoke { access_key } => return truth(account.iam.revoke(&access_key), "no such key"),
        Ask::Certificate { arn, domain } => drop(account.config.certificates.insert(arn, domain)),
        Ask::Lag { milliseconds } => account.config.lag_ms = milliseconds,
        Ask::Throttle { on } => account.config.throttle = on,
        Ask::Quotas { set } => account.config.quotas = changed(&account.config.quotas, set)?,
        Ask::Timings { set } => account.config.timings = changed(&account.config.timings, set)?,
        other => return in_region(account, other, time.now()),
    }
    Ok(done)
}

/// `of` with the members of `set` in place of its own.
fn changed<T: serde::Serialize + serde::de::DeserializeOwned>(
    of: &T,
    set: serde_json::Map<String, Value>,
) -> Result<T, String> {
    let mut value = serde_json::to_value(of).map_err(|error| error.to_string())?;
    if let Some(members) = value.as_object_mut() {
        members.extend(set);
    }
    serde_json::from_value(value).map_err(|error| error.to_string())
}

fn in_region(account: &mut Account, ask: Ask, now: Timestamp) -> Result<Value, String> {
    let name = match &ask {
        Ask::Capacity { region, .. }
        | Ask::Zone { region, .. }
        | Ask::Interrupt { region, .. }
        | Ask::Rebalance { region, .. }
        | Ask::Schedule { region, .. }
        | Ask::Impair { region, .. }
        | Ask::Kill { region, .. }
        | Ask::Health { region, .. }
        | Ask::Stick { region, .. }
        | Ask::Image { region, .. } => region.clone(),
        _ => return Err("this asks nothing of a region".to_owned()),
    };
    let region = account.regions.get_mut(&name).ok_or("no such region")?;
    let config = &account.config;
    region.advance(config, now);
    let good = match ask {
        Ask::Capacity { kind, zone, spot, left, .. } => {
            match left {
                Some(left) => drop(region.capacity.insert((kind, zone, spot), left)),
                None => drop(region.capacity.remove(&(kind, zone, spot))),
            }
            true
        }
        Ask::Zone { zone, open, .. } => {
            region.closed_zones.retain(|it| *it != zone);
            if !open {
                region.closed_zones.push(zone);
            }
            true
        }
        Ask::Interrupt { instance, notice_ms, .. } => {
            region.interrupt(&instance, notice_ms.unwrap_or(config.timings.spot_notice), now)
        }
        Ask::Rebalance { instance, .. } => region.recommend_rebalance(&instance, now),
        Ask::Schedule { instance, code, in_ms, .. } => {
            let wait = SignedDuration::from_millis(i64::try_from(in_ms).unwrap_or(i64::MAX));
            region.schedule(&instance, &code, now.saturating_add(wait).unwrap_or(now), now)
        }
        Ask::Impair { instance, own, system, .. } => {
            region.instances.edit(&instance, now).map(|it| it.impaired = (own, system)).is_some()
        }
        Ask::Kill { instance, .. } => {
            let reason = ("Server.InternalError", "Server.InternalError: Internal error on launch");
            region.shut_down(config, &instance, reason, now).is_some()
        }
        Ask::Health { target, finding, .. } => {
            match finding {
                Some(finding) => drop(region.scripted_health.insert(target, finding)),
                None => drop(region.scripted_health.remove(&target)),
            }
            true
        }
        Ask::Stick { volume, instance, .. } => region.stick(&volume, &instance, now),
        Ask::Image { name, architecture, .. } => {
            return Ok(json!({"image": region.add_image(&name, &architecture, now)}));
        }
        _ => false,
    };
    if good { Ok(json!({})) } else { Err("there is no such thing in this region".to_owned()) }
}
