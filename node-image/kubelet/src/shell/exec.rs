//! Starts one container of a pod: image, environment, mounts, create, start, `postStart`. Each step that can fail
//! says with which reason the container then waits.

use super::hooks::Target;
use super::images::{RETRY, ensure, failure};
use super::kubelet::Shared;
use super::runtime::Runtime;
use super::subpath;
use super::volumes::{Mounted, Place};
use crate::decide::containers::{DEFAULT_TERMINATION_PATH, Prepared, config};
use crate::decide::env::{Environment, Facts, Sources, environment, expand_strictly};
use crate::decide::files::{host_network_hosts, hosts};
use crate::decide::model::{Kind, StartFailure};
use crate::decide::names::PodId;
use crate::decide::security;
use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod, VolumeMount};
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use timonel_cri::cri::{ImageSpec, Mount, MountPropagation, PodSandboxConfig};

/// Limit of a hook that has none of its own.
const HOOK_LIMIT: Duration = Duration::from_mins(10);

/// A container to start and where.
pub(crate) struct Start<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) pod: &'a Pod,
    pub(crate) kind: Kind,
    pub(crate) container: &'a Container,
    pub(crate) attempt: u32,
    pub(crate) sandbox_id: &'a str,
    pub(crate) sandbox_config: &'a PodSandboxConfig,
    pub(crate) volumes: &'a Mounted,
    pub(crate) facts: &'a Facts,
    /// Container whose processes an ephemeral one may see.
    pub(crate) target: Option<String>,
}

impl Start<'_> {
    fn config_error(&self, message: impl Into<String>) -> StartFailure {
        let message = message.into();
        self.tell(true, "Failed", format!("Error: {message}"));
        failure("CreateContainerConfigError", message, self.shared.config.clock.now() + RETRY)
    }

    fn tell(&self, warning: bool, reason: &'static str, message: impl Into<String>) {
        self.shared.events.container(self.pod, (self.kind, &self.container.name), warning, reason, message);
    }

    /// Runs every step; gives the id of the running container.
    pub(crate) async fn run(&self) -> Result<String, StartFailure> {
        let image = Box::pin(ensure(self.shared, self.pod, (self.kind, self.container), self.sandbox_config)).await?;
        let environment = self.environment().await?;
        let folder = self.shared.seccomp_folder();
        let security = security::container(self.pod, self.container, &image, self.target.as_deref(), &folder)
            .map_err(|error| self.config_error(error.to_string()))?;
        let termination = self.termination_file().map_err(|error| self.config_error(error.to_string()))?;
        let mut mounts = self.mounts(&environment)?;
        mounts.extend(self.own_files(&mounts, &termination).map_err(|error| self.config_error(error.to_string()))?);
        let prepared = Prepared {
            image: ImageSpec {
                image: image.id.clone(),
                user_specified_image: self.container.image.clone().unwrap_or_default(),
                ..ImageSpec::default()
            },
            environment,
            mounts,
            devices: Vec::new(),
            security,
            termination_host_path: termination.to_string_lossy().into_owned(),
            node_memory: self.shared.node_memory(),
            negative_oom_allowed: self.shared.may_lower_oom,
        };
        let id = Box::pin(self.create(&prepared)).await?;
        self.launch(&id).await?;
        self.post_start(&id).await?;
        Ok(id)
    }

    async fn create(&self, prepared: &Prepared) -> Result<String, StartFailure> {
        let config = config(self.pod, self.container, self.attempt, prepared);
        let made = self.shared.runtime.create(self.sandbox_id, config, self.sandbox_config.clone()).await;
        let id = made.map_err(|error| {
            self.tell(true, "Failed", format!("Error: {error}"));
            failure("CreateContainerError", error.to_string(), self.shared.config.clock.now() + RETRY)
        })?;
        self.shared.own(&id, &PodId::of(self.pod).uid);
        self.tell(false, "Created", format!("Container created: {}", self.container.name));
        Ok(id)
    }

    async fn launch(&self, id: &str) -> Result<(), StartFailure> {
        if let Err(error) = self.shared.runtime.start(id).await {
            self.tell(true, "Failed", format!("Error: {error}"));
            return Err(failure("RunContainerError", error.to_string(), self.shared.config.clock.now()));
        }
        self.tell(false, "Started", format!("Container started: {}", self.container.name));
        Ok(())
    }

    async fn post_start(&self, id: &str) -> Result<(), StartFailure> {
        let hook = self.container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.post_start.as_ref());
        let Some(hook) = hook else { return Ok(()) };
        let ip = self.facts.pod_ips.first().cloned().unwrap_or_default();
        let Err(error) = run_hook(&self.shared.runtime, hook, self.container, id, &ip, HOOK_LIMIT).await else {
            return Ok(());
        };
        self.tell(true, "FailedPostStartHook", format!("PostStartHook failed: {error}"));
        self.tell(false, "Killing", "FailedPostStartHook");
        let grace = crate::decide::plan::grace(self.pod);
        if let Err(error) = self.shared.runtime.stop(id, grace).await {
            tracing::warn!(container = id, %error, "stop after a failed hook");
        }
        Err(failure("PostStartHookError", error, self.shared.config.clock.now()))
    }

    async fn environment(&self) -> Result<Environment, StartFailure> {
        let sources = self.sources().await?;
        let namespace = self.pod.metadata.namespace.clone().unwrap_or_default();
        let links = self.shared.services.links(&namespace).await;
        environment(self.pod, self.container, &sources, &links, self.facts)
            .map_err(|error| self.config_error(error.to_string()))
    }

    /// Fetches the config maps and secrets that the environment refers to.
    async fn sources(&self) -> Result<Sources, StartFailure> {
        let (mut maps, mut secrets) = (BTreeSet::new(), BTreeSet::new());
        for source in self.container.env_from.iter().flatten() {
            maps.extend(source.config_map_ref.iter().map(|one| one.name.clone()));
            secrets.extend(source.secret_ref.iter().map(|one| one.name.clone()));
        }
        for source in self.container.env.iter().flatten().filter_map(|one| one.value_from.as_ref()) {
            maps.extend(source.config_map_key_ref.iter().map(|one| one.name.clone()));
            secrets.extend(source.secret_key_ref.iter().map(|one| one.name.clone()));
        }
        let id = PodId::of(self.pod);
        let mut out = Sources::default();
        for name in maps {
            let found = self.shared.objects.config_maps.get(&id.namespace, &name, &id.uid).await;
            out.config_maps.extend(found.map_err(|error| self.config_error(error.to_string()))?.map(|one| (name, one)));
        }
        for name in secrets {
            let found = self.shared.objects.secrets.get(&id.namespace, &name, &id.uid).await;
            out.secrets.extend(found.map_err(|error| self.config_error(error.to_string()))?.map(|one| (name, one)));
        }
        Ok(out)
    }

    fn termination_file(&self) -> std::io::Result<PathBuf> {
        let id = PodId::of(self.pod);
        let folder = self.shared.volumes.pod_folder(&id.uid).join("containers").join(&self.container.name);
        std::fs::create_dir_all(&folder)?;
        let file = folder.join(format!("termination-{}", self.attempt));
        std::fs::write(&file, b"")?;
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o666))?;
        Ok(file)
    }

    fn mounts(&self, environment: &Environment) -> Result<Vec<Mount>, StartFailure> {
        let vars: BTreeMap<&str, &str> =
            environment.vars.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        let list = self.container.volume_mounts.iter().flatten().enumerate();
        list.map(|(index, one)| self.mount(index, one, &vars)).collect()
    }

    fn mount(&self, index: usize, one: &VolumeMount, vars: &BTreeMap<&str, &str>) -> Result<Mount, StartFailure> {
        let place = self.volumes.places.get(&one.name);
        let place = place.ok_or_else(|| {
            self.config_error(format!(
                "cannot find volume {:?} to mount into container {:?}",
                one.name, self.container.name
            ))
        })?;
        let base = Mount {
            container_path: absolute(&one.mount_path),
            readonly: one.read_only.unwrap_or(false),
            recursive_read_only: matches!(one.recursive_read_only.as_deref(), Some("Enabled")),
            propagation: match one.mount_propagation.as_deref() {
                Some("HostToContainer") => MountPropagation::PropagationHostToContainer,
                Some("Bidirectional") => MountPropagation::PropagationBidirectional,
                _ => MountPropagation::PropagationPrivate,
            }
            .into(),
            ..Mount::default()
        };
        let sub = match (&one.sub_path, &one.sub_path_expr) {
            (_, Some(expression)) if !expression.is_empty() => {
                expand_strictly(expression, |name| vars.get(name).map(|value| (*value).to_owned()))
                    .map_err(|name| self.config_error(format!("missing value for {name:?} in subPathExpr")))?
            }
            (Some(path), _) => path.clone(),
            _ => String::new(),
        };
        match place {
            Place::Image(image) => {
                Ok(Mount { image: Some((**image).clone()), image_sub_path: sub, readonly: true, ..base })
            }
            Place::Path(path) if sub.is_empty() => Ok(Mount { host_path: path.to_string_lossy().into_owned(), ..base }),
            Place::Path(path) => {
                let at = self.part(path, &one.name, &sub, index)?;
                Ok(Mount { host_path: at.to_string_lossy().into_owned(), ..base })
            }
        }
    }

    fn part(&self, volume: &Path, name: &str, sub: &str, index: usize) -> Result<PathBuf, StartFailure> {
        let id = PodId::of(self.pod);
        let target = self.shared.volumes.pod_folder(&id.uid).join("volume-subpaths").join(name);
        let target = target.join(&self.container.name).join(index.to_string());
        subpath::mount(volume, sub, &target).map_err(|error| {
            self.config_error(format!(
                "failed to prepare subPath for volumeMount {name:?} of container {:?}: {error}",
                self.container.name
            ))
        })
    }

    /// The hosts file and the termination message's file, unless the container mounts its own.
    fn own_files(&self, mounts: &[Mount], termination: &Path) -> std::io::Result<Vec<Mount>> {
        let mut out = Vec::new();
        let taken = |path: &str| mounts.iter().any(|mount| mount.container_path == path);
        let shared_ids = self.pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false);
        if !taken("/etc/hosts") {
            let id = PodId::of(self.pod);
            let file = self.shared.volumes.pod_folder(&id.uid).join("etc-hosts");
            let text = if shared_ids {
                host_network_hosts(self.pod, &std::fs::read_to_string("/etc/hosts").unwrap_or_default())
            } else {
                hosts(self.pod, &self.facts.pod_ips, &self.shared.config.cluster_domain)
            };
            std::fs::write(&file, text)?;
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644))?;
            out.push(Mount {
                container_path: "/etc/hosts".into(),
                host_path: file.to_string_lossy().into_owned(),
                ..Mount::default()
            });
        }
        let path = self.container.termination_message_path.clone().unwrap_or_else(|| DEFAULT_TERMINATION_PATH.into());
        if !path.is_empty() && !taken(&path) {
            out.push(Mount {
                container_path: path,
                host_path: termination.to_string_lossy().into_owned(),
                ..Mount::default()
            });
        }
        Ok(out)
    }
}

fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

/// Runs a lifecycle hook.
pub(crate) async fn run_hook(
    runtime: &Runtime,
    hook: &LifecycleHandler,
    container: &Container,
    id: &str,
    pod_ip: &str,
    limit: Duration,
) -> Result<(), String> {
    let target = Target { runtime, container_id: id, container, pod_ip, user_agent: "kube-lifecycle/1.36" };
    if let Some(action) = &hook.exec {
        return target.exec(action, limit).await.map(|_| ());
    }
    if let Some(action) = &hook.http_get {
        return target.http(action, limit).await.map(|_| ());
    }
    if let Some(action) = &hook.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(action.seconds).unwrap_or(0)).min(limit)).await;
        return Ok(());
    }
    match &hook.tcp_socket {
        Some(action) => target.tcp(action, limit).await.map(|_| ()),
        None => Err("invalid handler".into()),
    }
}
