//! The cluster's certificate authority, and the certificates it signs.
//!
//! `pki/ca.crt` and `pki/ca.key` are kept; server and client certificates are made anew at each
//! start.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    SanType,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// The first address of the Service range; the Service `kubernetes` has it.
const KUBERNETES_SERVICE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 96, 0, 1));

/// Names that the API server is known by within every cluster.
const CLUSTER_NAMES: &[&str] =
    &["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "localhost"];

/// How long certificates are valid, as kubeadm has it: the authority's, and those that it signs.
/// Clocks of other machines may be behind a little.
const AUTHORITY_DAYS: u64 = 3650;
const DAYS: u64 = 365;
const CLOCK_SKEW: Duration = Duration::from_secs(300);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// One that is kept in a file is made anew when less than this is left of it.
const RENEWAL_DAYS: u64 = 120;

/// The names and addresses in the server's certificate.
#[derive(Debug)]
pub struct ServerNames {
    addresses: Vec<IpAddr>,
}

impl ServerNames {
    pub fn for_addresses(listen: SocketAddr, others: impl IntoIterator<Item = SocketAddr>) -> ServerNames {
        let mut addresses: Vec<IpAddr> = others.into_iter().map(|address| address.ip()).collect();
        addresses.extend([listen.ip(), KUBERNETES_SERVICE, IpAddr::from([127, 0, 0, 1]), IpAddr::from([0u16, 0, 0, 0, 0, 0, 0, 1])]);
        addresses.sort();
        addresses.dedup();
        ServerNames { addresses }
    }
}

/// The certificates of a PEM text, each as DER; an error where there is none.
pub fn authority_certificates(pem: &str) -> anyhow::Result<Vec<Vec<u8>>> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let found = found.context("a certificate cannot be read")?;
    anyhow::ensure!(!found.is_empty(), "there is no certificate");
    Ok(found.into_iter().map(|certificate| certificate.to_vec()).collect())
}

/// A certificate with its key, as PEM.
#[derive(Debug)]
pub struct Identity {
    pub certificate_pem: String,
    pub key_pem: String,
}

/// Signs certificates for the cluster.
pub struct Authority {
    pub certificate_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Reads the authority from `dir`, or makes one there.
    pub fn load_or_create(dir: &Path) -> anyhow::Result<Authority> {
        let (certificate_path, key_path) = (dir.join("ca.crt"), dir.join("ca.key"));
        if !certificate_path.exists() {
            create(&certificate_path, &key_path)?;
        }
        let read = |path: &Path| std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()));
        let certificate_pem = read(&certificate_path)?;
        let key = KeyPair::from_pem(&read(&key_path)?).with_context(|| format!("{} holds no private key", key_path.display()))?;
        let issuer = Issuer::from_ca_cert_pem(&certificate_pem, key)
            .with_context(|| format!("{} holds no certificate of an authority", certificate_path.display()))?;
        Ok(Authority { certificate_pem, issuer })
    }

    /// The key for service-account tokens in `dir`, made if it is not there. PKCS#8.
    pub fn token_key(dir: &Path) -> anyhow::Result<Vec<u8>> {
        let path = dir.join("sa.key");
        if !path.exists() {
            let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).context("cannot make a key for service-account tokens")?;
            crate::private_file::write(&path, &key.serialize_pem())?;
        }
        let pem = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let key = KeyPair::from_pem(&pem).with_context(|| format!("{} holds no private key", path.display()))?;
        Ok(key.serialize_der())
    }

    /// A certificate that authenticates a client as `user` in `groups`.
    pub fn client(&self, user: &str, groups: &[&str]) -> anyhow::Result<Identity> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, user);
        for group in groups {
            params.distinguished_name.push(DnType::OrganizationName, *group);
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params).with_context(|| format!("cannot make a certificate for {user}"))
    }

    /// TLS for a client of nodes' agents, which proves to be `user` in `groups`. HTTP/1.1 only:
    /// streams need its upgrades.
    pub fn client_config(&self, user: &str, groups: &[&str]) -> anyhow::Result<Arc<ClientConfig>> {
        let identity = self.client(user, groups)?;
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.certificate_pem.as_bytes()).context("the authority's certificate is no PEM")?)?;
        let chain = vec![CertificateDer::from_pem_slice(identity.certificate_pem.as_bytes())?];
        let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes())?;
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        Ok(Arc::new(config))
    }

    /// TLS for the server: its certificate, and clients' certificates checked where they send one.
    pub fn server_config(&self, names: &ServerNames) -> anyhow::Result<Arc<ServerConfig>> {
        let mut params =
            CertificateParams::new(CLUSTER_NAMES.iter().map(|&n| n.to_owned()).collect::<Vec<_>>()).context("fixed names are valid")?;
        params.distinguished_name.push(DnType::CommonName, "kube-apiserver");
        params.subject_alt_names.extend(names.addresses.iter().map(|&address| SanType::IpAddress(address)));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let identity = self.sign(params).context("cannot make the server's certificate")?;
        tls_config(&identity, &self.certificate_pem)
    }

    /// A certificate for the endpoints of a node's agent.
    pub fn node_server(&self, node: &str, address: IpAddr) -> anyhow::Result<Identity> {
        let mut params = CertificateParams::new(vec![node.to_owned()]).with_context(|| format!("{node:?} is no name for a node"))?;
        params.distinguished_name.push(DnType::CommonName, format!("system:node:{node}"));
        params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
        params.subject_alt_names.push(SanType::IpAddress(address));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(params).with_context(|| format!("cannot make a certificate for node {node}"))
    }

    fn sign(&self, mut params: CertificateParams) -> anyhow::Result<Identity> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        set_validity(&mut params, DAYS)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Identity { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }
}

/// PEM files for the agent's endpoints.
#[derive(Debug)]
pub struct TlsFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
    pub authority: PathBuf,
}

/// TLS for a node's endpoints, from PEM files; clients' certificates are checked against the
/// authority where they send one.
pub fn node_server_config(files: &TlsFiles) -> anyhow::Result<Arc<ServerConfig>> {
    let read = |path: &Path| std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()));
    let identity = Identity { certificate_pem: read(&files.certificate)?, key_pem: read(&files.key)? };
    tls_config(&identity, &read(&files.authority)?).context("the files for TLS do not fit together")
}

fn create(certificate_path: &Path, key_path: &Path) -> anyhow::Result<()> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).context("cannot make a key for the certificate authority")?;
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "everynode-ca");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    set_validity(&mut params, AUTHORITY_DAYS)?;
    let certificate = params.self_signed(&key).context("cannot sign the certificate of the authority")?;
    if let Some(dir) = key_path.parent() {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    // The key first: a certificate without its key would look like a finished authority.
    crate::private_file::write(key_path, &key.serialize_pem())?;
    crate::private_file::write(certificate_path, &certificate.pem())
}

fn set_validity(params: &mut CertificateParams, days: u64) -> anyhow::Result<()> {
    let now = since_epoch()?;
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + now.saturating_sub(CLOCK_SKEW);
    params.not_after = epoch + now + DAY * u32::try_from(days)?;
    Ok(())
}

fn since_epoch() -> anyhow::Result<Duration> {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).context("the clock of this machine is before 1970")
}

/// Whether a certificate in a file is to be made anew: it ends soon, ends later than any that is
/// made today, or cannot be read.
pub fn is_due(certificate_pem: &str) -> bool {
    let Ok(der) = CertificateDer::from_pem_slice(certificate_pem.as_bytes()) else { return true };
    let Ok((_, certificate)) = x509_parser::parse_x509_certificate(&der) else { return true };
    let Ok(now) = since_epoch() else { return true };
    let left = certificate.validity().not_after.timestamp() - i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let days = left / i64::try_from(DAY.as_secs()).unwrap_or(i64::MAX);
    !(RENEWAL_DAYS..=DAYS).contains(&u64::try_from(days).unwrap_or(0))
}

fn tls_config(identity: &Identity, authority_pem: &str) -> anyhow::Result<Arc<ServerConfig>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority_pem.as_bytes()).context("the authority's certificate is no PEM")?)?;
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).allow_unauthenticated().build()?;
    let chain = vec![CertificateDer::from_pem_slice(identity.certificate_pem.as_bytes())?];
    let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes())?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(clients)
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn validity(pem: &str) -> (i64, i64) {
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        let (_, certificate) = x509_parser::parse_x509_certificate(&der).unwrap();
        let now = i64::try_from(since_epoch().unwrap().as_secs()).unwrap();
        (now - certificate.validity().not_before.timestamp(), certificate.validity().not_after.timestamp() - now)
    }

    #[test]
    fn certificates_are_valid_for_as_long_as_kubeadms() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::load_or_create(dir.path()).unwrap();
        let leaf = authority.client("jane", &[]).unwrap();
        let node = authority.node_server("node", [127, 0, 0, 1].into()).unwrap();
        let day = i64::try_from(DAY.as_secs()).unwrap();
        for (pem, days) in [(&authority.certificate_pem, 3650), (&leaf.certificate_pem, 365), (&node.certificate_pem, 365)] {
            let (before, after) = validity(pem);
            assert!((290..360).contains(&before), "valid since {before} s");
            assert!((days * day - 60..=days * day).contains(&after), "valid for {after} s");
        }
        assert!(!is_due(&leaf.certificate_pem));
        assert!(is_due(&authority.certificate_pem) && is_due("") && is_due("no certificate"));
    }
}
