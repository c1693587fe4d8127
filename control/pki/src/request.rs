//! Certificate signing requests, and the subjects of requests and certificates.

use crate::PkiError;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};
use rustls_pki_types::{CertificateSigningRequestDer, pem::PemObject};
use std::net::IpAddr;
use x509_parser::{
    certification_request::X509CertificationRequest,
    extensions::{GeneralName, ParsedExtension},
    prelude::FromDer,
    x509::X509Name,
};

/// The attribute in which a client certificate may carry the user's uid.
const UID_OID: &str = "1.3.6.1.4.1.57683.2";
/// Requests larger than this are refused unread.
const MAX_REQUEST_BYTES: usize = 64 << 10;

/// Whom a certificate or request names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertificateSubject {
    /// Common name.
    pub common_name: String,
    /// Organizations, in order.
    pub organizations: Vec<String>,
    /// User's uid, from Kubernetes' own subject attribute.
    pub uid: String,
    /// DNS names.
    pub dns_names: Vec<String>,
    /// IP addresses.
    pub ip_addresses: Vec<IpAddr>,
    /// Mail addresses.
    pub emails: Vec<String>,
    /// URIs.
    pub uris: Vec<String>,
}

/// A parsed request whose signature is good.
#[derive(Clone, Debug)]
pub struct CertificateRequest {
    /// Whom it names.
    pub subject: CertificateSubject,
    /// Its public key.
    pub spki_der: Vec<u8>,
}

impl CertificateRequest {
    /// Parses PEM (as `spec.request` of a CertificateSigningRequest holds it) and checks the signature.
    ///
    /// # Errors
    /// When it is no request, or not signed by the key that it names.
    pub fn parse(pem: &[u8]) -> Result<Self, PkiError> {
        if pem.len() > MAX_REQUEST_BYTES {
            return Err(PkiError::Unsupported("certificate request too large"));
        }
        let der = CertificateSigningRequestDer::from_pem_slice(pem)
            .map_err(|_| PkiError::Pem { expected: "CERTIFICATE REQUEST" })?;
        let (_, request) =
            X509CertificationRequest::from_der(&der).map_err(|_| PkiError::Parse { what: "certificate request" })?;
        request.verify_signature().map_err(|_| PkiError::Signature)?;
        let info = &request.certification_request_info;
        let mut subject = subject_name(&info.subject)?;
        for extension in request.requested_extensions().into_iter().flatten() {
            if let ParsedExtension::SubjectAlternativeName(names) = extension {
                names.general_names.iter().try_for_each(|name| add_name(&mut subject, name))?;
            }
        }
        Ok(Self { subject, spki_der: info.subject_pki.raw.to_vec() })
    }
}

/// Whom a certificate names.
///
/// # Errors
/// When it cannot be parsed.
pub fn subject_of(cert_der: &[u8]) -> Result<CertificateSubject, PkiError> {
    let what = "certificate";
    let (_, cert) = x509_parser::parse_x509_certificate(cert_der).map_err(|_| PkiError::Parse { what })?;
    let mut subject = subject_name(cert.subject())?;
    if let Some(names) = cert.subject_alternative_name().map_err(|_| PkiError::Parse { what })? {
        names.value.general_names.iter().try_for_each(|name| add_name(&mut subject, name))?;
    }
    Ok(subject)
}

fn subject_name(name: &X509Name<'_>) -> Result<CertificateSubject, PkiError> {
    let text = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| {
        attribute.as_str().map(str::to_owned).map_err(|_| PkiError::Parse { what: "subject" })
    };
    let mut subject = CertificateSubject::default();
    if let Some(attribute) = name.iter_common_name().last() {
        subject.common_name = text(attribute)?;
    }
    subject.organizations = name.iter_organization().map(text).collect::<Result<_, _>>()?;
    for attribute in name.iter_attributes().filter(|attribute| attribute.attr_type().to_id_string() == UID_OID) {
        subject.uid = text(attribute)?;
    }
    Ok(subject)
}

fn add_name(subject: &mut CertificateSubject, name: &GeneralName<'_>) -> Result<(), PkiError> {
    match name {
        GeneralName::DNSName(name) => subject.dns_names.push((*name).to_owned()),
        GeneralName::RFC822Name(name) => subject.emails.push((*name).to_owned()),
        GeneralName::URI(name) => subject.uris.push((*name).to_owned()),
        GeneralName::IPAddress(bytes) => subject.ip_addresses.push(match bytes.len() {
            4 => IpAddr::from(<[u8; 4]>::try_from(*bytes).expect("four bytes, as matched")),
            16 => IpAddr::from(<[u8; 16]>::try_from(*bytes).expect("sixteen bytes, as matched")),
            _ => return Err(PkiError::Parse { what: "IP address" }),
        }),
        _ => return Err(PkiError::Unsupported("kind of alternative name")),
    }
    Ok(())
}

/// A request for `subject` with a new P-256 key; returns request and key in PEM.
///
/// # Errors
/// When a name cannot stand in a request, or key or request cannot be made.
pub fn new_request(subject: &CertificateSubject) -> Result<(String, String), PkiError> {
    let bad_name = |name: &str| PkiError::Name { name: name.to_owned() };
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    if subject.organizations.len() > 1 {
        return Err(PkiError::Unsupported("a request may name at most one organization"));
    }
    for organization in &subject.organizations {
        params.distinguished_name.push(DnType::OrganizationName, organization.as_str());
    }
    params.distinguished_name.push(DnType::CommonName, subject.common_name.as_str());
    for name in &subject.dns_names {
        params.subject_alt_names.push(SanType::DnsName(name.clone().try_into().map_err(|_| bad_name(name))?));
    }
    params.subject_alt_names.extend(subject.ip_addresses.iter().map(|address| SanType::IpAddress(*address)));
    let key = KeyPair::generate().map_err(PkiError::Key)?;
    let request = params.serialize_request(&key).map_err(PkiError::Certificate)?;
    Ok((request.pem().map_err(PkiError::Certificate)?, key.serialize_pem()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn garbage_is_refused() {
        let (good, _) = new_request(&CertificateSubject { common_name: "x".into(), ..Default::default() }).unwrap();
        let mut forged = CertificateSigningRequestDer::from_pem_slice(good.as_bytes()).unwrap().to_vec();
        let at = forged.iter().position(|byte| *byte == b'x').unwrap();
        forged[at] = b'y';
        use base64::Engine;
        let body = base64::engine::general_purpose::STANDARD.encode(&forged);
        let forged = format!("-----BEGIN CERTIFICATE REQUEST-----\n{body}\n-----END CERTIFICATE REQUEST-----\n");
        assert!(matches!(CertificateRequest::parse(forged.as_bytes()), Err(PkiError::Signature)));
        for pem in ["", "x", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"] {
            assert!(CertificateRequest::parse(pem.as_bytes()).is_err(), "{pem:?}");
        }
        assert!(CertificateRequest::parse(&vec![b' '; MAX_REQUEST_BYTES + 1]).is_err());
    }
}
