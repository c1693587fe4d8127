//! A machine's power: its namespaces, cgroups and first process.
//!
//! The first process runs detached in network, mount, process, host-name and cgroup namespaces of its own; what it
//! starts ends with it. It outlives this process, which takes it up again by number and start time.

use crate::{
    cgroup,
    config::{LocalConfig, namespace_path},
    error::LocalError,
    local::Shared,
    network,
    process::ProcessId,
    records::{MachineRecord, Power, replace},
    volume,
};
use rustix::process::Signal;
use std::{
    convert::Infallible,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};
use timonel_cloud_core::InstanceId;
use timonel_runtime::OnError;
use tokio::process::Command;

const DIRECTORIES: [&str; 6] = ["root", "run", "containerd", "kubelet", "logs", "volumes"];
const POLL: Duration = Duration::from_millis(10);
/// Looks at a killed process until it is gone.
const KILL_POLLS: u32 = 500;

pub(crate) const ENTER_FILE: &str = "machine-enter.sh";
pub(crate) const BOOT_FILE: &str = "machine-boot.sh";

/// Joins the machine's cgroups (listed on standard input), then its namespaces. The process keeps its number, by which
/// it is known, and everything dies with it.
const ENTER: &str = r#"
set -eu
namespace=$1; boot=$2; shift 2
while IFS= read -r group; do echo $$ > "$group/cgroup.procs"; done
exec nsenter --net="$namespace" unshare --mount --uts --ipc --cgroup --pid --fork --kill-child --mount-proc \
    --propagation slave sh "$boot" "$@" < /dev/null
"#;

/// The machine's process 1: a host name, a private /run, cgroup hierarchies rooted at the machine, then the configured
/// program. It passes on the order to power off, and collects processes that lost their parent.
const BOOT: &str = r#"
set -eu
name=$1; dir=$2; shift 2
echo "$name" > /proc/sys/kernel/hostname
resolver=$(readlink -f /etc/resolv.conf || true)
case $resolver in
/run/*)
    mkdir -p "$dir$(dirname "$resolver")"
    # A resolver that listens on the host's loopback cannot be reached from here; the ones behind it can.
    if [ -e /run/systemd/resolve/resolv.conf ]; then cp /run/systemd/resolve/resolv.conf "$dir$resolver"
    else cp "$resolver" "$dir$resolver"; fi ;;
esac
mount --bind "$dir/run" /run
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    mkdir -p /sys/fs/cgroup/init
    echo $$ > /sys/fs/cgroup/init/cgroup.procs
elif [ -d /sys/fs/cgroup ]; then
    mount -t tmpfs -o mode=755 cgroup /sys/fs/cgroup
    while IFS=: read -r _ controllers _; do
        case $controllers in
        '') mkdir /sys/fs/cgroup/unified && mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified ;;
        name=*)
            mkdir "/sys/fs/cgroup/${controllers#name=}"
            mount -t cgroup -o "none,$controllers" cgroup "/sys/fs/cgroup/${controllers#name=}" ;;
        *)
            mkdir "/sys/fs/cgroup/$controllers"
            mount -t cgroup -o "$controllers" cgroup "/sys/fs/cgroup/$controllers"
            case $controllers in
            *,*) for one in $(echo "$controllers" | tr , ' '); do ln -s "$controllers" "/sys/fs/cgroup/$one"; done ;;
            esac ;;
        esac
    done < /proc/self/cgroup
fi
"$@" &
child=$!
trap 'kill -TERM "$child" 2>/dev/null || true' TERM INT
set +e
while kill -0 "$child" 2>/dev/null; do wait "$child"; done
exit 0
"#;

fn group(config: &LocalConfig, id: &InstanceId) -> PathBuf {
    Path::new(&config.cgroup()).join(&id.0)
}

/// Writes the two programs that machines begin with. Running machines keep the files that they began with.
pub(crate) fn write_programs(config: &LocalConfig) -> Result<(), LocalError> {
    replace(&config.data.join(ENTER_FILE), ENTER.as_bytes(), 0o755)?;
    replace(&config.data.join(BOOT_FILE), BOOT.as_bytes(), 0o755)
}

/// Powers on. The caller holds the machine's lock. Repeats whatever a crash left half done.
pub(crate) async fn boot(shared: &Arc<Shared>, id: &InstanceId) -> Result<MachineRecord, LocalError> {
    let config = &shared.config;
    let record = shared.machine(id)?;
    if record.power == Power::On && record.process.as_ref().is_some_and(ProcessId::is_alive) {
        return Ok(record);
    }
    let dir = config.machine_dir(id);
    for name in DIRECTORIES {
        let path = dir.join(name);
        fs::create_dir_all(&path).map_err(LocalError::io("making a directory", path))?;
    }
    // A process that was started and not recorded must not live beside the one that follows.
    cgroup::remove(&group(config, id)).await?;
    network::plug(config, &record).await?;
    for destination in shared.routes_to(id) {
        network::add_route(config, destination, &record).await?;
    }
    for volume in shared.volumes_of(id) {
        volume::plug(config, id, &volume)?;
    }
    let groups = cgroup::make(&group(config, id))?;
    let process = start(shared, &record, &groups).await?;
    let record = shared.update_machine(id, |record| {
        record.power = Power::On;
        record.process = Some(process);
    })?;
    shared.edge_changed.notify_one();
    tracing::info!(machine = %id, name = %record.order.name, "powered on");
    Ok(record)
}

async fn start(shared: &Arc<Shared>, record: &MachineRecord, groups: &[PathBuf]) -> Result<ProcessId, LocalError> {
    let config = &shared.config;
    let dir = config.machine_dir(&record.id);
    let log = dir.join("logs/console.log");
    let open = || File::options().create(true).append(true).open(&log);
    let console = open().map_err(LocalError::io("opening the console", &log))?;
    let errors = open().map_err(LocalError::io("opening the console", &log))?;
    let list = dir.join("cgroups");
    let lines: String = groups.iter().map(|path| format!("{}\n", path.display())).collect();
    fs::write(&list, lines).map_err(LocalError::io("writing", &list))?;
    let input = File::open(&list).map_err(LocalError::io("reading", &list))?;
    let fill = |text: &String| {
        let dir = dir.to_string_lossy();
        text.replace("{dir}", &dir).replace("{id}", &record.id.0).replace("{name}", &record.order.name)
    };
    let mut child = Command::new("setsid")
        .arg("sh")
        .arg(config.data.join(ENTER_FILE))
        .arg(namespace_path(&config.machine_namespace(&record.id)))
        .arg(config.data.join(BOOT_FILE))
        .arg(&record.order.name)
        .arg(&dir)
        .args(config.machine_command.iter().map(fill))
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .envs(config.machine_environment.iter().map(|(key, value)| (key, fill(value))))
        .current_dir("/")
        .stdin(Stdio::from(input))
        .stdout(Stdio::from(console))
        .stderr(Stdio::from(errors))
        .spawn()
        .map_err(LocalError::io("starting", "setsid"))?;
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
    let process = pid.and_then(ProcessId::of).ok_or_else(|| LocalError::Command {
        command: "setsid sh".to_owned(),
        message: format!("it ended at once; see {}", log.display()),
    })?;
    let (watcher, id) = (Arc::clone(shared), record.id.clone());
    shared.tasks.spawn("machine", OnError::Log, async move {
        let status = child.wait().await;
        tracing::info!(machine = %id, ?status, "its first process ended");
        watcher.edge_changed.notify_one();
        Ok::<(), Infallible>(())
    });
    Ok(process)
}

/// Powers off: in order within `grace`, then by force. The caller holds the machine's lock and has recorded the wish.
pub(crate) async fn power_off(shared: &Shared, record: &MachineRecord, grace: Duration) -> Result<(), LocalError> {
    if let Some(process) = record.process.as_ref().filter(|process| process.is_alive()) {
        for child in process.children() {
            child.signal(Signal::TERM);
        }
        if !ends_within(process, u32::try_from(grace.as_millis() / POLL.as_millis()).unwrap_or(u32::MAX)).await {
            process.signal(Signal::KILL);
            ends_within(process, KILL_POLLS).await;
        }
    }
    cgroup::remove(&group(&shared.config, &record.id)).await?;
    network::unplug(&shared.config, record).await?;
    shared.edge_changed.notify_one();
    Ok(())
}

async fn ends_within(process: &ProcessId, polls: u32) -> bool {
    for _ in 0..polls {
        if !process.is_alive() {
            return true;
        }
        tokio::time::sleep(POLL).await;
    }
    !process.is_alive()
}

/// Removes what a machine that is off had on disk. Refuses while anything is mounted below it.
pub(crate) fn erase(config: &LocalConfig, id: &InstanceId) -> Result<(), LocalError> {
    let dir = config.machine_dir(id);
    if let Some(left) = volume::mounts_below(&dir)?.first() {
        let busy = std::io::Error::other(format!("{} is mounted", left.display()));
        return Err(LocalError::io("removing a machine", dir)(busy));
    }
    match fs::remove_dir_all(&dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(LocalError::io("removing a machine", dir)(error))
        }
        _ => Ok(()),
    }
}
