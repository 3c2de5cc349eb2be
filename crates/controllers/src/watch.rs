//! Following the cluster: one watch for each kind, whose events all end up in one channel.
//!
//! The watcher hands on the text of an object, and `brain` reads it as the kind that was asked for:
//! one watcher is compiled, not one for each kind.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::time::Duration;

use brain::model::Key;
use brain::picture::{Kind, Object};
use brain::request::Resource;
use futures::{Stream, StreamExt};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::ApiResource;
use kube::core::DynamicResourceScope;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// The pause before a list is asked for again that has an object that cannot be read.
const UNREADABLE_PAUSE: Duration = Duration::from_secs(1);

/// What a watch says.
#[derive(Debug)]
pub enum Input {
    Put(Object),
    Gone {
        kind: Kind,
        key: Key,
        revision: u64,
    },
    ListStarted(Kind),
    /// The list is complete: whatever is not in it is gone.
    ListFinished {
        kind: Kind,
        keys: BTreeSet<Key>,
    },
}

/// Starts a watch for each kind; they run in `tasks` until their receiver is gone.
pub fn follow(client: &Client, kinds: &[Kind], inputs: &mpsc::Sender<Input>, tasks: &mut JoinSet<()>) {
    for &kind in kinds {
        let (client, inputs) = (client.clone(), inputs.clone());
        tasks.spawn(async move {
            follow_one(client, kind, inputs).await;
        });
    }
}

async fn follow_one(client: Client, kind: Kind, inputs: mpsc::Sender<Input>) {
    loop {
        let api: Api<Text> = Api::all_with(client.clone(), &api_resource(kind.resource()));
        let config = watcher::Config::default();
        let config = match kind.only_name() {
            Some(name) => config.fields(&format!("metadata.name={name}")),
            None => config,
        };
        match forward(kind, watcher(api, config).default_backoff(), &inputs).await {
            Stopped::Unread => tokio::time::sleep(UNREADABLE_PAUSE).await,
            Stopped::Untaken => return,
        }
    }
}

fn api_resource(resource: Resource) -> ApiResource {
    ApiResource {
        group: resource.group.to_owned(),
        version: resource.version.to_owned(),
        api_version: resource.api_version(),
        kind: resource.kind.to_owned(),
        plural: resource.plural.to_owned(),
    }
}

/// Why events are forwarded no longer.
enum Stopped {
    /// A list has an object that cannot be read. Without it the list would say that it is gone.
    Unread,
    /// The receiver of inputs is gone.
    Untaken,
}

/// Turns the events of a watch into inputs.
async fn forward(kind: Kind, events: impl Stream<Item = Result<Event<Text>, watcher::Error>>, inputs: &mpsc::Sender<Input>) -> Stopped {
    let mut events = std::pin::pin!(events);
    let mut listed = BTreeSet::new();
    while let Some(event) = events.next().await {
        let input = match event {
            Ok(Event::Apply(text)) => text.read(kind).map(Input::Put),
            Ok(Event::InitApply(text)) => {
                let Some(object) = text.read(kind) else { return Stopped::Unread };
                listed.insert(object.meta().key());
                Some(Input::Put(object))
            }
            Ok(Event::Delete(text)) => {
                text.read(kind).map(|object| Input::Gone { kind, key: object.meta().key(), revision: object.meta().resource_version })
            }
            Ok(Event::Init) => {
                listed.clear();
                Some(Input::ListStarted(kind))
            }
            Ok(Event::InitDone) => Some(Input::ListFinished { kind, keys: std::mem::take(&mut listed) }),
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, ?kind, "a watch failed; it is tried again");
                None
            }
        };
        if let Some(input) = input
            && inputs.send(input).await.is_err()
        {
            return Stopped::Untaken;
        }
    }
    Stopped::Untaken
}

/// An object as the server sent it, with the metadata that `kube`'s watcher needs to follow
/// versions.
#[derive(Debug, Clone)]
struct Text {
    meta: ObjectMeta,
    text: Box<RawValue>,
}

impl Text {
    fn read(&self, kind: Kind) -> Option<Object> {
        kind.read_text(self.text.get())
            .inspect_err(|error| tracing::warn!(error = error as &dyn std::error::Error, ?kind, "an object cannot be read"))
            .ok()
    }
}

#[derive(Deserialize)]
struct Head {
    metadata: HeadMeta,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct HeadMeta {
    resource_version: Option<String>,
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Text, D::Error> {
        let text = Box::<RawValue>::deserialize(deserializer)?;
        let head: Head = serde_json::from_str(text.get()).map_err(serde::de::Error::custom)?;
        let meta = ObjectMeta { resource_version: head.metadata.resource_version, ..ObjectMeta::default() };
        Ok(Text { meta, text })
    }
}

impl kube::Resource for Text {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(resource: &ApiResource) -> Cow<'_, str> {
        resource.kind.as_str().into()
    }

    fn group(resource: &ApiResource) -> Cow<'_, str> {
        resource.group.as_str().into()
    }

    fn version(resource: &ApiResource) -> Cow<'_, str> {
        resource.version.as_str().into()
    }

    fn plural(resource: &ApiResource) -> Cow<'_, str> {
        resource.plural.as_str().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}
