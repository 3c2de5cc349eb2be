//! Projected volumes: several sources in one directory.

use std::collections::BTreeSet;

use crate::cursor::Cursor;
use crate::field::{FieldError, Path};
use crate::names;
use crate::rules::check::{self, Errors};

use super::{env, paths};

const TOKEN_SECONDS_MIN: i64 = 10 * 60;
const TOKEN_SECONDS_MAX: i64 = 1 << 32;
const CERTIFICATE_SECONDS_MIN: i64 = 3600;
const CERTIFICATE_SECONDS_MAX: i64 = 91 * 24 * 3600;
const KEY_TYPES: &[&str] = &["ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519", "RSA3072", "RSA4096"];

pub fn validate(volume: &Cursor<'_>) -> Errors {
    let mut errors: Errors = paths::file_mode(&volume.field("defaultMode")).into_iter().collect();
    let mut taken = Taken { paths: BTreeSet::new(), blamed: volume.path().clone() };
    for source in volume.field("sources").items() {
        errors.extend(validate_source(&source, &mut taken));
    }
    errors
}

/// The files that sources make; two of the same name are refused.
struct Taken<'a> {
    paths: BTreeSet<&'a str>,
    blamed: Path,
}

impl<'a> Taken<'a> {
    fn take(&mut self, path: &'a str, shown: &str) -> Option<FieldError> {
        let is_taken = !path.is_empty() && !self.paths.insert(path);
        is_taken.then(|| FieldError::invalid(&self.blamed, shown, "conflicting duplicate paths"))
    }
}

type Validator = for<'a, 'b> fn(&'b Cursor<'a>, &'b mut Taken<'a>) -> Errors;

const SOURCES: [(&str, Validator); 6] = [
    ("secret", keyed),
    ("configMap", keyed),
    ("downwardAPI", downward_api),
    ("serviceAccountToken", token),
    ("clusterTrustBundle", trust_bundle),
    ("podCertificate", certificate),
];

fn validate_source<'a>(source: &Cursor<'a>, taken: &mut Taken<'a>) -> Errors {
    let mut errors = Vec::new();
    let mut found = 0;
    for (name, validate) in SOURCES {
        let projection = source.field(name);
        if projection.exists() {
            found += 1;
            errors.extend(validate(&projection, taken));
        }
    }
    if found > 1 {
        errors.push(source.forbidden("may not specify more than 1 volume type per source"));
    }
    errors
}

fn keyed<'a>(projection: &Cursor<'a>, taken: &mut Taken<'a>) -> Errors {
    let name = projection.field("name");
    let mut errors: Errors = check::required(&name).into_iter().collect();
    for item in projection.field("items").items() {
        errors.extend(paths::key_to_path(&item));
        errors.extend(taken.take(item.field("path").str(), name.str()));
    }
    errors
}

fn downward_api<'a>(projection: &Cursor<'a>, taken: &mut Taken<'a>) -> Errors {
    let mut errors = Vec::new();
    for file in projection.field("items").items() {
        errors.extend(env::downward_api_file(&file, projection.path()));
        let path = file.field("path").str();
        errors.extend(taken.take(path, path));
    }
    errors
}

/// Errors of the path blame the volume.
fn token<'a>(projection: &Cursor<'a>, taken: &mut Taken<'a>) -> Errors {
    let seconds = projection.field("expirationSeconds");
    let mut errors = Vec::new();
    if seconds.int_or_zero() < TOKEN_SECONDS_MIN {
        errors.push(seconds.invalid_value(seconds.int_or_zero(), "may not specify a duration less than 10 minutes"));
    }
    if seconds.int_or_zero() > TOKEN_SECONDS_MAX {
        errors.push(seconds.invalid("may not specify a duration larger than 2^32 seconds"));
    }
    let path = Cursor::at(projection.field("path").value(), taken.blamed.child("path"));
    match check::required(&path) {
        Some(error) => errors.push(error),
        None => errors.extend(paths::local_non_reserved(&path)),
    }
    errors
}

fn trust_bundle<'a>(projection: &Cursor<'a>, taken: &mut Taken<'a>) -> Errors {
    let (name, signer, selector) = (projection.field("name"), projection.field("signerName"), projection.field("labelSelector"));
    let mut errors = match (name.exists(), signer.exists()) {
        (true, true) => vec![projection.invalid("only one of name and signerName may be used")],
        (true, false) => trust_bundle_name(&name, &selector),
        (false, true) => trust_bundle_signer(&signer, &selector),
        (false, false) => vec![projection.required("either name or signerName must be specified")],
    };
    let path = projection.field("path");
    errors.extend(check::required(&path));
    errors.extend(paths::local_non_reserved(&path));
    errors.extend(taken.take(path.str(), path.str()));
    errors
}

fn trust_bundle_name(name: &Cursor<'_>, selector: &Cursor<'_>) -> Errors {
    let mut errors = Vec::new();
    if name.str().is_empty() {
        errors.push(name.required("must be a valid object name"));
    }
    // A name with colons starts with its signer's name, colons for slashes.
    let own = name.str().rsplit(':').next().unwrap_or_default();
    let findings = names::dns1123_subdomain(own);
    errors.extend(findings.iter().map(|finding| name.invalid_str(format!("not a valid clustertrustbundlename: {finding}"))));
    if selector.exists() {
        errors.push(selector.invalid("labelSelector must be unset if name is specified"));
    }
    errors
}

fn trust_bundle_signer(signer: &Cursor<'_>, selector: &Cursor<'_>) -> Errors {
    let mut errors = Vec::new();
    if signer.str().is_empty() {
        errors.push(signer.required("must be a valid signer name"));
    }
    errors.extend(signer_name(signer));
    errors.extend(check::label_selector(selector));
    errors
}

fn signer_name(signer: &Cursor<'_>) -> Errors {
    if signer.str().is_empty() {
        return vec![signer.required("")];
    }
    let mut segments = signer.str().split('/');
    let (domain, path) = (segments.next().unwrap_or_default(), segments.next());
    if path.is_none_or(str::is_empty) || segments.next().is_some() {
        return vec![signer.invalid("must be a fully qualified domain and path of the form 'example.com/signer-name'")];
    }
    let mut errors = check::findings(signer, names::dns1123_subdomain(domain));
    if domain.split('.').count() < 2 {
        errors.push(signer.invalid("should be a domain with at least two segments separated by dots"));
    }
    errors
}

fn certificate<'a>(projection: &Cursor<'a>, taken: &mut Taken<'a>) -> Errors {
    let mut errors = signer_name(&projection.field("signerName"));
    let key_type = projection.field("keyType");
    if !KEY_TYPES.contains(&key_type.str()) {
        errors.push(key_type.not_supported(KEY_TYPES));
    }
    let seconds = projection.field("maxExpirationSeconds");
    if let Some(number) = seconds.int() {
        let findings = names::in_range(number, CERTIFICATE_SECONDS_MIN, CERTIFICATE_SECONDS_MAX);
        errors.extend(check::number_findings(&seconds, findings));
    }
    let files = ["credentialBundlePath", "keyPath", "certificateChainPath"].map(|name| projection.field(name));
    if files.iter().all(|file| file.str().is_empty()) {
        errors.push(projection.required("specify at least one of credentialBundlePath, keyPath, and certificateChainPath"));
    }
    for file in files {
        errors.extend(paths::local_non_reserved(&file));
        errors.extend(taken.take(file.str(), file.str()));
    }
    errors
}
