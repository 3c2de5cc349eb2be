//! kubeconfig files: how kubectl finds the server and proves who it is.

use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use base64::Engine as _;
use kinds::yaml;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};

use crate::certificates::{Authority, Identity};
use crate::connection;

const BASE64: base64::engine::GeneralPurpose = base64::engine::general_purpose::STANDARD;

/// How long a server that is asked whether it is there gets for its answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Writes the kubeconfig of a cluster administrator.
pub fn write_admin(path: &Path, authority: &Authority, address: SocketAddr) -> anyhow::Result<()> {
    let admin = authority.client("kubernetes-admin", &["system:masters"])?;
    write_for(path, authority, address, "everynode-admin", &admin)
}

/// Writes the kubeconfig of a node's agent.
pub fn write_node(path: &Path, authority: &Authority, address: SocketAddr, node: &str) -> anyhow::Result<()> {
    let user = format!("system:node:{node}");
    let identity = authority.client(&user, &["system:nodes"])?;
    write_for(path, authority, address, &user, &identity)
}

fn write_for(path: &Path, authority: &Authority, address: SocketAddr, user: &str, identity: &Identity) -> anyhow::Result<()> {
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "everynode", "cluster": {
            "server": format!("https://{address}"),
            "certificate-authority-data": BASE64.encode(&authority.certificate_pem),
        }}],
        "users": [{"name": user, "user": {
            "client-certificate-data": BASE64.encode(&identity.certificate_pem),
            "client-key-data": BASE64.encode(&identity.key_pem),
        }}],
        "contexts": [{"name": "everynode", "context": {"cluster": "everynode", "user": user}}],
        "current-context": "everynode",
    });
    crate::private_file::write(path, &yaml::write(&config))
}

/// A client with the credentials of a kubeconfig.
pub async fn client(path: &Path) -> anyhow::Result<kube::Client> {
    let config = Kubeconfig::read_from(path).with_context(|| format!("cannot read {}", path.display()))?;
    let config =
        kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await.context("the kubeconfig is not usable")?;
    connection::client(config)
}

/// Whether the server of a kubeconfig answers anything.
pub async fn is_answered(path: &Path) -> bool {
    let Ok(client) = client(path).await else { return false };
    let Ok(request) = http::Request::get("/livez").body(kube::client::Body::empty()) else { return false };
    matches!(tokio::time::timeout(ANSWER_TIMEOUT, client.send(request)).await, Ok(Ok(_)))
}

/// The kubeconfig that kubectl would write to: the first of $KUBECONFIG, or ~/.kube/config.
pub fn user_path() -> anyhow::Result<PathBuf> {
    let listed = std::env::var_os("KUBECONFIG").unwrap_or_default();
    if let Some(first) = std::env::split_paths(&listed).find(|path| !path.as_os_str().is_empty()) {
        return Ok(first);
    }
    let home = std::env::var_os("HOME").context("neither KUBECONFIG nor HOME is set, so there is no kubeconfig to write to")?;
    Ok(PathBuf::from(home).join(".kube/config"))
}

/// The name that a cluster has in kubeconfigs.
fn entry_name(cluster: &str) -> String {
    format!("everynode-{cluster}")
}

/// Merges a cluster's own kubeconfig into the user's and makes it current. Returns the name of the
/// context.
pub fn merge(own: &Path, cluster: &str) -> anyhow::Result<String> {
    let name = entry_name(cluster);
    let source = read_config(own)?;
    let path = followed(user_path()?)?;
    let _turn = Turn::take(&path)?;
    let mut config = read_config(&path)?;
    for (list, what) in [("clusters", "cluster"), ("users", "user")] {
        let body = source[list][0][what].clone();
        put_entry(&mut config, list, json!({"name": name, what: body}));
    }
    put_entry(&mut config, "contexts", json!({"name": name, "context": {"cluster": name, "user": name}}));
    config["current-context"] = name.as_str().into();
    write_config(&path, &config)?;
    Ok(name)
}

/// Takes a cluster out of the user's kubeconfig.
pub fn remove(cluster: &str) -> anyhow::Result<()> {
    let name = entry_name(cluster);
    let path = followed(user_path()?)?;
    if !path.exists() {
        return Ok(());
    }
    let _turn = Turn::take(&path)?;
    let before = read_config(&path)?;
    let mut config = before.clone();
    for list in ["clusters", "users", "contexts"] {
        if let Some(entries) = config[list].as_array_mut() {
            entries.retain(|entry| entry["name"] != name.as_str());
        }
    }
    if config["current-context"] == name.as_str() {
        config["current-context"] = "".into();
    }
    if config == before { Ok(()) } else { write_config(&path, &config) }
}

/// Where a link leads: it stays one, and the file behind it is changed, as kubectl does. A chain
/// ends after so many links.
fn followed(mut path: PathBuf) -> anyhow::Result<PathBuf> {
    for _ in 0..LINKS_MAX {
        match std::fs::read_link(&path) {
            Ok(target) => path = path.parent().unwrap_or(Path::new("")).join(target),
            Err(_) => return Ok(path),
        }
    }
    anyhow::bail!("{} is a link that leads to itself", path.display())
}

/// As many links as Linux follows.
const LINKS_MAX: usize = 40;

/// The right to change a kubeconfig: a file beside it, which kubectl makes, too.
struct Turn(PathBuf);

/// Others need milliseconds.
const TURN_TIMEOUT: Duration = Duration::from_secs(10);
const TURN_PERIOD: Duration = Duration::from_millis(10);

impl Turn {
    fn take(path: &Path) -> anyhow::Result<Turn> {
        if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        }
        let mut lock = path.as_os_str().to_owned();
        lock.push(".lock");
        let lock = PathBuf::from(lock);
        let deadline = Instant::now() + TURN_TIMEOUT;
        loop {
            match std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&lock) {
                Ok(_) => return Ok(Turn(lock)),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && Instant::now() < deadline => {
                    std::thread::sleep(TURN_PERIOD)
                }
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                    anyhow::bail!("{} says that another program changes the kubeconfig; if none does, remove that file", lock.display())
                }
                Err(error) => return Err(error).with_context(|| format!("cannot make {}", lock.display())),
            }
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn put_entry(config: &mut Value, list: &str, entry: Value) {
    if !config[list].is_array() {
        config[list] = json!([]);
    }
    let entries = config[list].as_array_mut().expect("made an array above");
    match entries.iter_mut().find(|existing| existing["name"] == entry["name"]) {
        Some(existing) => *existing = entry,
        None => entries.push(entry),
    }
}

/// An empty or missing file is an empty configuration.
fn read_config(path: &Path) -> anyhow::Result<Value> {
    let text = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        text => text.with_context(|| format!("cannot read {}", path.display()))?,
    };
    let (node, _) = yaml::parse(&text).with_context(|| format!("{} is no YAML; it was left as it is", path.display()))?;
    match node.into_value() {
        Value::Null => Ok(json!({"apiVersion": "v1", "kind": "Config", "preferences": {}})),
        config if config.is_object() => Ok(config),
        _ => anyhow::bail!("{} is no kubeconfig; it was left as it is", path.display()),
    }
}

fn write_config(path: &Path, config: &Value) -> anyhow::Result<()> {
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    crate::private_file::write(path, &yaml::write(config))
}
