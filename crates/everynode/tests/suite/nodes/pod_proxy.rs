//! `pods/proxy`: any request, handed on to a port of a pod, with TLS when its name says so.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::Arc;

use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::json;

use crate::support::Cluster;
use crate::support::cluster::{PODS, pod};

/// A pod whose address is the machine's own on the cluster's network, where the test listens.
pub fn requests_reach_ports_with_tls(cluster: &Cluster) {
    let gateway = cluster.gateway();
    let listener = TcpListener::bind((gateway.as_str(), 0)).expect("the address is this machine's");
    let port = listener.local_addr().expect("it listens").port();
    let serving = std::thread::spawn(move || echo_with_tls(&listener));
    let mut elsewhere = pod("elsewhere", "true");
    elsewhere["spec"]["schedulerName"] = "nobody".into();
    cluster.create_pod(&elsewhere);
    let set_ip = |ip: &str| {
        let status = json!({"status": {"podIP": ip, "podIPs": [{"ip": ip}]}});
        let path = format!("{PODS}/elsewhere/status");
        let answer = cluster.api().ask("PATCH", &path, "application/merge-patch+json", status.to_string().as_bytes());
        assert_eq!(answer.expect("the server answers").code, 200);
    };
    let ask = |name: &str| cluster.api().with_header("X-Asked", "yes").get(&format!("{PODS}/{name}/proxy/some/where?x=1"));

    set_ip("127.0.0.1");
    let refused = ask("elsewhere:22");
    assert_eq!(refused.code, 400, "what listens on the server's own loopback is not a pod's");
    assert!(refused.text().contains("address not allowed"), "{}", refused.text());

    set_ip(&gateway);
    let answer = ask(&format!("https:elsewhere:{port}"));
    assert_eq!(answer.code, 200, "{}", answer.text());
    let heard = answer.text().to_lowercase();
    assert!(heard.starts_with("get /some/where?x=1 http/1.1\r\n") && heard.contains("\r\nx-asked: yes\r\n"), "{heard}");
    serving.join().expect("one connection was answered");
    cluster.delete_pod("elsewhere");
}

/// Shows a self-signed certificate, wants none, and answers one request with its own head.
fn echo_with_tls(listener: &TcpListener) {
    let signed = rcgen::generate_simple_self_signed(vec!["somebody-else".to_owned()]).expect("a certificate can be made");
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(signed.signing_key.serialize_der()));
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has them")
        .with_no_client_auth()
        .with_single_cert(vec![signed.cert.der().clone()], key)
        .expect("key and certificate belong together");
    let (mut stream, _) = listener.accept().expect("the server connects");
    let mut connection = rustls::ServerConnection::new(Arc::new(config)).expect("the configuration is complete");
    let mut tls = rustls::Stream::new(&mut connection, &mut stream);
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        tls.read_exact(&mut byte).expect("a request follows");
        head.push(byte[0]);
    }
    write!(tls, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", head.len()).expect("the server reads");
    tls.write_all(&head).expect("the server reads");
    tls.conn.send_close_notify();
    tls.flush().expect("the server reads");
}
