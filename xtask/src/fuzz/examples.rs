//! What mutation starts from: small objects that are valid, and larger ones that only fit the
//! schema.

use kinds::schema::{Shape, TypeId, schema};
use kinds::table::Kind;
use serde_json::{Map, Value, json};

use super::random::Random;
use super::texts;

/// Structs nested deeper than this are left out of generated objects.
const DEPTH_MAX: usize = 9;
const ITEMS_MAX: usize = 3;

/// An object of the kind with what it needs to be created.
pub fn small(kind: &Kind) -> Value {
    let mut object = json!({"apiVersion": kind.api_version(), "kind": kind.kind, "metadata": {"name": "a", "labels": {"a": "b"}}});
    if kind.namespaced {
        object["metadata"]["namespace"] = "d".into();
    }
    if let (Some(object), Value::Object(more)) = (object.as_object_mut(), particular(kind)) {
        object.extend(more);
    }
    object
}

fn particular(kind: &Kind) -> Value {
    match kind.kind {
        "Pod" => json!({"spec": pod_spec()}),
        "DaemonSet" => json!({"spec": {
            "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": pod_spec()},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "10%", "maxSurge": 0}},
        }}),
        "ConfigMap" => json!({"data": {"k": "v"}, "binaryData": {"b": "AAEC"}}),
        "Secret" => json!({"type": "Opaque", "data": {"k": "dg=="}, "stringData": {"s": "t"}}),
        "Service" => {
            json!({"spec": {"selector": {"a": "b"}, "clusterIP": "None", "ports": [{"name": "p", "port": 80, "targetPort": "http"}]}})
        }
        "Endpoints" => json!({"subsets": [{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80}]}]}),
        "EndpointSlice" => json!({"addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}], "ports": [{"name": "p", "port": 80}]}),
        "Node" => json!({
            "spec": {"podCIDR": "10.0.0.0/24", "taints": [{"key": "k", "effect": "NoSchedule"}]},
            "status": {"capacity": {"cpu": "2", "memory": "1Gi"}, "conditions": [{"type": "Ready", "status": "True"}]},
        }),
        "LimitRange" => json!({"spec": {"limits": [{"type": "Container", "max": {"cpu": "2"}, "default": {"cpu": "1"}}]}}),
        "ResourceQuota" => json!({"spec": {"hard": {"pods": "3", "requests.cpu": "2500m"}}, "status": {"used": {"pods": "1"}}}),
        "ControllerRevision" => json!({"data": {"spec": {"x": [1]}}, "revision": 1}),
        "Lease" => json!({"spec": {"holderIdentity": "h", "leaseDurationSeconds": 40, "renewTime": "2026-01-02T03:04:05.000006Z"}}),
        "PriorityClass" => json!({"value": 1000, "preemptionPolicy": "Never"}),
        "ClusterRole" | "Role" => json!({"rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]}),
        "ClusterRoleBinding" | "RoleBinding" => json!({
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "r"},
            "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "u"}],
        }),
        "PodDisruptionBudget" => {
            json!({"spec": {"minAvailable": "50%", "selector": {"matchExpressions": [{"key": "a", "operator": "Exists"}]}}})
        }
        "IPAddress" => {
            json!({"metadata": {"name": "192.0.2.7"}, "spec": {"parentRef": {"resource": "gateways", "group": "a.b", "namespace": "d", "name": "g"}}})
        }
        "ServiceCIDR" => json!({"spec": {"cidrs": ["192.0.2.0/24", "2001:db8::/64"]}}),
        "RuntimeClass" => json!({"handler": "h", "overhead": {"podFixed": {"cpu": "10m"}}, "scheduling": {"nodeSelector": {"a": "b"}}}),
        "CertificateSigningRequest" => json!({"spec": {"request": "AAEC", "signerName": "a.b/c", "usages": ["client auth"]}}),
        "Event" if kind.group.is_empty() => {
            json!({"involvedObject": {"kind": "Pod", "namespace": "d", "name": "p"}, "reason": "R", "count": 3})
        }
        "Event" => json!({
            "regarding": {"kind": "Pod", "namespace": "d", "name": "p"}, "reason": "R", "type": "Normal", "action": "A",
            "reportingController": "c.d/e", "reportingInstance": "i", "eventTime": "2026-01-02T03:04:05.000006Z",
        }),
        "Binding" => json!({"target": {"kind": "Node", "name": "n"}}),
        "TokenReview" => json!({"spec": {"token": "t"}}),
        "SubjectAccessReview" | "LocalSubjectAccessReview" => {
            json!({"spec": {"user": "u", "resourceAttributes": {"namespace": "d", "verb": "get"}}})
        }
        "SelfSubjectAccessReview" => json!({"spec": {"nonResourceAttributes": {"path": "/", "verb": "get"}}}),
        "SelfSubjectRulesReview" => json!({"spec": {"namespace": "d"}}),
        _ => json!({}),
    }
}

fn pod_spec() -> Value {
    json!({
        "containers": [{
            "name": "c", "image": "i:1", "args": ["$(E)"],
            "env": [{"name": "E", "value": "v"}, {"name": "F", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['a']"}}}],
            "ports": [{"name": "http", "containerPort": 80, "hostPort": 80}],
            "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}},
            "readinessProbe": {"httpGet": {"path": "/", "port": "http"}},
            "volumeMounts": [{"name": "v", "mountPath": "/v"}],
        }],
        "volumes": [{"name": "v", "hostPath": {"path": "/p"}}, {"name": "w", "emptyDir": {"sizeLimit": "1Gi"}}],
        "tolerations": [{"key": "k", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 3}],
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "k", "operator": "Gt", "values": ["1"]}], "matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]},
        ]}}},
        "hostNetwork": true,
    })
}

/// An object with random fields of the right types; hardly ever valid.
pub fn generated(kind: &Kind, random: &mut Random) -> Value {
    let mut object = of_type(kind.type_id(), random, 0);
    object["apiVersion"] = kind.api_version().into();
    object["kind"] = kind.kind.into();
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("managedFields");
    }
    object
}

fn of_type(type_id: TypeId, random: &mut Random, depth: usize) -> Value {
    let mut object = Map::new();
    for field in &schema().get(type_id).fields {
        if field.required || random.once_in(depth / 2 + 2) {
            object.insert(field.name.to_owned(), of_shape(&field.shape, random, depth + 1));
        }
    }
    Value::Object(object)
}

/// A value that the shape accepts.
pub fn of_shape(shape: &Shape, random: &mut Random, depth: usize) -> Value {
    match shape {
        Shape::String => (*random.pick(texts::STRINGS)).into(),
        Shape::Int32 => texts::int32(random).into(),
        Shape::Int64 => texts::int64(random).into(),
        Shape::Float64 => json!(0.5),
        Shape::Bool => random.once_in(2).into(),
        Shape::Bytes => (*random.pick(&["", "AAEC", "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0K"])).into(),
        Shape::Time => (*random.pick(&["2026-01-02T03:04:05Z", "0001-01-01T00:00:00Z", "9999-12-30T00:00:00Z"])).into(),
        Shape::MicroTime => (*random.pick(&["2026-01-02T03:04:05.000006Z", "0001-01-01T00:00:00.000000Z"])).into(),
        Shape::Quantity => (*random.pick(texts::QUANTITIES)).into(),
        Shape::IntOrString if random.once_in(2) => texts::int32(random).into(),
        Shape::IntOrString => (*random.pick(texts::STRINGS)).into(),
        Shape::Any => json!({"x": [1, null, "y"]}),
        Shape::Struct(_) if depth > DEPTH_MAX => json!({}),
        Shape::Struct(id) => of_type(*id, random, depth),
        Shape::List(item) => (0..random.below(ITEMS_MAX)).map(|_| of_shape(item, random, depth + 1)).collect(),
        Shape::Map(inner) => {
            let entries =
                (0..random.below(ITEMS_MAX)).map(|_| ((*random.pick(texts::STRINGS)).to_owned(), of_shape(inner, random, depth + 1)));
            Value::Object(entries.collect())
        }
    }
}
