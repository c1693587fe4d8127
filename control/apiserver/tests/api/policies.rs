//! Admission policies as their authors see them.

use super::support::{Answer, MAPS, World, config_map, world};
use serde_json::{Value as Json, json};

const POLICIES: &str = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies";
const BINDINGS: &str = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings";
const MUTATING: &str = "/apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicies";
const MUTATING_BINDINGS: &str = "/apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicybindings";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

fn object(kind: &str, name: &str, spec: Json) -> Json {
    json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": name}, "spec": spec})
}

fn with(base: Json, extra: &Json) -> Json {
    let mut all = base;
    for (key, value) in extra.as_object().into_iter().flatten() {
        all[key] = value.clone();
    }
    all
}

fn rules(group: &str, resource: &str) -> Json {
    json!({"resourceRules": [
        {"apiGroups": [group], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": [resource]}]})
}

async fn judge_by(world: &World, policy: &Json, binding: &Json) -> Json {
    for path in [format!("{POLICIES}/p"), format!("{BINDINGS}/b")] {
        drop(world.delete(&path, Json::Null).await);
    }
    let spec = with(json!({"matchConstraints": rules("", "configmaps")}), policy);
    let made = world.post(POLICIES, object("ValidatingAdmissionPolicy", "p", spec)).await.expect(201);
    let spec = with(json!({"policyName": "p", "validationActions": ["Deny"]}), binding);
    world.post(BINDINGS, object("ValidatingAdmissionPolicyBinding", "b", spec)).await.expect(201);
    made
}

async fn create(world: &World, data: Json) -> Answer {
    drop(world.delete(&format!("{MAPS}/m"), Json::Null).await);
    world.post(MAPS, config_map("m", data)).await
}

#[tokio::test(start_paused = true)]
async fn validating_policies_judge() {
    let world = world().await;
    let denied = |text: &str| {
        format!("configmaps \"m\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: {text}")
    };
    for (policy, binding, code, message) in [
        (json!({"validations": [{"expression": "object.data.k == 'v'"}]}), json!({}), 201, String::new()),
        (
            json!({"validations": [{"expression": "object.data.k == 'w'"}]}),
            json!({}),
            422,
            denied("failed expression: object.data.k == 'w'"),
        ),
        (
            json!({"validations": [{"expression": "object.data.k == 'w'", "message": "must be w", "reason": "Forbidden"}]}),
            json!({}),
            403,
            denied("must be w"),
        ),
        (
            json!({"variables": [{"name": "k", "expression": "object.data.k"}], "validations": [
                {"expression": "variables.k == 'w'", "messageExpression": "'not ' + variables.k"}]}),
            json!({}),
            422,
            denied("not v"),
        ),
        (
            json!({"validations": [{"expression": "object.data.nothing == 'w'"}]}),
            json!({}),
            422,
            denied("expression 'object.data.nothing == 'w'' resulted in error: no such key: nothing"),
        ),
        (
            json!({"failurePolicy": "Ignore", "validations": [{"expression": "object.data.nothing == 'w'"}]}),
            json!({}),
            201,
            String::new(),
        ),
        (
            json!({"matchConditions": [{"name": "c", "expression": "request.operation == 'UPDATE'"}],
                "validations": [{"expression": "false"}]}),
            json!({}),
            201,
            String::new(),
        ),
        (
            json!({"validations": [{"expression": "false"}]}),
            json!({"matchResources": {"namespaceSelector": {"matchLabels": {"no": "such"}}}}),
            201,
            String::new(),
        ),
        (
            json!({"validations": [{"expression":
                "namespaceObject.metadata.name == 'default' && authorizer.requestResource.check('create').allowed()"}]}),
            json!({}),
            201,
            String::new(),
        ),
        (
            json!({"validations": [{"expression": "false"}]}),
            json!({"validationActions": ["Audit"]}),
            201,
            String::new(),
        ),
    ] {
        judge_by(&world, &policy, &binding).await;
        let answer = create(&world, json!({"k": "v"})).await;
        let found = if code == 201 { String::new() } else { answer.message() };
        assert_eq!((answer.code, found), (code, message), "{policy} {binding} {}", answer.text);
    }
    judge_by(&world, &json!({"validations": [{"expression": "false"}]}), &json!({"validationActions": ["Warn"]})).await;
    let answer = create(&world, json!({})).await;
    let warning = answer.headers["warning"].to_str().unwrap();
    assert!(
        warning
            .contains("Validation failed for ValidatingAdmissionPolicy 'p' with binding 'b': failed expression: false")
    );
}

#[tokio::test(start_paused = true)]
async fn parameters_come_from_objects() {
    let world = world().await;
    world.post(MAPS, config_map("limits", json!({"max": "3"}))).await.expect(201);
    let policy = json!({
        "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "matchConstraints": rules("apps", "deployments"),
        "validations": [{"expression": "object.spec.replicas <= int(params.data.max)", "messageExpression": "'at most ' + params.data.max"}]
    });
    let deployment = |name: &str, replicas: i64| {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": {"replicas": replicas,
            "selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "image": "x"}]}}}})
    };
    let param = |name: &str, action: &str| json!({"paramRef": {"name": name, "namespace": "default", "parameterNotFoundAction": action}});
    judge_by(&world, &policy, &param("limits", "Deny")).await;
    world.post(DEPLOYMENTS, deployment("a", 3)).await.expect(201);
    let message = world.post(DEPLOYMENTS, deployment("b", 4)).await.message();
    assert!(message.ends_with("denied request: at most 3"), "{message}");
    judge_by(&world, &policy, &param("gone", "Deny")).await;
    let message = world.post(DEPLOYMENTS, deployment("b", 1)).await.message();
    assert!(
        message.ends_with(
            "failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction"
        ),
        "{message}"
    );
    judge_by(&world, &policy, &param("gone", "Allow")).await;
    world.post(DEPLOYMENTS, deployment("b", 9)).await.expect(201);
}

#[tokio::test(start_paused = true)]
async fn policies_are_checked_when_they_are_written() {
    let world = world().await;
    world.server.check_policies();
    let spec = json!({"matchConstraints": rules("apps", "deployments"), "validations": [
        {"expression": "object.spec.maxReplicas > 1"}]});
    let made = world.post(POLICIES, object("ValidatingAdmissionPolicy", "p", spec)).await.expect(201);
    assert_eq!(made["status"]["observedGeneration"], 1);
    let warning = made["status"]["typeChecking"]["expressionWarnings"][0]["warning"].as_str().unwrap();
    assert!(
        warning.starts_with("apps/v1, Kind=Deployment: ") && warning.contains("undefined field 'maxReplicas'"),
        "{warning}"
    );
    let spec =
        json!({"matchConstraints": rules("apps", "deployments"), "validations": [{"expression": "object.spec."}]});
    let answer = world.post(POLICIES, object("ValidatingAdmissionPolicy", "q", spec)).await;
    assert_eq!(answer.code, 422);
    assert!(answer.message().contains("spec.validations[0].expression: Invalid value: \"object.spec.\": compilation failed: ERROR: <input>:1:13: Syntax error"), "{}", answer.text);
}

async fn mutate_by(world: &World, mutation: &Json) {
    let spec =
        json!({"matchConstraints": rules("", "configmaps"), "reinvocationPolicy": "Never", "mutations": [mutation]});
    for path in [format!("{MUTATING}/p"), format!("{MUTATING_BINDINGS}/b")] {
        drop(world.delete(&path, Json::Null).await);
    }
    world.post(MUTATING, object("MutatingAdmissionPolicy", "p", spec)).await.expect(201);
    world
        .post(MUTATING_BINDINGS, object("MutatingAdmissionPolicyBinding", "b", json!({"policyName": "p"})))
        .await
        .expect(201);
}

#[tokio::test(start_paused = true)]
async fn mutating_policies_patch() {
    let world = world().await;
    mutate_by(&world, &json!({"patchType": "ApplyConfiguration", "applyConfiguration": {"expression":
        "Object{metadata: Object.metadata{labels: Object.metadata.labels{made: 'here'}}, data: {'b': object.data.a + '!'}}"}})).await;
    let made = create(&world, json!({"a": "1"})).await.expect(201);
    assert_eq!((&made["data"], &made["metadata"]["labels"]), (&json!({"a": "1", "b": "1!"}), &json!({"made": "here"})));
    mutate_by(&world, &json!({"patchType": "JSONPatch", "jsonPatch": {"expression":
        "[JSONPatch{op: 'test', path: '/data/a', value: '1'}, JSONPatch{op: 'add', path: '/data/' + jsonpatch.escapeKey('x/y'), value: 'z'}]"}})).await;
    let made = create(&world, json!({"a": "1"})).await;
    // The key has a slash, which a ConfigMap's may not: built-in validation follows policies.
    assert_eq!(made.code, 422);
    assert!(made.message().contains("x/y"), "{}", made.text);
    let refused = create(&world, json!({"a": "2"})).await;
    assert_eq!(refused.code, 403);
    assert!(
        refused.message().starts_with("policy 'p' with binding 'b' denied request: JSON Patch:"),
        "{}",
        refused.text
    );
}
