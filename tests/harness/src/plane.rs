//! Control planes alone: a real server process with clusters and no nodes. Needs neither root nor containerd.

use crate::{Door, Lacking};
use anyhow::{Context, ensure};
use std::{
    env, fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Command,
};

/// A server of a test's own, taken down when the test ends.
#[derive(Debug)]
pub struct Plane {
    programs: PathBuf,
    data: tempfile::TempDir,
    address: SocketAddr,
    /// More of the environment of everything that runs.
    settings: Vec<(String, String)>,
}

impl Plane {
    /// Prepares data and a port; [`Self::up`] starts it.
    ///
    /// # Errors
    /// What this machine lacks.
    pub fn prepare() -> Result<Self, Lacking> {
        Self::prepare_at(Ipv4Addr::LOCALHOST)
    }

    /// The same with another address of loopback.
    ///
    /// # Errors
    /// What this machine lacks.
    pub fn prepare_at(address: Ipv4Addr) -> Result<Self, Lacking> {
        let programs = env::var_os("TIMONEL_BIN").map(PathBuf::from);
        let programs = programs.ok_or_else(|| Lacking("TIMONEL_BIN is not set".to_owned()))?;
        let data = tempfile::Builder::new().prefix("tm-plane-").tempdir_in(&programs);
        let data = data.map_err(|error| Lacking(format!("data directory: {error}")))?;
        let free = TcpListener::bind((address, 0)).and_then(|listener| listener.local_addr());
        let address = free.map_err(|error| Lacking(format!("no free port: {error}")))?;
        Ok(Self { programs, data, address, settings: Vec::new() })
    }

    /// Gives everything that runs from here on one more variable of its environment.
    pub fn set(&mut self, name: &str, value: &str) {
        self.settings.retain(|(known, _)| known != name);
        self.settings.push((name.to_owned(), value.to_owned()));
    }

    /// Folder of all data.
    #[must_use]
    pub fn data(&self) -> &Path {
        self.data.path()
    }

    /// The port that all clusters share.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// `timonel` with this plane's settings.
    #[must_use]
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.programs.join("timonel"));
        command.args(args).env("TIMONEL_DATA", self.data.path()).env("TIMONEL_CLOUD", "none");
        command.env("TIMONEL_LISTEN", self.address.to_string());
        command.envs(self.settings.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs `timonel` with this plane's settings; whether it succeeded, and what it printed on both outputs.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn try_timonel(&self, args: &[&str]) -> anyhow::Result<(bool, String)> {
        let mut command = self.command(args);
        let output = command.output().with_context(|| format!("{command:?}"))?;
        let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        Ok((output.status.success(), text))
    }

    /// The same, where success is expected.
    ///
    /// # Errors
    /// When it cannot be run or fails; what it printed is in the error.
    pub fn timonel(&self, args: &[&str]) -> anyhow::Result<String> {
        let (success, text) = self.try_timonel(args)?;
        ensure!(success, "timonel {args:?}: {text}");
        Ok(text)
    }

    /// Starts the server with a cluster of that name, or finds both.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn up(&self, cluster: &str) -> anyhow::Result<()> {
        self.timonel(&["up", "--cluster", cluster, "--nodes", "0", "--timeout", "120"]).map(drop)
    }

    /// The administrator's way into a cluster.
    ///
    /// # Errors
    /// When the kubeconfig does not have it.
    pub fn door(&self, cluster: &str) -> anyhow::Result<Door> {
        self.context(&format!("timonel-{cluster}"))
    }

    /// The administrator's way into the fleet.
    ///
    /// # Errors
    /// When there is no kubeconfig.
    pub fn fleet(&self) -> anyhow::Result<Door> {
        self.context("timonel")
    }

    fn context(&self, name: &str) -> anyhow::Result<Door> {
        let mut command = Command::new("kubectl");
        command.arg("--kubeconfig").arg(self.data.path().join("kubeconfig"));
        command.args(["--context", name]);
        command.args(["config", "view", "--minify", "--flatten", "--raw", "-o", "json"]);
        let output = command.output().context("kubectl")?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Door::of(&serde_json::from_slice(&output.stdout)?)
    }

    /// The server's process.
    ///
    /// # Errors
    /// When there is none.
    pub fn pid(&self) -> anyhow::Result<i32> {
        fs::read_to_string(self.data.path().join("server.pid"))?.trim().parse().context("pid")
    }

    /// Memory that the server holds that is not of files, KiB.
    ///
    /// # Errors
    /// When there is no server.
    pub fn memory(&self) -> anyhow::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()?))?;
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("RssAnon")?;
        line.trim().trim_end_matches(" kB").parse().context("RssAnon")
    }

    /// End of the server's log.
    #[must_use]
    pub fn log(&self) -> String {
        let log = fs::read_to_string(self.data.path().join("server.log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("end of the server's log:\n{}", self.log());
        }
        if let Err(error) = self.timonel(&["down", "--purge"]) {
            eprintln!("the plane was not taken down: {error:#}");
        }
    }
}
