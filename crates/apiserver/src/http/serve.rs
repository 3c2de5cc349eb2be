//! Serving the API over TLS: HTTP/1.1 and HTTP/2 on one port, client certificates, a clean stop.

use std::sync::Arc;

use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::CertificateDer;
use wire::{Client, Deadlines, Limits};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::service::ApiServer;
use crate::audit::Remote;
use crate::auth::User;
use crate::auth::authenticate::Certificate;

/// Nodes come with certificates, a few connections each, and so do administrators. Pods come with tokens, all pods of a node from one
/// address, and whole sites may come from one.
const LIMITS: Limits = Limits { connections: 20_000, handshakes: 2000, handshakes_per_peer: 200, unproven_per_peer: 2000 };

/// Accepts connections until `shutdown` turns true, then lets running requests end.
pub async fn serve(server: ApiServer, listener: TcpListener, tls: Arc<ServerConfig>, shutdown: watch::Receiver<bool>) {
    let make = move |client: &Client<'_>| {
        let (server, user, remote) = (server.clone(), client.certificate.and_then(certificate_user), Remote(client.address));
        move |mut request: hyper::Request<hyper::body::Incoming>| {
            if let Some(user) = &user {
                request.extensions_mut().insert(Certificate(user.clone()));
            }
            request.extensions_mut().insert(remote);
            let server = server.clone();
            async move { server.respond(request).await }
        }
    };
    wire::serve(listener, tls, LIMITS, Deadlines::default(), shutdown, make).await;
}

/// The user that a certificate stands for: common name and organizations.
fn certificate_user(certificate: &CertificateDer<'_>) -> Option<User> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let subject = parsed.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let groups = subject.iter_organization().filter_map(|o| o.as_str().ok()).map(str::to_owned).collect();
    let fingerprint: String = Sha256::digest(certificate).iter().map(|byte| format!("{byte:02x}")).collect();
    let extra = [("authentication.kubernetes.io/credential-id".to_owned(), vec![format!("X509SHA256={fingerprint}")])].into();
    Some(User { name, groups, extra, ..User::default() })
}
