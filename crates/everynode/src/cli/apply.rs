//! Applying manifests, as `kubectl apply --server-side` does, and waiting for what they start.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use brain::model::Key;
use kinds::table::{self, Kind};
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client};
use serde_json::Value;

use super::progress::Progress;

const MANAGER: &str = "everynode";

/// Between two looks at a set that rolls out.
const POLL_PERIOD: Duration = Duration::from_millis(50);

/// A document of a manifest.
#[derive(Debug)]
pub struct Manifest {
    /// File and number of the document, for messages.
    origin: String,
    kind: &'static Kind,
    namespace: String,
    name: String,
    object: Value,
}

impl Manifest {
    pub fn is_daemon_set(&self) -> bool {
        self.kind.kind == "DaemonSet"
    }

    pub fn key(&self) -> Key {
        Key::new(&self.namespace, &self.name)
    }

    pub fn origin(&self) -> &str {
        &self.origin
    }

    pub fn object(&self) -> &Value {
        &self.object
    }

    /// The namespace that the document itself names.
    pub fn named_namespace(&self) -> Option<&str> {
        self.object.pointer("/metadata/namespace")?.as_str().filter(|name| !name.is_empty())
    }
}

/// Reads all documents; refuses the whole lot if one of them cannot be applied.
pub fn read(paths: &[PathBuf]) -> anyhow::Result<Vec<Manifest>> {
    let mut manifests = Vec::new();
    for path in paths {
        if path.is_dir() {
            for file in manifest_files(path)? {
                manifests.extend(parse(
                    &file.display().to_string(),
                    &std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?,
                )?);
            }
        } else if path.as_os_str() == "-" {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
            manifests.extend(parse("standard input", &text)?);
        } else {
            let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            manifests.extend(parse(&path.display().to_string(), &text)?);
        }
    }
    Ok(manifests)
}

/// From an object that this program made.
pub fn of_object(object: Value) -> anyhow::Result<Manifest> {
    manifest("a built-in manifest".to_owned(), object)
}

fn manifest_files(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))?;
    let is_manifest = |path: &PathBuf| path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
    let mut files: Vec<PathBuf> = entries.filter_map(|entry| entry.ok().map(|e| e.path())).filter(is_manifest).collect();
    files.sort();
    Ok(files)
}

fn parse(origin: &str, text: &str) -> anyhow::Result<Vec<Manifest>> {
    let mut manifests = Vec::new();
    for (at, document) in split_documents(text).into_iter().enumerate() {
        let origin = format!("{origin}, document {}", at + 1);
        let (node, _) = kinds::yaml::parse(&document).with_context(|| format!("{origin} is no YAML"))?;
        let object = node.into_value();
        if !object.is_null() {
            manifests.push(manifest(origin, object)?);
        }
    }
    Ok(manifests)
}

/// At lines of three dashes.
fn split_documents(text: &str) -> Vec<String> {
    let mut documents = vec![String::new()];
    for line in text.lines() {
        if line == "---" || line.starts_with("--- ") {
            documents.push(String::new());
        } else if let Some(last) = documents.last_mut() {
            last.push_str(line);
            last.push('\n');
        }
    }
    documents
}

fn manifest(origin: String, object: Value) -> anyhow::Result<Manifest> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (api_version, kind_name) = (text("/apiVersion"), text("/kind"));
    let group = api_version.rsplit_once('/').map_or("", |(group, _)| group);
    let Some(kind) = table::by_kind(group, &kind_name).filter(|kind| kind.api_version() == api_version) else {
        bail!("{origin}: everynode has no kind {kind_name:?} in {api_version:?}; see `kubectl api-resources` for what there is");
    };
    let name = text("/metadata/name");
    if name.is_empty() {
        bail!("{origin}: the {kind_name} has no metadata.name");
    }
    let namespace = match text("/metadata/namespace") {
        _ if !kind.namespaced => String::new(),
        empty if empty.is_empty() => "default".to_owned(),
        given => given,
    };
    Ok(Manifest { origin, kind, namespace, name, object })
}

/// Applies all in their order.
pub async fn apply(client: &Client, manifests: &[Manifest], progress: &Progress) -> anyhow::Result<()> {
    for manifest in manifests {
        apply_one(client, manifest).await?;
        progress.done(&format!("{}/{} applied", manifest.kind.singular, manifest.name));
    }
    Ok(())
}

/// The same without a word about each.
pub async fn apply_quietly(client: &Client, manifests: &[Manifest]) -> anyhow::Result<()> {
    for manifest in manifests {
        apply_one(client, manifest).await?;
    }
    Ok(())
}

async fn apply_one(client: &Client, manifest: &Manifest) -> anyhow::Result<()> {
    let kind = manifest.kind;
    let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(kind.group, kind.version, kind.kind), kind.plural);
    let api: Api<DynamicObject> = match kind.namespaced {
        true => Api::namespaced_with(client.clone(), &manifest.namespace, &resource),
        false => Api::all_with(client.clone(), &resource),
    };
    let params = PatchParams::apply(MANAGER).force();
    let applied = api.patch(&manifest.name, &params, &Patch::Apply(&manifest.object)).await;
    applied.with_context(|| format!("{}: cannot apply {} {:?}", manifest.origin, kind.kind, manifest.name))?;
    Ok(())
}

/// Waits until all these DaemonSets have rolled out.
pub async fn rolled_out(client: &Client, sets: &[Key], progress: &Progress) -> anyhow::Result<()> {
    for set in sets {
        wait_for_rollout(client, set, progress).await?;
    }
    Ok(())
}

async fn wait_for_rollout(client: &Client, key: &Key, progress: &Progress) -> anyhow::Result<()> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("apps", "v1", "DaemonSet"));
    let sets: Api<DynamicObject> = Api::namespaced_with(client.clone(), &key.namespace, &resource);
    loop {
        let set = sets.get(&key.name).await.with_context(|| format!("cannot read DaemonSet {:?}", key.name))?;
        let status = |field: &str| set.data["status"][field].as_i64();
        let observed = status("observedGeneration") >= set.metadata.generation;
        let (ready, desired) = (status("numberAvailable").unwrap_or(0), status("desiredNumberScheduled").unwrap_or(0));
        if observed && ready >= desired && status("updatedNumberScheduled").unwrap_or(0) >= desired {
            progress.done(&format!("daemonset/{} runs on {desired} nodes", key.name));
            return Ok(());
        }
        tokio::time::sleep(POLL_PERIOD).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_split_at_dashes_and_empty_ones_are_skipped() {
        let text = "---\n# nothing\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n---\napiVersion: v1\nkind: Namespace\nmetadata:\n  name: b\n";
        let manifests = parse("f.yaml", text).unwrap();
        let shown: Vec<_> = manifests.iter().map(|m| (m.kind.plural, m.namespace.as_str(), m.name.as_str())).collect();
        assert_eq!(shown, [("configmaps", "default", "a"), ("namespaces", "", "b")]);
    }

    #[test]
    fn an_unknown_kind_is_refused_with_its_place() {
        let error = parse("f.yaml", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\n").unwrap_err();
        assert!(error.to_string().starts_with("f.yaml, document 1: everynode has no kind \"Deployment\""), "{error}");
    }
}
