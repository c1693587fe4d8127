//! `componentstatuses`: a relic that clients still ask for. The parts it names run in this process.

use crate::{http::Answer, registry::call::Call};
use timonel_api::{Status, Value};

const COMPONENTS: [&str; 3] = ["controller-manager", "etcd-0", "scheduler"];

/// Answers GET of one or all.
pub(super) fn answer(call: &Call<'_>) -> Result<Answer, Status> {
    if call.info.is_named {
        let name = &*call.info.name;
        let known = COMPONENTS.contains(&name).then(|| component(name));
        return Answer::value(200, &known.ok_or_else(|| call.view.not_found(name))?, &call.view.scheme, &call.accept);
    }
    let mut list = Value::object();
    list.set_at(&["apiVersion"], "v1");
    list.set_at(&["kind"], "ComponentStatusList");
    list.set_at(&["metadata"], Value::object());
    list.set_at(&["items"], COMPONENTS.iter().map(|name| component(name)).collect::<Vec<_>>());
    Answer::value(200, &list, &call.view.scheme, &call.accept)
}

fn component(name: &str) -> Value {
    let mut condition = Value::object();
    for (field, text) in [("type", "Healthy"), ("status", "True"), ("message", "ok")] {
        condition.set_at(&[field], text);
    }
    let mut component = Value::object();
    component.set_at(&["apiVersion"], "v1");
    component.set_at(&["kind"], "ComponentStatus");
    component.set_at(&["metadata", "name"], name);
    component.set_at(&["conditions"], vec![condition]);
    component
}
