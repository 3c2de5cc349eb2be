//! What others ask kube-proxy: whether it is well, figures, and for load balancers whether a
//! Service has endpoints on this node.
//!
//! After `pkg/proxy/healthcheck`: paths, codes, bodies and headers are those of Kubernetes.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use brain::model::Key;
use brain::proxy::HealthCheck;
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;
use jiff::Timestamp;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use wire::plain;

use super::{ProxyError, Settings};

/// A change that was not written for so long means that something is wrong.
const WRITE_DEADLINE: Duration = Duration::from_secs(60);

const BIND_PAUSE: Duration = Duration::from_secs(5);

/// Shared with the servers; clones are the same.
#[derive(Debug, Clone)]
pub struct Health {
    state: Arc<Mutex<State>>,
    checks: Arc<Mutex<BTreeMap<Key, Check>>>,
    shutdown: watch::Receiver<bool>,
}

#[derive(Debug)]
struct State {
    /// The oldest change that is not written yet.
    waiting_since: Option<Instant>,
    last_written: Option<Timestamp>,
    writes: u64,
    write_seconds: f64,
}

/// The server for one Service's health check.
#[derive(Debug)]
struct Check {
    port: u16,
    local_endpoints: watch::Sender<usize>,
    server: JoinHandle<()>,
}

impl Drop for Check {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Health {
    pub async fn start(settings: &Settings, shutdown: &watch::Receiver<bool>) -> Result<Health, ProxyError> {
        let state = State { waiting_since: None, last_written: None, writes: 0, write_seconds: 0.0 };
        let health = Health { state: Arc::new(Mutex::new(state)), checks: Arc::default(), shutdown: shutdown.clone() };
        if let Some(address) = settings.healthz {
            health.serve(address, "health checks", |health, path| health.answer_health(path)).await?;
        }
        if let Some(address) = settings.metrics {
            health.serve(address, "metrics", |health, path| health.answer_metrics(path)).await?;
        }
        Ok(health)
    }

    async fn serve(
        &self,
        address: SocketAddr,
        what: &'static str,
        answer: fn(&Health, &str) -> Response<Full<Bytes>>,
    ) -> Result<(), ProxyError> {
        let listener = TcpListener::bind(address).await.map_err(|cause| ProxyError::Listen { address, what, cause })?;
        let health = self.clone();
        tokio::spawn(plain::serve(listener, self.shutdown.clone(), move |path| answer(&health, path)));
        Ok(())
    }

    pub fn changed(&self) {
        lock(&self.state).waiting_since.get_or_insert_with(Instant::now);
    }

    pub fn written(&self, began: Instant) {
        let mut state = lock(&self.state);
        state.waiting_since = None;
        state.last_written = Some(Timestamp::now());
        state.writes += 1;
        state.write_seconds += began.elapsed().as_secs_f64();
    }

    fn is_well(&self) -> bool {
        let state = lock(&self.state);
        state.last_written.is_some() && state.waiting_since.is_none_or(|since| since.elapsed() < WRITE_DEADLINE)
    }

    fn answer_health(&self, path: &str) -> Response<Full<Bytes>> {
        if !matches!(path, "/healthz" | "/livez") {
            return plain::text(StatusCode::NOT_FOUND, "404 page not found\n");
        }
        let now = Timestamp::now();
        let last = lock(&self.state).last_written.unwrap_or(Timestamp::UNIX_EPOCH);
        let is_well = self.is_well();
        // Times that move while all is well would say nothing.
        let last = if is_well { now } else { last };
        let body = json!({"lastUpdated": last.to_string(), "currentTime": now.to_string(), "nodeEligible": true});
        json_answer(if is_well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, &body)
    }

    fn answer_metrics(&self, path: &str) -> Response<Full<Bytes>> {
        match path {
            "/healthz" => plain::text(StatusCode::OK, "ok"),
            "/proxyMode" => plain::text(StatusCode::OK, "nftables"),
            "/metrics" => {
                let state = lock(&self.state);
                let last = state.last_written.map_or(0, |time| time.as_second());
                plain::text(
                    StatusCode::OK,
                    format!(
                        "# HELP kubeproxy_sync_proxy_rules_duration_seconds Time that writing rules took.\n\
                         # TYPE kubeproxy_sync_proxy_rules_duration_seconds summary\n\
                         kubeproxy_sync_proxy_rules_duration_seconds_sum {}\n\
                         kubeproxy_sync_proxy_rules_duration_seconds_count {}\n\
                         # HELP kubeproxy_sync_proxy_rules_last_timestamp_seconds When rules were written last.\n\
                         # TYPE kubeproxy_sync_proxy_rules_last_timestamp_seconds gauge\n\
                         kubeproxy_sync_proxy_rules_last_timestamp_seconds {last}\n",
                        state.write_seconds, state.writes
                    ),
                )
            }
            _ => plain::text(StatusCode::NOT_FOUND, "404 page not found\n"),
        }
    }

    /// Starts, changes or ends what answers for a Service.
    pub fn check(&self, service: &Key, wanted: Option<HealthCheck>) {
        let mut checks = lock(&self.checks);
        let is_same_port = |check: &Check| wanted.is_some_and(|wanted| wanted.port == check.port);
        if checks.get(service).is_some_and(|check| !is_same_port(check)) {
            checks.remove(service);
        }
        let Some(wanted) = wanted else { return };
        let check = checks.entry(service.clone()).or_insert_with(|| {
            let (local_endpoints, seen) = watch::channel(wanted.local_endpoints);
            let server = tokio::spawn(self.clone().serve_check(service.clone(), wanted.port, seen));
            Check { port: wanted.port, local_endpoints, server }
        });
        check.local_endpoints.send_replace(wanted.local_endpoints);
    }

    /// Ends what answers for Services; what is still wanted is asked for again.
    pub fn forget_checks(&self) {
        lock(&self.checks).clear();
    }

    async fn serve_check(self, service: Key, port: u16, local_endpoints: watch::Receiver<usize>) {
        let listener = loop {
            match TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await {
                Ok(listener) => break listener,
                // Load balancers send nothing to a node that does not answer. Another Service may
                // have had the port a moment ago.
                Err(error) => {
                    let service = format!("{}/{}", service.namespace, service.name);
                    tracing::warn!(%error, service, port, "cannot listen for the health checks of a Service; trying again");
                    tokio::time::sleep(BIND_PAUSE).await;
                }
            }
        };
        let shutdown = self.shutdown.clone();
        let answer = move |_: &str| check_answer(&service, *local_endpoints.borrow(), self.is_well());
        plain::serve(listener, shutdown, answer).await;
    }
}

/// What load balancers get for one Service.
fn check_answer(service: &Key, local_endpoints: usize, is_well: bool) -> Response<Full<Bytes>> {
    let is_eligible = local_endpoints > 0 && is_well;
    let body = json!({
        "service": {"namespace": service.namespace, "name": service.name},
        "localEndpoints": local_endpoints,
        "serviceProxyHealthy": is_well,
    });
    let mut answer = json_answer(if is_eligible { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, &body);
    answer.headers_mut().insert("X-Load-Balancing-Endpoint-Weight", HeaderValue::from(local_endpoints));
    answer
}

fn json_answer(status: StatusCode, body: &serde_json::Value) -> Response<Full<Bytes>> {
    let mut answer = plain::text(status, body.to_string());
    answer.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer.headers_mut().insert("X-Content-Type-Options", HeaderValue::from_static("nosniff"));
    answer
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
