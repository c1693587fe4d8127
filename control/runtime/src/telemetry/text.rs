//! Prometheus text, read strictly: what `promtool check metrics` would refuse is refused. Pure.
//!
//! Serves the export (every part of a process already tells its metrics as text) and the tests of those who write it.

use std::collections::BTreeSet;

/// What a family's samples mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Buckets, a sum and a count.
    Histogram,
    /// Quantiles, a sum and a count.
    Summary,
    /// Not said.
    Untyped,
}

/// One figure.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The family's name, or that with `_bucket`, `_sum` or `_count`.
    pub name: String,
    /// In their order.
    pub labels: Vec<(String, String)>,
    /// The figure.
    pub value: f64,
}

/// Figures of one name.
#[derive(Clone, Debug, PartialEq)]
pub struct Family {
    /// Its name.
    pub name: String,
    /// What it says of itself.
    pub help: String,
    /// What its samples mean.
    pub kind: Kind,
    /// Its figures.
    pub samples: Vec<Sample>,
}

/// What is wrong with a text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct TextError {
    /// Counted from one.
    pub line: usize,
    /// The fault.
    pub what: String,
}

/// Reads a text.
///
/// # Errors
/// The first line that is not as it must be: a strange name, a family twice, a sample of another family or twice, a
/// type after samples, a counter without `_total`, a histogram without its last bucket.
pub fn parse_metrics(text: &str) -> Result<Vec<Family>, TextError> {
    let mut parser = Parser::default();
    for (number, line) in text.lines().enumerate() {
        parser.line(line).map_err(|what| TextError { line: number + 1, what })?;
    }
    let line = text.lines().count();
    parser.close().map_err(|what| TextError { line, what })?;
    Ok(parser.families)
}

#[derive(Default)]
struct Parser {
    families: Vec<Family>,
    names: BTreeSet<String>,
    series: BTreeSet<(String, Vec<(String, String)>)>,
}

impl Parser {
    fn line(&mut self, line: &str) -> Result<(), String> {
        if line.trim().is_empty() {
            return Ok(());
        }
        if let Some(comment) = line.strip_prefix('#') {
            let comment = comment.trim_start();
            let (word, rest) = comment.split_once(' ').unwrap_or((comment, ""));
            let (name, rest) = rest.split_once(' ').unwrap_or((rest, ""));
            return match word {
                "HELP" => self.family(name).map(|family| rest.clone_into(&mut family.help)),
                "TYPE" => self.kind(name, rest),
                _ => Ok(()),
            };
        }
        let sample = sample(line)?;
        let family = self.families.last_mut().filter(|family| belongs(family, &sample.name));
        let family = match family {
            Some(family) => family,
            None => self.family(&sample.name)?,
        };
        family.samples.push(sample.clone());
        let mut labels = sample.labels;
        labels.sort();
        if !self.series.insert((sample.name, labels)) {
            return Err("the same series a second time".to_owned());
        }
        Ok(())
    }

    /// The family that is being read, or a new one under that name.
    fn family(&mut self, name: &str) -> Result<&mut Family, String> {
        if self.families.last().is_none_or(|last| last.name != name) {
            self.close()?;
            if !is_name(name, true) {
                return Err(format!("{name:?} cannot be a name"));
            }
            if !self.names.insert(name.to_owned()) {
                return Err(format!("{name} comes a second time"));
            }
            let (name, help) = (name.to_owned(), String::new());
            self.families.push(Family { name, help, kind: Kind::Untyped, samples: Vec::new() });
        }
        self.families.last_mut().ok_or_else(|| "no family".to_owned())
    }

    fn kind(&mut self, name: &str, kind: &str) -> Result<(), String> {
        let kind = match kind {
            "counter" => Kind::Counter,
            "gauge" => Kind::Gauge,
            "histogram" => Kind::Histogram,
            "summary" => Kind::Summary,
            "untyped" | "unknown" => Kind::Untyped,
            other => return Err(format!("{other:?} is no type")),
        };
        if kind == Kind::Counter && !name.ends_with("_total") {
            return Err(format!("the counter {name} does not end with _total"));
        }
        let family = self.family(name)?;
        if !family.samples.is_empty() {
            return Err(format!("the type of {name} comes after its samples"));
        }
        family.kind = kind;
        Ok(())
    }

    /// Checks the family that ends here.
    fn close(&self) -> Result<(), String> {
        let Some(family) = self.families.last().filter(|family| family.kind == Kind::Histogram) else { return Ok(()) };
        let infinite = |sample: &&Sample| sample.labels.iter().any(|(key, value)| key == "le" && value == "+Inf");
        let of = |suffix: &'static str| family.samples.iter().filter(move |sample| sample.name.ends_with(suffix));
        let (last, count) = (of("_bucket").filter(infinite).count(), of("_count").count());
        if last == count {
            Ok(())
        } else {
            Err(format!("{}: {count} histograms have {last} last buckets", family.name))
        }
    }
}

fn belongs(family: &Family, sample: &str) -> bool {
    let Some(rest) = sample.strip_prefix(family.name.as_str()) else { return false };
    match family.kind {
        Kind::Histogram => matches!(rest, "_bucket" | "_sum" | "_count"),
        Kind::Summary => matches!(rest, "" | "_sum" | "_count"),
        _ => rest.is_empty(),
    }
}

fn is_name(name: &str, colons: bool) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || (colons && c == ':');
    !name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit()) && name.chars().all(fits)
}

fn sample(line: &str) -> Result<Sample, String> {
    let end = line.find(['{', ' ']).ok_or("a sample without a value")?;
    let (name, mut rest) = line.split_at(end);
    if !is_name(name, true) {
        return Err(format!("{name:?} cannot be a name"));
    }
    let mut labels: Vec<(String, String)> = Vec::new();
    if let Some(mut inside) = rest.strip_prefix('{') {
        loop {
            inside = inside.trim_start_matches([',', ' ']);
            if let Some(after) = inside.strip_prefix('}') {
                rest = after;
                break;
            }
            let (key, value) = inside.split_once("=\"").ok_or("a label without a value")?;
            let (value, after) = quoted(value)?;
            if !is_name(key, false) || labels.iter().any(|(known, _)| known == key) {
                return Err(format!("{key:?} cannot be a label here"));
            }
            labels.push((key.to_owned(), value));
            inside = after;
        }
    }
    let mut words = rest.split_whitespace();
    let value = words.next().ok_or("a sample without a value")?;
    let value = value.parse::<f64>().map_err(|_| format!("{value:?} is no figure"))?;
    if words.next().is_some_and(|time| time.parse::<i64>().is_err()) || words.next().is_some() {
        return Err("something stands after the value".to_owned());
    }
    Ok(Sample { name: name.to_owned(), labels, value })
}

/// What is quoted, and what stands after the closing quote.
fn quoted(text: &str) -> Result<(String, &str), String> {
    let mut out = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((out, &text[at + 1..])),
            '\\' => match chars.next() {
                Some((_, 'n')) => out.push('\n'),
                Some((_, c @ ('"' | '\\'))) => out.push(c),
                _ => return Err("a strange escape in a label".to_owned()),
            },
            c => out.push(c),
        }
    }
    Err("a label without its closing quote".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_text_is_read() {
        let text = "# HELP a_total How often.\n# TYPE a_total counter\na_total{x=\"1\\\"\\\\\\n\",y=\"\"} 3\na_total 4 1700\n\
                    # TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_bucket{le=\"+Inf\"} 2\nh_sum 1.5\nh_count 2\nplain -1e3\n";
        let families = parse_metrics(text).unwrap();
        let kinds: Vec<_> = families.iter().map(|family| (family.name.as_str(), family.kind)).collect();
        assert_eq!(kinds, [("a_total", Kind::Counter), ("h", Kind::Histogram), ("plain", Kind::Untyped)]);
        assert_eq!(families[0].samples[0].labels[0], ("x".to_owned(), "1\"\\\n".to_owned()));
        assert_eq!((families[0].help.as_str(), families[1].samples.len()), ("How often.", 4));
        assert_eq!(families[2].samples[0].value, -1000.0);
    }

    #[test]
    fn what_a_scraper_would_refuse_is_refused() {
        for (text, what) in [
            ("1a 2", "cannot be a name"),
            ("a", "without a value"),
            ("a x", "no figure"),
            ("a 1 2 3", "after the value"),
            ("a{b=\"c} 1", "closing quote"),
            ("a{b=\"\\t\"} 1", "strange escape"),
            ("a{b=\"1\",b=\"2\"} 1", "cannot be a label"),
            ("a 1\na 1", "second time"),
            ("a 1\nb 1\n# TYPE a gauge", "second time"),
            ("# TYPE a counter", "_total"),
            ("# TYPE a thing", "no type"),
            ("a 1\n# TYPE a gauge", "after its samples"),
            ("# TYPE h histogram\nh_count 1\n", "last buckets"),
        ] {
            let error = parse_metrics(text).unwrap_err().to_string();
            assert!(error.contains(what), "{text:?}: {error}");
        }
    }
}
