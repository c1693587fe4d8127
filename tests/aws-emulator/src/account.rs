//! The whole as one state machine: a request and the time in, an answer out. Does no I/O; the shells do.

use crate::call::{Call, Handler, Outcome};
use crate::config::Config;
use crate::error::{AwsError, refuse, refuse_with};
use crate::faults::{Effect, Faults, Met, Subject};
use crate::form::{Tree, pairs};
use crate::health::{Finding, Probe};
use crate::iam::{Caller, Iam, PolicyError};
use crate::ids::{Ids, mix};
use crate::ledger::{Entry, Ledger};
use crate::region::Region;
use crate::shelf::NOTHING;
use crate::sigv4::{Request, verify};
use crate::table::{Action, Service, Table, read};
use crate::throttle::Throttle;
use crate::xml::{Node, document, group, text};
use jiff::{SignedDuration, Timestamp};
use std::cell::Cell;
use std::collections::BTreeMap;

/// How an answer goes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// As usual.
    Send,
    /// Never: the connection stays open until the caller gives up.
    Silence,
    /// Never: the connection ends.
    Drop,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// XML.
    pub body: String,
    /// The request's identifier, which goes into a header.
    pub request_id: String,
    /// How it goes out.
    pub delivery: Delivery,
}

/// An account with its regions.
#[derive(Debug)]
pub struct Account {
    pub(crate) config: Config,
    pub(crate) iam: Iam,
    pub(crate) regions: BTreeMap<String, Region>,
    /// Every call so far.
    pub ledger: Ledger,
    /// The scripted faults.
    pub faults: Faults,
    pub(crate) metadata: crate::imds::Metadata,
    throttle: Throttle,
    tables: BTreeMap<Service, Table>,
    handlers: BTreeMap<(Service, &'static str), Handler>,
    ids: Ids,
    calls: u64,
}

/// A call, once it is known who makes it.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) service: Service,
    pub(crate) action: String,
    pub(crate) region: String,
    pub(crate) caller: Option<Caller>,
    pub(crate) pairs: Vec<(String, String)>,
}

/// What came of a call.
struct Done {
    outcome: Outcome,
    delivery: Delivery,
    fault: Option<String>,
    looked_at: u64,
    took_effect: bool,
}

impl Done {
    fn refused(error: AwsError) -> Self {
        Self { outcome: Err(error), delivery: Delivery::Send, fault: None, looked_at: 0, took_effect: false }
    }
}

impl Account {
    /// An account as `config` describes it.
    ///
    /// # Errors
    /// When a policy in it cannot be read.
    pub fn new(config: Config, now: Timestamp) -> Result<Self, PolicyError> {
        let regions = config.regions.iter().map(|name| (name.clone(), Region::new(name, &config, now))).collect();
        let handlers = crate::ec2::HANDLERS.iter().map(|(name, run)| ((Service::Ec2, *name), *run));
        let handlers = handlers.chain(crate::elb::HANDLERS.iter().map(|(name, run)| ((Service::Elb, *name), *run)));
        let handlers = handlers.chain(crate::sts::HANDLERS.iter().map(|(name, run)| ((Service::Sts, *name), *run)));
        Ok(Self {
            iam: Iam::new(&config)?,
            regions,
            ledger: Ledger::default(),
            faults: Faults::default(),
            metadata: crate::imds::Metadata::new(config.seed),
            throttle: Throttle::default(),
            tables: Service::ALL.iter().map(|service| (*service, read(*service))).collect(),
            handlers: handlers.collect(),
            ids: Ids::new(config.seed ^ 0x7e9),
            calls: 0,
            config,
        })
    }

    /// Lets everything happen that is due by `now`.
    pub fn advance(&mut self, now: Timestamp) {
        for region in self.regions.values_mut() {
            region.advance(&self.config, now);
        }
    }

    /// Gives the account a key that signs identity documents.
    ///
    /// # Errors
    /// When there is none to be had.
    pub fn sign_identities(&mut self) -> Result<(), crate::identity::IdentityError> {
        self.metadata.signer = Some(crate::identity::Signer::generate()?);
        Ok(())
    }

    /// The next check of a target that a prober outside should make, and its region.
    pub fn next_probe(&mut self) -> Option<(String, Probe)> {
        self.regions.iter_mut().find_map(|(name, region)| Some((name.clone(), region.probes.pop_front()?)))
    }

    /// What a check found.
    pub fn found(&mut self, region: &str, probe: &Probe, finding: Finding, now: Timestamp) {
        if let Some(region) = self.regions.get_mut(region) {
            region.find(&probe.group, &probe.target, finding, now);
        }
    }

    /// Answers a request.
    pub fn answer(&mut self, request: &Request, now: Timestamp) -> Answer {
        let request_id = self.ids.uuid();
        let (service, action, (outcome, delivery)) = match self.admit(request, now) {
            Ok(order) => {
                let done = self.perform(&order, now);
                (order.service, order.action, done)
            }
            Err((service, error)) => (service, String::new(), (Err(error), Delivery::Send)),
        };
        let (status, body) = match outcome {
            Ok(nodes) => (200, render(service, &action, nodes, &request_id)),
            Err(error) => (error.status, render_error(service, &error, &request_id)),
        };
        Answer { status, body, request_id, delivery }
    }

    /// Finds out what a request wants and whether its signature holds.
    fn admit(&self, request: &Request, now: Timestamp) -> Result<Order, (Service, AwsError)> {
        let body = String::from_utf8_lossy(&request.body);
        let text = if request.method == "POST" { body.as_ref() } else { request.query.as_str() };
        let mut all = pairs(text).map_err(|error| (Service::Ec2, error))?;
        let mut take = |name: &str| {
            let at = all.iter().position(|(it, _)| it == name)?;
            Some(all.remove(at).1)
        };
        let (action, version) = (take("Action").unwrap_or_default(), take("Version").unwrap_or_default());
        let service = Service::ALL.into_iter().find(|service| service.version() == version);
        let service = service.ok_or_else(|| (Service::Ec2, no_such_action(&action)))?;
        all.retain(|(name, _)| !name.starts_with("X-Amz-"));
        let unsigned = action == "AssumeRoleWithWebIdentity" && request.header("authorization").is_none();
        let (region, caller) = if unsigned {
            (self.config.regions.first().cloned().unwrap_or_default(), None)
        } else {
            let signed = verify(request, service, |key| self.iam.key(key), now).map_err(|error| (service, error))?;
            (signed.region, self.iam.caller(&signed.access_key))
        };
        if !self.regions.contains_key(&region) {
            let message = "Credential should be scoped to a valid region.";
            return Err((service, refuse_with(403, "SignatureDoesNotMatch", message)));
        }
        Ok(Order { service, action, region, caller, pairs: all })
    }

    /// Performs a call and writes it down.
    pub(crate) fn perform(&mut self, order: &Order, now: Timestamp) -> (Outcome, Delivery) {
        self.calls += 1;
        let done = self.decide(order, now);
        self.ledger.push(Entry {
            number: 0,
            at: now,
            service: order.service.word().to_owned(),
            region: order.region.clone(),
            action: order.action.clone(),
            caller: order.caller.as_ref().map_or(String::new(), |caller| caller.arn.clone()),
            access_key: order.caller.as_ref().map_or(String::new(), |caller| caller.access_key.clone()),
            parameters: order.pairs.clone(),
            outcome: done.outcome.as_ref().err().map_or("ok".to_owned(), |error| error.code.to_string()),
            fault: done.fault,
            looked_at: done.looked_at,
            took_effect: done.took_effect,
        });
        (done.outcome, done.delivery)
    }

    fn decide(&mut self, order: &Order, now: Timestamp) -> Done {
        let action = self.tables.get(&order.service).and_then(|table| table.get(&order.action)).cloned();
        let handler = self.handlers.get(&(order.service, order.action.as_str())).copied();
        let Some((action, handler)) = action.zip(handler) else { return Done::refused(no_such_action(&order.action)) };
        let subject = Subject {
            action: &order.action,
            caller: order.caller.as_ref().map_or("", |caller| &caller.arn),
            region: &order.region,
            write: action.write,
            parameters: &order.pairs,
        };
        let met = self.faults.meet(&subject, now);
        let mut done = match met.as_ref().and_then(|met| before(met, order.service)) {
            Some(done) => done,
            None => self.run(order, &action, handler, met.as_ref(), now),
        };
        done.fault = met.map(|met| met.name);
        done
    }

    /// Checks and runs a call that no fault stopped before.
    fn run(&mut self, order: &Order, action: &Action, handler: Handler, met: Option<&Met>, now: Timestamp) -> Done {
        let mut form = match Tree::from_pairs(&order.pairs) {
            Ok(form) => form,
            Err(error) => return Done::refused(error),
        };
        let effect = met.map(|met| &met.effect);
        if effect == Some(&Effect::Half)
            && let Some(list) = &action.half
        {
            form.halve(list);
        }
        if let Some(error) = self.refusal(order, action, &form, now) {
            return Done::refused(error);
        }
        let at = match effect {
            Some(Effect::Stale) => met.map(|met| met.since),
            Some(Effect::Empty) => NOTHING,
            _ => self.lag(action, now),
        };
        let Some(region) = self.regions.get_mut(&order.region) else { return Done::refused(no_such_action("")) };
        let token = form.text("ClientToken").map(str::to_owned);
        let parameters = token.as_ref().map(|_| fingerprint(&order.pairs)).unwrap_or_default();
        if let Some(token) = &token {
            match region.remembered(&order.action, token, &parameters) {
                Ok(None) => {}
                Ok(Some(answer)) => return after(Ok(answer), 0, action.write, met, order.service),
                Err(error) => return Done::refused(error),
            }
        }
        let mut call = Call {
            region,
            iam: &mut self.iam,
            config: &self.config,
            action,
            form: &form,
            caller: order.caller.as_ref(),
            now,
            at,
            looked_at: Cell::new(0),
        };
        let outcome = handler(&mut call);
        let looked_at = call.looked_at.get();
        if let (Ok(answer), Some(token)) = (&outcome, &token) {
            call.region.remember(&order.action, token, parameters, answer.clone());
        }
        after(outcome, looked_at, action.write, met, order.service)
    }

    /// Why the call is refused before its handler: rate, form, permission, or that it was only a dry run.
    fn refusal(&mut self, order: &Order, action: &Action, form: &Tree, now: Timestamp) -> Option<AwsError> {
        if self.config.throttle {
            let instances = if order.action == "RunInstances" { form.number("MaxCount").unwrap_or(1) } else { 0 };
            let narrowed = !order.pairs.is_empty();
            let ordered = u32::try_from(instances).map_or(f64::MAX, f64::from);
            if !self.throttle.admit(&order.region, action, narrowed, ordered, now) {
                return Some(throttled(order.service));
            }
        }
        if let Err(error) = action.check(form) {
            return Some(error);
        }
        let region = self.regions.get_mut(&order.region)?;
        region.advance(&self.config, now);
        if let Some(caller) = &order.caller
            && let Err(error) = crate::access::permit(region, caller, action, form, now)
        {
            return Some(error);
        }
        let message = "Request would have succeeded, but DryRun flag is set.";
        form.flag("DryRun").unwrap_or(false).then(|| refuse_with(412, "DryRunOperation", message))
    }

    /// The moment that a read sees, drawn from the seed; writes see the present.
    fn lag(&self, action: &Action, now: Timestamp) -> Option<Timestamp> {
        if action.write || self.config.lag_ms == 0 {
            return None;
        }
        let lag = mix(self.config.seed.wrapping_add(self.calls)) % self.config.lag_ms;
        now.checked_sub(SignedDuration::from_millis(i64::try_from(lag).ok()?)).ok()
    }
}

/// What a fault does before anything took effect.
fn before(met: &Met, service: Service) -> Option<Done> {
    let refused = |error| Some(Done::refused(error));
    match &met.effect {
        Effect::Throttle => refused(throttled(service)),
        Effect::Deny => refused(crate::access::denied(service, "You are not authorized to perform this operation.")),
        Effect::ErrorBefore { code, status } => refused(refuse_with(*status, code.clone(), SCRIPTED)),
        Effect::TimeoutBefore => {
            Some(Done { delivery: Delivery::Silence, ..Done::refused(refuse_with(500, "InternalError", SCRIPTED)) })
        }
        _ => None,
    }
}

/// What a fault does to a call that ran.
fn after(outcome: Outcome, looked_at: u64, write: bool, met: Option<&Met>, service: Service) -> Done {
    let took_effect = write && outcome.is_ok();
    let (outcome, delivery) = match met.map(|met| &met.effect) {
        Some(Effect::TimeoutAfter) => (outcome, Delivery::Silence),
        Some(Effect::DropAfter) => (outcome, Delivery::Drop),
        Some(Effect::ErrorAfter { code, status }) => {
            (outcome.and(Err(refuse_with(*status, code.clone(), SCRIPTED))), Delivery::Send)
        }
        Some(Effect::Half) => {
            let code = if service == Service::Ec2 { "InternalError" } else { "InternalFailure" };
            (outcome.and(Err(refuse_with(500, code, SCRIPTED))), Delivery::Send)
        }
        _ => (outcome, Delivery::Send),
    };
    Done { outcome, delivery, fault: None, looked_at, took_effect }
}

const SCRIPTED: &str = "An internal error has occurred";

fn no_such_action(action: &str) -> AwsError {
    refuse("InvalidAction", format!("The action {action} is not valid for this web service."))
}

fn throttled(service: Service) -> AwsError {
    match service {
        Service::Ec2 => refuse_with(503, "RequestLimitExceeded", "Request limit exceeded."),
        _ => refuse("Throttling", "Rate exceeded"),
    }
}

/// The parameters that must be the same for one token.
fn fingerprint(pairs: &[(String, String)]) -> String {
    let mut all: Vec<String> = pairs
        .iter()
        .filter(|(name, _)| name != "ClientToken")
        .map(|(name, value)| format!("{name}={value}\n"))
        .collect();
    all.sort_unstable();
    all.concat()
}

fn render(service: Service, action: &str, mut nodes: Vec<Node>, request_id: &str) -> String {
    let root = format!("{action}Response");
    if service == Service::Ec2 {
        nodes.insert(0, text("requestId", request_id));
        return document(&root, service.namespace(), &nodes);
    }
    let result = Node::Group(format!("{action}Result").into(), nodes);
    let metadata = group("ResponseMetadata", vec![text("RequestId", request_id)]);
    document(&root, service.namespace(), &[result, metadata])
}

fn render_error(service: Service, error: &AwsError, request_id: &str) -> String {
    let told = [text("Code", error.code.clone()), text("Message", error.message.clone())];
    if service == Service::Ec2 {
        let errors = group("Errors", vec![group("Error", told.into())]);
        return document("Response", "", &[errors, text("RequestID", request_id)]);
    }
    let side = text("Type", if error.status < 500 { "Sender" } else { "Receiver" });
    let error = group("Error", [side].into_iter().chain(told).collect());
    document("ErrorResponse", service.namespace(), &[error, text("RequestId", request_id)])
}

#[cfg(test)]
mod tests;
