//! Whether a server can be asked, from the objects that lead to it, in upstream's words. Pure.

use super::registered::{AVAILABLE, Server, condition};
use jiff::Timestamp;
use timonel_api::{Value, strategy::timestamp};

/// The state of the condition `Available`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Availability {
    pub(super) available: bool,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

impl Availability {
    fn missing(reason: &'static str, message: String) -> Self {
        Self { available: false, reason, message }
    }

    /// The server answered.
    pub(super) fn passed() -> Self {
        Self { available: true, reason: "Passed", message: "all checks passed".to_owned() }
    }

    /// The server did not answer as it should.
    pub(super) fn failed(message: String) -> Self {
        Self::missing("FailedDiscoveryCheck", message)
    }
}

/// What keeps a server from being asked; nothing when it is worth to try. `slices` are those of the Service.
pub(super) fn obstacle<'a>(
    server: &Server,
    service: Option<&Value>,
    slices: impl Iterator<Item = &'a Value>,
) -> Option<Availability> {
    let Server { namespace, service: name, port, .. } = server;
    let Some(service) = service else {
        let message = format!("service/{name} in {namespace:?} is not present");
        return Some(Availability::missing("ServiceNotFound", message));
    };
    if !matches!(service.str_at(&["spec", "type"]), "" | "ClusterIP") {
        return None;
    }
    let ports = service.list_at(&["spec", "ports"]);
    let Some(found) = ports.iter().find(|found| found.int_at(&["port"]) == Some(i64::from(*port))) else {
        let message = format!("service/{name} in {namespace:?} is not listening on port {port}");
        return Some(Availability::missing("ServicePortError", message));
    };
    let port_name = found.str_at(&["name"]);
    let mut slices = slices.peekable();
    if slices.peek().is_none() {
        let message = format!("cannot find endpointslices for service/{name} in {namespace:?}");
        return Some(Availability::missing("EndpointsNotFound", message));
    }
    let mut leads = slices.map(|slice| leads_somewhere(slice, port_name));
    if leads.any(|leads| leads) {
        return None;
    }
    let message =
        format!("endpointslices for service/{name} in {namespace:?} have no addresses with port name {port_name:?}");
    Some(Availability::missing("MissingEndpoints", message))
}

fn leads_somewhere(slice: &Value, port_name: &str) -> bool {
    let ready = |endpoint: &Value| endpoint.bool_at(&["conditions", "ready"]) != Some(false);
    let named = |port: &Value| port.str_at(&["name"]) == port_name && port.int_at(&["port"]).is_some();
    slice.list_at(&["endpoints"]).iter().any(ready) && slice.list_at(&["ports"]).iter().any(named)
}

/// Writes the condition into an `APIService`; whether that changed anything.
pub(super) fn write(object: &mut Value, found: &Availability, now: Timestamp) -> bool {
    let status = if found.available { "True" } else { "False" };
    let known = condition(object).cloned();
    let same = |known: &Value| {
        known.str_at(&["status"]) == status
            && known.str_at(&["reason"]) == found.reason
            && known.str_at(&["message"]) == found.message
    };
    if known.as_ref().is_some_and(same) {
        return false;
    }
    let since = known.filter(|known| known.str_at(&["status"]) == status);
    let since = since.map_or_else(|| timestamp(now), |known| known.str_at(&["lastTransitionTime"]).to_owned());
    let mut new = Value::object();
    for (field, text) in [
        ("type", AVAILABLE),
        ("status", status),
        ("lastTransitionTime", &since),
        ("reason", found.reason),
        ("message", &found.message),
    ] {
        new.set_at(&[field], text);
    }
    let conditions = object.entry_at(&["status", "conditions"]).make_list();
    match conditions.iter_mut().find(|condition| condition.str_at(&["type"]) == AVAILABLE) {
        Some(place) => *place = new,
        None => conditions.push(new),
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_leads_to_a_server_is_judged_in_upstreams_words() {
        let server =
            Server { namespace: "n".into(), service: "s".into(), port: 443, ca_bundle: Vec::new(), insecure: false };
        let service = |port: u16| json!({"spec": {"type": "ClusterIP", "ports": [{"name": "https", "port": port}]}});
        let slice = |ready: bool, port: &str| {
            json!({"endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": ready}}],
                "ports": [{"name": port, "port": 8443}]})
        };
        for (service, slices, reason, message) in [
            (None, vec![], "ServiceNotFound", "service/s in \"n\" is not present"),
            (Some(service(80)), vec![], "ServicePortError", "service/s in \"n\" is not listening on port 443"),
            (Some(service(443)), vec![], "EndpointsNotFound", "cannot find endpointslices for service/s in \"n\""),
            (
                Some(service(443)),
                vec![slice(false, "https"), slice(true, "other")],
                "MissingEndpoints",
                "endpointslices for service/s in \"n\" have no addresses with port name \"https\"",
            ),
            (Some(service(443)), vec![slice(true, "https")], "", ""),
            (Some(json!({"spec": {"type": "ExternalName"}})), vec![], "", ""),
        ] {
            let service = service.map(Value::from);
            let slices: Vec<Value> = slices.into_iter().map(Value::from).collect();
            let found = obstacle(&server, service.as_ref(), slices.iter());
            let found = found.map_or(("", String::new()), |found| (found.reason, found.message));
            assert_eq!(found, (reason, message.to_owned()));
        }
    }

    #[test]
    fn a_condition_keeps_its_time_and_its_neighbours() {
        let now: Timestamp = "2026-11-01T10:00:00Z".parse().unwrap();
        let later: Timestamp = "2026-11-01T11:00:00Z".parse().unwrap();
        let mut object: Value = json!({"status": {"conditions": [{"type": "Other"}]}}).into();
        assert!(write(&mut object, &Availability::failed("a".into()), now));
        assert!(!write(&mut object, &Availability::failed("a".into()), later));
        assert!(write(&mut object, &Availability::failed("b".into()), later));
        assert_eq!(condition(&object).unwrap().str_at(&["lastTransitionTime"]), "2026-11-01T10:00:00Z");
        assert!(write(&mut object, &Availability::passed(), later));
        assert_eq!(condition(&object).unwrap().str_at(&["lastTransitionTime"]), "2026-11-01T11:00:00Z");
        assert_eq!(object.list_at(&["status", "conditions"]).len(), 2);
    }
}
