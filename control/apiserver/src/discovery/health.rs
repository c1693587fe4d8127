//! `/healthz`, `/livez`, `/readyz`: whether the server works, check by check.

use crate::{
    ApiServer,
    http::{Answer, Query},
};
use std::time::Duration;
use timonel_api::Status;
use timonel_store::Store;

/// Time for the store to answer.
const STORE_TIMEOUT: Duration = Duration::from_secs(2);

/// The checks of every endpoint, under upstream's names: the store stands where upstream asks etcd. The steps of a
/// start (`poststarthook`) are those that are behind a cluster before it answers its first request.
const CHECKS: [&str; 22] = [
    "ping",
    "log",
    "etcd",
    "informer-sync",
    "poststarthook/start-apiserver-admission-initializer",
    "poststarthook/generic-apiserver-start-informers",
    "poststarthook/start-apiextensions-informers",
    "poststarthook/start-apiextensions-controllers",
    "poststarthook/crd-informer-synced",
    "poststarthook/bootstrap-controller",
    "poststarthook/start-system-namespaces-controller",
    "poststarthook/start-service-ip-repair-controllers",
    "poststarthook/scheduling/bootstrap-system-priority-classes",
    "poststarthook/start-cluster-authentication-info-controller",
    "poststarthook/start-kube-aggregator-informers",
    "poststarthook/apiservice-registration-controller",
    "poststarthook/apiservice-status-local-available-controller",
    "poststarthook/apiservice-status-remote-available-controller",
    "poststarthook/kube-apiserver-autoregistration",
    "autoregister-completion",
    "poststarthook/apiservice-openapi-controller",
    "poststarthook/storage-readiness",
];

/// Answers one of the endpoints, or one check of it.
pub(super) async fn answer(
    server: &ApiServer,
    endpoint: &str,
    rest: &[&str],
    query: &Query<'_>,
) -> Result<Answer, Status> {
    let excluded: Vec<&str> = query.all("exclude").flat_map(|names| names.split(',')).collect();
    let store = tokio::time::timeout(STORE_TIMEOUT, server.committer.store.revision()).await;
    let works = |check: &str| check != "etcd" || matches!(store, Ok(Ok(_)));
    if !rest.is_empty() {
        let check = rest.join("/");
        if !CHECKS.contains(&check.as_str()) {
            return Err(Status::no_such_resource());
        }
        return Ok(if works(&check) { Answer::text(200, "ok") } else { failed(&check) });
    }
    let mut report = String::new();
    let mut good = true;
    for check in CHECKS {
        if excluded.contains(&check) {
            report.push_str(&format!("[+]{check} excluded: ok\n"));
        } else if works(check) {
            report.push_str(&format!("[+]{check} ok\n"));
        } else {
            report.push_str(&format!("[-]{check} failed: reason withheld\n"));
            good = false;
        }
    }
    for name in excluded.iter().filter(|name| !name.is_empty() && !CHECKS.contains(name)) {
        report.push_str(&format!("warn: some health checks cannot be excluded: no matches for {name:?}\n"));
    }
    if !good {
        report.push_str(&format!("{endpoint} check failed\n"));
        return Ok(Answer::text(500, report));
    }
    if query.find("verbose").is_some() {
        report.push_str(&format!("{endpoint} check passed\n"));
        return Ok(Answer::text(200, report));
    }
    Ok(Answer::text(200, "ok"))
}

/// `/metrics/slis`: what the checks find, as figures.
pub(super) async fn indicators(server: &ApiServer) -> Answer {
    let store = tokio::time::timeout(STORE_TIMEOUT, server.committer.store.revision()).await;
    Answer::text(200, figures(matches!(store, Ok(Ok(_)))))
}

fn figures(store_works: bool) -> String {
    let mut text = "# HELP kubernetes_healthcheck Whether a check of the server finds it working.\n\
                    # TYPE kubernetes_healthcheck gauge\n"
        .to_owned();
    for kind in ["healthz", "livez", "readyz"] {
        for check in CHECKS {
            let good = u8::from(check != "etcd" || store_works);
            text.push_str(&format!("kubernetes_healthcheck{{name=\"{check}\",type=\"{kind}\"}} {good}\n"));
        }
    }
    text
}

fn failed(check: &str) -> Answer {
    Answer::text(500, format!("internal server error: {check} failed: reason withheld\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_say_what_the_store_does() {
        for (works, expected) in [(true, 1), (false, 0)] {
            let text = figures(works);
            assert!(text.contains(&format!("kubernetes_healthcheck{{name=\"etcd\",type=\"readyz\"}} {expected}\n")));
            assert!(text.contains("kubernetes_healthcheck{name=\"ping\",type=\"livez\"} 1\n"));
        }
    }
}
