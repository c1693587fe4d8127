//! Who asked for a certificate: the API server says it, never the client.

use super::call::Call;
use crate::authn::User;
use timonel_api::Value;

/// Writes the user of the request into a CertificateSigningRequest.
pub(super) fn stamp(call: &Call<'_>, object: &mut Value) {
    let kind = call.view.kind();
    if (kind.group, kind.kind) == ("certificates.k8s.io", "CertificateSigningRequest") {
        write(call.user, object);
    }
}

fn write(user: &User, object: &mut Value) {
    object.set_at(&["spec", "username"], user.name.as_str());
    if !user.uid.is_empty() {
        object.set_at(&["spec", "uid"], user.uid.as_str());
    }
    let list = |words: &[String]| words.iter().map(|word| Value::from(word.as_str())).collect::<Vec<_>>();
    object.set_at(&["spec", "groups"], list(&user.groups));
    for (name, words) in &user.extra {
        object.set_at(&["spec", "extra", name], list(words));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_request_says_who_asked() {
        let mut user = User::new("system:bootstrap:abcdef", &["system:bootstrappers", "system:authenticated"]);
        user.extra.insert("authentication.kubernetes.io/credential-id".into(), vec!["X".into()]);
        let mut object = Value::from(json!({"spec": {"request": "x"}}));
        write(&user, &mut object);
        let expected = json!({"spec": {"request": "x", "username": "system:bootstrap:abcdef",
            "groups": ["system:bootstrappers", "system:authenticated"],
            "extra": {"authentication.kubernetes.io/credential-id": ["X"]}}});
        assert_eq!(object, Value::from(expected));
    }
}
