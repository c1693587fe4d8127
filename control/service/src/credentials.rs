//! Gives out kubeconfigs over the fleet's port, to those who may `get` the subresource `kubeconfig` of the Cluster.
//! Who may is decided by the fleet's own API, which is asked as the caller.

use crate::{directory::Directory, kubeconfig};
use http::{HeaderMap, Method, Request, Response, StatusCode, header, request::Parts};
use http_body_util::BodyExt;
use kube::{Api, Client};
use serde_json::{Value, json};
use timonel_apiserver::{Body, Caller};
use timonel_fleet::{Cluster, ClusterStatus, KUBECONFIG_PATH};
use timonel_runtime::{Clock, chain};

/// Where the fleet's API is asked whether somebody may do something.
const REVIEWS: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";

/// Gives out kubeconfigs.
#[derive(Clone)]
pub(crate) struct Credentials {
    pub(crate) fleet: Client,
    pub(crate) clock: Clock,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Credentials")
    }
}

/// `PROJECT/NAME` of a path of ours.
pub(crate) fn asked(path: &str) -> Option<(&str, &str)> {
    let (project, name) = path.strip_prefix(KUBECONFIG_PATH)?.strip_prefix('/')?.split_once('/')?;
    (!project.is_empty() && !name.is_empty() && !name.contains('/')).then_some((project, name))
}

impl Credentials {
    /// Answers a request whose path [`asked`] for the kubeconfig of a cluster.
    pub(crate) async fn answer(
        &self,
        directory: &Directory,
        caller: &Caller,
        head: &Parts,
        (project, name): (&str, &str),
    ) -> Response<Body> {
        let (status, kind, text) = match self.kubeconfig(directory, caller, head, project, name).await {
            Ok(yaml) => (StatusCode::OK, "application/yaml", yaml),
            Err((status, message)) => (status, "text/plain; charset=utf-8", message),
        };
        let mut response = Response::new(Body::from(text));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
        headers.insert(header::CACHE_CONTROL, http::HeaderValue::from_static("no-store"));
        response
    }

    async fn kubeconfig(
        &self,
        directory: &Directory,
        caller: &Caller,
        head: &Parts,
        project: &str,
        name: &str,
    ) -> Result<String, (StatusCode, String)> {
        if head.method != Method::GET {
            return Err((StatusCode::METHOD_NOT_ALLOWED, "GET only".to_owned()));
        }
        may(directory, caller, &head.headers, project, name).await?;
        let inner = |error: &(dyn std::error::Error + 'static)| (StatusCode::INTERNAL_SERVER_ERROR, chain(error));
        let clusters: Api<Cluster> = Api::namespaced(self.fleet.clone(), project);
        let cluster = clusters.get_opt(name).await.map_err(|error| inner(&error))?;
        let missing = || (StatusCode::NOT_FOUND, format!("cluster {name:?} not found"));
        let cluster = cluster.ok_or_else(missing)?;
        let tenant = directory.by_uid(cluster.metadata.uid.as_deref().unwrap_or_default());
        let (Some(tenant), Some(status)) = (tenant, cluster.status) else {
            return Err((StatusCode::SERVICE_UNAVAILABLE, format!("cluster {name:?} is not ready yet")));
        };
        let own = listens(&status);
        let context = kubeconfig::context(project, name);
        kubeconfig::single(&tenant, &context, &status.endpoint, own, self.clock.now()).map_err(|error| inner(&error))
    }
}

/// Whether clients reach the cluster without naming it.
fn listens(status: &ClusterStatus) -> bool {
    status.conditions.iter().any(|condition| condition.type_ == "EndpointListening" && condition.status == "True")
}

/// Asks the fleet's API, as the caller, whether the caller may.
async fn may(
    directory: &Directory,
    caller: &Caller,
    headers: &HeaderMap,
    project: &str,
    name: &str,
) -> Result<(), (StatusCode, String)> {
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {"group": timonel_fleet::GROUP, "version": timonel_fleet::VERSION,
            "resource": "clusters", "subresource": "kubeconfig", "verb": "get", "namespace": project, "name": name}},
    });
    let mut request = Request::post(REVIEWS).header(header::CONTENT_TYPE, "application/json");
    let who = |name: &str| name == "authorization" || name.starts_with("impersonate-");
    for (name, value) in headers.iter().filter(|(name, _)| who(name.as_str())) {
        request = request.header(name, value);
    }
    let request =
        request.body(Body::from(review.to_string())).map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))?;
    let response = Box::pin(directory.fleet().api.call(request, caller.clone())).await;
    let status = response.status();
    let body = response.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
    match (status.is_success(), answer["status"]["allowed"].as_bool()) {
        (true, Some(true)) => Ok(()),
        (true, _) => {
            Err((StatusCode::FORBIDDEN, format!("no right to get clusters/kubeconfig {name:?} in {project:?}")))
        }
        (false, _) => Err((status, answer["message"].as_str().unwrap_or("not authenticated").to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_project_and_cluster() {
        for (path, expected) in [
            ("/timonel/v1/kubeconfig/default/demo", Some(("default", "demo"))),
            ("/timonel/v1/kubeconfig/default/", None),
            ("/timonel/v1/kubeconfig/demo", None),
            ("/timonel/v1/kubeconfig/a/b/c", None),
            ("/api/v1/pods", None),
        ] {
            assert_eq!(asked(path), expected, "{path}");
        }
    }
}
