//! The way from the API server to the agents of nodes: where they listen, connections to them, what
//! is handed on.
//!
//! Connections to agents are verified with the cluster's CA and made as the API server's own user;
//! who the client is was decided before. Those to ports of pods are neither.

pub mod forward;
pub mod usage;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use kinds::status::Status;
use kinds::table::{self, Kind};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::body::Body;
use forward::Outgoing;

/// A node that does not answer is given up after this time.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);

/// Where agents listen that do not say so.
const DEFAULT_PORT: u16 = 10250;

/// The label of nodes that have no agent of their own.
const SIMULATED: &str = "everynode.dev/simulated";

/// Addresses of a node in the order in which they are tried to be of use.
const ADDRESS_TYPES: [&str; 4] = ["InternalIP", "ExternalIP", "InternalDNS", "Hostname"];

pub(crate) fn kind() -> &'static Kind {
    table::by_kind("", "Node").expect("the table has nodes")
}

pub(crate) fn is_simulated(node: &Value) -> bool {
    node["metadata"]["labels"][SIMULATED] == "true"
}

/// Where something listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    host: String,
    port: u16,
    speaks: Speaks,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Speaks {
    Plain,
    /// With certificates of the cluster's authority on both sides.
    AgentTls,
    /// With any certificate.
    PodTls,
}

impl Endpoint {
    /// A node's agent, as its Node object says.
    pub fn of(node: &Value) -> Result<Endpoint, Status> {
        let addresses = node["status"]["addresses"].as_array().map(Vec::as_slice).unwrap_or_default();
        let find = |wanted: &&str| addresses.iter().find(|address| address["type"] == **wanted)?["address"].as_str();
        let host = ADDRESS_TYPES.iter().find_map(find);
        let port = node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64().and_then(|port| u16::try_from(port).ok());
        let host = host.ok_or_else(|| Status::new(500, "", "no preferred addresses found; known addresses: []"))?;
        Ok(Endpoint { host: host.to_owned(), port: port.filter(|&port| port > 0).unwrap_or(DEFAULT_PORT), speaks: Speaks::AgentTls })
    }

    /// A port of a pod.
    pub fn of_pod(ip: IpAddr, port: u16, is_tls: bool) -> Endpoint {
        Endpoint { host: ip.to_string(), port, speaks: if is_tls { Speaks::PodTls } else { Speaks::Plain } }
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') { write!(f, "[{}]:{}", self.host, self.port) } else { write!(f, "{}:{}", self.host, self.port) }
    }
}

/// Why a node's agent does not answer, in the words of Go's network library, which users and tools
/// know.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("dial tcp {endpoint}: i/o timeout")]
    Timeout { endpoint: Endpoint },
    #[error("dial tcp {endpoint}: connect: {}", dial_reason(.source))]
    Dial { endpoint: Endpoint, source: std::io::Error },
    #[error("tls: failed to verify certificate: {source}")]
    Tls { source: std::io::Error },
    #[error("{source}")]
    Http { source: hyper::Error },
    #[error("{0}")]
    Request(String),
}

/// Go's words are those of the C library, which begin with small letters there.
fn dial_reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        std::io::ErrorKind::HostUnreachable => "no route to host".to_owned(),
        std::io::ErrorKind::NetworkUnreachable => "network is unreachable".to_owned(),
        std::io::ErrorKind::TimedOut => "connection timed out".to_owned(),
        _ => error.to_string(),
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Connects to the agents of nodes, and to pods.
#[derive(Clone)]
pub struct NodeConnector {
    agents: TlsConnector,
    pods: TlsConnector,
}

impl NodeConnector {
    /// `agents` trusts the cluster's CA and has the API server's client certificate; `pods` takes
    /// any certificate and has none, as the API server cannot check what pods show. Neither may
    /// offer HTTP/2, which has no upgrades.
    pub fn new(agents: Arc<ClientConfig>, pods: Arc<ClientConfig>) -> NodeConnector {
        NodeConnector { agents: TlsConnector::from(agents), pods: TlsConnector::from(pods) }
    }

    /// Sends a request over a connection of its own, which ends with the answer's body, or lives on
    /// as what it is upgraded to.
    pub async fn request(&self, endpoint: &Endpoint, outgoing: Outgoing<'_>) -> Result<Response<Incoming>, ConnectError> {
        let dialing = tokio::time::timeout(DIAL_TIMEOUT, self.dial(endpoint));
        let stream = dialing.await.map_err(|_| ConnectError::Timeout { endpoint: endpoint.clone() })??;
        let (mut sender, connection) =
            http1::handshake::<_, Body>(TokioIo::new(stream)).await.map_err(|source| ConnectError::Http { source })?;
        // Its errors are those of the request or of the answer's body.
        tokio::spawn(async move { drop(connection.with_upgrades().await) });
        let mut request = Request::builder().method(outgoing.method).uri(outgoing.path).header(http::header::HOST, endpoint.to_string());
        if let Some(headers) = request.headers_mut() {
            headers.extend(outgoing.headers);
        }
        let request = request.body(outgoing.body).map_err(|error| ConnectError::Request(error.to_string()))?;
        sender.send_request(request).await.map_err(|source| ConnectError::Http { source })
    }

    async fn dial(&self, endpoint: &Endpoint) -> Result<Box<dyn Stream>, ConnectError> {
        let connected = TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await;
        let stream = connected.map_err(|source| ConnectError::Dial { endpoint: endpoint.clone(), source })?;
        // Keystrokes are small; waiting for more to send only delays them.
        let _ = stream.set_nodelay(true);
        let tls = match endpoint.speaks {
            Speaks::Plain => return Ok(Box::new(stream)),
            Speaks::AgentTls => &self.agents,
            Speaks::PodTls => &self.pods,
        };
        let name = ServerName::try_from(endpoint.host.clone()).map_err(|error| ConnectError::Request(error.to_string()))?;
        let stream = tls.connect(name, stream).await.map_err(|source| ConnectError::Tls { source })?;
        Ok(Box::new(stream))
    }
}
