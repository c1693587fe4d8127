//! The first process of a machine without systemd: keeps containerd and the agent running until it is told to stop.
//!
//! Ends children by asking first. Containers are children of containerd's shims, not of this process: they go on
//! while containerd or the agent restarts, and end when the machine is powered off (the cloud kills its cgroup).

use crate::{
    MachineArgs,
    containerd::{self, Limits},
    layout::Layout,
};
use anyhow::Context;
use std::{
    fs::{self, File, OpenOptions},
    path::Path,
    process::Stdio,
    time::Duration,
};
use timonel_runtime::{OnError, Tasks, replace_file};
use tokio::{
    process::{Child, Command},
    signal::unix::{SignalKind, signal},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

/// First wait before a child that ended is started again; doubles up to the longest.
const FIRST_WAIT: Duration = Duration::from_millis(200);
/// Longest such wait.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// A child that ran for so long starts with the first wait again.
const STABLE: Duration = Duration::from_secs(30);
/// Time for a child to end after it was asked.
const GRACE: Duration = Duration::from_secs(10);
/// Logs are cut at start when they have grown beyond this.
const MAX_LOG_BYTES: u64 = 32 << 20;

/// Runs until SIGTERM or SIGINT.
pub(crate) async fn supervise(args: &MachineArgs) -> anyhow::Result<()> {
    let layout = Layout::new(&args.machine_dir);
    for folder in layout.directories() {
        fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    }
    let limits = Limits { restrict_oom_score: !oom_score_can_fall() };
    let config = containerd::config(&layout, &args.cni_bin, limits);
    replace_file(&layout.containerd_config(), config.as_bytes()).context("writing containerd's configuration")?;
    let myself = std::env::current_exe().context("finding this program")?;
    let tasks = Tasks::root("supervise");
    let containerd = Service {
        name: "containerd",
        program: args.containerd.clone(),
        args: vec!["--config".into(), layout.containerd_config().into()],
    };
    let mut agent_args = vec!["run".into(), "--machine-dir".into(), args.machine_dir.clone().into()];
    agent_args.extend(["--metadata".into(), args.metadata.clone().into()]);
    agent_args.extend(["--cgroup-root".into(), args.cgroup_root.clone().into()]);
    agent_args.extend(["--cni-bin".into(), args.cni_bin.clone().into()]);
    if let Some(images) = &args.images {
        agent_args.extend(["--images".into(), images.clone().into()]);
    }
    if args.shared_disk {
        agent_args.push("--shared-disk".into());
    }
    let agent = Service { name: "agent", program: myself, args: agent_args };
    for service in [containerd, agent] {
        let (token, logs) = (tasks.token(), layout.logs());
        tasks.spawn_draining(service.name, async move { service.keep(&logs, &token).await });
    }
    stopped().await?;
    tracing::info!("stopping");
    tasks.shutdown(GRACE * 2).await;
    Ok(())
}

async fn stopped() -> anyhow::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// Whether this process may lower its own `oom_score_adj`, which containerd would do for system pods.
fn oom_score_can_fall() -> bool {
    let path = "/proc/self/oom_score_adj";
    let Ok(before) = fs::read_to_string(path) else { return false };
    let may = fs::write(path, "-999").is_ok();
    if may && fs::write(path, before.trim()).is_err() {
        tracing::warn!("oom_score_adj could not be set back");
    }
    may
}

struct Service {
    name: &'static str,
    program: std::path::PathBuf,
    args: Vec<std::ffi::OsString>,
}

impl Service {
    async fn keep(&self, logs: &Path, token: &CancellationToken) {
        let mut wait = FIRST_WAIT;
        while !token.is_cancelled() {
            let started = Instant::now();
            match self.start(logs) {
                Ok(child) => self.watch(child, token).await,
                Err(error) => tracing::error!(service = self.name, %error, "cannot be started"),
            }
            if started.elapsed() > STABLE {
                wait = FIRST_WAIT;
            }
            token.run_until_cancelled(tokio::time::sleep(wait)).await;
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    fn start(&self, logs: &Path) -> std::io::Result<Child> {
        let log = open_log(&logs.join(format!("{}.log", self.name)))?;
        Command::new(&self.program)
            .args(&self.args)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(false)
            .spawn()
    }

    async fn watch(&self, mut child: Child, token: &CancellationToken) {
        let ended = tokio::select! {
            status = child.wait() => Some(status),
            () = token.cancelled() => None,
        };
        if let Some(status) = ended {
            tracing::warn!(service = self.name, ?status, "ended; starting it again");
            return;
        }
        if let Some(pid) = child.id().and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed())) {
            // Gone already is fine.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        if tokio::time::timeout(GRACE, child.wait()).await.is_err() {
            tracing::warn!(service = self.name, "did not end when asked; killing it");
            // Gone already is fine.
            let _ = child.kill().await;
        }
    }
}

fn open_log(path: &Path) -> std::io::Result<File> {
    let large = fs::metadata(path).is_ok_and(|meta| meta.len() > MAX_LOG_BYTES);
    if large {
        fs::rename(path, path.with_extension("log.1"))?;
    }
    OpenOptions::new().create(true).append(true).open(path)
}

/// Ends `tasks` on SIGTERM or SIGINT, for the agent.
pub(crate) fn end_on_signal(tasks: &Tasks) {
    let token = tasks.token();
    tasks.spawn("signals", OnError::Log, async move {
        let result = stopped().await;
        token.cancel();
        result
    });
}
