//! The container runtime: one method per call that the agent makes, with a time limit, and translation of what it
//! answers into the decisions' terms. Never decides.

use crate::decide::model::{Observed, ObservedContainer, ObservedSandbox, RunState};
use crate::decide::names::{
    CONTAINER_HASH, CONTAINER_NAME, Labels, POD_UID, RESTART_COUNT, TERMINATION_HOST_PATH, TERMINATION_POLICY,
};
use jiff::Timestamp;
use parking_lot::Mutex;
use std::{collections::BTreeMap, future::Future, time::Duration};
use thiserror::Error;
use timonel_cri::cri::{self, image_service_client::ImageServiceClient, runtime_service_client::RuntimeServiceClient};
use timonel_cri::events::events_client::EventsClient;
use tonic::transport::Channel;

/// Limit of ordinary calls; making a sandbox includes its network.
const CALL_LIMIT: Duration = Duration::from_mins(2);
/// Limit of an image pull, whatever its size.
const PULL_LIMIT: Duration = Duration::from_mins(30);
/// What a stop may take beyond the grace period.
const STOP_SLACK: Duration = Duration::from_secs(30);
/// Largest answer: a node's containers with all their labels.
const ANSWER_LIMIT: usize = 16 << 20;
/// Most of a log's end that becomes a termination message.
const MESSAGE_LOG_BYTES: u64 = 2048;
/// Most of a termination message file.
const MESSAGE_BYTES: usize = 4096;
/// Lines of a log's end that become a termination message.
const MESSAGE_LOG_LINES: usize = 80;

/// A call that failed.
#[derive(Debug, Error)]
pub(crate) enum RuntimeError {
    #[error("{message}")]
    Call { call: &'static str, code: tonic::Code, message: String },
    #[error("{call}: no answer within {} s", limit.as_secs())]
    Timeout { call: &'static str, limit: Duration },
    #[error("{0}: an answer without its content")]
    Empty(&'static str),
}

impl RuntimeError {
    pub(crate) fn not_found(&self) -> bool {
        matches!(self, Self::Call { code: tonic::Code::NotFound, .. })
    }
}

type Result<T> = std::result::Result<T, RuntimeError>;

/// Clients of the runtime; clones share one connection.
#[derive(Clone)]
pub(crate) struct Runtime {
    calls: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
    events: EventsClient<Channel>,
    /// Exited containers never change: their status is asked once.
    exited: std::sync::Arc<Mutex<BTreeMap<String, ObservedContainer>>>,
    /// Addresses of ready sandboxes.
    sandbox_ips: std::sync::Arc<Mutex<BTreeMap<String, Vec<String>>>>,
}

async fn limited<T>(
    call: &'static str,
    limit: Duration,
    work: impl Future<Output = std::result::Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T> {
    match tokio::time::timeout(limit, work).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(RuntimeError::Call { call, code: status.code(), message: status.message().to_owned() }),
        Err(_) => Err(RuntimeError::Timeout { call, limit }),
    }
}

macro_rules! call {
    ($self:ident . $client:ident . $method:ident ( $request:expr ), $limit:expr) => {
        Box::pin(limited(stringify!($method), $limit, $self.$client.clone().$method($request)))
    };
    ($self:ident . $client:ident . $method:ident ( $request:expr )) => {
        call!($self.$client.$method($request), CALL_LIMIT)
    };
}

impl Runtime {
    pub(crate) fn new(channel: &Channel) -> Self {
        Self {
            calls: RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(ANSWER_LIMIT),
            images: ImageServiceClient::new(channel.clone()).max_decoding_message_size(ANSWER_LIMIT),
            events: EventsClient::new(channel.clone()),
            exited: std::sync::Arc::default(),
            sandbox_ips: std::sync::Arc::default(),
        }
    }

    pub(crate) async fn version(&self) -> Result<cri::VersionResponse> {
        call!(self.calls.version(cri::VersionRequest { version: "v1".into() })).await
    }

    pub(crate) async fn status(&self) -> Result<cri::StatusResponse> {
        call!(self.calls.status(cri::StatusRequest { verbose: false }), Duration::from_secs(10)).await
    }

    pub(crate) async fn run_sandbox(&self, config: cri::PodSandboxConfig, handler: String) -> Result<String> {
        let request = cri::RunPodSandboxRequest { config: Some(config), runtime_handler: handler };
        Ok(call!(self.calls.run_pod_sandbox(request)).await?.pod_sandbox_id)
    }

    pub(crate) async fn stop_sandbox(&self, id: &str) -> Result<()> {
        self.sandbox_ips.lock().remove(id);
        let request = cri::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        call!(self.calls.stop_pod_sandbox(request)).await.map(|_| ())
    }

    pub(crate) async fn remove_sandbox(&self, id: &str) -> Result<()> {
        let request = cri::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        call!(self.calls.remove_pod_sandbox(request)).await.map(|_| ())
    }

    pub(crate) async fn sandboxes(&self, uid: Option<&str>) -> Result<Vec<cri::PodSandbox>> {
        let filter = uid.map(|uid| cri::PodSandboxFilter { label_selector: by_uid(uid), ..Default::default() });
        Ok(call!(self.calls.list_pod_sandbox(cri::ListPodSandboxRequest { filter })).await?.items)
    }

    pub(crate) async fn containers(&self, uid: Option<&str>) -> Result<Vec<cri::Container>> {
        let filter = uid.map(|uid| cri::ContainerFilter { label_selector: by_uid(uid), ..Default::default() });
        Ok(call!(self.calls.list_containers(cri::ListContainersRequest { filter })).await?.containers)
    }

    pub(crate) async fn create(
        &self,
        sandbox: &str,
        config: cri::ContainerConfig,
        sandbox_config: cri::PodSandboxConfig,
    ) -> Result<String> {
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(config),
            sandbox_config: Some(sandbox_config),
        };
        Ok(call!(self.calls.create_container(request)).await?.container_id)
    }

    pub(crate) async fn start(&self, id: &str) -> Result<()> {
        let request = cri::StartContainerRequest { container_id: id.to_owned() };
        call!(self.calls.start_container(request)).await.map(|_| ())
    }

    pub(crate) async fn stop(&self, id: &str, grace_seconds: i64) -> Result<()> {
        let request = cri::StopContainerRequest { container_id: id.to_owned(), timeout: grace_seconds };
        let limit = Duration::from_secs(u64::try_from(grace_seconds).unwrap_or(0)) + STOP_SLACK;
        call!(self.calls.stop_container(request), limit).await.map(|_| ())
    }

    pub(crate) async fn remove(&self, id: &str) -> Result<()> {
        self.exited.lock().remove(id);
        let request = cri::RemoveContainerRequest { container_id: id.to_owned() };
        call!(self.calls.remove_container(request)).await.map(|_| ())
    }

    pub(crate) async fn container_status(&self, id: &str) -> Result<cri::ContainerStatus> {
        let request = cri::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        call!(self.calls.container_status(request)).await?.status.ok_or(RuntimeError::Empty("ContainerStatus"))
    }

    pub(crate) async fn update(&self, id: &str, linux: cri::LinuxContainerResources) -> Result<()> {
        let request = cri::UpdateContainerResourcesRequest {
            container_id: id.to_owned(),
            linux: Some(linux),
            ..Default::default()
        };
        call!(self.calls.update_container_resources(request)).await.map(|_| ())
    }

    pub(crate) async fn reopen_log(&self, id: &str) -> Result<()> {
        let request = cri::ReopenContainerLogRequest { container_id: id.to_owned() };
        call!(self.calls.reopen_container_log(request)).await.map(|_| ())
    }

    pub(crate) async fn exec_sync(&self, id: &str, cmd: Vec<String>, limit: Duration) -> Result<cri::ExecSyncResponse> {
        let seconds = i64::try_from(limit.as_secs()).unwrap_or(i64::MAX);
        let request = cri::ExecSyncRequest { container_id: id.to_owned(), cmd, timeout: seconds };
        call!(self.calls.exec_sync(request), limit + Duration::from_secs(2)).await
    }

    pub(crate) async fn exec(&self, request: cri::ExecRequest) -> Result<String> {
        Ok(call!(self.calls.exec(request)).await?.url)
    }

    pub(crate) async fn attach(&self, request: cri::AttachRequest) -> Result<String> {
        Ok(call!(self.calls.attach(request)).await?.url)
    }

    pub(crate) async fn port_forward(&self, sandbox: &str, port: Vec<i32>) -> Result<String> {
        let request = cri::PortForwardRequest { pod_sandbox_id: sandbox.to_owned(), port };
        Ok(call!(self.calls.port_forward(request)).await?.url)
    }

    pub(crate) async fn stats(&self) -> Result<Vec<cri::ContainerStats>> {
        Ok(call!(self.calls.list_container_stats(cri::ListContainerStatsRequest { filter: None })).await?.stats)
    }

    /// Tells the runtime the node's pod range; runtimes with a network configuration of their own ignore it.
    pub(crate) async fn pod_cidr(&self, cidr: &str) -> Result<()> {
        let config = cri::RuntimeConfig { network_config: Some(cri::NetworkConfig { pod_cidr: cidr.to_owned() }) };
        let request = cri::UpdateRuntimeConfigRequest { runtime_config: Some(config) };
        call!(self.calls.update_runtime_config(request)).await.map(|_| ())
    }

    pub(crate) async fn image(&self, spec: cri::ImageSpec) -> Result<Option<cri::Image>> {
        let request = cri::ImageStatusRequest { image: Some(spec), verbose: false };
        Ok(call!(self.images.image_status(request)).await?.image)
    }

    pub(crate) async fn pull(
        &self,
        spec: cri::ImageSpec,
        auth: Option<cri::AuthConfig>,
        sandbox_config: cri::PodSandboxConfig,
    ) -> Result<String> {
        let request = cri::PullImageRequest { image: Some(spec), auth, sandbox_config: Some(sandbox_config) };
        Ok(call!(self.images.pull_image(request), PULL_LIMIT).await?.image_ref)
    }

    pub(crate) async fn list_images(&self) -> Result<Vec<cri::Image>> {
        Ok(call!(self.images.list_images(cri::ListImagesRequest { filter: None })).await?.images)
    }

    pub(crate) async fn remove_image(&self, id: &str) -> Result<()> {
        let image = cri::ImageSpec { image: id.to_owned(), ..Default::default() };
        call!(self.images.remove_image(cri::RemoveImageRequest { image: Some(image) })).await.map(|_| ())
    }

    pub(crate) async fn image_fs(&self) -> Result<Vec<cri::FilesystemUsage>> {
        Ok(call!(self.images.image_fs_info(cri::ImageFsInfoRequest {})).await?.image_filesystems)
    }

    /// Starts, exits and OOM kills of this runtime's containers, as they happen.
    pub(crate) async fn subscribe(&self) -> Result<tonic::Streaming<timonel_cri::events::Envelope>> {
        let filters = ["exit", "oom", "start"].map(|kind| format!("topic==\"/tasks/{kind}\",namespace==\"k8s.io\""));
        let request = timonel_cri::events::SubscribeRequest { filters: filters.into() };
        // The answer begins with the first event, which may be hours away.
        let answer = self.events.clone().subscribe(request).await;
        let refused = |status: tonic::Status| RuntimeError::Call {
            call: "Subscribe",
            code: status.code(),
            message: status.message().to_owned(),
        };
        Ok(answer.map_err(refused)?.into_inner())
    }

    /// Everything the runtime has of one pod.
    pub(crate) async fn observe(&self, uid: &str) -> Result<Observed> {
        let (sandboxes, containers) = tokio::try_join!(self.sandboxes(Some(uid)), self.containers(Some(uid)))?;
        let mut out = Observed::default();
        for sandbox in sandboxes {
            out.sandboxes.push(self.observe_sandbox(sandbox).await?);
        }
        for container in containers {
            match self.observe_container(&container).await {
                Ok(one) => out.containers.push(one),
                Err(error) if error.not_found() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(out.sorted())
    }

    async fn observe_sandbox(&self, sandbox: cri::PodSandbox) -> Result<ObservedSandbox> {
        let ready = sandbox.state() == cri::PodSandboxState::SandboxReady;
        let ips = if ready { self.ips(&sandbox.id).await? } else { Vec::new() };
        Ok(ObservedSandbox {
            attempt: sandbox.metadata.map_or(0, |meta| meta.attempt),
            ready,
            created_at: time(sandbox.created_at).unwrap_or(Timestamp::UNIX_EPOCH),
            id: sandbox.id,
            ips,
        })
    }

    async fn ips(&self, id: &str) -> Result<Vec<String>> {
        if let Some(known) = self.sandbox_ips.lock().get(id) {
            return Ok(known.clone());
        }
        let request = cri::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
        let status = call!(self.calls.pod_sandbox_status(request)).await?.status;
        let network = status.and_then(|status| status.network).unwrap_or_default();
        let more = network.additional_ips.into_iter().map(|one| one.ip);
        let ips: Vec<String> = std::iter::once(network.ip).chain(more).filter(|ip| !ip.is_empty()).collect();
        if !ips.is_empty() {
            self.sandbox_ips.lock().insert(id.to_owned(), ips.clone());
        }
        Ok(ips)
    }

    async fn observe_container(&self, container: &cri::Container) -> Result<ObservedContainer> {
        if let Some(known) = self.exited.lock().get(&container.id) {
            return Ok(known.clone());
        }
        let status = self.container_status(&container.id).await?;
        let mut one = translate(status, &container.pod_sandbox_id);
        if one.state == RunState::Exited {
            one.termination_message = last_words(container, &one);
            self.exited.lock().insert(one.id.clone(), one.clone());
        }
        Ok(one)
    }
}

impl std::fmt::Debug for Runtime {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Runtime")
    }
}

fn by_uid(uid: &str) -> std::collections::HashMap<String, String> {
    [(POD_UID.to_owned(), uid.to_owned())].into()
}

/// Nanoseconds since 1970; the runtime says 0 for never.
fn time(nanoseconds: i64) -> Option<Timestamp> {
    (nanoseconds > 0).then(|| Timestamp::from_nanosecond(i128::from(nanoseconds)).ok()).flatten()
}

fn translate(status: cri::ContainerStatus, sandbox: &str) -> ObservedContainer {
    let state = match status.state() {
        cri::ContainerState::ContainerCreated => RunState::Created,
        cri::ContainerState::ContainerRunning => RunState::Running,
        cri::ContainerState::ContainerExited => RunState::Exited,
        cri::ContainerState::ContainerUnknown => RunState::Unknown,
    };
    let limits = status.resources.and_then(|resources| resources.linux);
    let restarts = status.annotations.label(RESTART_COUNT).and_then(|count| count.parse().ok());
    ObservedContainer {
        name: status.labels.label(CONTAINER_NAME).unwrap_or_default().to_owned(),
        attempt: restarts.or(status.metadata.map(|meta| meta.attempt)).unwrap_or(0),
        sandbox_id: sandbox.to_owned(),
        state,
        created_at: time(status.created_at).unwrap_or(Timestamp::UNIX_EPOCH),
        started_at: time(status.started_at),
        finished_at: time(status.finished_at),
        exit_code: status.exit_code,
        hash: status.annotations.label(CONTAINER_HASH).unwrap_or_default().to_owned(),
        image: status.image.map(|image| image.image).unwrap_or_default(),
        image_ref: status.image_ref,
        reason: status.reason,
        message: status.message,
        log_path: status.log_path,
        termination_message: None,
        limits: limits.map(|one| (one.cpu_shares, one.cpu_quota.max(0), one.memory_limit_in_bytes)),
        id: status.id,
    }
}

/// The termination message: the file, or the log's end when the container failed and asks for that.
fn last_words(container: &cri::Container, run: &ObservedContainer) -> Option<String> {
    let path = container.annotations.label(TERMINATION_HOST_PATH).unwrap_or_default();
    let file = if path.is_empty() { Vec::new() } else { std::fs::read(path).unwrap_or_default() };
    if !file.is_empty() {
        return Some(String::from_utf8_lossy(&file[..file.len().min(MESSAGE_BYTES)]).into_owned());
    }
    let fall_back = container.annotations.label(TERMINATION_POLICY) == Some("FallbackToLogsOnError");
    (fall_back && run.exit_code != 0).then(|| log_end(&run.log_path)).flatten()
}

fn log_end(path: &str) -> Option<String> {
    use std::io::{Read as _, Seek as _, SeekFrom};
    let mut file = std::fs::File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    // Each line carries about 45 bytes of time and stream beside its text.
    file.seek(SeekFrom::Start(length.saturating_sub(MESSAGE_LOG_BYTES * 4))).ok()?;
    let mut raw = String::new();
    file.take(MESSAGE_LOG_BYTES * 4).read_to_string(&mut raw).ok()?;
    let lines: Vec<&str> =
        raw.lines().filter_map(|line| crate::shell::logs::parse_line(line).map(|line| line.text)).collect();
    let text = lines[lines.len().saturating_sub(MESSAGE_LOG_LINES)..].join("\n");
    let cut = text.len().saturating_sub(usize::try_from(MESSAGE_LOG_BYTES).unwrap_or(2048));
    let cut = (cut..=text.len()).find(|at| text.is_char_boundary(*at))?;
    Some(text[cut..].to_owned())
}
