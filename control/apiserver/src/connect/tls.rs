//! TLS to what is proxied. Its certificate is not checked, as upstream does not: nobody has told the API server
//! whose it should be, and the client authenticated the API server, not the pod.

use crate::streams::{NodeConnector, NodeIo, NodeTarget, SharedConnector};
use async_trait::async_trait;
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime},
};
use std::{io, sync::Arc};
use tokio_rustls::TlsConnector;

/// The same way, with TLS inside.
pub(super) fn wrap(inner: SharedConnector) -> SharedConnector {
    Arc::new(Wrapped(inner))
}

struct Wrapped(SharedConnector);

#[async_trait]
impl NodeConnector for Wrapped {
    async fn connect(&self, node: &str, target: NodeTarget) -> io::Result<Box<dyn NodeIo>> {
        let config = unchecked_tls(None).map_err(io::Error::other)?;
        let name = match &target {
            NodeTarget::Tcp { host, .. } => host.clone(),
            NodeTarget::Kubelet => node.to_owned(),
        };
        let name = ServerName::try_from(name).map_err(io::Error::other)?;
        let io = self.0.connect(node, target).await?;
        Ok(Box::new(TlsConnector::from(Arc::new(config)).connect(name, io).await?))
    }
}

/// TLS that accepts any certificate of the server, and shows one of its own where it is given.
///
/// # Errors
/// When the TLS library does not take the certificate.
pub fn unchecked_tls(identity: Option<Identity>) -> Result<ClientConfig, Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Unchecked(provider)));
    match identity {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key),
        None => Ok(builder.with_no_client_auth()),
    }
}

/// A chain of certificates and the key of the first.
type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

#[derive(Debug)]
struct Unchecked(Arc<CryptoProvider>);

impl ServerCertVerifier for Unchecked {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
