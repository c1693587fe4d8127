//! Mutating and validating admission webhooks: which a write matches, what they are sent, what their answers
//! mean. A webhook that is slow, wrong or gone harms only what it was asked for.

mod configuration;
mod dispatch;
mod review;
mod rules;
mod subject;

pub(crate) use configuration::WebhookIndex;
pub(crate) use dispatch::{is_exempt, mutate, read_back, validate};
pub(crate) use rules::{ResourceRule, namespace_selected, object_selected, selector_of};
pub(crate) use subject::Subject;
