//! What a configuration makes of claims: compiled once, used for every token. Pure.

use std::sync::LazyLock;
use timonel_api::{FieldErrors, Path};
use timonel_cel::{Environment, ObjectType, Program, Type, compile};

/// Claims to a user, and what must hold of both.
#[derive(Debug, Default)]
pub(super) struct Mapping {
    pub(super) username: Option<Rule>,
    pub(super) groups: Option<Rule>,
    pub(super) uid: Option<Rule>,
    pub(super) extra: Vec<(String, Rule)>,
    /// Claims with the value that they must have.
    pub(super) required: Vec<(String, String)>,
    pub(super) claim_rules: Vec<Rule>,
    pub(super) user_rules: Vec<Rule>,
}

/// A claim, or an expression over all of them.
#[derive(Debug)]
pub(super) enum Rule {
    Claim { name: String, prefix: String },
    Expression { program: Program, message: String },
}

/// The type of the variable `user`.
pub(super) static USER: LazyLock<Type> = LazyLock::new(|| {
    let texts = || Type::list(Type::String);
    let fields = [
        ("username", Type::String),
        ("uid", Type::String),
        ("groups", texts()),
        ("extra", Type::map(Type::String, texts())),
    ];
    Type::Object(ObjectType::new("kubernetes.UserInfo", fields.map(|(name, ty)| (name.into(), ty))))
});

static CLAIMS_ENVIRONMENT: LazyLock<Environment> =
    LazyLock::new(|| Environment::new().variable("claims", Type::map(Type::String, Type::Dyn)));
static USER_ENVIRONMENT: LazyLock<Environment> = LazyLock::new(|| Environment::new().variable("user", USER.clone()));

impl Rule {
    pub(super) fn claim(name: &str, prefix: &str) -> Self {
        Self::Claim { name: name.to_owned(), prefix: prefix.to_owned() }
    }

    /// An expression over claims that gives any value.
    pub(super) fn value(expression: &str, path: &Path<'_>, errors: &mut FieldErrors) -> Option<Self> {
        Self::compile(expression, "", &CLAIMS_ENVIRONMENT, None, path, errors)
    }

    /// An expression over claims that must hold.
    pub(super) fn of_claims(text: &str, message: &str, path: &Path<'_>, errors: &mut FieldErrors) -> Option<Self> {
        Self::compile(text, message, &CLAIMS_ENVIRONMENT, Some(&Type::Bool), path, errors)
    }

    /// An expression over the user that must hold.
    pub(super) fn of_user(text: &str, message: &str, path: &Path<'_>, errors: &mut FieldErrors) -> Option<Self> {
        Self::compile(text, message, &USER_ENVIRONMENT, Some(&Type::Bool), path, errors)
    }

    fn compile(
        text: &str,
        message: &str,
        environment: &Environment,
        wanted: Option<&Type>,
        path: &Path<'_>,
        errors: &mut FieldErrors,
    ) -> Option<Self> {
        match compile(text, environment) {
            Err(found) => errors.invalid(path, text, format!("compilation failed: {found}")),
            Ok(program) if wanted.is_some_and(|wanted| !program.result_type().is_exactly(wanted)) => {
                let name = wanted.map(ToString::to_string).unwrap_or_default();
                errors.invalid(path, text, format!("must evaluate to {name}"));
            }
            Ok(program) => return Some(Self::Expression { program, message: message.to_owned() }),
        }
        None
    }

    fn selects(&self, claim: &str) -> bool {
        matches!(self, Self::Expression { program, .. } if program.selects("claims", claim))
    }
}

impl Mapping {
    /// Whether the user's name comes from an address that nothing asks to be verified.
    pub(super) fn trusts_unverified_email(&self) -> bool {
        let extra = self.extra.iter().map(|(_, rule)| rule);
        let mut all = self.username.iter().chain(extra).chain(&self.claim_rules);
        self.username.as_ref().is_some_and(|rule| rule.selects("email"))
            && !all.any(|rule| rule.selects("email_verified"))
    }
}
