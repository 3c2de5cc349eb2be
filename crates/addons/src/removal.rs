//! Whether a program ends because its DaemonSet is gone, or only to make room for the next version.

use std::time::Duration;

use k8s_openapi::api::apps::v1::DaemonSet;
use kube::core::PartialObjectMeta;
use kube::{Api, Client};

/// A pod has a few seconds to end.
const DEADLINE: Duration = Duration::from_secs(2);

const FORBIDDEN: u16 = 403;

/// The set that this program's pod belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnSet {
    pub namespace: String,
    pub name: String,
}

impl OwnSet {
    /// Whether it was deleted. Who takes everything away may take the program's rights
    /// first: without them it could not go on, either. What else cannot be found out counts as no,
    /// because what is taken away does harm: a pod that is deleted by force has no valid token any
    /// more.
    pub async fn is_gone(&self, client: &Client) -> bool {
        let sets: Api<DaemonSet> = Api::namespaced(client.clone(), &self.namespace);
        match tokio::time::timeout(DEADLINE, sets.get_metadata_opt(&self.name)).await {
            Ok(Ok(set)) => set.is_none_or(|set: PartialObjectMeta<DaemonSet>| set.metadata.deletion_timestamp.is_some()),
            Ok(Err(kube::Error::Api(refused))) => refused.code == FORBIDDEN,
            Ok(Err(_)) | Err(_) => false,
        }
    }
}
