//! All services' parts together, as the kernel has them, and what a change of some services does to them. Pure: the
//! work of a change is that of the services it concerns, however many there are.

use crate::{
    affinity, conntrack,
    marks::Marks,
    part::{Key, Part, part},
    view::{NodeView, ServiceView},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Elements of the maps: key to value (empty in sets).
pub(crate) type Elements = BTreeMap<Key, String>;

/// Parts of services by name.
type Parts = BTreeMap<Arc<str>, Part>;

static NOTHING: Parts = Parts::new();

/// What the proxy's table holds.
#[derive(Debug)]
pub struct Table {
    node: NodeView,
    marks: Marks,
    entries: BTreeMap<Arc<str>, Entry>,
    /// Services that want an element, by name. The first has it.
    claims: BTreeMap<Key, Vec<Arc<str>>>,
}

#[derive(Debug)]
struct Entry {
    view: ServiceView,
    part: Part,
}

/// What turns the table as it was into the table as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Elements to take out, with the values they had.
    pub(crate) delete: Elements,
    /// Elements to put in.
    pub(crate) add: Elements,
    /// Affinity timeouts, seconds, where they are others than before.
    pub(crate) timeouts: Option<Vec<u32>>,
    /// `(mark, backend)` of backends with clients that stick to them, which are gone.
    pub(crate) gone: BTreeSet<(String, String)>,
    /// `(virtual address, backend)` of datagrams' connections that lead nowhere; all backends where none is named.
    pub(crate) stale: BTreeSet<(String, Option<String>)>,
}

impl Table {
    /// A table without services.
    #[must_use]
    pub fn new(node: NodeView) -> Self {
        Self { node, marks: Marks::default(), entries: BTreeMap::new(), claims: BTreeMap::new() }
    }

    /// Takes services as they are from here on, by `namespace/name`; `None` is one that there is no more.
    pub fn change(&mut self, services: BTreeMap<String, Option<ServiceView>>) -> Changes {
        let timeouts = self.marks.timeouts();
        let mut concerned = BTreeSet::new();
        let mut old = BTreeMap::new();
        for (name, view) in services {
            let entry = self.entries.remove(name.as_str());
            self.marks.note(entry.as_ref().map(|entry| &entry.view), view.as_ref());
            let name: Arc<str> = name.into();
            if let Some(entry) = entry {
                old.insert(name.clone(), entry.part);
            }
            if let Some(view) = view {
                self.entries.insert(name.clone(), Entry { view, part: Part::default() });
            }
            concerned.insert(name);
        }
        let changed = Some(self.marks.timeouts()).filter(|after| *after != timeouts);
        if changed.is_some() {
            // Their marks hold the timeout's place in the list.
            for (name, entry) in self.entries.iter_mut().filter(|(_, entry)| entry.view.affinity_seconds.is_some()) {
                if concerned.insert(name.clone()) {
                    old.insert(name.clone(), std::mem::take(&mut entry.part));
                }
            }
        }
        self.replace(&concerned, &old, changed)
    }

    /// Works out the parts of `concerned` anew; they were `old`.
    fn replace(&mut self, concerned: &BTreeSet<Arc<str>>, old: &Parts, timeouts: Option<Vec<u32>>) -> Changes {
        let new = concerned.iter().filter_map(|name| {
            let view = &self.entries.get(name)?.view;
            Some((name.clone(), part(view, &self.node, &self.marks.of(view))))
        });
        let new: Parts = new.collect();
        let mut changes = Changes { timeouts, ..Changes::default() };
        let nothing = Part::default();
        let mut touched: BTreeMap<Key, Option<String>> = BTreeMap::new();
        for name in concerned {
            let (before, after) = (old.get(name).unwrap_or(&nothing), new.get(name).unwrap_or(&nothing));
            changes.gone.extend(affinity::gone(before, after));
            changes.stale.extend(conntrack::stale(before, after));
            for key in before.elements.keys().chain(after.elements.keys()) {
                if before.elements.get(key) != after.elements.get(key) && !touched.contains_key(key) {
                    touched.insert(key.clone(), self.held(key, old).map(str::to_owned));
                }
            }
        }
        self.put(old, new);
        for (key, before) in touched {
            let after = self.held(&key, &NOTHING).map(str::to_owned);
            if before == after {
                continue;
            }
            if let Some(value) = before {
                changes.delete.insert(key.clone(), value);
            }
            if let Some(value) = after {
                changes.add.insert(key, value);
            }
        }
        changes
    }

    /// Claims for `new` parts what `old` ones let go.
    fn put(&mut self, old: &Parts, new: Parts) {
        for (name, part) in old {
            for key in part.elements.keys() {
                if let Some(names) = self.claims.get_mut(key) {
                    names.retain(|other| other != name);
                    if names.is_empty() {
                        self.claims.remove(key);
                    }
                }
            }
        }
        for (name, part) in new {
            for key in part.elements.keys() {
                // Nearly every element has one service alone.
                let names = self.claims.entry(key.clone()).or_insert_with(|| Vec::with_capacity(1));
                let at = names.partition_point(|other| *other < name);
                names.insert(at, name.clone());
            }
            self.entries.get_mut(&name).expect("parts are made of entries").part = part;
        }
    }

    /// The value of an element; parts that are being replaced are in `old`.
    fn held<'a>(&'a self, key: &Key, old: &'a Parts) -> Option<&'a str> {
        let name = self.claims.get(key)?.first()?;
        let part = old.get(name).or_else(|| self.entries.get(name).map(|entry| &entry.part))?;
        part.elements.get(key).map(String::as_str)
    }

    /// All elements, in order of map and key.
    pub(crate) fn elements(&self) -> impl Iterator<Item = (&Key, &str)> {
        self.claims.keys().filter_map(|key| Some((key, self.held(key, &NOTHING)?)))
    }

    /// Affinity timeouts in use, seconds.
    pub(crate) fn timeouts(&self) -> Vec<u32> {
        self.marks.timeouts()
    }

    /// `port -> ready backends on this node` of services with a health-check node port.
    pub(crate) fn health(&self) -> BTreeMap<u16, usize> {
        self.entries.values().filter_map(|entry| entry.part.health).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        part::Map,
        view::{Endpoint, PortView, Protocol},
    };
    use proptest::prelude::*;
    use std::net::{Ipv4Addr, SocketAddrV4};

    fn node() -> NodeView {
        NodeView { name: "n1".into(), addresses: vec![Ipv4Addr::new(10, 0, 0, 5)] }
    }

    /// A service with so few addresses, ports and backends to choose from that services get in each other's way.
    fn view() -> impl Strategy<Value = Option<ServiceView>> {
        let endpoint = (0..4_u8, any::<bool>(), any::<bool>()).prop_map(|(last, local, ready)| Endpoint {
            address: SocketAddrV4::new(Ipv4Addr::new(10, 1, 0, last), 8080),
            local,
            ready,
        });
        let port =
            (any::<bool>(), 80..82_u16, prop::option::of(30_000..30_002_u16), prop::collection::vec(endpoint, 0..4));
        let port = port.prop_map(|(udp, port, node_port, endpoints)| PortView {
            protocol: if udp { Protocol::Udp } else { Protocol::Tcp },
            port,
            node_port,
            endpoints,
        });
        let external = prop::collection::vec((0..2_u8).prop_map(|last| Ipv4Addr::new(192, 0, 2, last)), 0..2);
        let what = (0..3_u8, external, any::<bool>(), prop::option::of(1..4_u32), prop::collection::vec(port, 0..3));
        prop::option::weighted(0.8, what).prop_map(|what| {
            what.map(|(last, external_ips, external_local, affinity_seconds, ports)| ServiceView {
                cluster_ips: vec![Ipv4Addr::new(10, 96, 0, last)],
                external_ips,
                external_local,
                affinity_seconds,
                ports,
                ..ServiceView::default()
            })
        })
    }

    fn batch() -> impl Strategy<Value = BTreeMap<String, Option<ServiceView>>> {
        prop::collection::btree_map((0..4_u8).prop_map(|n| format!("n/{n}")), view(), 0..3).prop_map(|batch| {
            let named = |(name, view): (String, Option<ServiceView>)| {
                (name.clone(), view.map(|view| ServiceView { name, ..view }))
            };
            batch.into_iter().map(named).collect()
        })
    }

    fn elements(table: &Table) -> Elements {
        table.elements().map(|(key, value)| (key.clone(), value.to_owned())).collect()
    }

    proptest! {
        /// However it came about, a table is the one that would be made of its services at once, and what it said to
        /// change is what changed.
        #[test]
        fn changes_lead_where_a_new_start_would(batches in prop::collection::vec(batch(), 1..8)) {
            let mut table = Table::new(node());
            let (mut kernel, mut timeouts) = (Elements::new(), Vec::new());
            let mut services = BTreeMap::new();
            for batch in batches {
                services.extend(batch.clone());
                let changes = table.change(batch);
                for (key, value) in &changes.delete {
                    let held = kernel.remove(key);
                    prop_assert_eq!(held.as_ref(), Some(value));
                }
                for (key, value) in changes.add {
                    prop_assert_eq!(kernel.insert(key, value), None);
                }
                timeouts = changes.timeouts.unwrap_or(timeouts);
                prop_assert_eq!(&elements(&table), &kernel);
                let mut anew = Table::new(node());
                anew.change(services.clone());
                prop_assert_eq!(elements(&anew), elements(&table));
                prop_assert_eq!((anew.timeouts(), anew.health()), (timeouts.clone(), table.health()));
            }
        }
    }

    #[test]
    fn an_element_that_two_services_want_is_the_firsts_until_it_goes() {
        let with = |name: &str, last| ServiceView {
            name: name.into(),
            cluster_ips: vec![Ipv4Addr::new(10, 96, 0, last)],
            external_ips: vec![Ipv4Addr::new(192, 0, 2, 1)],
            ports: vec![PortView {
                protocol: Protocol::Tcp,
                port: 80,
                node_port: None,
                endpoints: vec![Endpoint {
                    address: SocketAddrV4::new(Ipv4Addr::new(10, 1, 0, last), 8080),
                    local: false,
                    ready: true,
                }],
            }],
            ..ServiceView::default()
        };
        let mut table = Table::new(node());
        let key = (Map::Endpoints, "192.0.2.1 . tcp . 80 . 0".to_owned());
        table.change([("n/b".to_owned(), Some(with("n/b", 2)))].into());
        assert_eq!(table.held(&key, &NOTHING), Some("10.1.0.2 . 8080"));
        let changes = table.change([("n/a".to_owned(), Some(with("n/a", 1)))].into());
        assert_eq!((&*changes.delete[&key], &*changes.add[&key]), ("10.1.0.2 . 8080", "10.1.0.1 . 8080"));
        let changes = table.change([("n/a".to_owned(), None)].into());
        assert_eq!((&*changes.delete[&key], &*changes.add[&key]), ("10.1.0.1 . 8080", "10.1.0.2 . 8080"));
        table.change([("n/b".to_owned(), None)].into());
        assert!(table.claims.is_empty() && table.entries.is_empty());
    }
}
