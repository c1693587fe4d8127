//! A set of fields as a tree of steps: every step says whether it is in the set itself and what is below it.
//!
//! Steps are sorted and there once; a step that is neither in the set nor has something below it is not kept.

use std::cmp::Ordering;

use super::element::Element;

/// A set of fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSet(Vec<Node>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) element: Element,
    pub(super) member: bool,
    pub(super) below: FieldSet,
}

impl Node {
    fn kept(self) -> Option<Self> {
        (self.member || !self.below.is_empty()).then_some(self)
    }
}

/// Which of two sorted lists a step stands in.
enum Pair<A, B> {
    Left(A),
    Right(B),
    Both(A, B),
}

/// Steps of two sorted lists side by side.
fn zip<'a>(a: &'a [Node], b: &'a [Node]) -> impl Iterator<Item = Pair<&'a Node, &'a Node>> {
    let (mut a, mut b) = (a.iter().peekable(), b.iter().peekable());
    std::iter::from_fn(move || {
        let order = match (a.peek(), b.peek()) {
            (Some(a), Some(b)) => a.element.cmp(&b.element),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return None,
        };
        match order {
            Ordering::Less => a.next().map(Pair::Left),
            Ordering::Greater => b.next().map(Pair::Right),
            Ordering::Equal => a.next().zip(b.next()).map(|(a, b)| Pair::Both(a, b)),
        }
    })
}

impl FieldSet {
    /// The set without fields.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Whether there are no fields.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn nodes(&self) -> &[Node] {
        &self.0
    }

    /// Appends a step that comes after all others; steps with nothing to say are left out.
    pub(super) fn push(&mut self, element: Element, member: bool, below: Self) {
        if member || !below.is_empty() {
            self.0.push(Node { element, member, below });
        }
    }

    /// Puts steps that were pushed in any order in order; of one step pushed twice both count.
    pub(super) fn settle(&mut self) {
        if self.0.is_sorted_by(|a, b| a.element < b.element) {
            return;
        }
        self.0.sort_by(|a, b| a.element.cmp(&b.element));
        let mut merged: Vec<Node> = Vec::with_capacity(self.0.len());
        for node in std::mem::take(&mut self.0) {
            match merged.last_mut() {
                Some(last) if last.element == node.element => {
                    last.member |= node.member;
                    last.below = last.below.union(&node.below);
                }
                _ => merged.push(node),
            }
        }
        self.0 = merged;
    }

    /// Adds one field.
    pub fn insert(&mut self, path: &[Element]) {
        let Some((first, rest)) = path.split_first() else { return };
        let at = match self.0.binary_search_by(|node| node.element.cmp(first)) {
            Ok(at) => at,
            Err(at) => {
                self.0.insert(at, Node { element: first.clone(), member: false, below: Self::new() });
                at
            }
        };
        if rest.is_empty() {
            self.0[at].member = true;
        } else {
            self.0[at].below.insert(rest);
        }
    }

    /// A set of one field named by members alone.
    #[must_use]
    pub fn of(members: &[&str]) -> Self {
        let mut set = Self::new();
        set.insert(&members.iter().map(|name| Element::Field((*name).into())).collect::<Vec<_>>());
        set
    }

    /// The step, if it is there.
    pub(super) fn find(&self, element: &Element) -> Option<&Node> {
        self.0.binary_search_by(|node| node.element.cmp(element)).ok().map(|at| &self.0[at])
    }

    /// Whether a field is in the set.
    #[must_use]
    pub fn contains(&self, path: &[Element]) -> bool {
        match path {
            [] => false,
            [last] => self.find(last).is_some_and(|node| node.member),
            [first, rest @ ..] => self.find(first).is_some_and(|node| node.below.contains(rest)),
        }
    }

    /// Fields in either set.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let both = |a: &Node, b: &Node| Node {
            element: a.element.clone(),
            member: a.member || b.member,
            below: a.below.union(&b.below),
        };
        Self(
            zip(&self.0, &other.0)
                .map(|pair| match pair {
                    Pair::Left(node) | Pair::Right(node) => node.clone(),
                    Pair::Both(a, b) => both(a, b),
                })
                .collect(),
        )
    }

    /// Fields in both sets.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let both = |a: &Node, b: &Node| Node {
            element: a.element.clone(),
            member: a.member && b.member,
            below: a.below.intersection(&b.below),
        };
        Self(
            zip(&self.0, &other.0)
                .filter_map(|pair| if let Pair::Both(a, b) = pair { both(a, b).kept() } else { None })
                .collect(),
        )
    }

    /// Fields of this set that are not in the other; what is below a field of the other stays.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        self.without(other, false)
    }

    /// Fields of this set that are neither in the other nor below a field of it.
    #[must_use]
    pub fn difference_below(&self, other: &Self) -> Self {
        self.without(other, true)
    }

    fn without(&self, other: &Self, deep: bool) -> Self {
        if other.is_empty() {
            return self.clone();
        }
        let both = |a: &Node, b: &Node| {
            let below = if deep && b.member { Self::new() } else { a.below.without(&b.below, deep) };
            Node { element: a.element.clone(), member: a.member && !b.member, below }.kept()
        };
        Self(
            zip(&self.0, &other.0)
                .filter_map(|pair| match pair {
                    Pair::Left(node) => Some(node.clone()),
                    Pair::Right(_) => None,
                    Pair::Both(a, b) => both(a, b),
                })
                .collect(),
        )
    }

    /// Every field, those of one level before those further down, as upstream lists them.
    #[must_use]
    pub fn paths(&self) -> Vec<Vec<Element>> {
        let (mut paths, mut prefix) = (Vec::new(), Vec::new());
        self.collect(&mut prefix, &mut paths);
        paths
    }

    fn collect(&self, prefix: &mut Vec<Element>, paths: &mut Vec<Vec<Element>>) {
        for node in self.0.iter().filter(|node| node.member) {
            paths.push(prefix.iter().chain([&node.element]).cloned().collect());
        }
        for node in self.0.iter().filter(|node| !node.below.is_empty()) {
            prefix.push(node.element.clone());
            node.below.collect(prefix, paths);
            prefix.pop();
        }
    }
}

impl FromIterator<(Element, bool, FieldSet)> for FieldSet {
    fn from_iter<I: IntoIterator<Item = (Element, bool, FieldSet)>>(nodes: I) -> Self {
        let mut set = Self::new();
        for (element, member, below) in nodes {
            set.push(element, member, below);
        }
        set.settle();
        set
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(paths: &[&str]) -> FieldSet {
        let mut set = FieldSet::new();
        for path in paths {
            set.insert(&path.split('.').map(|name| Element::Field(name.into())).collect::<Vec<_>>());
        }
        set
    }

    fn shown(set: &FieldSet) -> Vec<String> {
        let text = |path: Vec<Element>| path.iter().map(ToString::to_string).collect::<String>();
        set.paths().into_iter().map(text).collect()
    }

    #[test]
    fn a_field_and_what_is_below_it_are_told_apart() {
        let all = set(&["a", "a.b", "a.b.c", "d"]);
        assert_eq!(shown(&all), [".a", ".d", ".a.b", ".a.b.c"]);
        assert_eq!(shown(&all.difference(&set(&["a.b"]))), [".a", ".d", ".a.b.c"]);
        assert_eq!(shown(&all.difference_below(&set(&["a.b"]))), [".a", ".d"]);
        assert_eq!(shown(&all.intersection(&set(&["a", "a.b.c", "x"]))), [".a", ".a.b.c"]);
        assert!(all.contains(&[Element::Field("a".into()), Element::Field("b".into())]));
        assert!(!set(&["a.b"]).contains(&[Element::Field("a".into())]));
    }

    fn any_set() -> impl Strategy<Value = FieldSet> {
        let step = prop::sample::select(vec!["a", "b", "c"]);
        let path = prop::collection::vec(step, 1..4);
        prop::collection::vec(path, 0..8).prop_map(|paths| {
            let mut set = FieldSet::new();
            for path in paths {
                set.insert(&path.into_iter().map(|name| Element::Field(name.into())).collect::<Vec<_>>());
            }
            set
        })
    }

    proptest! {
        #[test]
        fn sets_obey_the_laws_of_sets(a in any_set(), b in any_set()) {
            prop_assert_eq!(a.union(&b), b.union(&a));
            prop_assert_eq!(a.intersection(&b), b.intersection(&a));
            prop_assert_eq!(&a.difference(&b).union(&a.intersection(&b)), &a);
            prop_assert!(a.difference(&b).intersection(&b).is_empty());
            prop_assert_eq!(a.difference(&a), FieldSet::new());
            prop_assert_eq!(&a.union(&a), &a);
            let members: Vec<_> = a.difference_below(&b).paths();
            prop_assert!(members.iter().all(|path| a.contains(path) && !(1..=path.len()).any(|n| b.contains(&path[..n]))));
        }
    }
}
