//! What can go wrong with keys and certificates.

/// One variant per failed step.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A key could not be generated or used.
    #[error("key: {0}")]
    Key(#[source] rcgen::Error),
    /// A certificate could not be made.
    #[error("certificate: {0}")]
    Certificate(#[source] rcgen::Error),
    /// A name cannot stand in a certificate.
    #[error("name {name:?} cannot stand in a certificate")]
    Name {
        /// The name.
        name: String,
    },
    /// Not PEM, or not the PEM block that was expected.
    #[error("no PEM block {expected:?}")]
    Pem {
        /// The block's label.
        expected: &'static str,
    },
    /// A certificate or request could not be parsed.
    #[error("cannot parse {what}")]
    Parse {
        /// What was parsed.
        what: &'static str,
    },
    /// A request's signature does not match its key.
    #[error("the request is not signed by the key it names")]
    Signature,
    /// The certificate or request names more than can be represented.
    #[error("{0}")]
    Unsupported(&'static str),
    /// A kubeconfig could not be read or written.
    #[error("kubeconfig: {0}")]
    Kubeconfig(String),
}
