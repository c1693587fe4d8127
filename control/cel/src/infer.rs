//! Unification: which type may stand where another is wanted, and what type variables become by it.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::types::{ListType, Type};

/// Type variables and what they stand for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Unifier {
    bound: BTreeMap<u32, Type>,
    next: u32,
}

impl Unifier {
    /// A variable that nothing is known of.
    pub(crate) fn fresh(&mut self) -> Type {
        self.next += 1;
        Type::Param(self.next - 1)
    }

    /// A signature's type with its variables made fresh ones.
    pub(crate) fn instantiate(&mut self, ty: &Type, fresh: &mut BTreeMap<u32, Type>) -> Type {
        match ty {
            Type::Param(number) => fresh.entry(*number).or_insert_with(|| self.fresh()).clone(),
            other => rebuild(other, &mut |inner| self.instantiate(inner, fresh)),
        }
    }

    /// The type with its variables replaced; those that stand for nothing become `dyn` if `open`.
    pub(crate) fn resolve(&self, ty: &Type, open: bool) -> Type {
        match ty.plain() {
            Type::Param(number) => match self.bound.get(number) {
                Some(bound) => self.resolve(bound, open),
                None if open => Type::Dyn,
                None => Type::Param(*number),
            },
            Type::List(_) | Type::Map(_) | Type::Optional(_) | Type::TypeOf(_) => {
                let rebuilt = rebuild(ty.plain(), &mut |inner| self.resolve(inner, open));
                match ty.max_size() {
                    Some(size) => rebuilt.sized(size),
                    None => rebuilt,
                }
            }
            _ => ty.clone(),
        }
    }

    /// Whether a value of `a` may stand where `b` is wanted; binds variables if so.
    pub(crate) fn assignable(&mut self, a: &Type, b: &Type) -> bool {
        let before = self.bound.clone();
        let holds = self.assign(a, b);
        if !holds {
            self.bound = before;
        }
        holds
    }

    /// The same for every pair.
    pub(crate) fn all_assignable(&mut self, a: &[Type], b: &[Type]) -> bool {
        let before = self.bound.clone();
        let holds = a.len() == b.len() && a.iter().zip(b).all(|(a, b)| self.assign(a, b));
        if !holds {
            self.bound = before;
        }
        holds
    }

    fn assign(&mut self, a: &Type, b: &Type) -> bool {
        let (a, b) = (a.plain(), b.plain());
        if let Type::Param(number) = b {
            match self.substitutes(a, *number) {
                (true, _) => return true,
                (false, true) => return false,
                (false, false) => {}
            }
        }
        if let Type::Param(number) = a {
            return self.substitutes(b, *number).0;
        }
        if a.is_dyn_or_error() || b.is_dyn_or_error() {
            return true;
        }
        match (a, b) {
            (Type::Null, other) | (other, Type::Null) => {
                matches!(
                    other,
                    Type::Null
                        | Type::Object(_)
                        | Type::Opaque(_)
                        | Type::Optional(_)
                        | Type::Duration
                        | Type::Timestamp
                )
            }
            (Type::TypeOf(_), Type::TypeOf(_)) => true,
            (Type::List(a), Type::List(b)) => self.assign(&a.element, &b.element),
            (Type::Map(a), Type::Map(b)) => self.assign(&a.0, &b.0) && self.assign(&a.1, &b.1),
            (Type::Optional(a), Type::Optional(b)) => self.assign(a, b),
            (a, b) => a.is_exactly(b),
        }
    }

    /// Whether the variable may stand for `ty`, and whether it stood for something before.
    fn substitutes(&mut self, ty: &Type, number: u32) -> (bool, bool) {
        if matches!(ty, Type::Param(other) if *other == number) {
            return (true, true);
        }
        if let Some(bound) = self.bound.get(&number).cloned() {
            if ty.is_exactly(&bound) {
                return (true, true);
            }
            if self.assign(ty, &bound) {
                let general = most_general(ty.clone(), bound);
                if !self.occurs(number, &general) {
                    self.bound.insert(number, general);
                }
                return (true, true);
            }
            return (false, true);
        }
        if self.occurs(number, ty) {
            return (false, false);
        }
        self.bound.insert(number, ty.clone());
        (true, false)
    }

    fn occurs(&self, number: u32, within: &Type) -> bool {
        match within.plain() {
            Type::Param(other) if *other == number => true,
            Type::Param(other) => self.bound.get(other).is_some_and(|bound| self.occurs(number, bound)),
            Type::List(list) => self.occurs(number, &list.element),
            Type::Map(map) => self.occurs(number, &map.0) || self.occurs(number, &map.1),
            Type::Optional(inner) | Type::TypeOf(inner) => self.occurs(number, inner),
            _ => false,
        }
    }
}

fn rebuild(ty: &Type, each: &mut dyn FnMut(&Type) -> Type) -> Type {
    match ty {
        Type::List(list) => {
            Type::List(Arc::new(ListType { element: each(&list.element), semantics: list.semantics.clone() }))
        }
        Type::Map(map) => {
            let key = each(&map.0);
            Type::map(key, each(&map.1))
        }
        Type::Optional(inner) => Type::optional(each(inner)),
        Type::TypeOf(inner) => Type::TypeOf(Arc::new(each(inner))),
        other => other.clone(),
    }
}

/// The more general of two types that go together.
pub(crate) fn most_general(a: Type, b: Type) -> Type {
    if less_specific(&a, &b) { a } else { b }
}

fn less_specific(a: &Type, b: &Type) -> bool {
    match (a.plain(), b.plain()) {
        (Type::Dyn | Type::Param(_), _) => true,
        (_, Type::Dyn | Type::Param(_)) => false,
        (Type::List(a), Type::List(b)) => less_specific(&a.element, &b.element),
        (Type::Map(a), Type::Map(b)) => less_specific(&a.0, &b.0) && less_specific(&a.1, &b.1),
        (Type::Optional(a), Type::Optional(b)) => less_specific(a, b),
        (Type::TypeOf(_), Type::TypeOf(_)) => true,
        (a, b) => a.is_exactly(b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_take_what_they_meet() {
        let mut unifier = Unifier::default();
        let var = unifier.fresh();
        assert!(unifier.assignable(&Type::list(Type::Int), &Type::list(var.clone())));
        assert!(unifier.resolve(&var, true).is_exactly(&Type::Int));
        assert!(!unifier.assignable(&Type::String, &var), "it stands for int already");
        let other = unifier.fresh();
        assert!(!unifier.assignable(&Type::list(other.clone()), &other), "no type holds itself");
        assert!(unifier.assignable(&Type::Null, &Type::Timestamp) && !unifier.assignable(&Type::Null, &Type::String));
    }
}
