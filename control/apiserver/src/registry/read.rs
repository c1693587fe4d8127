//! GET and LIST: from the cache, or from the store where the past is asked for.

use super::{
    call::Call,
    commit::{cache_status, store_status, too_large},
    continuation::{self, Continuation},
    list_options::{Freshness, ListOptions, parse_version},
    view::{INDEXED, View},
};
use crate::{
    cache::{Entry, Predicate, Selection, Trigger},
    custom::Custom,
    http,
};
use bytes::Bytes;
use std::{borrow::Cow, sync::Arc};
use timonel_api::{FieldSelector, LabelSelector, Status};
use timonel_store::{KeyRange, RangeRequest, Revision, Store, StoreError};

/// One answer to a list.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) entries: Vec<Arc<Entry>>,
    pub(crate) revision: Revision,
    pub(crate) continuation: Option<String>,
    pub(crate) remaining: Option<u64>,
}

/// The selectors of a request, compiled.
#[derive(Clone, Debug)]
pub(crate) struct Selectors {
    pub(crate) selection: Selection,
    /// Whether every object of the trigger is wanted.
    pub(crate) is_everything: bool,
    /// Whether objects must be converted by a webhook before the selectors can judge them; until then all match.
    pub(crate) is_late: bool,
}

impl Selectors {
    /// Converts what must be converted to be judged, and drops what does not match.
    pub(crate) async fn settle(&self, view: &View, entries: &mut Vec<Arc<Entry>>) -> Result<(), Status> {
        if self.is_late {
            view.prepare(entries).await?;
            entries.retain(|entry| takes(&self.selection, entry));
        }
        Ok(())
    }
}

/// Answers GET of one object.
pub(crate) async fn get(call: &Call<'_>) -> Result<http::Answer, Status> {
    let name = &*call.info.name;
    match parse_version(call.query.get("resourceVersion"))? {
        Some(0) => {}
        Some(revision) => call.view.slot.place().wait_until(revision).await.map_err(cache_status)?,
        None => drop(call.view.slot.place().wait_newest().await.map_err(cache_status)?),
    }
    let entry = call.view.slot.get(call.namespace(), name).ok_or_else(|| call.view.not_found(name))?;
    call.view.prepare(std::slice::from_ref(&entry)).await?;
    super::answer::entry(call, &entry, 200)
}

/// Answers LIST.
pub(crate) async fn list(call: &Call<'_>) -> Result<http::Answer, Status> {
    let page = page(call).await?;
    super::answer::encode_ahead(call, &page).await?;
    super::answer::list(call, page)
}

/// The objects that a list asks for.
pub(crate) async fn page(call: &Call<'_>) -> Result<Page, Status> {
    let page = gathered(call).await?;
    call.view.prepare(&page.entries).await?;
    Ok(page)
}

async fn gathered(call: &Call<'_>) -> Result<Page, Status> {
    let options = ListOptions::parse(call.query, false)?;
    let selectors = selectors(call)?;
    if !options.continuation.is_empty() {
        return continued(call, &options, &selectors).await;
    }
    let place = call.view.slot.place();
    match options.freshness()? {
        Freshness::Exact(revision) => return past(call, &options, &selectors, revision, None).await,
        Freshness::Newest => drop(place.wait_newest().await.map_err(cache_status)?),
        Freshness::NotOlderThan(revision) => place.wait_until(revision).await.map_err(cache_status)?,
        Freshness::Any => {}
    }
    let revision = place.delivered();
    let mut entries = call.view.slot.list(&selectors.selection);
    selectors.settle(&call.view, &mut entries).await?;
    // A list of "whatever is at hand" is not cut into pages, as upstream's cache does not either.
    let limit = if options.resource_version == "0" { 0 } else { options.limit };
    let total = entries.len();
    if limit == 0 || total <= limit {
        return Ok(Page { entries, revision, continuation: None, remaining: None });
    }
    entries.truncate(limit);
    let start = next_start(call, entries.last());
    Ok(Page {
        continuation: Some(Continuation { revision: Some(revision), start }.encode()),
        remaining: selectors.is_everything.then_some((total - limit) as u64),
        entries,
        revision,
    })
}

/// Where the page after `last` starts, relative to the listed range.
fn next_start(call: &Call<'_>, last: Option<&Arc<Entry>>) -> String {
    let base = call.view.slot.range(call.namespace()).start.len();
    let key = last.map_or(&[][..], |entry| &entry.key()[base..]);
    format!("{}\0", String::from_utf8_lossy(key))
}

async fn continued(call: &Call<'_>, options: &ListOptions, selectors: &Selectors) -> Result<Page, Status> {
    if !matches!(options.resource_version.as_str(), "" | "0") {
        return Err(Status::bad_request("specifying resource version is not allowed when using continue"));
    }
    let token = Continuation::parse(&options.continuation)?;
    let revision = match token.revision {
        Some(revision) => revision,
        None => call.view.slot.place().wait_newest().await.map_err(cache_status)?,
    };
    past(call, options, selectors, revision, Some(token.start)).await
}

/// Reads the store as of a revision, from `start` on.
async fn past(
    call: &Call<'_>,
    options: &ListOptions,
    selectors: &Selectors,
    revision: Revision,
    start: Option<String>,
) -> Result<Page, Status> {
    let whole = call.view.slot.range(call.namespace());
    let mut range = whole.clone();
    if let Some(start) = &start {
        range.start = Bytes::from([&whole.start[..], start.as_bytes()].concat());
    }
    let limit = if options.limit == 0 { usize::MAX } else { options.limit };
    let mut page = Page { entries: Vec::new(), revision, continuation: None, remaining: None };
    loop {
        let want = if selectors.is_everything { limit.saturating_sub(page.entries.len()) } else { 0 };
        let (count, more, items) = read_past(call, &range, revision, want, start.as_deref()).await?;
        let mut last = None;
        let read = items.len();
        let mut taken = 0;
        let mut judged = Vec::new();
        if selectors.is_late {
            let entries = items.iter().map(|item| call.view.slot.entry(item).map_err(Status::internal));
            judged = entries.collect::<Result<_, _>>()?;
            call.view.prepare(&judged).await?;
        }
        let mut judged = judged.into_iter();
        for item in &items {
            last = Some(item.key.clone());
            taken += 1;
            let entry = match judged.next() {
                Some(entry) => entry,
                None => call.view.slot.entry(item).map_err(Status::internal)?,
            };
            if takes(&selectors.selection, &entry) {
                page.entries.push(entry);
            }
            if page.entries.len() == limit {
                break;
            }
        }
        let Some(last) = last else { return Ok(page) };
        range.start = Bytes::from([&last[..], &[0]].concat());
        let left = more || taken < read;
        if page.entries.len() >= limit && left {
            let start = format!("{}\0", String::from_utf8_lossy(&last[whole.start.len()..]));
            page.continuation = Some(Continuation { revision: Some(revision), start }.encode());
            page.remaining = selectors.is_everything.then(|| count.saturating_sub(taken as u64));
            return Ok(page);
        }
        if !left {
            return Ok(page);
        }
    }
}

async fn read_past(
    call: &Call<'_>,
    range: &KeyRange,
    revision: Revision,
    limit: usize,
    start: Option<&str>,
) -> Result<(u64, bool, Vec<timonel_store::KeyValue>), Status> {
    let limit = if limit == usize::MAX { 0 } else { limit };
    let request = RangeRequest { range: range.clone(), revision: Some(revision), limit };
    match call.view.slot.place().store().range(request).await {
        Ok(found) => Ok((found.count, found.more, found.items)),
        Err(StoreError::Compacted { .. }) => Err(match start {
            Some(start) => continuation::expired(start),
            None => continuation::too_old(),
        }),
        Err(StoreError::Future { newest }) => Err(too_large(revision, newest)),
        Err(other) => Err(store_status(other)),
    }
}

fn takes(selection: &Selection, entry: &Entry) -> bool {
    let within = match &selection.trigger {
        Trigger::Path(path) => entry.path() == path,
        _ => true,
    };
    within && selection.predicate.as_ref().is_none_or(|predicate| predicate(entry))
}

/// Compiles the selectors of a list, watch or deletion of a collection.
pub(crate) fn selectors(call: &Call<'_>) -> Result<Selectors, Status> {
    let view = &call.view;
    let labels = match call.query.get("labelSelector") {
        "" => LabelSelector::everything(),
        text => LabelSelector::parse(text)
            .map_err(|error| Status::bad_request(format!("unable to parse requirement: {error}")))?,
    };
    let resource = &view.resource;
    let mut fields = match call.query.get("fieldSelector") {
        "" => FieldSelector::everything(),
        text => FieldSelector::parse(text, &resource.group, &resource.version, &resource.kind, &view.selectable())
            .map_err(|error| Status::bad_request(error.to_string()))?,
    };
    if call.info.is_named {
        // `/watch/…/NAME`: the path names the object.
        fields = FieldSelector::parse(
            &format!("metadata.name={}", call.info.name),
            &resource.group,
            &resource.version,
            &resource.kind,
            &[],
        )
        .map_err(|error| Status::bad_request(error.to_string()))?;
    }
    let trigger = trigger(call, &fields);
    let is_everything = labels.is_everything() && fields.is_everything();
    let is_late = !fields.is_everything() && view.custom.as_ref().is_some_and(Custom::has_converter);
    let predicate = (!is_everything || needs_namespace(call, &trigger)).then(|| match is_late {
        true => late_predicate(view.clone(), labels, fields, call.namespace().to_owned()),
        false => predicate(view, labels, fields, call.namespace().to_owned()),
    });
    Ok(Selectors { selection: Selection { trigger, predicate }, is_everything, is_late })
}

/// The narrowest group of watchers and objects that covers the request.
fn trigger(call: &Call<'_>, fields: &FieldSelector) -> Trigger {
    let namespace = call.namespace();
    if let Some(name) = fields.exact("metadata.name") {
        if !call.view.resource.namespaced {
            return Trigger::Path(name.to_owned());
        }
        if !namespace.is_empty() {
            return Trigger::Path(format!("{namespace}/{name}"));
        }
    }
    if let Some(node) = fields.exact(INDEXED).filter(|_| super::view::index_field(&call.view.storage.storage).is_some())
    {
        return Trigger::Indexed(node.to_owned());
    }
    if namespace.is_empty() { Trigger::All } else { Trigger::Namespace(namespace.to_owned()) }
}

fn needs_namespace(call: &Call<'_>, trigger: &Trigger) -> bool {
    matches!(trigger, Trigger::Indexed(_)) && !call.namespace().is_empty()
}

fn predicate(view: &View, labels: LabelSelector, fields: FieldSelector, namespace: String) -> Predicate {
    let columns = view.columns.clone();
    Arc::new(move |entry: &Entry| {
        (namespace.is_empty() || entry.namespace() == namespace)
            && labels.matches(entry)
            && fields.matches_with(|label| match label {
                "metadata.name" => Cow::Borrowed(entry.name()),
                "metadata.namespace" => Cow::Borrowed(entry.namespace()),
                _ => columns.value(entry, label),
            })
    })
}

/// The same where a webhook makes the fields: what it has not converted yet matches.
fn late_predicate(view: Arc<View>, labels: LabelSelector, fields: FieldSelector, namespace: String) -> Predicate {
    Arc::new(move |entry: &Entry| {
        (namespace.is_empty() || entry.namespace() == namespace)
            && labels.matches(entry)
            && (!view.is_ready(entry) || fields.matches_with(|label| view.field(entry, label)))
    })
}
