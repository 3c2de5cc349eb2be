//! Tells the cluster about this node's part: a condition of its Node object, and the key by which
//! others encrypt.

use std::sync::Arc;
use std::time::Duration;

use brain::pod_network::{Condition, Member, key_annotation};
use containers::WireGuardKey;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Patch, PatchParams};
use kube::core::PartialObjectMeta;
use kube::{Api, Client};
use serde_json::Value;
use tokio::sync::watch;

/// An answer that takes longer is a lost one.
const DEADLINE: Duration = Duration::from_secs(5);
const RETRY_PAUSE: Duration = Duration::from_secs(1);
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(30);

/// What the node should say and does not.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    uid: Arc<str>,
    status: Option<Value>,
    key: Option<Value>,
}

impl Report {
    /// None when the node says all of it already.
    pub fn of(own: &Member, condition: Condition, key: Option<WireGuardKey>) -> Option<Report> {
        let seen = own.condition.as_ref();
        let status = condition.differs(seen).then(|| condition.patch(&own.uid, seen, Timestamp::now()));
        let key = key.filter(|key| own.key != Some(*key)).map(|key| key_annotation(&own.uid, &key));
        (status.is_some() || key.is_some()).then(|| Report { uid: own.uid.clone(), status, key })
    }
}

pub struct Reporter {
    pub client: Client,
    pub node: String,
}

impl Reporter {
    /// Sends the newest report until it is accepted.
    pub async fn run(&self, mut reports: watch::Receiver<Option<Report>>) {
        let mut pause = RETRY_PAUSE;
        while reports.changed().await.is_ok() {
            loop {
                let Some(report) = reports.borrow_and_update().clone() else { break };
                if self.send(&report).await {
                    pause = RETRY_PAUSE;
                    break;
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY_PAUSE_MAX);
            }
        }
    }

    /// The last words, as far as they are heard.
    pub async fn tell_removed(&self, own: &Member) {
        if let Some(report) = Report::of(own, Condition::removed(), None) {
            self.send(&report).await;
        }
    }

    /// Whether there is nothing more to do about it.
    async fn send(&self, report: &Report) -> bool {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let params = PatchParams::default();
        let key = async {
            match &report.key {
                Some(patch) => nodes.patch_metadata(&self.node, &params, &Patch::Merge(patch)).await.map(drop_metadata),
                None => Ok(()),
            }
        };
        let status = async {
            match &report.status {
                Some(patch) => nodes.patch_status(&self.node, &params, &Patch::Strategic(patch)).await.map(drop),
                None => Ok(()),
            }
        };
        let both = async {
            // The condition is told also by a program that may not publish a key.
            let (key, status) = tokio::join!(key, status);
            key.and(status)
        };
        match tokio::time::timeout(DEADLINE, both).await {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "this node's part in the pod network cannot be told; trying again"
                );
                false
            }
            Err(_) => {
                tracing::warn!("the API server does not answer: this node's part in the pod network is told later");
                false
            }
        }
    }
}

fn drop_metadata(_: PartialObjectMeta<Node>) {}
