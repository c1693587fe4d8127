//! `/healthz`, `/livez`, `/readyz`: whether the server works, check by check.

use crate::{
    ApiServer,
    http::{Answer, Query},
};
use std::time::Duration;
use timonel_api::Status;

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

/// The check of the store that objects are in.
const STORE: &str = "etcd";

/// Every check by name, and whether it is well.
async fn findings(server: &ApiServer) -> Vec<(String, bool)> {
    let mut stores = Vec::new();
    for place in server.cache.places() {
        let asked = tokio::time::timeout(STORE_TIMEOUT, place.store().revision()).await;
        stores.push(matches!(asked, Ok(Ok(_))));
    }
    let mut stores = stores.into_iter();
    let store = stores.next().unwrap_or(false);
    let mut all: Vec<_> = CHECKS.iter().map(|name| ((*name).to_owned(), *name != STORE || store)).collect();
    all.extend(stores.enumerate().map(|(at, well)| (format!("etcd-override-{at}"), well)));
    all.extend(server.health.iter().filter_map(|check| Some((check.name()?, check.is_well()))));
    all
}

/// Answers one of the endpoints, or one check of it.
pub(super) async fn answer(
    server: &ApiServer,
    endpoint: &str,
    rest: &[&str],
    query: &Query<'_>,
) -> Result<Answer, Status> {
    let excluded: Vec<&str> = query.all("exclude").flat_map(|names| names.split(',')).collect();
    let findings = findings(server).await;
    if !rest.is_empty() {
        let check = rest.join("/");
        let found = findings.iter().find(|(name, _)| *name == check).ok_or_else(Status::no_such_resource)?;
        return Ok(if found.1 { Answer::text(200, "ok") } else { failed(&check) });
    }
    let (report, good) = report(endpoint, &findings, &excluded);
    if !good {
        return Ok(Answer::text(500, report));
    }
    Ok(Answer::text(200, if query.find("verbose").is_some() { report } else { "ok".to_owned() }))
}

/// What the endpoint says of all checks, and whether it is well.
fn report(endpoint: &str, findings: &[(String, bool)], excluded: &[&str]) -> (String, bool) {
    let mut report = String::new();
    let mut good = true;
    for (check, well) in findings {
        if excluded.contains(&check.as_str()) {
            report.push_str(&format!("[+]{check} excluded: ok\n"));
        } else if *well {
            report.push_str(&format!("[+]{check} ok\n"));
        } else {
            report.push_str(&format!("[-]{check} failed: reason withheld\n"));
            good = false;
        }
    }
    let known = |name: &str| findings.iter().any(|(check, _)| check == name);
    for name in excluded.iter().filter(|name| !name.is_empty() && !known(name)) {
        report.push_str(&format!("warn: some health checks cannot be excluded: no matches for {name:?}\n"));
    }
    report.push_str(&format!("{endpoint} check {}\n", if good { "passed" } else { "failed" }));
    (report, good)
}

/// `/metrics/slis`: what the checks find, as figures.
pub(super) async fn indicators(server: &ApiServer) -> Answer {
    Answer::text(200, figures(&findings(server).await))
}

fn figures(findings: &[(String, bool)]) -> String {
    let mut text = "# HELP kubernetes_healthcheck Whether a check of the server finds it working.\n\
                    # TYPE kubernetes_healthcheck gauge\n"
        .to_owned();
    for kind in ["healthz", "livez", "readyz"] {
        for (check, well) in findings {
            let good = u8::from(*well);
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

    fn found(list: &[(&str, bool)]) -> Vec<(String, bool)> {
        list.iter().map(|(name, well)| ((*name).to_owned(), *well)).collect()
    }

    #[test]
    fn figures_say_what_the_store_does() {
        for (works, expected) in [(true, 1), (false, 0)] {
            let text = figures(&found(&[("ping", true), ("etcd", works)]));
            assert!(text.contains(&format!("kubernetes_healthcheck{{name=\"etcd\",type=\"readyz\"}} {expected}\n")));
            assert!(text.contains("kubernetes_healthcheck{name=\"ping\",type=\"livez\"} 1\n"));
        }
    }

    #[test]
    fn one_that_is_not_well_spoils_all_unless_it_is_excluded() {
        let found = found(&[("ping", true), ("kms-providers", false)]);
        let (text, good) = report("readyz", &found, &[]);
        assert!(!good && text.contains("[-]kms-providers failed: reason withheld\n"), "{text}");
        let (text, good) = report("readyz", &found, &["kms-providers", "unknown"]);
        assert!(
            good && text.contains("[+]kms-providers excluded: ok\n") && text.contains("no matches for \"unknown\"")
        );
        assert!(text.ends_with("readyz check passed\n"), "{text}");
    }
}
