//! postStart and preStop: exec, httpGet, sleep.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod};

use super::prober;
use crate::node::Context;

/// The error is the sentence of the status `PostStartHookError`.
pub async fn run(context: &Context, pod: &Pod, container: &Container, id: &str, hook: &LifecycleHandler) -> Result<(), String> {
    if let Some(exec) = &hook.exec {
        return exec_hook(context, pod, container, id, exec.command.as_deref().unwrap_or_default()).await;
    }
    if let Some(get) = &hook.http_get {
        let place = || format!("for Container \"{}\" in Pod \"{}\"", container.name, brain::podsync::full_name(pod));
        let request = prober::http_request(context, pod, container, get).map_err(|error| {
            format!("HTTP lifecycle hook ({}) {} failed - error: {error}", get.path.as_deref().unwrap_or_default(), place())
        })?;
        // Whatever it answers counts as done, as the kubelet has it.
        return request.send(HTTP_TIMEOUT).await.map(drop).map_err(|error| {
            format!("HTTP lifecycle hook ({}) {} failed - error: {error}", get.path.as_deref().unwrap_or_default(), place())
        });
    }
    if let Some(sleep) = &hook.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
        return Ok(());
    }
    Err("invalid handler: it has neither exec nor httpGet nor sleep".to_owned())
}

/// A hook's request is not bounded by a probe's timeout; the grace period bounds preStop hooks.
const HTTP_TIMEOUT: Duration = Duration::from_secs(60);

async fn exec_hook(context: &Context, pod: &Pod, container: &Container, id: &str, command: &[String]) -> Result<(), String> {
    let shown = command.join(" ");
    let place = format!("for Container \"{}\" in Pod \"{}\"", container.name, brain::podsync::full_name(pod));
    let output = match context.runtime.exec_sync(context.observer.bare(id), command, None).await {
        Ok(output) if output.exit_code == 0 => return Ok(()),
        Ok(output) => output,
        Err(error) => return Err(format!("Exec lifecycle hook ([{shown}]) {place} failed - error: {error}, message: \"\"")),
    };
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Err(format!(
        "Exec lifecycle hook ([{shown}]) {place} failed - error: command '{shown}' exited with {}: {stderr}, message: {:?}",
        output.exit_code,
        format!("{stdout}{stderr}")
    ))
}
