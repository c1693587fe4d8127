//! Policies and their bindings made ready: compiled once per change.

use super::{
    checks::{apply_type, patch_type},
    conditions::{Condition, Named},
    expressions::{environment, with_variables},
    matching::MatchResources,
    mutating::MutationStructs,
};
use crate::admission::Lookup;
use arc_swap::ArcSwapOption;
use std::sync::Arc;
use timonel_api::{Key, Value};
use timonel_cel::{Environment, Program, Type, compile};

const GROUP: &str = "admissionregistration.k8s.io";

/// One policy with what is bound to it.
#[derive(Debug)]
pub(crate) struct Policy {
    pub(crate) name: String,
    pub(crate) fails_closed: bool,
    pub(crate) param_kind: Option<(String, String)>,
    pub(crate) matches: MatchResources,
    pub(crate) conditions: Vec<Condition>,
    pub(crate) variables: Vec<Named>,
    pub(crate) validations: Vec<Validation>,
    pub(crate) annotations: Vec<Named>,
    pub(crate) mutations: Vec<Mutation>,
    pub(crate) reinvoked: bool,
    pub(crate) bindings: Vec<Binding>,
}

/// One rule of a validating policy.
#[derive(Debug)]
pub(crate) struct Validation {
    pub(crate) expression: String,
    pub(crate) program: Result<Program, String>,
    pub(crate) message: String,
    pub(crate) message_program: Option<Result<Program, String>>,
    pub(crate) reason: String,
}

/// One step of a mutating policy.
#[derive(Debug)]
pub(crate) struct Mutation {
    pub(crate) apply: bool,
    pub(crate) program: Result<Program, String>,
}

/// One binding.
#[derive(Debug)]
pub(crate) struct Binding {
    pub(crate) name: String,
    pub(crate) param_ref: Option<Value>,
    pub(crate) matches: Option<MatchResources>,
    pub(crate) actions: Vec<Key>,
}

/// The policies of one kind.
#[derive(Debug)]
pub(crate) struct PolicyIndex {
    policies: &'static str,
    bindings: &'static str,
    ready: ArcSwapOption<((u64, u64), Vec<Policy>)>,
}

impl PolicyIndex {
    /// Of validating policies, or of mutating ones.
    pub(crate) const fn new(policies: &'static str, bindings: &'static str) -> Self {
        Self { policies, bindings, ready: ArcSwapOption::const_empty() }
    }

    /// Whether nothing is bound: the case of most clusters, which costs a write nothing.
    pub(crate) fn is_empty(&self, lookup: &dyn Lookup) -> bool {
        self.policies(lookup).1.is_empty()
    }

    /// All policies that something is bound to, by name.
    pub(crate) fn policies(&self, lookup: &dyn Lookup) -> Arc<((u64, u64), Vec<Policy>)> {
        let generation = (lookup.generation(GROUP, self.policies), lookup.generation(GROUP, self.bindings));
        if let Some(ready) = self.ready.load_full().filter(|ready| ready.0 == generation) {
            return ready;
        }
        let bindings = lookup.list(GROUP, self.bindings, None);
        let mut policies = Vec::new();
        for policy in lookup.list(GROUP, self.policies, None) {
            let name = policy.str_at(&["metadata", "name"]);
            let own = bindings.iter().filter(|binding| binding.str_at(&["spec", "policyName"]) == name);
            let own: Vec<Binding> = own.map(|binding| parse_binding(binding)).collect();
            if !own.is_empty() {
                policies.push(compile_policy(&policy, own));
            }
        }
        let ready = Arc::new((generation, policies));
        self.ready.store(Some(ready.clone()));
        ready
    }
}

fn parse_binding(binding: &Value) -> Binding {
    let resources = binding.at(&["spec", "matchResources"]).filter(|resources| !resources.is_null());
    let actions = binding.list_at(&["spec", "validationActions"]).iter().filter_map(Value::as_str);
    Binding {
        name: binding.str_at(&["metadata", "name"]).to_owned(),
        param_ref: binding.at(&["spec", "paramRef"]).filter(|param| !param.is_null()).cloned(),
        matches: resources.map(MatchResources::parse),
        actions: actions.map(Key::from).collect(),
    }
}

/// Compiles in an environment; errors as upstream words them.
pub(crate) fn compiled(expression: &str, environment: &Environment, wanted: &[Type]) -> Result<Program, String> {
    let program = compile(expression, environment).map_err(|errors| format!("compilation failed: {errors}"))?;
    // What only its input decides is not enough: a policy says what it yields.
    if wanted.is_empty() || wanted.iter().any(|ty| program.result_type().is_exactly(ty)) {
        return Ok(program);
    }
    let name = |ty: &Type| if matches!(ty, Type::Null) { "null_type".to_owned() } else { ty.to_string() };
    let (names, got) = (wanted.iter().map(name).collect::<Vec<String>>(), name(program.result_type()));
    Err(match names.as_slice() {
        [one] => format!("must evaluate to {one} but got {got}"),
        many => format!("must evaluate to one of [{}] but got {got}", many.join(" ")),
    })
}

/// A policy's variables, each compiled with those before it, and the environment that knows them all.
pub(crate) fn compile_variables(policy: &Value, base: &Environment) -> (Vec<Named>, Environment) {
    let mut types: Vec<(Key, Type)> = Vec::new();
    let mut programs = Vec::new();
    let mut environment = base.clone();
    for variable in policy.list_at(&["spec", "variables"]) {
        let name: Key = variable.str_at(&["name"]).into();
        let program = compiled(variable.str_at(&["expression"]), &environment, &[]);
        types.push((name.clone(), program.as_ref().map_or(Type::Dyn, |program| program.result_type().clone())));
        programs.push((name, program));
        environment = with_variables(base, &types);
    }
    (programs, environment)
}

fn compile_policy(policy: &Value, bindings: Vec<Binding>) -> Policy {
    let kind = policy.at(&["spec", "paramKind"]).filter(|kind| !kind.is_null());
    let base = environment(kind.is_some(), true);
    let (variables, full) = compile_variables(policy, &base);
    // Messages and conditions know less: no authorizer, no variables.
    let plain = compile_variables(policy, &environment(kind.is_some(), false)).1;
    let mutation = full.clone().mutation(Arc::new(MutationStructs));
    let spec = |path: &str| policy.list_at(&["spec", path]);
    Policy {
        name: policy.str_at(&["metadata", "name"]).to_owned(),
        fails_closed: policy.str_at(&["spec", "failurePolicy"]) != "Ignore",
        param_kind: kind.map(|kind| (kind.str_at(&["apiVersion"]).to_owned(), kind.str_at(&["kind"]).to_owned())),
        matches: MatchResources::parse(policy.at(&["spec", "matchConstraints"]).unwrap_or(&Value::Null)),
        conditions: Condition::parse_in(spec("matchConditions"), &base),
        validations: spec("validations").iter().map(|rule| compile_validation(rule, &full, &plain)).collect(),
        annotations: spec("auditAnnotations")
            .iter()
            .map(|annotation| {
                let program = compiled(annotation.str_at(&["valueExpression"]), &full, &[Type::String, Type::Null]);
                (annotation.str_at(&["key"]).into(), program)
            })
            .collect(),
        mutations: spec("mutations").iter().map(|step| compile_mutation(step, &mutation)).collect(),
        reinvoked: policy.str_at(&["spec", "reinvocationPolicy"]) == "IfNeeded",
        variables,
        bindings,
    }
}

fn compile_validation(rule: &Value, full: &Environment, plain: &Environment) -> Validation {
    let message = rule.str_at(&["messageExpression"]);
    Validation {
        expression: rule.str_at(&["expression"]).trim().to_owned(),
        program: compiled(rule.str_at(&["expression"]), full, &[Type::Bool]),
        message: rule.str_at(&["message"]).trim().to_owned(),
        message_program: (!message.is_empty()).then(|| compiled(message, plain, &[Type::String])),
        reason: rule.str_at(&["reason"]).to_owned(),
    }
}

fn compile_mutation(step: &Value, environment: &Environment) -> Mutation {
    let apply = step.str_at(&["patchType"]) == "ApplyConfiguration";
    let member = if apply { "applyConfiguration" } else { "jsonPatch" };
    let wanted = if apply { apply_type() } else { patch_type() };
    Mutation { apply, program: compiled(step.str_at(&[member, "expression"]), environment, &[wanted]) }
}
