//! Image names as users write them, read as Docker and the kubelet read them.
//!
//! `busybox` is `docker.io/library/busybox:latest`. The grammar is the one of
//! github.com/distribution/reference; the texts of the errors are what users see with the reason
//! InvalidImageName.

use std::fmt;

const DEFAULT_REGISTRY: &str = "docker.io";
const LEGACY_DEFAULT_REGISTRY: &str = "index.docker.io";
const OFFICIAL_PREFIX: &str = "library/";
const DEFAULT_TAG: &str = "latest";
const REPOSITORY_LENGTH_MAX: usize = 255;
const TAG_LENGTH_MAX: usize = 128;

/// A full name. Has a tag, a digest or both.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reference {
    /// Host and port: `docker.io`, `127.0.0.1:5000`.
    pub registry: String,
    /// `library/busybox`.
    pub repository: String,
    pub tag: Option<String>,
    /// With its algorithm.
    pub digest: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("couldn't parse image name {name:?}: {why}")]
pub struct Error {
    pub name: String,
    pub why: Why,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    #[error("invalid reference format")]
    Format,
    #[error("invalid reference format: repository name ({0}) must be lowercase")]
    Uppercase(String),
    #[error("repository name must be lowercase")]
    UppercaseSomewhere,
    #[error("repository name must not be more than {REPOSITORY_LENGTH_MAX} characters")]
    TooLong,
    #[error("invalid repository name ({0}), cannot specify 64-byte hexadecimal strings")]
    Identifier(String),
    #[error("unsupported digest algorithm")]
    DigestAlgorithm,
    #[error("invalid checksum digest length")]
    DigestLength,
    #[error("invalid checksum digest format")]
    DigestFormat,
}

/// Reads a name; what has neither tag nor digest gets the tag `latest`.
pub fn parse(name: &str) -> Result<Reference, Error> {
    parse_parts(name).map_err(|why| Error { name: name.to_owned(), why })
}

impl Reference {
    /// `docker.io/library/busybox`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The name that a pull is known by: a digest wins over a tag.
    pub fn canonical(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => format!("{}@{digest}", self.name()),
            (None, Some(tag)) => format!("{}:{tag}", self.name()),
            (None, None) => self.name(),
        }
    }

    pub fn with_digest(&self, digest: &str) -> String {
        format!("{}@{digest}", self.name())
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name())?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

fn parse_parts(name: &str) -> Result<Reference, Why> {
    if name.len() == 64 && name.bytes().all(is_lower_hex) {
        return Err(Why::Identifier(name.to_owned()));
    }
    let (registry, rest) = split_registry(name);
    let repository = rest.split(':').next().unwrap_or_default();
    if repository.to_lowercase() != repository {
        return Err(Why::Uppercase(repository.to_owned()));
    }
    match split(&registry, &rest) {
        Some(mut reference) => {
            check_lengths(&reference)?;
            if reference.tag.is_none() && reference.digest.is_none() {
                reference.tag = Some(DEFAULT_TAG.to_owned());
            }
            Ok(reference)
        }
        None if fits_in_lower_case(&format!("{registry}/{rest}")) => Err(Why::UppercaseSomewhere),
        None => Err(Why::Format),
    }
}

/// The first component is a registry when it looks like a host; what is on Docker Hub without a
/// namespace is an official image.
fn split_registry(name: &str) -> (String, String) {
    let (registry, rest) = match name.split_once('/') {
        Some((first, rest)) if first == LEGACY_DEFAULT_REGISTRY => (DEFAULT_REGISTRY, rest),
        Some((first, rest)) if looks_like_host(first) => (first, rest),
        _ => (DEFAULT_REGISTRY, name),
    };
    if registry == DEFAULT_REGISTRY && !rest.contains('/') {
        return (registry.to_owned(), format!("{OFFICIAL_PREFIX}{rest}"));
    }
    (registry.to_owned(), rest.to_owned())
}

fn looks_like_host(component: &str) -> bool {
    component == "localhost" || component.contains(['.', ':']) || component.to_lowercase() != component
}

/// None when the text does not follow the grammar.
fn split(registry: &str, rest: &str) -> Option<Reference> {
    let (rest, digest) = match rest.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (rest, None),
    };
    let (repository, tag) = match rest.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, Some(tag)),
        _ => (rest, None),
    };
    let fits = is_host(registry) && is_repository(repository) && tag.is_none_or(is_tag) && digest.is_none_or(is_digest);
    fits.then(|| Reference {
        registry: registry.to_owned(),
        repository: repository.to_owned(),
        tag: tag.map(str::to_owned),
        digest: digest.map(str::to_owned),
    })
}

/// Whether only capital letters are wrong: `Name/app` would be the repository `name/app`.
fn fits_in_lower_case(text: &str) -> bool {
    let lower = text.to_lowercase();
    if lower == text {
        return false;
    }
    let in_registry = lower.split_once('/').is_some_and(|(registry, rest)| split(registry, rest).is_some());
    in_registry || split("localhost", &lower).is_some()
}

fn check_lengths(reference: &Reference) -> Result<(), Why> {
    if reference.repository.len() > REPOSITORY_LENGTH_MAX {
        return Err(Why::TooLong);
    }
    let Some((algorithm, hex)) = reference.digest.as_deref().and_then(|digest| digest.split_once(':')) else { return Ok(()) };
    let length = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => return Err(Why::DigestAlgorithm),
    };
    if hex.len() != length {
        return Err(Why::DigestLength);
    }
    if hex.bytes().all(is_lower_hex) { Ok(()) } else { Err(Why::DigestFormat) }
}

fn is_host(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let port_fits = port.is_none_or(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()));
    port_fits && (is_ipv6(host) || host.split('.').all(is_host_component))
}

fn is_ipv6(host: &str) -> bool {
    let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    inner.is_some_and(|inner| !inner.is_empty() && inner.bytes().all(|b| b.is_ascii_hexdigit() || b == b':'))
}

fn is_host_component(text: &str) -> bool {
    let inside = text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    !text.is_empty() && inside && !text.starts_with('-') && !text.ends_with('-')
}

fn is_repository(text: &str) -> bool {
    text.split('/').all(is_path_component)
}

/// Runs of small letters and digits, joined by one of `.`, `_`, `__` or any number of `-`.
fn is_path_component(text: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if !text.starts_with(alphanumeric) || !text.ends_with(alphanumeric) {
        return false;
    }
    let is_separator = |run: &str| matches!(run, "" | "." | "_" | "__") || run.bytes().all(|b| b == b'-');
    text.split(alphanumeric).all(is_separator)
}

fn is_tag(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let rest = text.bytes().all(|b| word(b) || b == b'.' || b == b'-');
    text.len() <= TAG_LENGTH_MAX && text.bytes().next().is_some_and(word) && rest
}

fn is_digest(text: &str) -> bool {
    let Some((algorithm, hex)) = text.split_once(':') else { return false };
    let part = |part: &str| part.starts_with(|c: char| c.is_ascii_alphabetic()) && part.bytes().all(|b| b.is_ascii_alphanumeric());
    algorithm.split(['-', '_', '+', '.']).all(part) && hex.len() >= 32 && hex.bytes().all(|b| b.is_ascii_hexdigit())
}

fn is_lower_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    fn check(name: &str, expected: Expect) {
        let text = match super::parse(name) {
            Ok(reference) => reference.to_string(),
            Err(error) => error.to_string(),
        };
        expected.assert_eq(&text);
    }

    #[test]
    fn short_names_get_registry_namespace_and_tag() {
        check("busybox", expect!["docker.io/library/busybox:latest"]);
        check("busybox:1.36", expect!["docker.io/library/busybox:1.36"]);
        check("docker.io/busybox", expect!["docker.io/library/busybox:latest"]);
        check("index.docker.io/busybox", expect!["docker.io/library/busybox:latest"]);
        check("some/app", expect!["docker.io/some/app:latest"]);
    }

    #[test]
    fn hosts_are_recognised() {
        check("localhost/app", expect!["localhost/app:latest"]);
        check("localhost:5000/a/b:v1", expect!["localhost:5000/a/b:v1"]);
        check("127.0.0.1:9/none/none:1", expect!["127.0.0.1:9/none/none:1"]);
        check("[::1]:5000/app", expect!["[::1]:5000/app:latest"]);
        check("REGISTRY/app", expect!["REGISTRY/app:latest"]);
    }

    #[test]
    fn digests_stand_alone_or_with_a_tag() {
        let hex = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
        let name = format!("busybox:1@sha256:{hex}");
        assert_eq!(super::parse(&name).unwrap().canonical(), format!("docker.io/library/busybox@sha256:{hex}"));
        check(
            "busybox@sha256:0123456789abcdef0123456789abcdef",
            expect![[r#"couldn't parse image name "busybox@sha256:0123456789abcdef0123456789abcdef": invalid checksum digest length"#]],
        );
        check("busybox@sha256:xyz", expect![[r#"couldn't parse image name "busybox@sha256:xyz": invalid reference format"#]]);
    }

    #[test]
    fn errors_read_like_the_kubelets() {
        check("Bad_NAME//x:1", expect![[r#"couldn't parse image name "Bad_NAME//x:1": invalid reference format"#]]);
        check(
            "BUSYBOX",
            expect![[
                r#"couldn't parse image name "BUSYBOX": invalid reference format: repository name (library/BUSYBOX) must be lowercase"#
            ]],
        );
        check("Bad_NAME/x:1", expect![[r#"couldn't parse image name "Bad_NAME/x:1": repository name must be lowercase"#]]);
        check("", expect![[r#"couldn't parse image name "": invalid reference format"#]]);
        check("a b", expect![[r#"couldn't parse image name "a b": invalid reference format"#]]);
        check("app:-x", expect![[r#"couldn't parse image name "app:-x": invalid reference format"#]]);
        check("a..b", expect![[r#"couldn't parse image name "a..b": invalid reference format"#]]);
        check("a___b", expect![[r#"couldn't parse image name "a___b": invalid reference format"#]]);
    }

    #[test]
    fn an_identifier_is_no_name() {
        let hex = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
        let error = super::parse(hex).unwrap_err().to_string();
        assert!(error.ends_with("cannot specify 64-byte hexadecimal strings"), "{error}");
    }

    #[test]
    fn long_names_are_refused() {
        let error = super::parse(&format!("localhost/{}", "a".repeat(256))).unwrap_err().to_string();
        assert!(error.ends_with("repository name must not be more than 255 characters"), "{error}");
    }
}
