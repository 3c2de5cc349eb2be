//! The real `kubectl` over both of its transports.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};

use super::cluster::Cluster;

const TRANSPORTS: [(&str, &[(&str, &str)]); 2] =
    [("WebSocket", &[]), ("SPDY", &[("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "false"), ("KUBECTL_PORT_FORWARD_WEBSOCKETS", "false")])];

struct Kubectl {
    config: PathBuf,
    environment: &'static [(&'static str, &'static str)],
}

impl Kubectl {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command.arg("--kubeconfig").arg(&self.config).args(arguments).envs(self.environment.iter().copied());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }

    async fn run(&self, arguments: &[&str], input: &[u8]) -> (i32, String, String) {
        let mut child = self.command(arguments).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let sending = async {
            let _ = stdin.write_all(input).await;
            drop(stdin);
        };
        let running = async { tokio::join!(sending, child.wait_with_output()).1.unwrap() };
        let Output { status, stdout, stderr } = tokio::time::timeout(Duration::from_secs(60), running).await.expect("kubectl ends");
        (status.code().unwrap_or(-1), String::from_utf8_lossy(&stdout).into_owned(), String::from_utf8_lossy(&stderr).into_owned())
    }

    fn spawn(&self, arguments: &[&str]) -> Child {
        self.command(arguments).spawn().unwrap()
    }
}

fn write_config(cluster: &Cluster, path: &Path) {
    let (certificate, key) = cluster.authority.identity("admin");
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {
            "server": format!("https://{}", cluster.api), "certificate-authority-data": BASE64.encode(&cluster.authority.pem)}}],
        "users": [{"name": "u", "user": {"client-certificate-data": BASE64.encode(certificate), "client-key-data": BASE64.encode(key)}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    });
    std::fs::write(path, config.to_string()).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_real_kubectl_is_content() {
    if !testing::can_run(&[testing::KUBECTL]) {
        return;
    }
    let cluster = Cluster::start().await;
    let config = cluster.dir.path().join("kubeconfig");
    write_config(&cluster, &config);
    cluster.runtime.log("one\ntwo\n");
    for (name, environment) in TRANSPORTS {
        let kubectl = Kubectl { config: config.clone(), environment };
        let (code, out, error) = kubectl.run(&["exec", "p", "--", "sh", "-c", "echo out; echo err >&2; exit 3"], b"").await;
        assert_eq!((code, out.as_str()), (3, "out\n"), "{name}: {error}");
        assert_eq!(error, "err\ncommand terminated with exit code 3\n", "{name}");
        let (code, out, error) = kubectl.run(&["exec", "-i", "p", "--", "wc", "-c"], &vec![b'x'; 300_000]).await;
        assert_eq!((code, out.trim()), (0, "300000"), "{name}: {error}");
        check_copy(&kubectl, &cluster, name).await;
        check_forward(&kubectl, name).await;
    }
    let kubectl = Kubectl { config, environment: &[] };
    cluster.collect_figures().await;
    let (code, out, error) = kubectl.run(&["top", "pods"], b"").await;
    assert!(code == 0 && out.contains("1Mi"), "{out}{error}");
    let (code, out, error) = kubectl.run(&["top", "nodes"], b"").await;
    assert!(code == 0 && out.contains("node"), "{out}{error}");
    check_logs(&kubectl, &cluster).await;
}

async fn check_logs(kubectl: &Kubectl, cluster: &Cluster) {
    let (code, out, error) = kubectl.run(&["logs", "p", "--tail=1"], b"").await;
    assert_eq!((code, out.as_str()), (0, "two\n"), "{error}");
    let (code, _, error) = kubectl.run(&["logs", "p", "--previous"], b"").await;
    assert_eq!((code, error.as_str()), (1, "Error from server (BadRequest): previous terminated container \"c\" in pod \"p\" not found\n"));
    let mut following = kubectl.spawn(&["logs", "-f", "p"]);
    let mut lines = BufReader::new(following.stdout.take().unwrap()).lines();
    for expected in ["one", "two"] {
        assert_eq!(lines.next_line().await.unwrap().as_deref(), Some(expected));
    }
    cluster.runtime.log("three\n");
    assert_eq!(lines.next_line().await.unwrap().as_deref(), Some("three"));
    cluster.runtime.end_container(0);
    assert_eq!(lines.next_line().await.unwrap(), None);
    assert!(following.wait().await.unwrap().success());
}

async fn check_copy(kubectl: &Kubectl, cluster: &Cluster, name: &str) {
    let (from, to, back) = (cluster.dir.path().join("from"), cluster.dir.path().join("to"), cluster.dir.path().join("back"));
    std::fs::write(&from, vec![b'z'; 500_000]).unwrap();
    let (code, _, error) = kubectl.run(&["cp", &from.display().to_string(), &format!("p:{}", to.display())], b"").await;
    assert_eq!(code, 0, "{name}: {error}");
    assert_eq!(std::fs::read(&to).unwrap().len(), 500_000, "{name}");
    let (code, _, error) = kubectl.run(&["cp", &format!("p:{}", to.display()), &back.display().to_string()], b"").await;
    assert_eq!((code, std::fs::read(&back).unwrap().len()), (0, 500_000), "{name}: {error}");
    std::fs::remove_file(to).unwrap();
}

async fn check_forward(kubectl: &Kubectl, name: &str) {
    let port = super::echo_server().await;
    let mut forwarding = kubectl.spawn(&["port-forward", "p", &format!(":{port}")]);
    let mut lines = BufReader::new(forwarding.stdout.take().unwrap()).lines();
    let line = lines.next_line().await.unwrap().unwrap_or_default();
    let address = line.split(' ').nth(2).unwrap_or_else(|| panic!("{name}: {line}")).to_owned();
    for number in 0..5 {
        let mut stream = tokio::net::TcpStream::connect(&address).await.unwrap();
        let text = format!("hello {number}").repeat(10_000);
        let (mut reader, mut writer) = stream.split();
        let sending = async {
            writer.write_all(text.as_bytes()).await.unwrap();
            writer.shutdown().await.unwrap();
        };
        let mut answer = String::new();
        let receiving = tokio::time::timeout(Duration::from_secs(20), reader.read_to_string(&mut answer));
        let ((), received) = tokio::join!(sending, receiving);
        received.unwrap_or_else(|_| panic!("{name}: {} of {} bytes came", answer.len(), text.len())).unwrap();
        assert_eq!(answer.len(), text.len(), "{name}");
    }
    forwarding.kill().await.unwrap();
}
