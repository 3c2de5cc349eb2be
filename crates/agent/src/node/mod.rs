//! The agent of a real node.
//!
//! The way of a pod: [`watch`] sees it bound to this node, [`pods`] admits it and gives it a worker
//! ([`pod`]), which looks at what the runtime shows ([`observer`]), asks `brain::podsync` what to
//! do, does it, and reports. [`registration`] keeps the Node object and its lease alive.

pub mod allocations;
pub mod events;
pub mod facts;
pub mod hanging;
pub mod logs;
pub mod manifests;
pub mod network;
pub mod objects;
pub mod observer;
mod pauses;
pub mod pod;
pub mod pods;
mod pressure;
pub mod registration;
pub mod settings;
pub mod shutdown;
pub mod user_ids;
pub mod volume_usage;
pub mod volumes;
pub mod watch;

use std::sync::Arc;
use std::time::Duration;

use brain::podsync::offers::Offers;
use brain::podsync::sysctls::{self, Allowlist};
use kube::Client;
use runtime::port::{Images, Runtime};
use tokio::sync::watch as signal;

pub use settings::Settings;

/// What all parts of the agent share.
pub struct Context {
    pub settings: Settings,
    pub machine: facts::Machine,
    /// What pods may ask for.
    pub offers: Offers,
    pub user_ids: user_ids::UserIds,
    pub allocations: allocations::Allocations,
    /// The node's addresses as text, the main one first.
    pub node_addresses: Vec<String>,
    pub client: Client,
    pub runtime: Arc<dyn Runtime>,
    /// `everynode`, `containerd`: the scheme of container ids.
    pub runtime_name: String,
    pub images: Arc<dyn Images>,
    pub events: events::Recorder,
    pub objects: objects::Objects,
    pub observer: observer::Observer,
    pub registration: registration::Registration,
    /// Pulls under way at once.
    pub pulls: tokio::sync::Semaphore,
    /// For calls on volumes of pods, which may hang.
    pub volume_calls: hanging::Threads,
    pub volume_usages: volume_usage::VolumeUsages,
}

/// Calls on volumes that hang at a time, and the time that a pod waits for one before it reports a
/// failure.
const VOLUME_CALLS_MAX: usize = 64;
const VOLUME_PATIENCE: Duration = Duration::from_secs(20);

/// Pulls of different images under way at once; each has several layers under way.
const PULLS_AT_ONCE_MAX: usize = 5;

/// Why an agent cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the container runtime does not answer")]
    Runtime(#[source] containers::Error),
    #[error("cannot make the folder {path}")]
    Folder { path: String, source: std::io::Error },
    #[error("--allowed-unsafe-sysctls")]
    Sysctls(#[source] sysctls::Error),
    #[error("cannot register the node {name}: {reason}")]
    Register { name: String, reason: String },
}

/// A running agent: what serves requests from outside gets at its parts.
pub struct Agent {
    pub context: Arc<Context>,
    pub pods: Arc<pods::Pods>,
}

impl Agent {
    /// Prepares folders and finds out about the machine; does not touch the API server yet.
    pub async fn new(settings: Settings, client: Client, runtime: Arc<dyn Runtime>, images: Arc<dyn Images>) -> Result<Agent, StartError> {
        settings.make_folders()?;
        let version = runtime.version().await.map_err(StartError::Runtime)?;
        let machine = facts::Machine::read(&settings);
        let sysctls = Allowlist::new(&machine.info.kernel_version, &settings.allowed_unsafe_sysctls).map_err(StartError::Sysctls)?;
        let offers = Offers { sysctls };
        let events = events::Recorder::start(client.clone(), &settings.name);
        let context = Arc::new(Context {
            objects: objects::Objects::new(client.clone()),
            observer: observer::Observer::new(runtime.clone(), images.clone(), version.name.clone(), settings.root_dir.clone()),
            registration: registration::Registration::new(version.clone()),
            runtime_name: version.name,
            node_addresses: settings.address_texts(),
            pulls: tokio::sync::Semaphore::new(PULLS_AT_ONCE_MAX),
            volume_calls: hanging::Threads::new(VOLUME_CALLS_MAX, VOLUME_PATIENCE),
            volume_usages: volume_usage::VolumeUsages::default(),
            user_ids: user_ids::UserIds::open(&settings),
            allocations: allocations::Allocations::default(),
            settings,
            machine,
            offers,
            client,
            runtime,
            images,
            events,
        });
        let pods = Arc::new(pods::Pods::new(context.clone()));
        Ok(Agent { context, pods })
    }

    /// Ends all pods because the machine goes down. To be called while [`Agent::run`] runs.
    pub async fn end_pods(&self, periods: shutdown::Periods) {
        shutdown::run(&self.context, &self.pods, periods).await;
    }

    /// Registers the node and runs its pods until `shutdown` turns true. Containers go on running.
    pub async fn run(&self, mut shutdown: signal::Receiver<bool>) {
        // All arms run until they are dropped: what is under way is then found by the next agent.
        tokio::select! {
            () = registration::run(&self.context) => {}
            () = self.context.observer.run() => {}
            () = self.context.objects.follow_services() => {}
            () = watch::run(&self.context, &self.pods) => {}
            () = manifests::run(&self.context, &self.pods) => {}
            () = self.pods.keep_house() => {}
            () = pressure::run(&self.context, &self.pods) => {}
            _ = shutdown.wait_for(|&stopping| stopping) => {}
        }
    }
}
