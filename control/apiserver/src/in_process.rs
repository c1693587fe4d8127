//! The API without a socket: a tower service for clients in the same process (`kube::Client::new` takes it).

use crate::{ApiServer, Body, BodyError, config::Caller};
use ::http::{Request, Response};
use bytes::Bytes;
use futures::future::BoxFuture;
use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

/// Calls an [`ApiServer`] directly, as one caller.
#[derive(Clone, Debug)]
pub struct InProcess {
    server: Arc<ApiServer>,
    caller: Caller,
}

impl InProcess {
    /// As `caller`.
    #[must_use]
    pub fn new(server: Arc<ApiServer>, caller: Caller) -> Self {
        Self { server, caller }
    }
}

impl<B> tower::Service<Request<B>> for InProcess
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BodyError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (server, caller) = (self.server.clone(), self.caller.clone());
        Box::pin(async move {
            let method = request.method().clone();
            let response = server.call(request.map(Body::new), caller).await;
            server.metrics.client(&method, response.status().as_u16());
            Ok(response)
        })
    }
}
