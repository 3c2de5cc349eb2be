//! serviceaccounts/token: tokens for an account, optionally bound to a pod, a Secret or a node.

use bytes::Bytes;
use http::Response;
use kinds::field::{FieldError, Path};
use kinds::schema::schema;
use kinds::status::{GroupResource, Status};
use kinds::table;
use serde_json::{Value, json};

use super::super::answer;
use super::super::decode::Expected;
use super::super::options::WriteKind;
use super::super::resources::ResourceCall;
use crate::auth::tokens::{Claims, ISSUER};
use crate::body::Body;
use crate::registry::encoding::parse_stored;
use crate::request::options::WriteOptions;

const SECONDS_DEFAULT: i64 = 3600;
const SECONDS_MIN: i64 = 600;
const SECONDS_MAX: i64 = 1 << 32;

pub async fn create(request: &ResourceCall<'_>, bytes: Bytes) -> Result<Response<Body>, Status> {
    let options = WriteOptions::parse(request.query(), WriteKind::Create)?;
    let type_id = schema().named("TokenRequest").expect("types.txt has TokenRequest");
    let expected = Expected { group: "authentication.k8s.io", version: "v1", kind: "TokenRequest", type_id };
    let mut token_request = request.decode(&bytes, expected, options.field_validation)?.object;
    request.admission().check_token(&request.write(None, &options), &token_request)?;
    let account = parse_stored(&request.registry().get(request.kind, &request.path.namespace, &request.path.name)?.value);
    if token_request["spec"]["audiences"].as_array().is_none_or(Vec::is_empty) {
        token_request["spec"]["audiences"] = json!([ISSUER]);
    }
    let seconds = token_request["spec"]["expirationSeconds"].as_i64().unwrap_or(SECONDS_DEFAULT);
    token_request["spec"]["expirationSeconds"] = seconds.into();
    check_seconds(seconds)?;
    let bound = bound_object(request, &token_request["spec"]["boundObjectRef"])?;
    let now = request.now.as_second();
    let claims = Claims {
        iss: ISSUER.to_owned(),
        sub: format!("system:serviceaccount:{}:{}", request.path.namespace, request.path.name),
        aud: token_request["spec"]["audiences"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect(),
        exp: now + seconds,
        iat: now,
        nbf: now,
        jti: uuid::Uuid::new_v4().to_string(),
        kubernetes: private_claims(request, &account, &bound),
    };
    let expires = request.now.saturating_add(jiff::SignedDuration::from_secs(seconds)).unwrap_or(request.now);
    let token = if options.dry_run { String::new() } else { request.server.inner.authenticator.tokens.sign(&claims) };
    token_request["status"] = json!({"token": token, "expirationTimestamp": kinds::decode::format_time(expires)});
    token_request["metadata"] = json!({
        "name": request.path.name, "namespace": request.path.namespace, "uid": account["metadata"]["uid"], "creationTimestamp": kinds::decode::format_time(request.now),
    });
    let json = kinds::encode::encode("authentication.k8s.io/v1", "TokenRequest", &token_request);
    Ok(answer::json_bytes(201, json.into(), request.presenter.accepted.encoding))
}

fn check_seconds(seconds: i64) -> Result<(), Status> {
    let path = Path::new("spec").child("expirationSeconds");
    let error = match seconds {
        ..SECONDS_MIN => FieldError::invalid(&path, seconds, "may not specify a duration less than 10 minutes"),
        SECONDS_MIN..=SECONDS_MAX => return Ok(()),
        _ => FieldError::invalid(&path, seconds, "may not specify a duration larger than 2^32 seconds"),
    };
    Err(Status::invalid("authentication.k8s.io", "TokenRequest", "", &[error]))
}

/// The object that the token is to end with: its kind in lower case and itself.
fn bound_object(request: &ResourceCall<'_>, reference: &Value) -> Result<Option<(&'static str, Value)>, Status> {
    if reference.is_null() {
        return Ok(None);
    }
    let text = |field: &str| reference[field].as_str().unwrap_or_default();
    let (field, resource, namespace) = match (text("apiVersion"), text("kind")) {
        ("v1", "Pod") => ("pod", "pods", request.path.namespace.as_str()),
        ("v1", "Secret") => ("secret", "secrets", request.path.namespace.as_str()),
        ("v1", "Node") => ("node", "nodes", ""),
        (version, kind) => {
            return Err(Status::bad_request(format!(
                "cannot bind token for serviceaccount {:?} to object {version}/{kind}",
                request.path.name
            )));
        }
    };
    let kind = table::by_resource("", "v1", resource).expect("the table has pods, secrets and nodes");
    let object = parse_stored(&request.registry().get(kind, namespace, text("name"))?.value);
    let uid = text("uid");
    if !uid.is_empty() && object["metadata"]["uid"] != uid {
        let why = format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
        );
        return Err(Status::conflict(GroupResource { group: "", resource: text("kind") }, text("name"), &why));
    }
    if field == "pod" && object["spec"]["serviceAccountName"].as_str().unwrap_or_default() != request.path.name {
        let own = object["spec"]["serviceAccountName"].as_str().unwrap_or_default();
        return Err(Status::bad_request(format!(
            "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name {own:?}",
            request.path.name
        )));
    }
    Ok(Some((field, object)))
}

fn private_claims(request: &ResourceCall<'_>, account: &Value, bound: &Option<(&'static str, Value)>) -> Value {
    let reference = |object: &Value| json!({"name": object["metadata"]["name"], "uid": object["metadata"]["uid"]});
    let mut claims = json!({"namespace": request.path.namespace, "serviceaccount": reference(account)});
    let Some((field, object)) = bound else { return claims };
    claims[*field] = reference(object);
    // A pod's token also says on which node the pod is.
    let node = object["spec"]["nodeName"].as_str().filter(|node| *field == "pod" && !node.is_empty());
    if let Some(node) = node {
        let kind = table::by_resource("", "v1", "nodes").expect("the table has nodes");
        if let Ok(Some(entry)) = request.registry().entry(kind, "", node) {
            claims["node"] = reference(&parse_stored(&entry.value));
        }
    }
    claims
}
