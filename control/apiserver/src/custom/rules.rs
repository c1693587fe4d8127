//! `x-kubernetes-validations`: rules in CEL, compiled once per version of a definition, and checked when a
//! definition is written.

use std::{ops::ControlFlow, rc::Rc, sync::Arc};
use timonel_api::{FieldError, FieldErrorKind, FieldErrors, Key, Path, Value};
use timonel_cel::{
    Bindings, Budget, CompileErrors, Environment, EvalError, Program, Type, Val, compile, smallest_of_openapi,
    type_of_openapi,
};

/// Most that one rule may cost by estimate.
const RULE_LIMIT: u64 = 10_000_000;
/// Most that all rules of a schema may cost by estimate.
const SCHEMA_LIMIT: u64 = 100_000_000;
/// Bytes of a request, which bound how often a value can be there.
const REQUEST_BYTES: u64 = 3 << 20;
/// Bytes of a message that an expression makes.
const MAX_MESSAGE: usize = 5 << 10;
/// Levels of a schema.
const MAX_DEPTH: usize = 64;
/// Rules named when the whole is too expensive.
const MOST_EXPENSIVE: usize = 4;

const SELF: &str = "self";
const OLD_SELF: &str = "oldSelf";

/// One rule.
#[derive(Debug)]
struct Rule {
    text: String,
    message: String,
    reason: String,
    field_path: String,
    optional_old_self: bool,
    program: Result<Program, String>,
    message_program: Option<Program>,
    uses_old_self: bool,
}

/// The rules of one place of a schema and of those below; made for places with rules only.
#[derive(Debug)]
pub(super) struct Rules {
    ty: Option<Type>,
    declared: String,
    rules: Vec<Rule>,
    properties: Vec<(Key, Rules)>,
    additional: Option<Box<Rules>>,
    items: Option<Box<Rules>>,
    /// Members by which items of a list are told apart.
    keys: Vec<Key>,
    atomic: bool,
}

fn truth(schema: &Value, name: &str) -> bool {
    schema.bool_at(&[name]) == Some(true)
}

fn has_rules(schema: &Value, depth: usize) -> bool {
    depth < MAX_DEPTH
        && (!schema.list_at(&["x-kubernetes-validations"]).is_empty()
            || children(schema).any(|(_, child)| has_rules(child, depth + 1))
            || ["items", "additionalProperties"]
                .iter()
                .any(|name| schema.get(name).is_some_and(|child| has_rules(child, depth + 1))))
}

fn children(schema: &Value) -> impl Iterator<Item = (&Key, &Value)> {
    schema.get("properties").and_then(Value::as_object).into_iter().flat_map(|properties| properties.iter())
}

/// What an expression at a place may name.
fn environment(ty: &Type, optional_old_self: bool) -> Environment {
    let old = if optional_old_self { Type::optional(ty.clone()) } else { ty.clone() };
    Environment::new().variable(SELF, ty.clone()).variable(OLD_SELF, old)
}

fn compiled(text: &str, environment: &Environment, wanted: &Type) -> Result<Program, String> {
    let words = |errors: CompileErrors| format!("compilation failed: {errors}");
    let program = compile(text, environment).map_err(words)?;
    if program.result_type().is_exactly(wanted) {
        return Ok(program);
    }
    Err(match wanted {
        Type::Bool => "cel expression must evaluate to a bool".to_owned(),
        _ => "messageExpression must evaluate to a string".to_owned(),
    })
}

impl Rule {
    fn new(declared: &Value, ty: Option<&Type>) -> Self {
        let text = |name: &str| declared.str_at(&[name]).to_owned();
        let optional_old_self = truth(declared, "optionalOldSelf");
        let environment = ty.map(|ty| environment(ty, optional_old_self));
        let message_expression = declared.str_at(&["messageExpression"]);
        let (program, message_program) = match &environment {
            None => (Err("failed to convert to declType for CEL validation rules".to_owned()), None),
            Some(environment) => {
                let message = (!message_expression.is_empty())
                    .then(|| compiled(message_expression, environment, &Type::String).ok())
                    .flatten();
                (compiled(declared.str_at(&["rule"]), environment, &Type::Bool), message)
            }
        };
        Self {
            uses_old_self: program.as_ref().is_ok_and(|program| program.uses(OLD_SELF)),
            program,
            message_program,
            text: text("rule"),
            message: text("message").trim().to_owned(),
            reason: text("reason"),
            field_path: text("fieldPath").trim_start_matches('.').to_owned(),
            optional_old_self,
        }
    }

    /// The rule as errors about it name it.
    fn name(&self) -> &str {
        if self.message.is_empty() { self.text.trim() } else { &self.message }
    }
}

impl Rules {
    /// Compiles the rules of a schema; `None` when it has none.
    pub(super) fn of(schema: &Value) -> Option<Self> {
        has_rules(schema, 0).then(|| Self::at(schema, true, 0))
    }

    fn at(schema: &Value, root: bool, depth: usize) -> Self {
        let declared = schema.list_at(&["x-kubernetes-validations"]);
        let ty = (!declared.is_empty())
            .then(|| type_of_openapi(schema, root || truth(schema, "x-kubernetes-embedded-resource")))
            .flatten();
        let below = |name: &str| {
            let child = schema.get(name).filter(|child| has_rules(child, depth + 1))?;
            Some(Box::new(Self::at(child, false, depth + 1)))
        };
        let keyed = schema.str_at(&["x-kubernetes-list-type"]) == "map";
        let keys = schema.list_at(&["x-kubernetes-list-map-keys"]).iter().filter(|_| keyed);
        Self {
            rules: declared.iter().map(|declared| Rule::new(declared, ty.as_ref())).collect(),
            ty,
            declared: schema.str_at(&["type"]).to_owned(),
            properties: children(schema)
                .filter(|(_, child)| has_rules(child, depth + 1))
                .map(|(name, child)| (name.clone(), Self::at(child, false, depth + 1)))
                .collect(),
            additional: below("additionalProperties"),
            items: below("items"),
            keys: keys.filter_map(Value::as_str).map(Key::from).collect(),
            atomic: schema.str_at(&["x-kubernetes-map-type"]) == "atomic",
        }
    }

    /// Judges an object by the rules. What did not change may stay wrong: that comes back as warnings.
    pub(super) fn judge(&self, object: &Value, old: Option<&Value>, errors: &mut FieldErrors) -> Vec<String> {
        let mut judge = Judge { budget: Budget::default(), errors, warnings: Vec::new() };
        let _ = judge.node(self, object, old, Known::of(object, old, false), &Path::root());
        judge.warnings
    }
}

/// Whether a value is what it was; what has no counterpart is as its parent.
#[derive(Clone, Copy)]
struct Known {
    unchanged: bool,
}

impl Known {
    fn of(value: &Value, old: Option<&Value>, parent: bool) -> Self {
        Self { unchanged: old.map_or(parent, |old| old == value) }
    }
}

struct Judge<'e> {
    budget: Budget,
    errors: &'e mut FieldErrors,
    warnings: Vec<String>,
}

impl Judge<'_> {
    fn node(
        &mut self,
        rules: &Rules,
        value: &Value,
        old: Option<&Value>,
        known: Known,
        path: &Path<'_>,
    ) -> ControlFlow<()> {
        if value.is_null() {
            return ControlFlow::Continue(());
        }
        self.rules(rules, value, old.filter(|old| !old.is_null()), known, path)?;
        match value {
            Value::List(list) => {
                let Some(items) = &rules.items else { return ControlFlow::Continue(()) };
                let before = old.and_then(Value::as_list).unwrap_or(&[]);
                for (at, item) in list.iter().enumerate() {
                    let same = |other: &&Value| rules.keys.iter().all(|key| other.get(key) == item.get(key));
                    let before = before.iter().find(same).filter(|_| !rules.keys.is_empty());
                    self.node(items, item, before, Known::of(item, before, known.unchanged), &path.index(at))?;
                }
            }
            Value::Object(object) => {
                for (name, member) in object.iter() {
                    let listed = rules.properties.binary_search_by(|(key, _)| key.as_str().cmp(name));
                    let before = old.and_then(|old| old.get(name));
                    let correlated = before.filter(|_| !rules.atomic);
                    let known = Known::of(member, correlated, known.unchanged);
                    match (listed, &rules.additional) {
                        (Ok(at), _) => {
                            self.node(&rules.properties[at].1, member, before, known, &path.child(name))?;
                        }
                        (Err(_), Some(inner)) => self.node(inner, member, before, known, &path.key(name))?,
                        (Err(_), None) => {}
                    }
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn invalid(&mut self, rules: &Rules, path: &Path<'_>, detail: String) {
        self.errors.invalid(path, rules.declared.as_str(), detail);
    }

    fn rules(
        &mut self,
        rules: &Rules,
        value: &Value,
        old: Option<&Value>,
        known: Known,
        path: &Path<'_>,
    ) -> ControlFlow<()> {
        let Some(ty) = rules.ty.as_ref().filter(|_| !rules.rules.is_empty()) else {
            return ControlFlow::Continue(());
        };
        let read = |value| Val::typed(value, ty).unwrap_or_else(|_| Val::of(value));
        let (own, before) = (read(value), old.map(read));
        for rule in &rules.rules {
            let program = match &rule.program {
                Ok(program) => program,
                Err(error) => {
                    self.invalid(rules, path, format!("rule compile error: {error}"));
                    continue;
                }
            };
            if rule.uses_old_self && before.is_none() && !rule.optional_old_self {
                continue;
            }
            let mut bindings = Bindings::new().with(SELF, own.clone());
            match (&before, rule.optional_old_self) {
                (before, true) => bindings.set(OLD_SELF, Val::Optional(before.clone().map(Rc::new))),
                (Some(before), false) => bindings.set(OLD_SELF, before.clone()),
                (None, false) => {}
            }
            let left = self.budget.left();
            match program.evaluate(&bindings, &mut self.budget) {
                Ok(Val::Bool(true)) => {}
                Ok(_) => self.refuse(rules, rule, &bindings, value, known, path)?,
                Err(EvalError::CostLimit) if left < timonel_cel::PER_CALL_LIMIT => {
                    let detail = "validation failed due to running out of cost budget, no further validation rules \
                                  will be run";
                    self.invalid(rules, path, detail.to_owned());
                    return ControlFlow::Break(());
                }
                Err(error @ EvalError::CostLimit) => {
                    let detail = format!(
                        "'{error}': no further validation rules will be run due to call cost exceeds limit for rule: {}",
                        rule.name()
                    );
                    self.invalid(rules, path, detail);
                    return ControlFlow::Break(());
                }
                Err(error) if error.to_string().starts_with("no such overload") => {
                    let detail = format!(
                        "'{error}': call arguments did not match a supported operator, function or macro signature for \
                         rule: {}",
                        rule.name()
                    );
                    self.invalid(rules, path, detail);
                }
                Err(error) => self.invalid(rules, path, format!("{error} evaluating rule: {}", rule.name())),
            }
        }
        ControlFlow::Continue(())
    }

    /// A rule that does not hold.
    fn refuse(
        &mut self,
        rules: &Rules,
        rule: &Rule,
        bindings: &Bindings<'_>,
        value: &Value,
        known: Known,
        path: &Path<'_>,
    ) -> ControlFlow<()> {
        let field =
            if rule.field_path.is_empty() { path.to_string() } else { path.child(&rule.field_path).to_string() };
        let default = || match rule.message.as_str() {
            "" => format!("failed rule: {}", rule.name()),
            text => text.to_owned(),
        };
        let mut flow = ControlFlow::Continue(());
        let detail = match &rule.message_program {
            None => default(),
            Some(program) => match program.evaluate(bindings, &mut self.budget) {
                Ok(made) => {
                    made.as_str().map(str::trim).filter(|text| is_message(text)).map_or_else(default, str::to_owned)
                }
                Err(EvalError::CostLimit) => {
                    flow = ControlFlow::Break(());
                    format!(
                        "no further validation rules will be run due to call cost exceeds limit for messageExpression: {}",
                        timonel_api::quote(program.source())
                    )
                }
                Err(_) => default(),
            },
        };
        let whole = matches!(rules.declared.as_str(), "object" | "array");
        let shown = (!whole).then(|| value.clone());
        let (kind, value) = match rule.reason.as_str() {
            "FieldValueForbidden" => (FieldErrorKind::Forbidden, None),
            "FieldValueRequired" => (FieldErrorKind::Required, None),
            "FieldValueDuplicate" => (FieldErrorKind::Duplicate, shown),
            _ => (FieldErrorKind::Invalid, shown),
        };
        let error = FieldError { kind, field, value, detail };
        if known.unchanged && !rule.uses_old_self {
            self.warnings.push(error.to_string());
        } else {
            self.errors.push(error);
        }
        flow
    }
}

fn is_message(text: &str) -> bool {
    !text.is_empty() && text.len() <= MAX_MESSAGE && !text.contains('\n')
}

/// Whether rules cannot be judged because of what else is wrong; adds what says so.
pub(super) fn is_blocked(errors: &mut FieldErrors) -> bool {
    use FieldErrorKind::{NotSupported, Required, TooLong, TooMany, TypeInvalid};
    let blocks = |error: &FieldError| matches!(error.kind, NotSupported | Required | TooLong | TooMany | TypeInvalid);
    let blocked = errors.iter().any(blocks);
    if blocked {
        let detail = "some validation rules were not checked because the object was invalid; correct the existing errors \
                      to complete validation";
        errors.invalid(&Path::root(), Value::Null, detail);
    }
    blocked
}

/// Checks the rules of a definition: they compile, and cost no more than they may. Versions whose schema is that
/// of `old` are let pass.
pub(crate) fn check(crd: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
    const SCHEMA: [&str; 2] = ["schema", "openAPIV3Schema"];
    let list = Path::new("spec.versions");
    let versions = crd.list_at(&["spec", "versions"]);
    let known = |version: &Value| {
        let before = old.map_or(&[][..], |old| old.list_at(&["spec", "versions"]));
        let before = before.iter().find(|before| before.get("name") == version.get("name"));
        before.is_some_and(|before| before.at(&SCHEMA) == version.at(&SCHEMA))
    };
    let mut judge = |schema: &Value, path: &Path<'_>| {
        if has_rules(schema, 0) {
            let mut checker = Checker { errors: &mut *errors, total: 0, expensive: Vec::new() };
            checker.node(schema, &Place { root: true, cardinality: Some(1), uncorrelated: None }, path, 0);
            checker.close(path);
        }
    };
    // What all versions share is judged once, at the place that definitions of the first generation had for it.
    if versions.iter().all(|version| version.at(&SCHEMA) == versions[0].at(&SCHEMA)) {
        let schema = versions.first().and_then(|version| version.at(&SCHEMA));
        if let Some(schema) = schema.filter(|_| !versions.iter().all(known)) {
            judge(schema, &Path::new("spec.validation.openAPIV3Schema"));
        }
        return;
    }
    for (at, version) in versions.iter().enumerate().filter(|(_, version)| !known(version)) {
        if let Some(schema) = version.at(&SCHEMA) {
            judge(schema, &list.index(at).child("schema.openAPIV3Schema"));
        }
    }
}

struct Checker<'e> {
    errors: &'e mut FieldErrors,
    total: u64,
    expensive: Vec<(String, u64)>,
}

/// Where in a schema the check stands.
#[derive(Clone)]
struct Place {
    root: bool,
    /// How often the value can be there; `None` when nothing bounds it.
    cardinality: Option<u64>,
    /// The list around, whose items have no counterpart in the old object.
    uncorrelated: Option<Arc<str>>,
}

/// How often a child of a value of this schema can be there.
fn elements(schema: &Value) -> Option<u64> {
    let most = |name: &str| schema.int_at(&[name]).map(|most| u64::try_from(most).unwrap_or(0));
    match schema.str_at(&["type"]) {
        "object" if schema.get("additionalProperties").is_some_and(|value| !value.is_null()) => most("maxProperties"),
        "array" => most("maxItems"),
        _ => Some(1),
    }
}

impl Checker<'_> {
    fn node(&mut self, schema: &Value, place: &Place, path: &Path<'_>, depth: usize) {
        if depth > MAX_DEPTH || !has_rules(schema, 0) {
            return;
        }
        let each = elements(schema);
        let inner = Place {
            root: false,
            cardinality: place.cardinality.zip(each).map(|(outer, each)| outer.saturating_mul(each)),
            uncorrelated: place.uncorrelated.clone(),
        };
        if let Some(child) = schema.get("additionalProperties").filter(|child| child.as_object().is_some()) {
            self.node(child, &inner, &path.child("additionalProperties"), depth + 1);
        }
        let properties = path.child("properties");
        for (name, child) in children(schema) {
            self.node(child, &inner, &properties.key(name), depth + 1);
        }
        if let Some(items) = schema.get("items").filter(|items| items.as_object().is_some()) {
            let mut inner = inner;
            if schema.str_at(&["x-kubernetes-list-type"]) != "map" && inner.uncorrelated.is_none() {
                inner.uncorrelated = Some(path.to_string().into());
            }
            self.node(items, &inner, &path.child("items"), depth + 1);
        }
        self.rules(schema, place, path);
    }

    fn rules(&mut self, schema: &Value, place: &Place, path: &Path<'_>) {
        let declared = schema.list_at(&["x-kubernetes-validations"]);
        if declared.is_empty() {
            return;
        }
        let list = path.child("x-kubernetes-validations");
        let root = place.root || truth(schema, "x-kubernetes-embedded-resource");
        let Some(ty) = type_of_openapi(schema, root) else {
            return self.errors.internal(&list, "failed to convert to declType for CEL validation rules");
        };
        let most = || smallest_of_openapi(schema, root).map_or(REQUEST_BYTES, |size| REQUEST_BYTES / (size + 1));
        let cardinality = place.cardinality.unwrap_or_else(most);
        for (at, one) in declared.iter().enumerate() {
            let path = list.index(at);
            let environment = environment(&ty, truth(one, "optionalOldSelf"));
            match compiled(one.str_at(&["rule"]), &environment, &Type::Bool) {
                Err(detail) => {
                    self.cost("estimated rule cost", 0, &path.child("rule"));
                    self.errors.invalid(&path.child("rule"), one.clone(), detail);
                    continue;
                }
                Ok(program) => {
                    let cost = program.estimate().max.saturating_mul(cardinality);
                    self.cost("estimated rule cost", cost, &path.child("rule"));
                    self.old_self(&program, one, place, &path);
                }
            }
            let text = one.str_at(&["messageExpression"]);
            if text.is_empty() {
                continue;
            }
            let path = path.child("messageExpression");
            match compiled(text, &environment, &Type::String) {
                Err(detail) => {
                    let prefix = if detail.starts_with("compilation") { "messageExpression " } else { "" };
                    self.errors.invalid(&path, one.clone(), format!("{prefix}{detail}"));
                }
                Ok(program) => self.cost("estimated messageExpression cost", program.estimate().max, &path),
            }
        }
    }

    fn old_self(&mut self, program: &Program, one: &Value, place: &Place, path: &Path<'_>) {
        if program.uses(OLD_SELF) {
            if let Some(list) = &place.uncorrelated {
                let detail =
                    format!("oldSelf cannot be used on the uncorrelatable portion of the schema within {list}");
                self.errors.invalid(&path.child("rule"), one.str_at(&["rule"]), detail);
            }
        } else if let Some(set) = one.bool_at(&["optionalOldSelf"]) {
            let detail = "may not be set if oldSelf is not used in rule";
            self.errors.invalid(&path.child("optionalOldSelf"), set, detail);
        }
    }

    fn cost(&mut self, what: &str, cost: u64, path: &Path<'_>) {
        if cost > RULE_LIMIT {
            self.errors.forbidden(path, over_budget(what, cost, RULE_LIMIT));
        }
        self.total = self.total.saturating_add(cost);
        if cost >= SCHEMA_LIMIT / 100 {
            self.expensive.push((path.to_string(), cost));
        }
    }

    fn close(mut self, path: &Path<'_>) {
        if self.total <= SCHEMA_LIMIT {
            return;
        }
        self.expensive.sort_by_key(|(_, cost)| std::cmp::Reverse(*cost));
        for (field, _) in self.expensive.into_iter().take(MOST_EXPENSIVE) {
            self.errors.push(FieldError {
                kind: FieldErrorKind::Forbidden,
                field,
                value: None,
                detail: "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema"
                    .into(),
            });
        }
        let what = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
        self.errors.forbidden(path, over_budget(what, self.total, SCHEMA_LIMIT));
    }
}

#[expect(clippy::cast_precision_loss, reason = "a factor for people to read")]
fn over_budget(what: &str, cost: u64, limit: u64) -> String {
    let factor = cost as f64 / limit as f64;
    let factor = if factor > 100.0 {
        "more than 100x".to_owned()
    } else if factor < 1.5 {
        format!("{factor:.6}x")
    } else {
        format!("{factor:.1}x")
    };
    format!(
        "{what} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, and \
         maxLength where arrays, maps, and strings are declared)"
    )
}
