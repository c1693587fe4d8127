//! Authorizers outside the process, in a chain with nodes and roles, and acting as somebody else through them.

use super::{
    remote::{Remote, remote},
    support::{MAPS, World, config_map, world},
};
use serde_json::{Value as Json, json};
use timonel_apiserver::{AccessConfig, AccessFiles, Caller, authn::User};

const REVIEWS: &str = "/apis/authorization.k8s.io/v1/subjectaccessreviews";

/// Allows whatever `carol` does in `default`, says no to everything of `mallory`, knows nothing of others.
async fn hook(world: &World) -> Remote {
    let judge = |_: &str, review: &Json| {
        let spec = &review["spec"];
        let status = match (spec["user"].as_str().unwrap(), spec["resourceAttributes"]["namespace"].as_str()) {
            ("carol", Some("default")) => json!({"allowed": true, "reason": "carol's own"}),
            ("carol", None) if spec["resourceAttributes"]["verb"] == "escalate" => json!({"allowed": true}),
            ("carol", None) if spec["resourceAttributes"]["resource"] == "clusterroles" => json!({"allowed": true}),
            ("mallory", _) => json!({"allowed": false, "denied": true, "reason": "never"}),
            ("nobody", _) => return (500, "boom".to_owned()),
            _ => json!({"allowed": false, "reason": "who?"}),
        };
        (
            200,
            json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "status": status})
                .to_string(),
        )
    };
    remote(world, judge).await
}

fn chain(hook: &Remote, more: &str) -> AccessConfig {
    let text = format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\nauthorizers:\n\
         - {{type: Webhook, name: hook, webhook: {{timeout: 3s, subjectAccessReviewVersion: v1, failurePolicy: Deny, \
         connectionInfo: {{type: KubeConfigFile, kubeConfigFile: hook.yaml}}{more}}}}}\n\
         - {{type: Node, name: node}}\n- {{type: RBAC, name: rbac}}\n"
    );
    let files = AccessFiles::from([("hook.yaml".to_owned(), hook.kubeconfig("/authorize"))]);
    AccessConfig { authorization: Some(text), files, ..AccessConfig::default() }
}

fn caller(name: &str) -> Caller {
    Caller::Internal(std::sync::Arc::new(User::new(name, &["system:authenticated"])))
}

async fn review(world: &World, user: &str, verb: &str) -> Json {
    let spec =
        json!({"user": user, "resourceAttributes": {"verb": verb, "resource": "configmaps", "namespace": "default"}});
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec});
    world.post(REVIEWS, review).await.expect(201)["status"].clone()
}

#[tokio::test]
async fn the_first_with_an_opinion_decides() {
    let mut world = world().await;
    let hook = hook(&world).await;
    world.server.configure(chain(&hook, "")).await.unwrap();
    world.post("/apis/rbac.authorization.k8s.io/v1/clusterroles", json!({"apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole", "metadata": {"name": "maps"}, "rules": [{"verbs": ["get", "list"], "apiGroups": [""], "resources": ["configmaps"]}]})).await.expect(201);
    for user in ["dave", "mallory", "nobody"] {
        world.post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", json!({"apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding", "metadata": {"name": user}, "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": user}],
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "maps"}})).await.expect(201);
    }
    assert_eq!(hook.asked().len(), 0, "masters are not asked about");
    for (user, code, words) in [
        ("carol", 200, ""),
        ("dave", 200, ""),
        ("mallory", 403, "never"),
        ("nobody", 403, "cannot list resource"),
        ("eve", 403, "who?"),
    ] {
        world.caller = caller(user);
        let answer = world.get(MAPS).await;
        assert_eq!(answer.code, code, "{user}: {}", answer.text);
        assert!(words.is_empty() || answer.message().contains(words), "{}", answer.text);
    }
    let spec = hook.asked()[0].2["spec"].clone();
    let expected = json!({"user": "carol", "groups": ["system:authenticated"], "resourceAttributes":
        {"namespace": "default", "verb": "list", "version": "v1", "resource": "configmaps"}});
    assert_eq!(spec, expected);
    assert_eq!(hook.asked()[0].1, "Bearer hook-token");
    // What was said is remembered; what failed is not.
    let before = hook.asked().len();
    world.caller = caller("carol");
    world.get(MAPS).await.expect(200);
    assert_eq!(hook.asked().len(), before);
    world.caller = Caller::internal("admin");
    assert_eq!(review(&world, "carol", "delete").await, json!({"allowed": true, "reason": "carol's own"}));
    assert_eq!(review(&world, "mallory", "list").await, json!({"allowed": false, "denied": true, "reason": "never"}));
    let rules = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": {"namespace": "default"}});
    world.caller = caller("dave");
    let status =
        world.post("/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", rules).await.expect(201)["status"].clone();
    assert_eq!(status["incomplete"], true);
    assert!(
        status["evaluationError"]
            .as_str()
            .unwrap()
            .contains("webhook authorizer does not support user rule resolution")
    );
    assert_eq!(status["resourceRules"][0]["resources"], json!(["configmaps"]));
}

#[tokio::test]
async fn conditions_keep_questions_away() {
    let mut world = world().await;
    let hook = hook(&world).await;
    let conditions = ", matchConditionSubjectAccessReviewVersion: v1, matchConditions: [\
        {expression: has(request.resourceAttributes)}, {expression: \"request.resourceAttributes.verb != 'list'\"}, \
        {expression: \"request.user != 'eve' || request.extra['x'] == ['y']\"}]";
    world.server.configure(chain(&hook, conditions)).await.unwrap();
    world.caller = caller("carol");
    world.get(MAPS).await.expect(403);
    world.get("/version").await.expect(200);
    assert_eq!(hook.asked().len(), 0);
    world.get(&format!("{MAPS}/none")).await.expect(404);
    assert_eq!(hook.asked().len(), 1);
    // A condition that faults leaves the request to the failure policy.
    world.caller = caller("eve");
    world.get(&format!("{MAPS}/none")).await.expect(403);
    assert_eq!(hook.asked().len(), 1);
}

#[tokio::test]
async fn admission_asks_them_too() {
    let mut world = world().await;
    let hook = hook(&world).await;
    world.server.configure(chain(&hook, "")).await.unwrap();
    // A role that grants what carol has not: the right to escalate is what the webhook says.
    let role = |name: &str| {
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": name},
        "rules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]})
    };
    world.caller = caller("carol");
    world.post("/apis/rbac.authorization.k8s.io/v1/clusterroles", role("all")).await.expect(201);
    // A policy whose expression asks for another's rights.
    world.caller = Caller::internal("admin");
    let policy = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "metadata": {"name": "p"},
        "spec": {"matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}]},
            "validations": [{"expression": "authorizer.group('').resource('secrets').namespace('default').check('get').allowed()", "message": "no secrets for you"}]}});
    world.post("/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies", policy).await.expect(201);
    let binding = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": "b"},
        "spec": {"policyName": "p", "validationActions": ["Deny"]}});
    world.post("/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings", binding).await.expect(201);
    world.caller = caller("carol");
    world.post(MAPS, config_map("m", json!({}))).await.expect(201);
    let asked: Vec<String> = hook
        .asked()
        .iter()
        .map(|(_, _, review)| review["spec"]["resourceAttributes"]["resource"].as_str().unwrap_or("").to_owned())
        .collect();
    assert!(asked.contains(&"secrets".to_owned()), "{asked:?}");
}

#[tokio::test]
async fn one_may_act_as_another_in_narrow_ways() {
    let mut world = world().await;
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    world.post(&format!("{rbac}/clusterroles"), json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": "as-dev"}, "rules": [
            {"verbs": ["impersonate:user-info"], "apiGroups": ["authentication.k8s.io"], "resources": ["users", "groups"], "resourceNames": ["dev"]},
            {"verbs": ["impersonate-on:user-info:list"], "apiGroups": [""], "resources": ["configmaps"]},
            {"verbs": ["get", "list"], "apiGroups": [""], "resources": ["configmaps"]}]})).await.expect(201);
    for user in ["helper", "dev"] {
        world.post(&format!("{rbac}/clusterrolebindings"), json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": {"name": user}, "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": user}],
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "as-dev"}})).await.expect(201);
    }
    world.caller = caller("helper");
    let dev = [("impersonate-user", "dev")];
    world.send("GET", MAPS, &dev, "").await.expect(200);
    let refused = world.send("GET", &format!("{MAPS}/x"), &dev, "").await;
    let words = r#"configmaps "x" is forbidden: User "helper" cannot impersonate-on:user-info:get resource "configmaps" in API group "" in the namespace "default""#;
    assert_eq!((refused.code, refused.message().as_str()), (403, words));
    world.send("GET", MAPS, &[("impersonate-user", "other")], "").await.expect(403);
}
