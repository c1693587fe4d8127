//! How many pods that look like this run in that part of the cluster: counts by topology domain, kept up to
//! date pod by pod, so that affinity and spreading never walk over all pods. Pure.
//!
//! Pods of the same namespace and labels are one *class*; a *term* (namespaces, selector, topology key) is
//! matched against classes once, not against pods.

use crate::selector::Selector;
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

/// Most terms kept for pods that are not on a node; the least recently used one goes.
const MAX_WATCHED: usize = 512;
/// A node that lacks the topology key.
pub(crate) const NO_DOMAIN: u32 = u32::MAX;

/// Which namespaces a term speaks of: those named and those whose labels are selected.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Namespaces {
    pub(crate) names: Vec<String>,
    pub(crate) selector: Option<Selector>,
}

/// Pods that satisfy every matcher, counted by the value of a node label.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TermSpec {
    pub(crate) matchers: Vec<(Namespaces, Selector)>,
    pub(crate) topology_key: Arc<str>,
    /// Whether pods that are being deleted do not count.
    pub(crate) skip_terminating: bool,
}

impl TermSpec {
    /// Whether a pod of this namespace and these labels matches, namespace labels aside.
    pub(crate) fn matches_own(&self, namespace: &str, labels: &BTreeMap<String, String>) -> bool {
        self.matchers.iter().all(|(namespaces, selector)| {
            let named = namespaces.names.iter().any(|name| name == namespace);
            (named || namespaces.selector.is_some()) && selector.matches(labels)
        })
    }
}

/// Why a running pod brings a term along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    Anti,
    Affinity,
    Preferred,
    PreferredAnti,
}

const OWNERS: usize = 4;

pub(crate) type TermId = usize;
pub(crate) type ClassId = usize;

/// Namespace, labels, and whether such pods are being deleted.
type ClassKey = (Arc<str>, Arc<BTreeMap<String, String>>, bool);

#[derive(Debug)]
struct Class {
    namespace: Arc<str>,
    labels: Arc<BTreeMap<String, String>>,
    terminating: bool,
    users: usize,
    /// Terms that it matches, in order.
    matched: Vec<TermId>,
}

#[derive(Debug)]
pub(crate) struct Term {
    spec: TermSpec,
    pub(crate) key: usize,
    /// Matching pods by domain, once somebody asked.
    counts: Option<Vec<u32>>,
    pub(crate) total: u64,
    /// Running pods that bring it along, or the sum of their weights, by domain.
    owners: [Vec<i64>; OWNERS],
    owner_pods: [u64; OWNERS],
    users: usize,
    last_used: u64,
}

impl Term {
    pub(crate) fn count(&self, domain: u32) -> i64 {
        let counts = self.counts.as_deref().unwrap_or_default();
        counts.get(domain as usize).map_or(0, |count| i64::from(*count))
    }

    pub(crate) fn counts(&self) -> &[u32] {
        self.counts.as_deref().unwrap_or_default()
    }

    pub(crate) fn owned(&self, owner: Owner, domain: u32) -> i64 {
        self.owners[owner as usize].get(domain as usize).copied().unwrap_or(0)
    }

    pub(crate) fn has_owner(&self, owner: Owner) -> bool {
        self.owner_pods[owner as usize] > 0
    }
}

/// One node label by which nodes are grouped.
#[derive(Debug)]
pub(crate) struct Key {
    pub(crate) name: Arc<str>,
    domains: HashMap<Box<str>, u32>,
    /// Nodes by domain.
    pub(crate) nodes: Vec<u32>,
    /// Nodes that have the label.
    pub(crate) labelled: usize,
    free: Vec<u32>,
}

impl Key {
    /// The domain of a node with this value, which joins it.
    pub(crate) fn join(&mut self, value: Option<&str>) -> u32 {
        let Some(value) = value else { return NO_DOMAIN };
        self.labelled += 1;
        if let Some(domain) = self.domains.get(value) {
            self.nodes[*domain as usize] += 1;
            return *domain;
        }
        let domain = self.free.pop().unwrap_or_else(|| {
            self.nodes.push(0);
            u32::try_from(self.nodes.len() - 1).expect("there are fewer nodes than that")
        });
        self.nodes[domain as usize] = 1;
        self.domains.insert(value.into(), domain);
        domain
    }

    pub(crate) fn leave(&mut self, domain: u32, value: Option<&str>) {
        if domain == NO_DOMAIN {
            return;
        }
        self.labelled -= 1;
        self.nodes[domain as usize] -= 1;
        if self.nodes[domain as usize] == 0 {
            self.free.push(domain);
            if let Some(value) = value {
                self.domains.remove(value);
            }
        }
    }
}

/// All classes, terms and topology keys of a cluster.
#[derive(Debug, Default)]
pub(crate) struct Terms {
    classes: Vec<Class>,
    free_classes: Vec<ClassId>,
    class_ids: HashMap<ClassKey, ClassId>,
    terms: Vec<Option<Term>>,
    free_terms: Vec<TermId>,
    term_ids: HashMap<TermSpec, TermId>,
    pub(crate) keys: Vec<Key>,
    namespaces: BTreeMap<String, BTreeMap<String, String>>,
    clock: u64,
}

impl Terms {
    pub(crate) fn get(&self, term: TermId) -> &Term {
        self.terms[term].as_ref().expect("an id is used only while its term lives")
    }

    /// Terms that a class matches.
    pub(crate) fn matched(&self, class: ClassId) -> &[TermId] {
        &self.classes[class].matched
    }

    pub(crate) fn class_matches(&self, class: ClassId, term: TermId) -> bool {
        self.classes[class].matched.binary_search(&term).is_ok()
    }

    pub(crate) fn key_id(&self, name: &str) -> Option<usize> {
        self.keys.iter().position(|key| &*key.name == name)
    }

    pub(crate) fn add_key(&mut self, name: &Arc<str>) -> usize {
        self.keys.push(Key {
            name: Arc::clone(name),
            domains: HashMap::new(),
            nodes: Vec::new(),
            labelled: 0,
            free: Vec::new(),
        });
        self.keys.len() - 1
    }

    /// The class of such pods; it lives until [`Self::release`].
    pub(crate) fn class(
        &mut self,
        namespace: &Arc<str>,
        labels: &Arc<BTreeMap<String, String>>,
        terminating: bool,
    ) -> ClassId {
        let id = (Arc::clone(namespace), Arc::clone(labels), terminating);
        if let Some(found) = self.class_ids.get(&id) {
            self.classes[*found].users += 1;
            return *found;
        }
        let mut class =
            Class { namespace: id.0.clone(), labels: id.1.clone(), terminating, users: 1, matched: Vec::new() };
        for (term, known) in self.terms.iter().enumerate() {
            if known.as_ref().is_some_and(|known| self.matches(&known.spec, &class)) {
                class.matched.push(term);
            }
        }
        let place = match self.free_classes.pop() {
            Some(place) => {
                self.classes[place] = class;
                place
            }
            None => {
                self.classes.push(class);
                self.classes.len() - 1
            }
        };
        self.class_ids.insert(id, place);
        place
    }

    pub(crate) fn release(&mut self, class: ClassId) {
        let found = &mut self.classes[class];
        found.users -= 1;
        if found.users == 0 {
            let id = (found.namespace.clone(), found.labels.clone(), found.terminating);
            found.matched = Vec::new();
            self.class_ids.remove(&id);
            self.free_classes.push(class);
        }
    }

    fn matches(&self, spec: &TermSpec, class: &Class) -> bool {
        if class.users == 0 || (spec.skip_terminating && class.terminating) {
            return false;
        }
        spec.matchers.iter().all(|(namespaces, selector)| {
            let named = namespaces.names.iter().any(|name| **name == *class.namespace);
            let selected = || {
                let labels = self.namespaces.get(&*class.namespace);
                namespaces.selector.as_ref().zip(labels).is_some_and(|(selector, labels)| selector.matches(labels))
            };
            (named || selected()) && selector.matches(&*class.labels)
        })
    }

    /// Whether no pod is counted anywhere: for tests of a cluster without pods.
    #[cfg(test)]
    pub(crate) fn is_clean(&self) -> bool {
        self.terms.iter().flatten().all(|term| {
            term.total == 0
                && term.users == 0
                && term.counts().iter().all(|count| *count == 0)
                && term.owners.iter().flatten().all(|weight| *weight == 0)
        })
    }

    /// The term, made if it is new; `key` is that of its topology.
    pub(crate) fn term(&mut self, spec: &TermSpec, key: usize) -> TermId {
        self.clock += 1;
        if let Some(found) = self.term_ids.get(spec) {
            if let Some(term) = &mut self.terms[*found] {
                term.last_used = self.clock;
            }
            return *found;
        }
        let term = Term {
            spec: spec.clone(),
            key,
            counts: None,
            total: 0,
            owners: Default::default(),
            owner_pods: [0; OWNERS],
            users: 0,
            last_used: self.clock,
        };
        let place = match self.free_terms.pop() {
            Some(place) => place,
            None => {
                self.terms.push(None);
                self.terms.len() - 1
            }
        };
        self.terms[place] = Some(term);
        self.term_ids.insert(spec.clone(), place);
        self.rematch(place);
        place
    }

    /// Matches a term against every class anew.
    fn rematch(&mut self, term: TermId) {
        let spec = self.get(term).spec.clone();
        for class in 0..self.classes.len() {
            let matches = self.matches(&spec, &self.classes[class]);
            let matched = &mut self.classes[class].matched;
            match (matched.binary_search(&term), matches) {
                (Err(at), true) => matched.insert(at, term),
                (Ok(at), false) => drop(matched.remove(at)),
                _ => {}
            }
        }
    }

    /// Whether the term's counts have to be made first.
    pub(crate) fn needs_counts(&self, term: TermId) -> bool {
        self.get(term).counts.is_none()
    }

    /// Makes a term's counts from (domain, class, pods) of every node.
    pub(crate) fn count(&mut self, term: TermId, pods: impl Iterator<Item = (u32, ClassId, u32)>) {
        let mut counts = Vec::new();
        let mut total = 0;
        for (domain, class, pods) in pods {
            if domain != NO_DOMAIN && self.class_matches(class, term) {
                bump(&mut counts, domain, pods);
                total += u64::from(pods);
            }
        }
        if let Some(found) = &mut self.terms[term] {
            found.counts = Some(counts);
            found.total = total;
        }
    }

    /// Forgets terms that nobody has used for long and no running pod brings along; `keep` were just used.
    pub(crate) fn trim(&mut self, keep: &[TermId]) {
        while self.term_ids.len() > MAX_WATCHED {
            let idle = self.terms.iter().enumerate().filter_map(|(id, term)| Some((id, term.as_ref()?)));
            let idle = idle.filter(|(id, term)| term.users == 0 && !keep.contains(id));
            let Some((oldest, _)) = idle.min_by_key(|(_, term)| term.last_used) else { return };
            self.forget(oldest);
        }
    }

    fn forget(&mut self, term: TermId) {
        let Some(gone) = self.terms[term].take() else { return };
        self.term_ids.remove(&gone.spec);
        self.free_terms.push(term);
        for class in &mut self.classes {
            if let Ok(at) = class.matched.binary_search(&term) {
                class.matched.remove(at);
            }
        }
    }

    /// A pod of `class` comes to (`times` 1) or leaves (-1) a node with these domains.
    pub(crate) fn follow(&mut self, class: ClassId, domains: &[u32], times: i64) {
        for id in &self.classes[class].matched {
            let Some(term) = &mut self.terms[*id] else { continue };
            let domain = domains.get(term.key).copied().unwrap_or(NO_DOMAIN);
            let Some(counts) = term.counts.as_mut().filter(|_| domain != NO_DOMAIN) else { continue };
            if times > 0 {
                bump(counts, domain, 1);
                term.total += 1;
            } else {
                counts[domain as usize] -= 1;
                term.total -= 1;
            }
        }
    }

    /// A pod that brings `term` along comes to or leaves a node.
    pub(crate) fn own(&mut self, id: TermId, owner: Owner, weight: i64, domains: &[u32], times: i64) {
        let Some(term) = &mut self.terms[id] else { return };
        let domain = domains.get(term.key).copied().unwrap_or(NO_DOMAIN);
        if times > 0 {
            term.users += 1;
            term.owner_pods[owner as usize] += 1;
        } else {
            term.users -= 1;
            term.owner_pods[owner as usize] -= 1;
        }
        if domain != NO_DOMAIN {
            let owners = &mut term.owners[owner as usize];
            if owners.len() <= domain as usize {
                owners.resize(domain as usize + 1, 0);
            }
            owners[domain as usize] += weight * times;
        }
    }

    /// Follows a namespace's labels; terms that select namespaces are matched again and counted when next used.
    pub(crate) fn set_namespace(&mut self, name: &str, labels: Option<BTreeMap<String, String>>) {
        if self.namespaces.get(name) == labels.as_ref() {
            return;
        }
        match labels {
            Some(labels) => drop(self.namespaces.insert(name.to_owned(), labels)),
            None => drop(self.namespaces.remove(name)),
        }
        for id in 0..self.terms.len() {
            let Some(term) = &mut self.terms[id] else { continue };
            if term.spec.matchers.iter().any(|(namespaces, _)| namespaces.selector.is_some()) {
                term.counts = None;
                term.total = 0;
                self.rematch(id);
            }
        }
    }
}

fn bump(counts: &mut Vec<u32>, domain: u32, by: u32) {
    if counts.len() <= domain as usize {
        counts.resize(domain as usize + 1, 0);
    }
    counts[domain as usize] += by;
}
