//! How programs in pods reach the API server: with the credentials of their service account.

use std::path::{Path, PathBuf};

use addons::OwnSet;
use anyhow::Context as _;
use clap::Args;
use kube::config::{AuthInfo, Config};
use tokio::sync::watch;

use crate::roles::signalled;

/// Where pods find the credentials of their service account.
const CREDENTIALS: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

#[derive(Debug, Args)]
pub struct Connection {
    /// Address of the API server. Not that of the Service `kubernetes`, which these programs make
    /// work.
    #[arg(long)]
    server: String,

    /// The node that this pod runs on.
    #[arg(long, env = "NODE_NAME")]
    pub node_name: String,

    /// The DaemonSet that this pod belongs to, as NAMESPACE/NAME: when it is deleted, what the
    /// program made in the node's network goes with it.
    #[arg(long)]
    daemon_set: Option<String>,

    /// Folder with the token and the certificate of the cluster's authority.
    #[arg(long, default_value = CREDENTIALS)]
    credentials: PathBuf,
}

impl Connection {
    /// The set that the program's pod belongs to.
    pub fn own_set(&self) -> Option<OwnSet> {
        let (namespace, name) = self.daemon_set.as_ref()?.split_once('/')?;
        Some(OwnSet { namespace: namespace.to_owned(), name: name.to_owned() })
    }

    pub async fn client(&self) -> anyhow::Result<kube::Client> {
        let uri = self.server.parse().with_context(|| format!("--server {:?} is no address", self.server))?;
        let mut config = Config::new(uri);
        let authority = self.credentials.join("ca.crt");
        config.root_cert = Some(certificates(&authority)?);
        let token = self.credentials.join("token").display().to_string();
        config.auth_info = AuthInfo { token_file: Some(token), ..AuthInfo::default() };
        kube::Client::try_from(config).context("cannot make a client for the API server")
    }
}

fn certificates(path: &Path) -> anyhow::Result<Vec<Vec<u8>>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    crate::certificates::authority_certificates(&text).with_context(|| format!("{} holds no certificates", path.display()))
}

/// Runs a program until SIGTERM or SIGINT, on so many threads besides those for files.
pub fn run(
    threads: usize,
    connection: &Connection,
    program: impl AsyncFnOnce(kube::Client, watch::Receiver<bool>) -> anyhow::Result<()>,
) -> Result<(), String> {
    // A second one is refused, and there is none.
    let _ = tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).try_init();
    let work = async {
        let signalled = signalled()?;
        let client = connection.client().await?;
        let (stop, shutdown) = watch::channel(false);
        let mut running = std::pin::pin!(program(client, shutdown));
        // Both arms only wait; the program goes on where it was, to its end.
        tokio::select! {
            ended = &mut running => return ended,
            () = signalled => {}
        }
        stop.send_replace(true);
        running.await
    };
    let mut runtime = match threads {
        0 | 1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    let runtime = runtime.worker_threads(threads.max(1)).enable_all().build().map_err(|error| error.to_string())?;
    runtime.block_on(work).map_err(|error| format!("{error:#}"))
}
