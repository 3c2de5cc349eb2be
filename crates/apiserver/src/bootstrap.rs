//! Objects that every cluster has: namespaces, default roles, priority classes, the Service
//! `kubernetes` and the range of its address.

use jiff::Timestamp;
use kinds::rules::Part;
use kinds::status::Status;
use kinds::table;
use serde_json::{Value, json};

use crate::auth::default_roles;
use crate::http::server::ApiServer;
use crate::request::options::WriteOptions;
use crate::request::{MASTERS, User, WriteRequest};

/// Kubernetes' range on most clusters.
const DEFAULT_RANGE: &str = "10.96.0.0/12";

/// Makes what is missing; leaves alone what is there. Everything at once, so that the writes share
/// their syncs.
pub async fn run(server: &ApiServer) -> Result<(), Status> {
    let namespaces = ["default", "kube-system", "kube-public", "kube-node-lease"].map(|name| json!({"metadata": {"name": name}}));
    ensure_all(server, "", "Namespace", "", namespaces.into()).await?;
    let roles = ensure_all(server, "rbac.authorization.k8s.io", "ClusterRole", "", default_roles::cluster_roles());
    let bindings = ensure_all(server, "rbac.authorization.k8s.io", "ClusterRoleBinding", "", default_roles::cluster_role_bindings());
    let classes = ensure_all(server, "scheduling.k8s.io", "PriorityClass", "", priority_classes());
    // The Service gets its address from the range.
    let service = async {
        ensure(server, "networking.k8s.io", "ServiceCIDR", "", kubernetes_service_cidr()).await?;
        ensure(server, "", "Service", "default", kubernetes_service()).await
    };
    futures::try_join!(roles, bindings, classes, service).map(|_| ())
}

fn priority_classes() -> Vec<Value> {
    let cluster = "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.";
    let node = "Used for system critical pods that must not be moved from their current node.";
    vec![
        json!({"metadata": {"name": "system-cluster-critical"}, "value": 2_000_000_000, "description": cluster}),
        json!({"metadata": {"name": "system-node-critical"}, "value": 2_000_001_000, "description": node}),
    ]
}

/// The range from which Services get their addresses; other ServiceCIDRs add to it.
fn kubernetes_service_cidr() -> Value {
    let message = "Kubernetes default Service CIDR is ready";
    let since = kinds::decode::format_time(Timestamp::now());
    let ready = json!({"type": "Ready", "status": "True", "reason": "", "message": message, "lastTransitionTime": since});
    json!({"metadata": {"name": "kubernetes"}, "spec": {"cidrs": [DEFAULT_RANGE]}, "status": {"conditions": [ready]}})
}

/// The Service by which pods find the API; it has the first address of the range.
fn kubernetes_service() -> Value {
    json!({
        "metadata": {"name": "kubernetes", "labels": {"component": "apiserver", "provider": "kubernetes"}},
        "spec": {
            "clusterIP": "10.96.0.1",
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": 6443}],
        },
    })
}

async fn ensure_all(server: &ApiServer, group: &str, kind: &str, namespace: &str, objects: Vec<Value>) -> Result<(), Status> {
    let writes = objects.into_iter().map(|object| ensure(server, group, kind, namespace, object));
    futures::future::try_join_all(writes).await.map(|_| ())
}

/// Creates an object unless it exists.
async fn ensure(server: &ApiServer, group: &str, kind: &str, namespace: &str, object: Value) -> Result<(), Status> {
    let kind = table::by_kind(group, kind).expect("bootstrap names kinds of the table");
    let object = kinds::decode::normalize(object, kind.type_id()).map_err(|e| Status::internal(e.0))?;
    let user = User::system("system:apiserver", &[MASTERS]);
    let write = WriteRequest {
        kind,
        namespace,
        name: "",
        part: Some(Part::Main),
        subresource: "",
        user: &user,
        options: &WriteOptions::INTERNAL,
        user_agent: "kube-apiserver",
        now: Timestamp::now(),
    };
    match server.registry().create(server.admission(), &write, object).await {
        Err(status) if status.reason != "AlreadyExists" => Err(status),
        _ => Ok(()),
    }
}
