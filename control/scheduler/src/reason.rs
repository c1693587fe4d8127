//! Why a pod does not go on a node, in upstream's words, which people and tests look for. Pure.

use std::{collections::BTreeMap, fmt};

/// One reason.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// The node takes no new pods.
    Unschedulable,
    /// A taint that the pod does not tolerate.
    Taint,
    /// The pod's node selector or affinity.
    NodeAffinity,
    /// A port is taken.
    Ports,
    /// The node has as many pods as it can.
    TooManyPods,
    /// Too little is left; `true` when there would be even on the empty node.
    Insufficient(Box<str>, bool),
    /// A volume for one pod only is in use.
    SingleUserVolume,
    /// The node can attach no more volumes.
    TooManyVolumes,
    /// A claim is bound to a volume that is gone.
    VolumeMissing,
    /// A volume cannot be reached from the node.
    VolumeAffinity,
    /// No volume can be found or made for the node.
    VolumeUnavailable,
    /// A volume is in another zone.
    VolumeZone,
    /// The node lacks a label that spreading goes by.
    SpreadLabel,
    /// Too many alike are here already.
    Spread,
    /// The pods that it wants to be near are not here.
    Affinity,
    /// Pods that it wants to be away from are here.
    AntiAffinity,
    /// Pods that want to be away from it are here.
    OthersAntiAffinity,
    /// Pushing pods away would not help.
    PreemptionNotHelpful,
    /// There is nobody to push away.
    NoVictims,
}

impl Reason {
    /// Whether pushing pods away could help.
    #[must_use]
    pub fn preemptible(&self) -> bool {
        match self {
            Self::Ports
            | Self::TooManyPods
            | Self::SingleUserVolume
            | Self::TooManyVolumes
            | Self::Spread
            | Self::AntiAffinity
            | Self::OthersAntiAffinity => true,
            Self::Insufficient(_, possible) => *possible,
            _ => false,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Unschedulable => "node(s) were unschedulable",
            Self::Taint => "node(s) had untolerated taint(s)",
            Self::NodeAffinity => "node(s) didn't match Pod's node affinity/selector",
            Self::Ports => "node(s) didn't have free ports for the requested pod ports",
            Self::TooManyPods => "Too many pods",
            Self::Insufficient(resource, _) => return write!(out, "Insufficient {resource}"),
            Self::SingleUserVolume => {
                "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by \
                 another pod"
            }
            Self::TooManyVolumes => "node(s) exceed max volume count",
            Self::VolumeMissing => "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)",
            Self::VolumeAffinity => "node(s) didn't match PersistentVolume's node affinity",
            Self::VolumeUnavailable => "node(s) didn't find available persistent volumes to bind",
            Self::VolumeZone => "node(s) had no available volume zone",
            Self::SpreadLabel => "node(s) didn't match pod topology spread constraints (missing required label)",
            Self::Spread => "node(s) didn't match pod topology spread constraints",
            Self::Affinity => "node(s) didn't match pod affinity rules",
            Self::AntiAffinity => "node(s) didn't match pod anti-affinity rules",
            Self::OthersAntiAffinity => "node(s) didn't satisfy existing pods anti-affinity rules",
            Self::PreemptionNotHelpful => "Preemption is not helpful for scheduling",
            Self::NoVictims => "No preemption victims found for incoming pod",
        })
    }
}

/// `0/3 nodes are available: 1 Insufficient cpu, 2 node(s) were unschedulable.`
pub(crate) fn sentence<'a>(nodes: usize, reasons: impl Iterator<Item = &'a Reason>) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for reason in reasons {
        *counts.entry(reason.to_string()).or_default() += 1;
    }
    let mut parts: Vec<_> = counts.into_iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    parts.sort_unstable();
    let list = if parts.is_empty() { String::new() } else { format!(" {}.", parts.join(", ")) };
    format!("0/{nodes} nodes are available:{list}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sentence_has_upstreams_shape() {
        let reasons = [Reason::Taint, Reason::Insufficient("cpu".into(), true), Reason::Taint];
        assert_eq!(
            sentence(3, reasons.iter()),
            "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) had untolerated taint(s)."
        );
    }
}
