//! Where things lie in the store: `/clusters/UID/r/GROUP/RESOURCE/…` are the objects of a cluster, as its API server
//! writes them. Pure.

/// The core group in keys.
const CORE: &str = "core";

/// What the keys of a cluster start with.
pub(crate) fn cluster(uid: &str) -> String {
    format!("/clusters/{uid}/")
}

/// Group and resource of the object under a key; `None` for what is no object.
pub(crate) fn resource_of(key: &[u8]) -> Option<(&str, &str)> {
    let mut parts = std::str::from_utf8(key).ok()?.strip_prefix("/clusters/")?.splitn(5, '/');
    let (_uid, "r", group, resource, _name) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?, parts.next()?)
    else {
        return None;
    };
    Some((if group == CORE { "" } else { group }, resource))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_of_keys() {
        let cases = [
            ("/clusters/u/r/core/secrets/default/a", Some(("", "secrets"))),
            ("/clusters/u/r/apps/deployments/default/a", Some(("apps", "deployments"))),
            ("/clusters/u/r/core/nodes/n", Some(("", "nodes"))),
            ("/clusters/u/ranges/x", None),
            ("/secrets/keys/u", None),
        ];
        for (key, expected) in cases {
            assert_eq!(resource_of(key.as_bytes()), expected, "{key}");
        }
    }
}
