//! Neither of two clusters can see the other: what one gives out, the other refuses.

use crate::support::World;
use k8s_openapi::api::{
    authentication::v1::{TokenRequest, TokenRequestSpec},
    core::v1::{Namespace, ServiceAccount},
};
use kube::{
    Api, Client, Config,
    api::{ListParams, PostParams},
    config::AuthInfo,
};
use timonel_fleet::ClusterSpec;

async fn list(config: Config) -> Result<usize, kube::Error> {
    let namespaces: Api<Namespace> = Api::all(Client::try_from(config)?);
    namespaces.list(&ListParams::default()).await.map(|list| list.items.len())
}

/// The same credentials at another door; the certificate of the server is not what is asked about.
fn at(config: &Config, url: &str, server_name: Option<&str>) -> Config {
    let mut config = config.clone();
    config.cluster_url = url.parse().unwrap();
    config.tls_server_name = server_name.map(str::to_owned);
    config.accept_invalid_certs = true;
    config
}

fn code(result: Result<usize, kube::Error>) -> Option<u16> {
    match result {
        Err(kube::Error::Api(status)) => Some(status.code),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_and_tokens_of_one_are_nothing_to_the_other() {
    let world = World::start().await;
    let a = world.create("a", ClusterSpec::default()).await;
    let b = world.create("b", ClusterSpec::default()).await;
    let shared = format!("https://{}", world.shared());
    let admin = world.config("a").await;
    assert!(list(at(&admin, &a.endpoint, None)).await.is_ok());
    assert!(list(at(&admin, &shared, Some(&a.server_name))).await.is_ok());
    // Certificates: already the handshake refuses them, at every door of the other and of the fleet.
    for (url, name) in [(&b.endpoint, None), (&shared, Some(b.server_name.as_str())), (&shared, None)] {
        let refused = list(at(&admin, url, name)).await;
        assert!(refused.is_err() && code(refused).is_none_or(|code| code == 401), "{url} {name:?}");
    }
    // A cluster's own port is that cluster whatever name is sent.
    assert!(list(at(&admin, &a.endpoint, Some(&b.server_name))).await.is_ok());

    let accounts: Api<ServiceAccount> = Api::namespaced(world.client("a").await, "kube-system");
    let spec = TokenRequestSpec { audiences: None, expiration_seconds: Some(3_600), bound_object_ref: None };
    let asked = TokenRequest { spec: Some(spec), ..TokenRequest::default() };
    let account = ServiceAccount {
        metadata: kube::api::ObjectMeta { name: Some("t".into()), ..Default::default() },
        ..ServiceAccount::default()
    };
    accounts.create(&PostParams::default(), &account).await.unwrap();
    let token = accounts.create_token_request("t", &PostParams::default(), &asked).await.unwrap();
    let token = token.status.unwrap().token;
    let mut bearer = admin.clone();
    bearer.auth_info = AuthInfo { token: Some(token.unwrap().into()), ..AuthInfo::default() };
    // Known in its own cluster, where nothing was granted to it; unknown everywhere else.
    assert_eq!(code(list(at(&bearer, &a.endpoint, None)).await), Some(403));
    for (url, name) in [(&b.endpoint, None), (&shared, Some(b.server_name.as_str())), (&shared, None)] {
        assert_eq!(code(list(at(&bearer, url, name)).await), Some(401), "{url} {name:?}");
    }
}
