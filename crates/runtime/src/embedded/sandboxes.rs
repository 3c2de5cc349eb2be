//! The life of sandboxes, as the port has it: made with their network, ended, removed.

use std::time::Duration;

use jiff::Timestamp;

use super::failure::Failure;
use super::paths::Layout;
use super::record::{self, SandboxRecord};
use super::table::Phase;
use super::{Runtime, blocking, lifecycle, namespace, sandbox};
use crate::cgroup::Cgroup;
use crate::port::{Reader, Writer};
use crate::words::failed;
use containers::{Resources, Result, SandboxConfig};

impl Runtime {
    pub(super) async fn make_sandbox(&self, config: SandboxConfig) -> Result<String> {
        // There is one way here, known elsewhere by this name.
        if !matches!(config.handler.as_str(), "" | "runc") {
            return Err(Failure::Handler(config.handler).into());
        }
        let id = lifecycle::new_id().map_err(failed("make an id"))?;
        let record = SandboxRecord {
            id: id.clone(),
            created_at: Timestamp::now(),
            addresses: Vec::new(),
            hostname: if config.host.network { node_name() } else { config.hostname.clone() },
            cgroup: format!("{}/{}", self.shared.cgroup_root.trim_end_matches('/'), config.cgroup_parent.trim_start_matches('/')),
            pause: None,
            stopped: false,
            complete: false,
            config,
        };
        match self.make_parts(record.clone()).await {
            Ok(complete) => {
                self.shared.table.rows().sandboxes.insert(id.clone(), complete);
                self.shared.table.changed();
                Ok(id)
            }
            Err(e) => {
                if let Err(left) = self.unmake_parts(&record).await {
                    tracing::warn!(sandbox = id, "clean up after a sandbox that could not be made: {left}");
                }
                Err(e)
            }
        }
    }

    async fn make_parts(&self, mut record: SandboxRecord) -> Result<SandboxRecord> {
        let dir = self.shared.layout.sandbox(&record.id);
        let (helper, layout, place) = (self.shared.helper.clone(), self.shared.layout.clone(), dir.clone());
        let mut record = blocking(move || {
            std::fs::create_dir_all(&place.0).map_err(failed("make sandbox directory"))?;
            // Written first, so that a crash leaves a trace of what to take apart.
            record::write(&place.record(), &record).map_err(failed("write sandbox record"))?;
            record.pause = sandbox::make(&layout, &record, &helper).map_err(failed("make sandbox"))?;
            Ok(record)
        })
        .await?;
        if !record.config.host.network {
            let namespace = dir.namespace("net");
            record.addresses = self.shared.network.attach(&record.id, &namespace, &record.config.port_mappings).await?;
        }
        record.complete = true;
        self.save(record).await
    }

    pub(super) async fn limit_sandbox(&self, id: &str, resources: &Resources) -> Result<()> {
        let group = Cgroup::new(&self.shared.table.sandbox(id)?.cgroup);
        let wanted = resources.clone();
        blocking(move || group.limit(&wanted).map_err(failed("change limits of the sandbox"))).await
    }

    async fn save(&self, record: SandboxRecord) -> Result<SandboxRecord> {
        let path = self.shared.layout.sandbox(&record.id).record();
        blocking(move || record::write(&path, &record).map(|()| record).map_err(failed("write sandbox record"))).await
    }

    pub(super) async fn end_sandbox(&self, id: &str) -> Result<()> {
        let Ok(mut record) = self.shared.table.sandbox(id) else { return Ok(()) };
        for container in self.shared.table.containers_of(id) {
            self.stop(&container.record.id, Duration::ZERO).await?;
        }
        if record.stopped {
            return Ok(());
        }
        if !record.config.host.network {
            self.shared.network.detach(id).await?;
        }
        let ended = record.clone();
        blocking(move || {
            sandbox::stop(&ended);
            Ok(())
        })
        .await?;
        record.stopped = true;
        record.addresses.clear();
        let record = self.save(record).await?;
        self.shared.table.rows().sandboxes.insert(id.to_owned(), record);
        self.shared.table.changed();
        Ok(())
    }

    pub(super) async fn unmake_sandbox(&self, id: &str) -> Result<()> {
        let Ok(record) = self.shared.table.sandbox(id) else { return Ok(()) };
        self.end_sandbox(id).await?;
        for container in self.shared.table.containers_of(id) {
            self.remove(&container.record.id).await?;
        }
        self.unmake_parts(&record).await?;
        self.shared.table.rows().sandboxes.remove(id);
        self.shared.table.changed();
        Ok(())
    }

    /// Also of a sandbox that was never whole. Goes on after errors and answers the first.
    pub(super) async fn unmake_parts(&self, record: &SandboxRecord) -> Result<()> {
        let detached = if record.config.host.network { Ok(()) } else { self.shared.network.detach(&record.id).await };
        let shared_group = self.shared.table.rows().sandboxes.values().any(|s| s.id != record.id && s.cgroup == record.cgroup);
        let (layout, record): (Layout, _) = (self.shared.layout.clone(), record.clone());
        let unmade = blocking(move || {
            sandbox::stop(&record);
            let group = Cgroup::new(&record.cgroup);
            let removed = if shared_group { Ok(()) } else { group.remove().map_err(failed("remove sandbox cgroup")) };
            // The record last: whatever a killed agent left is found by it.
            let unmade = sandbox::unmake(&layout, &record.id).map_err(failed("remove sandbox"));
            removed.and(unmade)
        })
        .await;
        detached.and(unmade)
    }

    pub(super) async fn forward(&self, sandbox_id: &str, port: u16) -> Result<(Reader, Writer)> {
        let record = self.shared.table.sandbox(sandbox_id)?;
        if record.stopped {
            return Err(Failure::SandboxNotRunning(sandbox_id.to_owned()).into());
        }
        let namespace = (!record.config.host.network).then(|| self.shared.layout.sandbox(sandbox_id).namespace("net"));
        let stream = blocking(move || namespace::connect(namespace, port).map_err(failed(format!("connect to port {port}")))).await?;
        stream.set_nonblocking(true).map_err(failed("port forward"))?;
        let (reader, writer) = tokio::net::TcpStream::from_std(stream).map_err(failed("port forward"))?.into_split();
        Ok((Box::new(reader), Box::new(writer)))
    }

    /// The first process of a running container in the sandbox's own or shared process namespace.
    pub(super) fn target_process(&self, sandbox_id: &str, target: &str) -> Result<i32> {
        let container = self.shared.table.container(target)?;
        if container.record.sandbox_id != sandbox_id {
            return Err(Failure::TargetElsewhere(target.to_owned()).into());
        }
        match container.phase() {
            Phase::Running(start) => Ok(start.pid),
            _ => Err(Failure::TargetNotRunning(target.to_owned()).into()),
        }
    }
}

fn node_name() -> String {
    nix::unistd::gethostname().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}
