//! Following shims: what an agent finds when it starts, and what it does when a shim ends, with or
//! without having written down why.

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MsFlags, mount};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

use super::control::{self, Request};
use super::paths::{ContainerDir, Layout, is_id};
use super::record::{self, ContainerRecord, ExitRecord, SandboxRecord, StartRecord};
use super::table::{Container, Phase};
use super::{Runtime, blocking, lifecycle, namespace, sandbox};
use crate::cgroup::Cgroup;
use crate::words::failed;
use containers::Result;

/// A shim that an earlier agent started a moment ago may not listen yet.
const CONNECT_TRIES_MAX: u32 = 100;
const CONNECT_WAIT_MILLISECONDS: u64 = 20;

/// What a container's directory tells after a restart of the agent.
enum Found {
    Rubbish,
    Container(Box<Container>),
}

impl Runtime {
    pub(super) async fn load(&self) -> Result<()> {
        self.load_sandboxes().await?;
        let layout = self.shared.layout.clone();
        let found = blocking(move || find_containers(&layout)).await?;
        for container in found {
            self.shared.table.rows().containers.insert(container.record.id.clone(), container.clone());
            match container.phase() {
                Phase::Starting => self.take_over(container),
                Phase::Created | Phase::Running(_) | Phase::Exited(_) => {}
            }
        }
        Ok(())
    }

    async fn load_sandboxes(&self) -> Result<()> {
        let layout = self.shared.layout.clone();
        let found = blocking(move || find_sandboxes(&layout)).await?;
        for record in found {
            if record.complete {
                self.shared.table.rows().sandboxes.insert(record.id.clone(), record);
            } else if let Err(e) = self.unmake_parts(&record).await {
                tracing::warn!(sandbox = record.id, "take apart what an earlier agent did not finish: {e}");
            }
        }
        Ok(())
    }

    /// A shim of an earlier agent is alive.
    fn take_over(&self, container: Container) {
        let this = self.clone();
        tokio::spawn(async move {
            if this.follow(&container).await.is_err() {
                this.bury(&container).await;
            }
            this.shared.table.changed();
        });
    }

    /// Waits until the shim says that its container runs, then watches it to its end in the
    /// background.
    pub(super) async fn follow(&self, container: &Container) -> Result<()> {
        let dir = self.shared.layout.container(&container.record.id);
        let (stream, started) = blocking(move || watch(&dir)).await?;
        let stream = UnixStream::from_std(stream).map_err(failed("watch the shim"))?;
        if let Some(started) = started {
            container.set_started(started.into());
        }
        let (this, container) = (self.clone(), container.clone());
        tokio::spawn(async move {
            let mut stream = stream;
            // Nothing is ever sent: this returns when the shim is gone.
            let _ = stream.read(&mut [0u8; 16]).await;
            this.bury(&container).await;
        });
        Ok(())
    }

    /// The shim is gone. If it did not report how the container ended, the end is unknown, and
    /// nothing of the container may go on unwatched.
    pub(super) async fn bury(&self, container: &Container) {
        let (dir, record) = (self.shared.layout.container(&container.record.id), Arc::clone(&container.record));
        let exit = blocking(move || Ok(exit_of(&dir, &record))).await.unwrap_or_else(|_| unknown());
        container.phase.send_replace(Phase::Exited(exit));
        self.shared.table.changed();
    }
}

fn watch(dir: &ContainerDir) -> Result<(std::os::unix::net::UnixStream, Option<StartRecord>)> {
    let mut tries = 0;
    loop {
        let asked = control::connect(&dir.0).and_then(|stream| control::ask(&stream, &Request::Watch, &[]).map(|_| stream));
        match asked {
            Ok(stream) => {
                stream.set_nonblocking(true).map_err(failed("watch the shim"))?;
                let started = record::read(&dir.started()).map_err(failed("read start record"))?;
                return Ok((stream, started));
            }
            // It may have ended already, or not have begun to listen.
            Err(_) if tries < CONNECT_TRIES_MAX && is_alive(dir) => {
                tries += 1;
                std::thread::sleep(Duration::from_millis(CONNECT_WAIT_MILLISECONDS));
            }
            // A container that ended at once did start: this connection is over before it is read.
            Err(_) if dir.exit().exists() && dir.started().exists() => {
                let ended = std::os::unix::net::UnixStream::pair().map(|(ended, _)| ended);
                let ended = ended.and_then(|s| s.set_nonblocking(true).map(|()| s)).map_err(failed("watch the shim"))?;
                return Ok((ended, record::read(&dir.started()).map_err(failed("read start record"))?));
            }
            Err(e) => return Err(failed("the shim cannot be watched")(e)),
        }
    }
}

/// The lock tells, not a process id that may be another's by now.
fn is_alive(dir: &ContainerDir) -> bool {
    File::options().append(true).open(dir.lock()).is_ok_and(|f| Flock::lock(f, FlockArg::LockExclusiveNonblock).is_err())
}

fn exit_of(dir: &ContainerDir, container: &ContainerRecord) -> ExitRecord {
    if let Ok(Some(exit)) = record::read(&dir.exit()) {
        return exit;
    }
    let group = Cgroup::new(&container.launch.cgroup);
    group.kill_all();
    let exit = unknown();
    if let Err(e) = record::write(&dir.exit(), &exit) {
        tracing::warn!(container = container.id, "write exit record: {e}");
    }
    if let Err(e) = group.remove() {
        tracing::warn!(container = container.id, "remove cgroup: {e}");
    }
    exit
}

fn unknown() -> ExitRecord {
    ExitRecord {
        code: 128 + libc::SIGKILL,
        signal: libc::SIGKILL,
        oom: false,
        at: Timestamp::now(),
        reason: "ContainerStatusUnknown".to_owned(),
        message: "The container could not be located when it was terminated: the process that watched it is gone".to_owned(),
    }
}

fn find_sandboxes(layout: &Layout) -> Result<Vec<SandboxRecord>> {
    let mut found = Vec::new();
    for id in ids(&layout.sandboxes())? {
        let dir = layout.sandbox(&id);
        match record::read::<SandboxRecord>(&dir.record()) {
            Ok(Some(record)) => found.push(record),
            Ok(None) | Err(_) => sandbox::unmake(layout, &id).map_err(failed("remove half a sandbox"))?,
        }
    }
    // As with containers below.
    for id in ids(&layout.shared())?.into_iter().filter(|id| !found.iter().any(|sandbox| sandbox.id == *id)) {
        super::paths::remove_own_dir(&layout.shared(), &layout.sandbox_shared(&id).0).map_err(failed("remove half a sandbox"))?;
    }
    Ok(found)
}

fn find_containers(layout: &Layout) -> Result<Vec<Container>> {
    let mut found = Vec::new();
    for id in ids(&layout.containers())? {
        match find_container(&layout.container(&id)) {
            Found::Container(container) => found.push(*container),
            Found::Rubbish => lifecycle::remove_directories(layout, &id).map_err(failed("remove half a container"))?,
        }
    }
    // A restart of the node takes the records away and leaves what containers wrote.
    for id in ids(&layout.writable())?.into_iter().filter(|id| !found.iter().any(|c| c.record.id == *id)) {
        super::paths::remove_own_dir(&layout.writable(), &layout.container_writable(&id)).map_err(failed("remove half a container"))?;
    }
    Ok(found)
}

fn find_container(dir: &ContainerDir) -> Found {
    let Ok(Some(record)) = record::read::<ContainerRecord>(&dir.record()) else { return Found::Rubbish };
    let started: Option<StartRecord> = record::read(&dir.started()).ok().flatten();
    // Alive is asked first: a shim writes the exit before it ends, so one that is dead has written
    // what it ever will.
    let phase = if is_alive(dir) {
        Phase::Starting
    } else if dir.begun().exists() || dir.exit().exists() {
        Phase::Exited(exit_of(dir, &record))
    } else {
        Phase::Created
    };
    Found::Container(Box::new(Container::new(record, phase, started.as_ref())))
}

fn ids(dir: &Path) -> Result<Vec<String>> {
    std::fs::create_dir_all(dir).map_err(failed(format!("make {}", dir.display())))?;
    // Other users of the node may not see environments and processes of containers.
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700)).map_err(failed(format!("protect {}", dir.display())))?;
    let entries = std::fs::read_dir(dir).map_err(failed(format!("read {}", dir.display())))?;
    let mut ids: Vec<String> = entries.flatten().filter_map(|e| e.file_name().into_string().ok()).filter(|n| is_id(n)).collect();
    ids.sort();
    Ok(ids)
}

/// Helpers run inside containers for a moment, where `/proc/self/exe` leads to the program itself:
/// through a read-only mount no container can write to it there. Falls back to the program as it
/// is.
pub(super) fn protect_helper(layout: &Layout, program: &Path) -> PathBuf {
    let path = layout.helper();
    let protect = || -> std::io::Result<()> {
        std::fs::create_dir_all(&layout.state)?;
        // Of an earlier agent, which may have been an older program.
        namespace::release(&path);
        File::create(&path)?;
        mount(Some(program), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
        let read_only = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | MsFlags::MS_NOSUID;
        mount(None::<&str>, &path, None::<&str>, read_only, None::<&str>)?;
        Ok(())
    };
    match protect() {
        Ok(()) => path,
        Err(e) => {
            tracing::warn!("the runtime's helper cannot be mounted read-only: {e}");
            program.to_owned()
        }
    }
}
