//! The network of a node's pods: the standard bridge and host-local plugins on the node's own range. Pure.

use ipnet::Ipv4Net;
use serde_json::{Value, json};
use std::path::Path;

/// Name of the file that containerd reads.
pub(crate) const FILE: &str = "10-timonel.conflist";
/// The node's bridge.
const BRIDGE: &str = "cni0";

/// The configuration for a node whose pods have addresses of `range`; host-local keeps its leases in `state`.
pub(crate) fn config(range: Ipv4Net, state: &Path) -> Value {
    json!({
        "cniVersion": "0.4.0",
        "name": "timonel",
        "plugins": [
            {
                "type": "bridge",
                "bridge": BRIDGE,
                "isGateway": true,
                "ipMasq": false,
                "hairpinMode": true,
                "ipam": {
                    "type": "host-local",
                    "dataDir": state,
                    "ranges": [[{"subnet": range}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true},
        ],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_range_is_the_nodes() {
        let config = config("10.128.3.0/24".parse().unwrap(), Path::new("/s"));
        assert_eq!(config["plugins"][0]["ipam"]["ranges"][0][0]["subnet"], "10.128.3.0/24");
        assert_eq!(config["plugins"][0]["ipam"]["dataDir"], "/s");
    }
}
