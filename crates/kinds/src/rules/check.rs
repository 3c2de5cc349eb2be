//! Small checks that most kinds' rules are made of. Each returns what is wrong, nothing if fine.

use serde_json::Value;

use crate::cursor::Cursor;
use crate::field::FieldError;
use crate::names;
use crate::quantity::Quantity;

use super::meta;

pub type Errors = Vec<FieldError>;

/// The string follows a naming rule; every finding is one error.
pub fn named(text: &Cursor<'_>, rule: fn(&str) -> Vec<String>) -> Errors {
    findings(text, rule(text.str()))
}

/// [`named`] if there is a string at all.
pub fn named_if_set(text: &Cursor<'_>, rule: fn(&str) -> Vec<String>) -> Errors {
    if text.str().is_empty() { Vec::new() } else { named(text, rule) }
}

/// Every finding about a string becomes an error that shows it.
pub fn findings(text: &Cursor<'_>, findings: Vec<String>) -> Errors {
    findings.into_iter().map(|finding| text.invalid_str(finding)).collect()
}

/// Every finding about a number becomes an error that shows it.
pub fn number_findings(number: &Cursor<'_>, findings: Vec<String>) -> Errors {
    findings.into_iter().map(|finding| number.invalid_value(number.int_or_zero(), finding)).collect()
}

/// The string is there.
pub fn required(text: &Cursor<'_>) -> Option<FieldError> {
    text.str().is_empty().then(|| text.required(""))
}

/// All these strings are there.
pub fn required_fields(object: &Cursor<'_>, names: &[&'static str]) -> Errors {
    names.iter().filter_map(|name| required(&object.field(name))).collect()
}

/// The string is there and one of those supported.
pub fn one_of(text: &Cursor<'_>, supported: &[&str]) -> Option<FieldError> {
    match text.str() {
        "" => Some(text.required("")),
        known if supported.contains(&known) => None,
        _ => Some(text.not_supported(supported)),
    }
}

/// If the field is there, even empty, it is one of those supported.
pub fn one_of_if_set(text: &Cursor<'_>, supported: &[&str]) -> Option<FieldError> {
    (text.exists() && !supported.contains(&text.str())).then(|| text.not_supported(supported))
}

/// A port number, or the name of a port.
pub fn port_number_or_name(port: &Cursor<'_>) -> Errors {
    match port.value().and_then(Value::as_str) {
        Some(_) => named(port, names::port_name),
        None => number_findings(port, names::port_number(port.int_or_zero())),
    }
}

/// A number that is not negative, or a percentage.
pub fn non_negative_or_percent(value: &Cursor<'_>) -> Errors {
    match value.value().and_then(Value::as_str) {
        Some(text) => findings(value, names::percent(text)),
        None => meta::non_negative(value).into_iter().collect(),
    }
}

/// The quantity here; absent is zero. Decoding has refused what cannot be read.
pub fn quantity(value: &Cursor<'_>) -> Quantity {
    quantity_of(value.value())
}

pub fn quantity_of(value: Option<&Value>) -> Quantity {
    match value {
        Some(Value::String(text)) => text.parse().unwrap_or(Quantity::ZERO),
        Some(Value::Number(number)) => number.to_string().parse().unwrap_or(Quantity::ZERO),
        _ => Quantity::ZERO,
    }
}

/// A LabelSelector object; absent is fine.
pub fn label_selector(selector: &Cursor<'_>) -> Errors {
    let mut errors = meta::validate_labels(&selector.field("matchLabels"));
    for expression in selector.field("matchExpressions").items() {
        let (operator, values) = (expression.field("operator"), expression.field("values"));
        match operator.str() {
            "In" | "NotIn" if values.is_empty() => {
                errors.push(values.required("must be specified when `operator` is 'In' or 'NotIn'"));
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                errors.push(values.forbidden("may not be specified when `operator` is 'Exists' or 'DoesNotExist'"));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            _ => errors.push(operator.invalid_str("not a valid selector operator")),
        }
        errors.extend(named(&expression.field("key"), names::qualified_name));
        errors.extend(values.items().flat_map(|value| named(&value, names::label_value)));
    }
    errors
}

/// An IP address.
pub fn ip(address: &Cursor<'_>) -> Errors {
    named(address, names::ip)
}

/// Two addresses (or networks), one of each family.
pub fn is_dual_stack(addresses: &[std::net::IpAddr]) -> bool {
    addresses.iter().any(std::net::IpAddr::is_ipv4) && addresses.iter().any(std::net::IpAddr::is_ipv6)
}
