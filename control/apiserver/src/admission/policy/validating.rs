//! Validating admission policies: every binding's verdict over one write.

use super::{
    compiled::{Binding, Policy},
    conditions::{Matched, holds},
    expressions::{Inputs, Variables},
    parameters,
};
use crate::admission::{
    Lookup,
    webhook::{Subject, is_exempt},
};
use serde_json::json;
use timonel_api::{Status, Value};
use timonel_cel::{Bindings, Budget, EvalError, Val};

/// Longest message that an expression may make, in bytes.
const MAX_MESSAGE: usize = 5 << 10;
/// Longest value of an audit annotation, in bytes.
const MAX_ANNOTATION: usize = 10 << 10;
const OUT_OF_BUDGET: &str =
    "validation failed due to running out of cost budget, no further validation rules will be run";

/// Reviews answer questions; no policy judges them, or nobody could ask whether it may change the policy.
const EXCLUDED: [(&str, &str); 6] = [
    ("authentication.k8s.io", "selfsubjectreviews"),
    ("authentication.k8s.io", "tokenreviews"),
    ("authorization.k8s.io", "localsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectrulesreviews"),
    ("authorization.k8s.io", "subjectaccessreviews"),
];

/// Whether no policy is asked about a write.
pub(crate) fn is_excluded(subject: &Subject<'_>) -> bool {
    let view = &subject.call.view;
    is_exempt(subject) || EXCLUDED.contains(&(view.group(), view.plural()))
}

/// One fault found by a policy.
struct Denial {
    message: String,
    reason: String,
    /// Which rule it was; faults of the policy itself have none.
    rule: usize,
    /// A fault of the policy refuses whatever the binding's actions are.
    broken: bool,
}

/// Judges a write by every validating policy.
pub(crate) fn validate(subject: &Subject<'_>) -> Result<(), Status> {
    let server = subject.call.server;
    let lookup: &dyn Lookup = server.lookup.as_ref();
    let policies = server.validating_policies.policies(lookup);
    if policies.1.is_empty() || is_excluded(subject) {
        return Ok(());
    }
    let mut refused = None;
    for policy in &policies.1 {
        let Some(view) = policy.matches.view(subject, lookup) else { continue };
        let inputs = Inputs::new(subject, &view)?;
        let mut annotations: Vec<(String, Vec<String>)> = Vec::new();
        for binding in &policy.bindings {
            if binding.matches.as_ref().is_some_and(|matches| matches.view(subject, lookup).is_none()) {
                continue;
            }
            let denials = match parameters::collect(policy, binding, subject, lookup) {
                Ok(params) => {
                    params.iter().flat_map(|params| judge(policy, &inputs, params, &mut annotations)).collect()
                }
                Err(why) => vec![broken(format!("failed to configure binding: {why}"))],
            };
            for denial in denials {
                if denial.broken && !policy.fails_closed {
                    continue;
                }
                if act(subject, policy, binding, &denial) {
                    refused.get_or_insert((denial, policy.name.clone(), binding.name.clone()));
                }
            }
        }
        for (key, values) in annotations {
            subject.call.annotate(&format!("{}/{key}", policy.name), &values.join(", "));
        }
    }
    refused.map_or(Ok(()), |(denial, policy, binding)| Err(refusal(subject, &denial, &policy, &binding)))
}

fn broken(message: String) -> Denial {
    Denial { message, reason: "Invalid".to_owned(), rule: 0, broken: true }
}

/// Carries out a binding's actions; true when the write is to be refused.
fn act(subject: &Subject<'_>, policy: &Policy, binding: &Binding, denial: &Denial) -> bool {
    let mut refuse = false;
    if denial.broken && denial.message.starts_with("failed to configure") {
        return true;
    }
    for action in &binding.actions {
        match action.as_str() {
            "Deny" => refuse = true,
            "Warn" => subject.call.warn(format!(
                "Validation failed for ValidatingAdmissionPolicy '{}' with binding '{}': {}",
                policy.name, binding.name, denial.message
            )),
            "Audit" => {
                let failure = json!([{
                    "message": denial.message,
                    "policy": policy.name,
                    "binding": binding.name,
                    "expressionIndex": denial.rule,
                    "validationActions": binding.actions.iter().map(|action| action.as_str()).collect::<Vec<_>>(),
                }]);
                subject.call.annotate("validation.policy.admission.k8s.io/validation_failure", &failure.to_string());
            }
            _ => {}
        }
    }
    refuse
}

fn refusal(subject: &Subject<'_>, denial: &Denial, policy: &str, binding: &str) -> Status {
    let text =
        format!("ValidatingAdmissionPolicy '{policy}' with binding '{binding}' denied request: {}", denial.message);
    let view = &subject.call.view;
    let mut status =
        Status::forbidden(view.group(), view.plural(), subject.name, &text).with_cause("", text.as_str(), "");
    status.code = match denial.reason.as_str() {
        "Unauthorized" => 401,
        "Forbidden" => 403,
        "RequestEntityTooLarge" => 413,
        _ => 422,
    };
    status.reason = denial.reason.as_str().into();
    status
}

/// What one evaluation of a policy finds.
fn judge(
    policy: &Policy,
    inputs: &Inputs<'_>,
    params: &Value,
    annotations: &mut Vec<(String, Vec<String>)>,
) -> Vec<Denial> {
    let bindings = match inputs.bindings(Some(params)) {
        Ok(bindings) => bindings,
        Err(error) => return vec![broken(error.to_string())],
    };
    match holds(&policy.conditions, &bindings) {
        Matched::Yes => {}
        Matched::No => return Vec::new(),
        Matched::Failed(why) => return vec![broken(why)],
    }
    let bindings = Variables::bind(bindings, &policy.variables);
    let mut budget = Budget::default();
    let mut denials = Vec::new();
    for (rule, validation) in policy.validations.iter().enumerate() {
        let outcome = evaluate(&validation.program, &bindings, &mut budget);
        match outcome.map(|val| val.as_bool()) {
            Ok(Some(true)) => {}
            Ok(_) => denials.push(Denial {
                message: message_of(validation, &bindings, &mut budget),
                reason: if validation.reason.is_empty() { "Invalid".to_owned() } else { validation.reason.clone() },
                rule,
                broken: false,
            }),
            Err(message) => denials.push(Denial { rule, ..broken(message) }),
        }
        if budget.left() == 0 {
            break;
        }
    }
    let mut budget = Budget::default();
    for (key, program) in &policy.annotations {
        match evaluate(program, &bindings, &mut budget) {
            Ok(Val::String(text)) if !text.as_str().trim().is_empty() => {
                annotate(annotations, key, text.as_str().trim());
            }
            Ok(Val::String(_) | Val::Null) => {}
            Ok(other) => denials.push(broken(format!(
                "valueExpression '{key}' resulted in unsupported return type: {}. Return type must be either string or null.",
                other.type_name()
            ))),
            Err(message) => denials.push(broken(message)),
        }
    }
    denials
}

fn annotate(annotations: &mut Vec<(String, Vec<String>)>, key: &str, value: &str) {
    let end = (0..=value.len().min(MAX_ANNOTATION)).rev().find(|end| value.is_char_boundary(*end)).unwrap_or(0);
    let value = value[..end].to_owned();
    match annotations.iter_mut().find(|(held, _)| held == key) {
        Some((_, values)) if values.contains(&value) => {}
        Some((_, values)) => values.push(value),
        None => annotations.push((key.to_owned(), vec![value])),
    }
}

/// Evaluates; faults as upstream words them.
pub(super) fn evaluate<'a>(
    program: &Result<timonel_cel::Program, String>,
    bindings: &Bindings<'a>,
    budget: &mut Budget,
) -> Result<Val<'a>, String> {
    let program = program.as_ref().map_err(|why| format!("compilation error: {why}"))?;
    program.evaluate(bindings, budget).map_err(|error| match error {
        EvalError::CostLimit if budget.left() == 0 => OUT_OF_BUDGET.to_owned(),
        error => format!("expression '{}' resulted in error: {error}", program.source()),
    })
}

fn message_of(validation: &super::compiled::Validation, bindings: &Bindings<'_>, budget: &mut Budget) -> String {
    if let Some(program) = &validation.message_program
        && let Ok(Val::String(text)) = evaluate(program, bindings, budget)
    {
        let text = text.as_str().trim();
        if !text.is_empty() && text.len() <= MAX_MESSAGE && !text.contains('\n') {
            return text.to_owned();
        }
    }
    if validation.message.is_empty() {
        format!("failed expression: {}", validation.expression)
    } else {
        validation.message.clone()
    }
}
