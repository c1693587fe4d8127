//! What strangers send before anybody knows them: certificate requests, certificates, tokens; and kubeconfigs.

use timonel_pki::{
    Authority, CertificateRequest, CertificateSubject, ClientSpec, KeyRing, Kubeconfig, SigningKey, Validity,
    new_request, subject_of,
};

fn subject() -> CertificateSubject {
    CertificateSubject { common_name: "system:node:a".into(), ..CertificateSubject::default() }
}

#[test]
fn certificate_requests() {
    let (good, _) = new_request(&subject()).unwrap();
    assert!(CertificateRequest::parse(good.as_bytes()).is_ok());
    timonel_fuzz::run(&[good.as_bytes()], |bytes| drop(CertificateRequest::parse(bytes)));
}

#[test]
fn certificates() {
    let validity = Validity::starting("2026-01-01T00:00:00Z".parse().unwrap(), jiff::SignedDuration::from_hours(1));
    let authority = Authority::create("ca", validity).unwrap();
    let spec = ClientSpec { common_name: "a".into(), organizations: vec!["b".into()] };
    let (chain, _) = authority.issue_client(&spec, validity).unwrap().rustls().unwrap();
    assert!(subject_of(&chain[0]).is_ok());
    timonel_fuzz::run(&[&chain[0], authority.cert_der()], |bytes| drop(subject_of(bytes)));
}

#[test]
fn tokens() {
    let keys = KeyRing::new(SigningKey::generate().unwrap(), Vec::new());
    let good = keys.signing().sign(&serde_json::json!({"sub": "system:serviceaccount:a:b", "exp": 4e9})).unwrap();
    timonel_fuzz::run(&[good.as_bytes()], |bytes| {
        if let Ok(text) = std::str::from_utf8(bytes)
            && let Ok(claims) = keys.verify(text)
        {
            assert_eq!(claims["sub"], "system:serviceaccount:a:b", "a forged token");
        }
    });
}

#[test]
fn kubeconfigs() {
    let good = b"apiVersion: v1\nkind: Config\ncurrent-context: a\nclusters:\n- name: a\n  cluster: {server: https://x}\nusers: []\ncontexts:\n- name: a\n  context: {cluster: a, user: b}\n";
    timonel_fuzz::run(&[good], |bytes| {
        if let Ok(text) = std::str::from_utf8(bytes)
            && let Ok(config) = Kubeconfig::parse(text)
        {
            Kubeconfig::parse(&config.to_yaml().expect("what was read can be written")).expect("and read again");
        }
    });
}
