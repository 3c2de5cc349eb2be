//! Containers: made, started, ended, looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::{StreamExt, stream};
use jiff::Timestamp;

use super::messages as cri;
use super::sandboxes::QUESTIONS_MAX;
use super::{Client, blocking, calls, configs, errors, statuses};
use crate::words::failed;
use containers::{ContainerConfig, ContainerStatus, Error, ExecOutput, Resources, Result, SandboxConfig};

/// The reason of an exit may become known after the exit: another event reports that the kernel
/// killed the container because memory ran out.
const SETTLE_SECONDS: i64 = 5;

/// Statuses that will not change any more as long as the list says the same state, by container.
#[derive(Default)]
pub struct Statuses {
    known: Mutex<BTreeMap<String, Known>>,
}

struct Known {
    listed_state: i32,
    status: ContainerStatus,
}

impl Statuses {
    fn get(&self, listed: &cri::Container) -> Option<ContainerStatus> {
        let known = self.known();
        known.get(&listed.id).filter(|k| k.listed_state == listed.state).map(|k| k.status.clone())
    }

    fn keep(&self, listed: &cri::Container, status: &ContainerStatus) {
        let settled = |at: Timestamp| Timestamp::now().as_second() - at.as_second() > SETTLE_SECONDS;
        // While it runs, its limits change only by calls made here.
        let lasts = match listed.state {
            cri::container_state::RUNNING => status.started_at.is_some() && status.finished_at.is_none(),
            cri::container_state::EXITED => status.finished_at.is_some_and(settled),
            _ => false,
        };
        if lasts {
            self.known().insert(listed.id.clone(), Known { listed_state: listed.state, status: status.clone() });
        }
    }

    fn forget(&self, id: &str) {
        self.known().remove(id);
    }

    pub fn forget_sandbox(&self, id: &str) {
        self.known().retain(|_, k| k.status.sandbox_id != id);
    }

    fn retain(&self, listed: &[cri::Container]) {
        let ids: BTreeSet<&str> = listed.iter().map(|c| c.id.as_str()).collect();
        self.known().retain(|id, _| ids.contains(id.as_str()));
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Client {
    pub(super) async fn create(&self, sandbox_id: &str, sandbox: &SandboxConfig, config: &ContainerConfig) -> Result<String> {
        if config.mounts.iter().any(|mount| mount.image.is_some()) {
            return Err(errors::Failure::ImageVolumes.into());
        }
        let log = sandbox.log_dir.join(&config.log_path);
        blocking(move || make_parent(&log)).await?;
        let mut asked = configs::container(config, sandbox);
        self.name_user(&mut asked, &config.image_id).await?;
        let question = cri::CreateContainerRequest {
            pod_sandbox_id: sandbox_id.to_owned(),
            config: Some(asked),
            sandbox_config: Some(configs::sandbox(sandbox)),
        };
        let made = self.shared.channel.call(calls::CREATE_CONTAINER, &question).await;
        self.changed();
        Ok(made.map_err(|e| errors::sandbox(sandbox_id).error(e))?.container_id)
    }

    /// CRI refuses a group without a user: then the user is the image's, by name or number.
    async fn name_user(&self, config: &mut cri::ContainerConfig, image_id: &str) -> Result<()> {
        let Some(security) = config.linux.as_mut().and_then(|l| l.security_context.as_mut()) else { return Ok(()) };
        if security.run_as_group.is_none() || security.run_as_user.is_some() || !security.run_as_username.is_empty() {
            return Ok(());
        }
        let image = self.find_image(image_id).await?.unwrap_or_default();
        match image.username.as_str() {
            "" => security.run_as_user = Some(cri::Int64Value { value: image.uid.unwrap_or(0) }),
            name => security.run_as_username = name.to_owned(),
        }
        Ok(())
    }

    pub(super) async fn start(&self, id: &str) -> Result<()> {
        let question = cri::ContainerRequest { container_id: id.to_owned() };
        let started = self.shared.channel.call(calls::START_CONTAINER, &question).await;
        self.changed();
        started.map(drop).map_err(|e| errors::container(id).error(e))
    }

    pub(super) async fn stop(&self, id: &str, grace: Duration) -> Result<()> {
        let question = cri::StopContainerRequest { container_id: id.to_owned(), timeout: whole_seconds(grace) };
        let method = calls::longer(calls::STOP_CONTAINER, grace);
        let stopped = self.shared.channel.call(method, &question).await;
        self.changed();
        errors::gone_is_done(stopped.map(drop).map_err(|e| errors::container(id).error(e)))
    }

    pub(super) async fn remove(&self, id: &str) -> Result<()> {
        let question = cri::ContainerRequest { container_id: id.to_owned() };
        let removed = self.shared.channel.call(calls::REMOVE_CONTAINER, &question).await;
        self.shared.statuses.forget(id);
        self.changed();
        errors::gone_is_done(removed.map(drop).map_err(|e| errors::container(id).error(e)))
    }

    pub(super) async fn list_containers(&self) -> Result<Vec<ContainerStatus>> {
        let listed = self.listed_containers(None).await?;
        self.shared.statuses.retain(&listed);
        let asked = listed.into_iter().map(|listed| async move { self.status_of(&listed).await });
        let statuses: Vec<_> = stream::iter(asked).buffered(QUESTIONS_MAX).collect().await;
        // One that was removed after it was listed is not there.
        let there = statuses.into_iter().filter(|s| !matches!(s, Err(Error::NotFound { .. })));
        there.collect()
    }

    pub(super) async fn find_container(&self, id: &str) -> Result<ContainerStatus> {
        let listed = self.listed_containers(Some(id)).await?;
        let listed = listed.into_iter().find(|c| c.id == id);
        self.status_of(&listed.ok_or_else(|| Error::NotFound { kind: "container", id: id.to_owned() })?).await
    }

    pub(super) async fn listed_containers(&self, id: Option<&str>) -> Result<Vec<cri::Container>> {
        let question = cri::ListContainersRequest { filter: id.map(|id| cri::ContainerFilter { id: id.to_owned() }) };
        let answer = self.shared.channel.call(calls::LIST_CONTAINERS, &question).await;
        Ok(answer.map_err(errors::general)?.containers)
    }

    async fn status_of(&self, listed: &cri::Container) -> Result<ContainerStatus> {
        if let Some(known) = self.shared.statuses.get(listed) {
            return Ok(known);
        }
        let question = cri::ContainerRequest { container_id: listed.id.clone() };
        let answer = self.shared.channel.call(calls::CONTAINER_STATUS, &question).await;
        let answer = answer.map_err(|e| errors::container(&listed.id).error(e))?;
        let gone = || Error::NotFound { kind: "container", id: listed.id.clone() };
        let status = statuses::container(listed, answer.status.ok_or_else(gone)?);
        self.shared.statuses.keep(listed, &status);
        Ok(status)
    }

    pub(super) async fn reopen(&self, id: &str) -> Result<()> {
        let question = cri::ContainerRequest { container_id: id.to_owned() };
        let reopened = self.shared.channel.call(calls::REOPEN_LOG, &question).await;
        reopened.map(drop).map_err(|e| errors::container(id).error(e))
    }

    pub(super) async fn update(&self, id: &str, resources: &Resources) -> Result<()> {
        let linux = Some(configs::resources(resources));
        let question = cri::UpdateContainerResourcesRequest { container_id: id.to_owned(), linux };
        let updated = self.shared.channel.call(calls::UPDATE_RESOURCES, &question).await;
        self.shared.statuses.forget(id);
        self.changed();
        updated.map(drop).map_err(|e| errors::container(id).error(e))
    }

    pub(super) async fn exec_to_end(&self, id: &str, command: &[String], limit: Option<Duration>) -> Result<ExecOutput> {
        let limit = limit.filter(|l| !l.is_zero());
        let question = cri::ExecSyncRequest { container_id: id.to_owned(), cmd: command.to_vec(), timeout: limit.map_or(0, whole_seconds) };
        // Without a limit the command may run as long as the container.
        let method = calls::longer(calls::EXEC_SYNC, limit.unwrap_or(Duration::MAX));
        let answer = self.shared.channel.call(method, &question).await;
        let answer = answer.map_err(|e| too_late(errors::container(id).error(e)))?;
        Ok(ExecOutput { stdout: answer.stdout, stderr: answer.stderr, exit_code: answer.exit_code })
    }
}

/// Not every runtime has the code for it.
fn too_late(error: Error) -> Error {
    match error {
        Error::Failed(cause) if cause.to_string().contains("context deadline exceeded") => Error::DeadlineExceeded(cause),
        other => other,
    }
}

/// CRI counts in seconds; 0 has another meaning than "soon".
fn whole_seconds(duration: Duration) -> i64 {
    let seconds = duration.as_secs() + u64::from(duration.subsec_nanos() > 0);
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

fn make_parent(log: &std::path::Path) -> Result<()> {
    let Some(parent) = log.parent() else { return Ok(()) };
    std::fs::create_dir_all(parent).map_err(failed(format!("make {}", parent.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_seconds_are_whole_ones() {
        assert_eq!([0, 1, 1000, 1001].map(|ms| whole_seconds(Duration::from_millis(ms))), [0, 1, 1, 2]);
    }
}
