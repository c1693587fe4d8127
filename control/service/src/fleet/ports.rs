//! Which port a cluster's own endpoint has. Pure.

use super::{
    plan::was_ready,
    view::{ClusterFacts, FleetView},
};
use std::collections::BTreeSet;
use timonel_fleet::Cluster;

/// What follows from wish, status and what happened at the last try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// This one, tried or to be tried.
    Wanted(i32),
    /// This one, though it could not be had; it stays the cluster's.
    Refused(i32, String),
    /// Every port is taken.
    NoneLeft,
}

impl Choice {
    /// The port, 0 when there is none.
    pub(super) fn number(&self) -> i32 {
        match self {
            Self::Wanted(port) | Self::Refused(port, _) => *port,
            Self::NoneLeft => 0,
        }
    }
}

/// The port of a cluster. One that clients may know already stays, even while another program has it; one that was
/// chosen and never served gives way to the next.
pub(super) fn choose(view: &FleetView, cluster: &Cluster, facts: &ClusterFacts) -> Result<Choice, String> {
    let asked = cluster.spec.control_plane.port;
    if !(0..=i32::from(u16::MAX)).contains(&asked) {
        return Err(format!("spec.controlPlane.port: {asked} is not a port"));
    }
    let known = cluster.status.as_ref().map_or(0, |status| status.port);
    let refused = |port: i32| facts.refused_port.as_ref().filter(|(refused, _)| i32::from(*refused) == port);
    let stays = if asked == 0 { known } else { asked };
    if stays == 0 {
        return Ok(free(view, cluster));
    }
    Ok(match refused(stays) {
        None => Choice::Wanted(stays),
        Some(_) if asked == 0 && !was_ready(cluster) => free(view, cluster),
        Some((_, why)) => Choice::Refused(stays, why.clone()),
    })
}

/// A port that nobody has, at a place that follows from the UID: services on one machine seldom meet.
fn free(view: &FleetView, cluster: &Cluster) -> Choice {
    let others = view.clusters.iter().filter(|other| other.metadata.uid != cluster.metadata.uid);
    let taken: BTreeSet<i32> = others
        .flat_map(|other| [other.spec.control_plane.port, other.status.as_ref().map_or(0, |status| status.port)])
        .collect();
    let range = &view.ports.range;
    let length = usize::from(range.end().saturating_sub(*range.start())) + 1;
    let first = place(cluster.metadata.uid.as_deref().unwrap_or_default(), length);
    let mut candidates = range.clone().skip(first).chain(range.clone().take(first));
    let found = candidates.find(|port| !taken.contains(&i32::from(*port)) && !view.ports.busy.contains(port));
    found.map_or(Choice::NoneLeft, |port| Choice::Wanted(i32::from(port)))
}

/// FNV-1a of the UID, below `length`.
fn place(uid: &str, length: usize) -> usize {
    let hash = uid.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    usize::try_from(hash).unwrap_or(0) % length.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use timonel_fleet::{ClusterPhase, ClusterSpec, ClusterStatus};

    fn cluster(uid: &str, asked: i32, known: i32, phase: ClusterPhase) -> Cluster {
        let mut spec = ClusterSpec::default();
        spec.control_plane.port = asked;
        let mut cluster = Cluster::new("default", uid, spec);
        cluster.metadata.uid = Some(uid.to_owned());
        cluster.status = Some(ClusterStatus { port: known, phase, ..ClusterStatus::default() });
        cluster
    }

    fn view(clusters: Vec<Cluster>) -> FleetView {
        let mut view = FleetView { clusters: clusters.into_iter().map(Arc::new).collect(), ..FleetView::default() };
        view.ports.range = 100..=102;
        view
    }

    #[test]
    fn what_clients_know_stays_and_the_rest_gives_way() {
        let (making, ready) = (ClusterPhase::Provisioning, ClusterPhase::Ready);
        let refused = Some((100, "in use".to_owned()));
        for (asked, known, phase, refused, expected) in [
            (7, 0, making, None, Ok(Choice::Wanted(7))),
            (7, 100, ready, None, Ok(Choice::Wanted(7))),
            (0, 100, making, None, Ok(Choice::Wanted(100))),
            (0, 100, ready, refused.clone(), Ok(Choice::Refused(100, "in use".into()))),
            (100, 100, making, refused, Ok(Choice::Refused(100, "in use".into()))),
            (70_000, 0, making, None, Err("spec.controlPlane.port: 70000 is not a port".to_owned())),
        ] {
            let facts = ClusterFacts { refused_port: refused, ..ClusterFacts::default() };
            let cluster = cluster("a", asked, known, phase);
            assert_eq!(choose(&view(vec![cluster.clone()]), &cluster, &facts), expected, "{asked} {known} {phase:?}");
        }
    }

    #[test]
    fn no_two_clusters_get_one_port_and_busy_ones_are_passed_by() {
        let mut clusters: Vec<Cluster> = Vec::new();
        for uid in ["a", "b", "c"] {
            let mut next = cluster(uid, 0, 0, ClusterPhase::Pending);
            let all = view([clusters.clone(), vec![next.clone()]].concat());
            let chosen = choose(&all, &next, &ClusterFacts::default()).unwrap();
            next.status.as_mut().unwrap().port = chosen.number();
            clusters.push(next);
        }
        let ports: BTreeSet<i32> = clusters.iter().map(|cluster| cluster.status.as_ref().unwrap().port).collect();
        assert_eq!(ports, [100, 101, 102].into());
        let late = cluster("d", 0, 0, ClusterPhase::Pending);
        assert_eq!(choose(&view(clusters), &late, &ClusterFacts::default()), Ok(Choice::NoneLeft));
        let mut busy = view(vec![late.clone()]);
        busy.ports.busy = [100, 102].into();
        assert_eq!(choose(&busy, &late, &ClusterFacts::default()), Ok(Choice::Wanted(101)));
        let refused = ClusterFacts { refused_port: Some((100, "in use".into())), ..ClusterFacts::default() };
        let tried = cluster("d", 0, 100, ClusterPhase::Provisioning);
        assert_eq!(choose(&busy, &tried, &refused), Ok(Choice::Wanted(101)));
    }
}
