//! Authentication and authorization of the node's clients: certificates of the cluster's CA, tokens
//! by TokenReview, permission by SubjectAccessReview.
//!
//! The server accepts no anonymous client. It trusts answers of the API server for a short time, so
//! that a metrics collector does not cost two requests for each of its own.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::HeaderMap;
use http::header::AUTHORIZATION;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::answer::Refusal;
use crate::tree::Tree;

/// The group that may do everything.
const MASTERS: &str = "system:masters";

/// How long an answer of the API server is believed. A permission that is taken away holds on for
/// this time.
const BELIEVED: Duration = Duration::from_secs(10);

/// Answers that are remembered; beyond, all are forgotten.
const ANSWERS_MAX: usize = 1000;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct User {
    pub name: String,
    pub groups: Vec<String>,
}

/// The user that a certificate stands for: common name and organizations. As in the API server, a
/// certificate with several names is no user's.
pub fn certificate_user(certificate: &CertificateDer<'_>) -> Option<User> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let mut names = parsed.subject().iter_common_name();
    let name = names.next()?.as_str().ok()?.to_owned();
    if names.next().is_some() {
        return None;
    }
    let groups = parsed.subject().iter_organization().filter_map(|o| o.as_str().ok()).map(str::to_owned);
    Some(User { name, groups: groups.chain(["system:authenticated".to_owned()]).collect() })
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Question {
    user: User,
    verb: &'static str,
    subresource: &'static str,
}

/// Asks the API server and remembers what it said.
pub struct Auth {
    client: Client,
    users: Memory<String, Option<User>>,
    permissions: Memory<Question, bool>,
}

impl Auth {
    /// `client` is the node's own: nodes may create token reviews and access reviews.
    pub fn new(client: Client) -> Auth {
        Auth { client, users: Memory::default(), permissions: Memory::default() }
    }

    pub async fn authenticate(&self, certificate: Option<User>, headers: &HeaderMap) -> Result<User, Refusal> {
        if let Some(user) = certificate {
            return Ok(user);
        }
        let unauthorized = || Refusal::new(401, "Unauthorized");
        let token = headers.get(AUTHORIZATION).and_then(|value| bearer(value.to_str().ok()?)).ok_or_else(unauthorized)?;
        if let Some(known) = self.users.get(token) {
            return known.ok_or_else(unauthorized);
        }
        let user = self.review_token(token).await.map_err(|error| {
            tracing::warn!(error = &error as &dyn std::error::Error, "cannot review a token");
            unauthorized()
        })?;
        self.users.put(token.to_owned(), user.clone());
        user.ok_or_else(unauthorized)
    }

    async fn review_token(&self, token: &str) -> kube::Result<Option<User>> {
        let spec = TokenReviewSpec { token: token.to_owned(), ..TokenReviewSpec::default() };
        let review = Tree(TokenReview { spec, ..TokenReview::default() });
        let answered = Api::<Tree<TokenReview>>::all(self.client.clone()).create(&PostParams::default(), &review).await?;
        let status = answered.0.status.unwrap_or_default();
        let user = status.user.filter(|_| status.authenticated == Some(true)).unwrap_or_default();
        Ok(user.username.map(|name| User { name, groups: user.groups.unwrap_or_default() }))
    }

    /// May the user do that to a subresource of this node? A user who may do it to `proxy` may do
    /// it to the finer ones too.
    pub async fn authorize(&self, user: &User, verb: &'static str, node: &str, subresource: &'static str) -> Result<(), Refusal> {
        if user.groups.iter().any(|group| group == MASTERS) {
            return Ok(());
        }
        let falls_back = matches!(subresource, "healthz" | "pods");
        for subresource in [Some(subresource), falls_back.then_some("proxy")].into_iter().flatten() {
            if self.is_allowed(Question { user: user.clone(), verb, subresource }, node).await? {
                return Ok(());
            }
        }
        let why = format!("Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)=[{subresource}])", user.name);
        Err(Refusal::new(403, why))
    }

    async fn is_allowed(&self, question: Question, node: &str) -> Result<bool, Refusal> {
        if let Some(known) = self.permissions.get(&question) {
            return Ok(known);
        }
        let allowed = self.review_access(&question, node).await.map_err(|error| {
            tracing::warn!(error = &error as &dyn std::error::Error, user = question.user.name, "cannot review access");
            Refusal::new(500, format!("Authorization error (user={}, verb={}, resource=nodes)", question.user.name, question.verb))
        })?;
        self.permissions.put(question, allowed);
        Ok(allowed)
    }

    async fn review_access(&self, question: &Question, node: &str) -> kube::Result<bool> {
        let attributes = ResourceAttributes {
            verb: Some(question.verb.to_owned()),
            version: Some("v1".to_owned()),
            resource: Some("nodes".to_owned()),
            subresource: Some(question.subresource.to_owned()),
            name: Some(node.to_owned()),
            ..ResourceAttributes::default()
        };
        let spec = SubjectAccessReviewSpec {
            user: Some(question.user.name.clone()),
            groups: Some(question.user.groups.clone()),
            resource_attributes: Some(attributes),
            ..SubjectAccessReviewSpec::default()
        };
        let review = Tree(SubjectAccessReview { spec, ..SubjectAccessReview::default() });
        let answered = Api::<Tree<SubjectAccessReview>>::all(self.client.clone()).create(&PostParams::default(), &review).await?;
        Ok(answered.0.status.is_some_and(|status| status.allowed && status.denied != Some(true)))
    }
}

fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim()).filter(|token| !token.is_empty())
}

/// Answers with the time when they were given.
struct Memory<K, V>(Mutex<HashMap<K, (Instant, V)>>);

impl<K, V> Default for Memory<K, V> {
    fn default() -> Memory<K, V> {
        Memory(Mutex::default())
    }
}

impl<K: Hash + Eq, V: Clone> Memory<K, V> {
    fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<V>
    where
        K: std::borrow::Borrow<Q>,
    {
        let answers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        answers.get(key).filter(|(at, _)| at.elapsed() < BELIEVED).map(|(_, value)| value.clone())
    }

    fn put(&self, key: K, value: V) {
        let mut answers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if answers.len() >= ANSWERS_MAX {
            answers.clear();
        }
        answers.insert(key, (Instant::now(), value));
    }
}
