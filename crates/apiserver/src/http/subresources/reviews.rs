//! Reviews: who am I, may a user do something, is this token good. Answered at once, stored
//! nowhere.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use http::Response;
use kinds::status::Status;
use serde_json::{Map, Value, json};

use super::super::answer;
use super::super::decode::Expected;
use super::super::options::WriteKind;
use super::super::resources::ResourceCall;
use crate::auth::rbac::PolicyRule;
use crate::auth::tokens::ISSUER;
use crate::body::Body;
use crate::request::options::WriteOptions;
use crate::request::{Attributes, User, What};

/// POST of a review.
pub async fn review(request: &ResourceCall<'_>, bytes: Bytes) -> Result<Response<Body>, Status> {
    let kind = request.kind;
    let options = WriteOptions::parse(request.query(), WriteKind::Create)?;
    let decoded = request.decode(&bytes, Expected::of(kind), options.field_validation)?;
    let mut review = decoded.object;
    check_namespace(request, &review)?;
    let errors = kind.rules.validate_create(&review);
    if !errors.is_empty() {
        return Err(Status::invalid(kind.group, kind.kind, "", &errors));
    }
    let user = &request.call.user;
    review["status"] = match kind.kind {
        "SelfSubjectReview" => {
            review["metadata"] = json!({"creationTimestamp": kinds::decode::format_time(request.now)});
            json!({"userInfo": user_info(user)})
        }
        "SelfSubjectAccessReview" => access(request, user, &review["spec"]),
        "SubjectAccessReview" | "LocalSubjectAccessReview" => access(request, &user_of(&review["spec"]), &review["spec"]),
        "SelfSubjectRulesReview" => rules(request, user, review["spec"]["namespace"].as_str().unwrap_or_default()),
        _ => token(request, &review["spec"]),
    };
    let json = kinds::encode::encode(&kind.api_version(), kind.kind, &review);
    let mut response = answer::json_bytes(201, json.into(), request.presenter.accepted.encoding);
    answer::warn(&mut response, &decoded.warnings);
    Ok(response)
}

/// A LocalSubjectAccessReview asks about its own namespace.
fn check_namespace(request: &ResourceCall<'_>, review: &Value) -> Result<(), Status> {
    if !request.kind.namespaced {
        return Ok(());
    }
    let asked = review["spec"]["resourceAttributes"]["namespace"].as_str().unwrap_or_default();
    if asked != request.path.namespace {
        return Err(Status::bad_request(format!("spec.resourceAttributes.namespace must match namespace: {}", request.path.namespace)));
    }
    Ok(())
}

fn user_info(user: &User) -> Value {
    let mut info = json!({"username": user.name});
    if !user.uid.is_empty() {
        info["uid"] = user.uid.as_str().into();
    }
    if !user.groups.is_empty() {
        info["groups"] = json!(user.groups);
    }
    if !user.extra.is_empty() {
        info["extra"] = json!(user.extra);
    }
    info
}

fn user_of(spec: &Value) -> User {
    let texts =
        |value: &Value| -> Vec<String> { value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect() };
    let extra: BTreeMap<String, Vec<String>> =
        spec["extra"].as_object().into_iter().flatten().map(|(k, v)| (k.to_lowercase(), texts(v))).collect();
    User {
        name: spec["user"].as_str().unwrap_or_default().to_owned(),
        uid: spec["uid"].as_str().unwrap_or_default().to_owned(),
        groups: texts(&spec["groups"]),
        extra,
    }
}

fn access(request: &ResourceCall<'_>, user: &User, spec: &Value) -> Value {
    let text = |value: &'_ Value, field: &str| value[field].as_str().unwrap_or_default().to_owned();
    let (resource, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    let verb = if resource.is_object() { text(resource, "verb") } else { text(path, "verb") };
    let fields: Vec<String> =
        ["group", "version", "resource", "subresource", "namespace", "name"].iter().map(|field| text(resource, field)).collect();
    let selector = text(&resource["fieldSelector"], "rawSelector");
    let url = text(path, "path");
    let what = match resource.is_object() {
        true => What::Resource {
            group: &fields[0],
            version: &fields[1],
            resource: &fields[2],
            subresource: &fields[3],
            namespace: &fields[4],
            name: &fields[5],
            field_selector: &selector,
        },
        false => What::Path(&url),
    };
    let decision = request.server.inner.authorizer.authorize(&Attributes { user, verb: &verb, what });
    let mut status = json!({"allowed": decision.allowed});
    if !decision.reason.is_empty() {
        status["reason"] = decision.reason.into();
    }
    status
}

fn rules(request: &ResourceCall<'_>, user: &User, namespace: &str) -> Value {
    let rules = request.server.inner.authorizer.rules_of(user, namespace);
    let (paths, resources): (Vec<&PolicyRule>, Vec<&PolicyRule>) = rules.iter().partition(|rule| !rule.non_resource_urls.is_empty());
    let list = |rules: Vec<&PolicyRule>| -> Value { rules.into_iter().map(PolicyRule::to_value).collect() };
    json!({"resourceRules": list(resources), "nonResourceRules": list(paths), "incomplete": false})
}

fn token(request: &ResourceCall<'_>, spec: &Value) -> Value {
    let asked: Vec<String> = spec["audiences"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
    let audiences = if asked.is_empty() { vec![ISSUER.to_owned()] } else { asked };
    let key = &request.server.inner.authenticator.tokens;
    let token = spec["token"].as_str().unwrap_or_default();
    let mut status = Map::new();
    match key.user(request.registry(), token, &audiences) {
        Some(user) => {
            let own: BTreeSet<String> = key.verify(token, &audiences).map(|claims| claims.aud).unwrap_or_default().into_iter().collect();
            let shared: Vec<&String> = audiences.iter().filter(|audience| own.contains(*audience)).collect();
            status.insert("authenticated".to_owned(), true.into());
            status.insert("audiences".to_owned(), json!(shared));
            status.insert("user".to_owned(), user_info(&user));
        }
        None => {
            status.insert("user".to_owned(), json!({}));
            status.insert("error".to_owned(), "invalid bearer token".into());
        }
    }
    Value::Object(status)
}
