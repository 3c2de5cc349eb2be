//! A registry that has the image: requests with retries, and errors as users know them.

use std::future::Future;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::StreamExt;
use oci_client::client::{BlobResponse, Client, ClientConfig, ClientProtocol, SizedStream};
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::manifest::OciDescriptor;
use oci_client::secrets::RegistryAuth;
use oci_client::{Reference as Address, RegistryOperation};

use super::DOCUMENT_BYTES_MAX;
use crate::images::digest::Digest;
use crate::images::error::{Error, Result};
use crate::images::manifest::{Descriptor, MEDIA_TYPES};
use crate::images::registries::{Endpoint, Registries, is_loopback};
use containers::Credentials;
use containers::reference::Reference;

/// Waiting long for a refused or unanswered connection does not help: the kubelet's part tries
/// again later.
const RESOLVE_ATTEMPTS_MAX: u32 = 3;
const ACCESS_DENIED: &str = "pull access denied, repository does not exist or may require authorization";
/// As a list of what no proxy is for: the star is for names only.
const EVERYTHING: &str = "*,0.0.0.0/0,::/0";

pub struct Registry {
    client: Client,
    address: Address,
    auth: RegistryAuth,
    scheme: &'static str,
    /// The registry has given a token: what it refuses now, it refuses to that token's owner.
    has_token: AtomicBool,
    pub registries: Registries,
}

/// Finds a server and credentials that lead to the image; answers what the name leads to.
pub async fn resolve(registries: &Registries, reference: &Reference, credentials: &[Credentials]) -> Result<(Registry, Vec<u8>)> {
    let mut last = None;
    for endpoint in registries.endpoints(&reference.registry) {
        let own: &[Credentials] = if endpoint.origin { credentials } else { &[] };
        match resolve_at(registries, reference, &endpoint, own).await {
            Ok(found) => return Ok(found),
            Err(error) => {
                if !endpoint.origin {
                    tracing::info!(mirror = endpoint.host, error = error.chain(), "a mirror does not have the image");
                }
                last = Some(error);
            }
        }
    }
    let source = Box::new(last.expect("the registry itself is always asked"));
    Err(Error::Resolve { image: reference.canonical(), source })
}

async fn resolve_at(
    registries: &Registries,
    reference: &Reference,
    endpoint: &Endpoint,
    credentials: &[Credentials],
) -> Result<(Registry, Vec<u8>)> {
    let mut first = None;
    for auth in credentials.iter().map(registry_auth).chain([RegistryAuth::Anonymous]) {
        let registry = Registry::new(registries, reference, endpoint, auth)?;
        match registry.top(reference).await {
            Ok(document) => return Ok((registry, document)),
            // Others may see what these credentials do not: registries hide what one may not read.
            Err(error @ (Error::Unauthorized(_) | Error::NoSuchImage(_))) => first = first.or(Some(error)),
            Err(error) => return Err(error),
        }
    }
    Err(first.expect("anonymous access is always tried"))
}

fn registry_auth(credentials: &Credentials) -> RegistryAuth {
    match credentials {
        Credentials::Basic { username, password } => RegistryAuth::Basic(username.clone(), password.clone()),
        Credentials::Bearer(token) => RegistryAuth::Bearer(token.clone()),
    }
}

fn client_config(registries: &Registries, endpoint: &Endpoint) -> ClientConfig {
    // Proxies from the environment are for the world outside. Naming any proxy turns those off; the
    // one that is named is for no host.
    let no_proxy = is_loopback(&endpoint.host);
    ClientConfig {
        protocol: if endpoint.plain { ClientProtocol::Http } else { ClientProtocol::Https },
        read_timeout: Some(registries.stall()),
        connect_timeout: Some(registries.stall()),
        user_agent: concat!("everynode/", env!("CARGO_PKG_VERSION")),
        http_proxy: no_proxy.then(|| "http://127.0.0.1:9".to_owned()),
        no_proxy: no_proxy.then(|| EVERYTHING.to_owned()),
        ..ClientConfig::default()
    }
}

fn install_tls() {
    static ONCE: Once = Once::new();
    // Fails when the program has chosen one before, which is as good.
    ONCE.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
}

/// oci-client 0.18 makes a client with the system's certificates in any case, also for plain HTTP,
/// and panics when there are none.
fn check_certificates() -> Result<()> {
    static SEEN: AtomicBool = AtomicBool::new(false);
    if SEEN.load(Ordering::Relaxed) || !rustls_native_certs::load_native_certs().certs.is_empty() {
        SEEN.store(true, Ordering::Relaxed);
        return Ok(());
    }
    let why = "this machine has no CA certificates: install them (ca-certificates) or set SSL_CERT_FILE";
    Err(Error::Registry(format!("cannot speak to registries: {why}")))
}

impl Registry {
    fn new(registries: &Registries, reference: &Reference, endpoint: &Endpoint, auth: RegistryAuth) -> Result<Registry> {
        install_tls();
        check_certificates()?;
        let client = Client::try_from(client_config(registries, endpoint))
            .map_err(|error| Error::Registry(format!("cannot speak to registries: {}", causes(&error))))?;
        let (host, repository) = (endpoint.host.clone(), reference.repository.clone());
        let address = match (&reference.digest, &reference.tag) {
            (Some(digest), _) => Address::with_digest(host, repository, digest.clone()),
            (None, tag) => Address::with_tag(host, repository, tag.clone().unwrap_or_default()),
        };
        let scheme = if endpoint.plain { "http" } else { "https" };
        Ok(Registry { client, address, auth, scheme, has_token: AtomicBool::new(false), registries: registries.clone() })
    }

    async fn top(&self, reference: &Reference) -> Result<Vec<u8>> {
        let attempts = self.registries.attempts.min(RESOLVE_ATTEMPTS_MAX);
        let document = self.retry(attempts, || self.try_manifest(&self.address)).await;
        let document = document.map_err(|error| match error {
            Error::NoSuchImage(_) => Error::NoSuchImage(reference.canonical()),
            other => other,
        })?;
        match reference.digest.as_deref().map(str::parse::<Digest>) {
            Some(expected) => checked(document, &expected?, "the manifest"),
            None => Ok(document),
        }
    }

    /// A manifest that an index names.
    pub async fn manifest(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        let address = self.address.clone_with_digest(descriptor.digest.to_string());
        let bytes = self.retry(self.registries.attempts, || self.try_manifest(&address)).await?;
        checked(bytes, &descriptor.digest, "the manifest")
    }

    async fn try_manifest(&self, address: &Address) -> Result<Vec<u8>> {
        let name = address.digest().or(address.tag()).unwrap_or_default();
        let url = format!("{}://{}/v2/{}/manifests/{name}", self.scheme, address.resolve_registry(), address.repository());
        self.authorize(&url).await?;
        let pulled = self.client.pull_manifest_raw(address, &self.auth, MEDIA_TYPES).await;
        let (bytes, _) = pulled.map_err(|error| self.explain(error, &url))?;
        Ok(bytes.to_vec())
    }

    /// Asks for a token where the registry wants one. Done here because the client itself would
    /// hide why there is none.
    async fn authorize(&self, url: &str) -> Result<()> {
        let asked = self.client.auth(&self.address, &self.auth, RegistryOperation::Pull).await;
        match asked {
            Ok(token) => {
                self.has_token.store(token.is_some(), Ordering::Relaxed);
                Ok(())
            }
            Err(OciDistributionError::AuthenticationFailure(reason)) => {
                let reason = reason.chars().take(200).collect::<String>();
                Err(Error::Unauthorized(format!("failed to authorize: failed to fetch oauth token: {}", reason.trim())))
            }
            Err(error) => Err(self.explain(error, url)),
        }
    }

    /// A small blob, whole.
    pub async fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        if descriptor.size > DOCUMENT_BYTES_MAX {
            return Err(Error::Unsupported(format!("configuration {} is larger than {DOCUMENT_BYTES_MAX} bytes", descriptor.digest)));
        }
        let bytes = self.retry(self.registries.attempts, || self.try_document(descriptor)).await?;
        checked(bytes, &descriptor.digest, "the configuration")
    }

    async fn try_document(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        let (mut stream, _) = self.blob(&descriptor.digest, 0).await?;
        let mut bytes = Vec::new();
        while let Some(chunk) = stream.stream.next().await {
            bytes.extend_from_slice(&chunk.map_err(|error| broken_stream(&error))?);
            if bytes.len() as u64 > DOCUMENT_BYTES_MAX {
                return Err(Error::Unsupported(format!("configuration {} is larger than {DOCUMENT_BYTES_MAX} bytes", descriptor.digest)));
            }
        }
        Ok(bytes)
    }

    /// A blob from that byte on, or from its start if the registry wants it so; answers from where.
    pub async fn blob(&self, digest: &Digest, offset: u64) -> Result<(SizedStream, u64)> {
        let url = format!("{}://{}/v2/{}/blobs/{digest}", self.scheme, self.address.resolve_registry(), self.address.repository());
        let descriptor = OciDescriptor { digest: digest.to_string(), ..OciDescriptor::default() };
        let answer = if offset == 0 {
            self.client.pull_blob_stream(&self.address, &descriptor).await.map(BlobResponse::Full)
        } else {
            self.client.pull_blob_stream_partial(&self.address, &descriptor, offset, None).await
        };
        match answer.map_err(|error| self.explain(error, &url))? {
            BlobResponse::Full(stream) => Ok((stream, 0)),
            BlobResponse::Partial(stream) => Ok((stream, offset)),
        }
    }

    pub async fn retry<T, F: Future<Output = Result<T>>>(&self, attempts: u32, mut request: impl FnMut() -> F) -> Result<T> {
        for attempt in 1..attempts {
            match request().await {
                Err(Error::Transport(why)) => tracing::debug!(attempt, why, "a request to a registry failed, trying again"),
                other => return other,
            }
            tokio::time::sleep(self.registries.backoff(attempt)).await;
        }
        request().await
    }

    fn explain(&self, error: OciDistributionError, url: &str) -> Error {
        match error {
            OciDistributionError::RequestError(error) => Error::Transport(request_text(&error, url, self.address.resolve_registry())),
            OciDistributionError::IoError(error) => broken_stream(&error),
            OciDistributionError::UnauthorizedError { .. } => Error::Unauthorized(self.unauthorized_text(url)),
            OciDistributionError::RegistryError { envelope, .. } => match envelope.errors.first().map(|error| &error.code) {
                Some(OciErrorCode::Unauthorized | OciErrorCode::Denied) => {
                    Error::Unauthorized(format!("{ACCESS_DENIED}: server message: {envelope}"))
                }
                Some(OciErrorCode::ManifestUnknown | OciErrorCode::NameUnknown | OciErrorCode::NotFound | OciErrorCode::BlobUnknown) => {
                    Error::NoSuchImage(url.to_owned())
                }
                Some(OciErrorCode::Toomanyrequests) => Error::Transport(format!("unexpected status from GET request to {url}: {envelope}")),
                _ => Error::Registry(format!("unexpected status from GET request to {url}: {envelope}")),
            },
            OciDistributionError::ServerError { code, message, .. } => status_error(code, url, &message),
            // A proxy that cuts an answer may leave half of a digest's content.
            other => Error::Registry(causes(&other)),
        }
    }
}

impl Registry {
    fn unauthorized_text(&self, url: &str) -> String {
        if self.has_token.load(Ordering::Relaxed) {
            return format!("{ACCESS_DENIED}: server message: insufficient_scope: authorization failed");
        }
        match self.auth {
            RegistryAuth::Anonymous => format!("{ACCESS_DENIED}: authorization failed: no basic auth credentials"),
            _ => format!("unexpected status from HEAD request to {url}: 401 Unauthorized"),
        }
    }
}

fn status_error(code: u16, url: &str, message: &str) -> Error {
    let message = message.chars().take(200).collect::<String>();
    let text = format!("unexpected status from GET request to {url}: {code} {}", message.trim()).trim_end().to_owned();
    match code {
        404 => Error::NoSuchImage(url.to_owned()),
        401 | 403 => Error::Unauthorized(text),
        408 | 429 | 500.. => Error::Transport(text),
        _ => Error::Registry(text),
    }
}

/// As Go's client words it, which is what users search for.
fn request_text(error: &(dyn std::error::Error + 'static), url: &str, host: &str) -> String {
    let text = causes(error);
    let failed = format!("failed to do request: Head \"{url}\"");
    if text.contains("failed to lookup address") || text.contains("dns error") {
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
        return format!("{failed}: dial tcp: lookup {name}: no such host");
    }
    let io = io_cause(error);
    match io {
        Some(io) if text.contains("connect") => format!("{failed}: dial tcp {host}: connect: {}", io_text(io)),
        _ => format!("{failed}: {text}"),
    }
}

fn io_cause<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a std::io::Error> {
    let mut next = Some(error);
    let mut found = None;
    while let Some(error) = next {
        found = error.downcast_ref::<std::io::Error>().filter(|error| error.raw_os_error().is_some()).or(found);
        next = error.source();
    }
    found
}

/// `connection refused` from `Connection refused (os error 111)`.
fn io_text(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}

fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let more = cause.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        next = cause.source();
    }
    text
}

pub fn broken_stream(error: &std::io::Error) -> Error {
    Error::Transport(format!("the connection to the registry broke: {}", causes(error)))
}

fn checked(bytes: Vec<u8>, expected: &Digest, what: &str) -> Result<Vec<u8>> {
    let actual = Digest::of(&bytes);
    if actual == *expected { Ok(bytes) } else { Err(Error::Mismatch { what: what.to_owned(), expected: expected.clone(), actual }) }
}
