//! Serving the API over TLS: HTTP/1.1 and HTTP/2 on one port, client certificates, a clean stop.

use std::sync::Arc;

use futures::FutureExt;
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::CertificateDer;
use wire::{Client, Deadlines, Limits};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::server::ApiServer;
use crate::audit::Remote;
use crate::auth::authenticate::Certificate;
use crate::request::User;

/// Nodes come with certificates, a few connections each, and so do administrators. Pods come with
/// tokens, all pods of a node from one address, and whole sites may come from one.
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
            server.respond_to_the_end(request).map(|answer| answer.unwrap_or_else(|never| match never {}))
        }
    };
    wire::serve(listener, tls, LIMITS, Deadlines::default(), shutdown, make).await;
}

/// The user that a certificate stands for: common name and organizations. One with several names
/// stands for no user: which of them counts would depend on the reader.
fn certificate_user(certificate: &CertificateDer<'_>) -> Option<User> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let subject = parsed.subject();
    let mut names = subject.iter_common_name();
    let name = names.next()?.as_str().ok()?.to_owned();
    if names.next().is_some() {
        return None;
    }
    let groups = subject.iter_organization().filter_map(|o| o.as_str().ok()).map(str::to_owned).collect();
    let fingerprint = hex::encode(Sha256::digest(certificate));
    let extra = [("authentication.kubernetes.io/credential-id".to_owned(), vec![format!("X509SHA256={fingerprint}")])].into();
    Some(User { name, groups, extra, ..User::default() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

    fn user(names: &[DnType]) -> Option<User> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        for (at, kind) in names.iter().enumerate() {
            params.distinguished_name.push(kind.clone(), format!("name-{at}"));
        }
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        certificate_user(certificate.der())
    }

    #[test]
    fn a_certificate_with_several_names_stands_for_nobody() {
        let another_name = DnType::CustomDnType(vec![2, 5, 4, 3]);
        assert_eq!(user(&[DnType::CommonName]).unwrap().name, "name-0");
        assert!(user(&[DnType::CommonName, another_name]).is_none());
        assert!(user(&[DnType::OrganizationName]).is_none());
    }
}
