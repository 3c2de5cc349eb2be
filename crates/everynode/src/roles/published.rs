//! The endpoint of the Service `kubernetes`: where pods reach this API server.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use k8s_openapi::api::core::v1::Endpoints;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::watch;

use agent::tree::Tree;

const NAMESPACE: &str = "default";
const NAME: &str = "kubernetes";
const MANAGER: &str = "kube-apiserver";
/// How often what others changed is put right.
const PERIOD: Duration = Duration::from_secs(60);
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// An address of a documentation range: asking for the way to it sends nothing.
const SOMEWHERE: (&str, u16) = ("192.0.2.1", 9);

/// The address that this machine shows to others, by its default route.
pub fn address_towards_others() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect(SOMEWHERE).ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|address| !address.is_unspecified())
}

/// Keeps Endpoints and EndpointSlice of the Service until `shutdown` turns true.
pub async fn publish(client: Client, address: SocketAddr, mut shutdown: watch::Receiver<bool>) {
    loop {
        let pause = match apply(&client, address).await {
            Ok(()) => PERIOD,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "the address of the Service kubernetes cannot be published");
                RETRY_PAUSE
            }
        };
        // Both arms only wait.
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = shutdown.wait_for(|&stopping| stopping) => return,
        }
    }
}

async fn apply(client: &Client, address: SocketAddr) -> kube::Result<()> {
    let params = PatchParams::apply(MANAGER).force();
    let slices: Api<Tree<EndpointSlice>> = Api::namespaced(client.clone(), NAMESPACE);
    slices.patch(NAME, &params, &Patch::Apply(slice(address))).await?;
    // Clients in pods read the older form, too.
    let endpoints: Api<Tree<Endpoints>> = Api::namespaced(client.clone(), NAMESPACE);
    endpoints.patch(NAME, &params, &Patch::Apply(older_form(address))).await.map(|_| ())
}

fn slice(address: SocketAddr) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": NAME, "labels": {"kubernetes.io/service-name": NAME}},
        "addressType": if address.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": [{"addresses": [address.ip()], "conditions": {"ready": true}}],
        "ports": [port(address)],
    })
}

fn older_form(address: SocketAddr) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": {"name": NAME, "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
        "subsets": [{"addresses": [{"ip": address.ip()}], "ports": [port(address)]}],
    })
}

fn port(address: SocketAddr) -> Value {
    json!({"name": "https", "port": address.port(), "protocol": "TCP"})
}
