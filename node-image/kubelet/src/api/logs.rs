//! `/containerLogs`.

use super::path::Query;
use super::{Body, Failure, failure};
use crate::decide::model::RunState;
use crate::shell::kubelet::Shared;
use crate::shell::logs::{LogOptions, read};
use futures::StreamExt as _;
use http::{Response, StatusCode, header};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use std::path::PathBuf;
use std::sync::Arc;
use timonel_runtime::OnError;
use tokio::sync::mpsc;

/// Chunks between reader and connection.
const QUEUE: usize = 64;

/// Serves the log of a container.
pub(crate) async fn serve(
    shared: &Arc<Shared>,
    namespace: &str,
    pod: &str,
    container: &str,
    query: &Query,
) -> Result<Response<Body>, Failure> {
    let now = shared.config.clock.now();
    let options = LogOptions::parse(&query.0, now).map_err(|text| failure(StatusCode::BAD_REQUEST, text))?;
    let (uid, name) = (super::streams::find(shared, namespace, pod)?, container.to_owned());
    let observed = shared.runtime.observe(&uid).await;
    let observed = observed.map_err(|error| failure(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    let run = if options.previous { observed.previous(container) } else { observed.latest(container) };
    let known = crate::decide::model::container_named(&*super::streams::pod(shared, &uid)?, container).is_some();
    let run = match run {
        Some(run) => run.clone(),
        None if !known => {
            return Err(failure(
                StatusCode::BAD_REQUEST,
                format!("container {container:?} in pod {pod:?} is not available"),
            ));
        }
        None if options.previous => {
            let text = format!("previous terminated container {container:?} in pod {pod:?} not found");
            return Err(failure(StatusCode::BAD_REQUEST, text));
        }
        None => {
            let text = format!(
                "container {container:?} in pod {pod:?} is waiting to start: {}",
                waiting(shared, &uid, container)
            );
            return Err(failure(StatusCode::BAD_REQUEST, text));
        }
    };
    let path = PathBuf::from(&run.log_path);
    let (sender, receiver) = mpsc::channel(QUEUE);
    let (this, alive_name) = (shared.clone(), name);
    let follow_this_run = run.state == RunState::Running;
    shared.tasks.spawn("logs", OnError::Log, async move {
        let alive = || {
            let pods = this.pods.lock();
            let observed = pods.get(&uid).map(|entry| entry.observed.lock().clone());
            drop(pods);
            let same = observed
                .as_ref()
                .and_then(|observed| observed.latest(&alive_name))
                .map(|now| (now.id == run.id, now.state));
            follow_this_run && same.is_some_and(|(same, state)| same && state == RunState::Running)
        };
        read(&path, options, alive, sender).await
    });
    let stream =
        futures::stream::unfold(receiver, async |mut receiver| receiver.recv().await.map(|chunk| (chunk, receiver)));
    let body = StreamBody::new(stream.map(|chunk| chunk.map(Frame::data)));
    let mut response = Response::new(body.boxed_unsync());
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain"));
    Ok(response)
}

/// Why a container has no log yet, in the words of its status.
fn waiting(shared: &Shared, uid: &str, container: &str) -> String {
    let status = shared.statuses.get(uid).unwrap_or_default();
    let lists = [status.container_statuses, status.init_container_statuses, status.ephemeral_container_statuses];
    let found = lists.into_iter().flatten().flatten().find(|one| one.name == container);
    let waiting = found.and_then(|one| one.state?.waiting);
    waiting.and_then(|waiting| waiting.message.or(waiting.reason)).unwrap_or_else(|| "ContainerCreating".into())
}
