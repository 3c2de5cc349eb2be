//! Following kinds of objects: one watch for each, whose events all end up in one channel.

use std::collections::BTreeSet;

use brain::model::Key;
use futures::StreamExt as _;
use kube::api::{ApiResource, DynamicObject};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// What is followed.
#[derive(Debug, Clone)]
pub struct Followed<K> {
    /// How the receiver calls it.
    pub kind: K,
    pub resource: ApiResource,
    pub labels: Option<String>,
    pub fields: Option<String>,
}

/// What a watch says.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    Put(Key, Value),
    Gone(Key),
    /// The list is complete: whatever is not in it is gone.
    Listed(BTreeSet<Key>),
}

/// A resource of a kind, for [`Followed`].
pub fn resource(group: &str, version: &str, kind: &str, plural: &str) -> ApiResource {
    let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    ApiResource { group: group.to_owned(), version: version.to_owned(), api_version, kind: kind.to_owned(), plural: plural.to_owned() }
}

/// Starts a watch for each; they run in `tasks` until their receiver is gone. Failed ones are tried
/// again with pauses that grow.
pub fn follow<K: Copy + Send + 'static>(
    client: &Client,
    what: Vec<Followed<K>>,
    changes: &mpsc::Sender<(K, Change)>,
    tasks: &mut JoinSet<()>,
) {
    for followed in what {
        let (client, changes) = (client.clone(), changes.clone());
        tasks.spawn(follow_one(client, followed, changes));
    }
}

async fn follow_one<K: Copy>(client: Client, followed: Followed<K>, changes: mpsc::Sender<(K, Change)>) {
    let api: Api<DynamicObject> = Api::all_with(client, &followed.resource);
    let config = watcher::Config { label_selector: followed.labels, field_selector: followed.fields, ..watcher::Config::default() };
    let mut events = std::pin::pin!(watcher(api, config).default_backoff());
    let mut listed = BTreeSet::new();
    while let Some(event) = events.next().await {
        let change = match event {
            Ok(Event::Apply(object)) => put(object),
            Ok(Event::InitApply(object)) => {
                listed.insert(key(&object));
                put(object)
            }
            Ok(Event::Delete(object)) => Some(Change::Gone(key(&object))),
            Ok(Event::Init) => {
                listed.clear();
                None
            }
            Ok(Event::InitDone) => Some(Change::Listed(std::mem::take(&mut listed))),
            Err(error) => {
                let kind = &followed.resource.plural;
                tracing::warn!(error = &error as &dyn std::error::Error, kind, "a watch failed; it is tried again");
                None
            }
        };
        if let Some(change) = change
            && changes.send((followed.kind, change)).await.is_err()
        {
            return;
        }
    }
}

fn put(object: DynamicObject) -> Option<Change> {
    let key = key(&object);
    let value = serde_json::to_value(object).inspect_err(|error| tracing::warn!(%error, "an object cannot be read")).ok()?;
    Some(Change::Put(key, value))
}

fn key(object: &DynamicObject) -> Key {
    let text = |text: &Option<String>| text.as_deref().unwrap_or_default().into();
    Key { namespace: text(&object.metadata.namespace), name: text(&object.metadata.name) }
}
