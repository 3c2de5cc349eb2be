//! Addresses and networks in Services and endpoints: what they may look like, and which point
//! nowhere useful.
//!
//! Since 1.36 leading zeros, IPv4 in IPv6 and networks with host bits are refused, but not where
//! the old object has them already.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::cursor::Cursor;
use crate::field::{FieldError, go_quote};
use crate::names;

use super::super::check::Errors;

/// An address that is not among those the old object has.
pub fn validate_ip(address: &Cursor<'_>, known: &BTreeSet<&str>) -> Errors {
    let text = address.str();
    let findings = names::ip(text);
    if !findings.is_empty() {
        return findings.into_iter().map(|finding| address.invalid_str(finding)).collect();
    }
    if known.contains(text) {
        return Vec::new();
    }
    strictness(text).map(|finding| address.invalid_str(finding)).into_iter().collect()
}

fn strictness(text: &str) -> Option<&'static str> {
    match text.parse::<IpAddr>() {
        Err(_) => Some("must not have leading 0s"),
        Ok(IpAddr::V6(ip)) if ip.to_ipv4_mapped().is_some() => Some("must not be an IPv4-mapped IPv6 address"),
        Ok(_) => None,
    }
}

/// A network that is not among those the old object has. `shown` carries the path and the text.
pub fn validate_cidr(cidr: &Cursor<'_>, text: &str, known: &BTreeSet<&str>) -> Errors {
    let findings = names::cidr(text);
    if !findings.is_empty() {
        return findings.into_iter().map(|finding| cidr.invalid_value(text, finding)).collect();
    }
    if known.contains(text) {
        return Vec::new();
    }
    cidr_strictness(text).map(|finding| cidr.invalid_value(text, finding)).into_iter().collect()
}

/// Of a text that is a network.
fn cidr_strictness(text: &str) -> Option<&'static str> {
    let (ip, bits) = names::parse_cidr(text)?;
    let (address, length) = text.split_once('/').unwrap_or_default();
    match strictness(address) {
        None if length.len() > 1 && length.starts_with('0') => Some("must not have leading 0s in IP or prefix length"),
        None => (masked(ip, bits) != ip).then_some("must not have bits set beyond the prefix length"),
        Some(finding) if finding.contains("leading") => Some("must not have leading 0s in IP or prefix length"),
        Some(_) => Some("must not have an IPv4-mapped IPv6 address"),
    }
}

/// What is wrong with an address in a field that never had a laxer rule.
pub fn canonical_ip(text: &str) -> Vec<String> {
    match names::parse_ip(text) {
        None => names::ip(text),
        Some(ip) => strictness(text).map(str::to_owned).or_else(|| other_form(text, ip.to_string())).into_iter().collect(),
    }
}

/// Same for a network.
pub fn canonical_cidr(text: &str) -> Vec<String> {
    match names::parse_cidr(text) {
        None => names::cidr(text),
        Some((ip, bits)) => {
            let finding = cidr_strictness(text).map(str::to_owned);
            finding.or_else(|| other_form(text, format!("{ip}/{bits}"))).into_iter().collect()
        }
    }
}

fn other_form(text: &str, canonical: String) -> Option<String> {
    (text != canonical).then(|| format!("must be in canonical form ({})", go_quote(&canonical)))
}

fn masked(ip: IpAddr, bits: u8) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => IpAddr::V4((u32::from(ip) & u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0)).into()),
        IpAddr::V6(ip) => IpAddr::V6((u128::from(ip) & u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0)).into()),
    }
}

/// Refuses what can be no endpoint of traffic from elsewhere.
pub fn validate_not_special(address: &Cursor<'_>) -> Errors {
    let Some(ip) = names::parse_ip(address.str()) else {
        return vec![address.invalid_str("must be a valid IP address")];
    };
    let (link_local, link_local_multicast) = match ip {
        IpAddr::V4(ip) => (ip.is_link_local(), ip.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(ip) => (ip.is_unicast_link_local(), ip.segments()[0] & 0xff0f == 0xff02),
    };
    let mut errors: Vec<FieldError> = Vec::new();
    if ip.is_unspecified() {
        errors.push(address.invalid_str(format!("may not be unspecified ({})", address.str())));
    }
    if ip.is_loopback() {
        errors.push(address.invalid_str("may not be in the loopback range (127.0.0.0/8, ::1/128)"));
    }
    if link_local {
        errors.push(address.invalid_str("may not be in the link-local range (169.254.0.0/16, fe80::/10)"));
    }
    if link_local_multicast {
        errors.push(address.invalid_str("may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"));
    }
    errors
}

/// Warns of an address that was let through but is not written as it should be.
pub fn ip_warning(address: &Cursor<'_>) -> Option<String> {
    let text = address.str();
    let ip = names::parse_ip(text)?;
    let (quoted, better) = (go_quote(text), go_quote(&ip.to_string()));
    if strictness(text).is_some() {
        return Some(format!(
            "{}: non-standard IP address {quoted} will be considered invalid in a future Kubernetes release: use {better}",
            address.path()
        ));
    }
    (ip.is_ipv6() && ip.to_string() != text)
        .then(|| format!("{}: IPv6 address {quoted} should be in RFC 5952 canonical format ({better})", address.path()))
}

/// Same for a network.
pub fn cidr_warnings(cidr: &Cursor<'_>) -> Vec<String> {
    let text = cidr.str();
    let Some((ip, bits)) = names::parse_cidr(text) else { return Vec::new() };
    let network = format!("{}/{bits}", masked(ip, bits));
    let (quoted, better, path) = (go_quote(text), go_quote(&network), cidr.path());
    let mut warnings = Vec::new();
    if masked(ip, bits) != ip {
        let single = go_quote(&format!("{ip}/{}", if ip.is_ipv4() { 32 } else { 128 }));
        warnings.push(format!("{path}: CIDR value {quoted} is ambiguous in this context (should be {better} or {single}?)"));
    }
    let (address, length) = text.split_once('/').unwrap_or_default();
    if strictness(address).is_some() || (length.len() > 1 && length.starts_with('0')) {
        warnings.push(format!(
            "{path}: non-standard CIDR value {quoted} will be considered invalid in a future Kubernetes release: use {better}"
        ));
    }
    if warnings.is_empty() && ip.is_ipv6() && network != text {
        warnings.push(format!("{path}: IPv6 CIDR value {quoted} should be in RFC 5952 canonical format ({better})"));
    }
    warnings
}
