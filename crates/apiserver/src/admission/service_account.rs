//! ServiceAccount: every pod runs as an account, and finds its token where programs look for it.

use kinds::status::Status;
use kinds::table;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{list_mut, refuse};
use crate::auth::node::{MIRROR, refers_to_any};
use crate::registry::Registry;
use crate::registry::encoding::read_stored;
use crate::request::WriteRequest;

const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME_PREFIX: &str = "kube-api-access-";

/// A bit over an hour: the kubelet refreshes tokens well before.
const TOKEN_SECONDS: i64 = 3607;

/// What matters of an account; it is read for every pod.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Account {
    #[serde(default)]
    image_pull_secrets: Vec<Value>,
    automount_service_account_token: Option<bool>,
}

/// A mirror pod gets no account, and may name none: the agent that makes it need not have the right
/// to use what it refers to.
pub fn check(write: &WriteRequest<'_>, pod: &Value) -> Result<(), Status> {
    if pod["metadata"]["annotations"][MIRROR].is_null() {
        return Ok(());
    }
    let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
    let mut sources = volumes.flat_map(|volume| volume["projected"]["sources"].as_array().into_iter().flatten());
    if !pod["spec"]["serviceAccountName"].as_str().unwrap_or_default().is_empty() {
        Err(refuse(write, pod, "a mirror pod may not reference service accounts"))
    } else if refers_to_any(&pod["spec"], "secrets") {
        Err(refuse(write, pod, "a mirror pod may not reference secrets"))
    } else if sources.any(|source| !source["serviceAccountToken"].is_null()) {
        Err(refuse(write, pod, "a mirror pod may not use ServiceAccountToken volume projections"))
    } else {
        Ok(())
    }
}

pub fn admit(registry: &Registry, write: &WriteRequest<'_>, pod: &mut Value) -> Result<(), Status> {
    if !pod["metadata"]["annotations"][MIRROR].is_null() {
        return Ok(());
    }
    if pod["spec"]["serviceAccountName"].as_str().unwrap_or_default().is_empty() {
        pod["spec"]["serviceAccountName"] = "default".into();
        pod["spec"]["serviceAccount"] = "default".into();
    }
    let name = pod["spec"]["serviceAccountName"].as_str().unwrap_or_default().to_owned();
    let accounts = table::by_resource("", "v1", "serviceaccounts").expect("the table has service accounts");
    let Some(entry) = registry.entry(accounts, write.namespace, &name)? else {
        let namespace = write.namespace;
        return Err(refuse(write, pod, &format!("error looking up service account {namespace}/{name}: serviceaccount {name:?} not found")));
    };
    let account: Account = read_stored(&entry.value);
    if pod["spec"]["imagePullSecrets"].as_array().is_none_or(Vec::is_empty) && !account.image_pull_secrets.is_empty() {
        pod["spec"]["imagePullSecrets"] = account.image_pull_secrets.into();
    }
    let wanted = pod["spec"]["automountServiceAccountToken"].as_bool().or(account.automount_service_account_token);
    if wanted.unwrap_or(true) {
        mount_token(pod);
    }
    Ok(())
}

fn mount_token(pod: &mut Value) {
    let existing = pod["spec"]["volumes"].as_array().into_iter().flatten().find_map(|volume| {
        let name = volume["name"].as_str()?;
        name.starts_with(VOLUME_PREFIX).then(|| name.to_owned())
    });
    let volume = existing.clone().unwrap_or_else(|| format!("{VOLUME_PREFIX}{}", crate::registry::create::random_suffix()));
    let mut mounted = false;
    for list in ["initContainers", "containers"] {
        for container in pod["spec"][list].as_array_mut().into_iter().flatten() {
            let mounts = list_mut(container, "volumeMounts");
            if !mounts.iter().any(|mount| mount["mountPath"] == MOUNT_PATH) {
                mounts.push(json!({"name": volume, "readOnly": true, "mountPath": MOUNT_PATH}));
                mounted = true;
            }
        }
    }
    if mounted && existing.is_none() {
        list_mut(&mut pod["spec"], "volumes").push(token_volume(&volume));
    }
}

fn token_volume(name: &str) -> Value {
    json!({"name": name, "projected": {
        "defaultMode": 0o644,
        "sources": [
            {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
        ],
    }})
}
