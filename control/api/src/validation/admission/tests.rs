use super::super::check::tests::{creates, merged, updates};
use crate::strategy::KindRef;
use serde_json::{Value as Json, json};

const fn kind(name: &str) -> KindRef<'_> {
    KindRef::builtin("admissionregistration.k8s.io", name, false)
}

fn rule(patch: &Json) -> Json {
    let base = json!({"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]});
    merged(&base, patch)
}

fn hook(patch: &Json) -> Json {
    let base = json!({"name": "a.b.c", "sideEffects": "None", "admissionReviewVersions": ["v1"],
        "clientConfig": {"url": "https://x"}});
    json!({"webhooks": [merged(&base, patch)]})
}

#[test]
fn webhooks_are_judged() {
    let cases: &[(Json, &[&str])] = &[
        (hook(&json!({})), &[]),
        (
            hook(&json!({"name": "a"})),
            &[
                "webhooks[0].name: Invalid value: \"a\": should be a domain with at least three segments separated by dots",
            ],
        ),
        (
            hook(&json!({"clientConfig": null, "timeoutSeconds": 31})),
            &[
                "webhooks[0].timeoutSeconds: Invalid value: 31: the timeout value must be between 1 and 30 seconds",
                "webhooks[0].clientConfig: Required value: exactly one of url or service is required",
            ],
        ),
        (
            hook(&json!({"failurePolicy": "", "sideEffects": null})),
            &[
                "webhooks[0].failurePolicy: Unsupported value: \"\": supported values: \"Fail\", \"Ignore\"",
                "webhooks[0].sideEffects: Required value: must specify one of None, NoneOnDryRun",
            ],
        ),
        (
            hook(&json!({"admissionReviewVersions": ["v2", "v2"]})),
            &[
                "webhooks[0].admissionReviewVersions[1]: Invalid value: \"v2\": duplicate version",
                "webhooks[0].admissionReviewVersions: Invalid value: [\"v2\",\"v2\"]: must include at least one of v1, v1beta1",
            ],
        ),
        (
            hook(
                &json!({"matchConditions": [{"name": "m", "expression": "true"}, {"name": "m"}, {"expression": "true"}]}),
            ),
            &[
                "webhooks[0].matchConditions[1].expression: Required value",
                "webhooks[0].matchConditions[1].name: Duplicate value: \"m\"",
                "webhooks[0].matchConditions[2].name: Required value",
            ],
        ),
    ];
    creates(kind("ValidatingWebhookConfiguration"), &json!({"metadata": {"name": "w"}}), cases);
    creates(kind("MutatingWebhookConfiguration"), &json!({"metadata": {"name": "w"}}), cases);
}

#[test]
fn rules_are_judged() {
    let rules: &[(Json, &[&str])] = &[
        (
            json!({"operations": ["FLY"]}),
            &[
                "operations[0]: Unsupported value: \"FLY\": supported values: \"*\", \"CONNECT\", \"CREATE\", \"DELETE\", \
                 \"UPDATE\"",
            ],
        ),
        (
            json!({"operations": ["*", "CREATE"]}),
            &["operations: Invalid value: [\"*\",\"CREATE\"]: if '*' is present, must not specify other operations"],
        ),
        (
            json!({"apiVersions": [""], "apiGroups": []}),
            &["apiGroups: Required value", "apiVersions[0]: Required value"],
        ),
        (
            json!({"scope": ""}),
            &["scope: Unsupported value: \"\": supported values: \"*\", \"Cluster\", \"Namespaced\""],
        ),
        (
            json!({"resources": ["pods/*", "pods/status", ""]}),
            &[
                "resources[1]: Invalid value: \"pods/status\": if 'pods/*' is present, must not specify pods/status",
                "resources[2]: Required value",
            ],
        ),
        (
            json!({"resources": ["*", "pods"]}),
            &[
                "resources: Invalid value: [\"*\",\"pods\"]: if '*' is present, must not specify other resources without \
             subresources",
            ],
        ),
        (
            json!({"resources": ["*/*", "a"]}),
            &["resources: Invalid value: [\"*/*\",\"a\"]: if '*/*' is present, must not specify other resources"],
        ),
    ];
    for (patch, expected) in rules {
        let expected: Vec<String> = expected.iter().map(|line| format!("webhooks[0].rules[0].{line}")).collect();
        let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
        let object = hook(&json!({"rules": [rule(patch)]}));
        creates(kind("ValidatingWebhookConfiguration"), &json!({"metadata": {"name": "w"}}), &[(object, &expected)]);
    }
}

#[test]
fn what_broke_a_rule_before_may_go_on() {
    let base = merged(
        &json!({"metadata": {"name": "w"}}),
        &hook(&json!({"sideEffects": "Some", "admissionReviewVersions": ["v9"]})),
    );
    updates(kind("ValidatingWebhookConfiguration"), &base, &[(json!({}), &[])]);
    let base = merged(&json!({"metadata": {"name": "w"}}), &hook(&json!({})));
    updates(
        kind("ValidatingWebhookConfiguration"),
        &base,
        &[(
            hook(&json!({"sideEffects": "Some"})),
            &["webhooks[0].sideEffects: Unsupported value: \"Some\": supported values: \"None\", \"NoneOnDryRun\""],
        )],
    );
}

fn constraints() -> Json {
    json!({"matchPolicy": "Exact", "namespaceSelector": {}, "objectSelector": {}, "resourceRules": [rule(&json!({}))]})
}

#[test]
fn validating_policies_are_judged() {
    let base = json!({"metadata": {"name": "p"}, "spec": {"failurePolicy": "Fail", "matchConstraints": constraints(),
        "validations": [{"expression": "true"}]}});
    let spec = |patch: Json| json!({ "spec": patch });
    creates(
        kind("ValidatingAdmissionPolicy"),
        &base,
        &[
            (json!({}), &[]),
            (
                spec(json!({"matchConstraints": null, "validations": []})),
                &[
                    "spec.matchConstraints: Required value",
                    "spec.validations: Required value: validations or auditAnnotations must contain at least one item",
                    "spec.auditAnnotations: Required value: validations or auditAnnotations must contain at least one item",
                ],
            ),
            (
                spec(json!({"paramKind": {"apiVersion": "a/b/c", "kind": "A_"}})),
                &[
                    "spec.paramKind.apiVersion: Invalid value: \"a/b/c\": unexpected GroupVersion string: a/b/c",
                    "spec.paramKind.kind: Invalid value: \"A_\": may have mixed case, but should otherwise match: a DNS-1035 \
                     label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, \
                     and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is \
                     '[a-z]([-a-z0-9]*[a-z0-9])?')",
                ],
            ),
            (
                spec(json!({"variables": [{"name": "if", "expression": "1"}, {}]})),
                &[
                    "spec.variables[0].name: Invalid value: \"if\": must be a valid CEL identifier",
                    "spec.variables[1].name: Required value: name is not specified",
                    "spec.variables[1].expression: Required value: expression is not specified",
                ],
            ),
            (
                spec(
                    json!({"validations": [{"expression": " ", "message": "a\nb", "reason": "", "messageExpression": " "}]}),
                ),
                &[
                    "spec.validations[0].expression: Required value: expression is not specified",
                    "spec.validations[0].messageExpression: Invalid value: \" \": must be non-empty if specified",
                    "spec.validations[0].message: Invalid value: \"a\\nb\": must not contain line breaks",
                    "spec.validations[0].reason: Unsupported value: \"\": supported values: \"Forbidden\", \"Invalid\", \
                     \"RequestEntityTooLarge\"",
                ],
            ),
            (
                spec(json!({"auditAnnotations": [{"key": "k", "valueExpression": "'a'"}, {"key": "k"}]})),
                &[
                    "spec.auditAnnotations[1].valueExpression: Required value: valueExpression is not specified",
                    "spec.auditAnnotations[1].key: Duplicate value: \"k\"",
                ],
            ),
        ],
    );
}

#[test]
fn mutating_policies_are_judged() {
    let base = json!({"metadata": {"name": "p"}, "spec": {"failurePolicy": "Fail", "matchConstraints": constraints(),
        "reinvocationPolicy": "Never", "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": "[]"}}]}});
    let spec = |patch: Json| json!({ "spec": patch });
    creates(
        kind("MutatingAdmissionPolicy"),
        &base,
        &[
            (json!({}), &[]),
            (
                spec(json!({"mutations": [], "reinvocationPolicy": null})),
                &[
                    "spec.mutations: Required value: mutations must contain at least one item",
                    "spec.reinvocationPolicy: Required value",
                ],
            ),
            (
                spec(
                    json!({"mutations": [{"patchType": "JSONPatch", "applyConfiguration": {}}, {"patchType": "X"}, {}]}),
                ),
                &[
                    "spec.mutations[0].jsonPatch: Required value: must be specified when patchType is JSONPatch",
                    "spec.mutations[0].applyConfiguration: Invalid value: \"{applyConfiguration}\": must not be specified \
                     when patchType is JSONPatch",
                    "spec.mutations[1].patchType: Unsupported value: \"X\": supported values: \"ApplyConfiguration\", \
                     \"JSONPatch\"",
                    "spec.mutations[2].patchType: Required value",
                ],
            ),
            (
                spec(json!({"matchConstraints": {"resourceRules": [rule(&json!({"operations": ["DELETE"]}))]}})),
                &["spec.matchConstraints.resourceRules.operations: Unsupported value: \"DELETE\": supported values: \
                     \"*\", \"CONNECT\", \"CREATE\", \"UPDATE\""],
            ),
        ],
    );
}

#[test]
fn bindings_are_judged() {
    let base = json!({"metadata": {"name": "b"}, "spec": {"policyName": "p", "validationActions": ["Deny"]}});
    creates(
        kind("ValidatingAdmissionPolicyBinding"),
        &base,
        &[
            (json!({}), &[]),
            (
                json!({"spec": {"paramRef": {}, "validationActions": ["Deny", "Deny", "Warn"]}}),
                &[
                    "spec.paramRef: Required value: one of name or selector must be specified",
                    "spec.paramRef.parameterNotFoundAction: Required value",
                    "spec.validationActions[1]: Duplicate value: \"Deny\"",
                    "spec.validationActions: Invalid value: [\"Deny\",\"Deny\",\"Warn\"]: must not contain both Deny and Warn \
                     (repeating the same validation failure information in the API response and headers serves no purpose)",
                ],
            ),
            (
                json!({"spec": {"matchResources": {"matchPolicy": "Exact", "namespaceSelector": {}, "resourceRules": [
                    rule(&json!({"resourceNames": ["a", "a", "b/c"]}))]}}}),
                &[
                    "spec.matchResources.objectSelector: Required value",
                    "spec.matchResources.resourceRules[0].resourceNames[1]: Duplicate value: \"a\"",
                    "spec.matchResources.resourceRules[0].resourceNames[2]: Invalid value: \"b/c\": may not contain '/'",
                ],
            ),
            (
                json!({"spec": {"paramRef": {"name": "n", "selector": {}, "parameterNotFoundAction": "X"}}}),
                &[
                    "spec.paramRef.name: Forbidden: name and selector are mutually exclusive",
                    "spec.paramRef.selector: Forbidden: name and selector are mutually exclusive",
                    "spec.paramRef.parameterNotFoundAction: Unsupported value: \"X\": supported values: \"Deny\", \"Allow\"",
                ],
            ),
        ],
    );
    let base = json!({"metadata": {"name": "b"}, "spec": {"policyName": ""}});
    creates(kind("MutatingAdmissionPolicyBinding"), &base, &[(json!({}), &["spec.policyName: Required value"])]);
}
