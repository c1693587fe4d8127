//! A whole Timonel for a test: a service with a data directory, a port, names and address ranges of its own, so that
//! it stands beside a running `up` and beside other tests; taken down when the test ends, however it ends.

mod control;
mod door;
mod load;
mod plane;

pub use control::ControlMachine;
pub use door::{Door, Line, Reply};
pub use load::{Load, Tally};
pub use plane::Plane;

use anyhow::{Context, bail, ensure};
use std::{
    collections::BTreeMap,
    env, fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

/// Between two looks while waiting.
const LOOK: Duration = Duration::from_millis(200);
/// Longest time for one HTTP request.
const REQUEST_SECONDS: &str = "5";

/// Why whole clusters cannot run here; tests say it and pass.
#[derive(Clone, Debug)]
pub struct Lacking(pub String);

/// A Timonel of a test's own.
#[derive(Debug)]
pub struct World {
    programs: PathBuf,
    data: tempfile::TempDir,
    port: u16,
    name: String,
    range: u8,
}

impl World {
    /// Prepares a world; `number` (1 to 40) tells worlds of one test run apart.
    ///
    /// # Errors
    /// What this machine lacks.
    pub fn prepare(number: u8) -> Result<Self, Lacking> {
        let lacking = |text: &str| Lacking(text.to_owned());
        if !rustix::process::geteuid().is_root() {
            return Err(lacking("needs root"));
        }
        let programs =
            env::var_os("TIMONEL_BIN").map(PathBuf::from).ok_or_else(|| lacking("TIMONEL_BIN is not set"))?;
        let images = env::var_os("TIMONEL_IMAGES").map(PathBuf::from);
        let images = images.ok_or_else(|| lacking("TIMONEL_IMAGES is not set"))?;
        let doctor = Command::new(programs.join("timonel")).args(["doctor", "-o", "name"]).output();
        let doctor = doctor.map_err(|error| Lacking(format!("timonel doctor: {error}")))?;
        if !doctor.status.success() {
            return Err(Lacking(format!("the machine lacks {}", String::from_utf8_lossy(&doctor.stdout).trim())));
        }
        // Below the programs and not in a temporary folder: containers want a real disk.
        let data = tempfile::Builder::new().prefix("tm-e2e-").tempdir_in(&programs);
        let data = data.map_err(|error| Lacking(format!("data directory: {error}")))?;
        link_images(&images, &data.path().join("images")).map_err(|error| Lacking(format!("images: {error:#}")))?;
        let port = free_port().map_err(|error| Lacking(format!("no free port: {error}")))?;
        let name = format!("e2e{}", std::process::id() % 100_000);
        Ok(Self { programs, data, port, name, range: number })
    }

    /// Folder of all data.
    #[must_use]
    pub fn data(&self) -> &Path {
        self.data.path()
    }

    /// Runs `timonel` with this world's settings.
    ///
    /// # Errors
    /// When it cannot be run or fails; what it printed is in the error.
    pub fn timonel(&self, args: &[&str]) -> anyhow::Result<String> {
        finish(&mut self.timonel_command(args))
    }

    /// Starts `timonel` with this world's settings and does not wait for it.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn timonel_started(&self, args: &[&str]) -> anyhow::Result<Child> {
        let mut command = self.timonel_command(args);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().with_context(|| format!("{command:?}"))
    }

    fn timonel_command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.programs.join("timonel"));
        command.args(args).env("TIMONEL_DATA", self.data.path());
        command.env("TIMONEL_LISTEN", format!("127.0.0.1:{}", self.port)).env("TIMONEL_LOCAL_NAME", &self.name);
        command.env("TIMONEL_LOCAL_PUBLIC", format!("172.29.{}.0/24", self.range));
        command.env("TIMONEL_LOCAL_MACHINES", format!("10.{}.0.0/16", 60 + self.range));
        command
    }

    /// Runs stock kubectl against a cluster.
    ///
    /// # Errors
    /// When it cannot be run or fails; what it printed is in the error.
    pub fn kubectl(&self, cluster: &str, args: &[&str]) -> anyhow::Result<String> {
        finish(self.kubectl_command(cluster).args(["--request-timeout", "60s"]).args(args))
    }

    /// Stock kubectl for a cluster, to be completed and run by the caller.
    #[must_use]
    pub fn kubectl_command(&self, cluster: &str) -> Command {
        let mut command = Command::new("kubectl");
        command.arg("--kubeconfig").arg(self.data.path().join("kubeconfig"));
        command.args(["--context", &format!("timonel-{cluster}")]);
        command
    }

    /// Kills the server without a word.
    ///
    /// # Errors
    /// When there is none.
    pub fn kill_server(&self) -> anyhow::Result<()> {
        kill(fs::read_to_string(self.data.path().join("server.pid"))?.trim().parse()?)
    }

    /// The processes of one part of this world's machines: machine to process.
    ///
    /// # Errors
    /// When processes cannot be listed.
    pub fn processes(&self, part: Part) -> anyhow::Result<BTreeMap<String, i32>> {
        let machines = self.data.path().join("local/machines");
        let mut found = BTreeMap::new();
        for entry in fs::read_dir("/proc").context("/proc")? {
            let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            // One that has just ended is none.
            let Ok(line) = fs::read(format!("/proc/{pid}/cmdline")) else { continue };
            let line = String::from_utf8_lossy(&line).into_owned();
            let words: Vec<&str> = line.split('\0').collect();
            let machine = words.iter().find_map(|word| Path::new(word).strip_prefix(&machines).ok());
            let machine = machine.and_then(|path| path.iter().next()).map(|name| name.to_string_lossy().into_owned());
            if let Some(machine) = machine.filter(|_| part.is(&words)) {
                found.insert(machine, pid);
            }
        }
        Ok(found)
    }

    /// Network namespaces that belong to this world.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub fn namespaces(&self) -> anyhow::Result<Vec<String>> {
        let mine = format!("tm-{}-", self.name);
        let all = fs::read_dir("/run/netns").context("/run/netns")?;
        let names = all.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        Ok(names.filter(|name| name.starts_with(&mine)).collect())
    }
}

/// A part of a machine that runs in a process of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The agent: kubelet, proxy, DNS, tunnel.
    Agent,
    /// The container runtime; not its shims.
    Containerd,
}

impl Part {
    fn is(self, words: &[&str]) -> bool {
        let program = words.first().and_then(|path| Path::new(path).file_name()).and_then(|name| name.to_str());
        match self {
            Self::Agent => program == Some("timonel-node") && words.get(1) == Some(&"run"),
            Self::Containerd => program == Some("containerd"),
        }
    }
}

/// Kills a process without a word.
///
/// # Errors
/// When there is none.
pub fn kill(pid: i32) -> anyhow::Result<()> {
    let pid = rustix::process::Pid::from_raw(pid).context("pid")?;
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).context("kill")
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.data.path().join("server.log")).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            eprintln!("end of the server's log:\n{}", lines[lines.len().saturating_sub(40)..].join("\n"));
        }
        if let Err(error) = self.timonel(&["down", "--purge"]) {
            eprintln!("the world was not taken down: {error:#}");
        }
    }
}

/// Archives are linked where the disk allows it: they are large and never changed.
fn link_images(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| from.display().to_string())? {
        let entry = entry?;
        if entry.path().extension().is_some_and(|kind| kind == "tar") {
            let target = to.join(entry.file_name());
            fs::hard_link(entry.path(), &target).or_else(|_| fs::copy(entry.path(), &target).map(drop))?;
        }
    }
    Ok(())
}

fn free_port() -> std::io::Result<u16> {
    TcpListener::bind("127.0.0.1:0")?.local_addr().map(|address| address.port())
}

/// Runs a command to its end; what it printed.
///
/// # Errors
/// When it cannot be run or fails; what it printed is in the error.
pub fn finish(command: &mut Command) -> anyhow::Result<String> {
    let Output { status, stdout, stderr } = command.output().with_context(|| format!("{command:?}"))?;
    let stdout = String::from_utf8_lossy(&stdout).into_owned();
    ensure!(status.success(), "{command:?}: {status}\n{stdout}{}", String::from_utf8_lossy(&stderr));
    Ok(stdout)
}

/// One HTTP request; the status and the body.
///
/// # Errors
/// When there is no answer.
pub fn http(method: &str, url: &str, body: Option<&str>) -> anyhow::Result<(u16, String)> {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--max-time", REQUEST_SECONDS, "--request", method]);
    command.args(["--write-out", "\n%{http_code}", url]);
    if let Some(body) = body {
        command.args(["--header", "content-type: application/json", "--data", body]);
    }
    let answer = finish(&mut command)?;
    let (body, status) = answer.rsplit_once('\n').context("no status")?;
    Ok((status.parse()?, body.to_owned()))
}

/// Looks until `look` gives something; its last complaint is the error.
///
/// # Errors
/// When the time is over.
pub fn eventually<T>(what: &str, seconds: u64, mut look: impl FnMut() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let end = Instant::now() + Duration::from_secs(seconds);
    loop {
        match look() {
            Ok(found) => return Ok(found),
            Err(error) if Instant::now() > end => bail!("{what}: not within {seconds} s; last: {error:#}"),
            #[allow(clippy::disallowed_methods, reason = "a test's own thread waits for another process")]
            Err(_) => std::thread::sleep(LOOK),
        }
    }
}
