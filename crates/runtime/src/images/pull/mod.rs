//! Bringing an image from a registry: ask who has it, read manifests and configuration, bring the
//! layers that are missing, name the image.
//!
//! Everything is checked against its digest before it counts. Layers that two pulls need at once,
//! in this process or another, are brought once: their partial file is locked.

mod blob;
mod registry;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, StreamExt, TryStreamExt};

use super::digest::Digest;
use super::error::{Error, Result};
use super::index::Record;
use super::manifest::{self, ConfigFile, Descriptor, Document, Manifest, Platform};
use super::registries::Registries;
use super::store::{Prepared, Store};
use containers::Credentials;
use containers::reference::{self, Reference};
use registry::Registry;

const PARALLEL_LAYERS_MAX: usize = 3;
/// An index may lead to another one, but not forever.
const NESTED_INDEXES_MAX: usize = 4;
/// Manifests and configurations are kept in memory; real ones have some kilobytes.
const DOCUMENT_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// How often layers are brought again that a removal of another image took away.
const COMMITS_MAX: usize = 3;

/// Pulls the image and answers its id.
pub async fn pull(store: &Arc<Store>, registries: &Registries, reference: &str, credentials: &[Credentials]) -> Result<Digest> {
    let reference = reference::parse(reference)?;
    let name = reference.canonical();
    let pulled = pull_reference(store, registries, &reference, credentials).await;
    pulled.map_err(|source| Error::Pull { image: name, source: Box::new(source) })
}

/// What a reference led to.
struct Resolved {
    /// Of what the name leads to itself: an index, if there is one.
    top: Digest,
    /// On the way to the manifest, with it.
    documents: Vec<Vec<u8>>,
    manifest: Manifest,
}

async fn pull_reference(store: &Arc<Store>, registries: &Registries, reference: &Reference, credentials: &[Credentials]) -> Result<Digest> {
    let (registry, top) = registry::resolve(registries, reference, credentials).await?;
    let resolved = choose_manifest(&registry, top).await?;
    let config_bytes = registry.document(&resolved.manifest.config).await.map_err(copy_error)?;
    let config = ConfigFile::parse(&config_bytes, "the configuration of the image")?;
    config.check_platform()?;
    let layers = pair_layers(&resolved.manifest, &config)?;
    let prepared = prepare(reference, &resolved, &config, &layers);
    let working = blocking(store, |store| store.working()).await?;
    let documents: Vec<Vec<u8>> = resolved.documents.into_iter().chain([config_bytes]).collect();
    let stored = store_image(store, &registry, Arc::new(documents), &layers, &prepared).await;
    drop(working);
    // Layers that came are kept for the next try, unless their space is what is missing.
    if stored.as_ref().is_err_and(Error::is_full_disk) {
        blocking(store, |store| {
            store.tidy();
            store.remove_partials(Duration::ZERO)
        })
        .await?;
    }
    stored.map(|()| prepared.id)
}

/// Goes from the top document to the manifest for this machine.
async fn choose_manifest(registry: &Registry, top: Vec<u8>) -> Result<Resolved> {
    let top_digest = Digest::of(&top);
    let mut documents = vec![top];
    for _ in 0..NESTED_INDEXES_MAX {
        let last = documents.last().expect("the top document is there");
        let what = format!("manifest {}", Digest::of(last));
        match Document::parse(last, &what)? {
            Document::Image(manifest) => return Ok(Resolved { top: top_digest, documents, manifest }),
            Document::Index(entries) => {
                let chosen = manifest::choose(&entries, &Platform::current()).ok_or_else(|| Error::NoPlatform(top_digest.to_string()))?;
                documents.push(registry.manifest(chosen).await?);
            }
        }
    }
    Err(Error::Unsupported(format!("manifest {top_digest} leads through more than {NESTED_INDEXES_MAX} indexes")))
}

/// A layer as the registry has it, with the digest of what it unpacks to.
type Layer = (Descriptor, Digest);

fn pair_layers(manifest: &Manifest, config: &ConfigFile) -> Result<Vec<Layer>> {
    let (expected, actual) = (manifest.layers.len(), config.rootfs.diff_ids.len());
    if expected != actual {
        return Err(Error::Count { what: "the configuration's list of layers".to_owned(), expected, actual });
    }
    Ok(manifest.layers.iter().cloned().zip(config.rootfs.diff_ids.iter().cloned()).collect())
}

fn prepare(reference: &Reference, resolved: &Resolved, config: &ConfigFile, layers: &[Layer]) -> Prepared {
    let documents: u64 = resolved.documents.last().map_or(0, |manifest| manifest.len() as u64);
    let record = Record {
        layers: config.rootfs.diff_ids.clone(),
        manifests: resolved.documents.iter().map(|document| Digest::of(document)).collect(),
        size_bytes: documents + resolved.manifest.config.size + layers.iter().map(|(layer, _)| layer.size).sum::<u64>(),
        user: config.user().to_owned(),
        pinned: false,
    };
    let names = BTreeSet::from([reference.canonical(), reference.with_digest(resolved.top.as_str())]);
    Prepared { id: resolved.manifest.config.digest.clone(), record, names: names.into_iter().collect() }
}

async fn store_image(
    store: &Arc<Store>,
    registry: &Registry,
    documents: Arc<Vec<Vec<u8>>>,
    layers: &[Layer],
    prepared: &Prepared,
) -> Result<()> {
    for _ in 1..COMMITS_MAX {
        match try_store_image(store, registry, &documents, layers, prepared).await {
            Err(Error::LayersGone) => {
                tracing::info!(image = %prepared.id, "layers went away while the image was pulled, bringing them again")
            }
            other => return other,
        }
    }
    try_store_image(store, registry, &documents, layers, prepared).await
}

async fn try_store_image(
    store: &Arc<Store>,
    registry: &Registry,
    documents: &Arc<Vec<Vec<u8>>>,
    layers: &[Layer],
    prepared: &Prepared,
) -> Result<()> {
    let kept = Arc::clone(documents);
    blocking(store, move |store| kept.iter().try_for_each(|document| store.put_blob(document).map(drop))).await?;
    // Some images have the same layer twice.
    let missing: BTreeSet<usize> = first_of_each(layers);
    let brought = stream::iter(missing).map(|i| blob::bring_layer(store, registry, &layers[i].0, &layers[i].1));
    brought.buffer_unordered(PARALLEL_LAYERS_MAX).try_collect::<Vec<()>>().await?;
    let images = [prepared.clone()];
    blocking(store, move |store| store.commit(&images)).await
}

fn first_of_each(layers: &[Layer]) -> BTreeSet<usize> {
    let mut seen = BTreeSet::new();
    (0..layers.len()).filter(|i| seen.insert(&layers[*i].1)).collect()
}

fn copy_error(error: Error) -> Error {
    Error::Copy(Box::new(error))
}

/// Runs what waits for the disk where it holds no other task up.
pub(super) async fn blocking<T: Send + 'static>(store: &Arc<Store>, work: impl FnOnce(&Store) -> Result<T> + Send + 'static) -> Result<T> {
    let store = Arc::clone(store);
    match tokio::task::spawn_blocking(move || work(&store)).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(Error::Transport("the node is stopping".to_owned())),
        },
    }
}
