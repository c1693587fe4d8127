//! An etcd of its own for a test: its members are processes on loopback with a directory that goes with them.

use rustix::process::{Pid, Signal, kill_process};
use std::{
    io,
    net::TcpListener,
    process::{Child, Command, Stdio},
};

/// Elections within a second of a member's loss; upstream's defaults need up to two.
const PACE: [&str; 3] = ["--heartbeat-interval=50", "--election-timeout=500", "--pre-vote"];
const QUIET: [&str; 2] = ["--logger=zap", "--log-level=error"];

/// The members of one etcd. All end with it.
#[derive(Debug)]
pub struct Etcd {
    members: Vec<Member>,
    _directory: tempfile::TempDir,
}

#[derive(Debug)]
struct Member {
    child: Option<Child>,
    arguments: Vec<String>,
    port: u16,
}

/// Ports of loopback that are free at this moment.
///
/// # Errors
/// When there are none.
pub fn free_ports(count: usize) -> io::Result<Vec<u16>> {
    let listeners = (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<io::Result<Vec<_>>>()?;
    listeners.iter().map(|listener| listener.local_addr().map(|address| address.port())).collect()
}

impl Etcd {
    /// Starts `count` members: the program `TIMONEL_ETCD`, or `etcd` of the path.
    ///
    /// # Errors
    /// When there is no such program, no directory or no port.
    pub fn start(count: usize) -> io::Result<Self> {
        let directory = tempfile::tempdir()?;
        let ports = free_ports(2 * count)?;
        let (clients, peers) = ports.split_at(count);
        let all: Vec<_> = peers.iter().enumerate().map(|(at, port)| format!("m{at}=http://127.0.0.1:{port}")).collect();
        let member = |at: usize| {
            let (client, peer) = (clients[at], peers[at]);
            let mut arguments = vec![
                format!("--name=m{at}"),
                format!("--data-dir={}", directory.path().join(format!("m{at}")).display()),
                format!("--listen-client-urls=http://127.0.0.1:{client}"),
                format!("--advertise-client-urls=http://127.0.0.1:{client}"),
                format!("--listen-peer-urls=http://127.0.0.1:{peer}"),
                format!("--initial-advertise-peer-urls=http://127.0.0.1:{peer}"),
                format!("--initial-cluster={}", all.join(",")),
            ];
            arguments.extend(PACE.iter().chain(&QUIET).map(|flag| (*flag).to_owned()));
            Member { child: None, arguments, port: client }
        };
        let mut etcd = Self { members: (0..count).map(member).collect(), _directory: directory };
        (0..count).try_for_each(|at| etcd.restart(at))?;
        Ok(etcd)
    }

    /// Ports of the members for clients.
    #[must_use]
    pub fn ports(&self) -> Vec<u16> {
        self.members.iter().map(|member| member.port).collect()
    }

    /// Starts a member that was killed.
    ///
    /// # Errors
    /// When the program cannot be run.
    pub fn restart(&mut self, at: usize) -> io::Result<()> {
        let program = std::env::var("TIMONEL_ETCD").unwrap_or_else(|_| "etcd".to_owned());
        let member = &mut self.members[at];
        let mut command = Command::new(program);
        member.child = Some(command.args(&member.arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
        Ok(())
    }

    /// Kills a member without a word.
    pub fn kill(&mut self, at: usize) {
        if let Some(mut child) = self.members[at].child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Sends a signal to a member.
    pub fn signal(&self, at: usize, signal: Signal) {
        if let Some(pid) = self.members[at].child.as_ref().and_then(|child| Pid::from_raw(child.id() as i32)) {
            let _ = kill_process(pid, signal);
        }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        (0..self.members.len()).for_each(|at| self.kill(at));
    }
}
