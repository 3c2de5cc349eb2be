//! Request bodies to objects: syntax, group and kind, schema; with Kubernetes' words for each way
//! to fail.

use kinds::decode::{Decoded, TypeError, decode, decode_plain};
use kinds::document::{Node, SyntaxError, parse_json};
use kinds::schema::TypeId;
use kinds::status::Status;
use kinds::table::{self, Kind};
use kinds::{protobuf, yaml};
use serde_json::Value;

use super::negotiate::BodyType;
use crate::request::options::FieldValidation;

/// Kinds of the served groups that Kubernetes has and everynode does not; a body of such a kind is
/// known, but no match.
const KNOWN_BUT_NOT_SERVED: &[&str] = &[
    "ComponentStatus",
    "Deployment",
    "PersistentVolume",
    "PersistentVolumeClaim",
    "PodTemplate",
    "ReplicaSet",
    "ReplicationController",
    "StatefulSet",
];

/// Group, version and kind that a body is expected to have.
#[derive(Debug, Copy, Clone)]
pub struct Expected<'a> {
    pub group: &'a str,
    pub version: &'a str,
    pub kind: &'a str,
    pub type_id: TypeId,
}

impl Expected<'_> {
    pub fn of(kind: &'static Kind) -> Expected<'static> {
        Expected { group: kind.group, version: kind.version, kind: kind.kind, type_id: kind.type_id() }
    }

    fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_owned() } else { format!("{}/{}", self.group, self.version) }
    }
}

/// A decoded body and the warnings it earned.
#[derive(Debug)]
pub struct DecodedBody {
    pub object: Value,
    pub warnings: Vec<String>,
}

/// Decodes a request body that should hold an object of the expected kind.
pub fn body(bytes: &[u8], body_type: BodyType, expected: Expected<'_>, validation: FieldValidation) -> Result<DecodedBody, Status> {
    if let Some(object) = plain(bytes, body_type, expected) {
        return Ok(DecodedBody { object, warnings: Vec::new() });
    }
    let (node, duplicates) = match body_type {
        BodyType::Protobuf if protobuf::has_magic(bytes) => protobuf::parse(bytes, expected.type_id).map(|node| (node, Vec::new())),
        _ => parse(bytes, body_type),
    }
    .map_err(|e| unrecognized(&expected, &e, bytes))?;
    check_type(&node, &expected, bytes)?;
    let Decoded { value, findings } = decode(node, expected.type_id).map_err(|e| unfit(&expected, &e))?;
    let findings: Vec<String> = duplicates.into_iter().chain(findings).collect();
    match validation {
        FieldValidation::Strict if !findings.is_empty() => {
            let error = TypeError(format!("strict decoding error: {}", findings.join(", ")));
            Err(unfit(&expected, &error))
        }
        FieldValidation::Warn => Ok(DecodedBody { object: value, warnings: findings }),
        FieldValidation::Strict | FieldValidation::Ignore => Ok(DecodedBody { object: value, warnings: Vec::new() }),
    }
}

/// Nearly every body: JSON with nothing wrong and of the type that was expected. All others are
/// looked at closely.
fn plain(bytes: &[u8], body_type: BodyType, expected: Expected<'_>) -> Option<Value> {
    if body_type != BodyType::Json {
        return None;
    }
    let object = decode_plain(bytes, expected.type_id)?;
    let text = |name: &str| object.get(name).and_then(Value::as_str).unwrap_or_default();
    let is_expected = matches!(text("kind"), kind if kind.is_empty() || kind == expected.kind)
        && matches!(text("apiVersion"), version if version.is_empty() || version == expected.api_version());
    is_expected.then_some(object)
}

/// Parses the text of a body, without holding it against a kind; protobuf cannot be read that way.
/// Also returns one sentence for each duplicate key of a YAML text.
pub fn parse(bytes: &[u8], body_type: BodyType) -> Result<(Node, Vec<String>), SyntaxError> {
    match body_type {
        BodyType::Json => match parse_json(bytes) {
            Ok(node) => Ok((node, Vec::new())),
            Err(e) => Err(SyntaxError(format!("couldn't get version/kind; json parse error: {e}"))),
        },
        BodyType::Yaml => {
            let text = std::str::from_utf8(bytes).map_err(|_| SyntaxError("yaml: invalid leading UTF-8 octet".to_owned()))?;
            yaml::parse(text)
        }
        BodyType::Protobuf => {
            let magic = "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]";
            Err(SyntaxError(magic.to_owned()))
        }
    }
}

/// Does Kubernetes know kinds of that version, whether they are served here or not?
fn is_known_version(api_version: &str) -> bool {
    const GROUPS_NOT_SERVED: &[&str] = &[
        "admissionregistration.k8s.io/v1",
        "apiextensions.k8s.io/v1",
        "apps/v1beta1",
        "apps/v1beta2",
        "autoscaling/v1",
        "autoscaling/v2",
        "batch/v1",
        "batch/v1beta1",
        "discovery.k8s.io/v1beta1",
        "events.k8s.io/v1beta1",
        "extensions/v1beta1",
        "flowcontrol.apiserver.k8s.io/v1",
        "networking.k8s.io/v1",
        "networking.k8s.io/v1beta1",
        "policy/v1beta1",
        "rbac.authorization.k8s.io/v1alpha1",
        "rbac.authorization.k8s.io/v1beta1",
        "scheduling.k8s.io/v1beta1",
        "storage.k8s.io/v1",
    ];
    table::KINDS.iter().any(|kind| kind.api_version() == api_version) || GROUPS_NOT_SERVED.contains(&api_version)
}

fn unrecognized(expected: &Expected<'_>, error: &SyntaxError, bytes: &[u8]) -> Status {
    Status::bad_request(format!("the object provided is unrecognized (must be of type {}): {error} ({})", expected.kind, summary(bytes)))
}

fn unfit(expected: &Expected<'_>, error: &TypeError) -> Status {
    Status::bad_request(format!("{kind} in version {:?} cannot be handled as a {kind}: {error}", expected.version, kind = expected.kind))
}

/// The beginning of a body, as Go's error texts show it.
fn summary(bytes: &[u8]) -> String {
    const BYTES_MAX: usize = 30;
    let shown = &bytes[..bytes.len().min(BYTES_MAX)];
    let more = if bytes.len() > BYTES_MAX { " ..." } else { "" };
    match bytes.first() {
        None => "<empty>".to_owned(),
        Some(b'{') => format!("{}{more}", String::from_utf8_lossy(shown)),
        Some(_) => format!("{}{more}", shown.iter().map(|b| format!("{b:02x}")).collect::<String>()),
    }
}

/// Holds apiVersion and kind of a body, where it has them, against what the path wants.
fn check_type(node: &Node, expected: &Expected<'_>, bytes: &[u8]) -> Result<(), Status> {
    if !matches!(node, Node::Object(_) | Node::Null) {
        let what = SyntaxError("couldn't get version/kind; json parse error: json: cannot unmarshal into Go value".to_owned());
        return Err(unrecognized(expected, &what, bytes));
    }
    if let Node::Object(fields) = node {
        let is_type = |name: &str| matches!(name, "apiVersion" | "kind");
        let wrong = fields.iter().find(|(name, value)| is_type(name) && !matches!(value, Node::String(_) | Node::Null));
        if let Some((name, value)) = wrong {
            let json_type = kinds::decode::json_type(value);
            let what = format!(
                "couldn't get version/kind; json parse error: json: cannot unmarshal {json_type} into Go struct field .{name} of type string"
            );
            return Err(unrecognized(expected, &SyntaxError(what), bytes));
        }
    }
    let api_version = node.get("apiVersion").and_then(Node::as_str).unwrap_or_default();
    let kind = node.get("kind").and_then(Node::as_str).unwrap_or_default();
    if api_version.matches('/').count() > 1 {
        let what = SyntaxError(format!("unexpected GroupVersion string: {api_version}"));
        return Err(unrecognized(expected, &what, bytes));
    }
    let wanted = expected.api_version();
    if !api_version.is_empty() && api_version != wanted && !is_known_version(api_version) {
        return Err(Status::bad_request(format!(
            "{} in version {api_version:?} cannot be handled as a {}: no kind {kind:?} is registered for version {api_version:?} in scheme \
             \"pkg/api/legacyscheme/scheme.go:30\"",
            if kind.is_empty() { expected.kind } else { kind },
            expected.kind
        )));
    }
    if !api_version.is_empty() && api_version != wanted {
        return Err(Status::bad_request(format!(
            "the API version in the data ({api_version}) does not match the expected API version ({wanted})"
        )));
    }
    if kind.is_empty() || kind == expected.kind {
        return Ok(());
    }
    let why = not_converted(expected, &wanted, kind);
    Err(Status::bad_request(format!("{kind} in version {:?} cannot be handled as a {}: {why}", expected.version, expected.kind)))
}

/// Why an object of another type does not become one of the expected type.
fn not_converted(expected: &Expected<'_>, api_version: &str, kind: &str) -> String {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let is_served = table::by_kind(group, kind).is_some_and(|row| row.version == version);
    if is_served || group == expected.group && KNOWN_BUT_NOT_SERVED.contains(&kind) {
        let internal = if expected.group.is_empty() { "core" } else { expected.group.split('.').next().unwrap_or_default() };
        format!("converting ({version}.{kind}) to ({internal}.{}): unknown conversion", expected.kind)
    } else {
        format!("no kind {kind:?} is registered for version {api_version:?} in scheme \"pkg/api/legacyscheme/scheme.go:30\"")
    }
}

/// Why a patched document is of another type than the object was; None where it is of the same, or
/// says none.
pub fn other_type(expected: &Expected<'_>, document: &Value) -> Option<String> {
    let wanted = expected.api_version();
    let text = |name: &str| document[name].as_str().filter(|text| !text.is_empty());
    let (api_version, kind) = (text("apiVersion").unwrap_or(&wanted), text("kind").unwrap_or(expected.kind));
    (api_version != wanted || kind != expected.kind).then(|| not_converted(expected, api_version, kind))
}
