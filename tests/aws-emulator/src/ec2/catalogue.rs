//! Instance types as facts: what the public tables say of them.

/// An instance type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InstanceType {
    pub(crate) name: &'static str,
    pub(crate) vcpus: u32,
    pub(crate) memory_mib: u32,
    pub(crate) arm: bool,
    /// Network interfaces, and addresses of each.
    pub(crate) interfaces: u8,
    pub(crate) addresses: u8,
    /// Interfaces and volumes share the slots of a Nitro instance; `None` for types that count volumes apart.
    pub(crate) slots: Option<u32>,
    /// Thousandths of a dollar an hour on demand, for prices of spot.
    pub(crate) price: u32,
    /// In every zone but this one (`c`), for fallbacks.
    pub(crate) not_in_c: bool,
}

const fn kind(name: &'static str, vcpus: u32, memory_gib: u32, nics: (u8, u8), price: u32) -> InstanceType {
    InstanceType {
        name,
        vcpus,
        memory_mib: memory_gib * 1024,
        arm: false,
        interfaces: nics.0,
        addresses: nics.1,
        slots: Some(28),
        price,
        not_in_c: false,
    }
}

const fn arm(of: InstanceType) -> InstanceType {
    InstanceType { arm: true, ..of }
}

/// The types that exist.
pub(crate) const TYPES: [InstanceType; 24] = [
    InstanceType { slots: None, ..kind("t2.micro", 1, 1, (2, 2), 12) },
    kind("t3.micro", 2, 1, (2, 2), 10),
    kind("t3.small", 2, 2, (3, 4), 21),
    kind("t3.medium", 2, 4, (3, 6), 42),
    kind("t3.large", 2, 8, (3, 12), 83),
    kind("t3.xlarge", 4, 16, (4, 15), 166),
    arm(kind("t4g.micro", 2, 1, (2, 2), 8)),
    arm(kind("t4g.medium", 2, 4, (3, 6), 34)),
    kind("m5.large", 2, 8, (3, 10), 96),
    kind("m5.xlarge", 4, 16, (4, 15), 192),
    kind("m5.2xlarge", 8, 32, (4, 15), 384),
    kind("m5.4xlarge", 16, 64, (8, 30), 768),
    InstanceType { not_in_c: true, ..kind("m6i.large", 2, 8, (3, 10), 96) },
    kind("m6i.xlarge", 4, 16, (4, 15), 192),
    arm(kind("m6g.large", 2, 8, (3, 10), 77)),
    arm(kind("m6g.xlarge", 4, 16, (4, 15), 154)),
    InstanceType { slots: Some(32), ..kind("m7i.large", 2, 8, (3, 10), 101) },
    kind("c5.large", 2, 4, (3, 10), 85),
    kind("c5.xlarge", 4, 8, (4, 15), 170),
    InstanceType { not_in_c: true, ..kind("c6i.large", 2, 4, (3, 10), 85) },
    arm(kind("c7g.large", 2, 4, (3, 10), 73)),
    kind("r5.large", 2, 16, (3, 10), 126),
    kind("r5.xlarge", 4, 32, (4, 15), 252),
    arm(kind("r6g.large", 2, 16, (3, 10), 101)),
];

impl InstanceType {
    pub(crate) fn named(name: &str) -> Option<&'static Self> {
        TYPES.iter().find(|kind| kind.name == name)
    }

    pub(crate) fn architecture(&self) -> &'static str {
        if self.arm { "arm64" } else { "x86_64" }
    }

    /// Whether `zone` offers it.
    pub(crate) fn is_offered_in(&self, zone: &str) -> bool {
        !(self.not_in_c && zone.ends_with('c'))
    }

    pub(crate) fn is_nitro(&self) -> bool {
        self.slots.is_some()
    }

    /// How many volumes it takes beside `interfaces`, the root volume among them.
    pub(crate) fn volumes(&self, interfaces: usize) -> usize {
        match self.slots {
            Some(slots) => usize::try_from(slots).unwrap_or(0).saturating_sub(interfaces),
            None => 39,
        }
    }

    /// The price of spot in `zone`, in thousandths of a dollar.
    pub(crate) fn spot_price(&self, zone: &str) -> u32 {
        let percent = match zone.chars().last() {
            Some('a') => 30,
            Some('b') => 35,
            _ => 40,
        };
        (self.price * percent / 100).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_used() {
        let m5 = InstanceType::named("m5.large").unwrap();
        assert_eq!((m5.volumes(1), m5.architecture()), (27, "x86_64"));
        assert_eq!(InstanceType::named("t2.micro").unwrap().volumes(2), 39);
        assert!(!InstanceType::named("m6i.large").unwrap().is_offered_in("eu-central-1c"));
        assert!(m5.spot_price("eu-central-1a") < m5.spot_price("eu-central-1c"));
        assert_eq!(InstanceType::named("m5.tiny"), None);
        let names: std::collections::BTreeSet<_> = TYPES.iter().map(|kind| kind.name).collect();
        assert_eq!(names.len(), TYPES.len());
    }
}
