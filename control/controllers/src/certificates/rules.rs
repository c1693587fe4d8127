//! What a certificate request must look like for each of the four signers. Pure.

use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use timonel_pki::CertificateRequest;

pub(super) const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
pub(super) const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
pub(super) const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
pub(super) const LEGACY: &str = "kubernetes.io/legacy-unknown";

/// A condition by its type.
pub(super) fn condition<'a>(
    request: &'a CertificateSigningRequest,
    kind: &str,
) -> Option<&'a CertificateSigningRequestCondition> {
    let conditions = request.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == kind)
}

/// Whether a certificate was issued.
pub(super) fn issued(request: &CertificateSigningRequest) -> bool {
    request
        .status
        .as_ref()
        .and_then(|status| status.certificate.as_ref())
        .is_some_and(|certificate| !certificate.0.is_empty())
}

fn usages(request: &CertificateSigningRequest) -> Vec<&str> {
    request.spec.usages.iter().flatten().map(String::as_str).collect()
}

fn only(request: &CertificateSigningRequest, allowed: &[&str], needed: &str) -> bool {
    let usages = usages(request);
    usages.contains(&needed) && usages.iter().all(|usage| allowed.contains(usage))
}

fn of_a_node(parsed: &CertificateRequest) -> bool {
    parsed.subject.organizations == ["system:nodes"] && parsed.subject.common_name.starts_with("system:node:")
}

/// A kubelet's client certificate: the node's name and group, no other names, client usages only.
pub(super) fn is_kubelet_client(request: &CertificateSigningRequest, parsed: &CertificateRequest) -> bool {
    let subject = &parsed.subject;
    let no_names = subject.dns_names.is_empty()
        && subject.ip_addresses.is_empty()
        && subject.emails.is_empty()
        && subject.uris.is_empty();
    of_a_node(parsed)
        && no_names
        && only(request, &["digital signature", "key encipherment", "client auth"], "client auth")
}

/// A kubelet's serving certificate: the node's name and group, at least one host name or address, server usages only.
fn is_kubelet_serving(request: &CertificateSigningRequest, parsed: &CertificateRequest) -> bool {
    let subject = &parsed.subject;
    let named = !subject.dns_names.is_empty() || !subject.ip_addresses.is_empty();
    let own = request.spec.username.as_deref() == Some(subject.common_name.as_str());
    let plain = subject.emails.is_empty() && subject.uris.is_empty();
    own && of_a_node(parsed)
        && named
        && plain
        && only(request, &["digital signature", "key encipherment", "server auth"], "server auth")
}

/// Whether the signer it names may sign the request.
pub(super) fn may_be_signed(request: &CertificateSigningRequest, parsed: &CertificateRequest) -> bool {
    match request.spec.signer_name.as_str() {
        CLIENT => only(request, &["digital signature", "key encipherment", "client auth"], "client auth"),
        KUBELET_CLIENT => is_kubelet_client(request, parsed),
        KUBELET_SERVING => is_kubelet_serving(request, parsed),
        LEGACY => true,
        _ => false,
    }
}
