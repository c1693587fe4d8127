//! Images: whether one must be pulled, with whose credentials, and what to tell of it.

use super::kubelet::Shared;
use crate::decide::containers::{normalized, pull_policy, registry};
use crate::decide::model::{Kind, StartFailure};
use crate::decide::names::PodId;
use base64::Engine as _;
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::{Container, Pod, Secret};
use std::{collections::BTreeMap, time::Duration};
use timonel_cri::cri::{AuthConfig, Image, ImageSpec, PodSandboxConfig};

/// A start that must be tried again later.
pub(crate) fn failure(reason: &'static str, message: impl Into<String>, retry_at: jiff::Timestamp) -> StartFailure {
    StartFailure { reason, message: message.into(), retry_at }
}

/// Pause before a start is tried again that failed for a reason other than a pull.
pub(crate) const RETRY: SignedDuration = SignedDuration::from_secs(10);

/// Longest wait for an image that may come with the machine.
const COMING_PATIENCE: Duration = Duration::from_secs(120);

/// Makes sure that the container's image is there.
pub(crate) async fn ensure(
    shared: &Shared,
    pod: &Pod,
    (kind, container): (Kind, &Container),
    sandbox_config: &PodSandboxConfig,
) -> Result<Image, StartFailure> {
    let now = shared.config.clock.now();
    let about = (kind, container.name.as_str());
    let name = container.image.clone().unwrap_or_default();
    let spec = ImageSpec { image: normalized(&name), user_specified_image: name.clone(), ..ImageSpec::default() };
    let present = find(shared, &spec).await?;
    let policy = pull_policy(container);
    if let Some(image) = present.clone().filter(|_| policy != "Always") {
        shared.events.container(
            pod,
            about,
            false,
            "Pulled",
            format!("Container image {name:?} already present on machine"),
        );
        return Ok(image);
    }
    if policy == "Never" {
        let message = format!("Container image {name:?} is not present with pull policy of Never");
        shared.events.container(pod, about, true, "ErrImageNeverPull", message.clone());
        return Err(failure("ErrImageNeverPull", message, now + RETRY));
    }
    shared.events.container(pod, about, false, "Pulling", format!("Pulling image {name:?}"));
    let started = tokio::time::Instant::now();
    let mut last = "no credentials to try".to_owned();
    for auth in credentials(shared, pod, &name).await {
        match shared.runtime.pull(spec.clone(), auth, sandbox_config.clone()).await {
            Ok(_) => {
                let took = started.elapsed().as_millis();
                let message = format!("Successfully pulled image {name:?} in {took}ms");
                shared.events.container(pod, about, false, "Pulled", message);
                let image = shared.runtime.image(spec).await.ok().flatten();
                return image.ok_or_else(|| failure("ImageInspectError", "the pulled image is gone", now + RETRY));
            }
            Err(error) => last = error.to_string(),
        }
    }
    let message = format!("failed to pull image {name:?}: {last}");
    shared.events.container(pod, about, true, "Failed", format!("Failed to pull image {name:?}: {last}"));
    shared.events.container(pod, about, true, "Failed", "Error: ErrImagePull");
    // The caller sets the time by the image's own back-off.
    Err(failure("ErrImagePull", message, now))
}

/// The image, if it is there. One that is not may still come with the machine.
async fn find(shared: &Shared, spec: &ImageSpec) -> Result<Option<Image>, StartFailure> {
    let look = || async {
        let found = shared.runtime.image(spec.clone()).await;
        found.map_err(|error| failure("ImageInspectError", error.to_string(), shared.config.clock.now() + RETRY))
    };
    let mut coming = shared.config.brought_images.clone();
    let waiting = async {
        while coming.borrow_and_update().coming {
            if let Some(image) = look().await? {
                return Ok(Some(image));
            }
            // The next look comes with the next image, or when there are no more.
            if coming.changed().await.is_err() {
                break;
            }
        }
        look().await
    };
    match tokio::time::timeout(COMING_PATIENCE, waiting).await {
        Ok(found) => found,
        Err(_) => look().await,
    }
}

/// Credentials to try, the most specific first, and none at last.
async fn credentials(shared: &Shared, pod: &Pod, image: &str) -> Vec<Option<AuthConfig>> {
    let id = PodId::of(pod);
    let names = pod.spec.iter().flat_map(|spec| spec.image_pull_secrets.iter().flatten());
    let mut out = Vec::new();
    for name in names.map(|reference| reference.name.as_str()) {
        match shared.objects.secrets.get(&id.namespace, name, &id.uid).await {
            Ok(Some(secret)) => out.extend(matching(&secret, image).map(Some)),
            Ok(None) => {
                let message = format!(
                    "Unable to retrieve some image pull secrets ({name}); attempting to pull the image may not succeed."
                );
                shared.events.pod(pod, true, "FailedToRetrieveImagePullSecret", message);
            }
            Err(error) => tracing::debug!(secret = name, %error, "pull secret"),
        }
    }
    out.push(None);
    out
}

/// The entry of a docker configuration that fits the image.
fn matching(secret: &Secret, image: &str) -> Option<AuthConfig> {
    let data = secret.data.as_ref()?;
    let parsed: serde_json::Value = match (data.get(".dockerconfigjson"), data.get(".dockercfg")) {
        (Some(bytes), _) => serde_json::from_slice::<serde_json::Value>(&bytes.0).ok()?.get("auths")?.clone(),
        (None, Some(bytes)) => serde_json::from_slice(&bytes.0).ok()?,
        (None, None) => return None,
    };
    let entries: BTreeMap<String, serde_json::Value> = serde_json::from_value(parsed).ok()?;
    let (host, full) = (registry(image), normalized(image));
    let fits = |key: &str| {
        let bare = key.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
        let bare = bare.trim_end_matches("/v1").trim_end_matches("/v2");
        let hub = host == "docker.io" && matches!(bare, "index.docker.io" | "docker.io");
        let wildcard =
            bare.strip_prefix("*.").is_some_and(|end| host.split_once('.').is_some_and(|(_, rest)| rest == end));
        hub || wildcard || bare == host || full.starts_with(&format!("{bare}/"))
    };
    let (_, entry) = entries.iter().filter(|(key, _)| fits(key)).max_by_key(|(key, _)| key.len())?;
    let text = |name: &str| entry.get(name).and_then(|value| value.as_str()).unwrap_or_default().to_owned();
    let decoded =
        base64::engine::general_purpose::STANDARD.decode(text("auth")).ok().and_then(|raw| String::from_utf8(raw).ok());
    let pair = decoded.as_deref().and_then(|pair| pair.split_once(':'));
    let (username, password) =
        pair.map_or_else(|| (text("username"), text("password")), |(user, pass)| (user.into(), pass.into()));
    Some(AuthConfig { username, password, identity_token: text("identitytoken"), ..AuthConfig::default() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::ByteString;
    use serde_json::json;

    #[test]
    fn the_entry_that_fits_best() {
        let auth = base64::engine::general_purpose::STANDARD.encode("u:p:q");
        let config = json!({"auths": {
            "reg.io": {"auth": auth},
            "https://reg.io/team/": {"username": "team", "password": "x"},
            "https://index.docker.io/v1/": {"username": "hub", "password": "x"},
            "*.wild.io": {"username": "wild", "password": "x"},
        }});
        let secret = Secret {
            data: Some([(".dockerconfigjson".to_owned(), ByteString(config.to_string().into_bytes()))].into()),
            ..Secret::default()
        };
        for (image, user) in [
            ("reg.io/app", Some("u")),
            ("reg.io/team/app", Some("team")),
            ("nginx", Some("hub")),
            ("a.wild.io/x", Some("wild")),
            ("b.a.wild.io/x", None),
            ("other.io/x", None),
        ] {
            let found = matching(&secret, image);
            assert_eq!(found.as_ref().map(|auth| auth.username.as_str()), user, "{image}");
        }
        assert_eq!(matching(&secret, "reg.io/app").expect("found").password, "p:q");
        assert!(matching(&Secret::default(), "x").is_none());
    }
}
