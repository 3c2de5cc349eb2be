//! Running a probe once: exec, httpGet, tcpSocket, grpc. The texts are those of the kubelet, which
//! speaks Go.

use std::time::Duration;

use brain::podsync::is_host_network;
use brain::podsync::probe::Outcome;
use containers::Error;
use k8s_openapi::api::core::v1::{Container, ExecAction, GRPCAction, HTTPGetAction, Pod, Probe, TCPSocketAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use wire::grpc;

use super::http_get::{BODY_MAX, DialError, HttpGet, address_text, dial};
use crate::node::Context;

/// Why it is not known where a probe or a hook goes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    #[error("the pod has no address")]
    NoAddress,
    #[error("couldn't find port: {0}")]
    NoPort(String),
}

/// Why a service does not count as healthy.
#[derive(Debug, thiserror::Error)]
enum HealthError {
    #[error("timeout: failed to connect service \"{address}\": {source}")]
    Dial { address: String, source: DialError },
    #[error("timeout: failed to connect service \"{address}\": {source}")]
    Call { address: String, source: grpc::CallError },
    #[error("timeout: failed to connect service \"{address}\" within {}", go_seconds(*.timeout))]
    Late { address: String, timeout: Duration },
    #[error("this server does not implement the grpc health protocol (grpc.health.v1.Health)")]
    Unimplemented,
    #[error("health rpc probe failed: rpc error: code = {}", .0.number())]
    Refused(grpc::Code),
    #[error("service unhealthy (responded with \"{}\")", status_name(*.0))]
    Unhealthy(i32),
}

pub async fn run(context: &Context, pod: &Pod, container: &Container, id: &str, probe: &Probe, timeout: Duration) -> Outcome {
    if let Some(exec) = &probe.exec {
        return run_exec(context, container, id, exec, timeout).await;
    }
    if let Some(get) = &probe.http_get {
        return match http_request(context, pod, container, get) {
            Ok(request) => run_http(request, timeout).await,
            Err(error) => Outcome::Error(error.to_string()),
        };
    }
    if let Some(tcp) = &probe.tcp_socket {
        return run_tcp(context, pod, container, tcp, timeout).await;
    }
    match &probe.grpc {
        Some(grpc) => run_grpc(context, pod, grpc, timeout).await,
        None => Outcome::Error("missing probe handler".to_owned()),
    }
}

async fn run_exec(context: &Context, container: &Container, id: &str, exec: &ExecAction, timeout: Duration) -> Outcome {
    let command = brain::podsync::environment::expand_static(exec.command.as_deref().unwrap_or_default(), container);
    match context.runtime.exec_sync(context.observer.bare(id), &command, Some(timeout)).await {
        Ok(output) if output.exit_code == 0 => Outcome::Success,
        Ok(mut output) => {
            output.stdout.extend(output.stderr);
            output.stdout.truncate(BODY_MAX);
            Outcome::Failure(String::from_utf8_lossy(&output.stdout).into_owned())
        }
        Err(Error::DeadlineExceeded(_)) => {
            Outcome::Failure(format!("command timed out: \"{}\" timed out after {}", command.join(" "), go_seconds(timeout)))
        }
        Err(error) => Outcome::Error(format!("rpc error: {error}")),
    }
}

fn go_seconds(duration: Duration) -> String {
    format!("{}s", duration.as_secs())
}

/// Where a pod is reached when a probe names no host: its address, or the node's.
fn pod_host(context: &Context, pod: &Pod) -> Result<String, TargetError> {
    let observed = context.observer.observed(brain::podsync::uid(pod));
    let address = match is_host_network(pod) {
        true => context.node_addresses.first(),
        false => observed.sandbox().and_then(|sandbox| sandbox.addresses.first()),
    };
    address.cloned().ok_or(TargetError::NoAddress)
}

fn port_number(port: &IntOrString, container: &Container) -> Result<u16, TargetError> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|port| port.name.as_ref() == Some(name));
            named.map(|port| port.container_port).or_else(|| name.parse().ok())
        }
    };
    number.and_then(|number| u16::try_from(number).ok()).filter(|&number| number > 0).ok_or_else(|| TargetError::NoPort(text(port)))
}

fn text(port: &IntOrString) -> String {
    match port {
        IntOrString::Int(number) => number.to_string(),
        IntOrString::String(name) => name.clone(),
    }
}

pub fn http_request(context: &Context, pod: &Pod, container: &Container, get: &HTTPGetAction) -> Result<HttpGet, TargetError> {
    let host = match get.host.as_deref().filter(|host| !host.is_empty()) {
        Some(host) => host.to_owned(),
        None => pod_host(context, pod)?,
    };
    let headers = get.http_headers.iter().flatten().map(|header| (header.name.clone(), header.value.clone())).collect();
    let path = get.path.clone().unwrap_or_default();
    Ok(HttpGet {
        tls: get.scheme.as_deref() == Some("HTTPS"),
        port: port_number(&get.port, container)?,
        path: if path.starts_with('/') { path } else { format!("/{path}") },
        host,
        headers,
    })
}

async fn run_http(request: HttpGet, timeout: Duration) -> Outcome {
    match request.send(timeout).await {
        Ok((status, _)) if (200..400).contains(&status) => Outcome::Success,
        Ok((status, _)) => Outcome::Failure(format!("HTTP probe failed with statuscode: {status}")),
        Err(error) => Outcome::Failure(error.to_string()),
    }
}

async fn run_tcp(context: &Context, pod: &Pod, container: &Container, tcp: &TCPSocketAction, timeout: Duration) -> Outcome {
    let (host, port) = match tcp_target(context, pod, container, tcp) {
        Ok(target) => target,
        Err(error) => return Outcome::Error(error.to_string()),
    };
    let dialled = tokio::time::timeout(timeout, dial(&host, port)).await;
    match dialled.unwrap_or_else(|_| Err(DialError::late(&host, port))) {
        Ok(_) => Outcome::Success,
        Err(error) => Outcome::Failure(error.to_string()),
    }
}

fn tcp_target(context: &Context, pod: &Pod, container: &Container, tcp: &TCPSocketAction) -> Result<(String, u16), TargetError> {
    let host = match tcp.host.clone().filter(|host| !host.is_empty()) {
        Some(host) => host,
        None => pod_host(context, pod)?,
    };
    Ok((host, port_number(&tcp.port, container)?))
}

/// `grpc.health.v1.Health/Check`.
async fn run_grpc(context: &Context, pod: &Pod, grpc: &GRPCAction, timeout: Duration) -> Outcome {
    let (host, port) = match grpc_target(context, pod, grpc) {
        Ok(target) => target,
        Err(error) => return Outcome::Error(error.to_string()),
    };
    let service = grpc.service.clone().unwrap_or_default();
    let checked = tokio::time::timeout(timeout, check_health(&host, port, &service)).await;
    match checked.unwrap_or_else(|_| Err(HealthError::Late { address: address_text(&host, port), timeout })) {
        Ok(()) => Outcome::Success,
        Err(error) => Outcome::Failure(error.to_string()),
    }
}

fn grpc_target(context: &Context, pod: &Pod, grpc: &GRPCAction) -> Result<(String, u16), TargetError> {
    let port = u16::try_from(grpc.port).map_err(|_| TargetError::NoPort(grpc.port.to_string()));
    Ok((pod_host(context, pod)?, port?))
}

const SERVING: i32 = 1;

async fn check_health(host: &str, port: u16, service: &str) -> Result<(), HealthError> {
    let address = address_text(host, port);
    let broken = |source| HealthError::Call { address: address.clone(), source };
    let stream = dial(host, port).await.map_err(|source| HealthError::Dial { address: address.clone(), source })?;
    let mut sender = grpc::connect(stream).await.map_err(broken)?;
    let method = grpc::Method { authority: &address, name: "grpc.health.v1.Health/Check", answer_bytes_max: BODY_MAX };
    let question = grpc::framed(&HealthCheckRequest { service: service.to_owned() });
    match grpc::call::<HealthCheckResponse>(&mut sender, method, question).await {
        Ok(answer) if answer.status == SERVING => Ok(()),
        Ok(answer) => Err(HealthError::Unhealthy(answer.status)),
        Err(grpc::CallError::Status { code: grpc::Code::Unimplemented, .. }) => Err(HealthError::Unimplemented),
        Err(grpc::CallError::Status { code, .. }) => Err(HealthError::Refused(code)),
        Err(error) => Err(broken(error)),
    }
}

/// `grpc.health.v1.HealthCheckRequest`.
#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// `grpc.health.v1.HealthCheckResponse`.
#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

fn status_name(status: i32) -> &'static str {
    match status {
        SERVING => "SERVING",
        2 => "NOT_SERVING",
        3 => "SERVICE_UNKNOWN",
        _ => "UNKNOWN",
    }
}
