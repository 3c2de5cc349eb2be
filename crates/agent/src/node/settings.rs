//! What an agent gets at its start.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use brain::podsync::eviction::Thresholds;

use super::StartError;

#[derive(Debug, Clone)]
pub struct Settings {
    /// The name of the Node object.
    pub name: String,
    /// The node's addresses, the main one first.
    pub addresses: Vec<IpAddr>,
    /// Added to the labels that every node has.
    pub labels: BTreeMap<String, String>,
    /// `key=value:Effect`, set when the node registers for the first time.
    pub taints: Vec<String>,
    /// Pods' volumes and files: `/var/lib/kubelet`, where node agents of the field expect them.
    pub root_dir: PathBuf,
    /// Where images are; their file system is watched.
    pub image_dir: PathBuf,
    /// `/var/log`: `pods` has the logs, `containers` the links that log collectors follow.
    pub log_dir: PathBuf,
    /// Manifests of static pods.
    pub manifest_dir: Option<PathBuf>,
    /// Above all control groups of this node's pods: `everynode/NAME`.
    pub cgroup_root: String,
    pub cluster_dns: Vec<IpAddr>,
    pub cluster_domain: String,
    pub max_pods: u32,
    /// Where this agent's endpoints listen; the Node object shows it to the API server.
    pub port: u16,
    /// The machine's id at its provider; what else the provider says comes as labels.
    pub provider_id: Option<String>,
    /// Range of the pods' addresses, as the Node object shows it.
    pub pod_cidr: Option<String>,
    /// Sysctls, or prefixes that end in `*`, that pods may set besides the safe ones.
    pub allowed_unsafe_sysctls: Vec<String>,
    /// Pods with users of their own get ids of the node from here on; Kubernetes' 65536 when None,
    /// and no pod gets any when it is 0.
    pub first_user_id: Option<u32>,
    /// When the node runs short.
    pub thresholds: Thresholds,
    /// Replace what the machine has, for nodes that share one.
    pub cpu_millis: Option<i64>,
    pub memory_bytes: Option<i64>,
}

impl Settings {
    /// `/var/lib/kubelet/pods`.
    pub fn pods_dir(&self) -> PathBuf {
        self.root_dir.join("pods")
    }

    /// `/var/lib/kubelet/pods/UID`.
    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        self.pods_dir().join(uid)
    }

    /// `/var/log/pods`.
    pub fn pod_logs_dir(&self) -> PathBuf {
        self.log_dir.join("pods")
    }

    /// `/var/log/pods/NAMESPACE_NAME_UID`.
    pub fn pod_log_dir(&self, namespace: &str, name: &str, uid: &str) -> PathBuf {
        self.pod_logs_dir().join(format!("{namespace}_{name}_{uid}"))
    }

    /// `/var/log/containers`.
    pub fn log_links_dir(&self) -> PathBuf {
        self.log_dir.join("containers")
    }

    pub fn seccomp_dir(&self) -> PathBuf {
        self.root_dir.join("seccomp")
    }

    pub fn address_texts(&self) -> Vec<String> {
        self.addresses.iter().map(IpAddr::to_string).collect()
    }

    pub(super) fn make_folders(&self) -> Result<(), StartError> {
        // Node agents expect those of device and CSI plugins before the first pod.
        let plugins = ["plugins", "plugins_registry", "device-plugins"].map(|name| self.root_dir.join(name));
        let own = [self.pod_logs_dir(), self.log_links_dir(), self.seccomp_dir()];
        for path in plugins.into_iter().chain(own) {
            std::fs::create_dir_all(&path).map_err(|source| StartError::Folder { path: path.display().to_string(), source })?;
        }
        // Secrets and tokens are below, and programs of containers with rights of their owners.
        let pods = self.pods_dir();
        let closed = make_closed_dir(&pods).and_then(|()| std::fs::set_permissions(&pods, std::fs::Permissions::from_mode(CLOSED_MODE)));
        closed.map_err(|source| StartError::Folder { path: pods.display().to_string(), source })
    }
}

/// The kubelet's mode for the folders of pods: local users do not get in.
const CLOSED_MODE: u32 = 0o750;

/// Makes a folder and what is missing above it, closed to others.
pub(super) fn make_closed_dir(path: &Path) -> std::io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(CLOSED_MODE).create(path)
}
