//! The parts of an API server, and who owns them.
//!
//! The registry knows neither users' rights nor plugins: the server owns the authorizer and the
//! plugins of admission, and hands them to whatever asks or writes.

use std::sync::Arc;

use http::request::Parts;
use tokio::sync::watch;

use super::fairness::Fairness;
use super::options::Query;
use crate::admission::{AdmissionSettings, Plugins};
use crate::audit::Audit;
use crate::auth::authenticate::Authenticator;
use crate::auth::authorize::Authorizer;
use crate::metrics::Metrics;
use crate::nodes::NodeConnector;
use crate::nodes::usage::{self, Usage};
use crate::registry::Registry;
use crate::request::User;

/// The API server: a service for requests from the network and from within the process. Clones
/// share everything.
#[derive(Clone)]
pub struct ApiServer {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub registry: Arc<Registry>,
    pub authenticator: Authenticator,
    pub authorizer: Arc<Authorizer>,
    pub admission: Plugins,
    pub metrics: Metrics,
    pub fairness: Fairness,
    /// None: nothing is written.
    pub audit: Option<Audit>,
    /// None: what only nodes can answer is not served.
    pub nodes: Option<NodeConnector>,
    /// What nodes and pods use, as far as it was collected.
    pub usage: Usage,
    /// WriteTurns true when the server is to stop; ends watches.
    pub shutdown: watch::Receiver<bool>,
}

/// A request that was let in.
pub(crate) struct Call {
    pub parts: Parts,
    pub query: Query,
    pub user: User,
}

impl Call {
    pub fn header(&self, name: http::header::HeaderName) -> Option<&str> {
        self.parts.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

impl ApiServer {
    pub fn new(
        registry: Arc<Registry>,
        authenticator: Authenticator,
        admission: AdmissionSettings,
        shutdown: watch::Receiver<bool>,
    ) -> ApiServer {
        let authorizer = Arc::new(Authorizer::new(registry.clone()));
        let inner = Inner {
            admission: Plugins::new(registry.clone(), authorizer.clone(), admission),
            registry,
            authenticator,
            authorizer,
            metrics: Metrics::default(),
            fairness: Fairness::default(),
            audit: None,
            nodes: None,
            usage: Usage::default(),
            shutdown,
        };
        ApiServer { inner: Arc::new(inner) }
    }

    /// The same server, which can ask the agents of nodes; [`ApiServer::follow_usage`] collects
    /// what they use. Before there are clones of it.
    pub fn with_nodes(mut self, nodes: NodeConnector) -> ApiServer {
        self.set_up().nodes = Some(nodes);
        self
    }

    /// The same server, which writes down who did what. Before there are clones of it.
    pub fn audited(mut self, audit: Audit) -> ApiServer {
        self.set_up().audit = Some(audit);
        self
    }

    fn set_up(&mut self) -> &mut Inner {
        Arc::get_mut(&mut self.inner).expect("a server has no clones while it is set up")
    }

    pub fn registry(&self) -> &Arc<Registry> {
        &self.inner.registry
    }

    pub(crate) fn admission(&self) -> &Plugins {
        &self.inner.admission
    }

    /// Collects what nodes and containers use until `shutdown` turns true. Returns at once for a
    /// server that knows no way to its nodes.
    pub async fn follow_usage(self, shutdown: watch::Receiver<bool>) {
        let inner = &*self.inner;
        if let Some(connector) = &inner.nodes {
            usage::follow(&inner.usage, &inner.registry, connector, shutdown).await;
        }
    }

    /// Asks all nodes once what they use.
    pub async fn collect_usage(&self) {
        if let Some(connector) = &self.inner.nodes {
            usage::collect(&self.inner.usage, &self.inner.registry, connector).await;
        }
    }
}
