//! Which API server a command speaks to, as kubectl would choose it, and the state that deciders
//! want to see of it.

use std::path::PathBuf;

use anyhow::{Context, bail};
use brain::pretend::Server;
use brain::request::Resource;
use clap::Args;
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};

use crate::connection;

/// Objects of one page of a list.
const PAGE_OBJECTS_MAX: usize = 1000;

/// The arguments that kubectl has for it.
#[derive(Debug, Args)]
pub struct Target {
    /// Path of the kubeconfig; by default $KUBECONFIG or ~/.kube/config.
    #[arg(long)]
    pub kubeconfig: Option<PathBuf>,

    /// Context of the kubeconfig; by default the current one.
    #[arg(long)]
    pub context: Option<String>,

    /// Namespace; by default that of the context.
    #[arg(short, long)]
    pub namespace: Option<String>,
}

impl Target {
    /// A client, and the namespace that is meant where none is named.
    pub async fn client(&self) -> anyhow::Result<(Client, String)> {
        let config = self.config().await?;
        let namespace = self.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        Ok((connection::client(config)?, namespace))
    }

    /// The configuration for the chosen cluster and user.
    pub async fn config(&self) -> anyhow::Result<kube::Config> {
        let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        let config = match &self.kubeconfig {
            Some(path) => Kubeconfig::read_from(path).with_context(|| format!("cannot read {}", path.display()))?,
            None => Kubeconfig::read().context("there is no kubeconfig; `everynode up` makes one, --kubeconfig names one")?,
        };
        kube::Config::from_custom_kubeconfig(config, &options).await.context("the kubeconfig is not usable")
    }
}

/// A copy of all objects of the resources.
pub async fn copy_state(client: &Client, resources: &[Resource]) -> anyhow::Result<Server> {
    let mut state = Server::default();
    for resource in resources {
        for object in list(client, *resource).await? {
            state.insert(*resource, object);
        }
    }
    Ok(state)
}

async fn list(client: &Client, resource: Resource) -> anyhow::Result<Vec<Value>> {
    let root = if resource.group.is_empty() { "/api".to_owned() } else { format!("/apis/{}", resource.group) };
    let mut objects = Vec::new();
    let mut next = String::new();
    loop {
        let page = if next.is_empty() { String::new() } else { format!("&continue={next}") };
        let path = format!("{root}/{}/{}?limit={PAGE_OBJECTS_MAX}{page}", resource.version, resource.plural);
        let request = http::Request::get(path).body(Vec::new()).context("cannot build a request")?;
        let mut answer: Value = client.request(request).await.with_context(|| format!("cannot list {}", resource.plural))?;
        if let Some(Value::Array(items)) = answer.get_mut("items").map(Value::take) {
            objects.extend(items);
        }
        next = answer.pointer("/metadata/continue").and_then(Value::as_str).unwrap_or_default().to_owned();
        if next.is_empty() {
            return Ok(objects);
        }
    }
}

/// The name in `ds/NAME`, `daemonset/NAME`, `daemonsets/NAME` or plain `NAME`.
pub fn set_name(target: &str) -> anyhow::Result<&str> {
    match target.split_once('/') {
        None => Ok(target),
        Some(("ds" | "daemonset" | "daemonsets" | "daemonset.apps" | "daemonsets.apps", name)) if !name.is_empty() => Ok(name),
        Some((kind, _)) => bail!("{kind:?} is no DaemonSet: write ds/NAME"),
    }
}

/// Asks the server what it would store for an object; it stores nothing.
pub async fn dry_run(client: &Client, resource: Resource, namespace: &str, object: &Value) -> anyhow::Result<Value> {
    let name = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    let collection = format!("/apis/{}/{}/namespaces/{namespace}/{}", resource.group, resource.version, resource.plural);
    let body = |object: &Value| serde_json::to_vec(object).context("cannot write JSON");
    let mut wanted = object.clone();
    wanted["metadata"]["namespace"] = json!(namespace);
    let put =
        http::Request::put(format!("{collection}/{name}?dryRun=All")).header("Content-Type", "application/json").body(body(&wanted)?)?;
    match client.request(put).await {
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        answer => return answer.with_context(|| format!("the server would refuse {name:?}")),
    }
    let post = http::Request::post(format!("{collection}?dryRun=All")).header("Content-Type", "application/json").body(body(&wanted)?)?;
    client.request(post).await.with_context(|| format!("the server would refuse {name:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_as_kubectl_names_them() {
        assert_eq!(set_name("ds/web").ok(), Some("web"));
        assert_eq!(set_name("daemonset.apps/web").ok(), Some("web"));
        assert_eq!(set_name("web").ok(), Some("web"));
        assert!(set_name("deploy/web").is_err());
    }
}
