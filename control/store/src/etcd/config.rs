//! Where an etcd is and how to speak to it: `etcd://host:port,host:port/prefix`, certificates, a user.

use crate::hub::WatchLimits;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use std::{sync::Arc, time::Duration};
use timonel_runtime::Entropy;
use tokio_rustls::rustls::{
    ClientConfig, RootCertStore,
    crypto::{CryptoProvider, aws_lc_rs},
};

/// What an address starts with.
const SCHEME: &str = "etcd://";
/// etcd's port for clients.
const DEFAULT_PORT: u16 = 2379;
/// The keys of a service lie under this unless the address says otherwise.
const DEFAULT_PREFIX: &str = "/timonel";
/// Most members named in an address.
const MAX_MEMBERS: usize = 32;
/// How long history is kept, as upstream does.
const COMPACTION: Duration = Duration::from_secs(300);

/// Why an address or a certificate is not usable.
#[derive(Debug, thiserror::Error)]
pub enum EtcdConfigError {
    /// Not `etcd://host:port,…/prefix`.
    #[error("etcd address {address:?}: {why}")]
    Address {
        /// As given.
        address: String,
        /// What is wrong.
        why: &'static str,
    },
    /// A PEM text that cannot be read.
    #[error("{what} is not usable PEM")]
    Pem {
        /// Which one.
        what: &'static str,
        /// What the parser said.
        #[source]
        source: rustls_pki_types::pem::Error,
    },
    /// A PEM text without a certificate.
    #[error("{0} holds no certificate")]
    NoCertificate(&'static str),
    /// The TLS library refuses it.
    #[error("TLS configuration")]
    Tls(#[from] tokio_rustls::rustls::Error),
}

/// One member: host name or address, and port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdMember {
    /// Host name or address, without brackets.
    pub host: String,
    /// Port for clients.
    pub port: u16,
}

/// Certificates as PEM texts.
#[derive(Clone, Default)]
pub struct EtcdTls {
    /// Who may have signed the members' certificates.
    pub authorities: String,
    /// The client's certificate chain and key, when the members ask for one.
    pub client: Option<(String, String)>,
}

impl std::fmt::Debug for EtcdTls {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("EtcdTls").field("client", &self.client.is_some()).finish_non_exhaustive()
    }
}

/// A user of etcd's own authentication.
#[derive(Clone)]
pub struct EtcdUser {
    /// Name.
    pub name: String,
    /// Password.
    pub password: String,
}

impl std::fmt::Debug for EtcdUser {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("EtcdUser").field("name", &self.name).finish_non_exhaustive()
    }
}

/// How to reach and use an etcd.
#[derive(Clone, Debug)]
pub struct EtcdConfig {
    /// Its members; at least one.
    pub members: Vec<EtcdMember>,
    /// What all keys of this store start with, before a `/`.
    pub prefix: String,
    /// TLS; none is plain text.
    pub tls: Option<EtcdTls>,
    /// Authentication.
    pub user: Option<EtcdUser>,
    /// History older than this is forgotten, by whichever client of this etcd comes first; zero leaves it to others.
    pub compaction: Duration,
    /// How long one attempt at one member may take before another is asked.
    pub attempt: Duration,
    /// How long a call may take with all its attempts.
    pub deadline: Duration,
    /// What one watcher may have waiting.
    pub watch_limits: WatchLimits,
    /// For jitter and the name of this client.
    pub entropy: Entropy,
}

impl EtcdConfig {
    /// Reads `etcd://host:port,host:port/prefix`; port and prefix may be left out.
    ///
    /// # Errors
    /// [`EtcdConfigError::Address`].
    pub fn parse(address: &str, entropy: Entropy) -> Result<Self, EtcdConfigError> {
        let fail = |why| EtcdConfigError::Address { address: address.to_owned(), why };
        let rest = address.strip_prefix(SCHEME).ok_or_else(|| fail("it must start with etcd://"))?;
        let (members, prefix) = match rest.split_once('/') {
            Some((members, prefix)) => (members, prefix.trim_matches('/')),
            None => (rest, ""),
        };
        let members = members.split(',').map(member).collect::<Result<Vec<_>, _>>().map_err(fail)?;
        if members.len() > MAX_MEMBERS {
            return Err(fail("too many members"));
        }
        let prefix = if prefix.is_empty() { DEFAULT_PREFIX.to_owned() } else { format!("/{prefix}") };
        Ok(Self {
            members,
            prefix,
            tls: None,
            user: None,
            compaction: COMPACTION,
            attempt: Duration::from_millis(800),
            deadline: Duration::from_secs(10),
            watch_limits: WatchLimits::default(),
            entropy,
        })
    }
}

fn member(text: &str) -> Result<EtcdMember, &'static str> {
    let bad_port = "a port is a number from 1 to 65535";
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']').ok_or("a bracket is not closed")?;
            (host, rest.strip_prefix(':'))
        }
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    if host.is_empty() || host.contains(|letter: char| letter.is_whitespace() || letter == '@') {
        return Err("a member is host:port");
    }
    let port = match port {
        Some(port) => port.parse().ok().filter(|port| *port > 0).ok_or(bad_port)?,
        None => DEFAULT_PORT,
    };
    Ok(EtcdMember { host: host.to_owned(), port })
}

/// What the connector needs for TLS.
pub(super) fn client_config(tls: &EtcdTls) -> Result<Arc<ClientConfig>, EtcdConfigError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&tls.authorities, "etcd's certificate authority")? {
        roots.add(certificate)?;
    }
    let provider: Arc<CryptoProvider> = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let mut config = match &tls.client {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => {
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
                .map_err(|source| EtcdConfigError::Pem { what: "the key of etcd's client", source })?;
            builder.with_client_auth_cert(certificates(chain, "the certificate of etcd's client")?, key)?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

fn certificates(pem: &str, what: &'static str) -> Result<Vec<CertificateDer<'static>>, EtcdConfigError> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|source| EtcdConfigError::Pem { what, source })?;
    if found.is_empty() { Err(EtcdConfigError::NoCertificate(what)) } else { Ok(found) }
}

/// The name that a member's certificate must be for.
pub(super) fn server_name(member: &EtcdMember) -> Result<ServerName<'static>, EtcdConfigError> {
    ServerName::try_from(member.host.clone())
        .map_err(|_| EtcdConfigError::Address { address: member.host.clone(), why: "not a name that TLS can check" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let cases = [
            ("etcd://a:1", Ok((vec![("a", 1)], "/timonel"))),
            ("etcd://a", Ok((vec![("a", 2379)], "/timonel"))),
            ("etcd://a:1,b:2,[::1]:3/registry", Ok((vec![("a", 1), ("b", 2), ("::1", 3)], "/registry"))),
            ("etcd://127.0.0.1:2379/x/y/", Ok((vec![("127.0.0.1", 2379)], "/x/y"))),
            ("etcd://[::1]", Ok((vec![("::1", 2379)], "/timonel"))),
            ("http://a:1", Err(())),
            ("etcd://", Err(())),
            ("etcd://a:0", Err(())),
            ("etcd://a:x", Err(())),
            ("etcd://a:1,,b:2", Err(())),
            ("etcd://user@a:1", Err(())),
            ("etcd://[::1:3", Err(())),
        ];
        for (address, expected) in cases {
            let read = EtcdConfig::parse(address, Entropy::seeded(1));
            let read = read.as_ref().map_err(|_| ()).map(|config| {
                let members: Vec<_> = config.members.iter().map(|member| (member.host.as_str(), member.port)).collect();
                (members, config.prefix.as_str())
            });
            assert_eq!(read, expected, "{address}");
        }
    }

    #[test]
    fn secrets_are_not_printed() {
        let user = EtcdUser { name: "a".into(), password: "hidden".into() };
        let tls = EtcdTls { authorities: "hidden".into(), client: Some(("hidden".into(), "hidden".into())) };
        assert!(!format!("{user:?} {tls:?}").contains("hidden"));
    }

    #[test]
    fn what_is_not_a_certificate_is_refused_by_name() {
        let tls = EtcdTls { authorities: "nothing".into(), client: None };
        let error = client_config(&tls).unwrap_err();
        assert_eq!(error.to_string(), "etcd's certificate authority holds no certificate");
    }
}
