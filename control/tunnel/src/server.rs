//! The server's end: the connected nodes of one cluster.

use crate::{
    header::Target,
    session::{Session, StreamHandler, TunnelError, TunnelStream},
};
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    fmt::{self, Debug, Formatter},
    sync::Arc,
    time::Duration,
};
use timonel_runtime::Tasks;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Notify,
    time::timeout,
};
use yamux::Mode;

/// The connections of a cluster's nodes. Of several connections of one node the newest is used and the older
/// ones are ended.
pub struct TunnelServer {
    tasks: Tasks,
    handler: Arc<dyn StreamHandler>,
    nodes: Mutex<Nodes>,
    connected: Notify,
}

#[derive(Default)]
struct Nodes {
    sessions: BTreeMap<String, (u64, Session)>,
    last: u64,
}

impl Debug for TunnelServer {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        out.debug_struct("TunnelServer").field("nodes", &self.connected()).finish_non_exhaustive()
    }
}

impl TunnelServer {
    /// Without any node yet; streams that nodes open go to `handler`.
    #[must_use]
    pub fn new(tasks: &Tasks, handler: Arc<dyn StreamHandler>) -> Self {
        Self { tasks: tasks.clone(), handler, nodes: Mutex::default(), connected: Notify::new() }
    }

    /// Serves the connection of `node` (which the caller has authenticated) until it ends or a newer one
    /// replaces it.
    pub async fn serve<T>(&self, node: &str, io: T)
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let session = Session::start(io, Mode::Server, node, &self.tasks, self.handler.clone());
        let serial = {
            let mut nodes = self.nodes.lock();
            nodes.last += 1;
            let serial = nodes.last;
            if let Some((_, older)) = nodes.sessions.insert(node.to_owned(), (serial, session.clone())) {
                older.end();
            }
            serial
        };
        self.connected.notify_waiters();
        let guard = Registered { server: self, node, serial, session: &session };
        session.ended().await;
        drop(guard);
    }

    /// Opens a stream to or through `node`, waiting up to `patience` for the node to connect.
    ///
    /// # Errors
    /// [`TunnelError::NotConnected`] after that time, else as the stream fails.
    pub async fn open(&self, node: &str, target: &Target, patience: Duration) -> Result<TunnelStream, TunnelError> {
        let session = match timeout(patience, self.session(node)).await {
            Ok(session) => session,
            Err(_) => return Err(TunnelError::NotConnected(node.to_owned())),
        };
        session.open(target).await
    }

    async fn session(&self, node: &str) -> Session {
        loop {
            let connected = self.connected.notified();
            let mut connected = std::pin::pin!(connected);
            // Registered before the look, or a connection between look and wait would be missed.
            connected.as_mut().enable();
            let session = self.nodes.lock().sessions.get(node).map(|(_, session)| session.clone());
            match session {
                Some(session) if !session.is_ended() => return session,
                _ => connected.await,
            }
        }
    }

    /// Names of the connected nodes.
    #[must_use]
    pub fn connected(&self) -> Vec<String> {
        self.nodes.lock().sessions.keys().cloned().collect()
    }

    /// Whether a node is connected.
    #[must_use]
    pub fn has(&self, node: &str) -> bool {
        self.nodes.lock().sessions.get(node).is_some_and(|(_, session)| !session.is_ended())
    }

    /// Ends a node's connection, as when the node is deleted.
    pub fn disconnect(&self, node: &str) {
        if let Some((_, session)) = self.nodes.lock().sessions.remove(node) {
            session.end();
        }
    }
}

/// Takes its connection out of the registry, however serving ends, unless a newer one stands there.
struct Registered<'a> {
    server: &'a TunnelServer,
    node: &'a str,
    serial: u64,
    session: &'a Session,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.session.end();
        let mut nodes = self.server.nodes.lock();
        if nodes.sessions.get(self.node).is_some_and(|(serial, _)| *serial == self.serial) {
            nodes.sessions.remove(self.node);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Incoming, TunnelClient};
    use async_trait::async_trait;
    use std::io;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const PATIENCE: Duration = Duration::from_secs(2);
    const PIPE_BYTES: usize = 16 << 10;

    /// Echoes what a stream carries, prefixed by its target; refuses port 1; never reads from port 2.
    struct Echo;

    #[async_trait]
    impl StreamHandler for Echo {
        async fn handle(&self, peer: &str, target: Target, stream: Incoming) -> io::Result<()> {
            match target {
                Target::Tcp { port: 1, .. } => stream.refuse("no route").await,
                Target::Tcp { port: 2, .. } => {
                    let _stream = stream.accept().await?;
                    std::future::pending().await
                }
                target => {
                    let mut stream = stream.accept().await?;
                    stream.write_all(format!("{peer}{target:?}:").as_bytes()).await?;
                    let (mut from, mut to) = tokio::io::split(stream);
                    tokio::io::copy(&mut from, &mut to).await?;
                    to.shutdown().await
                }
            }
        }
    }

    struct World {
        tasks: Tasks,
        server: Arc<TunnelServer>,
    }

    impl World {
        fn new() -> Self {
            let tasks = Tasks::root("test");
            let server = Arc::new(TunnelServer::new(&tasks, Arc::new(Echo)));
            Self { tasks, server }
        }

        fn join(&self, node: &'static str) -> TunnelClient {
            let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
            self.accept(node, ours);
            TunnelClient::start(theirs, &self.tasks, Arc::new(Echo))
        }

        fn accept(&self, node: &'static str, io: tokio::io::DuplexStream) {
            let server = self.server.clone();
            self.tasks.spawn("serve", timonel_runtime::OnError::Log, async move {
                server.serve(node, io).await;
                Ok::<(), io::Error>(())
            });
        }

        async fn talk(&self, node: &str, target: &Target) -> String {
            exchange(self.server.open(node, target, PATIENCE).await.unwrap()).await
        }
    }

    async fn exchange(mut stream: TunnelStream) -> String {
        stream.write_all(b"hello").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    fn tcp(port: u16) -> Target {
        Target::Tcp { host: "10.0.0.1".into(), port }
    }

    #[tokio::test(start_paused = true)]
    async fn streams_go_both_ways_and_close_each_way_alone() {
        let world = World::new();
        let client = world.join("n1");
        assert_eq!(world.talk("n1", &Target::Kubelet).await, "Kubelet:hello");
        assert_eq!(exchange(client.open(&Target::Api).await.unwrap()).await, "n1Api:hello");
        assert_eq!(world.server.connected(), ["n1"]);
        assert!(world.server.has("n1") && !world.server.has("n2"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_says_why() {
        let world = World::new();
        let _client = world.join("n1");
        let error = world.server.open("n1", &tcp(1), PATIENCE).await.unwrap_err();
        assert!(matches!(&error, TunnelError::Refused(why) if why == "no route"), "{error:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_stream_does_not_hold_up_others() {
        let world = World::new();
        let _client = world.join("n1");
        let mut slow = world.server.open("n1", &tcp(2), PATIENCE).await.unwrap();
        let stuck = async { slow.write_all(&vec![0; 8 << 20]).await };
        assert!(timeout(Duration::from_secs(1), stuck).await.is_err(), "nobody reads, so it must block");
        for _ in 0..20 {
            assert_eq!(world.talk("n1", &Target::Kubelet).await, "Kubelet:hello");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn open_waits_for_a_node_but_not_for_ever() {
        let world = World::new();
        let error = world.server.open("n1", &Target::Kubelet, PATIENCE).await.unwrap_err();
        assert!(matches!(error, TunnelError::NotConnected(_)));
        let waiting = world.talk("n1", &Target::Kubelet);
        let joining = async {
            tokio::time::sleep(PATIENCE / 2).await;
            world.join("n1")
        };
        let (text, _client) = tokio::join!(waiting, joining);
        assert_eq!(text, "Kubelet:hello");
    }

    #[tokio::test(start_paused = true)]
    async fn the_newest_connection_wins() {
        let world = World::new();
        let older = world.join("n1");
        assert_eq!(world.talk("n1", &Target::Kubelet).await, "Kubelet:hello");
        let _newer = world.join("n1");
        older.ended().await;
        assert_eq!(world.talk("n1", &Target::Kubelet).await, "Kubelet:hello");
        assert_eq!(world.server.connected(), ["n1"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_peer_is_dead() {
        let world = World::new();
        let (ours, _held_open) = tokio::io::duplex(PIPE_BYTES);
        world.accept("n1", ours);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(world.server.connected(), ["n1"]);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(world.server.connected().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_living_idle_peer_stays() {
        let world = World::new();
        let _client = world.join("n1");
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!(world.talk("n1", &Target::Kubelet).await, "Kubelet:hello");
    }

    #[tokio::test(start_paused = true)]
    async fn a_closed_connection_leaves_the_registry_and_garbage_ends_it() {
        let world = World::new();
        let client = world.join("n1");
        assert_eq!(world.talk("n1", &Target::Kubelet).await, "Kubelet:hello");
        drop(client);
        let (ours, mut garbage) = tokio::io::duplex(PIPE_BYTES);
        world.accept("n2", ours);
        garbage.write_all(&[0xff; 64]).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(world.server.connected().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_transfer_arrives_whole() {
        let world = World::new();
        let _client = world.join("n1");
        let stream = world.server.open("n1", &Target::Kubelet, PATIENCE).await.unwrap();
        let (mut from, mut to) = tokio::io::split(stream);
        let sent: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        let mut received = Vec::new();
        let send = async {
            to.write_all(&sent).await.unwrap();
            to.shutdown().await.unwrap();
        };
        let (_, read) = tokio::join!(send, from.read_to_end(&mut received));
        read.unwrap();
        assert!(received.strip_prefix(b"Kubelet:").is_some_and(|rest| rest == sent));
    }
}
