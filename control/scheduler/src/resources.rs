//! Amounts of resources: reading quantities, what a pod asks for, what a node has. Pure.

use k8s_openapi::{
    api::core::v1::{Container, PodSpec},
    apimachinery::pkg::api::resource::Quantity,
};
use std::collections::BTreeMap;

/// What a container without a request counts as when nodes are scored, in millicores and bytes.
const DEFAULT_CPU: i64 = 100;
const DEFAULT_MEMORY: i64 = 200 << 20;

/// Amounts by resource; CPU in thousandths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Millicores.
    pub cpu: i64,
    /// Bytes.
    pub memory: i64,
    /// Bytes of local storage.
    pub storage: i64,
    /// Every other resource that is not zero, by name.
    pub other: Vec<(Box<str>, i64)>,
}

impl Resources {
    pub(crate) fn of(list: Option<&BTreeMap<String, Quantity>>) -> Self {
        let mut found = Self::default();
        for (name, quantity) in list.into_iter().flatten() {
            found.set(name, quantity);
        }
        found
    }

    fn set(&mut self, name: &str, quantity: &Quantity) {
        let scale = if name == "cpu" { 1000 } else { 1 };
        let amount = parse(&quantity.0, scale).unwrap_or(0);
        match name {
            "cpu" => self.cpu = amount,
            "memory" => self.memory = amount,
            "ephemeral-storage" => self.storage = amount,
            "pods" => {}
            other => match self.other.binary_search_by(|(known, _)| (**known).cmp(other)) {
                Ok(at) => self.other[at].1 = amount,
                Err(at) => self.other.insert(at, (other.into(), amount)),
            },
        }
    }

    pub(crate) fn get(&self, name: &str) -> i64 {
        let found = self.other.binary_search_by(|(known, _)| (**known).cmp(name));
        found.map_or(0, |at| self.other[at].1)
    }

    /// Adds `times` (1 or -1) of `more`.
    pub(crate) fn add(&mut self, more: &Self, times: i64) {
        self.cpu += more.cpu * times;
        self.memory += more.memory * times;
        self.storage += more.storage * times;
        for (name, amount) in &more.other {
            match self.other.binary_search_by(|(known, _)| known.cmp(name)) {
                Ok(at) => self.other[at].1 += amount * times,
                Err(at) => self.other.insert(at, (name.clone(), amount * times)),
            }
        }
    }

    /// The larger of both, resource by resource.
    fn max(&mut self, other: &Self) {
        self.cpu = self.cpu.max(other.cpu);
        self.memory = self.memory.max(other.memory);
        self.storage = self.storage.max(other.storage);
        for (name, amount) in &other.other {
            match self.other.binary_search_by(|(known, _)| known.cmp(name)) {
                Ok(at) => self.other[at].1 = self.other[at].1.max(*amount),
                Err(at) => self.other.insert(at, (name.clone(), *amount)),
            }
        }
    }

    pub(crate) fn is_zero(&self) -> bool {
        self.cpu == 0 && self.memory == 0 && self.storage == 0 && self.other.iter().all(|(_, amount)| *amount == 0)
    }
}

/// What a pod asks for: really, and (CPU, memory) as it counts when nodes are scored.
pub(crate) fn of_pod(spec: &PodSpec) -> (Resources, (i64, i64)) {
    let real = total(spec, |container| {
        Resources::of(container.resources.as_ref().and_then(|resources| resources.requests.as_ref()))
    });
    let scored = total(spec, |container| {
        let requests = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
        let mut found = Resources::of(requests);
        let has = |name| requests.is_some_and(|requests| requests.contains_key(name));
        found.cpu = if has("cpu") { found.cpu } else { DEFAULT_CPU };
        found.memory = if has("memory") { found.memory } else { DEFAULT_MEMORY };
        found
    });
    (real, (scored.cpu, scored.memory))
}

/// Containers and sidecars run together; an ordinary init container runs beside the sidecars before it.
fn total(spec: &PodSpec, of: impl Fn(&Container) -> Resources) -> Resources {
    let mut running = Resources::default();
    for container in &spec.containers {
        running.add(&of(container), 1);
    }
    let (mut sidecars, mut starting) = (Resources::default(), Resources::default());
    for container in spec.init_containers.iter().flatten() {
        let mut now = of(container);
        if container.restart_policy.as_deref() == Some("Always") {
            running.add(&now, 1);
            sidecars.add(&now, 1);
            now = sidecars.clone();
        } else {
            now.add(&sidecars, 1);
        }
        starting.max(&now);
    }
    running.max(&starting);
    if let Some(requests) = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref()) {
        for (name, quantity) in requests {
            running.set(name, quantity);
        }
    }
    running.add(&Resources::of(spec.overhead.as_ref()), 1);
    running
}

/// A quantity in units of 1/`scale`, rounded up; `None` when it is not one or does not fit.
pub(crate) fn parse(text: &str, scale: i128) -> Option<i64> {
    let (sign, text) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || fraction.len() > 18 {
        return None;
    }
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    let (times, over) = factor(suffix)?;
    let over = over.checked_mul(10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?)?;
    let amount = digits.checked_mul(times)?.checked_mul(scale)?.checked_mul(sign)?;
    let rounded = amount.div_euclid(over) + i128::from(amount.rem_euclid(over) != 0);
    Some(i64::try_from(rounded).unwrap_or(if sign > 0 { i64::MAX } else { i64::MIN }))
}

/// A suffix as a fraction.
fn factor(suffix: &str) -> Option<(i128, i128)> {
    let ten = |power: u32| (10_i128.pow(power), 1);
    Some(match suffix {
        "" => (1, 1),
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1000),
        "k" => ten(3),
        "M" => ten(6),
        "G" => ten(9),
        "T" => ten(12),
        "P" => ten(15),
        "E" => ten(18),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        other => {
            let exponent: i32 = other.strip_prefix(['e', 'E'])?.parse().ok()?;
            let power = 10_i128.checked_pow(exponent.unsigned_abs())?;
            if exponent < 0 { (1, power) } else { (power, 1) }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn quantities() {
        for (text, scale, expected) in [
            ("1", 1, Some(1)),
            ("100m", 1000, Some(100)),
            ("1.5", 1000, Some(1500)),
            ("0.0001", 1000, Some(1)),
            ("1Gi", 1, Some(1 << 30)),
            ("1.5Gi", 1, Some(3 << 29)),
            ("2e3", 1, Some(2000)),
            ("1E", 1, Some(1_000_000_000_000_000_000)),
            ("20E", 1, Some(i64::MAX)),
            ("100u", 1000, Some(1)),
            ("-1", 1, Some(-1)),
            ("", 1, None),
            ("1.2.3", 1, None),
            ("1x", 1, None),
        ] {
            assert_eq!(parse(text, scale), expected, "{text}");
        }
    }

    #[test]
    fn what_a_pod_asks_for() {
        let container = |cpu: &str| json!({"name": "c", "resources": {"requests": {"cpu": cpu}}});
        let sidecar =
            |cpu: &str| json!({"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": cpu}}});
        for (spec, cpu, scored) in [
            (json!({"containers": [container("1"), container("2")]}), 3000, 3000),
            (json!({"containers": [container("1")], "initContainers": [container("2")]}), 2000, 2000),
            (json!({"containers": [container("1")], "initContainers": [sidecar("1"), container("2")]}), 3000, 3000),
            (json!({"containers": [container("1")], "initContainers": [container("2"), sidecar("1")]}), 2000, 2000),
            (json!({"containers": [container("1")], "overhead": {"cpu": "250m"}}), 1250, 1250),
            (json!({"containers": [{"name": "c"}], "resources": {"requests": {"cpu": "4"}}}), 4000, 4000),
            (json!({"containers": [{"name": "c"}, {"name": "d"}]}), 0, 200),
        ] {
            let (real, (scored_cpu, _)) = of_pod(&serde_json::from_value(spec.clone()).unwrap());
            assert_eq!((real.cpu, scored_cpu), (cpu, scored), "{spec}");
        }
    }
}
