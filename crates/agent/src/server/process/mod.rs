//! exec, attach, run: a process of a container and a client, connected.
//!
//! The client's side is made by [`client`] (from a WebSocket or SPDY), the process's by the
//! runtime; [`converse`] moves bytes between them until the process has ended, or the client has
//! gone, and tells the client how it ended.

mod client;
mod converse;
mod outcome;

use std::sync::Arc;
use std::time::Duration;

use brain::podsync::uid;
use containers::StreamRequest;
use http::{Request, Response};
use hyper::body::Incoming;

use super::Shared;
use super::answer::{self, Body, Refusal};
use super::pods;
use super::route::Target;
use super::streams::query::Query;

/// How long a command of `/run/` may take.
const RUN_TIMEOUT: Duration = Duration::from_secs(120);

/// What to do in a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    Exec,
    Attach,
}

/// What to do, where.
#[derive(Debug, Clone)]
pub(crate) struct Task {
    pub act: Act,
    /// The runtime's id of the container.
    pub container_id: String,
    pub request: StreamRequest,
}

pub(crate) fn exec(shared: &Arc<Shared>, target: &Target, request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
    connect(shared, target, Act::Exec, request)
}

pub(crate) fn attach(shared: &Arc<Shared>, target: &Target, request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
    connect(shared, target, Act::Attach, request)
}

fn connect(shared: &Arc<Shared>, target: &Target, act: Act, request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
    let wanted = stream_request(&Query::parse(request.uri().query()))?;
    let task = Task { act, container_id: container_id(shared, target)?, request: wanted };
    let (response, client) = client::accept(request, &task.request)?;
    let (runtime, mut shutdown) = (shared.agent.context.runtime.clone(), shared.shutdown.clone());
    tokio::spawn(async move {
        // Both arms may be dropped at any time: dropping a conversation is what ends it.
        tokio::select! {
            () = async {
                if let Some(client) = client.await {
                    converse::run(runtime.as_ref(), client, task).await;
                }
            } => {}
            _ = shutdown.wait_for(|&stopping| stopping) => {}
        }
    });
    Ok(response)
}

/// Which streams, under the kubelet's names for them or the API's.
fn stream_request(query: &Query) -> Result<StreamRequest, Refusal> {
    let either = |kubelet: &str, api: &str| query.flag(kubelet) || query.flag(api);
    let tty = query.flag("tty");
    let request = StreamRequest {
        command: query.all("command").map(str::to_owned).collect(),
        stdin: either("input", "stdin"),
        stdout: either("output", "stdout"),
        // A terminal has one stream for both.
        stderr: either("error", "stderr") && !tty,
        tty,
    };
    if !(request.stdin || request.stdout || request.stderr) {
        return Err(Refusal::bad_request("you must specify at least 1 of stdin, stdout, stderr"));
    }
    Ok(request)
}

/// The newest container of that name.
fn container_id(shared: &Shared, target: &Target) -> Result<String, Refusal> {
    let pod = pods::find(shared, target, "pod does not exist")?;
    let observer = &shared.agent.context.observer;
    let observed = observer.observed(uid(&pod));
    let record = observed.containers.iter().find(|record| record.name == target.container);
    let record = record.ok_or_else(|| Refusal::new(500, format!("container not found ({:?})", target.container)))?;
    Ok(observer.bare(&record.id).to_owned())
}

/// POST /run/: a command to its end, and what it wrote.
pub(crate) async fn run(shared: &Arc<Shared>, target: &Target, query: Option<&str>) -> Result<Response<Body>, Refusal> {
    let query = Query::parse(query);
    let command: Vec<String> = query.get("cmd").unwrap_or_default().split(' ').map(str::to_owned).collect();
    let id = container_id(shared, target)?;
    let output = shared.agent.context.runtime.exec_sync(&id, &command, Some(RUN_TIMEOUT)).await;
    let output = output.map_err(|error| Refusal::new(500, error.to_string()))?;
    if output.exit_code != 0 {
        return Err(Refusal::new(500, format!("command terminated with exit code {}", output.exit_code)));
    }
    Ok(answer::text([output.stdout, output.stderr].concat()))
}
