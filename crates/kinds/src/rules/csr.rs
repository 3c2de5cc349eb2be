//! CertificateSigningRequests: a client asks for a certificate, a user or controller approves, a
//! signer signs.
//!
//! The request is checked for its form only: PEM around one DER sequence. Who asks (`spec.username`
//! and so on) is filled in by the API server, which knows, after [`Rules::prepare_create`].

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::cursor::Cursor;
use crate::field::{FieldError, Path, go_quote};
use crate::names;

use super::check::{self, Errors};
use super::meta::{self, MetaRule};
use super::{Part, Rules};

const META: MetaRule = MetaRule { namespaced: false, name: |_, _| Vec::new() };

const EXPIRATION_SECONDS_MIN: i64 = 600;
const DOMAIN_BYTES_MAX: usize = 253;
/// A domain, a slash, a namespace, a dot, a name.
const SIGNER_BYTES_MAX: usize = DOMAIN_BYTES_MAX + 1 + 63 + 1 + 253;

const LEGACY_SIGNER: &str = "kubernetes.io/legacy-unknown";

const USAGES: &[&str] = &[
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

pub static RULES: SigningRequestRules = SigningRequestRules;

pub struct SigningRequestRules;

impl Rules for SigningRequestRules {
    fn default(&self, _object: &mut Value) {}

    fn prepare_create(&self, object: &mut Value) {
        let spec = meta::child(object, "spec");
        for name in ["username", "uid", "groups", "extra"] {
            spec.remove(name);
        }
        object["status"] = json!({});
    }

    fn validate_create(&self, object: &Value) -> Errors {
        validate(object, None)
    }

    fn prepare_update(&self, object: &mut Value, old: &Value, part: Part) {
        meta::keep(object, old, "spec");
        match part {
            Part::Status => keep_decisions(object, old),
            Part::Approval => {
                let conditions = object["status"].get("conditions").cloned();
                meta::keep(object, old, "status");
                let status = meta::child(object, "status");
                status.remove("conditions");
                status.extend(conditions.map(|conditions| ("conditions".to_owned(), conditions)));
            }
            _ => meta::keep(object, old, "status"),
        }
    }

    fn validate_update(&self, object: &Value, old: &Value, part: Part) -> Errors {
        let mut errors = meta::validate_update_generally(object, old);
        errors.extend(validate(object, Some(old)));
        errors.extend(validate_change(&Cursor::root(object).field("status"), &Cursor::root(old).field("status"), part));
        errors.extend(meta::validate_update(object, old));
        errors
    }
}

fn is_decision(condition: &Value) -> bool {
    matches!(condition["type"].as_str(), Some("Approved" | "Denied"))
}

/// A signer that writes the status from an older copy does not take back what was decided
/// meanwhile.
fn keep_decisions(request: &mut Value, old: &Value) {
    let of = |request: &Value| request["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let (conditions, before) = (of(request), of(old));
    let missing = before.iter().filter(|old| is_decision(old) && !conditions.iter().any(|own| own["type"] == old["type"]));
    let mut kept: Vec<Value> = missing.cloned().collect();
    if !kept.is_empty() {
        kept.splice(0..0, conditions);
        meta::child(request, "status").insert("conditions".into(), kept.into());
    }
}

/// What the old object has wrong already may stay wrong.
fn validate(object: &Value, old: Option<&Value>) -> Errors {
    let request = Cursor::root(object);
    let (spec, status) = (request.field("spec"), request.field("status"));
    let before = old.map(Cursor::root);
    let mut errors = meta::validate(object, META);
    if let Some(why) = malformed(spec.field("request").str()) {
        errors.push(spec.field("request").invalid_str(why));
    }
    errors.extend(validate_usages(&spec.field("usages"), before.as_ref().map(|old| old.field("spec").field("usages"))));
    errors.extend(validate_signer(&spec.field("signerName"), old.is_some()));
    let expiration = spec.field("expirationSeconds");
    if expiration.int().is_some_and(|seconds| seconds < EXPIRATION_SECONDS_MIN) {
        errors.push(expiration.invalid("may not specify a duration less than 600 seconds (10 minutes)"));
    }
    errors.extend(validate_conditions(&status.field("conditions"), before.as_ref().map(|old| old.field("status").field("conditions"))));
    let certificate = status.field("certificate");
    let is_new = before.is_none_or(|old| old.field("status").field("certificate").value() != certificate.value());
    if let Some(why) = malformed_certificates(certificate.str()).filter(|_| is_new) {
        errors.push(certificate.invalid_value("<certificate data>", why));
    }
    errors
}

/// What speaks against this being a request, in base64, for a certificate.
fn malformed(request: &str) -> Option<String> {
    let text = STANDARD.decode(request).unwrap_or_default();
    match pem_blocks(&text).first() {
        Some((label, der)) if label == "CERTIFICATE REQUEST" => malformed_der(der),
        _ => Some("PEM block type must be CERTIFICATE REQUEST".to_owned()),
    }
}

fn malformed_certificates(certificates: &str) -> Option<String> {
    if certificates.is_empty() {
        return None;
    }
    let blocks = pem_blocks(&STANDARD.decode(certificates).unwrap_or_default());
    if blocks.is_empty() {
        return Some("must contain at least one CERTIFICATE PEM block".to_owned());
    }
    blocks.iter().find_map(|(label, der)| match label.as_str() {
        "CERTIFICATE" => malformed_der(der).map(|_| "x509: malformed certificate".to_owned()),
        other => Some(format!("only CERTIFICATE PEM blocks are allowed, found {}", go_quote(other))),
    })
}

/// The labelled blocks of a PEM text; what is between them is skipped.
fn pem_blocks(text: &[u8]) -> Vec<(String, Vec<u8>)> {
    let text = String::from_utf8_lossy(text);
    let mut blocks = Vec::new();
    let mut open: Option<(String, String)> = None;
    for line in text.lines().map(str::trim_end) {
        if let Some(label) = line.strip_prefix("-----BEGIN ").and_then(|rest| rest.strip_suffix("-----")) {
            open = Some((label.to_owned(), String::new()));
        } else if let Some(label) = line.strip_prefix("-----END ").and_then(|rest| rest.strip_suffix("-----")) {
            let block = open.take().filter(|(own, _)| own == label);
            blocks.extend(block.and_then(|(label, body)| Some((label, STANDARD.decode(body).ok()?))));
        } else if let Some((_, body)) = &mut open {
            body.push_str(line);
        }
    }
    blocks
}

/// One sequence that fills the bytes.
fn malformed_der(der: &[u8]) -> Option<String> {
    let [0x30, first, rest @ ..] = der else { return Some("asn1: structure error: tags don't match".to_owned()) };
    let (length, body) = match first {
        0..=0x7f => (usize::from(*first), rest),
        0x81..=0x84 => {
            let (length, body) = rest.split_at(usize::from(first & 0x7f).min(rest.len()));
            (length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), body)
        }
        _ => return Some("asn1: structure error: length too large".to_owned()),
    };
    match body.len().cmp(&length) {
        std::cmp::Ordering::Less => Some("asn1: syntax error: data truncated".to_owned()),
        std::cmp::Ordering::Equal => None,
        std::cmp::Ordering::Greater => Some("asn1: syntax error: trailing data".to_owned()),
    }
}

fn has_duplicates<'a>(mut texts: impl Iterator<Item = &'a str>) -> bool {
    let mut seen = BTreeSet::new();
    texts.any(|text| !seen.insert(text))
}

fn validate_usages(usages: &Cursor<'_>, old: Option<Cursor<'_>>) -> Errors {
    let had_unknown = old.as_ref().is_some_and(|old| old.strs().any(|usage| !USAGES.contains(&usage)));
    let had_duplicates = old.is_some_and(|old| has_duplicates(old.strs()));
    let mut errors = Vec::new();
    if usages.is_empty() {
        errors.push(usages.required(""));
    }
    if !had_unknown {
        let unknown = usages.items().filter(|usage| !USAGES.contains(&usage.str()));
        errors.extend(unknown.map(|usage| usage.not_supported(USAGES)));
    }
    let mut seen = BTreeSet::new();
    if !had_duplicates {
        errors.extend(usages.items().filter(|usage| !seen.insert(usage.str())).map(|usage| usage.duplicate()));
    }
    errors
}

/// `example.com/signer`. The legacy signer is known to old requests only.
fn validate_signer(signer: &Cursor<'_>, is_old: bool) -> Errors {
    let name = signer.str();
    if name.is_empty() {
        return vec![signer.required("")];
    }
    if name == LEGACY_SIGNER && !is_old {
        return vec![signer.invalid("the legacy signerName is not allowed via this API version")];
    }
    let Some((domain, path)) = name.split_once('/').filter(|(_, path)| !path.contains('/')) else {
        return vec![signer.invalid("must be a fully qualified domain and path of the form 'example.com/signer-name'")];
    };
    let mut errors = Vec::new();
    if domain.len() > DOMAIN_BYTES_MAX {
        errors.push(signer.too_long(DOMAIN_BYTES_MAX));
    }
    errors.extend(validate_labels(signer, domain, names::dns1123_label));
    if !domain.contains('.') {
        errors.push(signer.invalid_value(domain, "should be a domain with at least two segments separated by dots"));
    }
    errors.extend(validate_labels(signer, path, names::dns1123_subdomain));
    if name.len() > SIGNER_BYTES_MAX {
        errors.push(signer.too_long(SIGNER_BYTES_MAX));
    }
    errors
}

fn validate_labels(signer: &Cursor<'_>, dotted: &str, rule: fn(&str) -> Vec<String>) -> Errors {
    let findings = dotted.split('.').flat_map(|label| rule(label).into_iter().map(move |finding| (label, finding)));
    findings.map(|(label, finding)| signer.invalid_value(dotted, format!("validating label {}: {finding}", go_quote(label)))).collect()
}

fn validate_conditions(conditions: &Cursor<'_>, old: Option<Cursor<'_>>) -> Errors {
    let types =
        |conditions: &Cursor<'_>| -> Vec<String> { conditions.items().map(|condition| condition.field("type").str().to_owned()).collect() };
    let before = old.as_ref().map(types).unwrap_or_default();
    let had = |kind: &str| before.iter().any(|own| own == kind);
    let had_duplicates = has_duplicates(before.iter().map(String::as_str));
    let mut seen = BTreeSet::new();
    let mut errors = Vec::new();
    for condition in conditions.items() {
        let (kind, status) = (condition.field("type"), condition.field("status"));
        if !had("") {
            errors.extend(check::required(&kind));
        }
        let is_final = matches!(kind.str(), "Approved" | "Denied" | "Failed");
        errors.extend(check::one_of(&status, if is_final { &["True"] } else { &["False", "True", "Unknown"] }));
        let opposite = match kind.str() {
            "Approved" => "Denied",
            "Denied" => "Approved",
            _ => "none",
        };
        if seen.contains(opposite) && !(had("Approved") && had("Denied")) {
            errors.push(kind.invalid("Approved and Denied conditions are mutually exclusive"));
        }
        if !seen.insert(kind.str()) && !had_duplicates {
            errors.push(kind.duplicate());
        }
    }
    errors
}

/// Decisions stay, and only the approval makes them; only the signer writes the certificate, once.
fn validate_change(new: &Cursor<'_>, old: &Cursor<'_>, part: Part) -> Errors {
    let path = Path::new("status").child("conditions");
    let of = |status: &Cursor<'_>, kind: &str| -> Vec<Value> {
        status.field("conditions").list().iter().filter(|condition| condition["type"] == kind).cloned().collect()
    };
    let refuse =
        |what: &str, kind: &str| FieldError::forbidden(&path, format!("updates may not {what} a condition of type {}", go_quote(kind)));
    let mut errors = Vec::new();
    for kind in ["Approved", "Denied", "Failed"] {
        if of(new, kind).len() < of(old, kind).len() {
            errors.push(refuse("remove", kind));
        }
    }
    for kind in ["Approved", "Denied"].into_iter().filter(|_| part != Part::Approval) {
        let (now, before) = (of(new, kind), of(old, kind));
        if now.len() > before.len() {
            errors.push(refuse("add", kind));
        } else if now.len() == before.len() && now != before {
            errors.push(refuse("modify", kind));
        }
    }
    let (certificate, before) = (new.field("certificate"), old.field("certificate"));
    if certificate.str() != before.str() {
        if part != Part::Status {
            errors.push(certificate.forbidden("updates may not set certificate content"));
        } else if !before.str().is_empty() {
            errors.push(certificate.forbidden("updates may not modify existing certificate content"));
        }
    }
    errors
}
