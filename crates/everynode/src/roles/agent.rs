//! A node: container runtime, pod network, agent; stopped without its containers.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use agent::node::network::{NoNetwork, Routed, RoutedSettings};
use agent::node::shutdown::Periods;
use agent::node::{Agent, Settings};
use agent::server::auth::Auth;
use anyhow::Context;
use containers::PodRange;
use ipnet::IpNet;
use runtime::images::registries::Registries;
use runtime::images::{Service as ImageService, Store};
use runtime::port::{Images, Runtime, SandboxNetwork};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::builtin;
use crate::certificates::{TlsFiles, node_server_config};
use crate::kubeconfig;
use crate::roles::signalled;

/// What the node is to be.
#[derive(Debug)]
pub struct Options {
    /// The agent's settings. Without a range of pod addresses, pods in a network of their own wait
    /// until the cluster gives the node one.
    pub node: Settings,
    pub kubeconfig: PathBuf,
    /// The range of all pods, for a node that brings its own range.
    pub cluster_cidr: Option<String>,
    /// False: pods in a network of their own are refused. Not for containerd and CRI-O, which
    /// connect pods themselves.
    pub has_pod_network: bool,
    pub data_dir: PathBuf,
    pub state_dir: PathBuf,
    pub registries: Option<PathBuf>,
    /// containerd or CRI-O instead of the embedded runtime.
    pub container_runtime: Option<String>,
    pub tls: Option<TlsFiles>,
    /// How long pods get when the machine goes down; zero: they are not ended here.
    pub shutdown: Periods,
}

/// Runs the node until SIGTERM or SIGINT. Its containers go on.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let signalled = signalled()?;
    let (stop, shutdown) = watch::channel(false);
    let tls = options.tls.as_ref().map(node_server_config).transpose()?;
    let client = kubeconfig::client(&options.kubeconfig).await?;
    let (runtime, images) = match &options.container_runtime {
        Some(endpoint) => remote(endpoint).await?,
        None => embedded(&options).await?,
    };
    let agent = Arc::new(Agent::new(options.node.clone(), client.clone(), runtime, images).await?);
    let serving = serve(&agent, client, &options, tls, shutdown.clone()).await?;
    println!("ready {}", options.node.name);
    let mut power = signal(SignalKind::from_raw(SIGPWR)).context("cannot listen for SIGPWR")?;
    let ending = async {
        // Both arms only wait for a signal.
        let is_going_down = tokio::select! {
            () = signalled => is_machine_going_down(),
            _ = power.recv() => true,
        };
        if is_going_down && !options.shutdown.all.is_zero() {
            agent.end_pods(options.shutdown).await;
        }
    };
    // The agent ends only by its shutdown; dropping it leaves containers to the next one.
    tokio::select! {
        () = agent.run(shutdown) => {}
        () = ending => {}
    }
    stop.send_replace(true);
    match serving {
        Some(serving) => serving.await.context("the agent's endpoints failed"),
        None => Ok(()),
    }
}

/// The agent's own endpoints, in a task; none without a certificate.
async fn serve(
    agent: &Arc<Agent>,
    client: kube::Client,
    options: &Options,
    tls: Option<Arc<rustls::ServerConfig>>,
    shutdown: watch::Receiver<bool>,
) -> anyhow::Result<Option<tokio::task::JoinHandle<()>>> {
    let Some(tls) = tls else {
        tracing::warn!("no certificate for endpoints was given: logs, exec and statistics are not served");
        return Ok(None);
    };
    let address = (options.node.addresses.first().copied().unwrap_or(IpAddr::from([0, 0, 0, 0])), options.node.port);
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {}:{}", address.0, address.1))?;
    let auth = Auth::new(client);
    Ok(Some(tokio::spawn(agent::server::serve(agent.clone(), listener, tls, auth, shutdown))))
}

/// What init systems send when the power fails; the machine goes down soon.
const SIGPWR: i32 = 30;

/// Whether systemd is ending everything, and not only this agent.
fn is_machine_going_down() -> bool {
    let output = std::process::Command::new("systemctl").arg("is-system-running").output();
    output.is_ok_and(|output| output.stdout.starts_with(b"stopping"))
}

fn registries(path: Option<&PathBuf>) -> anyhow::Result<Registries> {
    let Some(path) = path else { return Ok(Registries::default()) };
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let (node, _) = kinds::yaml::parse(&text).with_context(|| format!("{} is no YAML", path.display()))?;
    serde_json::from_value(node.into_value()).with_context(|| format!("{} does not describe registries", path.display()))
}

type Parts = (Arc<dyn Runtime>, Arc<dyn Images>);

/// containerd or CRI-O: it has images of its own, and connects pods with its own CNI plugins.
async fn remote(endpoint: &str) -> anyhow::Result<Parts> {
    let client =
        runtime::cri::Client::connect(endpoint).await.with_context(|| format!("cannot reach the container runtime at {endpoint}"))?;
    Ok((Arc::new(client.clone()), Arc::new(client)))
}

async fn embedded(options: &Options) -> anyhow::Result<Parts> {
    let store =
        Store::open(&options.node.image_dir).with_context(|| format!("cannot open the images in {}", options.node.image_dir.display()))?;
    let program = crate::program::path()?;
    if let Err(error) = store.add_builtin(&builtin::image(&program, &builtin::libraries())) {
        // Only pods of that image miss it.
        tracing::warn!(error = error.chain(), "cannot make the built-in image");
    }
    let images = Arc::new(ImageService { store: Arc::new(store), registries: registries(options.registries.as_ref())? });
    std::fs::create_dir_all(&options.state_dir).with_context(|| format!("cannot make {}", options.state_dir.display()))?;
    let settings = runtime::embedded::Settings {
        state_dir: options.state_dir.clone(),
        root_dir: options.data_dir.clone(),
        helper: program,
        contents: images.clone(),
        network: network(options),
        cgroup_root: String::new(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let runtime = runtime::embedded::Runtime::open(settings).await.context("cannot start the container runtime")?;
    if let Some(range) = pod_range(options)? {
        runtime.use_pod_range(&range).await.context("cannot prepare the pod network")?;
    }
    Ok((Arc::new(runtime), images))
}

/// What connects pods in a network of their own.
fn network(options: &Options) -> Arc<dyn SandboxNetwork> {
    if !options.has_pod_network {
        return Arc::new(NoNetwork);
    }
    Arc::new(Routed::new(RoutedSettings {
        state_file: options.state_dir.join("network.json"),
        node_addresses: options.node.addresses.clone(),
        table: "everynode".to_owned(),
    }))
}

/// The range that the node brings.
fn pod_range(options: &Options) -> anyhow::Result<Option<PodRange>> {
    let Some(own) = options.node.pod_cidr.as_ref().filter(|_| options.has_pod_network) else { return Ok(None) };
    let parse = |text: &String| -> anyhow::Result<Vec<IpNet>> {
        Ok(vec![text.parse().with_context(|| format!("{text:?} is no range of addresses"))?])
    };
    Ok(Some(PodRange { own: parse(own)?, cluster: parse(options.cluster_cidr.as_ref().unwrap_or(own))? }))
}
