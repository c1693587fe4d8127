//! The instance metadata service, version 2: what an instance may ask about itself. Decides; shells serve it.

mod tree;

use crate::account::Account;
use crate::ec2::{Instance, moment};
use crate::iam::{Context, NewSession, SessionKeys, TrustedBy};
use crate::ids::Ids;
use crate::region::Region;
use crate::sigv4::Request;
use base64::Engine;
use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, VecDeque};

/// The longest that a token lives.
const MAX_TTL: i64 = 21_600;
/// The most tokens that are remembered.
const MAX_TOKENS: usize = 50_000;
/// How long keys of an instance's role live, and how long before their end there are new ones.
const KEYS_LIVE: SignedDuration = SignedDuration::from_hours(6);
const KEYS_RENEW: SignedDuration = SignedDuration::from_mins(30);

const TTL_HEADER: &str = "x-aws-ec2-metadata-token-ttl-seconds";
const TOKEN_HEADER: &str = "x-aws-ec2-metadata-token";

/// An answer of the metadata service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetadataAnswer {
    /// The status.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
    /// Seconds that the token lives that this answer is about.
    pub ttl: Option<i64>,
}

impl MetadataAnswer {
    fn text(body: impl Into<String>) -> Self {
        Self { status: 200, body: body.into().into_bytes(), ttl: None }
    }

    fn refused(status: u16, why: &str) -> Self {
        Self { status, body: why.as_bytes().to_vec(), ttl: None }
    }
}

/// What the service remembers.
#[derive(Debug)]
pub(crate) struct Metadata {
    ids: Ids,
    /// Token to instance and end.
    tokens: BTreeMap<String, (String, Timestamp)>,
    order: VecDeque<String>,
    keys: BTreeMap<String, SessionKeys>,
    pub(crate) signer: Option<crate::identity::Signer>,
}

impl Metadata {
    pub(crate) fn new(seed: u64) -> Self {
        let (tokens, order, keys) = (BTreeMap::new(), VecDeque::new(), BTreeMap::new());
        Self { ids: Ids::new(seed ^ 0x1d5), tokens, order, keys, signer: None }
    }

    fn issue(&mut self, instance: &str, seconds: i64, now: Timestamp) -> String {
        let token = format!("AQAEA{}==", self.ids.letters(49));
        let ends = now + SignedDuration::from_secs(seconds);
        self.tokens.insert(token.clone(), (instance.to_owned(), ends));
        self.order.push_back(token.clone());
        if self.order.len() > MAX_TOKENS
            && let Some(oldest) = self.order.pop_front()
        {
            self.tokens.remove(&oldest);
        }
        token
    }

    fn left(&self, token: &str, instance: &str, now: Timestamp) -> Option<i64> {
        let (owner, ends) = self.tokens.get(token)?;
        let left = ends.as_second() - now.as_second();
        (owner == instance && left > 0).then_some(left)
    }
}

impl Account {
    /// How many hops answers of the metadata service to an instance may take; nothing when it has none.
    #[must_use]
    pub fn metadata_hops(&self, region: &str, instance: &str) -> Option<u8> {
        let instance = self.regions.get(region)?.instances.get(instance)?;
        (instance.state.has_host() && instance.metadata.enabled).then_some(instance.metadata.hop_limit)
    }

    /// Answers what an instance asks about itself.
    pub fn metadata(&mut self, region: &str, id: &str, request: &Request, now: Timestamp) -> MetadataAnswer {
        self.advance(now);
        let instance = self.regions.get(region).and_then(|region| region.instances.get(id));
        let Some(instance) = instance.filter(|it| it.state.has_host()).cloned() else {
            return MetadataAnswer::refused(404, "no such instance");
        };
        if !instance.metadata.enabled {
            return MetadataAnswer::refused(403, "Forbidden");
        }
        if request.path == "/latest/api/token" {
            return self.metadata_token(id, request, now);
        }
        if request.method != "GET" {
            return MetadataAnswer::refused(405, "Method Not Allowed");
        }
        let ttl = match request.header(TOKEN_HEADER) {
            None if instance.metadata.tokens_required => return MetadataAnswer::refused(401, "Unauthorized"),
            None => None,
            Some(token) => match self.metadata.left(token, id, now) {
                None => return MetadataAnswer::refused(401, "Unauthorized"),
                left => left,
            },
        };
        let path = request.path.trim_start_matches('/');
        let found = path.split_once('/').and_then(|(_, rest)| self.metadata_path(region, id, &instance, rest, now));
        match found {
            Some(answer) => MetadataAnswer { ttl, ..answer },
            None => MetadataAnswer::refused(404, "Not Found"),
        }
    }

    fn metadata_token(&mut self, id: &str, request: &Request, now: Timestamp) -> MetadataAnswer {
        if request.method != "PUT" {
            return MetadataAnswer::refused(405, "Method Not Allowed");
        }
        // Whoever comes through a proxy is not the instance.
        if request.header("x-forwarded-for").is_some() {
            return MetadataAnswer::refused(403, "Forbidden");
        }
        let seconds = request.header(TTL_HEADER).and_then(|text| text.parse().ok());
        match seconds.filter(|seconds| (1..=MAX_TTL).contains(seconds)) {
            None => MetadataAnswer::refused(400, "Bad Request"),
            Some(seconds) => {
                let token = self.metadata.issue(id, seconds, now);
                MetadataAnswer { ttl: Some(seconds), ..MetadataAnswer::text(token) }
            }
        }
    }

    fn metadata_path(
        &mut self,
        region: &str,
        id: &str,
        instance: &Instance,
        path: &str,
        now: Timestamp,
    ) -> Option<MetadataAnswer> {
        if path == "user-data" {
            let data = instance.user_data.as_ref()?;
            let body = base64::engine::general_purpose::STANDARD.decode(data).ok()?;
            return Some(MetadataAnswer { status: 200, body, ttl: None });
        }
        let facts = self.regions.get(region)?;
        if let Some(name) = path.strip_prefix("dynamic/instance-identity/") {
            let document = document(facts, id, instance);
            return match name {
                "document" => Some(MetadataAnswer::text(document)),
                "signature" => self.metadata.signer.as_ref()?.sign(&document).map(MetadataAnswer::text),
                "" => Some(MetadataAnswer::text("document\nsignature")),
                _ => None,
            };
        }
        let name = path.strip_prefix("meta-data")?.trim_start_matches('/');
        if let Some(role) = name.strip_prefix("iam/security-credentials/").filter(|role| !role.is_empty()) {
            let role = role.to_owned();
            return self.metadata_keys(id, instance, &role, now).map(MetadataAnswer::text);
        }
        let profile_role = instance.profile.as_ref().and_then(|arn| self.role_of_profile(arn)).map(|it| it.0);
        tree::lookup(facts, id, instance, profile_role.as_deref(), name, now).map(MetadataAnswer::text)
    }

    /// The role behind an instance profile, when it lets EC2 take it: its name and ARN.
    fn role_of_profile(&self, arn: &str) -> Option<(String, String)> {
        let name = arn.rsplit_once('/')?.1;
        let role = self.iam.role(self.iam.profiles.get(name)?)?;
        let by = TrustedBy::Service("ec2.amazonaws.com");
        self.iam.trusts(role, "sts:AssumeRole", &by, &Context::new()).then(|| (role.name.clone(), role.arn.clone()))
    }

    /// Keys of an instance's role as JSON, renewed before they end.
    fn metadata_keys(&mut self, id: &str, instance: &Instance, role: &str, now: Timestamp) -> Option<String> {
        let (name, arn) = self.role_of_profile(instance.profile.as_ref()?)?;
        if name != role {
            return None;
        }
        let fresh = |keys: &&SessionKeys| keys.ends.duration_since(now) > KEYS_RENEW;
        let keys = match self.metadata.keys.get(id).filter(fresh) {
            Some(keys) => keys.clone(),
            None => {
                let mut context = Context::new();
                context.insert("ec2:sourceinstancearn".to_owned(), vec![id.to_owned()]);
                let new = NewSession { role: &arn, name: id, lives: KEYS_LIVE, narrowed: None, context };
                let keys = self.iam.begin(new, now)?;
                self.metadata.keys.insert(id.to_owned(), keys.clone());
                keys
            }
        };
        let began = keys.ends.saturating_sub(KEYS_LIVE).unwrap_or(now);
        Some(
            serde_json::json!({
                "Code": "Success",
                "LastUpdated": whole_seconds(began),
                "Type": "AWS-HMAC",
                "AccessKeyId": keys.access_key,
                "SecretAccessKey": keys.secret,
                "Token": keys.token,
                "Expiration": whole_seconds(keys.ends),
            })
            .to_string(),
        )
    }
}

fn whole_seconds(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The identity document of an instance.
fn document(region: &Region, id: &str, it: &Instance) -> String {
    let kind = region.images.get(&it.image).map_or("x86_64", |image| image.architecture.as_str());
    let value = serde_json::json!({
        "accountId": region.account,
        "architecture": kind,
        "availabilityZone": it.zone,
        "billingProducts": null,
        "devpayProductCodes": null,
        "marketplaceProductCodes": null,
        "imageId": it.image,
        "instanceId": id,
        "instanceType": it.kind,
        "kernelId": null,
        "pendingTime": whole_seconds(it.launched),
        "privateIp": it.private_address,
        "ramdiskId": null,
        "region": region.name,
        "version": "2017-09-30",
    });
    serde_json::to_string_pretty(&value).unwrap_or_else(|_| moment(it.launched))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, RoleConfig};
    use crate::testing::{REGION, World};
    use serde_json::json;

    fn world() -> (World, String) {
        let trust = json!({"Statement": {"Effect": "Allow", "Action": "sts:AssumeRole",
                                         "Principal": {"Service": "ec2.amazonaws.com"}}});
        let role = RoleConfig { name: "node".into(), trust, policies: Vec::new(), max_session_seconds: 3600 };
        let profiles = BTreeMap::from([("nodes".to_owned(), "node".to_owned())]);
        let mut world = World::with(Config { roles: vec![role], profiles, ..Config::default() });
        let form = "IamInstanceProfile.Name=nodes&UserData=aGVsbG8=&MetadataOptions.HttpTokens=required&\
                    MetadataOptions.InstanceMetadataTags=enabled&MetadataOptions.HttpPutResponseHopLimit=2&\
                    TagSpecification.1.ResourceType=instance&TagSpecification.1.Tag.1.Key=Name&\
                    TagSpecification.1.Tag.1.Value=n1";
        let id = world.run(1, form).remove(0);
        (world, id)
    }

    fn ask(world: &mut World, id: &str, method: &str, path: &str, headers: &[(&str, &str)]) -> (u16, String) {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let request = Request { method: method.into(), path: path.into(), headers, ..Request::default() };
        let answer = world.account.metadata(REGION, id, &request, world.now);
        (answer.status, String::from_utf8(answer.body).unwrap())
    }

    #[test]
    fn tokens_are_asked_for_and_end() {
        let (mut world, id) = world();
        assert_eq!(world.account.metadata_hops(REGION, &id), Some(2));
        for (method, headers, want) in [
            ("PUT", vec![(TTL_HEADER, "60")], 200),
            ("PUT", vec![(TTL_HEADER, "0")], 400),
            ("PUT", vec![(TTL_HEADER, "21601")], 400),
            ("PUT", vec![], 400),
            ("PUT", vec![(TTL_HEADER, "60"), ("x-forwarded-for", "10.0.0.1")], 403),
            ("GET", vec![(TTL_HEADER, "60")], 405),
        ] {
            assert_eq!(ask(&mut world, &id, method, "/latest/api/token", &headers).0, want, "{method} {headers:?}");
        }
        let token = ask(&mut world, &id, "PUT", "/latest/api/token", &[(TTL_HEADER, "60")]).1;
        let path = "/latest/meta-data/instance-id";
        assert_eq!(ask(&mut world, &id, "GET", path, &[]).0, 401);
        assert_eq!(ask(&mut world, &id, "GET", path, &[(TOKEN_HEADER, "guess")]).0, 401);
        assert_eq!(ask(&mut world, &id, "GET", path, &[(TOKEN_HEADER, &token)]), (200, id.clone()));
        let other = world.run(1, "").remove(0);
        assert_eq!(ask(&mut world, &other, "GET", path, &[(TOKEN_HEADER, &token)]).0, 401, "of another instance");
        assert_eq!(ask(&mut world, &other, "GET", path, &[]), (200, other.clone()), "version 1 is allowed there");
        world.wait(60_000);
        assert_eq!(ask(&mut world, &id, "GET", path, &[(TOKEN_HEADER, &token)]).0, 401);
    }

    #[test]
    fn an_instance_learns_about_itself() {
        let (mut world, id) = world();
        let token = ask(&mut world, &id, "PUT", "/latest/api/token", &[(TTL_HEADER, "21600")]).1;
        let get = |world: &mut World, path: &str| {
            let (status, body) = ask(world, &id, "GET", &format!("/latest/{path}"), &[(TOKEN_HEADER, &token)]);
            if status == 200 { body } else { status.to_string() }
        };
        for (path, want) in [
            ("meta-data/placement/availability-zone", "eu-central-1a"),
            ("meta-data/placement/region", "eu-central-1"),
            ("meta-data/instance-type", "m5.large"),
            ("meta-data/tags/instance/Name", "n1"),
            ("meta-data/tags/instance", "Name"),
            ("meta-data/iam/security-credentials/", "node"),
            ("meta-data/spot/instance-action", "404"),
            ("meta-data/colour", "404"),
            ("user-data", "hello"),
            ("dynamic/instance-identity/pkcs7", "404"),
        ] {
            assert_eq!(get(&mut world, path), want, "{path}");
        }
        let document: serde_json::Value =
            serde_json::from_str(&get(&mut world, "dynamic/instance-identity/document")).unwrap();
        assert_eq!((&document["instanceId"], &document["accountId"]), (&json!(id), &json!("123456789012")));
        let mac = get(&mut world, "meta-data/mac");
        let path = format!("meta-data/network/interfaces/macs/{mac}/device-number");
        assert_eq!(get(&mut world, &path), "0");
        let keys: serde_json::Value =
            serde_json::from_str(&get(&mut world, "meta-data/iam/security-credentials/node")).unwrap();
        let key = keys["AccessKeyId"].as_str().unwrap();
        let who = world.call_as(key, crate::table::Service::Sts, "GetCallerIdentity", "").0.unwrap();
        assert_eq!(who.get("Arn"), format!("arn:aws:sts::123456789012:assumed-role/node/{id}"));
        assert_eq!(get(&mut world, "meta-data/iam/security-credentials/other"), "404");
    }

    #[test]
    fn notices_show_up() {
        let mut world = World::new();
        let id = world.run(1, "InstanceMarketOptions.MarketType=spot").remove(0);
        let now = world.now;
        let region = world.account.regions.get_mut(REGION).unwrap();
        region.recommend_rebalance(&id, now);
        region.interrupt(&id, 120_000, now);
        let action = ask(&mut world, &id, "GET", "/latest/meta-data/spot/instance-action", &[]).1;
        assert_eq!(action, r#"{"action":"terminate","time":"2026-11-21T12:02:03Z"}"#);
        let rebalance = ask(&mut world, &id, "GET", "/latest/meta-data/events/recommendations/rebalance", &[]);
        assert_eq!(rebalance.0, 200);
        world.wait(130_000);
        assert_eq!(ask(&mut world, &id, "GET", "/latest/meta-data/instance-id", &[]).0, 404, "it is gone");
    }
}
