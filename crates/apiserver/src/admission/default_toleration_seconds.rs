//! DefaultTolerationSeconds: pods tolerate a node that is not ready or unreachable for five
//! minutes, unless they say otherwise.

use serde_json::{Value, json};

use super::list_mut;

const SECONDS: i64 = 300;

pub fn admit(pod: &mut Value) {
    let tolerations = list_mut(&mut pod["spec"], "tolerations");
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        if !tolerations.iter().any(|toleration| tolerates_eviction(toleration, key)) {
            tolerations.push(json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": SECONDS}));
        }
    }
}

fn tolerates_eviction(toleration: &Value, key: &str) -> bool {
    let text = |field: &str| toleration[field].as_str().unwrap_or_default();
    let concerns_key = text("key").is_empty() || text("key") == key;
    concerns_key && matches!(text("effect"), "" | "NoExecute")
}
