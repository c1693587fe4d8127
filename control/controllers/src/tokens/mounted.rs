//! Which Secrets a pod refers to.

use k8s_openapi::api::core::v1::{EnvFromSource, EnvVar, Pod, PodSpec, Volume};

/// Whether any part of the pod names the Secret `secret` of its namespace.
pub(super) fn refers_to(pod: &Pod, secret: &str) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let pulls = spec.image_pull_secrets.iter().flatten().any(|reference| reference.name == secret);
    let mounts = spec.volumes.iter().flatten().any(|volume| volume_refers(volume, secret));
    pulls || mounts || environment_refers(spec, secret)
}

fn environment_refers(spec: &PodSpec, secret: &str) -> bool {
    let variable = |variable: &EnvVar| {
        let from = variable.value_from.as_ref().and_then(|from| from.secret_key_ref.as_ref());
        from.is_some_and(|from| from.name == secret)
    };
    let source = |source: &EnvFromSource| source.secret_ref.as_ref().is_some_and(|from| from.name == secret);
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let mut regular = containers.map(|container| (&container.env, &container.env_from));
    let mut ephemeral =
        spec.ephemeral_containers.iter().flatten().map(|container| (&container.env, &container.env_from));
    let any = |(env, env_from): (&Option<Vec<EnvVar>>, &Option<Vec<EnvFromSource>>)| {
        env.iter().flatten().any(variable) || env_from.iter().flatten().any(source)
    };
    regular.any(any) || ephemeral.any(any)
}

fn volume_refers(volume: &Volume, secret: &str) -> bool {
    let local = [
        volume.cephfs.as_ref().and_then(|of| of.secret_ref.as_ref()),
        volume.cinder.as_ref().and_then(|of| of.secret_ref.as_ref()),
        volume.flex_volume.as_ref().and_then(|of| of.secret_ref.as_ref()),
        volume.rbd.as_ref().and_then(|of| of.secret_ref.as_ref()),
        volume.scale_io.as_ref().map(|of| &of.secret_ref),
        volume.iscsi.as_ref().and_then(|of| of.secret_ref.as_ref()),
        volume.storageos.as_ref().and_then(|of| of.secret_ref.as_ref()),
        volume.csi.as_ref().and_then(|of| of.node_publish_secret_ref.as_ref()),
    ];
    let projected = volume.projected.iter().flat_map(|of| of.sources.iter().flatten());
    local.into_iter().flatten().any(|reference| reference.name == secret)
        || projected.filter_map(|source| source.secret.as_ref()).any(|of| of.name == secret)
        || volume.secret.as_ref().and_then(|of| of.secret_name.as_deref()) == Some(secret)
        || volume.azure_file.as_ref().is_some_and(|of| of.secret_name == secret)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::object;
    use serde_json::json;

    #[test]
    fn every_place_that_can_name_a_secret() {
        let key = json!({"name": "E", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}});
        for (spec, refers) in [
            (json!({"containers": []}), false),
            (json!({"containers": [], "imagePullSecrets": [{"name": "s"}]}), true),
            (json!({"containers": [{"name": "c", "env": [key]}]}), true),
            (json!({"containers": [], "initContainers": [{"name": "c", "env": [key]}]}), true),
            (json!({"containers": [], "ephemeralContainers": [{"name": "c", "env": [key]}]}), true),
            (json!({"containers": [{"name": "c", "envFrom": [{"secretRef": {"name": "s"}}]}]}), true),
            (json!({"containers": [{"name": "c", "envFrom": [{"configMapRef": {"name": "s"}}]}]}), false),
            (json!({"containers": [], "volumes": [{"name": "v", "secret": {"secretName": "s"}}]}), true),
            (json!({"containers": [], "volumes": [{"name": "s", "secret": {"secretName": "t"}}]}), false),
            (
                json!({"containers": [], "volumes": [{"name": "v", "projected": {"sources": [{"secret": {"name": "s"}}]}}]}),
                true,
            ),
            (
                json!({"containers": [], "volumes": [{"name": "v", "csi": {"driver": "d", "nodePublishSecretRef": {"name": "s"}}}]}),
                true,
            ),
            (
                json!({"containers": [], "volumes": [{"name": "v", "azureFile": {"secretName": "s", "shareName": "x"}}]}),
                true,
            ),
        ] {
            assert_eq!(refers_to(&object(json!({"spec": spec})), "s"), refers, "{spec}");
        }
    }
}
