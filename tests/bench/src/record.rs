//! Figures: collected over rounds, printed beside the last recorded ones, recorded.

use crate::{budget, peer::Side};
use anyhow::{Context, bail};
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs::{self, OpenOptions},
    io::Write as _,
    path::Path,
    process::Command,
};

/// The columns of the results, in order.
const HEADER: &str = "date\tcommit\tworkload\tunit\tours\tupstream\tratio\n";

/// What was measured, every round of it.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    order: Vec<(String, &'static str)>,
    values: BTreeMap<(String, &'static str, Side), Vec<f64>>,
}

/// One line of the table.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Line {
    pub(crate) workload: String,
    pub(crate) unit: String,
    pub(crate) ours: Option<f64>,
    pub(crate) upstream: Option<f64>,
}

impl Line {
    /// How many times better ours is: rates are better when they are higher, everything else when it is lower.
    fn ratio(&self) -> Option<f64> {
        let (ours, upstream) = (self.ours?, self.upstream?);
        Some(if self.unit.starts_with("/s") { ours / upstream } else { upstream / ours })
    }
}

impl Figures {
    pub(crate) fn add(&mut self, side: Side, workload: &str, unit: &'static str, value: f64) {
        let key = (workload.to_owned(), unit);
        if !self.order.contains(&key) {
            self.order.push(key);
        }
        self.values.entry((workload.to_owned(), unit, side)).or_default().push(value);
    }

    /// The medians, in the order in which they were measured.
    pub(crate) fn lines(&self) -> Vec<Line> {
        let line = |(workload, unit): &(String, &'static str)| {
            let value = |side| self.values.get(&(workload.clone(), *unit, side)).map(|values| median(values));
            let (ours, upstream) = (value(Side::Ours), value(Side::Upstream));
            Line { workload: workload.clone(), unit: (*unit).to_owned(), ours, upstream }
        };
        self.order.iter().map(line).collect()
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) }
}

/// The recorded results.
#[derive(Debug, Default)]
pub(crate) struct Results(Vec<Line>);

impl Results {
    /// Reads them; a file that is not there is empty.
    pub(crate) fn load(path: &Path) -> anyhow::Result<Self> {
        match fs::read_to_string(path) {
            Ok(text) => Self::parse(&text).with_context(|| path.display().to_string()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| path.display().to_string()),
        }
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let mut lines = text.lines();
        if lines.next().is_some_and(|first| first != HEADER.trim_end()) {
            bail!("the first line does not name the columns");
        }
        let parse = |line: &str| {
            let fields: Vec<_> = line.split('\t').collect();
            let [_, _, workload, unit, ours, upstream, _] = fields[..] else { bail!("{line:?} has not seven fields") };
            let number = |text: &str| if text.is_empty() { Ok(None) } else { text.parse().map(Some) };
            Ok(Line {
                workload: workload.to_owned(),
                unit: unit.to_owned(),
                ours: number(ours)?,
                upstream: number(upstream)?,
            })
        };
        Ok(Self(lines.map(parse).collect::<anyhow::Result<_>>()?))
    }

    /// The last recorded figure of our own, and the last that upstream took.
    fn last(&self, workload: &str, unit: &str) -> (Option<f64>, Option<f64>) {
        let of = || self.0.iter().rev().filter(|line| line.workload == workload && line.unit == unit);
        (of().find_map(|line| line.ours), of().find_map(|line| line.upstream))
    }

    /// Appends what was measured.
    pub(crate) fn append(&mut self, path: &Path, lines: &[Line], date: &str, commit: &str) -> anyhow::Result<()> {
        let mut text = if self.0.is_empty() && !path.exists() { HEADER.to_owned() } else { String::new() };
        let field = |value: Option<f64>| value.map(number).unwrap_or_default();
        for line in lines {
            let (ours, upstream, ratio) = (field(line.ours), field(line.upstream), field(line.ratio()));
            writeln!(text, "{date}\t{commit}\t{}\t{}\t{ours}\t{upstream}\t{ratio}", line.workload, line.unit)?;
        }
        let mut file = OpenOptions::new().create(true).append(true).open(path).context("results")?;
        file.write_all(text.as_bytes())?;
        self.0.extend_from_slice(lines);
        Ok(())
    }
}

/// Three significant digits, whole numbers from a hundred on.
fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

/// The table for people: what was measured, beside the budget and what was recorded last.
pub(crate) fn table(lines: &[Line], results: &Results) -> String {
    let mut rows =
        vec![["workload", "unit", "ours", "last", "upstream", "ratio", "budget", ""].map(str::to_owned).to_vec()];
    for line in lines {
        let show = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), number);
        let (last, known) = results.last(&line.workload, &line.unit);
        let upstream = line.upstream.or(known);
        let budget = budget::of(&line.workload, &line.unit);
        let bound = budget.map(|budget| number(budget.bound(line.upstream)));
        let verdict =
            budget.zip(line.ours).map(|(budget, ours)| if budget.holds(ours, line.upstream) { "ok" } else { "MISSED" });
        rows.push(vec![
            line.workload.clone(),
            line.unit.clone(),
            show(line.ours),
            show(last),
            // In brackets: from an earlier sitting.
            if line.upstream.is_none() && known.is_some() { format!("({})", show(upstream)) } else { show(upstream) },
            show(line.ratio()),
            bound.unwrap_or_default(),
            verdict.unwrap_or_default().to_owned(),
        ]);
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = (0..8).map(width).collect();
    let mut out = String::new();
    for row in &rows {
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let width = *width;
            // Names to the left, figures to the right.
            let _ = if column < 2 { write!(out, "{cell:width$}  ") } else { write!(out, "{cell:>width$}  ") };
        }
        out.truncate(out.trim_end().len());
        out.push('\n');
    }
    out
}

/// The commit that is measured, `+` when files differ from it.
pub(crate) fn commit() -> String {
    let git = |args: &[&str]| Command::new("git").args(args).output().ok().filter(|output| output.status.success());
    let text = |output: std::process::Output| String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let Some(commit) = git(&["rev-parse", "--short=9", "HEAD"]).map(text) else { return "unknown".to_owned() };
    let changed =
        git(&["status", "--porcelain", "--untracked-files=no"]).map(text).is_some_and(|text| !text.is_empty());
    if changed { commit + "+" } else { commit }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures() -> Figures {
        let mut figures = Figures::default();
        for value in [300.0, 100.0, 200.0] {
            figures.add(Side::Ours, "api/create", "us CPU", value);
        }
        figures.add(Side::Upstream, "api/create", "us CPU", 1900.0);
        figures.add(Side::Ours, "dns/queries", "/s per core", 90_000.0);
        figures
    }

    #[test]
    fn the_median_of_the_rounds_counts() {
        let lines = figures().lines();
        assert_eq!((lines[0].ours, lines[0].upstream, lines[0].ratio()), (Some(200.0), Some(1900.0), Some(9.5)));
        assert_eq!((lines[1].ours, lines[1].ratio()), (Some(90_000.0), None));
        assert_eq!(median(&[1.0, 2.0]), 1.5);
        let rate = Line { workload: "api/get".into(), unit: "/s".into(), ours: Some(30.0), upstream: Some(10.0) };
        assert_eq!(rate.ratio(), Some(3.0));
    }

    #[test]
    fn what_is_recorded_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results.tsv");
        let mut results = Results::load(&path).unwrap();
        results.append(&path, &figures().lines(), "2026-11-21", "abc").unwrap();
        Results::load(&path).unwrap().append(&path, &figures().lines(), "2026-11-22", "def").unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 5);
        assert_eq!(text.lines().nth(1), Some("2026-11-21\tabc\tapi/create\tus CPU\t200\t1900\t9.50"));
        assert_eq!(Results::load(&path).unwrap().last("api/create", "us CPU"), (Some(200.0), Some(1900.0)));
    }

    #[test]
    fn the_table_shows_budget_and_last() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results.tsv");
        let mut results = Results::default();
        results.append(&path, &figures().lines(), "2026-11-21", "abc").unwrap();
        let mut lines = figures().lines();
        lines[0].upstream = None;
        let table = table(&lines, &results);
        let first: Vec<_> = table.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(first, ["api/create", "us", "CPU", "200", "200", "(1900)", "-", "200", "ok"]);
    }

    #[test]
    fn a_strange_file_is_refused() {
        assert!(Results::parse("a\tb\n").is_err());
        assert!(Results::parse(&format!("{HEADER}1\t2\n")).is_err());
        assert_eq!(Results::parse("").unwrap().0.len(), 0);
    }
}
