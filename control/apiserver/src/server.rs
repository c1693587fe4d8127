//! One cluster's API server: the parts put together, and the way of a request through them.

use crate::{
    access::Access,
    admission::{AdmissionChain, PolicyIndex, WebhookIndex, standard_chain},
    aggregation::{self, Aggregation, Passed},
    audit::{AUDIT_ID, Asked, AuditMetrics, Told, Trail},
    authn::{Authenticator, User},
    authz::{Answers, Authorizers, Rbac},
    body::Body,
    cache::{Cache, CacheError},
    config::{Caller, Config, HealthCheck},
    custom,
    dial::Reach,
    discovery,
    fairness::{self, Fairness, Permit, Schema},
    http::{self, Accept, Answer, Query, RequestInfo},
    limits::Limits,
    lookup::CacheLookup,
    metrics::Metrics,
    registry::{self, Call, Committer, Events, Resources, Services},
    streams::NodeConnector,
    webhook::WebhookClient,
};
use ::http::{Request, Response};
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use std::{
    borrow::Cow,
    collections::BTreeSet,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};
use timonel_api::{Key, Status};
use timonel_runtime::{Clock, Entropy, OnError, Registry, Tasks, continue_trace, follow_trace, traces_are_on};
use tracing::Instrument;

/// Headers by which answers say what decided when they had their turn: of the flow schema, and of its level.
const FLOW_HEADERS: [&str; 2] = ["x-kubernetes-pf-flowschema-uid", "x-kubernetes-pf-prioritylevel-uid"];
/// Time for one request that is neither a watch nor a stream.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// Why an API server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Loading the objects failed.
    #[error("loading the cluster's objects")]
    Load(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The objects every cluster has could not be written.
    #[error("writing the objects every cluster starts with")]
    Bootstrap(#[source] Status),
}

impl From<CacheError> for StartError {
    fn from(error: CacheError) -> Self {
        Self::Load(Box::new(error))
    }
}

/// A request taken apart.
struct Incoming<'a> {
    parts: &'a ::http::request::Parts,
    extensions: ::http::Extensions,
    body: Body,
    audit_id: &'a str,
    received: jiff::Timestamp,
}

/// One cluster's API.
#[derive(Debug)]
pub struct ApiServer {
    pub(crate) clock: Clock,
    pub(crate) entropy: Entropy,
    pub(crate) cache: Arc<Cache>,
    pub(crate) health: Vec<Arc<dyn HealthCheck>>,
    pub(crate) committer: Committer,
    pub(crate) resources: ArcSwap<Resources>,
    /// Numbers for views of custom resources, after those of the built-in ones.
    pub(crate) next_view: AtomicU32,
    /// Definitions of custom resources that a task works on.
    pub(crate) settling: Mutex<BTreeSet<Key>>,
    pub(crate) lookup: Arc<CacheLookup>,
    pub(crate) authenticator: Authenticator,
    pub(crate) rbac: Arc<Rbac>,
    pub(crate) authorizer: Arc<Authorizers>,
    pub(crate) admission: AdmissionChain,
    pub(crate) services: Services,
    pub(crate) events: Events,
    pub(crate) metrics: Metrics,
    pub(crate) limits: Limits,
    pub(crate) fairness: Fairness,
    pub(crate) public_address: String,
    pub(crate) advertise: Option<SocketAddr>,
    pub(crate) nodes: Option<Arc<dyn NodeConnector>>,
    pub(crate) tasks: Tasks,
    pub(crate) webhooks: Arc<WebhookClient>,
    pub(crate) access: Access,
    pub(crate) aggregation: Aggregation,
    /// What discovery says when other servers share in the API.
    pub(crate) merged: discovery::Merged,
    pub(crate) mutating_webhooks: WebhookIndex,
    pub(crate) validating_webhooks: WebhookIndex,
    pub(crate) mutating_policies: PolicyIndex,
    pub(crate) validating_policies: PolicyIndex,
    /// Whether the status of validating policies says what type checks find.
    pub(crate) type_checks: AtomicBool,
}

impl ApiServer {
    /// Loads the cluster, writes what every cluster starts with, and serves from then on; `tasks` owns what
    /// runs in the background.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn new(config: Config, tasks: &Tasks) -> Result<Arc<Self>, StartError> {
        let Config { scheme, store, prefix, clock, entropy, .. } = &config;
        let cache = Cache::start(store.clone(), &config.apart, prefix.clone(), registry::index_field, tasks).await?;
        let resources = Resources::new(scheme, &cache);
        let services = Services {
            ranges: config.service_ranges.clone(),
            node_ports: config.node_ports.clone(),
            prefix: prefix.clone(),
            store: store.clone(),
            addresses: cache.slot(&registry::addresses_resource()),
            entropy: entropy.clone(),
        };
        let rbac = Arc::new(Rbac::default());
        let metrics = Metrics::default();
        let authorizer = Arc::new(Authorizers::new(rbac.clone()));
        let lookup = Arc::new(CacheLookup(cache.clone()));
        let reach = Reach {
            lookup: lookup.clone(),
            nodes: config.nodes.clone(),
            entropy: entropy.clone(),
            local: config.local_destinations.as_slice().into(),
        };
        let server = Arc::new(Self {
            clock: clock.clone(),
            entropy: entropy.clone(),
            committer: Committer { cache: cache.clone(), metrics: metrics.store() },
            next_view: AtomicU32::new(u32::try_from(scheme.resources().len()).unwrap_or(u32::MAX)),
            resources: ArcSwap::from_pointee(resources),
            settling: Mutex::default(),
            webhooks: Arc::new(WebhookClient::new(reach.clone(), tasks)),
            access: Access::new(AuditMetrics::register(metrics.registry())),
            aggregation: Aggregation::new(config.front_proxy.clone(), reach),
            merged: discovery::Merged::default(),
            mutating_webhooks: WebhookIndex::new("mutatingwebhookconfigurations"),
            validating_webhooks: WebhookIndex::new("validatingwebhookconfigurations"),
            mutating_policies: PolicyIndex::new("mutatingadmissionpolicies", "mutatingadmissionpolicybindings"),
            validating_policies: PolicyIndex::new("validatingadmissionpolicies", "validatingadmissionpolicybindings"),
            type_checks: AtomicBool::new(false),
            lookup,
            events: Events::new(cache.place_of(&registry::events_resource()).store().clone(), config.event_ttl_seconds),
            services,
            cache,
            health: config.health.clone(),
            fairness: Fairness::new(clock.clone(), metrics.registry()),
            metrics,
            limits: Limits::default(),
            public_address: config.public_address,
            advertise: config.advertise.filter(|_| !config.service_ranges.is_empty()),
            nodes: config.nodes,
            tasks: tasks.clone(),
            authenticator: Authenticator::new(config.authentication, config.keys),
            admission: standard_chain(rbac.clone(), authorizer.clone()),
            authorizer,
            rbac,
        });
        custom::start(&server);
        aggregation::start(&server);
        fairness::start(&server);
        registry::bootstrap(&server, server.advertise).await.map_err(StartError::Bootstrap)?;
        let uses = registry::note_token_uses(server.authenticator.uses(), Arc::downgrade(&server));
        tasks.spawn("token-uses", OnError::Log, uses);
        Ok(server)
    }

    /// Puts the Service `kubernetes` and its endpoints back as they should be.
    ///
    /// # Errors
    /// When one of them cannot be written.
    pub async fn publish(self: &Arc<Self>) -> Result<(), Status> {
        match self.advertise {
            Some(address) => registry::publish(self, address).await,
            None => Ok(()),
        }
    }

    /// From here on the status of a validating policy says, when the policy is written, what type checks find in it:
    /// the work of upstream's controller manager, for a cluster that has none.
    pub fn check_policies(&self) {
        self.type_checks.store(true, Ordering::Relaxed);
    }

    /// Answers one request.
    pub async fn call(&self, request: Request<Body>, caller: Caller) -> Response<Body> {
        let started = self.clock.now();
        let (mut parts, body) = request.into_parts();
        let extensions = std::mem::take(&mut parts.extensions);
        let query = Query::parse(parts.uri.query().unwrap_or(""));
        let info = RequestInfo::parse(&parts.method, parts.uri.path(), &query);
        let span = tracing::info_span!(
            "request",
            verb = %info.verb,
            group = %info.group,
            resource = %info.resource,
            subresource = %info.subresource,
            code = tracing::field::Empty,
        );
        if traces_are_on() && !continue_trace(&span, &parts.headers) {
            self.follow_object(&span, &info, &caller);
        }
        let told = Told::default();
        let audit_id = self.audit_id(&parts.headers, &caller);
        let incoming = Incoming { parts: &parts, extensions, body, audit_id: &audit_id, received: started };
        let served = self.served(incoming, &query, &info, &caller, &told).instrument(span.clone()).await;
        let known =
            !info.is_resource || self.resources.load().get(&info.group, &info.version, &info.resource).is_some();
        let Told { warnings, trail, flow } = told;
        let trail = trail.into_inner();
        let answer = served.unwrap_or_else(|status| {
            trail.iter().for_each(|trail| trail.refused(&status));
            Answer::status(&status)
        });
        let mut response = answer.finish(&warnings.into_inner());
        if let Some(schema) = flow.into_inner() {
            for (name, mark) in FLOW_HEADERS.into_iter().zip(&schema.marks) {
                response.headers_mut().insert(name, mark.clone());
            }
        }
        if let Ok(id) = audit_id.parse::<::http::HeaderValue>()
            && !id.is_empty()
        {
            response.headers_mut().entry(AUDIT_ID).or_insert(id);
        }
        if let Some(trail) = trail {
            let scheme = self.resources.load().scheme().clone();
            response = Box::pin(trail.answered(response, &scheme)).await;
        }
        let took = self.clock.now().duration_since(started);
        let took = Duration::try_from(took).unwrap_or_default();
        self.metrics.answered(&info, known, response.status().as_u16(), took);
        span.record("code", response.status().as_u16());
        response
    }

    /// Where the other parts of this control plane register their metrics, to be told with the API's own.
    pub fn metrics(&self) -> &Registry {
        self.metrics.registry()
    }

    /// All metrics as Prometheus text.
    pub(crate) fn metrics_text(&self) -> String {
        self.cache.counts().iter().for_each(|(resource, count)| self.metrics.objects(resource, *count));
        self.fairness.tell();
        self.metrics.text()
    }

    /// A request from outside that says no trace belongs to that of the object it names: so a node's requests show
    /// what became of a pod. Clients in this process say by their own span what they follow.
    fn follow_object(&self, span: &tracing::Span, info: &RequestInfo<'_>, caller: &Caller) {
        if !info.is_named || !matches!(caller, Caller::Peer(_)) {
            return;
        }
        let resources = self.resources.load();
        let Some(view) = resources.get(&info.group, &info.version, &info.resource) else { return };
        let namespace = if view.resource.namespaced { &*info.namespace } else { "" };
        if let Some(entry) = view.slot.get(namespace, &info.name).filter(|_| registry::belongs_to_traces(view)) {
            follow_trace(span, &entry.uid());
        }
    }

    async fn served(
        &self,
        incoming: Incoming<'_>,
        query: &Query<'_>,
        info: &RequestInfo<'_>,
        caller: &Caller,
        told: &Told,
    ) -> Result<Answer, Status> {
        let Incoming { parts, extensions, body, audit_id, received } = incoming;
        let streamed = matches!(&*info.subresource, "log" | "exec" | "attach" | "portforward" | "proxy");
        let long = info.verb == "watch" || streamed;
        let asked = Asked { id: audit_id, parts, info, address: caller.address(), received, long };
        let user = self.requester(asked, caller, told).await?;
        let trail = told.trail.get().map(|trail| &**trail);
        let _inflight = (!long).then(|| self.metrics.inflight(info.attributes().is_read_only()));
        // Streams go on for as long as they like; nobody could wait for their end.
        let schema = if streamed { None } else { self.fairness.classify(&user, info) };
        if let Some(schema) = &schema {
            told.flow.get_or_init(|| schema.clone());
        }
        self.permit(&user, &info.attributes(), trail).await?;
        let limit = if long { REQUEST_TIMEOUT } else { time_limit(query)? };
        if let Some(remote) = self.aggregation.find(info.path) {
            let _turn = match self.turn(schema.as_ref(), &user, info, query).await {
                Ok(turn) => turn,
                Err(refusal) => return Ok(refusal),
            };
            let address = caller.address();
            let passed = Passed { parts, extensions, body, user: &user, address, long };
            return aggregation::forward(self, &remote, passed).await;
        }
        if !info.is_resource || info.resource.is_empty() {
            let _turn = match self.turn(schema.as_ref(), &user, info, query).await {
                Ok(turn) => turn,
                Err(refusal) => return Ok(refusal),
            };
            return discovery::serve(self, parts, query, info).await;
        }
        let resources = self.resources.load_full();
        let view = resources.get(&info.group, &info.version, &info.resource);
        let view = view.ok_or_else(Status::no_such_resource)?;
        let headers = readable(&parts.headers, trail);
        let call = Call {
            server: self,
            view: view.clone(),
            info,
            query,
            raw_query: parts.uri.query().unwrap_or(""),
            method: &parts.method,
            headers: &headers,
            trail,
            answers: Answers::default(),
            extensions: Mutex::new(extensions),
            user: &user,
            now: self.clock.now(),
            // What another server answers is passed on whatever its type.
            accept: http::accept(&headers, query, view.resource.custom)
                .or_else(|refused| streamed.then(Accept::default).ok_or(refused))?,
            warnings: Mutex::default(),
        };
        if let Some(warning) = view.custom.as_ref().and_then(|custom| custom.version().warning.as_deref()) {
            call.warn(warning);
        }
        let result = if long {
            // A watch has its turn until it is set up.
            match self.turn(schema.as_ref(), &user, info, query).await {
                Ok(_turn) => Box::pin(registry::serve(&call, body)).await,
                Err(refusal) => Ok(refusal),
            }
        } else {
            let served = Box::pin(self.in_turn(&call, body, schema.as_ref(), caller));
            match tokio::time::timeout(limit, served).await {
                Ok(result) => result,
                Err(_) => Err(Status::timeout("request did not complete within the allotted timeout", 1)),
            }
        };
        *told.warnings.lock() = call.warnings.into_inner();
        result
    }

    /// Waits for a request's turn among those of its flow and its level; the answer when there is none.
    async fn turn(
        &self,
        schema: Option<&Arc<Schema>>,
        user: &User,
        info: &RequestInfo<'_>,
        query: &Query<'_>,
    ) -> Result<Option<Permit<'_>>, Answer> {
        let Some(schema) = schema else { return Ok(None) };
        let asked = fairness::Asked { schema, user, info };
        let objects = || {
            let resources = self.resources.load();
            resources.get(&info.group, &info.version, &info.resource).map_or(0, |view| view.slot.count())
        };
        self.fairness.admit(asked, query, objects).await.map(Some)
    }

    /// Serves a request whose body is read first, so that whoever sends it slowly keeps nobody from a turn.
    async fn in_turn(
        &self,
        call: &Call<'_>,
        body: Body,
        schema: Option<&Arc<Schema>>,
        caller: &Caller,
    ) -> Result<Answer, Status> {
        let said = http_body::Body::size_hint(&body).exact();
        let _room = self.limits.room(said, registry::MAX_BODY).await;
        let body = registry::read_body(body).await?;
        let mut turn = match self.turn(schema, call.user, call.info, call.query).await {
            Ok(turn) => turn,
            Err(refusal) => return Ok(refusal),
        };
        if let Some(turn) = turn.as_mut().filter(|_| !call.info.attributes().is_read_only()) {
            turn.told(call.view.slot.watchers());
        }
        // Clusters that share a process do not slow one another. Parts of the control plane do not queue behind those
        // whom they serve.
        let _place = match caller {
            Caller::Internal(_) => None,
            Caller::Peer(_) => self.limits.turn().await?,
        };
        registry::serve(call, body.into()).await
    }
}

/// The time that a request gives itself, within the server's bound.
fn time_limit(query: &Query<'_>) -> Result<Duration, Status> {
    let text = query.get("timeout");
    if text.is_empty() {
        return Ok(REQUEST_TIMEOUT);
    }
    let nanos = timonel_api::duration_nanos(text).ok_or_else(|| {
        Status::bad_request(format!("invalid timeout specified in the request URL - time: invalid duration {text:?}"))
    })?;
    let asked = u64::try_from(nanos).ok().filter(|nanos| *nanos > 0).map(Duration::from_nanos);
    Ok(asked.map_or(REQUEST_TIMEOUT, |asked| asked.min(REQUEST_TIMEOUT)))
}

/// The headers of a request; without leave to compress the answer where audit reads it.
fn readable<'a>(headers: &'a ::http::HeaderMap, trail: Option<&Trail>) -> Cow<'a, ::http::HeaderMap> {
    if !trail.is_some_and(Trail::wants_answer) {
        return Cow::Borrowed(headers);
    }
    let mut headers = headers.clone();
    headers.remove(::http::header::ACCEPT_ENCODING);
    Cow::Owned(headers)
}
