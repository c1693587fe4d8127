//! Every operation on every resource: create, read, list, watch, update, patch, delete, and the subresources.
//!
//! What differs between kinds is data or a small function in `timonel-api`; here is the one path they share.
//! Custom resources, webhooks join this path: dynamic views in [`resources`], webhooks in
//! [`call`]'s two halves of admission. Apply is one more change in [`patch`]; [`owners`] writes down who owns what.

mod answer;
mod apply;
mod bootstrap;
mod call;
mod commit;
mod continuation;
mod create;
mod delete;
mod events;
mod list_options;
mod owners;
mod paired;
mod patch;
mod read;
mod requester;
mod resources;
mod route;
mod service_plan;
mod services;
mod subresources;
mod token_uses;
mod update;
mod view;
mod watch;

pub(crate) use bootstrap::{bootstrap, publish, send as send_to_self};
pub(crate) use call::{Call, MAX_BODY, admission_status, read_body};
pub(crate) use commit::{Committer, belongs_to_traces};
pub(crate) use events::{Events, events_resource};
pub(crate) use resources::Resources;
pub(crate) use route::serve;
pub(crate) use services::{Services, addresses_resource};
pub(crate) use token_uses::note_token_uses;
pub(crate) use update::Part;
pub(crate) use view::{View, index_field};
