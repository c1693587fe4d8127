//! Registries of metrics: each part of a process registers its own, each server shows its own as Prometheus text, and
//! all of them are exported.

use parking_lot::Mutex;
use prometheus_client::{encoding::text::encode, registry::Metric};
use std::{
    fmt,
    sync::{Arc, Weak},
};

/// Sources that are exported at once; further ones are not (a cluster is one).
const MOST_SOURCES: usize = 4_096;

/// Something that can tell its metrics as Prometheus text.
pub trait MetricsSource: Send + Sync {
    /// The text.
    fn text(&self) -> String;
}

/// A registry; clones are the same one.
#[derive(Clone, Default)]
pub struct Registry(Arc<Inner>);

#[derive(Default)]
struct Inner(Mutex<prometheus_client::registry::Registry>);

impl fmt::Debug for Registry {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Registry")
    }
}

impl Registry {
    /// Adds a metric; a counter's name is given without its `_total`.
    pub fn register(&self, name: &str, help: &str, metric: impl Metric) {
        self.0.0.lock().register(name, help, metric);
    }

    /// Everything as Prometheus text.
    #[must_use]
    pub fn text(&self) -> String {
        MetricsSource::text(&*self.0)
    }

    /// The same as something to export.
    #[must_use]
    pub fn source(&self) -> Arc<dyn MetricsSource> {
        self.0.clone()
    }
}

impl MetricsSource for Inner {
    fn text(&self) -> String {
        let mut text = String::new();
        // Writing to memory does not fail.
        let _ = encode(&mut text, &self.0.lock());
        classic(&text)
    }
}

/// The library writes OpenMetrics, where a counter's family lacks the `_total` of its samples and every text ends with
/// a mark; the text that upstream's servers answer with, and that its clients parse, has neither.
fn classic(open: &str) -> String {
    let mut out = String::with_capacity(open.len() + 256);
    let mut lines = open.lines().peekable();
    while let Some(line) = lines.next() {
        if line == "# EOF" {
            break;
        }
        // `# HELP name text` stands before `# TYPE name counter`, so the former looks ahead.
        let type_line = if line.starts_with("# HELP ") { lines.peek().copied().unwrap_or_default() } else { line };
        let is_counter = type_line.starts_with("# TYPE ") && type_line.ends_with(" counter");
        match line.strip_prefix("# ").and_then(|rest| rest.split_once(' ')).filter(|_| is_counter) {
            Some((word, rest)) => {
                let (name, tail) = rest.split_once(' ').unwrap_or((rest, ""));
                out.push_str(&format!("# {word} {name}_total {tail}\n"));
            }
            None => {
                out.push_str(line);
                out.push('\n');
            }
        }
    }
    out
}

type Attributes = Vec<(String, String)>;

static SOURCES: Mutex<Vec<(Weak<dyn MetricsSource>, Attributes)>> = Mutex::new(Vec::new());

/// Exports a source's metrics for as long as it lives, each figure with `attributes` besides its own labels.
pub fn export_metrics(source: &Arc<dyn MetricsSource>, attributes: &[(&str, &str)]) {
    let mut sources = SOURCES.lock();
    sources.retain(|(known, _)| known.strong_count() > 0);
    if sources.len() < MOST_SOURCES {
        let attributes = attributes.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        sources.push((Arc::downgrade(source), attributes));
    }
}

/// What is to be exported at present.
pub(super) fn sources() -> Vec<(Arc<dyn MetricsSource>, Attributes)> {
    let sources = SOURCES.lock();
    sources.iter().filter_map(|(source, attributes)| Some((source.upgrade()?, attributes.clone()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse_metrics;
    use prometheus_client::metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram};

    #[test]
    fn the_text_is_the_one_that_upstreams_clients_parse() {
        let registry = Registry::default();
        let (counter, gauge) = (Family::<Vec<(String, String)>, Counter>::default(), Gauge::<i64>::default());
        let histogram = Histogram::new([0.1, 1.0]);
        registry.register("things", "Things that happened", counter.clone());
        registry.register("depth", "How deep", gauge.clone());
        registry.register("took_seconds", "How long", histogram.clone());
        counter.get_or_create(&vec![("kind".to_owned(), "a \"b\"".to_owned())]).inc_by(3);
        gauge.set(-2);
        histogram.observe(0.5);
        let text = registry.text();
        assert!(text.contains("# TYPE things_total counter\nthings_total{kind=\"a \\\"b\\\"\"} 3\n"), "{text}");
        assert!(text.contains("# HELP things_total Things that happened.\n"), "{text}");
        assert!(!text.contains("EOF"), "{text}");
        let families = parse_metrics(&text).unwrap();
        assert_eq!(families.len(), 3);
    }

    #[test]
    fn sources_are_exported_while_they_live() {
        let registry = Registry::default();
        let mine = || sources().into_iter().filter(|(_, attributes)| attributes[0].1 == "of this test").count();
        export_metrics(&registry.source(), &[("cluster", "of this test")]);
        assert_eq!(mine(), 1);
        drop(registry);
        assert_eq!(mine(), 0);
    }
}
