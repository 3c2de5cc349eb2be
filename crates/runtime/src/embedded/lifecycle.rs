//! The life of containers, as the port has it: created, started through a shim, stopped, removed.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout, timeout_at};

use super::control::{self, Report, Request};
use super::failure::Failure;
use super::paths::{ContainerDir, ID_LENGTH, Layout, remove_own_dir};
use super::prepare::{self, prepare};
use super::table::{Container, Phase};
use super::{Runtime, blocking, helper};
use crate::cgroup::Cgroup;
use crate::images::Contents;
use crate::words::failed;
use containers::{ContainerConfig, Resources, Result, SandboxConfig};

/// Making a container takes milliseconds; a node that swaps is slower.
const START_SECONDS_MAX: u64 = 120;

/// Looking at what is to be mounted: local file systems answer at once.
const MOUNTS_SECONDS_MAX: u64 = 20;

/// After SIGKILL only the kernel can delay the end.
const KILL_SECONDS_MAX: u64 = 30;

/// A shim that has nothing left to do ends within this time.
const SHIM_TRIES_MAX: u32 = 2000;
const SHIM_PERIOD: Duration = Duration::from_millis(1);

impl Runtime {
    pub(super) async fn create(&self, sandbox_id: &str, sandbox_config: SandboxConfig, config: ContainerConfig) -> Result<String> {
        let sandbox = self.shared.table.sandbox(sandbox_id)?;
        if sandbox.stopped {
            return Err(Failure::SandboxNotRunning(sandbox_id.to_owned()).into());
        }
        self.check_mounts(&config).await?;
        let target = config.security.target_container.as_deref().map(|t| self.target_process(sandbox_id, t)).transpose()?;
        let id = new_id().map_err(failed("make an id"))?;
        let (layout, contents, own_id) = (self.shared.layout.clone(), Arc::clone(&self.shared.contents), id.clone());
        let record = blocking(move || {
            let held = images(&config).iter().try_for_each(|image| contents.hold(image, &own_id));
            let made = held.and_then(|()| contents.content(&config.image_id)).and_then(|content| {
                let request = prepare::Request {
                    id: &own_id,
                    sandbox: &sandbox,
                    sandbox_config: &sandbox_config,
                    config: &config,
                    content: &content,
                    contents: &*contents,
                    target,
                };
                prepare(&layout, &request)
            });
            made.inspect_err(|_| {
                let _ = remove_directories(&layout, &own_id);
                let _ = release(&*contents, &config, &own_id);
            })
        })
        .await?;
        self.shared.table.rows().containers.insert(id.clone(), Container::new(record, Phase::Created, None));
        self.shared.table.changed();
        Ok(id)
    }

    /// On a thread that may hang, and with an end to waiting: a volume may lie on a server that
    /// does not answer.
    async fn check_mounts(&self, config: &ContainerConfig) -> Result<()> {
        let late = || Failure::MountsHang(MOUNTS_SECONDS_MAX);
        let until = Instant::now() + Duration::from_secs(MOUNTS_SECONDS_MAX);
        let place = timeout_at(until, Arc::clone(&self.shared.mount_checks).acquire_owned()).await.map_err(|_| late())?;
        let place = place.expect("the semaphore is never closed");
        let (config, (tell, told)) = (config.clone(), oneshot::channel());
        let body = move || {
            let _ = tell.send(prepare::check_mounts(&config));
            drop(place);
        };
        std::thread::Builder::new().name("mounts".to_owned()).spawn(body).map_err(failed("start a thread"))?;
        Ok(timeout_at(until, told).await.map_err(|_| late())?.map_err(Failure::MountCheck)??)
    }

    pub(super) async fn start(&self, id: &str) -> Result<()> {
        let container = self.shared.table.container(id)?;
        let begun = hold_back(&container);
        if !begun {
            return match container.phase() {
                Phase::Running(_) => Ok(()),
                _ => Err(Failure::StartedBefore(id.to_owned()).into()),
            };
        }
        let result = match self.run_shim(&self.shared.layout.container(id)).await {
            Ok(Report::Started(_)) => self.follow(&container).await,
            Ok(Report::Failed(told)) => Err(Failure::Told(told).into()),
            Ok(Report::Exited(_)) => Err(Failure::OutOfTurn.into()),
            Err(e) => Err(e),
        };
        if result.is_err() && container.phase() == Phase::Starting {
            self.bury(&container).await;
        }
        self.shared.table.changed();
        result
    }

    async fn run_shim(&self, dir: &ContainerDir) -> Result<Report> {
        let errors = std::fs::File::create(dir.0.join("shim.err")).map_err(failed("make the shim's error file"))?;
        let mut command = Command::new(&self.shared.helper);
        command.arg(helper::SHIM).arg(&dir.0).env_clear().current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors);
        let mut shim = command.spawn().map_err(failed("start the shim"))?;
        let stdout = shim.stdout.take().expect("it was asked for");
        let mut line = String::new();
        let read = timeout(Duration::from_secs(START_SECONDS_MAX), BufReader::new(stdout).read_line(&mut line)).await;
        if read.is_err() {
            let _ = shim.start_kill();
        }
        let report = serde_json::from_str(&line);
        if matches!(report, Ok(Report::Started(_))) {
            // A task must wait for it as long as this agent lives.
            tokio::spawn(async move { shim.wait().await });
        } else {
            let _ = shim.wait().await;
        }
        match (read, report) {
            (Err(_), _) => Err(Failure::StartHangs(START_SECONDS_MAX).into()),
            (Ok(_), Ok(report)) => Ok(report),
            (Ok(_), Err(_)) => {
                let said = std::fs::read_to_string(dir.0.join("shim.err")).unwrap_or_default();
                Err(Failure::SilentShim { said: said.trim().to_owned() }.into())
            }
        }
    }

    pub(super) async fn stop(&self, id: &str, grace: Duration) -> Result<()> {
        let Ok(container) = self.shared.table.container(id) else { return Ok(()) };
        let mut phase = container.phase.subscribe();
        let starting = phase.wait_for(|p| *p != Phase::Starting);
        if timeout(Duration::from_secs(START_SECONDS_MAX), starting).await.is_err() {
            return Err(Failure::StillStarting(id.to_owned()).into());
        }
        if !matches!(container.phase(), Phase::Running(_)) {
            return Ok(());
        }
        let launch = &container.record.launch;
        if !grace.is_zero() {
            self.signal(id, launch.stop_signal).await;
            if timeout(grace, phase.wait_for(|p| matches!(p, Phase::Exited(_)))).await.is_ok() {
                return Ok(());
            }
        }
        self.signal(id, libc::SIGKILL).await;
        if !launch.own_pid_namespace {
            let group = Cgroup::new(&launch.cgroup);
            blocking(move || {
                group.signal(libc::SIGKILL);
                Ok(())
            })
            .await?;
        }
        let ended = timeout(Duration::from_secs(KILL_SECONDS_MAX), phase.wait_for(|p| matches!(p, Phase::Exited(_)))).await;
        match ended {
            Ok(_) => Ok(()),
            Err(_) => Err(Failure::Unkillable { id: id.to_owned(), seconds: KILL_SECONDS_MAX }.into()),
        }
    }

    /// A shim that cannot be reached is ending or gone, and the watcher sees to that.
    async fn signal(&self, id: &str, number: i32) {
        let _ = self.ask(id, Request::Signal(number)).await;
    }

    pub(super) async fn ask(&self, id: &str, request: Request) -> Result<()> {
        let dir = self.shared.layout.container(id);
        blocking(move || {
            let stream = control::connect(&dir.0).map_err(failed("connect to the container's shim"))?;
            let answer = control::ask(&stream, &request, &[]).map_err(failed("ask the container's shim"))?;
            Ok(answer.map_err(Failure::Told)?)
        })
        .await
    }

    pub(super) async fn remove(&self, id: &str) -> Result<()> {
        let Ok(container) = self.shared.table.container(id) else { return Ok(()) };
        self.stop(id, Duration::ZERO).await?;
        let held = hold_back(&container);
        let (layout, contents, record) = (self.shared.layout.clone(), Arc::clone(&self.shared.contents), Arc::clone(&container.record));
        let removed = blocking(move || {
            let group = Cgroup::new(&record.launch.cgroup);
            group.kill_all();
            group.remove().map_err(failed("remove container cgroup"))?;
            remove_directories(&layout, &record.id).map_err(failed("remove container"))?;
            release(&*contents, &record.config, &record.id)
        })
        .await;
        if let Err(e) = removed {
            if held {
                container.phase.send_replace(Phase::Created);
            }
            return Err(e);
        }
        self.shared.disk_usage.forget(id);
        self.shared.table.rows().containers.remove(id);
        self.shared.table.changed();
        Ok(())
    }

    pub(super) async fn reopen(&self, id: &str) -> Result<()> {
        self.shared.table.container(id)?.running()?;
        self.ask(id, Request::ReopenLog).await
    }

    pub(super) async fn update(&self, id: &str, resources: &Resources) -> Result<()> {
        let container = self.shared.table.container(id)?;
        container.running()?;
        let group = Cgroup::new(&container.record.launch.cgroup);
        let wanted = resources.clone();
        blocking(move || group.limit(&wanted).map_err(failed("change limits"))).await?;
        container.set_resources(resources);
        self.shared.table.changed();
        Ok(())
    }
}

/// Its own, and those that it mounts.
fn images(config: &ContainerConfig) -> BTreeSet<&str> {
    let mounted = config.mounts.iter().filter_map(|mount| mount.image.as_ref());
    mounted.map(|image| image.id.as_str()).chain([config.image_id.as_str()]).collect()
}

/// Goes on after errors and answers the first.
fn release(contents: &dyn Contents, config: &ContainerConfig, holder: &str) -> Result<()> {
    images(config).into_iter().map(|image| contents.release(image, holder)).fold(Ok(()), Result::and)
}

/// From now on no other caller can start it. False: it is not there to be started.
fn hold_back(container: &Container) -> bool {
    container.phase.send_if_modified(|phase| {
        let created = *phase == Phase::Created;
        if created {
            *phase = Phase::Starting;
        }
        created
    })
}

/// The writable part first: without its record a container is rubbish that the next agent clears
/// away.
pub(super) fn remove_directories(layout: &Layout, id: &str) -> io::Result<()> {
    let dir = layout.container(id);
    // A shim that an agent started before it was killed may be about to begin: with the lock taken,
    // or nothing to lock, it does not.
    let _no_shim = hold_shim_back(&dir)?;
    // There only for containers whose mounts the node shares.
    let _ = nix::mount::umount2(&dir.rootfs(), nix::mount::MntFlags::MNT_DETACH);
    remove_own_dir(&layout.writable(), &layout.container_writable(id))?;
    remove_own_dir(&layout.containers(), &dir.0)
}

/// The lock that a shim holds while it lives; one that has written down how its container ended
/// lets go in a moment.
fn hold_shim_back(dir: &ContainerDir) -> io::Result<Option<Flock<File>>> {
    let mut lock = match File::options().create(true).append(true).open(dir.lock()) {
        Ok(lock) => lock,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    for _ in 0..SHIM_TRIES_MAX {
        match Flock::lock(lock, FlockArg::LockExclusiveNonblock) {
            Ok(held) => return Ok(Some(held)),
            Err((again, _)) => lock = again,
        }
        std::thread::sleep(SHIM_PERIOD);
    }
    Err(io::Error::other(format!("the shim of container {} does not end", dir.0.display())))
}

pub(super) fn new_id() -> io::Result<String> {
    let mut bytes = [0u8; ID_LENGTH / 2];
    getrandom::fill(&mut bytes)?;
    Ok(hex::encode(bytes))
}
