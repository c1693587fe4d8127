//! One call on its way through a handler: what it may read and change, and how lists are cut into pages.

use crate::config::Config;
use crate::error::{AwsError, refuse};
use crate::filters::Filters;
use crate::form::Tree;
use crate::iam::{Caller, Iam};
use crate::region::Region;
use crate::shelf::{At, Shelf};
use crate::table::{Action, Service};
use crate::xml::{Node, text};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as CODE};
use jiff::Timestamp;
use std::cell::Cell;

/// What handlers give back: the elements of the answer.
pub(crate) type Outcome = Result<Vec<Node>, AwsError>;

/// A handler of one action.
pub(crate) type Handler = fn(&mut Call<'_>) -> Outcome;

/// A call.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    pub(crate) region: &'a mut Region,
    pub(crate) iam: &'a mut Iam,
    pub(crate) config: &'a Config,
    pub(crate) action: &'a Action,
    pub(crate) form: &'a Tree,
    /// `None` for the one action that needs no signature.
    pub(crate) caller: Option<&'a Caller>,
    pub(crate) now: Timestamp,
    /// The moment that reads see.
    pub(crate) at: At,
    /// How many objects were looked at.
    pub(crate) looked_at: Cell<u64>,
}

/// A page of a list, and the token of the next one.
pub(crate) type Page<T> = (Vec<T>, Option<String>);

impl Call<'_> {
    /// The value at `path`, which the table requires.
    pub(crate) fn must(&self, path: &str) -> Result<&str, AwsError> {
        let missing = || refuse("MissingParameter", format!("The request must contain the parameter {path}"));
        self.form.text(path).ok_or_else(missing)
    }

    /// Identifiers given in the list `name` (of those that the read sees), or all that hold the filters: a page of them.
    pub(crate) fn describe<'s, T: Clone + 's>(
        &self,
        shelf: &'s Shelf<T>,
        name: &str,
        missing: impl Fn(&str) -> AwsError,
        holds: impl Fn(&Filters, &str, &T) -> bool,
    ) -> Result<Page<(&'s str, &'s T)>, AwsError> {
        let ids = self.form.list(name);
        let filters = Filters::of(self.form);
        let looked = |pair: &(&str, &T)| {
            self.looked_at.set(self.looked_at.get() + 1);
            holds(&filters, pair.0, pair.1)
        };
        if ids.is_empty() {
            let after = self.cursor()?;
            return Ok(self.cut(shelf.after(&after, self.at).filter(looked), |pair| pair.0.to_owned()));
        }
        let exclusive = ["DescribeInstances", "DescribeVolumes", "DescribeSnapshots", "DescribeInstanceStatus"];
        if self.form.has("MaxResults") && exclusive.contains(&self.action.name.as_str()) {
            let message = "The parameter maxResults cannot be used with a list of identifiers in the same call";
            return Err(refuse("InvalidParameterCombination", message));
        }
        let mut found = Vec::with_capacity(ids.len());
        for id in ids {
            let (key, thing) = shelf.seen_entry(id, self.at).ok_or_else(|| missing(id))?;
            if looked(&(key, thing)) && !found.iter().any(|(it, _)| *it == key) {
                found.push((key, thing));
            }
        }
        Ok((found, None))
    }

    /// Behind which key the page begins.
    pub(crate) fn cursor(&self) -> Result<String, AwsError> {
        let name = if self.action.service == Service::Ec2 { "NextToken" } else { "Marker" };
        let Some(token) = self.form.text(name) else { return Ok(String::new()) };
        let decoded = CODE.decode(token).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let key = decoded.and_then(|text| text.strip_prefix(&format!("{}\n", self.action.name)).map(str::to_owned));
        key.ok_or_else(|| match self.action.service {
            Service::Ec2 => refuse("InvalidNextToken", "The token is invalid."),
            _ => refuse("ValidationError", format!("Invalid marker '{token}'")),
        })
    }

    /// Cuts a page out of what comes in the order of its keys.
    pub(crate) fn cut<T>(&self, mut all: impl Iterator<Item = T>, key: impl Fn(&T) -> String) -> Page<T> {
        let (name, otherwise) = match (self.action.service, self.action.page) {
            (Service::Ec2, _) => ("MaxResults", None),
            (_, Some((_, most))) => ("PageSize", Some(most)),
            (_, None) => ("PageSize", None),
        };
        let size = self.form.number(name).or(otherwise).and_then(|size| usize::try_from(size).ok());
        let Some(size) = size else { return (all.collect(), None) };
        let page: Vec<T> = all.by_ref().take(size).collect();
        let more = page.last().filter(|_| all.next().is_some());
        let token = more.map(|last| CODE.encode(format!("{}\n{}", self.action.name, key(last))));
        (page, token)
    }

    /// The element of a page's token.
    pub(crate) fn token(&self, token: Option<String>) -> Option<Node> {
        let name = if self.action.service == Service::Ec2 { "nextToken" } else { "NextMarker" };
        token.map(|token| text(name, token))
    }
}
