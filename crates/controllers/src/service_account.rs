//! Every namespace has an account `default` and the cluster's root certificate.

use k8s_openapi::api::core::v1::{ConfigMap, ServiceAccount};
use kube::api::PostParams;
use kube::{Api, Client, ResourceExt};
use serde_json::{from_value, json};

use crate::Settings;
use crate::cluster::Cluster;
use crate::perform::{Backoff, is_done_already};

const FULL_PASS: std::time::Duration = std::time::Duration::from_secs(60);

pub async fn run(cluster: Cluster, client: Client, settings: Settings) {
    if !cluster.ready().await {
        return;
    }
    let mut namespaces = cluster.namespaces.changes();
    let mut backoff = Backoff::default();
    loop {
        namespaces.borrow_and_update();
        let mut failed = false;
        for namespace in cluster.namespaces.store.state().iter().filter(|ns| ns.metadata.deletion_timestamp.is_none()) {
            if let Err(error) = ensure(&client, &namespace.name_any(), &settings).await {
                failed = true;
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    namespace = namespace.name_any(),
                    "cannot make what every namespace has"
                );
            }
        }
        if let Some(pause) = backoff.after(failed) {
            tokio::time::sleep(pause).await;
            continue;
        }
        // Both arms only wait; changes that come meanwhile are seen by the next pass.
        tokio::select! {
            changed = namespaces.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(FULL_PASS) => {}
        }
    }
}

async fn ensure(client: &Client, namespace: &str, settings: &Settings) -> Result<(), kube::Error> {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let account = from_value(json!({"metadata": {"name": "default"}})).map_err(kube::Error::SerdeError)?;
    unless_there(accounts.create(&PostParams::default(), &account).await)?;
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let map = json!({
        "metadata": {
            "name": "kube-root-ca.crt",
            "annotations": {"kubernetes.io/description": "The certificate by which pods check the API server's. Kept by everynode."},
        },
        "data": {"ca.crt": settings.root_certificate_pem},
    });
    unless_there(maps.create(&PostParams::default(), &from_value(map).map_err(kube::Error::SerdeError)?).await)
}

fn unless_there<K>(result: Result<K, kube::Error>) -> Result<(), kube::Error> {
    match result {
        Err(error) if is_done_already(&error) => Ok(()),
        result => result.map(|_| ()),
    }
}
