//! One query, one answer. Pure: the zone, the query and a number that rotates addresses go in.

use crate::zone::{Entry, Zone, absolute};
use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{A, AAAA, CNAME, PTR, SOA, SRV, TXT},
    },
};
use std::net::{IpAddr, Ipv4Addr};

/// Seconds for which resolvers may keep an answer; endpoints change quickly.
const TTL: u32 = 5;
/// Largest answer over UDP to a client that does not say what it takes (RFC 1035).
const PLAIN_UDP_BYTES: u16 = 512;
/// Largest answer over UDP to any client: no fragments on usual links.
const MAX_UDP_BYTES: u16 = 1232;
/// Version of the Kubernetes DNS specification, as `dns-version` tells it.
const SPECIFICATION: &str = "1.1.0";

/// What to do with a query.
#[derive(Debug)]
pub enum Outcome {
    /// The cluster knows; send this.
    Answer(Box<Message>),
    /// Not a name of the cluster: ask an upstream resolver.
    Forward,
    /// The alias of a service points outside: send this with what an upstream resolver says of the name added.
    Follow(Box<Message>, Name, RecordType),
}

/// Decides about a query. `turn` rotates lists of addresses, so that clients that take the first share the load.
#[must_use]
pub fn answer(zone: &Zone, query: &Message, turn: usize) -> Outcome {
    let mut out = Message::response(query.metadata.id, query.metadata.op_code);
    out.metadata.recursion_desired = query.metadata.recursion_desired;
    out.metadata.recursion_available = true;
    if query.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(MAX_UDP_BYTES);
        out.edns = Some(edns);
    }
    let refuse = |mut out: Message, code| {
        out.metadata.response_code = code;
        Outcome::Answer(Box::new(out))
    };
    let [question] = query.queries.as_slice() else { return refuse(out, ResponseCode::FormErr) };
    if query.metadata.message_type != MessageType::Query || query.metadata.op_code != OpCode::Query {
        return refuse(out, ResponseCode::NotImp);
    }
    out.add_query(question.clone());
    let name = question.name.to_lowercase().to_ascii();
    let name = name.trim_end_matches('.');
    let inside = name == zone.domain || name.strip_suffix(&zone.domain).is_some_and(|rest| rest.ends_with('.'));
    if !inside && zone.get(name).is_none() {
        return Outcome::Forward;
    }
    out.metadata.authoritative = true;
    let synthetic = synthetic(zone, name, &question.name, &mut out);
    if synthetic {
        out.answers
            .retain(|record| question.query_type == RecordType::ANY || record.record_type() == question.query_type);
    } else if let Some(entry) = zone.get(name) {
        if let Some(alias) = entry.alias.clone() {
            out.add_answer(Record::from_rdata(question.name.clone(), TTL, RData::CNAME(CNAME(alias.clone()))));
            if question.query_type != RecordType::CNAME {
                return Outcome::Follow(Box::new(out), alias, question.query_type);
            }
        }
        records(zone, entry, &question.name, question.query_type, turn, &mut out);
    } else if name != zone.domain {
        out.metadata.response_code = ResponseCode::NXDomain;
    }
    if out.answers.is_empty() {
        out.authorities.extend(authority(zone));
    }
    Outcome::Answer(Box::new(out))
}

/// Names that exist without an object behind them: the specification's version and pods by address.
fn synthetic(zone: &Zone, name: &str, owner: &Name, out: &mut Message) -> bool {
    let Some(rest) = name.strip_suffix(&zone.domain).and_then(|rest| rest.strip_suffix('.')) else { return false };
    if rest == "dns-version" {
        let text = TXT::new(vec![SPECIFICATION.to_owned()]);
        out.add_answer(Record::from_rdata(owner.clone(), TTL, RData::TXT(text)));
        return true;
    }
    let labels: Vec<_> = rest.split('.').collect();
    let [address, _namespace, "pod"] = labels[..] else { return false };
    let Ok(address) = address.replace('-', ".").parse::<Ipv4Addr>() else { return false };
    out.add_answer(Record::from_rdata(owner.clone(), TTL, RData::A(A(address))));
    true
}

fn records(zone: &Zone, entry: &Entry, owner: &Name, wanted: RecordType, turn: usize, out: &mut Message) {
    let any = wanted == RecordType::ANY;
    let count = entry.addresses.len();
    for at in 0..count {
        let address = entry.addresses[(at + turn) % count];
        if any || record_type(address) == wanted {
            out.add_answer(address_record(owner, address));
        }
    }
    if any || wanted == RecordType::SRV {
        let weight = u16::try_from(100 / entry.services.len().max(1)).expect("at most 100").max(1);
        for (port, target) in &entry.services {
            let srv = SRV::new(0, weight, *port, target.clone());
            out.add_answer(Record::from_rdata(owner.clone(), TTL, RData::SRV(srv)));
            let host = target.to_lowercase().to_ascii();
            for address in zone.get(host.trim_end_matches('.')).into_iter().flat_map(|entry| &entry.addresses) {
                out.add_additional(address_record(target, *address));
            }
        }
    }
    if any || wanted == RecordType::PTR {
        for target in &entry.pointers {
            out.add_answer(Record::from_rdata(owner.clone(), TTL, RData::PTR(PTR(target.clone()))));
        }
    }
}

fn record_type(address: IpAddr) -> RecordType {
    if address.is_ipv4() { RecordType::A } else { RecordType::AAAA }
}

fn address_record(owner: &Name, address: IpAddr) -> Record {
    let data = match address {
        IpAddr::V4(ip) => RData::A(A(ip)),
        IpAddr::V6(ip) => RData::AAAA(AAAA(ip)),
    };
    Record::from_rdata(owner.clone(), TTL, data)
}

/// The start of authority, by which resolvers know how long a "no" holds.
fn authority(zone: &Zone) -> Option<Record> {
    let domain = absolute(&zone.domain)?;
    let server = absolute(&format!("ns.dns.{}", zone.domain))?;
    let contact = absolute(&format!("hostmaster.{}", zone.domain))?;
    let soa = SOA::new(server, contact, 1, 7200, 1800, 86_400, TTL);
    Some(Record::from_rdata(domain, TTL, RData::SOA(soa)))
}

/// The largest answer that the sender of `query` takes over UDP, in bytes.
pub(crate) fn udp_limit(query: &Message) -> usize {
    let offered = query.edns.as_ref().map_or(PLAIN_UDP_BYTES, Edns::max_payload);
    usize::from(offered.clamp(PLAIN_UDP_BYTES, MAX_UDP_BYTES))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::Query;
    use k8s_openapi::api::core::v1::Service;
    use serde_json::json;

    fn zone() -> Zone {
        let service = |name: &str, spec| -> Service {
            serde_json::from_value(json!({"metadata": {"namespace": "ns", "name": name}, "spec": spec})).unwrap()
        };
        let services = [
            service("web", json!({"clusterIP": "10.96.0.9", "ports": [{"name": "http", "port": 80}]})),
            service("out", json!({"type": "ExternalName", "externalName": "example.org"})),
        ];
        Zone::build("cluster.local", &services, [])
    }

    fn ask(name: &str, kind: RecordType) -> Outcome {
        let mut query = Message::query();
        query.add_query(Query::query(absolute(name).unwrap(), kind));
        answer(&zone(), &query, 0)
    }

    #[test]
    fn queries_and_their_answers() {
        for (name, kind, code, answers) in [
            ("web.ns.svc.cluster.local", RecordType::A, ResponseCode::NoError, 1),
            ("WEB.ns.SVC.cluster.local", RecordType::A, ResponseCode::NoError, 1),
            ("web.ns.svc.cluster.local", RecordType::AAAA, ResponseCode::NoError, 0),
            ("_http._tcp.web.ns.svc.cluster.local", RecordType::SRV, ResponseCode::NoError, 1),
            ("9.0.96.10.in-addr.arpa", RecordType::PTR, ResponseCode::NoError, 1),
            ("none.ns.svc.cluster.local", RecordType::A, ResponseCode::NXDomain, 0),
            ("ns.svc.cluster.local", RecordType::A, ResponseCode::NoError, 0),
            ("cluster.local", RecordType::A, ResponseCode::NoError, 0),
            ("10-1-2-3.ns.pod.cluster.local", RecordType::A, ResponseCode::NoError, 1),
            ("10-1-2-3.ns.pod.cluster.local", RecordType::AAAA, ResponseCode::NoError, 0),
            ("dns-version.cluster.local", RecordType::TXT, ResponseCode::NoError, 1),
        ] {
            let Outcome::Answer(message) = ask(name, kind) else { panic!("{name} was not answered") };
            assert_eq!((message.metadata.response_code, message.answers.len()), (code, answers), "{name} {kind}");
            assert_eq!(message.authorities.is_empty(), answers > 0, "{name} {kind}");
        }
    }

    #[test]
    fn the_rest_is_forwarded_and_aliases_followed() {
        assert!(matches!(ask("example.org", RecordType::A), Outcome::Forward));
        assert!(matches!(ask("notcluster.local", RecordType::A), Outcome::Forward));
        let Outcome::Follow(message, name, RecordType::A) = ask("out.ns.svc.cluster.local", RecordType::A) else {
            panic!("not followed")
        };
        assert_eq!((message.answers.len(), name), (1, absolute("example.org").unwrap()));
    }

    #[test]
    fn two_questions_are_refused() {
        let mut query = Message::query();
        for _ in 0..2 {
            query.add_query(Query::query(absolute("web.ns.svc.cluster.local").unwrap(), RecordType::A));
        }
        let Outcome::Answer(message) = answer(&zone(), &query, 0) else { panic!("not answered") };
        assert_eq!(message.metadata.response_code, ResponseCode::FormErr);
    }
}
