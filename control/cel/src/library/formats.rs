//! Named formats: names of DNS, labels, and the formats of schemas.

use timonel_api::names;

use super::{Entry, Outcome, text};
use crate::error::EvalError;
use crate::extension::Extension;
use crate::function::Declared;
use crate::url::Url;
use crate::value::Val;

/// A format that text can be held against.
#[derive(Debug)]
pub struct NamedFormat {
    pub(crate) name: &'static str,
    /// What is wrong with a text; empty when nothing is.
    pub(crate) check: fn(&str) -> Vec<String>,
    /// Length of the expression that upstream would match with, which its cost follows.
    pub(crate) regex_size: u64,
}

pub(super) const TABLE: &[Entry] = &[
    ("validate", &["Format.(string): opt(list(string))"], validate),
    ("format.named", &["(string): opt(Format)"], named),
];

fn prefix(text: &str, check: fn(&str) -> Vec<String>) -> Vec<String> {
    check(&names::mask_trailing_dash(text))
}

fn fault(bad: bool, text: &str) -> Vec<String> {
    if bad { vec![text.to_owned()] } else { Vec::new() }
}

static FORMATS: [NamedFormat; 13] = [
    NamedFormat { name: "dns1123Label", check: names::dns_label, regex_size: 30 },
    NamedFormat { name: "dns1123Subdomain", check: names::dns_subdomain, regex_size: 60 },
    NamedFormat { name: "dns1035Label", check: names::dns1035_label, regex_size: 30 },
    NamedFormat { name: "qualifiedName", check: names::qualified_name, regex_size: 60 },
    NamedFormat { name: "dns1123LabelPrefix", check: |text| prefix(text, names::dns_label), regex_size: 30 },
    NamedFormat { name: "dns1123SubdomainPrefix", check: |text| prefix(text, names::dns_subdomain), regex_size: 60 },
    NamedFormat { name: "dns1035LabelPrefix", check: |text| prefix(text, names::dns1035_label), regex_size: 30 },
    NamedFormat { name: "labelValue", check: names::label_value, regex_size: 40 },
    NamedFormat {
        name: "uri",
        check: |text| Url::parse(text).err().map(|error| error.to_string()).into_iter().collect(),
        regex_size: 1103,
    },
    NamedFormat { name: "uuid", check: |text| fault(!is_uuid(text), "does not match the UUID format"), regex_size: 69 },
    NamedFormat { name: "byte", check: |text| fault(!is_base64(text), "invalid base64"), regex_size: 84 },
    NamedFormat {
        name: "date",
        check: |text| fault(text.len() != 10 || text.parse::<jiff::civil::Date>().is_err(), "invalid date"),
        regex_size: 92,
    },
    NamedFormat {
        name: "datetime",
        check: |text| fault(crate::time::parse(text).is_err(), "invalid datetime"),
        regex_size: 92,
    },
];

fn is_uuid(text: &str) -> bool {
    let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b'-').collect();
    digits.len() == 32 && digits.iter().all(u8::is_ascii_hexdigit)
}

fn is_base64(text: &str) -> bool {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.decode(text).is_ok()
}

/// `format.dns1123Label()` and the like.
pub(super) fn constants() -> Vec<Declared> {
    const MAKERS: [(&str, crate::function::Run); 13] = [
        ("format.dns1123Label", |_| constant(0)),
        ("format.dns1123Subdomain", |_| constant(1)),
        ("format.dns1035Label", |_| constant(2)),
        ("format.qualifiedName", |_| constant(3)),
        ("format.dns1123LabelPrefix", |_| constant(4)),
        ("format.dns1123SubdomainPrefix", |_| constant(5)),
        ("format.dns1035LabelPrefix", |_| constant(6)),
        ("format.labelValue", |_| constant(7)),
        ("format.uri", |_| constant(8)),
        ("format.uuid", |_| constant(9)),
        ("format.byte", |_| constant(10)),
        ("format.date", |_| constant(11)),
        ("format.datetime", |_| constant(12)),
    ];
    MAKERS.iter().map(|(name, run)| Declared { name, overloads: &["(): Format"], run: *run }).collect()
}

fn constant<'a>(at: usize) -> Outcome<'a> {
    Ok(Val::extension(Extension::Format(&FORMATS[at])))
}

fn named<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    let wanted = text(&args[0])?;
    let found = FORMATS.iter().find(|format| format.name == wanted);
    Ok(found.map_or(Val::Optional(None), |format| Val::some(Val::extension(Extension::Format(format)))))
}

fn validate<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    let format = match &args[0] {
        Val::Extension(held) => match **held {
            Extension::Format(format) => format,
            _ => return Err(EvalError::no_such_overload()),
        },
        _ => return Err(EvalError::no_such_overload()),
    };
    let faults = (format.check)(text(&args[1])?);
    if faults.is_empty() {
        return Ok(Val::Optional(None));
    }
    Ok(Val::some(Val::list(faults.into_iter().map(Val::string).collect())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_are_in_the_order_of_the_formats() {
        for (declared, format) in constants().iter().zip(&FORMATS) {
            assert_eq!(declared.name, format!("format.{}", format.name));
        }
    }
}
