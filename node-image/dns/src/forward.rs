//! Asks upstream resolvers what the cluster does not know. Keeps nothing: the pods' own resolvers cache.

use hickory_proto::op::Message;
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    sync::Semaphore,
};

/// Longest wait for one resolver.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Queries under way at once; further ones are refused at once, which a resolver takes better than silence.
const MAX_IN_FLIGHT: usize = 1_000;
/// Largest answer over UDP.
const UDP_BYTES: usize = 4_096;

/// The upstream resolvers.
#[derive(Clone, Debug)]
pub struct Forwarder {
    servers: Vec<SocketAddr>,
    slots: Arc<Semaphore>,
}

impl Forwarder {
    /// Forwards to these, in order of preference.
    #[must_use]
    pub fn new(servers: Vec<SocketAddr>) -> Self {
        Self { servers, slots: Arc::new(Semaphore::new(MAX_IN_FLIGHT)) }
    }

    /// Resolvers named in the text of a `resolv.conf`, those that are `own` left out (they would loop).
    #[must_use]
    pub fn servers_of(resolv_conf: &str, own: &[SocketAddr]) -> Vec<SocketAddr> {
        let lines = resolv_conf.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
        let servers = lines.filter_map(|rest| Some(SocketAddr::new(rest.trim().parse().ok()?, 53)));
        servers.filter(|server| !own.contains(server)).collect()
    }

    /// The first answer of a resolver to `query` (wire form); `None` when none answers in time.
    pub async fn ask(&self, query: &[u8]) -> Option<Vec<u8>> {
        let _slot = self.slots.try_acquire().ok()?;
        for server in &self.servers {
            match tokio::time::timeout(TIMEOUT, exchange(*server, query)).await {
                Ok(Ok(answer)) => return Some(answer),
                Ok(Err(error)) => tracing::debug!(%server, %error, "resolver failed"),
                Err(_) => tracing::debug!(%server, "resolver did not answer"),
            }
        }
        None
    }
}

/// UDP first; TCP when the answer was cut.
async fn exchange(server: SocketAddr, query: &[u8]) -> std::io::Result<Vec<u8>> {
    let local: SocketAddr = if server.is_ipv4() { ([0; 4], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(local).await?;
    socket.connect(server).await?;
    socket.send(query).await?;
    let mut buffer = vec![0; UDP_BYTES];
    loop {
        let length = socket.recv(&mut buffer).await?;
        // Anything that is not the answer to this query is noise, or an attempt to be one.
        let Ok(answer) = Message::from_vec(&buffer[..length]) else { continue };
        if query.get(..2) != Some(&answer.metadata.id.to_be_bytes()) {
            continue;
        }
        if answer.metadata.truncation {
            return over_tcp(server, query).await;
        }
        buffer.truncate(length);
        return Ok(buffer);
    }
}

async fn over_tcp(server: SocketAddr, query: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(query.len()).map_err(std::io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), query].concat()).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; length.into()];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolvers_are_read_from_resolv_conf() {
        let own = "10.0.0.10:53".parse().unwrap();
        let text = "search x\nnameserver 192.0.2.1\n# nameserver 192.0.2.9\nnameserver 10.0.0.10\n";
        assert_eq!(Forwarder::servers_of(text, &[own]), ["192.0.2.1:53".parse().unwrap()]);
    }
}
