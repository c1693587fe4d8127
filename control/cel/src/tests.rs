//! The language as a whole: what expressions evaluate to, what is refused, what it costs.

use proptest::prelude::*;
use std::rc::Rc;
use timonel_api::Value;

use super::*;

fn json(text: &str) -> Value {
    serde_json::from_str::<serde_json::Value>(text).expect("valid JSON").into()
}

fn environment() -> Environment {
    Environment::new().variable("self", Type::Dyn).variable("authorizer", Type::authorizer())
}

struct Admins;

impl Authorizer for Admins {
    fn check(&self, service_account: Option<(&str, &str)>, verb: &str, check: &Check) -> Decision {
        let resource = matches!(check, Check::Resource(check) if check.resource == "pods" && check.namespace == "ns");
        let allowed = verb == "get" && (resource || service_account == Some(("ns", "sa")));
        Decision { allowed, reason: "asked".to_owned(), error: None }
    }
}

fn run(expression: &str, input: &Value) -> Result<Value, String> {
    let program = compile(expression, &environment()).map_err(|errors| errors.to_string())?;
    let bindings = Bindings::new().with("self", Val::of(input)).with("authorizer", Val::authorizer(Rc::new(Admins)));
    let val = program.evaluate(&bindings, &mut Budget::default()).map_err(|error| error.to_string())?;
    val.to_value().map_err(|error| error.to_string())
}

const INPUT: &str = r#"{
    "name":"shop", "n":3, "f":1.5, "none":null, "list":[3,1,2], "names":["b","a"], "labels":{"app":"x","a.b/c":"y"},
    "items":[{"k":"a","v":1},{"k":"b","v":2}], "big":"1Gi", "when":"2026-01-02T03:04:05Z"
}"#;

/// Each of these is true.
const TRUE: &[&str] = &[
    "true && !false || false",
    "1 + 2 * 3 - 4 / 2 % 3 == 5",
    "-self.n == -3 && 1u + 2u == 3u && 1.5 * 2.0 == 3.0",
    "1 < 1.5 && 2u > 1 && dyn(1) == 1.0 && dyn(1u) == 1",
    "'a' + 'b' == 'ab' && b'a' + b'b' == b'ab' && [1] + [2] == [1, 2]",
    "self.n == 3 ? self.name == 'shop' : false",
    "size(self.name) == 4 && self.list.size() == 3 && size(self.labels) == 2 && 'äö'.size() == 2",
    "'app' in self.labels && 3 in self.list && !(9 in self.list) && self.labels['a.b/c'] == 'y'",
    "has(self.name) && !has(self.other) && has(self.labels.app)",
    "self.list.all(x, x > 0) && self.list.exists(x, x == 2) && self.list.exists_one(x, x == 2)",
    "self.list.filter(x, x > 1) == [3, 2] && self.list.map(x, x * 2) == [6, 2, 4]",
    "self.list.map(x, x > 1, x * 10) == [30, 20] && self.labels.all(k, k.size() > 0)",
    "self.list.all(i, x, i < 3 && x > 0) && self.list.exists(i, x, i == 2 && x == 2)",
    "self.labels.existsOne(k, v, v == 'x') && self.list.transformList(i, x, i + x) == [3, 2, 4]",
    "self.labels.transformMap(k, v, v == 'x', k + v) == {'app': 'appx'}",
    "self.list.transformMapEntry(i, x, {x: i}) == {3: 0, 1: 1, 2: 2}",
    "[[1, 2], [3]].all(l, l.exists(x, x < 4))",
    "cel.bind(x, self.n + 1, x * x) == 16",
    // Whichever side decides, decides.
    "true || self.other.deep == 1",
    "self.other == 1 || true",
    "!(self.other == 1 && false)",
    "[1, 2, 0].exists(x, 4 / x == 2)",
    "self.?name.orValue('') == 'shop' && self.?other.orValue('x') == 'x' && !self.?other.hasValue()",
    "self.?labels.?app.value() == 'x' && self[?'none'].hasValue() && self.list[?9].orValue(7) == 7",
    "self.?other.deep.or(optional.of(1)).value() == 1",
    "self.?name.optMap(n, n.size()).orValue(0) == 4 && self.?other.optMap(n, 1) == optional.none()",
    "self.?name.optFlatMap(n, optional.of(n + '!')) == optional.of('shop!')",
    "[?self.?name, ?self.?other] == ['shop'] && {?'a': self.?name, ?'b': self.?other} == {'a': 'shop'}",
    "optional.ofNonZeroValue('') == optional.none() && [optional.of(1), optional.none()].unwrapOpt() == [1]",
    "type(self.n) == int && type(self.none) == null_type && type('') == string && type(type(1)) == type",
    "int('3') == 3 && string(3) == '3' && double('1.5') == 1.5 && uint(3) == 3u && bool('true') && int(2.9) == 2",
    "string(1.0) == '1' && string(1e100) == '1e+100' && string(b'abc') == 'abc' && string(duration('90s')) == '90s'",
    "timestamp(self.when).getFullYear() == 2026 && timestamp(self.when).getMonth() == 0",
    "timestamp(self.when) + duration('1h') > timestamp(self.when) && duration('1h30m').getMinutes() == 90",
    "timestamp('2026-01-02T23:04:05Z').getDate('+02:00') == 3 && timestamp(self.when).getDayOfWeek() == 5",
    "timestamp('2026-01-02T00:00:00Z') - timestamp('2026-01-01T00:00:00Z') == duration('24h')",
    "'hello'.startsWith('he') && 'hello'.endsWith('lo') && 'hello'.contains('ell') && 'hello'.matches('^h.*o$')",
    "matches('abc', '[a-c]+') && 'ab12'.find('[0-9]+') == '12' && 'a1b2'.findAll('[0-9]') == ['1', '2']",
    "'a1b2c3'.findAll('[0-9]', 2) == ['1', '2']",
    "'hello'.charAt(1) == 'e' && 'hello'.indexOf('l') == 2 && 'hello'.lastIndexOf('l') == 3 && 'x'.charAt(1) == ''",
    "'Hi'.lowerAscii() == 'hi' && 'Hi'.upperAscii() == 'HI' && ' x '.trim() == 'x'",
    "'aaa'.replace('a', 'b', 2) == 'bba' && 'a,b'.split(',') == ['a', 'b'] && 'a,b,c'.split(',', 2) == ['a', 'b,c']",
    "'hello'.substring(1, 3) == 'el' && ['a', 'b'].join('-') == 'a-b' && 'ab'.split('') == ['a', 'b']",
    "'%s has %d, %.2f, %x'.format([dyn('a'), 1, 1.5, 255]) == 'a has 1, 1.50, ff'",
    "'%s %s'.format([dyn([dyn(1), 'a']), {'k': true}]) == '[1, a] {k: true}' && '%b %o %e'.format([dyn(5), 8, 1.5]) == '101 10 1.500000e+00'",
    "strings.quote('a\"b') == '\"a\\\\\"b\"'",
    "[1, 2, 3].isSorted() && ![2, 1].isSorted() && [1, 2].sum() == 3 && [1, 5, 2].max() == 5 && ['b', 'a'].min() == 'a'",
    "[1, 2, 1].indexOf(1) == 0 && [1, 2, 1].lastIndexOf(1) == 2 && [1].indexOf(9) == -1",
    "[3, 1].sort() == [1, 3] && self.items.sortBy(i, -i.v).map(i, i.k) == ['b', 'a'] && lists.range(3) == [0, 1, 2]",
    "[1, 2, 3].slice(1, 2) == [2] && [[1], [2]].flatten() == [1, 2] && [1, 2].reverse() == [2, 1] && [1, 1].distinct() == [1]",
    "[1, 2].first().value() == 1 && [1, 2].last().value() == 2 && [].first() == optional.none()",
    "sets.contains([1, 2], [1]) && sets.equivalent([1, 1], [1]) && sets.intersects([1], [1, 2])",
    "quantity('1Gi') == quantity('1024Mi') && quantity(self.big).isGreaterThan(quantity('1G')) && isQuantity('1k') && !isQuantity('x')",
    "quantity('1').add(2).asInteger() == 3 && quantity('500m').asApproximateFloat() == 0.5 && !quantity('500m').isInteger()",
    "quantity('2').compareTo(quantity('1')) == 1 && quantity('-1').sign() == -1 && quantity('1k').sub(quantity('1')).asInteger() == 999",
    "ip('10.0.0.1').family() == 4 && isIP('::1') && !isIP('1') && ip('127.0.0.1').isLoopback() && string(ip('::1')) == '::1'",
    "ip('fe80::1').isLinkLocalUnicast() && ip('8.8.8.8').isGlobalUnicast() && !ip.isCanonical('0:0::1')",
    "cidr('10.0.0.0/8').containsIP('10.1.1.1') && cidr('10.0.0.0/8').containsCIDR('10.1.0.0/16') && cidr('10.1.2.3/8').masked() == cidr('10.0.0.0/8')",
    "cidr('10.0.0.0/8').prefixLength() == 8 && cidr('10.0.0.0/8').ip() == ip('10.0.0.0') && isCIDR('::/0') && !isCIDR('1/8')",
    "url('https://example.com:80/a?k=v').getHostname() == 'example.com' && url('https://a/b?k=v').getQuery() == {'k': ['v']} && isURL('/a') && !isURL('a')",
    "semver('1.2.3').minor() == 2 && semver('1.2.3').isLessThan(semver('1.10.0')) && isSemver('v1.0', true) && !isSemver('v1.0')",
    "!format.dns1123Label().validate('ok').hasValue() && format.dns1123Label().validate('NOT').hasValue()",
    "format.named('uuid').value().validate('x').value()[0].contains('UUID') && !format.named('none').hasValue()",
    "authorizer.group('').resource('pods').namespace('ns').check('get').allowed()",
    "!authorizer.path('/healthz').check('get').allowed() && authorizer.serviceAccount('ns', 'sa').path('/x').check('get').reason() == 'asked'",
    "dyn([1, 2, 3]).size() == 3 && dyn(1) == 1 && [dyn(1), dyn('a')].size() == 2",
    "self.items.map(i, i.v).sum() == 3 && self.items.exists(i, i.k == 'b' && i.v == 2)",
    "self.none == null && self.list != null && 1 != dyn('1')",
    r"'\u00e4\n\x41' == 'ä\nA' && r'\d' == '\\d' && '''a''' == 'a'",
];

#[test]
fn expressions_that_are_true() {
    let input = json(INPUT);
    let outcomes = TRUE.iter().map(|expression| (*expression, run(expression, &input)));
    let wrong: Vec<_> = outcomes.filter(|(_, outcome)| *outcome != Ok(Value::Bool(true))).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn expressions_that_fault() {
    let input = json(INPUT);
    for (expression, fault) in [
        ("self.other == 1", "no such key: other"),
        ("self.list[9] == 1", "index out of bounds: 9"),
        ("1 / (self.n - 3) == 1", "division by zero"),
        ("9223372036854775807 + self.n == 0", "integer overflow"),
        ("self.name + 1 == 1", "no such overload"),
        ("self.name && true", "no such overload"),
        ("int(self.name) == 1", "strconv.ParseInt: parsing \"shop\": invalid syntax"),
        ("self.?other.value() == 1", "optional.none() dereference"),
        ("{self.name: 1, 'shop': 2}.size() == 2", "Failed with repeated key: shop"),
        ("[1, 2].all(x, self.other == x)", "no such key: other"),
        ("self.name.matches(self.name + '(')", "error parsing regexp: unclosed group: `shop(`"),
        (
            "quantity(self.name).sign() == 1",
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
    ] {
        assert_eq!(run(expression, &input), Err(fault.to_owned()), "{expression}");
    }
}

#[test]
fn expressions_that_do_not_compile() {
    let object = ObjectType::new("object", [("replicas".into(), Type::Int), ("name".into(), Type::String)]);
    let environment = Environment::new().variable("self", Type::Object(object)).variable("oldSelf", Type::Dyn);
    for (expression, messages) in [
        ("self.x", vec!["ERROR: <input>:1:5: undefined field 'x'\n | self.x\n | ....^"]),
        ("foo == 1", vec!["ERROR: <input>:1:1: undeclared reference to 'foo' (in container '')\n | foo == 1\n | ^"]),
        (
            "self.name == 1",
            vec![
                "ERROR: <input>:1:11: found no matching overload for '_==_' applied to '(string, int)'\n | self.name == 1\n | ..........^",
            ],
        ),
        (
            "self.name.foo()",
            vec![
                "ERROR: <input>:1:14: undeclared reference to 'foo' (in container '')\n | self.name.foo()\n | .............^",
            ],
        ),
        (
            "self.name.startsWith(1)",
            vec![
                "ERROR: <input>:1:21: found no matching overload for 'startsWith' applied to 'string.(int)'\n | self.name.startsWith(1)\n | ....................^",
            ],
        ),
        (
            "self.replicas.all(x, true)",
            vec![
                "ERROR: <input>:1:5: expression of type 'int' cannot be range of a comprehension (must be list, map, or dynamic)\n | self.replicas.all(x, true)\n | ....^",
            ],
        ),
        (
            "self.name.x && self.replicas",
            vec![
                "ERROR: <input>:1:10: type 'string' does not support field selection\n | self.name.x && self.replicas\n | .........^",
                "ERROR: <input>:1:20: expected type 'bool' but found 'int'\n | self.name.x && self.replicas\n | ...................^",
            ],
        ),
        ("[1, 'a']", vec!["ERROR: <input>:1:5: expected type 'int' but found 'string'\n | [1, 'a']\n | ....^"]),
        (
            "'a'.matches('(')",
            vec!["ERROR: <input>:1:13: invalid matches argument\n | 'a'.matches('(')\n | ............^"],
        ),
        ("duration('x')", vec!["ERROR: <input>:1:10: invalid duration argument\n | duration('x')\n | .........^"]),
        (
            "jsonpatch.escapeKey('a')",
            vec!["undeclared reference to 'jsonpatch'", "undeclared reference to 'escapeKey'"],
        ),
        ("self.name ==", vec!["Syntax error: mismatched input '<EOF>' expecting"]),
        ("self.replicas > 'a' ? 1", vec!["Syntax error"]),
    ] {
        let errors = compile(expression, &environment).expect_err(expression).to_string();
        for message in messages {
            assert!(errors.contains(message), "{expression}: {errors}");
        }
    }
}

#[test]
fn types_of_results_are_known() {
    let environment = environment();
    for (expression, ty) in [
        ("self.x", "dyn"),
        ("[1].map(x, string(x))", "list(string)"),
        ("{'a': [1]}", "map(string, list(int))"),
        ("optional.of(1)", "optional_type(int)"),
        ("true ? 1 : 2", "int"),
        ("type(1)", "type(int)"),
        ("quantity('1')", "kubernetes.Quantity"),
    ] {
        let program = compile(expression, &environment).expect(expression);
        assert_eq!(program.result_type().to_string(), ty, "{expression}");
    }
    let program = compile("self.x", &environment).expect("compiles");
    assert!(program.yields(&Type::Bool) && program.uses("self") && !program.uses("authorizer"));
}

#[test]
fn costs_are_those_of_upstream() {
    let environment = Environment::new()
        .variable("self", Type::map(Type::String, Type::Dyn))
        .variable("list", Type::list(Type::String.sized(10)).sized(5))
        .variable("text", Type::String.sized(100));
    for (expression, min, max) in [
        ("true", 0, 0),
        ("list.size() > 0", 3, 3),
        ("text == 'abc'", 2, 2),
        ("list.all(x, x == 'a')", 2, 27),
        ("text.startsWith('abc')", 2, 2),
        ("text.contains('abcdefghijk')", 1, 21),
        ("text.matches('a{3}b+c*d?')", 4, 34),
        ("'abc' in list", 1, 6),
        ("[1, 2, 3].isSorted()", 13, 13),
        ("text.lowerAscii() == 'a'", 2, 12),
        ("cel.bind(x, text, x + x) == ''", 13, 33),
        ("has(self.a)", 1, 1),
        ("self.a", 2, 2),
    ] {
        let estimate = compile(expression, &environment).expect(expression).estimate();
        assert_eq!((estimate.min, estimate.max), (min, max), "{expression}");
    }
}

#[test]
fn what_is_made_on_the_way_has_the_size_of_self() {
    let fields = [("list", Type::list(Type::String.sized(1_000)).sized(1_000)), ("text", Type::String.sized(1_000))];
    let own = ObjectType::new("Self", fields.map(|(name, ty)| (name.into(), ty)));
    let environment = Environment::new().variable("self", Type::Object(own));
    for (expression, max) in [
        ("self.list.exists(k, k.contains('/'))", 105_003),
        ("(has(self.list) ? self.list : []).exists(k, k.contains('/'))", 5_012),
        ("[self.text, 'a'].exists(k, k.contains('/'))", 23),
    ] {
        let estimate = compile(expression, &environment).expect(expression).estimate();
        assert_eq!(estimate.max, max, "{expression}");
    }
}

#[test]
fn evaluations_cost_what_upstream_counts() {
    let input = json(INPUT);
    for (expression, cost) in [
        ("true", 0),
        ("self.n == 3", 3),
        ("self.list.size() == 3", 4),
        ("[1, 2, 3].all(x, x > 0)", 16),
        ("self.name.startsWith('sh')", 3),
        ("self.name.matches('^s.*p$')", 4),
        ("authorizer.path('/a').check('get').allowed()", 350_003),
        ("self.list.map(x, x) == [3, 1, 2]", 43),
    ] {
        let program = compile(expression, &environment()).expect(expression);
        let bindings =
            Bindings::new().with("self", Val::of(&input)).with("authorizer", Val::authorizer(Rc::new(Admins)));
        let mut budget = Budget::default();
        program.evaluate(&bindings, &mut budget).expect(expression);
        assert_eq!(RUNTIME_BUDGET - budget.left(), cost, "{expression}");
    }
}

#[test]
fn evaluations_are_bounded() {
    let program =
        compile("lists.range(1000).all(x, lists.range(1000).all(y, lists.range(1000).all(z, z >= 0)))", &environment())
            .expect("compiles");
    let mut budget = Budget::default();
    assert_eq!(program.evaluate(&Bindings::new(), &mut budget).expect_err("too much"), EvalError::CostLimit);
    assert!(budget.left() >= RUNTIME_BUDGET - PER_CALL_LIMIT - 1_000);
    let mut small = Budget::new(10);
    let program = compile("[1, 2, 3].map(x, x).size() == 3", &environment()).expect("compiles");
    assert_eq!(program.evaluate(&Bindings::new(), &mut small).expect_err("too much"), EvalError::CostLimit);
}

#[test]
fn sources_are_bounded() {
    let environment = environment();
    for hostile in [
        "(".repeat(20_000),
        format!("{}1", "1+".repeat(10_000)),
        format!("self{}", ".a".repeat(10_000)),
        "a".repeat(40_000),
        "[".repeat(5_000) + &"]".repeat(5_000),
        "true?".repeat(3_000),
        "{".repeat(3_000),
    ] {
        assert!(compile(&hostile, &environment).is_err(), "{}", &hostile[..20]);
    }
    let many = vec!["self.n > 0"; 500].join(" && ");
    assert!(compile(&many, &environment).is_ok(), "a long chain is balanced");
}

#[test]
fn computed_members_are_asked_for_when_named() {
    struct Lazy(std::cell::Cell<u32>);
    impl<'a> Fields<'a> for Lazy {
        fn get(&self, name: &str) -> Option<Result<Val<'a>, EvalError>> {
            self.0.set(self.0.get() + 1);
            (name == "x").then_some(Ok(Val::Int(7)))
        }
        fn len(&self) -> usize {
            1
        }
    }
    let variables = ObjectType::new("variables", [("x".into(), Type::Int)]);
    let environment = Environment::new().variable("variables", Type::Object(variables));
    let lazy = Rc::new(Lazy(std::cell::Cell::new(0)));
    let bindings = Bindings::new().with("variables", Val::computed(lazy.clone()));
    for (expression, asked) in [("true || variables.x == 1", 0), ("variables.x == 7", 1)] {
        let program = compile(expression, &environment).expect(expression);
        let val = program.evaluate(&bindings, &mut Budget::default()).expect(expression);
        assert_eq!((val.as_bool(), lazy.0.get()), (Some(true), asked));
    }
}

#[test]
fn objects_can_be_made_for_patches() {
    struct Any;
    impl Structs for Any {
        fn named(&self, name: &str) -> Option<ObjectType> {
            let spec = || ObjectType::new("Object.spec", [("replicas".into(), Type::Int)]);
            match name {
                "Object" => Some(ObjectType::new("Object", [("spec".into(), Type::Object(spec()))])),
                "Object.spec" => Some(spec()),
                _ => None,
            }
        }
    }
    let environment = Environment::new().mutation(std::sync::Arc::new(Any));
    let run = |text: &str| compile(text, &environment).map_err(|errors| errors.to_string());
    let program = run("Object{spec: Object.spec{replicas: 3}}").expect("compiles");
    assert_eq!(program.result_type().to_string(), "Object");
    let made = program.evaluate(&Bindings::new(), &mut Budget::default()).expect("made").to_value();
    assert_eq!(made, Ok(json(r#"{"spec":{"replicas":3}}"#)));
    assert!(
        run("Object{spec: Object.spec{replicas: 'a'}}")
            .expect_err("typed")
            .contains("expected type of field 'replicas' is 'int' but provided type is 'string'")
    );
    assert!(run("Object{other: 1}").expect_err("typed").contains("undefined field 'other'"));
    assert!(run("jsonpatch.escapeKey('a/b~c') == 'a~1b~0c'").is_ok());
}

proptest! {
    /// Whatever the text, compiling ends with a program or with errors, and a program ends with a value or a fault.
    #[test]
    fn no_text_breaks_it(text in "[a-z0-9.()\\[\\]{}?:,'\"+*/<>=!&|\\- \\\\ü]{0,60}") {
        if let Ok(program) = compile(&text, &environment()) {
            let input = json(INPUT);
            let _ = program.estimate();
            let _ = program.evaluate(&Bindings::new().with("self", Val::of(&input)), &mut Budget::default());
        }
    }

    /// Pieces of real expressions in any order.
    #[test]
    fn no_expression_breaks_it(pieces in prop::collection::vec(prop::sample::select(TRUE.to_vec()), 1..4), cut in 0_usize..200) {
        let text = pieces.join(" && ");
        let cut = (cut..=text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
        for part in [&text[..cut.min(text.len())], &text[cut.min(text.len())..], &text] {
            if let Ok(program) = compile(part, &environment()) {
                let input = json(INPUT);
                let bindings = Bindings::new().with("self", Val::of(&input)).with("authorizer", Val::authorizer(Rc::new(Admins)));
                let _ = program.estimate();
                let _ = program.evaluate(&bindings, &mut Budget::default());
            }
        }
    }
}

#[test]
fn expressions_tell_which_fields_of_a_variable_they_read() {
    let environment = Environment::new().variable("claims", Type::map(Type::String, Type::Dyn));
    for (text, reads) in [
        ("claims.email", true),
        ("claims.?email.orValue('')", true),
        ("has(claims.email)", true),
        ("[1].all(x, claims.email == 'a' && x > 0)", true),
        ("claims.emails", false),
        ("claims.other.email", false),
        ("'email'", false),
    ] {
        assert_eq!(compile(text, &environment).unwrap().selects("claims", "email"), reads, "{text}");
    }
}

#[test]
fn reserved_words_are_fields_behind_a_dot() {
    let ty = Type::Object(ObjectType::new("request", [("namespace".into(), Type::String), ("a".into(), Type::Int)]));
    let environment = Environment::new().variable("request", ty.clone());
    let input = json(r#"{"namespace": "x", "a": 1}"#);
    for (text, expected) in [
        ("request.namespace == 'x'", Some(true)),
        ("request.__namespace__ == 'x'", Some(true)),
        ("has(request.namespace) && request.a == 1", Some(true)),
        ("request.package == 'x'", None),
    ] {
        let found = compile(text, &environment).ok().map(|program| {
            let bindings = Bindings::new().with("request", Val::typed(&input, &ty).unwrap());
            program.evaluate(&bindings, &mut Budget::default()).unwrap().as_bool().unwrap()
        });
        assert_eq!(found, expected, "{text}");
    }
}
