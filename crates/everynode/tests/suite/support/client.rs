//! A small blocking HTTP/1.1 client over TLS: says exactly what a test wants said, also what no
//! decent client would say.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::Value;

use super::DEADLINE;

/// The server to talk to, and the user to act as.
#[derive(Clone)]
pub struct Client {
    address: SocketAddr,
    authority: CertificateDer<'static>,
    tls: Arc<ClientConfig>,
    headers: Vec<(String, String)>,
}

/// One connection; requests follow one another on it.
pub struct Connection {
    stream: BufReader<StreamOwned<ClientConnection, TcpStream>>,
    headers: Vec<(String, String)>,
}

#[derive(Debug)]
pub struct Answer {
    pub code: u16,
    pub body: Vec<u8>,
}

impl Client {
    pub fn from_kubeconfig(path: &Path) -> Client {
        let text = std::fs::read_to_string(path).expect("the kubeconfig can be read");
        let config = kinds::yaml::parse(&text).expect("the kubeconfig is YAML").0.into_value();
        let server = config["clusters"][0]["cluster"]["server"].as_str().expect("there is a server");
        let authority = CertificateDer::from_pem_slice(&data(&config["clusters"][0]["cluster"]["certificate-authority-data"]));
        let authority = authority.expect("the authority is a certificate");
        let user = &config["users"][0]["user"];
        let certificate = CertificateDer::from_pem_slice(&data(&user["client-certificate-data"])).expect("there is a certificate");
        let key = PrivateKeyDer::from_pem_slice(&data(&user["client-key-data"])).expect("there is a key");
        Client {
            address: server.trim_start_matches("https://").parse().expect("the server is an address and a port"),
            tls: client_config(&authority, Some((certificate, key))),
            authority,
            headers: Vec::new(),
        }
    }

    /// The same server, as the anonymous user.
    pub fn without_certificate(&self) -> Client {
        Client { tls: client_config(&self.authority, None), ..self.clone() }
    }

    /// With a header in every request.
    pub fn with_header(&self, name: &str, value: &str) -> Client {
        let mut client = self.clone();
        client.headers.push((name.to_owned(), value.to_owned()));
        client
    }

    pub fn with_token(&self, token: &str) -> Client {
        self.without_certificate().with_header("Authorization", &format!("Bearer {token}"))
    }

    pub fn connect(&self) -> io::Result<Connection> {
        let tcp = TcpStream::connect(self.address)?;
        tcp.set_nodelay(true)?;
        // A server that hangs fails the test instead of hanging it.
        tcp.set_read_timeout(Some(DEADLINE))?;
        tcp.set_write_timeout(Some(DEADLINE))?;
        let session = ClientConnection::new(self.tls.clone(), ServerName::from(self.address.ip())).map_err(io::Error::other)?;
        Ok(Connection { stream: BufReader::new(StreamOwned::new(session, tcp)), headers: self.headers.clone() })
    }

    /// One request on a connection of its own.
    pub fn ask(&self, method: &str, path: &str, content_type: &str, body: &[u8]) -> io::Result<Answer> {
        self.connect()?.ask(method, path, content_type, body)
    }

    pub fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, "", b"").expect("the server answers")
    }

    pub fn delete(&self, path: &str) -> Answer {
        self.ask("DELETE", path, "", b"").expect("the server answers")
    }

    pub fn post(&self, path: &str, body: &Value) -> Answer {
        self.ask("POST", path, "application/json", body.to_string().as_bytes()).expect("the server answers")
    }

    /// Creates; anything but 201 fails the test.
    pub fn create(&self, path: &str, body: &Value) -> Value {
        let answer = self.post(path, body);
        assert_eq!(answer.code, 201, "{}", answer.text());
        answer.json()
    }
}

impl Connection {
    pub fn ask(&mut self, method: &str, path: &str, content_type: &str, body: &[u8]) -> io::Result<Answer> {
        self.send(method, path, content_type, body)?;
        self.answer()
    }

    pub fn send(&mut self, method: &str, path: &str, content_type: &str, body: &[u8]) -> io::Result<()> {
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: test\r\nAccept: application/json\r\n");
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        if !content_type.is_empty() {
            head += &format!("Content-Type: {content_type}\r\nContent-Length: {}\r\n", body.len());
        }
        self.write(format!("{head}\r\n").as_bytes())?;
        self.write(body)
    }

    /// Bytes as they are.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)?;
        self.stream.get_mut().flush()
    }

    pub fn answer(&mut self) -> io::Result<Answer> {
        let (code, length) = self.head()?;
        let mut body = vec![0; length.unwrap_or(0)];
        match length {
            Some(_) => self.stream.read_exact(&mut body)?,
            None => {
                while let Some(chunk) = self.chunk()? {
                    body.extend(chunk);
                }
            }
        }
        Ok(Answer { code, body })
    }

    /// Status code, and the length of the body unless it comes in chunks.
    pub fn head(&mut self) -> io::Result<(u16, Option<usize>)> {
        let status = self.line()?;
        let code = status.split(' ').nth(1).and_then(|code| code.parse().ok());
        let code = code.ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, format!("no status line: {status:?}")))?;
        let (mut length, mut chunked) = (0, false);
        loop {
            let line = self.line()?.to_ascii_lowercase();
            if line.is_empty() {
                return Ok((code, (!chunked).then_some(length)));
            }
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().map_err(io::Error::other)?;
            }
            chunked |= line.starts_with("transfer-encoding:") && line.contains("chunked");
        }
    }

    /// The next piece of a body in chunks; None at its end.
    pub fn chunk(&mut self) -> io::Result<Option<Vec<u8>>> {
        let length = usize::from_str_radix(&self.line()?, 16).map_err(|_| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        let mut chunk = vec![0; length + 2];
        self.stream.read_exact(&mut chunk)?;
        chunk.truncate(length);
        Ok((length > 0).then_some(chunk))
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {}", self.text()))
    }

    /// The message of a Status, after a look at whether it is one with this code.
    pub fn status(&self, code: u16) -> String {
        assert_eq!(self.code, code, "{}", self.text());
        let status = self.json();
        assert_eq!((&status["kind"], &status["code"]), (&"Status".into(), &code.into()), "{status}");
        status["message"].as_str().unwrap_or_default().to_owned()
    }
}

/// TLS that trusts one authority; with a certificate of one's own or without.
fn client_config(authority: &CertificateDer<'static>, own: Option<(CertificateDer<'static>, PrivateKeyDer<'static>)>) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.clone()).expect("the authority is a certificate");
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().expect("ring knows TLS").with_root_certificates(roots);
    Arc::new(match own {
        Some((certificate, key)) => builder.with_client_auth_cert(vec![certificate], key).expect("the key fits the certificate"),
        None => builder.with_no_client_auth(),
    })
}

fn data(value: &Value) -> Vec<u8> {
    let text = value.as_str().expect("credentials are inline");
    base64::engine::general_purpose::STANDARD.decode(text).expect("credentials are base64")
}
