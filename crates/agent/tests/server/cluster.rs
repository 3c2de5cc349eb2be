//! An API server and a node's agent in this process, over TLS, with a pod `p` that has one running
//! container `c`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent::node::{Agent, Settings};
use agent::server::auth::Auth;
use apiserver::ApiServer;
use apiserver::admission::AdmissionSettings;
use apiserver::auth::authenticate::Authenticator;
use apiserver::auth::tokens::TokenKey;
use apiserver::nodes::NodeConnector;
use apiserver::registry::Registry;
use apiserver::request::{MASTERS, User};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::client;
use super::fake::{Fake, FakeImages};

pub struct Cluster {
    pub runtime: Arc<Fake>,
    pub node: Arc<Agent>,
    pub authority: Authority,
    pub api: SocketAddr,
    agent: SocketAddr,
    server: ApiServer,
    stop_agent: watch::Sender<bool>,
    stop_api: watch::Sender<bool>,
    agent_task: std::sync::Mutex<Option<JoinHandle<()>>>,
    api_task: JoinHandle<()>,
    pub dir: tempfile::TempDir,
}

/// Far away: machines are busy, and the agent itself looks at some things every ten seconds.
const UNTIL_MAX: Duration = Duration::from_secs(60);

impl Cluster {
    pub async fn start() -> Cluster {
        let authority = Authority::new();
        let (stop_api, api_shutdown) = watch::channel(false);
        let (stop_agent, agent_shutdown) = watch::channel(false);
        let server = api_server(&authority, api_shutdown.clone()).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let api = listener.local_addr().unwrap();
        let api_task = tokio::spawn(apiserver::http::serve::serve(server.clone(), listener, authority.server(), api_shutdown));

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let runtime = Fake::new();
        let client =
            kube::Client::new(server.as_user(User::system("system:node:node", &["system:nodes", "system:authenticated"])), "default");
        let agent = Agent::new(settings(&dir, address), client.clone(), runtime.clone(), Arc::new(FakeImages)).await.unwrap();
        let node = Arc::new(agent);
        let serving = agent::server::serve(node.clone(), listener, authority.server(), Auth::new(client), agent_shutdown.clone());
        let agent = node.clone();
        let agent_task = tokio::spawn(async move {
            tokio::join!(serving, agent.run(agent_shutdown));
        });
        let agent_task = std::sync::Mutex::new(Some(agent_task));
        let cluster = Cluster { runtime, node, authority, api, agent: address, server, stop_agent, stop_api, agent_task, api_task, dir };
        cluster.run_pod().await;
        cluster
    }

    async fn run_pod(&self) {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
            "spec": {"nodeName": "node", "containers": [{"name": "c", "image": "fake", "imagePullPolicy": "Never"}], "restartPolicy": "Never"},
        });
        let (code, text) = client::send(self, "admin", "POST", "/api/v1/namespaces/default/pods", pod.to_string()).await;
        assert_eq!(code, 201, "{text}");
        let began = Instant::now();
        while !self.get("/api/v1/namespaces/default/pods/p").await.1.contains("\"phase\":\"Running\"") {
            assert!(
                began.elapsed() < Duration::from_secs(20),
                "the pod does not run: {}",
                self.get("/api/v1/namespaces/default/pods/p").await.1
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn get(&self, path: &str) -> (u16, String) {
        client::send(self, "admin", "GET", path, String::new()).await
    }

    /// The answer's body, to be read piece by piece.
    pub async fn open(&self, path: &str) -> Incoming {
        let request = http::Request::get(path).header("host", "api");
        client::request(self.api, &self.authority, Some("admin"), request, String::new()).await.into_body()
    }

    pub async fn ask_agent(&self, user: Option<&str>, path: &str) -> (u16, String) {
        let request = http::Request::get(path).header("host", "node");
        let response = client::request(self.agent, &self.authority, user, request, String::new()).await;
        let code = response.status().as_u16();
        (code, String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap())
    }

    /// Asks the agent with a token instead of a certificate.
    pub async fn ask_agent_with_token(&self, token: &str, path: &str) -> u16 {
        let request = http::Request::get(path).header("host", "node").header("authorization", format!("Bearer {token}"));
        client::request(self.agent, &self.authority, None, request, String::new()).await.status().as_u16()
    }

    /// Several rounds, until there is a difference: a node measures at most once a second.
    pub async fn collect_figures(&self) {
        let began = Instant::now();
        while self.get("/apis/metrics.k8s.io/v1beta1/nodes/node").await.0 == 404 {
            assert!(began.elapsed() < Duration::from_secs(20), "there are no figures");
            self.server.collect_usage().await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub async fn until(&self, what: &str, holds: impl Fn() -> bool) {
        let began = Instant::now();
        while !holds() {
            assert!(began.elapsed() < UNTIL_MAX, "never seen: {what}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub async fn stop_agent(&self) {
        self.stop_agent.send_replace(true);
        let task = self.agent_task.lock().unwrap().take();
        task.unwrap().await.unwrap();
    }

    pub async fn stop(self) {
        self.stop_agent.send_replace(true);
        self.stop_api.send_replace(true);
        self.api_task.await.unwrap();
    }
}

async fn api_server(authority: &Authority, shutdown: watch::Receiver<bool>) -> ApiServer {
    let rng = ring::rand::SystemRandom::new();
    let key = ring::signature::EcdsaKeyPair::generate_pkcs8(&ring::signature::ECDSA_P256_SHA256_FIXED_SIGNING, &rng).unwrap();
    let authenticator = Authenticator { tokens: Arc::new(TokenKey::from_pkcs8(key.as_ref()).unwrap()) };
    let registry = Arc::new(Registry::new(Arc::new(store::mem::open())).unwrap());
    let admission = AdmissionSettings::default();
    let server = ApiServer::new(registry, authenticator, admission, shutdown).with_nodes(connector(authority));
    apiserver::bootstrap::run(&server).await.unwrap();
    server
}

fn connector(authority: &Authority) -> NodeConnector {
    NodeConnector::new(authority.client(Some("kube-apiserver")), agent::unverified::client_config().unwrap())
}

fn settings(dir: &tempfile::TempDir, address: SocketAddr) -> Settings {
    Settings {
        name: "node".to_owned(),
        addresses: vec![address.ip()],
        labels: Default::default(),
        taints: Vec::new(),
        root_dir: dir.path().join("kubelet"),
        log_dir: dir.path().join("log"),
        image_dir: dir.path().join("images"),
        manifest_dir: None,
        cgroup_root: "everynode/test".to_owned(),
        cluster_dns: Vec::new(),
        cluster_domain: "cluster.local".to_owned(),
        max_pods: 10,
        port: address.port(),
        provider_id: None,
        pod_cidr: None,
        allowed_unsafe_sysctls: Vec::new(),
        first_user_id: None,
        thresholds: Default::default(),
        cpu_millis: None,
        memory_bytes: None,
    }
}

/// Signs certificates for all users. Administrators and the API server are of the group that may do
/// everything, `nobody` of none.
pub struct Authority {
    pub pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Authority {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "ca");
        let pem = params.self_signed(&key).unwrap().pem();
        Authority { pem, issuer: Issuer::new(params, key) }
    }

    /// Certificate and key, as PEM.
    pub fn identity(&self, user: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, user);
        if user != "nobody" {
            params.distinguished_name.push(DnType::OrganizationName, MASTERS);
        }
        params.subject_alt_names.push(SanType::IpAddress("127.0.0.1".parse().unwrap()));
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    fn chain(&self, user: &str) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let (certificate, key) = self.identity(user);
        (vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()], PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap())
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap()).unwrap();
        Arc::new(roots)
    }

    fn server(&self) -> Arc<ServerConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let clients = WebPkiClientVerifier::builder_with_provider(self.roots(), provider.clone()).allow_unauthenticated().build().unwrap();
        let (chain, key) = self.chain("server");
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let mut config = builder.with_client_cert_verifier(clients).with_single_cert(chain, key).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Arc::new(config)
    }

    pub fn client(&self, user: Option<&str>) -> Arc<ClientConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let builder = builder.with_root_certificates(self.roots());
        Arc::new(match user {
            Some(user) => {
                let (chain, key) = self.chain(user);
                builder.with_client_auth_cert(chain, key).unwrap()
            }
            None => builder.with_no_client_auth(),
        })
    }
}
