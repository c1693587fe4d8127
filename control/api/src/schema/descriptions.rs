//! What types and fields mean, for people: `kubectl explain` and other readers of OpenAPI.
//!
//! The text is held once per process and searched where it lies; nothing is parsed or copied at start. A row says
//! something for one version of a type (`io.k8s.api.core.v1.Pod`) or, without the version, for all of them.
//! A row for the field `*` names another type whose descriptions hold for the fields that are not described.

use std::borrow::Cow;
use std::cmp::Ordering;

use super::{Field, FieldType, Schema, TypeDef};

/// The field of a row that speaks of the type itself.
const ITSELF: &str = "";
/// The field of a row that names another type to look at.
const REST: &str = "*";

impl Schema {
    /// What a type is.
    #[must_use]
    pub fn describe(&self, ty: &TypeDef) -> Option<Cow<'static, str>> {
        self.description(&ty.name, ITSELF).map(Cow::Borrowed).or_else(|| {
            let item = ty.name.strip_suffix("List").and_then(|item| self.id(item))?;
            Some(Cow::Owned(format!("A list of objects of kind {}.", self.get(item).short_name())))
        })
    }

    /// What a type without members of its own is, such as `Quantity`.
    #[must_use]
    pub fn describe_name(&self, name: &str) -> Option<&'static str> {
        self.description(name, ITSELF)
    }

    /// What a field of a type means.
    #[must_use]
    pub fn describe_field(&self, ty: &TypeDef, field: &Field) -> Option<&'static str> {
        self.description(&ty.name, &field.name)
            .or_else(|| self.description(self.description(&ty.name, REST)?, &field.name))
            .or_else(|| self.common(field))
    }

    fn description(&self, ty: &str, field: &str) -> Option<&'static str> {
        let family = family(ty);
        let names = [Some(ty), family.as_deref()];
        let here = self.descriptions.iter().rev();
        let found = here.flat_map(|text| names.map(|name| find(text, name?, field))).flatten().next();
        found.or_else(|| self.base.as_ref()?.description(ty, field))
    }

    /// Fields that mean the same wherever they are.
    fn common(&self, field: &Field) -> Option<&'static str> {
        Some(match (field.name.as_str(), &field.ty) {
            ("apiVersion", FieldType::String) => {
                "Group and version of the API in which the object is written, such as apps/v1."
            }
            ("kind", FieldType::String) => "Kind of the object, such as Deployment. Immutable.",
            ("metadata", FieldType::Struct(id)) if self.get(*id).short_name() == "ListMeta" => {
                "Resource version of the list, and where its next page begins."
            }
            ("metadata", FieldType::Struct(_)) => "Name, namespace, labels and the like, as every object has them.",
            ("spec", _) => "What the object should be.",
            ("status", _) => "What was observed of the object; written by the system.",
            ("items", FieldType::List(_)) => "The objects of the list.",
            _ => return None,
        })
    }
}

/// A type's name without the version of its package: `io.k8s.api.core.Pod`.
fn family(name: &str) -> Option<String> {
    let (package, short) = name.rsplit_once('.')?;
    let (package, version) = package.rsplit_once('.')?;
    let mut rest = version.strip_prefix('v')?.chars();
    (rest.next()?.is_ascii_digit() && rest.all(|c| c.is_ascii_alphanumeric())).then(|| format!("{package}.{short}"))
}

/// The description in a table whose rows are sorted by type and field, by bisection.
fn find(text: &'static str, ty: &str, field: &str) -> Option<&'static str> {
    let bytes = text.as_bytes();
    let break_in = |from: usize, to: usize| bytes.get(from..to)?.iter().position(|byte| *byte == b'\n');
    // The first line is the header.
    let mut low = break_in(0, bytes.len())? + 1;
    let mut high = bytes.len();
    // Each turn leaves out at least the line it looked at, so the loop is bounded by the number of lines.
    while low < high {
        let middle = low + (high - low) / 2;
        let start = bytes[low..middle].iter().rposition(|byte| *byte == b'\n').map_or(low, |at| low + at + 1);
        let end = break_in(start, bytes.len()).map_or(bytes.len(), |at| start + at);
        let mut cells = text.get(start..end)?.splitn(3, '\t');
        let key = (cells.next()?, cells.next()?);
        match key.cmp(&(ty, field)) {
            Ordering::Less => low = end + 1,
            Ordering::Greater => high = start,
            Ordering::Equal => return cells.next(),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Scheme;
    use std::collections::BTreeSet;

    const DESCRIPTIONS: &str = include_str!("../../tables/descriptions.tsv");
    const MAX_LENGTH: usize = 300;

    fn rows() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
        DESCRIPTIONS.lines().skip(1).map(|line| {
            let cells: Vec<&str> = line.split('\t').collect();
            assert_eq!(cells.len(), 3, "{line}");
            (cells[0], cells[1], cells[2])
        })
    }

    #[test]
    fn every_row_names_a_type_and_a_field_once() {
        let scheme = Scheme::kubernetes();
        let schema = scheme.schema();
        let mut known: BTreeSet<(String, &str)> = BTreeSet::new();
        for id in schema.ids() {
            let ty = schema.get(id);
            let names = ty.fields.iter().map(|field| field.name.as_str()).chain([ITSELF, REST]);
            for (name, field) in names.flat_map(|field| [(Some(ty.name.to_string()), field), (family(&ty.name), field)])
            {
                known.extend(name.map(|name| (name, field)));
            }
        }
        let scalars = ["Time", "MicroTime", "Duration", "Quantity", "IntOrString", "RawExtension", "FieldsV1"];
        let mut last = ("", "");
        for (ty, field, text) in rows() {
            assert!(last < (ty, field), "{ty} {field} is not sorted, or twice there");
            last = (ty, field);
            let scalar = field == ITSELF && scalars.iter().any(|name| ty.rsplit('.').next() == Some(name));
            assert!(scalar || known.contains(&(ty.to_owned(), field)), "{ty} {field} does not exist");
            if field == REST {
                assert!(rows().any(|(other, field, _)| other == text && field == ITSELF), "{ty} leads to {text}");
            } else {
                assert!(text.ends_with('.') && text.len() <= MAX_LENGTH && text.is_ascii(), "{ty} {field}: {text}");
            }
        }
    }

    #[test]
    fn every_type_and_field_of_the_tables_is_described() {
        let scheme = Scheme::kubernetes();
        let schema = scheme.schema();
        let mut missing = Vec::new();
        for line in include_str!("../../tables/types.tsv").lines().skip(1) {
            let name = line.split('\t').next().unwrap();
            let described = match schema.id(name) {
                Some(id) => schema.describe(schema.get(id)).is_some(),
                None => schema.describe_name(name).is_some(),
            };
            missing.extend((!described).then(|| name.to_owned()));
        }
        for line in include_str!("../../tables/fields.tsv").lines().skip(1) {
            let (name, field) = line.split_once('\t').unwrap();
            let field = field.split('\t').next().unwrap();
            let ty = schema.get(schema.id(name).unwrap());
            let described = schema.describe_field(ty, ty.field(field).unwrap()).is_some();
            missing.extend((!described).then(|| format!("{name} {field}")));
        }
        assert!(missing.is_empty(), "{} without description: {missing:?}", missing.len());
    }

    #[test]
    fn each_row_is_found_by_bisection() {
        for (ty, field, text) in rows() {
            assert_eq!(find(DESCRIPTIONS, ty, field), Some(text), "{ty} {field}");
        }
        for (ty, field) in [("", ""), ("io.k8s.api.core.Pod", "nothing"), ("zzz", ""), ("io.k8s.api.core.Po", "")] {
            assert_eq!(find(DESCRIPTIONS, ty, field), None, "{ty} {field}");
        }
        assert_eq!(find("", "a", "b"), None);
    }

    #[test]
    fn versions_share_and_types_may_follow_others() {
        let scheme = Scheme::kubernetes();
        let schema = scheme.schema();
        let of = |name: &str, field: &str| {
            let ty = schema.get(schema.id(name).unwrap());
            schema.describe_field(ty, ty.field(field).unwrap()).unwrap()
        };
        let [old, new] = ["v1beta1", "v1"].map(|version| format!("io.k8s.api.resource.{version}.DeviceClassSpec"));
        assert_eq!(of(&old, "selectors"), of(&new, "selectors"));
        let core = "io.k8s.api.core.v1";
        assert_eq!(of(&format!("{core}.EphemeralContainer"), "image"), of(&format!("{core}.Container"), "image"));
        assert_ne!(of(&format!("{core}.EphemeralContainer"), "ports"), of(&format!("{core}.Container"), "ports"));
        let list = schema.get(schema.id("io.k8s.api.core.v1.PodList").unwrap());
        assert_eq!(schema.describe(list).unwrap(), "A list of objects of kind Pod.");
    }

    #[test]
    fn only_versions_are_left_out_of_names() {
        assert_eq!(family("io.k8s.api.core.v1.Pod").as_deref(), Some("io.k8s.api.core.Pod"));
        assert_eq!(family("a.v1beta2.B").as_deref(), Some("a.B"));
        for name in ["io.k8s.apimachinery.pkg.version.Info", "a.v.B", "B", "io.k8s.apimachinery.pkg.runtime.X"] {
            assert_eq!(family(name), None, "{name}");
        }
    }
}
