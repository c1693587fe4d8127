//! How a machine becomes a node: it proves which instance it is, and gets a certificate for exactly the node that
//! the service ordered it as. The decision is pure; `port` carries it over HTTP.

use timonel_fleet::{LABEL_POOL, Machine, NodePool, NodeSettings};
use timonel_pki::CertificateRequest;

/// Group of every node.
const NODES_GROUP: &str = "system:nodes";

/// Who a machine is, once its document has been verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceIdentity {
    /// The cloud's name for it.
    pub instance_id: String,
}

/// Checks identity documents of a cloud.
pub trait IdentityVerifier: Send + Sync + std::fmt::Debug {
    /// Who signed for what; the error says why not.
    ///
    /// # Errors
    /// When the document was not signed by the cloud, or says nothing of use.
    fn verify(&self, document: &str, signature: &str) -> Result<InstanceIdentity, String>;
}

/// Why a machine may not join. What it says goes to the machine; it tells no more than the machine knows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The document is not the cloud's.
    #[error("the identity document was not accepted: {0}")]
    Identity(String),
    /// No Machine of this cluster has that instance.
    #[error("instance {0} is not a machine of this cluster")]
    Unknown(String),
    /// The Machine is going.
    #[error("machine {0} is being deleted")]
    Deleting(String),
    /// The request asks for something else.
    #[error("the certificate request is for {found:?}, only {expected:?} in group system:nodes can be had")]
    Subject {
        /// What it may have.
        expected: String,
        /// What it asked for.
        found: String,
    },
}

/// Which Machine may join as a node: the one ordered as that instance, asking for its own name and nothing more.
///
/// # Errors
/// The refusal, to be sent to the machine.
pub fn decide<'a>(
    identity: &InstanceIdentity,
    request: &CertificateRequest,
    cluster_uid: &str,
    machines: impl IntoIterator<Item = &'a Machine>,
) -> Result<&'a Machine, Refusal> {
    let machine = machines
        .into_iter()
        .filter(|machine| machine.spec.cluster_uid == cluster_uid)
        .find(|machine| machine.status.as_ref().is_some_and(|status| status.instance_id == identity.instance_id))
        .ok_or_else(|| Refusal::Unknown(identity.instance_id.clone()))?;
    let name = machine.metadata.name.clone().unwrap_or_default();
    if machine.metadata.deletion_timestamp.is_some() {
        return Err(Refusal::Deleting(name));
    }
    let expected = format!("system:node:{name}");
    let subject = &request.subject;
    let names = subject.dns_names.is_empty() && subject.ip_addresses.is_empty() && subject.uris.is_empty();
    if subject.common_name != expected || subject.organizations != [NODES_GROUP] || !names {
        return Err(Refusal::Subject { expected, found: subject.common_name.clone() });
    }
    Ok(machine)
}

/// Settings of the node that `machine` becomes.
#[must_use]
pub fn settings(machine: &Machine, pool: Option<&NodePool>, cluster: &NodeSettings) -> NodeSettings {
    let mut settings = NodeSettings { name: machine.metadata.name.clone().unwrap_or_default(), ..cluster.clone() };
    if let Some(pool) = pool {
        settings.labels.extend(pool.spec.labels.clone());
        settings.taints.extend(pool.spec.taints.iter().map(|t| format!("{}={}:{}", t.key, t.value, t.effect)));
    }
    settings.labels.insert(LABEL_POOL.to_owned(), machine.spec.pool.clone());
    settings
}

#[cfg(test)]
mod tests {
    use super::*;
    use timonel_fleet::{MachineSpec, MachineStatus};
    use timonel_pki::CertificateSubject;

    fn machine() -> Machine {
        let spec = MachineSpec { cluster_uid: "u1".into(), pool: "p".into(), ..MachineSpec::default() };
        let mut machine = Machine::new("default", "node-1", spec);
        machine.status = Some(MachineStatus { instance_id: "i-1".into(), ..MachineStatus::default() });
        machine
    }

    fn request(name: &str, group: &str) -> CertificateRequest {
        let subject = CertificateSubject {
            common_name: name.into(),
            organizations: vec![group.into()],
            ..CertificateSubject::default()
        };
        CertificateRequest { subject, spki_der: vec![] }
    }

    #[test]
    fn only_the_ordered_instance_gets_only_its_own_name() {
        let good = request("system:node:node-1", NODES_GROUP);
        let mut going = machine();
        going.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::UNIX_EPOCH));
        for (instance, request, cluster, machine, joins) in [
            ("i-1", &good, "u1", machine(), true),
            ("i-2", &good, "u1", machine(), false),
            ("i-1", &good, "u2", machine(), false),
            ("i-1", &request("system:node:node-2", NODES_GROUP), "u1", machine(), false),
            ("i-1", &request("system:node:node-1", "system:masters"), "u1", machine(), false),
            ("i-1", &good, "u1", going, false),
        ] {
            let identity = InstanceIdentity { instance_id: instance.into() };
            let decided = decide(&identity, request, cluster, [&machine]);
            assert_eq!(decided.is_ok(), joins, "{instance} {request:?} {cluster}: {decided:?}");
        }
    }
}
