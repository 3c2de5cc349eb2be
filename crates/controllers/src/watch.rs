//! Following the cluster: one watch for each kind, whose events all end up in one channel.
//!
//! Kinds of which the deciders see more than the metadata are read straight into `brain::model`; of
//! the others only the metadata is asked for.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use brain::model::{self, Key, Meta, OwnerReference};
use brain::picture::{Kind, Model, Object};
use brain::request::Resource;
use futures::{Stream, StreamExt};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{ApiResource, DynamicObject, PartialObjectMeta};
use kube::core::DynamicResourceScope;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use serde::{Deserialize, Deserializer};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

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

macro_rules! table {
    ($($kind:ident, $model:ident, $shelf:ident, $resource:ident;)*) => {
        async fn follow_one(client: Client, kind: Kind, inputs: mpsc::Sender<Input>) {
            match kind {
                $(Kind::$kind => forward(kind, full::<model::$model>(client, kind), Object::$kind, inputs).await,)*
                Kind::Other(resource) => {
                    let api: Api<PartialObjectMeta<DynamicObject>> = Api::all_with(client, &api_resource(resource));
                    let events = watcher(api, watcher::Config::default()).default_backoff();
                    forward(kind, events, |meta| Object::Other(resource, meta), inputs).await;
                }
            }
        }
    };
}

brain::for_each_followed_kind!(table);

fn full<T: Model>(client: Client, kind: Kind) -> impl Stream<Item = Result<Event<Watched<T>>, watcher::Error>> + Send {
    let api: Api<Watched<T>> = Api::all_with(client, &api_resource(kind.resource()));
    let config = watcher::Config::default();
    let config = match kind.only_name() {
        Some(name) => config.fields(&format!("metadata.name={name}")),
        None => config,
    };
    watcher(api, config).default_backoff()
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

/// Turns the events of a watch into inputs until nobody takes them any more.
async fn forward<E: Into<Fact<T>>, T>(
    kind: Kind,
    events: impl Stream<Item = Result<Event<E>, watcher::Error>>,
    object: impl Fn(Arc<T>) -> Object,
    inputs: mpsc::Sender<Input>,
) {
    let mut events = std::pin::pin!(events);
    let mut listed = BTreeSet::new();
    let put = |fact: E| Input::Put(object(Arc::new(fact.into().0)));
    while let Some(event) = events.next().await {
        let input = match event {
            Ok(Event::Apply(fact)) => put(fact),
            Ok(Event::InitApply(fact)) => {
                let input = put(fact);
                if let Input::Put(object) = &input {
                    listed.insert(object.meta().key());
                }
                input
            }
            Ok(Event::Delete(fact)) => {
                let object = object(Arc::new(fact.into().0));
                Input::Gone { kind, key: object.meta().key(), revision: object.meta().resource_version }
            }
            Ok(Event::Init) => {
                listed.clear();
                Input::ListStarted(kind)
            }
            Ok(Event::InitDone) => Input::ListFinished { kind, keys: std::mem::take(&mut listed) },
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, ?kind, "a watch failed; it is tried again");
                continue;
            }
        };
        if inputs.send(input).await.is_err() {
            return;
        }
    }
}

/// An object as the deciders see it.
struct Fact<T>(T);

/// What `kube`'s watcher needs around a model: enough metadata to follow versions.
#[derive(Debug, Clone)]
struct Watched<T> {
    meta: ObjectMeta,
    object: T,
}

impl<'de, T: Model> Deserialize<'de> for Watched<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Watched<T>, D::Error> {
        let object = T::deserialize(deserializer)?;
        let meta = object.meta();
        let meta = ObjectMeta {
            name: Some(meta.name.to_string()),
            namespace: (!meta.namespace.is_empty()).then(|| meta.namespace.to_string()),
            resource_version: Some(meta.resource_version.to_string()),
            ..ObjectMeta::default()
        };
        Ok(Watched { meta, object })
    }
}

impl<T: Model> kube::Resource for Watched<T> {
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

impl<T> From<Watched<T>> for Fact<T> {
    fn from(watched: Watched<T>) -> Fact<T> {
        Fact(watched.object)
    }
}

impl From<PartialObjectMeta<DynamicObject>> for Fact<Meta> {
    fn from(partial: PartialObjectMeta<DynamicObject>) -> Fact<Meta> {
        let meta = partial.metadata;
        let text = |text: Option<String>| -> Arc<str> { text.unwrap_or_default().into() };
        let owner = |owner: k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference| OwnerReference {
            api_version: owner.api_version.into(),
            kind: owner.kind.into(),
            name: owner.name.into(),
            uid: owner.uid.into(),
            controller: owner.controller == Some(true),
            block_owner_deletion: owner.block_owner_deletion == Some(true),
        };
        Fact(Meta {
            name: text(meta.name),
            namespace: text(meta.namespace),
            uid: text(meta.uid),
            resource_version: meta.resource_version.and_then(|version| version.parse().ok()).unwrap_or(0),
            generation: meta.generation.unwrap_or(0),
            labels: meta.labels.unwrap_or_default().into_iter().collect(),
            owner_references: meta.owner_references.unwrap_or_default().into_iter().map(owner).collect(),
            finalizers: meta.finalizers.unwrap_or_default().into_iter().map(Into::into).collect(),
            creation_timestamp: meta.creation_timestamp.map(|time| time.0),
            deletion_timestamp: meta.deletion_timestamp.map(|time| time.0),
            deletion_grace_period_seconds: meta.deletion_grace_period_seconds,
            ..Meta::default()
        })
    }
}
