//! One of several control machines on one store: a server process that can be killed and started again.

use crate::{Door, Lacking, Plane};
use anyhow::Context;
use std::{
    fs,
    net::Ipv4Addr,
    path::Path,
    process::{Child, Stdio},
};

/// The operator gives every control machine of a service the same master key.
const MASTER_KEY: [u8; 32] = [7; 32];

/// A control machine with an address and data of its own; its server ends with it.
#[derive(Debug)]
pub struct ControlMachine {
    plane: Plane,
    server: Option<Child>,
}

impl ControlMachine {
    /// Prepares one at an address of loopback; [`Self::start`] starts it.
    ///
    /// # Errors
    /// What this machine lacks.
    pub fn prepare(address: Ipv4Addr, store: &str) -> Result<Self, Lacking> {
        let mut plane = Plane::prepare_at(address)?;
        plane.set("TIMONEL_STORE", store);
        let key = fs::write(plane.data().join("master.key"), MASTER_KEY);
        key.map_err(|error| Lacking(format!("master key: {error}")))?;
        Ok(Self { plane, server: None })
    }

    /// Gives the server one more variable of its environment.
    pub fn set(&mut self, name: &str, value: &str) {
        self.plane.set(name, value);
    }

    /// Starts the server and does not wait for it.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn start(&mut self) -> anyhow::Result<()> {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.plane.data().join("server.log"))?;
        let mut command = self.plane.command(&["server"]);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.server = Some(command.spawn().with_context(|| format!("{command:?}"))?);
        Ok(())
    }

    /// Kills the server without a word.
    pub fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            let _ = server.kill();
            let _ = server.wait();
        }
    }

    /// Whether the server runs.
    pub fn runs(&mut self) -> bool {
        self.server.as_mut().is_some_and(|server| matches!(server.try_wait(), Ok(None)))
    }

    /// Folder of its data.
    #[must_use]
    pub fn data(&self) -> &Path {
        self.plane.data()
    }

    /// Runs `timonel` against it.
    ///
    /// # Errors
    /// When it cannot be run or fails; what it printed is in the error.
    pub fn timonel(&self, args: &[&str]) -> anyhow::Result<String> {
        self.plane.timonel(args)
    }

    /// The administrator's way into a cluster through this machine.
    ///
    /// # Errors
    /// When its kubeconfig does not have the cluster.
    pub fn door(&self, cluster: &str) -> anyhow::Result<Door> {
        self.plane.door(cluster)
    }

    /// End of the server's log.
    #[must_use]
    pub fn log(&self) -> String {
        self.plane.log()
    }
}

impl Drop for ControlMachine {
    fn drop(&mut self) {
        self.kill();
    }
}
