//! Sandboxes, and the cgroups of their pods: runtimes put containers below a pod's group, but this
//! module limits and removes it.

use futures::StreamExt;
use futures::stream;

use super::messages as cri;
use super::{Client, blocking, calls, configs, errors, statuses};
use crate::cgroup::Cgroup;
use crate::words::failed;
use containers::{Error, PodRange, Resources, Result, SandboxConfig, SandboxStatus, Version};

/// Finds the pod's cgroup again when only the sandbox's id is known. Not among the annotations that
/// the port shows.
pub const CGROUP_ANNOTATION: &str = "io.everynode.sandbox.cgroup";

/// Statuses asked for at once; the runtime answers each from its memory.
pub const QUESTIONS_MAX: usize = 16;

impl Client {
    pub(super) async fn ask_version(&self) -> Result<Version> {
        let question = cri::VersionRequest { version: "v1".to_owned() };
        let answer = self.shared.channel.call(calls::VERSION, &question).await.map_err(errors::general)?;
        Ok(Version { name: answer.runtime_name, version: statuses::version(&answer.runtime_version) })
    }

    pub(super) async fn ask_network_problem(&self) -> Result<Option<String>> {
        let answer = self.shared.channel.call(calls::STATUS, &cri::StatusRequest { verbose: false }).await.map_err(errors::general)?;
        Ok(statuses::network_problem(&answer.status.unwrap_or_default()))
    }

    /// containerd makes its network configuration from a template with this range, where it has
    /// one.
    pub(super) async fn tell_pod_range(&self, range: &PodRange) -> Result<()> {
        let ranges: Vec<String> = range.own.iter().map(ToString::to_string).collect();
        let network = cri::NetworkConfig { pod_cidr: ranges.join(",") };
        let config = cri::RuntimeConfig { network_config: Some(network) };
        let request = cri::UpdateRuntimeConfigRequest { runtime_config: Some(config) };
        self.shared.channel.call(calls::UPDATE_RUNTIME_CONFIG, &request).await.map_err(errors::general).map(drop)
    }

    pub(super) async fn make_sandbox(&self, config: &SandboxConfig) -> Result<String> {
        let prepared = config.clone();
        blocking(move || prepare(&prepared)).await?;
        let mut asked = configs::sandbox(config);
        asked.annotations.insert(CGROUP_ANNOTATION.to_owned(), config.cgroup_parent.clone());
        let question = cri::RunPodSandboxRequest { config: Some(asked), runtime_handler: config.handler.clone() };
        let made = self.shared.channel.call(calls::RUN_SANDBOX, &question).await;
        if made.is_err() {
            self.remove_cgroup(config.cgroup_parent.clone()).await;
        }
        self.changed();
        Ok(made.map_err(errors::general)?.pod_sandbox_id)
    }

    pub(super) async fn end_sandbox(&self, id: &str) -> Result<()> {
        let question = cri::PodSandboxRequest { pod_sandbox_id: id.to_owned(), verbose: false };
        let ended = self.shared.channel.call(calls::STOP_SANDBOX, &question).await;
        self.changed();
        errors::gone_is_done(ended.map(drop).map_err(|e| errors::sandbox(id).error(e)))
    }

    pub(super) async fn unmake_sandbox(&self, id: &str) -> Result<()> {
        let cgroup = match self.ask_sandbox(id, false).await {
            Ok(answer) => answer.status.and_then(|s| s.annotations.get(CGROUP_ANNOTATION).cloned()),
            Err(Error::NotFound { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        self.end_sandbox(id).await?;
        let question = cri::PodSandboxRequest { pod_sandbox_id: id.to_owned(), verbose: false };
        let removed = self.shared.channel.call(calls::REMOVE_SANDBOX, &question).await;
        errors::gone_is_done(removed.map(drop).map_err(|e| errors::sandbox(id).error(e)))?;
        self.shared.statuses.forget_sandbox(id);
        self.remove_cgroup(cgroup.unwrap_or_default()).await;
        self.changed();
        Ok(())
    }

    /// The pod's cgroup is limited here, as when it is made.
    pub(super) async fn limit_sandbox(&self, id: &str, resources: &Resources) -> Result<()> {
        let status = self.ask_sandbox(id, false).await?.status;
        let Some(path) = status.and_then(|s| s.annotations.get(CGROUP_ANNOTATION).cloned()).filter(|path| !path.is_empty()) else {
            return Ok(());
        };
        let wanted = resources.clone();
        blocking(move || Cgroup::new(&path).limit(&wanted).map_err(failed(format!("change limits of cgroup {path}")))).await
    }

    pub(super) async fn list_sandboxes(&self) -> Result<Vec<SandboxStatus>> {
        let listed = self.listed_sandboxes().await?;
        let asked = listed.into_iter().map(|item| async move { self.ask_sandbox(&item.id, false).await });
        let answers: Vec<_> = stream::iter(asked).buffered(QUESTIONS_MAX).collect().await;
        let mut all = Vec::new();
        for answer in answers {
            match answer {
                Ok(answer) => all.extend(answer.status.map(statuses::sandbox).map(without_marks)),
                // Removed after it was listed.
                Err(Error::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }

    /// Unless another sandbox of the pod is there: a container that starts in it may have no
    /// process yet to hold its group. A group that is left is empty and is found again by the pod's
    /// next sandbox; no reason to keep a pod from going.
    async fn remove_cgroup(&self, path: String) {
        let is_used = match self.listed_sandboxes().await {
            Ok(listed) => listed.iter().any(|s| s.annotations.get(CGROUP_ANNOTATION) == Some(&path)),
            Err(_) => true,
        };
        if path.is_empty() || is_used {
            return;
        }
        let removed = blocking(move || Cgroup::new(&path).remove().map_err(failed(format!("remove cgroup {path}")))).await;
        if let Err(error) = removed {
            tracing::warn!(%error, "a pod's cgroup is left");
        }
    }

    pub(super) async fn listed_sandboxes(&self) -> Result<Vec<cri::PodSandbox>> {
        let answer = self.shared.channel.call(calls::LIST_SANDBOXES, &cri::Empty {}).await;
        Ok(answer.map_err(errors::general)?.items)
    }

    /// `verbose` adds what the runtime tells besides CRI.
    pub(super) async fn ask_sandbox(&self, id: &str, verbose: bool) -> Result<cri::PodSandboxStatusResponse> {
        let question = cri::PodSandboxRequest { pod_sandbox_id: id.to_owned(), verbose };
        self.shared.channel.call(calls::SANDBOX_STATUS, &question).await.map_err(|e| errors::sandbox(id).error(e))
    }
}

fn without_marks(mut status: SandboxStatus) -> SandboxStatus {
    status.annotations.remove(CGROUP_ANNOTATION);
    status
}

fn prepare(config: &SandboxConfig) -> Result<()> {
    std::fs::create_dir_all(&config.log_dir).map_err(failed(format!("make {}", config.log_dir.display())))?;
    if config.cgroup_parent.is_empty() {
        return Ok(());
    }
    let cgroup = Cgroup::new(&config.cgroup_parent);
    let made = cgroup.create().and_then(|()| cgroup.limit(&config.resources));
    made.map_err(failed(format!("make cgroup {}", config.cgroup_parent)))
}
