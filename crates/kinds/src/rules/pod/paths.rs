//! Paths and modes of files that a pod asks for.

use crate::cursor::Cursor;
use crate::field::FieldError;
use crate::rules::check::{self, Errors};

const MODE_MAX: i64 = 0o777;

pub fn file_mode(mode: &Cursor<'_>) -> Option<FieldError> {
    let is_valid = (0..=MODE_MAX).contains(&mode.int_or_zero());
    (!is_valid).then(|| mode.invalid("must be a number between 0 and 0777 (octal), both inclusive"))
}

/// A key of a secret or ConfigMap and the file it becomes.
pub fn key_to_path(item: &Cursor<'_>) -> Errors {
    let mut errors = check::required_fields(item, &["key", "path"]);
    errors.extend(local_non_reserved(&item.field("path")));
    errors.extend(file_mode(&item.field("mode")));
    errors
}

/// Relative, without `..`, and not starting with two dots, which the kubelet uses itself.
pub fn local_non_reserved(path: &Cursor<'_>) -> Errors {
    let mut errors = local_descending(path);
    if path.str().starts_with("..") && !path.str().starts_with("../") {
        errors.push(path.invalid("must not start with '..'"));
    }
    errors
}

pub fn local_descending(path: &Cursor<'_>) -> Errors {
    let mut errors = Vec::new();
    if path.str().starts_with('/') {
        errors.push(path.invalid("must be a relative path"));
    }
    errors.extend(no_backsteps(path));
    errors
}

pub fn no_backsteps(path: &Cursor<'_>) -> Option<FieldError> {
    has_backsteps(path.str()).then(|| path.invalid("must not contain '..'"))
}

pub fn has_backsteps(path: &str) -> bool {
    path.split('/').any(|part| part == "..")
}
