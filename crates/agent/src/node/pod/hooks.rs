//! postStart and preStop: exec, httpGet, sleep.

use std::fmt;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, ExecAction, HTTPGetAction, LifecycleHandler, Pod};

use super::http_get::GetError;
use super::prober::{self, TargetError};
use crate::node::Context;

/// Why a hook failed: the sentence of the status `PostStartHookError`.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    #[error("invalid handler: it has neither exec nor httpGet nor sleep")]
    NoHandler,
    #[error("HTTP lifecycle hook ({path}) {place} failed - error: {source}")]
    Http { path: String, place: Place, source: HttpError },
    #[error("Exec lifecycle hook ([{command}]) {place} failed - error: {source}, message: \"\"")]
    Exec { command: String, place: Place, source: containers::Error },
    #[error(
        "Exec lifecycle hook ([{command}]) {place} failed - error: command '{command}' exited with {code}: {stderr}, message: {:?}",
        format!("{stdout}{stderr}")
    )]
    Exit { command: String, place: Place, code: i32, stdout: String, stderr: String },
}

#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    #[error(transparent)]
    Target(#[from] TargetError),
    #[error(transparent)]
    Get(#[from] GetError),
}

/// The container whose hook it is.
#[derive(Debug)]
pub struct Place {
    container: String,
    pod: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "for Container \"{}\" in Pod \"{}\"", self.container, self.pod)
    }
}

pub async fn run(context: &Context, pod: &Pod, container: &Container, id: &str, hook: &LifecycleHandler) -> Result<(), HookError> {
    let place = Place { container: container.name.clone(), pod: brain::podsync::full_name(pod) };
    if let Some(exec) = &hook.exec {
        return exec_hook(context, id, exec, place).await;
    }
    if let Some(get) = &hook.http_get {
        let got = http_hook(context, pod, container, get).await;
        return got.map_err(|source| HookError::Http { path: get.path.clone().unwrap_or_default(), place, source });
    }
    if let Some(sleep) = &hook.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
        return Ok(());
    }
    Err(HookError::NoHandler)
}

/// A hook's request is not bounded by a probe's timeout; the grace period bounds preStop hooks.
const HTTP_TIMEOUT: Duration = Duration::from_secs(60);

/// Whatever it answers counts as done, as the kubelet has it.
async fn http_hook(context: &Context, pod: &Pod, container: &Container, get: &HTTPGetAction) -> Result<(), HttpError> {
    prober::http_request(context, pod, container, get)?.send(HTTP_TIMEOUT).await?;
    Ok(())
}

async fn exec_hook(context: &Context, id: &str, exec: &ExecAction, place: Place) -> Result<(), HookError> {
    let arguments = exec.command.as_deref().unwrap_or_default();
    let command = arguments.join(" ");
    let output = match context.runtime.exec_sync(context.observer.bare(id), arguments, None).await {
        Ok(output) if output.exit_code == 0 => return Ok(()),
        Ok(output) => output,
        Err(source) => return Err(HookError::Exec { command, place, source }),
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    Err(HookError::Exit { command, place, code: output.exit_code, stdout, stderr })
}
