//! Answers load balancers: on each health-check node port, whether this node has backends; on the proxy's own
//! port, whether the proxy works.

use crate::ProxyError;
use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response, StatusCode, body::Incoming, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use timonel_runtime::{OnError, Tasks};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
};

/// A probe that takes longer to send its request is let go.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// Probes answered at once on one port.
const MAX_CONNECTIONS: usize = 256;

/// Listeners of health-check node ports, one a port.
#[derive(Debug)]
pub(crate) struct HealthServers {
    tasks: Tasks,
    ports: BTreeMap<u16, (watch::Sender<usize>, Tasks)>,
}

impl HealthServers {
    pub(crate) fn new(tasks: &Tasks) -> Self {
        Self { tasks: tasks.child("health"), ports: BTreeMap::new() }
    }

    /// Makes the listeners what `wanted` says: port to number of local backends. A port that cannot be had is
    /// tried again with the next call.
    pub(crate) async fn set(&mut self, wanted: &BTreeMap<u16, usize>) {
        self.ports.retain(|port, (_, tasks)| {
            let keep = wanted.contains_key(port);
            if !keep {
                tasks.token().cancel();
            }
            keep
        });
        for (port, count) in wanted {
            if let Some((known, _)) = self.ports.get(port) {
                known.send_replace(*count);
                continue;
            }
            let (send, receive) = watch::channel(*count);
            let tasks = self.tasks.child(&port.to_string());
            match listen(*port, receive, &tasks).await {
                Ok(()) => drop(self.ports.insert(*port, (send, tasks))),
                Err(error) => tracing::warn!(port, %error, "health-check node port cannot be served"),
            }
        }
    }
}

/// Serves the count of `receive` on `port` until `tasks` ends: 200 when there is a backend, else 503.
pub(crate) async fn listen(port: u16, receive: watch::Receiver<usize>, tasks: &Tasks) -> Result<(), ProxyError> {
    let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let listener = TcpListener::bind(address).await.map_err(|source| ProxyError::Listen { address, source })?;
    let (scope, slots) = (tasks.clone(), Arc::new(Semaphore::new(MAX_CONNECTIONS)));
    tasks.spawn("accept", OnError::Log, async move {
        loop {
            let slot = slots.clone().acquire_owned().await.expect("never closed");
            let (stream, _) = listener.accept().await?;
            let receive = receive.clone();
            scope.spawn("probe", OnError::Log, async move {
                let _slot = slot;
                let service = service_fn(move |_: Request<Incoming>| answer(*receive.borrow()));
                let serve = hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEADER_TIMEOUT)
                    .keep_alive(false)
                    .serve_connection(TokioIo::new(stream), service);
                // A prober that hangs up early is its own business.
                let _ = serve.await;
                Ok::<_, Infallible>(())
            });
        }
        #[allow(unreachable_code, reason = "names the error type of the loop")]
        Ok::<_, std::io::Error>(())
    });
    Ok(())
}

async fn answer(count: usize) -> Result<Response<Full<Bytes>>, Infallible> {
    let body = format!("{{\"localEndpoints\":{count},\"serviceProxyHealthy\":true}}\n");
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = if count > 0 { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
    Ok(response)
}
