//! Everything a new cluster needs, in one step.

use crate::{Authority, ClientSpec, KeyRing, Leaf, PkiError, ServerSpec, SigningKey, Validity};
use jiff::{SignedDuration, Timestamp};
use std::net::IpAddr;

/// Life of an authority.
const AUTHORITY_LIFE: SignedDuration = SignedDuration::from_hours(24 * 365 * 10);
/// Life of the service's own certificates; they are made anew at every start and before they expire.
const LEAF_LIFE: SignedDuration = SignedDuration::from_hours(24 * 365);

/// What a cluster's certificates are to name.
#[derive(Clone, Debug, Default)]
pub struct ClusterPkiSpec {
    /// Names under which the API is reached, beyond `kubernetes.default` and its longer forms.
    pub dns_names: Vec<String>,
    /// Addresses under which the API is reached, with the service address of `kubernetes.default`.
    pub ip_addresses: Vec<IpAddr>,
    /// The cluster's DNS domain, usually `cluster.local`.
    pub dns_domain: String,
}

/// Authorities and keys of one cluster. The authorities and the service-account keys are what must be stored;
/// certificates can be issued again from them.
#[derive(Debug)]
pub struct ClusterPki {
    /// Signs client and server certificates of the cluster.
    pub cluster_ca: Authority,
    /// Signs the certificate with which the API server speaks to aggregated APIs.
    pub front_proxy_ca: Authority,
    /// Service-account keys.
    pub keys: KeyRing,
}

impl ClusterPki {
    /// New authorities and keys.
    ///
    /// # Errors
    /// When the TLS library fails.
    pub fn create(now: Timestamp) -> Result<Self, PkiError> {
        let validity = Validity::starting(now, AUTHORITY_LIFE);
        let signing = SigningKey::generate().map_err(|_| PkiError::Unsupported("cannot generate a signing key"))?;
        Ok(Self {
            cluster_ca: Authority::create("kubernetes", validity)?,
            front_proxy_ca: Authority::create("kubernetes-front-proxy-ca", validity)?,
            keys: KeyRing::new(signing, Vec::new()),
        })
    }

    /// The API server's own certificate.
    ///
    /// # Errors
    /// When a name cannot stand in a certificate.
    pub fn api_server(&self, spec: &ClusterPkiSpec, now: Timestamp) -> Result<Leaf, PkiError> {
        let mut dns_names: Vec<String> =
            ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"].map(str::to_owned).to_vec();
        if !spec.dns_domain.is_empty() {
            dns_names.push(format!("kubernetes.default.svc.{}", spec.dns_domain));
        }
        dns_names.extend(spec.dns_names.iter().cloned());
        let mut ip_addresses = vec![IpAddr::from([127, 0, 0, 1])];
        ip_addresses.extend(&spec.ip_addresses);
        let server = ServerSpec { common_name: "kube-apiserver".into(), dns_names, ip_addresses };
        self.cluster_ca.issue_server(&server, Validity::starting(now, LEAF_LIFE))
    }

    /// The certificate with which the API server speaks to kubelets.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn kubelet_client(&self, now: Timestamp) -> Result<Leaf, PkiError> {
        self.client("kube-apiserver-kubelet-client", &["kubeadm:cluster-admins", "system:masters"], now)
    }

    /// The administrator's certificate.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn admin(&self, now: Timestamp) -> Result<Leaf, PkiError> {
        self.client("kubernetes-admin", &["system:masters"], now)
    }

    /// A client certificate of the cluster.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn client(&self, common_name: &str, organizations: &[&str], now: Timestamp) -> Result<Leaf, PkiError> {
        let organizations = organizations.iter().map(|name| (*name).to_owned()).collect();
        let spec = ClientSpec { common_name: common_name.to_owned(), organizations };
        self.cluster_ca.issue_client(&spec, Validity::starting(now, LEAF_LIFE))
    }

    /// The certificate with which the API server speaks to aggregated APIs.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn front_proxy_client(&self, now: Timestamp) -> Result<Leaf, PkiError> {
        let spec = ClientSpec { common_name: "front-proxy-client".into(), organizations: Vec::new() };
        self.front_proxy_ca.issue_client(&spec, Validity::starting(now, LEAF_LIFE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subject_of;

    #[test]
    fn a_cluster_gets_all_it_needs() {
        let now = "2026-11-21T00:00:00Z".parse().unwrap();
        let pki = ClusterPki::create(now).unwrap();
        let spec = ClusterPkiSpec {
            dns_names: vec!["demo.clusters.example".into()],
            ip_addresses: vec!["10.96.0.1".parse().unwrap()],
            dns_domain: "cluster.local".into(),
        };
        let server = subject_of(&pki.api_server(&spec, now).unwrap().rustls().unwrap().0[0]).unwrap();
        for name in ["kubernetes.default.svc.cluster.local", "demo.clusters.example", "localhost"] {
            assert!(server.dns_names.iter().any(|have| have == name), "{name}");
        }
        assert!(server.ip_addresses.contains(&"10.96.0.1".parse().unwrap()));
        let admin = subject_of(&pki.admin(now).unwrap().rustls().unwrap().0[0]).unwrap();
        assert_eq!(admin.organizations, ["system:masters"]);
        for leaf in [pki.kubelet_client(now), pki.front_proxy_client(now)] {
            leaf.unwrap().rustls().unwrap();
        }
    }
}
