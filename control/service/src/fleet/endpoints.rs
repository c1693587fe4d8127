//! The clusters' own ports: taken before a cluster is opened, served from then on. Chooses none; the plan does.

use crate::{port::Port, tenant::Tenant};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};
use timonel_runtime::Tasks;
use tokio::net::TcpListener;

/// The sockets of all clusters, by cluster UID.
#[derive(Debug)]
pub(super) struct Endpoints {
    addresses: Vec<IpAddr>,
    bound: BTreeMap<String, Bound>,
    refused: BTreeMap<String, (u16, String)>,
    busy: BTreeSet<u16>,
}

#[derive(Debug)]
struct Bound {
    port: u16,
    /// Taken and not served yet.
    waiting: Vec<TcpListener>,
    /// Scope of those that are served.
    serving: Option<Tasks>,
}

impl Endpoints {
    /// Every cluster listens on `addresses`, on its own port.
    pub(super) fn new(addresses: Vec<IpAddr>) -> Self {
        Self { addresses, bound: BTreeMap::new(), refused: BTreeMap::new(), busy: BTreeSet::new() }
    }

    /// Takes a port; what was had before is let go first. Whether it was to be had is in [`Self::listening`].
    pub(super) async fn listen(&mut self, uid: &str, port: u16) {
        self.forget(uid);
        match bind(&self.addresses, port).await {
            Ok(waiting) => {
                self.busy.remove(&port);
                self.bound.insert(uid.to_owned(), Bound { port, waiting, serving: None });
            }
            Err((address, error)) => {
                let why = format!("listening on {address}: {error}");
                tracing::warn!(cluster = uid, %why, "the cluster's own port cannot be had");
                self.busy.insert(port);
                self.refused.insert(uid.to_owned(), (port, why));
            }
        }
    }

    /// Serves what was taken for a cluster.
    pub(super) fn serve(&mut self, tenant: &Arc<Tenant>, port: &Port) {
        let Some(bound) = self.bound.get_mut(&tenant.uid) else { return };
        let scope = bound.serving.get_or_insert_with(|| tenant.tasks.child("port")).clone();
        for listener in bound.waiting.drain(..) {
            port.serve_only(listener, tenant, &scope);
        }
    }

    /// Lets go of a cluster's port.
    pub(super) fn forget(&mut self, uid: &str) {
        self.refused.remove(uid);
        if let Some(scope) = self.bound.remove(uid).and_then(|bound| bound.serving) {
            scope.token().cancel();
        }
    }

    /// The port that is had for a cluster.
    pub(super) fn listening(&self, uid: &str) -> Option<u16> {
        self.bound.get(uid).map(|bound| bound.port)
    }

    /// The port that could not be had for a cluster, and why.
    pub(super) fn refused(&self, uid: &str) -> Option<(u16, String)> {
        self.refused.get(uid).cloned()
    }

    /// Ports that other programs were found to have.
    pub(super) fn busy(&self) -> &BTreeSet<u16> {
        &self.busy
    }
}

async fn bind(addresses: &[IpAddr], port: u16) -> Result<Vec<TcpListener>, (SocketAddr, io::Error)> {
    let mut listeners = Vec::with_capacity(addresses.len());
    for address in addresses {
        let address = SocketAddr::new(*address, port);
        listeners.push(TcpListener::bind(address).await.map_err(|error| (address, error))?);
    }
    Ok(listeners)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[tokio::test]
    async fn a_port_is_had_once_and_again_after_it_was_let_go() {
        let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let other = TcpListener::bind((ip, 0)).await.unwrap();
        let port = other.local_addr().unwrap().port();
        let mut endpoints = Endpoints::new(vec![ip]);
        endpoints.listen("a", port).await;
        assert_eq!(endpoints.listening("a"), None);
        assert!(endpoints.refused("a").is_some_and(|(refused, why)| refused == port && why.contains("in use")));
        assert!(endpoints.busy().contains(&port));
        drop(other);
        endpoints.listen("a", port).await;
        assert_eq!((endpoints.listening("a"), endpoints.refused("a")), (Some(port), None));
        assert!(TcpListener::bind((ip, port)).await.is_err());
        endpoints.forget("a");
        assert!(TcpListener::bind((ip, port)).await.is_ok());
    }
}
