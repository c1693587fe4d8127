//! Public-key infrastructure of a cluster: authorities, certificates, requests, service-account keys and
//! kubeconfigs.
//!
//! Works on values: PEM in, PEM out; `now` and validity are arguments; keys come from the TLS library's own
//! random generator. Never stores anything, never decides who may have a certificate.

mod authority;
mod cluster;
mod error;
mod jwt;
mod kubeconfig;
mod request;

pub use authority::{Authority, ClientSpec, Leaf, ServerSpec, Usage, Validity, authority_hash, spki_hash, warm_up};
pub use cluster::{ClusterPki, ClusterPkiSpec};
pub use error::PkiError;
pub use jwt::{JwtError, KeyRing, SigningKey, VerifyingKey};
pub use kubeconfig::{Credential, Kubeconfig, KubeconfigEntry};
pub use request::{CertificateRequest, CertificateSubject, new_request, subject_of};
