//! The tables of actions: which parameters each takes, of what form, which are required, which filters it knows.
//! The tables are text (`tables/*.txt`); this reads them, and holds calls to them. Never acts.
//!
//! A table has `set NAME` blocks, which actions include by `use NAME [at PREFIX]`, and `action NAME read|write` blocks.
//! A line of a block is a parameter's name (`#` stands for the number of an item, `!` at the end for required) and its
//! rule; `filters` lists the filters it knows, `page LOW HIGH` says that it answers in pages, `creates KIND` what it
//! makes (for policies), `half NAME` which list a half-applied call does half of, `no-dry-run` that EC2 knows no dry run of it.

mod rule;

use crate::error::{AwsError, refuse};
use crate::form::Tree;
use crate::ids::Kind;
pub(crate) use rule::Rule;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A family of calls with one version and one way of wording.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Service {
    Ec2,
    Elb,
    Sts,
}

impl Service {
    pub(crate) const ALL: [Self; 3] = [Self::Ec2, Self::Elb, Self::Sts];

    /// The version of its API that calls name.
    pub(crate) fn version(self) -> &'static str {
        match self {
            Self::Ec2 => "2016-11-15",
            Self::Elb => "2015-12-01",
            Self::Sts => "2011-06-15",
        }
    }

    /// Its name in signatures, policies and ARNs.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Ec2 => "ec2",
            Self::Elb => "elasticloadbalancing",
            Self::Sts => "sts",
        }
    }

    /// The namespace of its answers.
    pub(crate) fn namespace(self) -> &'static str {
        match self {
            Self::Ec2 => "http://ec2.amazonaws.com/doc/2016-11-15/",
            Self::Elb => "http://elasticloadbalancing.amazonaws.com/doc/2015-12-01/",
            Self::Sts => "https://sts.amazonaws.com/doc/2011-06-15/",
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Ec2 => concat!(
                include_str!("../tables/ec2-sets.txt"),
                include_str!("../tables/ec2-instances.txt"),
                include_str!("../tables/ec2-network.txt"),
                include_str!("../tables/ec2-volumes.txt"),
            ),
            Self::Elb => include_str!("../tables/elb.txt"),
            Self::Sts => include_str!("../tables/sts.txt"),
        }
    }

    /// EC2 words complaints about parameters in codes of their own, the others as validation errors.
    pub(crate) fn complain(self, ec2_code: &'static str, message: String) -> AwsError {
        if self == Self::Ec2 { refuse(ec2_code, message) } else { refuse("ValidationError", message) }
    }
}

/// A parameter.
#[derive(Clone, Debug)]
pub(crate) struct Param {
    pub(crate) name: String,
    pub(crate) required: bool,
    pub(crate) rule: Rule,
}

/// An action.
#[derive(Clone, Debug)]
pub(crate) struct Action {
    pub(crate) name: String,
    pub(crate) service: Service,
    pub(crate) write: bool,
    /// What it makes: a word of ARNs.
    pub(crate) creates: Option<String>,
    /// The list of which a half-applied call does half.
    pub(crate) half: Option<String>,
    /// The sizes of pages.
    pub(crate) page: Option<(i64, i64)>,
    pub(crate) filters: BTreeSet<String>,
    pub(crate) params: BTreeMap<String, Param>,
}

/// All actions of one service, by name.
pub(crate) type Table = BTreeMap<String, Arc<Action>>;

/// Reads the table of `service`.
///
/// # Panics
/// When the table is written wrong, which the tests of this module show.
pub(crate) fn read(service: Service) -> Table {
    let mut reader = Reader { service, sets: BTreeMap::new(), table: Table::new(), block: Block::Nothing };
    for (number, line) in service.text().lines().enumerate() {
        if line.starts_with("//") {
            continue;
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        if !words.is_empty() {
            reader
                .line(&words)
                .unwrap_or_else(|| panic!("line {} of the {} table: {line}", number + 1, service.word()));
        }
    }
    reader.table
}

enum Block {
    Nothing,
    Set(String),
    Action(String),
}

struct Reader {
    service: Service,
    sets: BTreeMap<String, Vec<Param>>,
    table: Table,
    block: Block,
}

impl Reader {
    fn line(&mut self, words: &[&str]) -> Option<()> {
        match words {
            ["set", name] => {
                self.sets.insert((*name).to_owned(), Vec::new());
                self.block = Block::Set((*name).to_owned());
            }
            ["action", name, kind @ ("read" | "write"), rest @ ..] => self.begin(name, *kind == "write", rest)?,
            ["use", set] => return self.sets.get(*set).cloned()?.into_iter().try_for_each(|param| self.add(param)),
            ["use", set, "at", prefix] => {
                let all = self.sets.get(*set).cloned()?;
                let below = |param: Param| Param { name: format!("{prefix}.{}", param.name), ..param };
                return all.into_iter().try_for_each(|param| self.add(below(param)));
            }
            ["filters", names @ ..] => self.action()?.filters.extend(names.iter().map(|name| (*name).to_owned())),
            ["page", low, high] => self.pages(low.parse().ok()?, high.parse().ok()?)?,
            [name, rule @ ..] => {
                let (bare, required) = name.strip_suffix('!').map_or((*name, false), |bare| (bare, true));
                self.add(Param { name: bare.to_owned(), required, rule: Rule::parse(rule)? })?;
            }
            [] => {}
        }
        Some(())
    }

    fn begin(&mut self, name: &str, write: bool, rest: &[&str]) -> Option<()> {
        let option = |word: &str| rest.iter().position(|it| *it == word).and_then(|at| rest.get(at + 1));
        let action = Action {
            name: name.to_owned(),
            service: self.service,
            write,
            creates: option("creates").map(|it| (*it).to_owned()),
            half: option("half").map(|it| (*it).to_owned()),
            page: None,
            filters: BTreeSet::new(),
            params: BTreeMap::new(),
        };
        self.block = Block::Action(name.to_owned());
        let fresh = self.table.insert(name.to_owned(), Arc::new(action)).is_none();
        if self.service == Service::Ec2 && !rest.contains(&"no-dry-run") {
            self.add(Param { name: "DryRun".to_owned(), required: false, rule: Rule::Flag })?;
        }
        fresh.then_some(())
    }

    fn pages(&mut self, low: i64, high: i64) -> Option<()> {
        self.action()?.page = Some((low, high));
        let (token, size) =
            if self.service == Service::Ec2 { ("NextToken", "MaxResults") } else { ("Marker", "PageSize") };
        self.add(Param { name: token.to_owned(), required: false, rule: Rule::Any(4096) })?;
        self.add(Param { name: size.to_owned(), required: false, rule: Rule::Int(low, high) })
    }

    fn action(&mut self) -> Option<&mut Action> {
        let Block::Action(name) = &self.block else { return None };
        self.table.get_mut(name).and_then(Arc::get_mut)
    }

    fn add(&mut self, param: Param) -> Option<()> {
        match &self.block {
            Block::Nothing => None,
            Block::Set(name) => self.sets.get_mut(name).map(|set| set.push(param)),
            Block::Action(name) => {
                let params = &mut Arc::get_mut(self.table.get_mut(name)?)?.params;
                params.insert(param.name.clone(), param).is_none().then_some(())
            }
        }
    }
}

impl Action {
    /// Holds the parameters of a call to the table: known, well formed, complete, and known filters only.
    pub(crate) fn check(&self, form: &Tree) -> Result<(), AwsError> {
        let mut fault = None;
        form.visit("", &mut |name, value| {
            if fault.is_none() {
                fault = self.check_value(name, value).err();
            }
        });
        if let Some(fault) = fault {
            return Err(fault);
        }
        for param in self.params.values().filter(|param| param.required) {
            self.check_required(form, &param.name, "")?;
        }
        Ok(())
    }

    fn check_value(&self, name: &str, value: &str) -> Result<(), AwsError> {
        let is_number = |step: &&str| !step.is_empty() && step.bytes().all(|byte| byte.is_ascii_digit());
        let plain: Vec<&str> = name.split('.').map(|step| if is_number(&step) { "#" } else { step }).collect();
        let unknown = || self.service.complain("UnknownParameter", format!("The parameter {name} is not recognized"));
        let param = self.params.get(&plain.join(".")).ok_or_else(unknown)?;
        if name.split('.').any(|step| step == "0") {
            return Err(unknown());
        }
        if param.name == "Filter.#.Name" {
            let known = self.filters.contains(value) || (value.starts_with("tag:") && self.filters.contains("tag"));
            if !known {
                return Err(refuse("InvalidParameterValue", format!("The filter '{value}' is invalid")));
            }
        }
        param.rule.check(self.service, name, value)
    }

    /// `path` must be there wherever what stands above it is there.
    fn check_required(&self, form: &Tree, path: &str, above: &str) -> Result<(), AwsError> {
        let missing = |name: &str| {
            let name = format!("{above}{}", name.trim_end_matches(".#"));
            Err(match self.service {
                Service::Ec2 => refuse("MissingParameter", format!("The request must contain the parameter {name}")),
                _ => refuse(
                    "ValidationError",
                    format!(
                        "1 validation error detected: Value null at '{name}' failed to satisfy constraint: Member must not be null"
                    ),
                ),
            })
        };
        if let Some(list) = path.strip_suffix(".#") {
            return if form.has(list) || !parent_is_there(form, list) { Ok(()) } else { missing(path) };
        }
        match path.split_once(".#.") {
            Some((list, rest)) => {
                form.items(list).try_for_each(|item| self.check_required(item, rest, &format!("{above}{list}.")))
            }
            None if form.text(path).is_some() || !parent_is_there(form, path) => Ok(()),
            None => missing(path),
        }
    }

    /// Identifiers and ARNs among the parameters that name what the call acts on, for policies.
    pub(crate) fn resources<'a>(&'a self, form: &'a Tree) -> Vec<(&'a Rule, String)> {
        let mut found = Vec::new();
        form.visit("", &mut |name, value| {
            let plain: Vec<&str> =
                name.split('.').map(|step| if step.parse::<u32>().is_ok() { "#" } else { step }).collect();
            if let Some(param) = self.params.get(&plain.join(".")).filter(|param| param.rule.names_resource()) {
                found.push((&param.rule, value.to_owned()));
            }
        });
        found
    }

    /// The kind of EC2 resource that it makes.
    pub(crate) fn creates_kind(&self) -> Option<Kind> {
        self.creates.as_deref().and_then(Kind::named)
    }
}

fn parent_is_there(form: &Tree, path: &str) -> bool {
    path.rsplit_once('.').is_none_or(|(parent, _)| form.has(parent))
}

/// All tables as JSON: what checks of the emulator against public descriptions of the services read.
#[must_use]
pub fn tables() -> String {
    let action = |action: &Action| {
        let required: Vec<_> = action.params.values().filter(|it| it.required).map(|it| &it.name).collect();
        serde_json::json!({
            "params": action.params.values().map(|it| (&it.name, format!("{:?}", it.rule))).collect::<BTreeMap<_, _>>(),
            "required": required,
            "filters": action.filters,
            "write": action.write,
        })
    };
    let service = |service: Service| {
        let table = read(service);
        (service.word(), table.iter().map(|(name, it)| (name.clone(), action(it))).collect::<BTreeMap<_, _>>())
    };
    serde_json::json!(Service::ALL.into_iter().map(service).collect::<BTreeMap<_, _>>()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::form::pairs;

    #[test]
    fn the_tables_can_be_read() {
        for service in Service::ALL {
            let table = read(service);
            assert!(!table.is_empty());
            for action in table.values() {
                if let Some(half) = &action.half {
                    assert!(action.params.keys().any(|name| name.starts_with(&format!("{half}.#"))), "{}", action.name);
                }
                assert_eq!(action.filters.is_empty(), !action.params.contains_key("Filter.#.Name"), "{}", action.name);
            }
        }
    }

    #[test]
    fn calls_are_held_to_the_tables() {
        let tables = Service::ALL.map(read);
        for (service, action, form, want) in [
            (0, "DescribeInstances", "InstanceId.1=i-0123456789abcdef0&MaxResults=5", ""),
            (0, "DescribeInstances", "Colour=red", "UnknownParameter"),
            (0, "DescribeInstances", "InstanceId.0=i-0123456789abcdef0", "UnknownParameter"),
            (0, "DescribeInstances", "InstanceId=i-0123456789abcdef0", "UnknownParameter"),
            (0, "DescribeInstances", "InstanceId.1=red", "InvalidInstanceID.Malformed"),
            (0, "DescribeInstances", "MaxResults=4", "InvalidParameterValue"),
            (0, "DescribeInstances", "Filter.1.Name=colour", "InvalidParameterValue"),
            (0, "DescribeInstances", "Filter.1.Name=tag:a&Filter.1.Value.1=b", ""),
            (0, "RunInstances", "MinCount=1", "MissingParameter"),
            (0, "RunInstances", "MinCount=x&MaxCount=1", "InvalidParameterValue"),
            (0, "TerminateInstances", "", "MissingParameter"),
            (0, "TerminateInstances", "InstanceId.1=i-0123456789abcdef0&DryRun=yes", "InvalidParameterValue"),
            (2, "AssumeRole", "RoleArn=arn:aws:iam::123456789012:role/a", "ValidationError"),
            (2, "GetCallerIdentity", "A=b", "ValidationError"),
        ] {
            let form = Tree::from_pairs(&pairs(form).unwrap()).unwrap();
            let got = tables[service][action].check(&form).err().map(|error| error.code.into_owned());
            assert_eq!(got.unwrap_or_default(), want, "{action} {form:?}");
        }
    }
}
