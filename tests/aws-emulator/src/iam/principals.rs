//! Users, roles and sessions of the account, and their keys.

use super::policy::{Context, Policy, PolicyError, Verdict, decide};
use crate::config::{Config, IssuerConfig, RoleConfig, UserConfig};
use crate::ids::Ids;
use crate::sigv4::Key;
use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// The most sessions that are remembered; the oldest are forgotten first.
const MAX_SESSIONS: usize = 20_000;

/// A role.
#[derive(Clone, Debug)]
pub(crate) struct Role {
    pub(crate) name: String,
    pub(crate) arn: String,
    pub(crate) id: String,
    pub(crate) trust: Policy,
    pub(crate) policies: Arc<[Policy]>,
    pub(crate) max_session: SignedDuration,
}

#[derive(Clone, Debug)]
struct Identity {
    arn: String,
    user_id: String,
    key: Key,
    policies: Arc<[Policy]>,
    /// The policy that a session was narrowed with.
    narrowed: Option<Policy>,
    context: Context,
}

/// Who calls.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) arn: String,
    pub(crate) user_id: String,
    pub(crate) access_key: String,
    policies: Arc<[Policy]>,
    narrowed: Option<Policy>,
    /// What policies may know of them.
    pub(crate) context: Context,
}

impl Caller {
    /// What their policies say.
    pub(crate) fn verdict(&self, action: &str, resource: &str, context: &Context) -> Verdict {
        let own = decide(self.policies.iter(), action, resource, context);
        match &self.narrowed {
            Some(policy) if own == Verdict::Allowed => policy.verdict(action, resource, context, None),
            _ => own,
        }
    }
}

/// How a role may be taken.
#[derive(Clone, Debug)]
pub(crate) enum TrustedBy {
    /// By another principal, by its ARN.
    Principal(String),
    /// By a token of an issuer.
    Federated(String),
    /// By a service, for instance profiles.
    Service(&'static str),
}

/// What a new session shall be.
#[derive(Debug)]
pub(crate) struct NewSession<'a> {
    pub(crate) role: &'a str,
    pub(crate) name: &'a str,
    pub(crate) lives: SignedDuration,
    pub(crate) narrowed: Option<Policy>,
    pub(crate) context: Context,
}

/// Keys of a session as they are handed out.
#[derive(Clone, Debug)]
pub(crate) struct SessionKeys {
    pub(crate) access_key: String,
    pub(crate) secret: String,
    pub(crate) token: String,
    pub(crate) ends: Timestamp,
    pub(crate) arn: String,
    pub(crate) user_id: String,
}

/// The account's identities.
#[derive(Debug)]
pub(crate) struct Iam {
    account: String,
    ids: Ids,
    keys: BTreeMap<String, Identity>,
    sessions: VecDeque<String>,
    roles: BTreeMap<String, Role>,
    pub(crate) profiles: BTreeMap<String, String>,
    pub(crate) issuers: Vec<IssuerConfig>,
}

impl Iam {
    pub(crate) fn new(config: &Config) -> Result<Self, PolicyError> {
        let mut iam = Self {
            account: config.account.clone(),
            ids: Ids::new(config.seed ^ 0x1a4),
            keys: BTreeMap::new(),
            sessions: VecDeque::new(),
            roles: BTreeMap::new(),
            profiles: config.profiles.clone(),
            issuers: config.issuers.clone(),
        };
        config.users.iter().try_for_each(|user| iam.put_user(user))?;
        config.roles.iter().try_for_each(|role| iam.put_role(role))?;
        Ok(iam)
    }

    /// Adds or replaces a user.
    pub(crate) fn put_user(&mut self, user: &UserConfig) -> Result<(), PolicyError> {
        let policies: Vec<Policy> = user.policies.iter().map(Policy::parse).collect::<Result<_, _>>()?;
        let arn = format!("arn:aws:iam::{}:user/{}", self.account, user.name);
        let user_id = format!("AIDA{}", self.ids.letters(17));
        let context = caller_context(&arn, &self.account, &user_id, Some(&user.name));
        let key = Key { secret: user.secret_key.clone(), session: None };
        let identity = Identity { arn, user_id, key, policies: policies.into(), narrowed: None, context };
        self.keys.insert(user.access_key.clone(), identity);
        Ok(())
    }

    /// Adds or replaces a role; sessions of it keep what they had.
    pub(crate) fn put_role(&mut self, role: &RoleConfig) -> Result<(), PolicyError> {
        let policies: Vec<Policy> = role.policies.iter().map(Policy::parse).collect::<Result<_, _>>()?;
        let made = Role {
            name: role.name.clone(),
            arn: format!("arn:aws:iam::{}:role/{}", self.account, role.name),
            id: format!("AROA{}", self.ids.letters(17)),
            trust: Policy::parse(&role.trust)?,
            policies: policies.into(),
            max_session: SignedDuration::from_secs(role.max_session_seconds),
        };
        self.roles.insert(role.name.clone(), made);
        Ok(())
    }

    /// Forgets a key: calls with it are refused. Whether there was one.
    pub(crate) fn revoke(&mut self, access_key: &str) -> bool {
        self.keys.remove(access_key).is_some()
    }

    pub(crate) fn key(&self, access_key: &str) -> Option<Key> {
        self.keys.get(access_key).map(|identity| identity.key.clone())
    }

    pub(crate) fn caller(&self, access_key: &str) -> Option<Caller> {
        let identity = self.keys.get(access_key)?;
        Some(Caller {
            arn: identity.arn.clone(),
            user_id: identity.user_id.clone(),
            access_key: access_key.to_owned(),
            policies: identity.policies.clone(),
            narrowed: identity.narrowed.clone(),
            context: identity.context.clone(),
        })
    }

    /// The role of a name or an ARN.
    pub(crate) fn role(&self, name_or_arn: &str) -> Option<&Role> {
        let name = name_or_arn.rsplit_once(":role/").map_or(name_or_arn, |(_, name)| name);
        self.roles.get(name).filter(|role| role.name == name_or_arn || role.arn == name_or_arn)
    }

    /// Whether `role` may be taken so.
    pub(crate) fn trusts(&self, role: &Role, action: &str, by: &TrustedBy, context: &Context) -> bool {
        let names = match by {
            TrustedBy::Principal(arn) => {
                let root = format!("arn:aws:iam::{}:root", self.account);
                vec![("AWS", arn.clone()), ("AWS", root), ("AWS", self.account.clone())]
            }
            TrustedBy::Federated(provider) => vec![("Federated", provider.clone())],
            TrustedBy::Service(service) => vec![("Service", (*service).to_owned())],
        };
        role.trust.verdict(action, &role.arn, context, Some(&names)) == Verdict::Allowed
    }

    /// Begins a session; `None` when there is no such role.
    pub(crate) fn begin(&mut self, new: NewSession<'_>, now: Timestamp) -> Option<SessionKeys> {
        let role = self.role(new.role)?.clone();
        let keys = SessionKeys {
            access_key: format!("ASIA{}", self.ids.letters(16)),
            secret: self.ids.letters(40),
            token: format!("IQoJb3JpZ2luX2Vj{}", self.ids.letters(200)),
            ends: now + new.lives,
            arn: format!("arn:aws:sts::{}:assumed-role/{}/{}", self.account, role.name, new.name),
            user_id: format!("{}:{}", role.id, new.name),
        };
        let mut context = caller_context(&keys.arn, &self.account, &keys.user_id, None);
        context.extend(new.context);
        let identity = Identity {
            arn: keys.arn.clone(),
            user_id: keys.user_id.clone(),
            key: Key { secret: keys.secret.clone(), session: Some((keys.token.clone(), keys.ends)) },
            policies: role.policies,
            narrowed: new.narrowed,
            context,
        };
        self.keys.insert(keys.access_key.clone(), identity);
        self.sessions.push_back(keys.access_key.clone());
        if self.sessions.len() > MAX_SESSIONS
            && let Some(oldest) = self.sessions.pop_front()
        {
            self.keys.remove(&oldest);
        }
        Some(keys)
    }
}

fn caller_context(arn: &str, account: &str, user_id: &str, user_name: Option<&str>) -> Context {
    let kind = if user_name.is_some() { "User" } else { "AssumedRole" };
    let mut context = Context::new();
    let mut put = |key: &str, value: &str| context.insert(key.to_owned(), vec![value.to_owned()]);
    put("aws:principalarn", arn);
    put("aws:principalaccount", account);
    put("aws:principaltype", kind);
    put("aws:userid", user_id);
    if let Some(name) = user_name {
        put("aws:username", name);
    }
    context
}
