//! Connection marks of services with session affinity: what the kernel remembers their clients under. Pure.

use crate::{
    part::PortMarks,
    view::{Protocol, ServiceView},
};
use std::collections::{BTreeMap, BTreeSet};

/// High bits of the connection mark that say "has affinity"; the low ones are the port's number.
pub(crate) const AFFINITY_MARK: u32 = 0x7f00_0000;
/// Bits of the mark that tell timeouts apart.
pub(crate) const AFFINITY_TIMEOUT_SHIFT: u32 = 20;
/// Bits of the mark that hold the number of a service's port.
const NUMBER_BITS: u32 = AFFINITY_TIMEOUT_SHIFT;
const NUMBER_MASK: u32 = (1 << NUMBER_BITS) - 1;
/// Timeouts that can be told apart; services beyond share the last.
const MAX_TIMEOUTS: usize = 15;

/// Marks in use.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    /// How many services have each timeout, seconds.
    seconds: BTreeMap<u32, usize>,
    taken: BTreeSet<u32>,
    /// Numbers of each service's ports.
    numbers: BTreeMap<String, PortMarks>,
}

impl Marks {
    /// Takes note of a service as it is from here on; it was `before`.
    pub(crate) fn note(&mut self, before: Option<&ServiceView>, after: Option<&ServiceView>) {
        let sticky = |view: Option<&ServiceView>| view.and_then(|view| view.affinity_seconds);
        if let Some(seconds) = sticky(after) {
            *self.seconds.entry(seconds).or_default() += 1;
        }
        if let Some(seconds) = sticky(before)
            && let Some(count) = self.seconds.get_mut(&seconds)
        {
            *count -= 1;
            if *count == 0 {
                self.seconds.remove(&seconds);
            }
        }
        let Some(name) = after.or(before).map(|view| view.name.as_str()) else { return };
        let mut old = self.numbers.remove(name).unwrap_or_default();
        let mut new = PortMarks::new();
        let view = after.filter(|view| view.affinity_seconds.is_some());
        for port in view.into_iter().flat_map(|view| &view.ports) {
            let key = (port.protocol, port.port);
            new.entry(key).or_insert_with(|| old.remove(&key).unwrap_or_else(|| self.number(name, key)));
        }
        for number in old.into_values() {
            self.taken.remove(&number);
        }
        if !new.is_empty() {
            self.numbers.insert(name.to_owned(), new);
        }
    }

    /// The number of a service's port, the same whatever other services come and go: clients that are remembered under
    /// it must never be taken for another's. Numbers that meet move on to the next free one.
    fn number(&mut self, service: &str, (protocol, port): (Protocol, u16)) -> u32 {
        let name = format!("{service}:{}:{port}", protocol.name());
        // FNV-1a.
        let hash = name.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        let mut number = (hash ^ hash >> NUMBER_BITS) & NUMBER_MASK;
        while !self.taken.insert(number) && self.taken.len() < NUMBER_MASK as usize {
            number = (number + 1) & NUMBER_MASK;
        }
        number
    }

    /// Timeouts in use, seconds: one dynamic map each.
    pub(crate) fn timeouts(&self) -> Vec<u32> {
        self.seconds.keys().copied().take(MAX_TIMEOUTS).collect()
    }

    /// Marks of a service's ports.
    pub(crate) fn of(&self, service: &ServiceView) -> PortMarks {
        let (Some(seconds), Some(numbers)) = (service.affinity_seconds, self.numbers.get(&service.name)) else {
            return PortMarks::new();
        };
        let last = self.seconds.len().min(MAX_TIMEOUTS).saturating_sub(1);
        let at = self.seconds.keys().position(|known| *known == seconds).unwrap_or(last).min(last);
        let timeout = u32::try_from(at).expect("at most 15 timeouts");
        let mark = |number: u32| AFFINITY_MARK | timeout << AFFINITY_TIMEOUT_SHIFT | number & NUMBER_MASK;
        numbers.iter().map(|(port, number)| (*port, mark(*number))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::PortView;

    fn service(name: &str, seconds: Option<u32>, ports: &[u16]) -> ServiceView {
        let port = |port| PortView { protocol: Protocol::Tcp, port, node_port: None, endpoints: vec![] };
        ServiceView {
            name: name.to_owned(),
            affinity_seconds: seconds,
            ports: ports.iter().map(|number| port(*number)).collect(),
            ..ServiceView::default()
        }
    }

    #[test]
    fn marks_tell_ports_and_timeouts_apart_and_stay() {
        let mut marks = Marks::default();
        let (a, b) = (service("n/a", Some(10), &[80]), service("n/b", Some(20), &[80, 81]));
        marks.note(None, Some(&a));
        marks.note(None, Some(&b));
        assert_eq!(marks.timeouts(), [10, 20]);
        let all: BTreeSet<u32> = marks.of(&a).into_values().chain(marks.of(&b).into_values()).collect();
        assert_eq!(all.len(), 3, "{all:?}");
        assert_eq!(marks.of(&a)[&(Protocol::Tcp, 80)] >> AFFINITY_TIMEOUT_SHIFT, AFFINITY_MARK >> 20);
        let before = marks.of(&b);
        marks.note(Some(&a), None);
        assert_eq!(marks.timeouts(), [20]);
        let numbers = |marks: &PortMarks| marks.values().map(|mark| mark & NUMBER_MASK).collect::<Vec<_>>();
        assert_eq!(numbers(&marks.of(&b)), numbers(&before));
        marks.note(Some(&b), Some(&service("n/b", None, &[80])));
        assert!(marks.timeouts().is_empty() && marks.taken.is_empty() && marks.numbers.is_empty());
    }

    #[test]
    fn numbers_that_meet_move_on() {
        let mut marks = Marks::default();
        let first = marks.number("n/s", (Protocol::Tcp, 80));
        assert_eq!(marks.number("n/s", (Protocol::Tcp, 80)), (first + 1) & NUMBER_MASK);
    }

    #[test]
    fn timeouts_beyond_those_told_apart_share_the_last() {
        let mut marks = Marks::default();
        let all: Vec<_> = (1..=20).map(|n| service(&format!("n/{n}"), Some(n), &[80])).collect();
        all.iter().for_each(|view| marks.note(None, Some(view)));
        assert_eq!(marks.timeouts().len(), MAX_TIMEOUTS);
        let timeout = |view: &ServiceView| marks.of(view)[&(Protocol::Tcp, 80)] >> AFFINITY_TIMEOUT_SHIFT & 0xf;
        assert_eq!(all.iter().map(timeout).collect::<Vec<_>>()[13..], [13, 14, 14, 14, 14, 14, 14]);
    }
}
