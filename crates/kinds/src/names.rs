//! What names, keys and values may look like. Every function returns what is wrong with the text,
//! in Go's words; nothing means it is fine.
//!
//! Two length texts exist upstream: label keys and values count `bytes`, older rules `characters`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const LABEL_MAX: usize = 63;
const SUBDOMAIN_MAX: usize = 253;
const PORT_NAME_MAX: usize = 15;

const DNS_LABEL: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const DNS_SUBDOMAIN: &str = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";

/// How a name rule is asked: of a whole name, or of a `generateName` prefix, whose trailing dash is
/// fine.
pub type NameRule = fn(name: &str, is_prefix: bool) -> Vec<String>;

pub fn name_is_dns_subdomain(name: &str, is_prefix: bool) -> Vec<String> {
    dns1123_subdomain(&mask_trailing_dash(name, is_prefix))
}

pub fn name_is_dns_label(name: &str, is_prefix: bool) -> Vec<String> {
    dns1123_label(&mask_trailing_dash(name, is_prefix))
}

pub fn name_is_dns1035_label(name: &str, is_prefix: bool) -> Vec<String> {
    dns1035_label(&mask_trailing_dash(name, is_prefix))
}

/// For kinds that allow anything that fits into a path of a URL (RBAC).
pub fn name_is_path_segment(name: &str, is_prefix: bool) -> Vec<String> {
    if is_prefix { path_segment_prefix(name) } else { path_segment(name) }
}

/// The character that will follow a prefix ending in a dash makes it valid.
fn mask_trailing_dash(name: &str, is_prefix: bool) -> String {
    match name.strip_suffix('-') {
        Some(head) if is_prefix && !head.is_empty() => format!("{head}a"),
        _ => name.to_owned(),
    }
}

pub fn dns1123_label(text: &str) -> Vec<String> {
    let mut errors = too_long(text, LABEL_MAX, "characters");
    if !is_dns_label(text) {
        errors.push(if is_dns_subdomain(text) {
            "must not contain dots".into()
        } else {
            let what = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character";
            regex_error(what, DNS_LABEL, &["my-name", "123-abc"])
        });
    }
    errors
}

pub fn dns1123_subdomain(text: &str) -> Vec<String> {
    subdomain(text, "characters")
}

fn subdomain(text: &str, unit: &str) -> Vec<String> {
    let mut errors = too_long(text, SUBDOMAIN_MAX, unit);
    if !is_dns_subdomain(text) {
        let what = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character";
        errors.push(regex_error(what, DNS_SUBDOMAIN, &["example.com"]));
    }
    errors
}

pub fn dns1123_subdomain_with_underscore(text: &str) -> Vec<String> {
    let mut errors = too_long(text, SUBDOMAIN_MAX, "characters");
    let is_label = |label: &str| {
        let rest = label.strip_prefix('_').unwrap_or(label);
        is_edged(rest, is_lower_alphanumeric, |b| is_lower_alphanumeric(b) || matches!(b, b'-' | b'_'))
    };
    if !text.split('.').all(is_label) {
        let what = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and must start and end with an alphanumeric character";
        let format = r"_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*";
        errors.push(regex_error(what, format, &["example.com"]));
    }
    errors
}

pub fn dns1035_label(text: &str) -> Vec<String> {
    let mut errors = too_long(text, LABEL_MAX, "characters");
    if !(is_dns_label(text) && text.as_bytes()[0].is_ascii_lowercase()) {
        let what = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character";
        errors.push(regex_error(what, "[a-z]([-a-z0-9]*[a-z0-9])?", &["my-name", "abc-123"]));
    }
    errors
}

pub fn wildcard_dns1123_subdomain(text: &str) -> Vec<String> {
    let mut errors = too_long(text, SUBDOMAIN_MAX, "characters");
    if !text.strip_prefix("*.").is_some_and(is_dns_subdomain) {
        let what = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character";
        errors.push(regex_error(what, &format!(r"\*\.{DNS_SUBDOMAIN}"), &["*.example.com"]));
    }
    errors
}

const QUALIFIED_NAME: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const QUALIFIED_NAME_WHAT: &str =
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";

/// A label key, and every other name of the form `prefix/name`.
pub fn qualified_name(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    let parts: Vec<&str> = text.split('/').collect();
    let name = match parts.as_slice() {
        [name] => *name,
        [prefix, name] => {
            if prefix.is_empty() {
                errors.push("prefix part must be non-empty".to_owned());
            }
            let findings = if prefix.is_empty() { Vec::new() } else { subdomain(prefix, "bytes") };
            errors.extend(findings.iter().map(|finding| format!("prefix part {finding}")));
            *name
        }
        _ => {
            let what = regex_error(QUALIFIED_NAME_WHAT, QUALIFIED_NAME, &["MyName", "my.name", "123-abc"]);
            return vec![format!("a valid label key {what} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')")];
        }
    };
    if name.is_empty() {
        errors.push("name part must be non-empty".to_owned());
    }
    errors.extend(too_long(name, LABEL_MAX, "bytes").iter().map(|finding| format!("name part {finding}")));
    if !is_qualified(name) {
        let what = regex_error(QUALIFIED_NAME_WHAT, QUALIFIED_NAME, &["MyName", "my.name", "123-abc"]);
        errors.push(format!("name part {what}"));
    }
    errors
}

pub fn label_value(text: &str) -> Vec<String> {
    let mut errors = too_long(text, LABEL_MAX, "bytes");
    if !(text.is_empty() || is_qualified(text)) {
        let what = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
        errors.push(regex_error(what, &format!("({QUALIFIED_NAME})?"), &["MyValue", "my_value", "12345"]));
    }
    errors
}

/// An IANA service name: what a container port may be called.
pub fn port_name(text: &str) -> Vec<String> {
    let mut errors = too_long(text, PORT_NAME_MAX, "characters");
    let is_allowed = |b: u8| is_lower_alphanumeric(b) || b == b'-';
    if text.is_empty() || !text.bytes().all(is_allowed) {
        errors.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".into());
    }
    if !text.bytes().any(|b| b.is_ascii_lowercase()) {
        errors.push("must contain at least one letter (a-z)".into());
    }
    if text.contains("--") {
        errors.push("must not contain consecutive hyphens".into());
    }
    if text.starts_with('-') || text.ends_with('-') {
        errors.push("must not begin or end with a hyphen".into());
    }
    errors
}

pub fn port_number(port: i64) -> Vec<String> {
    in_range(port, 1, 65535)
}

/// `must be between`, unless it is.
pub fn in_range(number: i64, min: i64, max: i64) -> Vec<String> {
    if (min..=max).contains(&number) { Vec::new() } else { vec![range_error(min, max)] }
}

pub fn range_error(min: i64, max: i64) -> String {
    format!("must be between {min} and {max}, inclusive")
}

pub fn user_or_group_id(id: i64) -> Vec<String> {
    in_range(id, 0, i64::from(u32::MAX))
}

/// Environment variable names as 1.36 takes them: any printable ASCII but `=`.
pub fn env_var_name(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.is_empty() {
        errors.push("environment variable name must be non-empty".to_owned());
    }
    if text.chars().any(|c| !(' '..='~').contains(&c) || c == '=') {
        errors.push("a valid environment variable name must consist only of printable ASCII characters other than '='".into());
    }
    errors
}

/// Keys of ConfigMaps and Secrets.
pub fn config_map_key(text: &str) -> Vec<String> {
    let mut errors = too_long(text, SUBDOMAIN_MAX, "characters");
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) {
        let what = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'";
        errors.push(regex_error(what, "[-._a-zA-Z0-9]+", &["key.name", "KEY_NAME", "key-name"]));
    }
    match text {
        "." => errors.push("must not be '.'".into()),
        ".." => errors.push("must not be '..'".into()),
        _ if text.starts_with("..") => errors.push("must not start with '..'".into()),
        _ => {}
    }
    errors
}

pub fn c_identifier(text: &str) -> Vec<String> {
    let starts_well = text.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    if starts_well && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        return Vec::new();
    }
    let what = "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_'";
    vec![regex_error(what, "[A-Za-z_][A-Za-z0-9_]*", &["my_name", "MY_NAME", "MyName"])]
}

pub fn http_header_name(text: &str) -> Vec<String> {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Vec::new();
    }
    let what = "a valid HTTP header must consist of alphanumeric characters or '-'";
    vec![regex_error(what, "[-A-Za-z0-9]+", &["X-Header-Name"])]
}

pub fn percent(text: &str) -> Vec<String> {
    if percent_value(text).is_some() {
        return Vec::new();
    }
    let what = "a valid percent string must be a numeric string followed by an ending '%'";
    vec![regex_error(what, "[0-9]+%", &["1%", "93%"])]
}

/// The number of `30%`.
pub fn percent_value(text: &str) -> Option<i64> {
    let digits = text.strip_suffix('%')?;
    let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    is_number.then(|| digits.parse().unwrap_or(i64::MAX))
}

pub fn path_segment(text: &str) -> Vec<String> {
    if matches!(text, "." | "..") {
        return vec![format!("may not be '{text}'")];
    }
    path_segment_prefix(text)
}

pub fn path_segment_prefix(text: &str) -> Vec<String> {
    let contained = ["/", "%"].into_iter().filter(|bad| text.contains(bad));
    contained.map(|bad| format!("may not contain '{bad}'")).collect()
}

/// `example.com/name`, the prefix being required.
pub fn domain_prefixed_key(text: &str) -> Vec<String> {
    let errors = qualified_name(text);
    if errors.is_empty() && !text.contains('/') {
        return vec!["must be a domain-prefixed key (such as \"acme.io/foo\")".into()];
    }
    errors
}

/// An IP address; like Go before 1.17, leading zeros in IPv4 octets are let through.
pub fn parse_ip(text: &str) -> Option<IpAddr> {
    if text.contains(':') {
        return text.parse::<Ipv6Addr>().ok().map(|ip| match ip.to_ipv4_mapped() {
            Some(mapped) => IpAddr::V4(mapped),
            None => IpAddr::V6(ip),
        });
    }
    let octets: Vec<u8> = text.split('.').map(parse_octet).collect::<Option<_>>()?;
    let octets: [u8; 4] = octets.try_into().ok()?;
    Some(IpAddr::V4(Ipv4Addr::from(octets)))
}

fn parse_octet(text: &str) -> Option<u8> {
    let is_number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if is_number { text.parse().ok() } else { None }
}

pub fn ip(text: &str) -> Vec<String> {
    match parse_ip(text) {
        Some(_) => Vec::new(),
        None => vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".into()],
    }
}

/// An address and how many bits of it are the network.
pub fn parse_cidr(text: &str) -> Option<(IpAddr, u8)> {
    let (ip, bits) = text.split_once('/')?;
    let ip = parse_ip(ip)?;
    let bits = if bits.bytes().all(|b| b.is_ascii_digit()) { bits.parse::<u8>().ok()? } else { return None };
    let bits_max = if ip.is_ipv4() { 32 } else { 128 };
    (bits <= bits_max).then_some((ip, bits))
}

pub fn cidr(text: &str) -> Vec<String> {
    match parse_cidr(text) {
        Some(_) => Vec::new(),
        None => vec!["must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)".into()],
    }
}

fn too_long(text: &str, max: usize, unit: &str) -> Vec<String> {
    if text.len() > max { vec![format!("must be no more than {max} {unit}")] } else { Vec::new() }
}

/// The text that goes with a failed pattern.
pub fn regex_error(what: &str, format: &str, examples: &[&str]) -> String {
    if examples.is_empty() {
        return format!("{what} (regex used for validation is '{format}')");
    }
    let examples: Vec<String> = examples.iter().map(|example| format!("'{example}', ")).collect();
    format!("{what} (e.g. {}regex used for validation is '{format}')", examples.join(" or "))
}

/// May a node set this label on itself? Others decide by labels of Kubernetes' domains what runs
/// where.
///
/// From `pkg/apis` of the kubelet and the NodeRestriction plugin.
pub fn may_be_set_by_nodes(label: &str) -> bool {
    const LABELS: [&str; 11] = [
        "kubernetes.io/hostname",
        "kubernetes.io/os",
        "kubernetes.io/arch",
        "topology.kubernetes.io/zone",
        "topology.kubernetes.io/region",
        "failure-domain.beta.kubernetes.io/zone",
        "failure-domain.beta.kubernetes.io/region",
        "node.kubernetes.io/instance-type",
        "beta.kubernetes.io/instance-type",
        "beta.kubernetes.io/os",
        "beta.kubernetes.io/arch",
    ];
    let Some((domain, _)) = label.split_once('/') else { return true };
    let is_in = |parent: &str| domain.strip_suffix(parent).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    if is_in("node-restriction.kubernetes.io") {
        return false;
    }
    let is_reserved = is_in("kubernetes.io") || is_in("k8s.io");
    !is_reserved || is_in("kubelet.kubernetes.io") || is_in("node.kubernetes.io") || LABELS.contains(&label)
}

fn is_dns_subdomain(text: &str) -> bool {
    text.split('.').all(is_dns_label)
}

fn is_dns_label(text: &str) -> bool {
    is_edged(text, is_lower_alphanumeric, |b| is_lower_alphanumeric(b) || b == b'-')
}

fn is_qualified(text: &str) -> bool {
    let is_alphanumeric = |b: u8| b.is_ascii_alphanumeric();
    is_edged(text, is_alphanumeric, |b| is_alphanumeric(b) || matches!(b, b'-' | b'_' | b'.'))
}

fn is_lower_alphanumeric(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit()
}

/// Not empty, first and last byte of one set, all of another.
fn is_edged(text: &str, edge: impl Fn(u8) -> bool, inner: impl Fn(u8) -> bool) -> bool {
    let bytes = text.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(first), Some(last)) => edge(*first) && edge(*last) && bytes.iter().all(|b| inner(*b)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(rule: impl Fn(&str) -> Vec<String>, texts: &[&str], expect: Expect) {
        let lines: Vec<String> = texts
            .iter()
            .map(|text| {
                let errors: Vec<String> = rule(text).iter().map(|error| error.chars().take(60).collect()).collect();
                format!("{text}: {}\n", errors.join(" + "))
            })
            .collect();
        expect.assert_eq(&lines.concat());
    }

    #[test]
    fn labels_and_subdomains() {
        check(
            dns1123_label,
            &["a", "a-1", "a.b", "-a", "A", ""],
            expect![[r#"
                a: 
                a-1: 
                a.b: must not contain dots
                -a: a lowercase RFC 1123 label must consist of lower case alphan
                A: a lowercase RFC 1123 label must consist of lower case alphan
                : a lowercase RFC 1123 label must consist of lower case alphan
            "#]],
        );
        assert!(name_is_dns_subdomain("web-", true).is_empty());
        assert!(!name_is_dns_subdomain("web-", false).is_empty());
        assert_eq!(dns1123_subdomain(&"a".repeat(254)), ["must be no more than 253 characters"]);
        assert!(!dns1035_label("1a").is_empty());
        assert!(!dns1035_label("").is_empty());
    }

    #[test]
    fn qualified_names() {
        check(
            qualified_name,
            &["a", "x.io/a", "/a", "x.io/", "a b", "a/b/c", "X/y", ""],
            expect![[r#"
                a: 
                x.io/a: 
                /a: prefix part must be non-empty
                x.io/: name part must be non-empty + name part must consist of alphanumeric characters, '-', '_' 
                a b: name part must consist of alphanumeric characters, '-', '_' 
                a/b/c: a valid label key must consist of alphanumeric characters, '
                X/y: prefix part a lowercase RFC 1123 subdomain must consist of l
                : name part must be non-empty + name part must consist of alphanumeric characters, '-', '_' 
            "#]],
        );
    }

    #[test]
    fn ports_keys_and_addresses() {
        check(
            port_name,
            &["http", "HTTP", "80", "a--b", "-a", "averyveryverylongname"],
            expect![[r#"
                http: 
                HTTP: must contain only alpha-numeric characters (a-z, 0-9), and h + must contain at least one letter (a-z)
                80: must contain at least one letter (a-z)
                a--b: must not contain consecutive hyphens
                -a: must not begin or end with a hyphen
                averyveryverylongname: must be no more than 15 characters
            "#]],
        );
        check(
            config_map_key,
            &["a.b", "..a", "a b"],
            expect![[r#"
                a.b: 
                ..a: must not start with '..'
                a b: a valid config key must consist of alphanumeric characters, 
            "#]],
        );
        assert!(parse_ip("1.2.3.04").is_some() && parse_ip("1.2.3").is_none() && parse_ip("fe80::1").is_some());
        assert_eq!(parse_cidr("10.0.0.0/24").map(|(_, bits)| bits), Some(24));
        assert_eq!(parse_cidr("10.0.0.0/33"), None);
        assert!(env_var_name("1A.b-c").is_empty() && !env_var_name("a=b").is_empty() && !env_var_name("").is_empty());
    }
}
