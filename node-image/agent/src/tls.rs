//! TLS towards the service: before joining only the hash of the cluster's authority is known, afterwards the
//! authority itself and the node's own certificate.

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject};
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Why there is no TLS connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    #[error("{0:?} is not https://host:port")]
    Server(String),
    #[error("connecting to {server}")]
    Connect {
        server: String,
        #[source]
        source: std::io::Error,
    },
    #[error("certificate or key of this node")]
    Identity(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Trusts the one authority whose key has `hash`, which the server must send along.
pub(crate) fn pinned(hash: &str, alpn: &[&str]) -> Result<ClientConfig, TlsError> {
    let provider = CryptoProvider::get_default().expect("installed in main").clone();
    let verifier = Pinned { hash: hash.to_owned(), algorithms: provider.signature_verification_algorithms };
    let mut config =
        ClientConfig::builder().dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Ok(config)
}

/// Trusts `authority` and proves to be `certificate`, all PEM.
pub(crate) fn mutual(authority: &str, certificate: &str, key: &str, alpn: &[&str]) -> Result<ClientConfig, TlsError> {
    let bad = |error: rustls_pki_types::pem::Error| TlsError::Identity(error.into());
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(authority.as_bytes()) {
        roots.add(root.map_err(bad)?).map_err(|error| TlsError::Identity(error.into()))?;
    }
    let chain = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect::<Result<Vec<_>, _>>().map_err(bad)?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(bad)?;
    let mut config = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .map_err(|error| TlsError::Identity(error.into()))?;
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Ok(config)
}

/// Dials `server` (`https://host:port`) and asks for `name`.
pub(crate) async fn connect(config: ClientConfig, server: &str, name: &str) -> Result<TlsStream<TcpStream>, TlsError> {
    let bad = || TlsError::Server(server.to_owned());
    let address = server.strip_prefix("https://").map(|rest| rest.trim_end_matches('/')).ok_or_else(bad)?;
    let name = ServerName::try_from(name.to_owned()).map_err(|_| bad())?;
    let failed = |source| TlsError::Connect { server: server.to_owned(), source };
    let stream = TcpStream::connect(address).await.map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(failed)
}

/// Finds the pinned authority among the certificates that the server sent and verifies the rest against it as usual.
#[derive(Debug)]
struct Pinned {
    hash: String,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let pinned = |cert: &&CertificateDer<'_>| timonel_pki::spki_hash(cert).is_ok_and(|hash| hash == self.hash);
        let authority = intermediates.iter().find(pinned).ok_or_else(|| {
            rustls::Error::General(
                "the server did not show the cluster's authority: wrong cluster or wrong hash".into(),
            )
        })?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        let verifier = WebPkiServerVerifier::builder(Arc::new(roots))
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
