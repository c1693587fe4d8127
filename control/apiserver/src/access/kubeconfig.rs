//! Where a webhook of a configuration is and who one is towards it: upstream's kubeconfig form. Pure.

use super::file::{AccessFiles, FileError, find};
use crate::webhook::{Credentials, WebhookTarget};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde::Deserialize;
use serde_json::Value as Json;
use timonel_api::{Limits, decode_yaml_untyped};

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Kubeconfig {
    #[serde(rename = "current-context")]
    current: String,
    clusters: Vec<Named<Cluster>>,
    contexts: Vec<Named<Context>>,
    users: Vec<Named<User>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Named<T> {
    name: String,
    #[serde(alias = "cluster", alias = "context", alias = "user")]
    of: T,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Cluster {
    server: String,
    certificate_authority: String,
    certificate_authority_data: String,
    insecure_skip_tls_verify: bool,
    tls_server_name: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Context {
    cluster: String,
    user: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct User {
    client_certificate: String,
    client_certificate_data: String,
    client_key: String,
    client_key_data: String,
    token: String,
    #[serde(rename = "tokenFile")]
    token_file: String,
    username: String,
    password: String,
}

/// The webhook that a kubeconfig speaks of; files that it names come from `files`. `field` says in messages whose
/// kubeconfig it is.
pub(crate) fn target(field: &str, text: &str, files: &AccessFiles) -> Result<WebhookTarget, FileError> {
    let refused = |why: String| FileError::Invalid(format!("{field}: {why}"));
    let value = decode_yaml_untyped(text.as_bytes(), &Limits::default()).map_err(|error| refused(error.to_string()))?;
    let config: Kubeconfig =
        serde_json::from_value(Json::from(&value)).map_err(|error| refused(format!("kubeconfig: {error}")))?;
    let context = named(&config.contexts, &config.current)
        .ok_or_else(|| refused(format!("context {:?} does not exist", config.current)))?;
    let cluster = named(&config.clusters, &context.cluster)
        .ok_or_else(|| refused(format!("cluster {:?} does not exist", context.cluster)))?;
    let nobody = User::default();
    let user = match context.user.as_str() {
        "" => &nobody,
        name => named(&config.users, name).ok_or_else(|| refused(format!("user {name:?} does not exist")))?,
    };
    let read = |data: &str, file: &str, what: &str| -> Result<Vec<u8>, FileError> {
        if !data.is_empty() {
            return BASE64.decode(data.trim()).map_err(|_| refused(format!("{what}-data is not base64")));
        }
        if file.is_empty() {
            return Ok(Vec::new());
        }
        let missing = || FileError::Missing { field: format!("{field}: {what}"), name: file.to_owned() };
        find(files, file).map(|text| text.clone().into_bytes()).ok_or_else(missing)
    };
    let ca = read(&cluster.certificate_authority_data, &cluster.certificate_authority, "certificate-authority")?;
    let mut token = user.token.clone();
    if token.is_empty() && !user.token_file.is_empty() {
        let bytes = read("", &user.token_file, "tokenFile")?;
        token = String::from_utf8_lossy(&bytes).trim().to_owned();
    }
    let authorization = match (token.as_str(), user.username.as_str()) {
        ("", "") => String::new(),
        ("", name) => format!("Basic {}", BASE64.encode(format!("{name}:{}", user.password))),
        (token, _) => format!("Bearer {token}"),
    };
    let credentials = Credentials {
        certificate_pem: read(&user.client_certificate_data, &user.client_certificate, "client-certificate")?,
        key_pem: read(&user.client_key_data, &user.client_key, "client-key")?,
        authorization,
        server_name: cluster.tls_server_name.clone(),
        insecure: cluster.insecure_skip_tls_verify,
    };
    WebhookTarget::of_server(&cluster.server, ca, credentials).map_err(|error| refused(error.to_string()))
}

fn named<'a, T>(list: &'a [Named<T>], name: &str) -> Option<&'a T> {
    list.iter().find(|entry| entry.name == name).map(|entry| &entry.of)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(cluster: &str, user: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{{name: k, cluster: {{{cluster}}}}}]\n\
             users: [{{name: u, user: {{{user}}}}}]\ncontexts: [{{name: c, context: {{cluster: k, user: u}}}}]\n"
        )
    }

    #[test]
    fn kubeconfigs_lead_to_webhooks() {
        let files = AccessFiles::from([("ca.pem".into(), "PEM".into()), ("token".into(), "t\n".into())]);
        for (cluster, user, expected) in [
            ("server: 'https://h:8443/a'", "", Ok(("https://h:8443/a", ""))),
            ("server: 'https://h'", "token: x", Ok(("https://h/", "Bearer x"))),
            ("server: 'http://127.0.0.1:9'", "tokenFile: token", Ok(("http://127.0.0.1:9/", "Bearer t"))),
            (
                "server: 'https://h', certificate-authority: ca.pem",
                "username: a, password: b",
                Ok(("https://h/", "Basic YTpi")),
            ),
            ("server: 'ftp://h'", "", Err("f: invalid URL \"ftp://h\"")),
            (
                "server: 'https://h', certificate-authority-data: '?'",
                "",
                Err("f: certificate-authority-data is not base64"),
            ),
            ("server: 'https://h'", "client-key: none.pem", Err("f: client-key: no file \"none.pem\" was given")),
        ] {
            let found = target("f", &config(cluster, user), &files);
            let found = found.map(|target| (target.url(None), target.credentials.authorization));
            let expected = expected.map(|(url, words)| (url.to_owned(), words.to_owned())).map_err(str::to_owned);
            assert_eq!(found.map_err(|error| error.to_string()), expected, "{cluster} {user}");
        }
        let none = target("f", "current-context: x", &files).unwrap_err();
        assert_eq!(none.to_string(), "f: context \"x\" does not exist");
        assert!(target("f", "[", &files).is_err());
        let secret = format!("{:?}", target("f", &config("server: 'https://h'", "token: secret"), &files).unwrap());
        assert!(!secret.contains("secret"), "{secret}");
    }
}
