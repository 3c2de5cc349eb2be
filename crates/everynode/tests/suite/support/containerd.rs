//! A second node in the namespaces of a local cluster's node: an agent that has its containers made
//! by Debian's containerd.
//!
//! Everything runs in the control groups of the local node, so the end of the cluster ends whatever
//! this leaves running.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use super::Image;
use super::cluster::{Cluster, hierarchies, wait_long};

const PAUSE: &str = "everynode.test/pause:1";
const PLUGINS: &str = "/usr/lib/cni";

/// In the namespaces of the node; the first is below its folder.
const DIR: &str = "/var/lib/cri";
const STATE_DIR: &str = "/run/cri";
const LOG_DIR: &str = "/var/log/cri";
const PORT: &str = "10251";

/// No node of a local cluster has pod addresses there.
const POD_RANGE: &str = "10.253.77.0/24";

/// Where programs look for CNI configuration and plugins, in the node's namespaces.
pub const CNI_CONF_DIR: &str = "/var/lib/cri/cni";
pub const CNI_BIN_DIR: &str = "/var/lib/cri/bin";

pub struct CriNode<'a> {
    cluster: &'a Cluster,
    host: String,
    pub name: String,
    has_network: bool,
    containerd: Option<Child>,
    agent: Option<Child>,
}

impl<'a> CriNode<'a> {
    /// Ready, with the image `busybox:test`. None: the test cannot run here.
    pub fn start_or_skip(cluster: &'a Cluster) -> Option<CriNode<'a>> {
        if !testing::can_run(&testing::CONTAINERD) {
            return None;
        }
        let node = CriNode::start(cluster, true);
        cluster.wait_node(&node.name, "True");
        Some(node)
    }

    /// Same, but nothing connects its pods: it gets a range from the server, and has CNI plugins
    /// without a configuration.
    pub fn start_without_network_or_skip(cluster: &'a Cluster) -> Option<CriNode<'a>> {
        if !testing::can_run(&testing::CONTAINERD) {
            return None;
        }
        let node = CriNode::start(cluster, false);
        cluster.wait_node(&node.name, "False");
        Some(node)
    }

    fn start(cluster: &'a Cluster, has_network: bool) -> CriNode<'a> {
        let name = format!("{}-cri", cluster.name);
        // Stopped again: what is wanted of it are its credentials.
        cluster.succeed(&["node", "add", &name]);
        cluster.succeed(&["node", "stop", &name]);
        if !has_network {
            // What it registered, if it came to that, has the local node's range.
            cluster.kubectl().run(&format!("delete node {name} --ignore-not-found"));
        }
        let mut node = CriNode { cluster, host: cluster.control_plane(), name, has_network, containerd: None, agent: None };
        node.configure();
        node.containerd = Some(node.run(&["containerd", "--config", &format!("{DIR}/config.toml")], "containerd.log"));
        wait_long("containerd", || node.ctr(&["version"]).then_some(()));
        node.import_basics();
        node.start_agent();
        // The node below it is not for pods.
        cluster.kubectl().run(&format!("cordon {}", node.host));
        node
    }

    /// Ends its agent, which leaves the containers, and starts another.
    pub fn restart_agent(&mut self) {
        end(self.agent.take());
        self.start_agent();
    }

    /// Where CNI configurations are, seen from outside.
    pub fn cni_conf_dir(&self) -> PathBuf {
        self.dir().join("cni")
    }

    /// The node's folder for this, seen from outside.
    pub fn dir(&self) -> PathBuf {
        self.cluster.node_dir(&self.host).join("lib/cri")
    }

    /// Where its agent reaches the API server.
    pub fn server(&self) -> String {
        let text = std::fs::read_to_string(self.cluster.node_dir(&self.name).join("kubeconfig")).expect("the node has a kubeconfig");
        let config = kinds::yaml::parse(&text).expect("the kubeconfig is YAML").0.into_value();
        let server = config["clusters"][0]["cluster"]["server"].as_str().expect("there is a server");
        server.trim_start_matches("https://").to_owned()
    }

    /// Where the logs of its pods are, seen from outside.
    pub fn pod_logs(&self) -> PathBuf {
        self.cluster.node_dir(&self.host).join("log/cri/pods")
    }

    fn configure(&self) {
        let dir = self.dir();
        let plugins = if self.has_network { PLUGINS } else { CNI_BIN_DIR };
        for folder in ["cni", "bin"] {
            std::fs::create_dir_all(dir.join(folder)).expect("the node's folder can be written to");
        }
        let config = format!(
            r#"version = 2
root = "{DIR}/root"
state = "{STATE_DIR}/state"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.internal.v1.tracing", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
address = "{STATE_DIR}/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
path = "{DIR}/opt"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE}"
netns_mounts_under_state_dir = true
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{plugins}"
conf_dir = "{CNI_CONF_DIR}"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
Root = "{STATE_DIR}/runc"
"#
        );
        std::fs::write(dir.join("config.toml"), config).expect("the node's folder can be written to");
        if self.has_network { self.configure_network() } else { self.copy_plugins() }
    }

    fn configure_network(&self) {
        let ranges = json!([[{"subnet": POD_RANGE}]]);
        let ipam =
            json!({"type": "host-local", "dataDir": format!("{STATE_DIR}/ipam"), "ranges": ranges, "routes": [{"dst": "0.0.0.0/0"}]});
        let network = json!({"cniVersion": "0.4.0", "name": "pods", "plugins": [{"type": "ptp", "ipam": ipam}]});
        std::fs::write(self.cni_conf_dir().join("10-pods.conflist"), network.to_string()).expect("the node's folder can be written to");
    }

    /// Networks bring plugins of their own besides: not into the machine's folder.
    fn copy_plugins(&self) {
        for plugin in std::fs::read_dir(PLUGINS).expect("the plugins are installed").flatten() {
            std::fs::copy(plugin.path(), self.dir().join("bin").join(plugin.file_name())).expect("the node's folder can be written to");
        }
    }

    fn import_basics(&self) {
        let mut pause = Image::busybox();
        let mut config: Value = serde_json::from_slice(&pause.config).expect("images are described in JSON");
        config["config"] = json!({"Entrypoint": ["/bin/busybox", "sleep", "1000000"]});
        pause.config = config.to_string().into_bytes();
        self.import(&Image::busybox(), "docker.io/library/busybox:test");
        self.import(&pause, PAUSE);
    }

    /// The name is a whole one, with its registry.
    pub fn import(&self, image: &Image, name: &str) {
        let archive = self.cluster.home.path("cri-image.tar");
        image.save(&archive, &[name]);
        let archive = archive.to_str().expect("temporary paths are text");
        assert!(self.ctr(&["-n", "k8s.io", "images", "import", "--snapshotter", "native", archive]), "{name} can be imported");
    }

    fn ctr(&self, arguments: &[&str]) -> bool {
        let mut command = self.inside();
        command.args(["ctr", "-a", &format!("{STATE_DIR}/containerd.sock")]).args(arguments);
        command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    }

    fn start_agent(&mut self) {
        let node = self.cluster.node(&self.host);
        let addresses = node["status"]["addresses"].as_array().expect("nodes have addresses");
        let own = addresses.iter().find(|address| address["type"] == "InternalIP").expect("nodes have addresses of their own");
        let credentials = self.cluster.node_dir(&self.name);
        let file = |name: &str| credentials.join(name).display().to_string();
        let program = env!("CARGO_BIN_EXE_everynode");
        let cgroup = format!("{}/cri", self.cluster.group(&self.host).display());
        let endpoint = format!("unix://{STATE_DIR}/containerd.sock");
        let (root_dir, data_dir, agent_state) = (format!("{DIR}/kubelet"), format!("{DIR}/data"), format!("{STATE_DIR}/agent"));
        let mut arguments =
            vec![program, "agent", "--node-name", &self.name, "--node-ip", own["address"].as_str().expect("addresses are text")];
        let (kubeconfig, certificate, key, authority) = (file("kubeconfig"), file("kubelet.crt"), file("kubelet.key"), file("ca.crt"));
        arguments.extend(["--kubeconfig", &kubeconfig, "--tls-cert-file", &certificate, "--tls-private-key-file", &key]);
        arguments.extend(["--client-ca-file", &authority, "--port", PORT, "--container-runtime-endpoint", &endpoint]);
        arguments.extend(["--root-dir", &root_dir, "--data-dir", &data_dir, "--state-dir", &agent_state, "--log-dir", LOG_DIR]);
        arguments.extend([
            "--cgroup-root",
            &cgroup,
            "--eviction-hard",
            "nodefs.available<256Mi,imagefs.available<256Mi,nodefs.inodesFree<1%",
        ]);
        if !self.has_network {
            arguments.extend(["--pod-network", "none"]);
        }
        self.agent = Some(self.run(&arguments, "agent-cri.log"));
    }

    /// Starts a program in the node's namespaces and control groups.
    fn run(&self, arguments: &[&str], log: &str) -> Child {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.cluster.home.path(log));
        let log = log.expect("the temporary folder can be written to");
        let groups: Vec<PathBuf> = hierarchies().iter().map(|root| root.join(self.cluster.group(&self.host)).join("agent")).collect();
        let groups: Vec<String> = groups.iter().filter(|dir| dir.is_dir()).map(|dir| dir.display().to_string()).collect();
        let join: String = groups.iter().map(|dir| format!("echo $$ > {dir}/cgroup.procs; ")).collect();
        let mut command = self.inside();
        command.args(["sh", "-c", &format!("{join} exec \"$@\""), "sh"]).args(arguments);
        let error = log.try_clone().expect("descriptors can be copied");
        command.stdin(Stdio::null()).stdout(log).stderr(error).spawn().expect("nsenter can be started")
    }

    fn inside(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.cluster.keeper(&self.host).to_string(), "--mount", "--net", "--uts", "--ipc", "--"]);
        command
    }
}

impl Drop for CriNode<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for log in ["containerd.log", "agent-cri.log"] {
                let text = std::fs::read_to_string(self.cluster.home.path(log)).unwrap_or_default();
                let lines: Vec<&str> = text.lines().collect();
                eprintln!("--- {log}\n{}", lines[lines.len().saturating_sub(25)..].join("\n"));
            }
        }
        // The agent first: without containerd it would tell of errors.
        end(self.agent.take());
        end(self.containerd.take());
    }
}

fn end(child: Option<Child>) {
    if let Some(mut child) = child {
        let _ = child.kill();
        let _ = child.wait();
    }
}
