//! Objects that pods refer to: ConfigMaps, Secrets, service-account tokens, Services.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use brain::podsync::environment::Sources;
use brain::podsync::payload::{TokenRequest, token_requests};
use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::authentication::v1 as authentication;
use k8s_openapi::api::core::v1::{ConfigMap, Container, Pod, Secret, Service, Volume};
use k8s_openapi::api::node::v1::RuntimeClass;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};

use crate::tree::Tree;
use tokio::sync::watch;

/// Objects are asked for again after this long; a mounted ConfigMap follows its object within this
/// time and the period of its pod.
const FRESH_FOR: Duration = Duration::from_secs(5);

/// Tokens are renewed when less than a fifth of their time is left, or after a day (as kubelets
/// do).
const TOKEN_MAX_AGE: Duration = Duration::from_secs(24 * 3600);

/// How long the first pods wait for the list of Services.
const SERVICES_TIMEOUT: Duration = Duration::from_secs(10);

/// Why an object that a pod refers to cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    #[error("runtimeclasses.node.k8s.io \"{0}\" not found")]
    NoRuntimeClass(String),
    #[error("failed to lookup RuntimeClass {name}: {}", said(.source))]
    RuntimeClass { name: String, source: Box<kube::Error> },
    /// Of a ConfigMap or Secret: the server, which names it, refuses, or is out of reach.
    #[error("{}", said(.0))]
    Get(#[source] Box<kube::Error>),
    #[error("failed to fetch token: {0}")]
    Token(#[source] TokenError),
}

#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("{0}")]
    Encode(#[source] serde_json::Error),
    #[error("{0}")]
    Request(#[source] http::Error),
    #[error("{}", said(.0))]
    Send(#[source] Box<kube::Error>),
    #[error("the answer has none")]
    NoToken,
}

type Cache<T> = Mutex<BTreeMap<(String, String), (Instant, Option<T>)>>;

pub struct Objects {
    client: Client,
    config_maps: Cache<ConfigMap>,
    secrets: Cache<Secret>,
    tokens: Mutex<BTreeMap<(String, TokenRequest), Token>>,
    services: watch::Sender<Option<Arc<Vec<Service>>>>,
}

#[derive(Clone)]
struct Token {
    text: String,
    issued: Timestamp,
    expires: Timestamp,
}

impl Objects {
    pub fn new(client: Client) -> Objects {
        Objects {
            client,
            config_maps: Cache::default(),
            secrets: Cache::default(),
            tokens: Mutex::default(),
            services: watch::channel(None).0,
        }
    }

    /// Keeps the list of Services.
    pub async fn follow_services(&self) {
        let events = watcher(Api::<Tree<Service>>::all(self.client.clone()), watcher::Config::default()).backoff(super::pauses::pauses());
        let mut events = std::pin::pin!(events);
        let mut known: BTreeMap<(String, String), Service> = BTreeMap::new();
        let mut is_complete = false;
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Init) => known.clear(),
                Ok(Event::InitApply(Tree(service)) | Event::Apply(Tree(service))) => drop(known.insert(key(&service.metadata), service)),
                Ok(Event::Delete(service)) => drop(known.remove(&key(&service.metadata))),
                Ok(Event::InitDone) => is_complete = true,
                Err(error) => tracing::warn!(%error, "the watch on services failed; it is tried again"),
            }
            if is_complete {
                self.services.send_replace(Some(Arc::new(known.values().cloned().collect())));
            }
        }
    }

    async fn services(&self) -> Arc<Vec<Service>> {
        let mut receiver = self.services.subscribe();
        let known = tokio::time::timeout(SERVICES_TIMEOUT, receiver.wait_for(Option::is_some)).await;
        known.ok().and_then(Result::ok).and_then(|services| services.clone()).unwrap_or_default()
    }

    /// What a RuntimeClass stands for on the node.
    pub async fn runtime_handler(&self, name: &str) -> Result<String, ObjectError> {
        match Api::<Tree<RuntimeClass>>::all(self.client.clone()).get_opt(name).await {
            Ok(Some(Tree(class))) => Ok(class.handler),
            Ok(None) => Err(ObjectError::NoRuntimeClass(name.to_owned())),
            Err(error) => Err(ObjectError::RuntimeClass { name: name.to_owned(), source: Box::new(error) }),
        }
    }

    /// Everything that the environment of a container is made of.
    pub async fn for_container(&self, pod: &Pod, container: &Container) -> Result<Sources, ObjectError> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let mut sources = Sources { services: self.services().await.as_ref().clone(), ..Sources::default() };
        for from in container.env_from.iter().flatten() {
            if let Some(reference) = &from.config_map_ref {
                self.add_config_map(&mut sources, namespace, &reference.name).await?;
            }
            if let Some(reference) = &from.secret_ref {
                self.add_secret(&mut sources, namespace, &reference.name).await?;
            }
        }
        for source in container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref()) {
            if let Some(reference) = &source.config_map_key_ref {
                self.add_config_map(&mut sources, namespace, &reference.name).await?;
            }
            if let Some(reference) = &source.secret_key_ref {
                self.add_secret(&mut sources, namespace, &reference.name).await?;
            }
        }
        Ok(sources)
    }

    /// Everything that the files of a volume are made of, and the tokens in it.
    pub async fn for_volume(&self, pod: &Pod, volume: &Volume) -> Result<(Sources, BTreeMap<TokenRequest, String>), ObjectError> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let mut sources = Sources::default();
        if let Some(source) = &volume.config_map {
            self.add_config_map(&mut sources, namespace, &source.name).await?;
        }
        if let Some(name) = volume.secret.as_ref().and_then(|source| source.secret_name.as_ref()) {
            self.add_secret(&mut sources, namespace, name).await?;
        }
        for part in volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten()) {
            if let Some(source) = &part.config_map {
                self.add_config_map(&mut sources, namespace, &source.name).await?;
            }
            if let Some(source) = &part.secret {
                self.add_secret(&mut sources, namespace, &source.name).await?;
            }
        }
        let mut tokens = BTreeMap::new();
        for request in token_requests(volume) {
            let token = self.token(pod, &request).await?;
            tokens.insert(request, token);
        }
        Ok((sources, tokens))
    }

    async fn add_config_map(&self, sources: &mut Sources, namespace: &str, name: &str) -> Result<(), ObjectError> {
        let api: Api<Tree<ConfigMap>> = Api::namespaced(self.client.clone(), namespace);
        if let Some(map) = cached(&self.config_maps, api, namespace, name).await? {
            sources.config_maps.insert(name.to_owned(), map);
        }
        Ok(())
    }

    async fn add_secret(&self, sources: &mut Sources, namespace: &str, name: &str) -> Result<(), ObjectError> {
        if let Some(secret) = self.secret(namespace, name).await? {
            sources.secrets.insert(name.to_owned(), secret);
        }
        Ok(())
    }

    pub async fn secret(&self, namespace: &str, name: &str) -> Result<Option<Secret>, ObjectError> {
        let api: Api<Tree<Secret>> = Api::namespaced(self.client.clone(), namespace);
        cached(&self.secrets, api, namespace, name).await
    }

    async fn token(&self, pod: &Pod, request: &TokenRequest) -> Result<String, ObjectError> {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let cache_key = (uid.clone(), request.clone());
        let now = Timestamp::now();
        let known = self.tokens.lock().unwrap_or_else(PoisonError::into_inner).get(&cache_key).cloned();
        if let Some(token) = known.filter(|token| is_fresh(token, now)) {
            return Ok(token.text);
        }
        let token = self.request_token(pod, &uid, request).await.map_err(ObjectError::Token)?;
        let text = token.text.clone();
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.retain(|_, token| token.expires > now);
        tokens.insert(cache_key, token);
        Ok(text)
    }

    async fn request_token(&self, pod: &Pod, uid: &str, request: &TokenRequest) -> Result<Token, TokenError> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.clone()).unwrap_or_else(|| "default".to_owned());
        let body = authentication::TokenRequest {
            spec: Some(authentication::TokenRequestSpec {
                audiences: Some(if request.audience.is_empty() { Vec::new() } else { vec![request.audience.clone()] }),
                bound_object_ref: Some(authentication::BoundObjectReference {
                    api_version: Some("v1".to_owned()),
                    kind: Some("Pod".to_owned()),
                    name: pod.metadata.name.clone(),
                    uid: Some(uid.to_owned()),
                }),
                expiration_seconds: Some(request.expiration_seconds),
            }),
            ..authentication::TokenRequest::default()
        };
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
        let body = serde_json::to_vec(&Tree(body)).map_err(TokenError::Encode)?;
        let http =
            http::Request::post(path).header(http::header::CONTENT_TYPE, "application/json").body(body).map_err(TokenError::Request)?;
        let Tree(answer): Tree<authentication::TokenRequest> =
            self.client.request(http).await.map_err(|error| TokenError::Send(Box::new(error)))?;
        let status = answer.status.ok_or(TokenError::NoToken)?;
        let text = status.token.ok_or(TokenError::NoToken)?;
        let now = Timestamp::now();
        let expires = status.expiration_timestamp.map_or(now, |time| time.0);
        Ok(Token { text, issued: now, expires })
    }

    /// Forgets the tokens of a pod that is gone.
    pub fn forget(&self, uid: &str) {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner).retain(|(owner, _), _| owner != uid);
    }
}

/// What the server said, without the reason that the client library puts behind it.
fn said(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

fn is_fresh(token: &Token, now: Timestamp) -> bool {
    let life = token.expires.duration_since(token.issued);
    let age = now.duration_since(token.issued);
    age < life * 4 / 5 && age.unsigned_abs() < TOKEN_MAX_AGE
}

fn key(meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> (String, String) {
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

/// None when the object does not exist. An API server out of reach is an error, unless the object
/// was seen before.
async fn cached<T>(cache: &Cache<T>, api: Api<Tree<T>>, namespace: &str, name: &str) -> Result<Option<T>, ObjectError>
where
    T: Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let key = (namespace.to_owned(), name.to_owned());
    let known = cache.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
    if let Some((_, object)) = known.as_ref().filter(|(at, object)| at.elapsed() < FRESH_FOR && object.is_some()) {
        return Ok(object.clone());
    }
    let object = match api.get_opt(name).await {
        Ok(object) => object.map(|Tree(object)| object),
        Err(error) => match known {
            Some((_, object @ Some(_))) => return Ok(object),
            _ => return Err(ObjectError::Get(Box::new(error))),
        },
    };
    let mut cache = cache.lock().unwrap_or_else(PoisonError::into_inner);
    cache.retain(|_, (at, _)| at.elapsed() < FRESH_FOR * 60);
    cache.insert(key, (Instant::now(), object.clone()));
    Ok(object)
}
