//! A plain client: HTTP/2 over TLS, without what a Kubernetes client does on top, so that most of
//! what is measured is the server.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use base64::Engine as _;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Large enough that a list never waits for the client's permission to go on.
const WINDOW_BYTES: u32 = 64 << 20;
const FRAME_BYTES_MAX: u32 = 1 << 20;

/// Opens connections as the administrator.
pub struct Connector {
    tls: TlsConnector,
    address: String,
}

/// One connection for many requests at once. Clones share it.
#[derive(Clone)]
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    authority: Arc<str>,
}

impl Connector {
    pub fn new(kubeconfig: &Path, address: &str) -> anyhow::Result<Connector> {
        let text = std::fs::read_to_string(kubeconfig).context("cannot read the server's kubeconfig")?;
        let config = kinds::yaml::parse(&text).context("the kubeconfig is no YAML")?.0.into_value();
        let (cluster, user) = (&config["clusters"][0]["cluster"], &config["users"][0]["user"]);
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&data(&cluster["certificate-authority-data"])?)?)?;
        let certificate = CertificateDer::from_pem_slice(&data(&user["client-certificate-data"])?)?;
        let key = PrivateKeyDer::from_pem_slice(&data(&user["client-key-data"])?)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![certificate], key)?;
        tls.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Connector { tls: Arc::new(tls).into(), address: address.to_owned() })
    }

    pub async fn connect(&self) -> anyhow::Result<Connection> {
        let tcp = TcpStream::connect(&self.address).await.context("cannot connect to the server")?;
        tcp.set_nodelay(true)?;
        let address: std::net::SocketAddr = self.address.parse().context("the address is no address")?;
        let stream = self.tls.connect(address.ip().into(), tcp).await.context("TLS failed")?;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .max_frame_size(FRAME_BYTES_MAX)
            .handshake(TokioIo::new(stream))
            .await?;
        // It ends when its last sender is dropped; errors reach the requests.
        tokio::spawn(connection);
        Ok(Connection { sender, authority: self.address.as_str().into() })
    }
}

impl Connection {
    /// Sends a request and returns the answer when its head is there.
    pub async fn send(&self, method: Method, path: &str, content_type: &str, body: Bytes) -> anyhow::Result<Response<Incoming>> {
        let request = Request::builder()
            .method(method)
            .uri(format!("https://{}{path}", self.authority))
            .header(HOST, &*self.authority)
            .header(CONTENT_TYPE, content_type)
            .body(Full::new(body))?;
        let mut sender = self.sender.clone();
        sender.ready().await?;
        let response = sender.send_request(request).await?;
        if !response.status().is_success() {
            let (status, body) = (response.status(), response.into_body().collect().await?.to_bytes());
            bail!("{path} answers {status}: {}", String::from_utf8_lossy(&body));
        }
        Ok(response)
    }

    /// Sends a request and reads the whole answer; returns its length.
    pub async fn ask(&self, method: Method, path: &str, content_type: &str, body: Bytes) -> anyhow::Result<usize> {
        let mut body = self.send(method, path, content_type, body).await?.into_body();
        let mut len = 0;
        while let Some(frame) = body.frame().await {
            len += frame?.data_ref().map_or(0, Bytes::len);
        }
        Ok(len)
    }

    pub async fn get(&self, path: &str) -> anyhow::Result<usize> {
        self.ask(Method::GET, path, JSON, Bytes::new()).await
    }

    pub async fn create(&self, path: &str, object: &Value) -> anyhow::Result<usize> {
        self.ask(Method::POST, path, JSON, object.to_string().into()).await
    }
}

const JSON: &str = "application/json";

/// The content of a field that ends in `-data`.
fn data(field: &Value) -> anyhow::Result<Vec<u8>> {
    let text = field.as_str().context("the kubeconfig lacks certificates")?;
    base64::engine::general_purpose::STANDARD.decode(text).context("the kubeconfig holds no base64")
}
