//! Authorities and the certificates they issue.

use crate::{CertificateRequest, PkiError};
use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use sha2::{Digest, Sha256};
use std::net::IpAddr;

/// Certificates start this much before `now`, so that a peer whose clock is late accepts them.
const BACKDATE: SignedDuration = SignedDuration::from_mins(5);
/// Serial numbers: 127 random bits (the first bit would make them negative).
const SERIAL_BYTES: usize = 16;
/// Organizations of one certificate: all that the encoder can write.
const MAX_ORGANIZATIONS: usize = 2;

/// From when until when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// Not valid before.
    pub not_before: Timestamp,
    /// Not valid after.
    pub not_after: Timestamp,
}

impl Validity {
    /// From a little before `now` for `length`.
    #[must_use]
    pub fn starting(now: Timestamp, length: SignedDuration) -> Self {
        let not_before = now.saturating_sub(BACKDATE).unwrap_or(Timestamp::UNIX_EPOCH);
        let not_after = now.saturating_add(length).unwrap_or(Timestamp::MAX);
        Self { not_before, not_after }
    }
}

/// What a certificate may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Usage {
    /// TLS server.
    Server,
    /// TLS client.
    Client,
}

/// A server certificate to issue.
#[derive(Clone, Debug, Default)]
pub struct ServerSpec {
    /// Common name.
    pub common_name: String,
    /// DNS names; `*.` wildcards are allowed.
    pub dns_names: Vec<String>,
    /// IP addresses.
    pub ip_addresses: Vec<IpAddr>,
}

/// A client certificate to issue.
#[derive(Clone, Debug, Default)]
pub struct ClientSpec {
    /// Common name: the user.
    pub common_name: String,
    /// Organizations: the groups.
    pub organizations: Vec<String>,
}

/// A certificate with its key.
#[derive(Clone)]
pub struct Leaf {
    /// The certificate.
    pub cert_pem: String,
    /// Its key (PKCS#8).
    pub key_pem: String,
}

impl std::fmt::Debug for Leaf {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Leaf").field("cert_pem", &self.cert_pem).finish_non_exhaustive()
    }
}

impl Leaf {
    /// Certificate chain and key as rustls takes them.
    ///
    /// # Errors
    /// When the PEM does not hold them.
    pub fn rustls(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), PkiError> {
        let key = PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes())
            .map_err(|_| PkiError::Pem { expected: "PRIVATE KEY" })?;
        Ok((certificates(&self.cert_pem)?, key))
    }
}

/// An authority: certificate and key.
pub struct Authority {
    cert_pem: String,
    cert_der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Authority").field("cert_pem", &self.cert_pem).finish_non_exhaustive()
    }
}

impl Authority {
    /// A new self-signed authority with a P-256 key.
    ///
    /// # Errors
    /// When key or certificate cannot be made.
    pub fn create(common_name: &str, validity: Validity) -> Result<Self, PkiError> {
        let key = KeyPair::generate().map_err(PkiError::Key)?;
        let mut params = params(common_name, &[], validity)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.subject_alt_names = vec![dns_name(common_name)?];
        let cert = params.self_signed(&key).map_err(PkiError::Certificate)?;
        Ok(Self { cert_pem: cert.pem(), cert_der: cert.der().clone(), issuer: Issuer::new(params, key) })
    }

    /// An authority from what [`Self::cert_pem`] and [`Self::key_pem`] gave.
    ///
    /// # Errors
    /// When either cannot be parsed.
    pub fn load(cert_pem: &str, key_pem: &str) -> Result<Self, PkiError> {
        let key = KeyPair::from_pem(key_pem).map_err(PkiError::Key)?;
        let cert_der = certificates(cert_pem)?.remove(0);
        let issuer = Issuer::from_ca_cert_der(&cert_der, key).map_err(PkiError::Certificate)?;
        Ok(Self { cert_pem: cert_pem.to_owned(), cert_der, issuer })
    }

    /// The certificate, for those who trust it.
    #[must_use]
    pub fn cert_pem(&self) -> &str {
        &self.cert_pem
    }

    /// The certificate in DER.
    #[must_use]
    pub fn cert_der(&self) -> &CertificateDer<'static> {
        &self.cert_der
    }

    /// The key (PKCS#8): a secret.
    #[must_use]
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// `sha256:HEX` of the public key, by which a joining machine recognizes this authority.
    ///
    /// # Errors
    /// When the certificate cannot be parsed.
    pub fn hash(&self) -> Result<String, PkiError> {
        spki_hash(&self.cert_der)
    }

    /// A server certificate with a new key.
    ///
    /// # Errors
    /// When a name cannot stand in a certificate, or key or certificate cannot be made.
    pub fn issue_server(&self, spec: &ServerSpec, validity: Validity) -> Result<Leaf, PkiError> {
        let mut params = leaf_params(&spec.common_name, &[], &[Usage::Server], validity)?;
        params.subject_alt_names = alternative_names(&spec.dns_names, &spec.ip_addresses)?;
        self.issue(&params)
    }

    /// A client certificate with a new key.
    ///
    /// # Errors
    /// As [`Self::issue_server`].
    pub fn issue_client(&self, spec: &ClientSpec, validity: Validity) -> Result<Leaf, PkiError> {
        self.issue(&leaf_params(&spec.common_name, &spec.organizations, &[Usage::Client], validity)?)
    }

    fn issue(&self, params: &CertificateParams) -> Result<Leaf, PkiError> {
        let key = KeyPair::generate().map_err(PkiError::Key)?;
        let cert = params.signed_by(&key, &self.issuer).map_err(PkiError::Certificate)?;
        Ok(Leaf { cert_pem: cert.pem(), key_pem: key.serialize_pem() })
    }

    /// Signs a request for exactly the subject and alternative names that it states, which the caller has
    /// approved, and for exactly `usages`. Other extensions of the request are not taken over.
    ///
    /// # Errors
    /// When a name cannot stand in a certificate or the certificate cannot be made.
    pub fn sign(&self, request: &CertificateRequest, usages: &[Usage], validity: Validity) -> Result<String, PkiError> {
        let subject = &request.subject;
        let mut params = leaf_params(&subject.common_name, &subject.organizations, usages, validity)?;
        params.subject_alt_names = alternative_names(&subject.dns_names, &subject.ip_addresses)?;
        let key = rcgen::SubjectPublicKeyInfo::from_der(&request.spki_der).map_err(PkiError::Key)?;
        Ok(params.signed_by(&key, &self.issuer).map_err(PkiError::Certificate)?.pem())
    }
}

/// Draws a first random number: the TLS library's generator takes some fifty milliseconds to start, once a
/// process. Called on a blocking thread at start, it keeps that out of the first cluster's way.
///
/// # Errors
/// When the generator fails.
pub fn warm_up() -> Result<(), PkiError> {
    let mut byte = [0];
    aws_lc_rs::rand::fill(&mut byte).map_err(|_| PkiError::Unsupported("no random numbers"))
}

fn params(common_name: &str, organizations: &[String], validity: Validity) -> Result<CertificateParams, PkiError> {
    let mut name = DistinguishedName::new();
    if organizations.len() > MAX_ORGANIZATIONS {
        return Err(PkiError::Unsupported("a certificate may name at most two organizations"));
    }
    // The encoder keeps one value per attribute type; the second organization is spelt by its number.
    let kinds = [DnType::OrganizationName, DnType::CustomDnType(vec![2, 5, 4, 10])];
    for (kind, organization) in kinds.into_iter().zip(organizations) {
        name.push(kind, organization.as_str());
    }
    name.push(DnType::CommonName, common_name);
    let mut serial = [0; SERIAL_BYTES];
    aws_lc_rs::rand::fill(&mut serial).map_err(|_| PkiError::Unsupported("no random numbers"))?;
    serial[0] = serial[0] & 0x7f | 0x40;
    let mut params = CertificateParams::default();
    params.distinguished_name = name;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let seconds = |at: Timestamp| std::time::Duration::from_secs(at.as_second().try_into().unwrap_or(0));
    params.not_before = epoch + seconds(validity.not_before);
    params.not_after = epoch + seconds(validity.not_after);
    Ok(params)
}

fn leaf_params(
    common_name: &str,
    organizations: &[String],
    usages: &[Usage],
    validity: Validity,
) -> Result<CertificateParams, PkiError> {
    let mut params = params(common_name, organizations, validity)?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = usages
        .iter()
        .map(|usage| match usage {
            Usage::Server => ExtendedKeyUsagePurpose::ServerAuth,
            Usage::Client => ExtendedKeyUsagePurpose::ClientAuth,
        })
        .collect();
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn alternative_names(dns_names: &[String], addresses: &[IpAddr]) -> Result<Vec<SanType>, PkiError> {
    let mut names = dns_names.iter().map(|name| dns_name(name)).collect::<Result<Vec<_>, _>>()?;
    names.extend(addresses.iter().map(|address| SanType::IpAddress(*address)));
    Ok(names)
}

fn dns_name(name: &str) -> Result<SanType, PkiError> {
    let text = name.to_owned().try_into().map_err(|_| PkiError::Name { name: name.to_owned() })?;
    Ok(SanType::DnsName(text))
}

/// The certificates of a PEM text, at least one.
pub(crate) fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, PkiError> {
    let expected = || PkiError::Pem { expected: "CERTIFICATE" };
    let found: Vec<_> =
        CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().map_err(|_| expected())?;
    if found.is_empty() { Err(expected()) } else { Ok(found) }
}

/// `sha256:HEX` of a certificate's public key (as `kubeadm join` writes it).
///
/// # Errors
/// When the certificate cannot be parsed.
pub fn spki_hash(cert_der: &[u8]) -> Result<String, PkiError> {
    let (_, cert) =
        x509_parser::parse_x509_certificate(cert_der).map_err(|_| PkiError::Parse { what: "certificate" })?;
    Ok(format!("sha256:{}", hex::encode(Sha256::digest(cert.public_key().raw))))
}

/// [`spki_hash`] of the first certificate of a PEM text.
///
/// # Errors
/// When there is none.
pub fn authority_hash(cert_pem: &str) -> Result<String, PkiError> {
    spki_hash(&certificates(cert_pem)?[0])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{new_request, subject_of};

    fn validity() -> Validity {
        Validity::starting("2026-11-21T00:00:00Z".parse().unwrap(), SignedDuration::from_hours(24 * 365))
    }

    #[test]
    fn an_authority_survives_storing_and_keeps_its_hash() {
        let made = Authority::create("kubernetes", validity()).unwrap();
        let loaded = Authority::load(made.cert_pem(), &made.key_pem()).unwrap();
        assert_eq!(made.hash().unwrap(), loaded.hash().unwrap());
        assert_eq!(authority_hash(made.cert_pem()).unwrap(), made.hash().unwrap());
        assert!(made.hash().unwrap().starts_with("sha256:"));
        let leaf = loaded.issue_client(&ClientSpec { common_name: "u".into(), organizations: vec![] }, validity());
        verify(&made, &leaf.unwrap().cert_pem);
    }

    fn verify(authority: &Authority, cert_pem: &str) {
        let der = certificates(cert_pem).unwrap().remove(0);
        let (_, cert) = x509_parser::parse_x509_certificate(&der).unwrap();
        let (_, ca) = x509_parser::parse_x509_certificate(authority.cert_der()).unwrap();
        assert_eq!(cert.issuer(), ca.subject());
        cert.verify_signature(Some(ca.public_key())).unwrap();
    }

    #[test]
    fn subjects_are_kept() {
        let authority = Authority::create("kubernetes", validity()).unwrap();
        for organizations in [vec![], vec!["a"], vec!["system:nodes", "b"]] {
            let organizations: Vec<String> = organizations.into_iter().map(str::to_owned).collect();
            let spec = ClientSpec { common_name: "system:node:n".into(), organizations };
            let leaf = authority.issue_client(&spec, validity()).unwrap();
            verify(&authority, &leaf.cert_pem);
            let subject = subject_of(&certificates(&leaf.cert_pem).unwrap()[0]).unwrap();
            assert_eq!((subject.common_name, subject.organizations), (spec.common_name, spec.organizations));
        }
    }

    #[test]
    fn a_request_is_signed_for_its_subject_and_no_more() {
        let authority = Authority::create("kubernetes", validity()).unwrap();
        let subject = crate::CertificateSubject {
            common_name: "system:node:n".into(),
            organizations: vec!["system:nodes".into()],
            dns_names: vec!["n".into()],
            ip_addresses: vec!["10.0.0.1".parse().unwrap()],
            ..Default::default()
        };
        let (request_pem, _key) = new_request(&subject).unwrap();
        let request = CertificateRequest::parse(request_pem.as_bytes()).unwrap();
        assert_eq!(request.subject, subject);
        let cert = authority.sign(&request, &[Usage::Server], validity()).unwrap();
        verify(&authority, &cert);
        let der = certificates(&cert).unwrap().remove(0);
        assert_eq!(subject_of(&der).unwrap(), subject);
        let (_, parsed) = x509_parser::parse_x509_certificate(&der).unwrap();
        let usage = parsed.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.server_auth && !usage.client_auth && !parsed.is_ca());
        assert_eq!(parsed.validity().not_after.timestamp(), validity().not_after.as_second());
    }

    #[test]
    fn rustls_accepts_what_is_issued() {
        let authority = Authority::create("kubernetes", validity()).unwrap();
        let spec = ServerSpec { dns_names: vec!["a.example".into(), "*.b.example".into()], ..Default::default() };
        let (chain, key) = authority.issue_server(&spec, validity()).unwrap().rustls().unwrap();
        let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
    }
}
