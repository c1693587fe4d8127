//! The kubelet's HTTP API: what the control plane asks of a node. Served on any connection that the caller brings;
//! who may connect is the caller's business.

mod logs;
mod metrics;
mod path;
mod stats;
mod streams;

use crate::shell::kubelet::Shared;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use path::Query;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};

/// Connections at once on a listener.
const MOST_CONNECTIONS: usize = 256;
/// Limit of a TLS handshake.
const HANDSHAKE_LIMIT: std::time::Duration = std::time::Duration::from_secs(10);

/// Body of every answer.
pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// The API of one agent. Clones serve the same agent.
#[derive(Clone, Debug)]
pub struct KubeletApi {
    shared: Arc<Shared>,
}

/// An answer that is an error: code and text.
pub(crate) type Failure = (StatusCode, String);

pub(crate) fn failure(code: StatusCode, message: impl Into<String>) -> Failure {
    (code, message.into())
}

pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never: Infallible| match never {}).boxed_unsync()
}

pub(crate) fn answer(kind: &'static str, bytes: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(bytes));
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}

impl KubeletApi {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Serves one connection (HTTP/1.1, with upgrades) until it ends.
    ///
    /// # Errors
    /// When the connection breaks in the middle of a request.
    pub async fn serve<I>(&self, io: I) -> Result<(), hyper::Error>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let this = self.clone();
        let service = hyper::service::service_fn(move |request| {
            let this = this.clone();
            async move { Ok::<_, Infallible>(this.call(request).await) }
        });
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(io), service).with_upgrades().await
    }

    /// Serves a listener over TLS until the scope ends. `tls` decides who may connect: it must demand a client
    /// certificate of the cluster, for the API lets everyone who is connected do everything.
    ///
    /// # Errors
    /// When the listener breaks.
    pub async fn listen(
        &self,
        listener: tokio::net::TcpListener,
        tls: Arc<rustls::ServerConfig>,
        tasks: &timonel_runtime::Tasks,
    ) -> io::Result<()> {
        let acceptor = tokio_rustls::TlsAcceptor::from(tls);
        let places = Arc::new(tokio::sync::Semaphore::new(MOST_CONNECTIONS));
        loop {
            let place = places.clone().acquire_owned().await.map_err(io::Error::other)?;
            let (stream, _) = listener.accept().await?;
            let (this, acceptor) = (self.clone(), acceptor.clone());
            tasks.spawn("kubelet api", timonel_runtime::OnError::Log, async move {
                let accepted = tokio::time::timeout(HANDSHAKE_LIMIT, acceptor.accept(stream)).await;
                if let Ok(Ok(stream)) = accepted {
                    let _ = this.serve(stream).await;
                }
                drop(place);
                Ok::<(), Infallible>(())
            });
        }
    }

    /// Answers one request.
    pub(crate) async fn call(&self, request: Request<Incoming>) -> Response<Body> {
        match self.route(request).await {
            Ok(response) => response,
            Err((code, message)) => {
                let mut response = answer("text/plain; charset=utf-8", message);
                *response.status_mut() = code;
                response
            }
        }
    }

    async fn route(&self, request: Request<Incoming>) -> Result<Response<Body>, Failure> {
        let parts: Vec<String> = path::segments(request.uri().path());
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let query = Query::parse(request.uri().query().unwrap_or_default());
        let streaming = matches!(request.method(), &Method::GET | &Method::POST);
        match parts.as_slice() {
            ["healthz" | "livez" | "readyz", ..] => Ok(answer("text/plain; charset=utf-8", "ok")),
            ["pods"] => self.pods(),
            ["configz"] => Ok(answer("application/json", self.configz())),
            ["metrics"] => Ok(answer(metrics::TEXT, metrics::own(&self.shared))),
            ["metrics", "resource"] => Ok(answer(metrics::TEXT, metrics::resource(&self.shared).await)),
            ["metrics", "cadvisor"] => Ok(answer(metrics::TEXT, metrics::cadvisor(&self.shared).await)),
            ["metrics", "probes"] => Ok(answer(metrics::TEXT, metrics::probes(&self.shared))),
            ["stats", "summary"] => stats::summary(&self.shared).await,
            ["containerLogs", namespace, pod, container] => {
                logs::serve(&self.shared, namespace, pod, container, &query).await
            }
            ["exec", namespace, pod, container] | ["exec", namespace, pod, _, container] if streaming => {
                streams::exec(&self.shared, (namespace, pod, container), &query, request).await
            }
            ["attach", namespace, pod, container] | ["attach", namespace, pod, _, container] if streaming => {
                streams::attach(&self.shared, (namespace, pod, container), &query, request).await
            }
            ["portForward", namespace, pod] | ["portForward", namespace, pod, _] if streaming => {
                streams::port_forward(&self.shared, namespace, pod, &query, request).await
            }
            ["run", namespace, pod, container] | ["run", namespace, pod, _, container]
                if request.method() == Method::POST =>
            {
                streams::run(&self.shared, (namespace, pod, container), &query).await
            }
            _ => Err(failure(StatusCode::NOT_FOUND, "404 page not found")),
        }
    }

    fn pods(&self) -> Result<Response<Body>, Failure> {
        let list = serde_json::json!({
            "kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": self.shared.live_pods(),
        });
        Ok(answer("application/json", list.to_string()))
    }

    fn configz(&self) -> String {
        let config = &self.shared.config;
        serde_json::json!({"kubeletconfig": {
            "kind": "KubeletConfiguration",
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "clusterDNS": config.cluster_dns,
            "clusterDomain": config.cluster_domain,
            "maxPods": config.max_pods,
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": config.cgroup_root,
            "podLogsDir": config.pod_logs_dir,
            "containerRuntimeEndpoint": config.runtime_endpoint,
            "containerLogMaxFiles": config.log_max_files,
            "imageGCHighThresholdPercent": config.image_gc.high_percent,
            "imageGCLowThresholdPercent": config.image_gc.low_percent,
        }})
        .to_string()
    }
}
