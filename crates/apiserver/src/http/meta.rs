//! Paths that are no objects: health, version, metrics, discovery, OpenAPI.

use http::{Method, Response};
use kinds::status::Status;
use serde_json::json;

use super::negotiate::Encoding;
use super::server::{ApiServer, Call};
use super::{answer, discovery, openapi};
use crate::body::Body;

/// The checks that health endpoints list.
const CHECKS: &[&str] =
    &["ping", "log", "etcd", "poststarthook/rbac/bootstrap-roles", "poststarthook/scheduling/bootstrap-system-priority-classes"];

pub(crate) async fn handle(server: &ApiServer, call: &Call, path: &str) -> Result<Response<Body>, Status> {
    if !matches!(call.parts.method, Method::GET | Method::HEAD) {
        return Ok(answer::page_not_found());
    }
    if let Some(response) = health(call, path, server.registry().is_working()) {
        return Ok(response);
    }
    match path {
        "/version" | "/version/" => Ok(answer::value(200, &version(), Encoding::Json)),
        "/metrics" => Ok(metrics(server)),
        "/openid/v1/jwks" => Ok(answer::value(200, &server.inner.authenticator.tokens.jwks(), Encoding::Json)),
        "/.well-known/openid-configuration" => {
            let host = call.header(http::header::HOST).unwrap_or("kubernetes.default.svc");
            Ok(answer::value(200, &server.inner.authenticator.tokens.openid_configuration(&format!("https://{host}")), Encoding::Json))
        }
        _ if path.starts_with("/openapi/") => openapi::handle(call, path),
        _ => discovery::handle(call, path),
    }
}

/// What the server says of itself: compatible with Kubernetes 1.36.
pub fn version() -> serde_json::Value {
    json!({
        "major": "1", "minor": "36",
        "emulationMajor": "1", "emulationMinor": "36",
        "minCompatibilityMajor": "1", "minCompatibilityMinor": "35",
        "gitVersion": concat!("v1.36.0+everynode.", env!("CARGO_PKG_VERSION")),
        "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "none", "compiler": "rustc", "platform": concat!("linux/", "amd64"),
    })
}

/// `store_works` is the check that Kubernetes calls etcd.
fn health(call: &Call, path: &str, store_works: bool) -> Option<Response<Body>> {
    let (endpoint, check) = ["/healthz", "/livez", "/readyz"].iter().find_map(|endpoint| {
        let rest = path.strip_prefix(endpoint)?;
        (rest.is_empty() || rest.starts_with('/')).then(|| (&endpoint[1..], rest.trim_matches('/')))
    })?;
    let passes = |check: &str| check != "etcd" || store_works;
    if !check.is_empty() {
        return Some(match CHECKS.contains(&check) {
            true if passes(check) => answer::text(200, "ok"),
            true => answer::text(500, format!("internal server error: {check} failed: reason withheld\n")),
            false => answer::page_not_found(),
        });
    }
    if store_works && !call.query.has("verbose") {
        return Some(answer::text(200, "ok"));
    }
    let line = |check: &&str| if passes(check) { format!("[+]{check} ok\n") } else { format!("[-]{check} failed: reason withheld\n") };
    let lines: String = CHECKS.iter().map(line).collect();
    let (code, outcome) = if store_works { (200, "passed") } else { (500, "failed") };
    Some(answer::text(code, format!("{lines}{endpoint} check {outcome}\n")))
}

fn metrics(server: &ApiServer) -> Response<Body> {
    let registry = server.registry();
    let mut gauges: Vec<(String, &str, f64)> = Vec::new();
    for kind in kinds::table::KINDS.iter().filter(|k| k.is_stored() && k.view.is_none()) {
        let count = registry.caches.of(kind).len() as f64;
        gauges.push((format!("apiserver_storage_objects{{resource=\"{}\"}}", kind.resource()), "Objects stored, by resource.", count));
    }
    let levels: Vec<_> = server.inner.fairness.figures().collect();
    for (level, executing, _) in &levels {
        let name = format!("apiserver_flowcontrol_current_executing_seats{{priority_level=\"{level}\"}}");
        gauges.push((name, "Seats in use, by priority level.", *executing as f64));
    }
    for (level, _, waiting) in &levels {
        let name = format!("apiserver_flowcontrol_current_inqueue_requests{{priority_level=\"{level}\"}}");
        gauges.push((name, "Requests that wait for a seat, by priority level.", *waiting as f64));
    }
    gauges.push(("everynode_store_revision".to_owned(), "Revision of the newest durable write.", registry.revision() as f64));
    gauges.push(("process_resident_memory_bytes".to_owned(), "Resident memory of the process.", resident_bytes()));
    let borrowed: Vec<(&str, &str, f64)> = gauges.iter().map(|(name, help, value)| (name.as_str(), *help, *value)).collect();
    answer::text(200, server.inner.metrics.render(&borrowed))
}

/// From the kernel; 0 where it does not say.
fn resident_bytes() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<f64>().ok());
    kibibytes.unwrap_or(0.0) * 1024.0
}
